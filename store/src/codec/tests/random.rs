//! Random logs over a few names and addresses, so that commands get in each other's way.

use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::codec::{decode_entry, decode_snapshot, encode_entry, encode_snapshot, object_hash};
use crate::model::admin::{CreateAdmin, Origin, Role};
use crate::model::command::{
    AdmitNode, ClaimSubnet, Command, ConfigureCluster, CreateEndpoint, CreateNetwork, CreateToken, EngineRef,
    HoldAddress, MoveNode, PlaceEndpoint, RebindEndpoint, ReportNode, RotateAuthority, WantedSubnet,
};
use crate::model::entry::{Entry, RequestId};
use crate::model::id::{AdminId, EndpointId, Mac, NetworkId, NodeId, TokenId, Vni};
use crate::model::object::{
    Cluster, EngineContainer, EngineNetwork, Family, LeaseState, NodeState, Route, Sandbox, TokenRole, Voting,
};
use crate::model::state::State;
use crate::model::tests::{admission, ip, named, on, report, settings};

/// Numbers that become a command once the state is known that it meets.
#[derive(Debug, Clone)]
struct Dice {
    kind: u8,
    a: u8,
    b: u8,
    c: u8,
    /// Milliseconds since the entry before; the clock may go back.
    step_ms: i64,
    /// Who asks, and how many requests ago the same one was asked.
    asker: u64,
    again: u64,
}

fn dice() -> impl Strategy<Value = Dice> {
    let step_ms = prop_oneof![3 => 0..2_000_i64, 1 => -90_000..90_000_i64];
    (0..48_u8, any::<[u8; 3]>(), step_ms, 0..3_u64, prop_oneof![6 => Just(0_u64), 1 => 0..4_u64])
        .prop_map(|(kind, [a, b, c], step_ms, asker, again)| Dice { kind, a, b, c, step_ms, asker, again })
}

/// The n-th of some ids, or one that does not exist.
fn pick<T>(mut ids: impl ExactSizeIterator<Item = T>, n: u8, none: T) -> T {
    let count = ids.len() + usize::from(n > 240);
    if count == 0 { none } else { ids.nth(usize::from(n) % count).unwrap_or(none) }
}

const CIDRS: [&str; 8] = [
    "10.0.0.0/29",
    "10.0.0.0/30",
    "10.0.0.8/29",
    "10.0.0.3/29",
    "172.17.0.0/24",
    "192.168.140.0/24",
    "fd00:1::/120",
    "fd00:1::/64",
];

fn network(dice: &Dice) -> CreateNetwork {
    let Dice { a, b, c, .. } = *dice;
    let cidr = |n: u8| CIDRS[usize::from(n) % CIDRS.len()];
    let subnet = |n: u8| WantedSubnet {
        gateway: n.is_multiple_of(5).then(|| ip("10.0.0.6")),
        ip_range: n.is_multiple_of(7).then(|| "10.0.0.4/30".parse().expect("a prefix")),
        ..on(cidr(n))
    };
    let chosen = [(b % 3 > 0).then(|| subnet(b / 3)), (c % 4 == 0).then(|| subnet(c / 4))];
    CreateNetwork {
        subnets: chosen.into_iter().flatten().collect(),
        mtu: (c % 6 == 1).then_some(1300 + u32::from(c)),
        vni: Vni::new(if c % 6 == 2 { 65_536 + u32::from(b % 3) } else { 0 }),
        internal: a % 4 == 1,
        ipv6: c % 2 == 0,
        reservations: if c % 5 == 0 { vec![(format!("c{}", b % 4), ip("10.0.0.5"))] } else { Vec::new() },
        force: b % 4 == 0,
        ..named(&format!("net{}", a % 4))
    }
}

/// A network as an engine makes it: with what it has claimed.
fn engine_network(state: &State, dice: &Dice, node: NodeId) -> CreateNetwork {
    let Dice { a, b, .. } = *dice;
    let claimed = state.claims.values().filter(|claim| claim.node == node && claim.cidr.addr().is_ipv4());
    let subnets: Vec<_> = claimed.take(1).map(|claim| on(&claim.cidr.to_string())).collect();
    let id = format!("n{}", b % 6);
    CreateNetwork {
        subnets,
        engine: Some(EngineRef { node, id: id.clone() }),
        internal: a % 4 == 1,
        ..named(&format!("{id}-of-{node}"))
    }
}

/// An endpoint as an engine makes it: with addresses that it may have held.
fn engine_endpoint(state: &State, dice: &Dice) -> CreateEndpoint {
    let Dice { a, b, c, .. } = *dice;
    let held = state.leases.values().filter(|lease| lease.held_for().is_some()).collect::<Vec<_>>();
    let some = held.get(usize::from(a) % held.len().max(1)).filter(|_| b % 4 > 0);
    let wanted = endpoint(state, dice);
    let id = format!("e{c}");
    CreateEndpoint {
        network: some.map_or(wanted.network, |lease| lease.network),
        node: some.and_then(|lease| lease.node).unwrap_or(wanted.node),
        addresses: some.map_or(wanted.addresses, |lease| vec![lease.address]),
        name: id.clone(),
        sandbox: Sandbox::default(),
        ifname: None,
        engine_id: id,
        ..wanted
    }
}

fn held(state: &State, dice: &Dice, node: NodeId) -> HoldAddress {
    let Dice { a, b, c, .. } = *dice;
    let wanted = endpoint(state, dice);
    let family = if c % 5 == 0 { Family::V6 } else { Family::V4 };
    HoldAddress {
        network: pick(state.networks.keys().copied(), b, NetworkId(9999)),
        node,
        family,
        address: wanted.addresses.first().copied().filter(|_| a % 2 == 0),
        name: if a % 3 == 0 { String::new() } else { wanted.name },
    }
}

fn rebound_mac(c: u8) -> Option<Mac> {
    (c.is_multiple_of(3)).then(|| Mac::new([2, 0x42, 10, 0, 0, c % 6])).flatten()
}

fn engine_container(n: u8, c: u8) -> EngineContainer {
    EngineContainer { id: format!("i{n}"), name: format!("c{n}"), fixed: c.is_multiple_of(2) }
}

fn of_engines(state: &State, dice: &Dice, node: NodeId) -> Command {
    let Dice { kind, a, b, c, .. } = *dice;
    let network = pick(state.networks.keys().copied(), b, NetworkId(9999));
    let cidr = |n: u8| CIDRS[usize::from(n) % CIDRS.len()].parse().expect("a prefix");
    match kind {
        24..=25 => Command::ClaimSubnet(ClaimSubnet {
            node,
            family: if c % 4 == 0 { Family::V6 } else { Family::V4 },
            cidr: (b % 3 == 0).then(|| cidr(c)),
            ip_range: (b % 6 == 0).then(|| "10.0.0.4/30".parse().expect("a prefix")),
        }),
        26 => Command::ReleaseClaim { node, cidr: pick(state.claims.keys().copied(), b, cidr(0)) },
        27 => Command::CreateNetwork(engine_network(state, dice, node)),
        28 => Command::NameNetwork { network, name: format!("net{}", c % 5), labels: Default::default() },
        29 => Command::ReportEngineNetwork(EngineNetwork {
            network,
            node,
            id: if c % 5 == 0 { String::new() } else { format!("n{}", c % 6) },
            containers: (0..c % 8).map(|n| engine_container(n, c)).collect(),
        }),
        30..=31 => Command::HoldAddress(held(state, dice, node)),
        32 => {
            let free = |(_, lease): &(_, &crate::model::object::Lease)| {
                lease.held_for().is_some() || lease.state == LeaseState::Reserved && c % 4 == 0
            };
            let leases: Vec<_> = state.leases.iter().filter(free).map(|(key, lease)| (*key, lease.epoch)).collect();
            let ((network, address), epoch) = pick(leases.into_iter(), a, ((NetworkId(9999), ip("10.0.0.2")), 0));
            Command::ReleaseAddress { network, address, epoch: epoch + u64::from(b > 240) }
        }
        33 => Command::CreateEndpoint(engine_endpoint(state, dice)),
        _ => {
            let unplaced: Vec<_> = state.endpoints.values().filter(|e| !e.engine_id.is_empty()).collect();
            let endpoint = unplaced.get(usize::from(a) % unplaced.len().max(1));
            let (id, epoch) = endpoint.map_or((EndpointId(9999), 0), |endpoint| (endpoint.id, endpoint.epoch));
            match kind {
                36 | 37 => return Command::StopEndpoint { endpoint: id, epoch },
                38 => {
                    let engine_id = format!("e{}", c % 32);
                    return Command::RebindEndpoint(RebindEndpoint {
                        endpoint: id,
                        epoch,
                        engine_id,
                        mac: rebound_mac(c),
                    });
                }
                _ => {}
            }
            Command::PlaceEndpoint(PlaceEndpoint {
                endpoint: id,
                epoch,
                name: format!("c{}", b % 6),
                container_id: format!("i{}", b % 6),
                aliases: Vec::new(),
                sandbox: Sandbox { netns: format!("/run/netns/s{}", c % 7), key: format!("s{}", c % 7) },
                ifname: format!("eth{}", c % 2),
                ports: (0..a % 2).map(|n| format!("0.0.0.0:808{n}->80/tcp")).collect(),
            })
        }
    }
}

fn endpoint(state: &State, dice: &Dice) -> CreateEndpoint {
    let Dice { a, b, c, .. } = *dice;
    let network = pick(state.networks.keys().copied(), a, NetworkId(9999));
    let subnets = state.networks.get(&network).map_or(&[][..], |network| &network.subnets);
    let hosts = subnets.iter().filter_map(|subnet| match subnet.cidr {
        IpNet::V4(v4) => v4.hosts().nth(usize::from(b % 5)).map(Into::into),
        IpNet::V6(v6) => v6.hosts().nth(usize::from(b % 5)).map(Into::into),
    });
    let sandbox = Sandbox { netns: format!("/run/netns/s{}", c % 4), key: format!("s{}", c % 4) };
    CreateEndpoint {
        network,
        node: pick(state.nodes.keys().copied(), c / 16, NodeId(9999)),
        name: format!("c{}", c % 6),
        container_id: String::new(),
        aliases: Vec::new(),
        mac: (b % 9 == 0).then(|| Mac::new([2, 0x42, 10, 0, 0, a % 6])).flatten(),
        addresses: if b % 3 == 0 { hosts.collect() } else { Vec::new() },
        sandbox,
        ifname: (a % 8 == 0).then(|| format!("eth{}", b % 3)),
        engine_id: String::new(),
    }
}

fn reported(node: NodeId, dice: &Dice) -> ReportNode {
    let third = dice.b % 4;
    let route = Route { destination: format!("10.0.{third}.0/25").parse().expect("a prefix"), device: "x".to_owned() };
    ReportNode {
        underlay_mtu: 1300 + u32::from(dice.c),
        routes: vec![route],
        egress_subnets: vec![format!("172.18.0.0/{}", 24 + dice.b % 6).parse().expect("a prefix")],
        ..report(node)
    }
}

fn token(state: &State, n: u8) -> TokenId {
    pick(state.tokens.keys().copied(), n, TokenId(9999))
}

/// Commands about who may enter, and administer.
fn of_entering(state: &State, dice: &Dice, node: NodeId) -> Command {
    let Dice { kind, a, b, c, .. } = *dice;
    match kind {
        40 => Command::CreateToken(CreateToken {
            hash: [b; 32],
            role: if c % 3 == 0 { TokenRole::Observer } else { TokenRole::Voter },
            uses: u32::from(a % 4),
            life_ms: u64::from(c) * 20_000,
        }),
        43 => Command::RotateAuthority(RotateAuthority {
            certificate: vec![b],
            crossed: vec![c],
            sealed_key: vec![a],
            locks: a % 2 == 0,
        }),
        44 => Command::DropAuthorities,
        45 => {
            let authority = state.cluster.as_ref().map_or(0, |cluster| cluster.authority);
            Command::ReportCertificate { node, authority, until_ms: u64::from(c) }
        }
        46 => Command::CreateAdmin(CreateAdmin {
            name: format!("admin{}", a % 5),
            role: [Role::Viewer, Role::Operator, Role::Admin][usize::from(b) % 3],
            public_key: [c; 32],
            life_ms: u64::from(b) * 20_000,
        }),
        41 => Command::RevokeToken { token: token(state, b) },
        42 => Command::RotateToken { token: token(state, b), hash: [c; 32] },
        _ => Command::RemoveAdmin(pick(state.admins.keys().copied(), a, AdminId(9999))),
    }
}

fn command(state: &State, dice: &Dice) -> Command {
    let Dice { kind, a, b, c, .. } = *dice;
    let node = pick(state.nodes.keys().copied(), a, NodeId(9999));
    let id = pick(state.endpoints.keys().copied(), a, EndpointId(9999));
    let epoch = state.endpoints.get(&id).map_or(0, |endpoint| endpoint.epoch) + u64::from(b > 250);
    let state_of = [NodeState::Joining, NodeState::Ready, NodeState::Down];
    match kind {
        0 => {
            let authorities = if a % 2 == 0 { vec![vec![a]] } else { Vec::new() };
            Command::FoundCluster {
                sealed_key: authorities.concat(),
                cluster: Cluster { authorities, ..settings() },
                node: admission(1),
            }
        }
        1..=2 => {
            let (attempt, voter_only) = (u64::from(b % 2), c % 8 == 0);
            let token = Some(state.tokens.get(&token(state, c)).map_or([0; 32], |token| token.hash));
            let public_key = [b % 8; 32];
            let replaces = if b % 4 == 0 { format!("n{}", 1 + (a % 9 + c % 2) % 9) } else { String::new() };
            Command::AdmitNode(AdmitNode { public_key, attempt, voter_only, token, replaces, ..admission(1 + a % 9) })
        }
        3..=4 => Command::ReportNode(reported(node, dice)),
        5 => Command::SetNodeState { node, state: state_of[usize::from(b) % 3] },
        6 if c % 3 == 0 => {
            let AdmitNode { advertise, data_addr, .. } = admission(1 + b % 9);
            Command::MoveNode(MoveNode { node, advertise, data_addr })
        }
        6 if c % 2 == 0 => Command::RetireMember { node },
        6 => Command::LabelNode {
            node,
            set: [(format!("k{}", b % 3), "v".to_owned())].into(),
            remove: vec![format!("k{}", c % 3)],
        },
        7 if c % 2 == 0 => Command::RemoveNode { node, force: b % 3 == 0 },
        7 if b % 2 == 0 => Command::ConfigureCluster(ConfigureCluster {
            voters: (c % 3 == 0).then_some(u32::from(a % 6)),
            replace_after_ms: (c % 5 == 0).then_some(u64::from(a) * 1000),
            lock_off: c % 4 == 0,
        }),
        7 => Command::SetVoting { node, voting: [Voting::Auto, Voting::Promoted, Voting::Demoted][usize::from(b) % 3] },
        8..=10 => Command::CreateNetwork(network(dice)),
        11 => Command::RemoveNetwork { network: pick(state.networks.keys().copied(), a, NetworkId(9999)) },
        12..=18 => Command::CreateEndpoint(endpoint(state, dice)),
        19..=20 => Command::ActivateEndpoint { endpoint: id, epoch },
        24..40 => of_engines(state, dice, node),
        40..48 => of_entering(state, dice, node),
        _ => Command::RemoveEndpoint { endpoint: id, epoch },
    }
}

/// Whose wish a command is: most often nobody's.
fn origin(dice: &Dice) -> Option<Origin> {
    dice.c
        .is_multiple_of(3)
        .then(|| Origin { who: format!("user{}", dice.a), from: "192.0.2.1\n".repeat(usize::from(dice.b)) })
}

/// Objects as the disk has them, from the changes alone.
#[derive(Default)]
struct Disk {
    objects: BTreeMap<Vec<u8>, Vec<u8>>,
    hash: u128,
}

impl Disk {
    fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        if let Some(value) = &value {
            self.hash = self.hash.wrapping_add(object_hash(&key, value));
        }
        let old = match value {
            Some(value) => self.objects.insert(key.clone(), value),
            None => self.objects.remove(&key),
        };
        if let Some(old) = old {
            self.hash = self.hash.wrapping_sub(object_hash(&key, &old));
        }
    }

    fn without_answers(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.objects.iter().filter(|(key, _)| key[0] != 6).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// Applies a random log, checks every step, and gives back the log.
fn run(dice: &[Dice], disk: &mut Disk) -> Result<(Vec<Entry>, State), TestCaseError> {
    let mut state = State::empty();
    let mut log = Vec::new();
    let mut time_ms = 1_000_000;
    let mut asked = [0_u64; 3];
    let founding = Dice { kind: 0, a: 0, b: 0, c: 0, step_ms: 0, asker: 0, again: 0 };
    for (dice, index) in std::iter::once(&founding).chain(dice).zip(1..) {
        time_ms = i64::max(0, time_ms + dice.step_ms);
        let asker = &mut asked[dice.asker as usize];
        *asker += u64::from(dice.again == 0);
        let request = RequestId { node: NodeId(dice.asker), run: 7, seq: asker.saturating_sub(dice.again) };
        let entry = Entry { time_ms: time_ms as u64, request, command: command(&state, dice), origin: origin(dice) };
        let before = disk.without_answers();
        let applied = state.apply(index, &entry);
        prop_assert_eq!(state.check(), [], "after {:?}", &entry);
        for change in &applied.changes {
            disk.put(change.key(), state.object_bytes(change));
        }
        if applied.result.is_err() {
            prop_assert_eq!(before, disk.without_answers());
        }
        log.push(entry);
    }
    Ok((log, state))
}

fn replay(mut state: State, log: &[Entry]) -> State {
    let first = state.applied_index + 1;
    for (entry, index) in log.iter().zip(first..) {
        state.apply(index, entry);
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_gives_one_state(dice in vec(dice(), 1..120), cut in 0..120_usize) {
        let mut disk = Disk::default();
        let (log, state) = run(&dice, &mut disk)?;
        let bytes = encode_snapshot(&state);
        prop_assert_eq!(&encode_snapshot(&replay(State::empty(), &log)), &bytes, "a second run");

        let wire: Vec<Entry> = log.iter().map(|e| decode_entry(&encode_entry(e)).expect("just encoded")).collect();
        prop_assert_eq!(&wire, &log);
        let (head, tail) = log.split_at(cut.min(log.len()));
        let halfway = encode_snapshot(&replay(State::empty(), head));
        let restored = decode_snapshot(&halfway).expect("just encoded");
        prop_assert_eq!(&encode_snapshot(&restored), &halfway);
        prop_assert_eq!(&encode_snapshot(&replay(restored, tail)), &bytes, "continued from a snapshot");

        let loaded = State::from_objects(&disk.objects, state.applied_index, state.clock_ms).expect("just encoded");
        prop_assert_eq!(disk.hash, state.hash());
        prop_assert_eq!(&loaded, &state, "object by object");
    }
}

/// The random logs would prove little if most commands were refused.
#[test]
fn random_logs_reach_every_kind_of_object() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut reasons = std::collections::BTreeSet::new();
    let (mut accepted, mut refused, mut replaced) = (HashMap::new(), 0, 0);
    for _ in 0..40 {
        let dice = vec(dice(), 119).new_tree(&mut runner).expect("dice").current();
        let (log, _) = run(&dice, &mut Disk::default()).expect("invariants hold");
        let mut state = State::empty();
        for (entry, index) in log.iter().zip(1..) {
            match state.apply(index, entry).result {
                Ok(_) if matches!(&entry.command, Command::AdmitNode(admit) if !admit.replaces.is_empty()) => {
                    replaced += 1
                }
                Ok(_) => *accepted.entry(std::mem::discriminant(&entry.command)).or_insert(0) += 1,
                Err(rejection) => {
                    refused += 1;
                    reasons.insert(rejection.reason);
                }
            }
        }
    }
    let counts: Vec<i32> = accepted.into_values().collect();
    assert!(counts.len() == 32 && counts.iter().all(|count| *count >= 10), "{counts:?}");
    assert!(replaced >= 3, "{replaced} took the place of another");
    assert!(reasons.len() >= 18, "{reasons:?}");
    assert!(refused < 3_500, "{refused} of 4800 were refused");
}
