use pontoon_proto::v1;
use prost::Message;

use crate::codec::{
    CodecError, SNAPSHOT_FORMAT, decode_entry, decode_snapshot, encode_entry, encode_snapshot, lease_view, object_hash,
    response, result,
};
use crate::model::admin::CreateAdmin;
use crate::model::admin::Role;
use crate::model::apply::Change;
use crate::model::command::{
    AdmitNode, Command, ConfigureCluster, CreateEndpoint, CreateNetwork, CreateToken, MoveNode, Outcome,
    RotateAuthority, WantedSubnet,
};
use crate::model::entry::{Entry, RequestId};
use crate::model::id::{AdminId, EndpointId, NetworkId, NodeId, TokenId, Vni};
use crate::model::object::{Cluster, Lease, NodeState, TokenRole, Voting};
use crate::model::rejection::{Reason, Rejection};
use crate::model::state::State;
use crate::model::tests::{World, admission, ip, named, on, report, settings};

/// A command of each kind that feature level 6 has brought.
fn of_level_6() -> Vec<Command> {
    vec![
        Command::AdmitNode(AdmitNode { replaces: "n2".into(), ..admission(3) }),
        Command::MoveNode(MoveNode {
            node: NodeId(3),
            advertise: "[fd00::3]:7301".parse().unwrap(),
            data_addr: "192.168.140.33".parse().unwrap(),
        }),
        Command::CreateAdmin(CreateAdmin {
            name: "alice".into(),
            role: Role::Operator,
            public_key: [9; 32],
            life_ms: 60_000,
        }),
        Command::RemoveAdmin(AdminId(7)),
    ]
}

/// A command of each other kind, with every field set.
fn commands() -> Vec<Command> {
    let (world, web) = World::with_network();
    let full_subnet = WantedSubnet {
        gateway: Some(ip("10.1.0.9")),
        ip_range: Some("10.1.0.0/25".parse().unwrap()),
        ..on("10.1.0.5/24")
    };
    let network = CreateNetwork {
        subnets: vec![full_subnet, on("fd00:1::/64")],
        mtu: Some(1400),
        vni: Vni::new(77),
        internal: true,
        labels: [("k".to_owned(), "v".to_owned())].into(),
        ipv6: true,
        reservations: vec![("c".to_owned(), ip("10.1.0.7"))],
        force: true,
        ..named("net")
    };
    let endpoint = CreateEndpoint {
        container_id: "0123".to_owned(),
        aliases: vec!["a".to_owned()],
        mac: Some("02:00:00:00:00:01".parse().unwrap()),
        addresses: vec![ip("10.0.0.9"), ip("fd00::9")],
        ifname: Some("eth7".to_owned()),
        ..world.container(&web, 1, "c1")
    };
    let node = NodeId(3);
    vec![
        Command::FoundCluster { cluster: settings(), node: admission(1), sealed_key: Vec::new() },
        Command::AdmitNode(admission(2)),
        Command::ReportNode(report(node)),
        Command::SetNodeState { node, state: NodeState::Down },
        Command::LabelNode { node, set: [("a".to_owned(), "b".to_owned())].into(), remove: vec!["c".to_owned()] },
        Command::RemoveNode { node, force: true },
        Command::AdmitNode(AdmitNode { voter_only: true, ..admission(3) }),
        Command::AdmitNode(AdmitNode { token: Some([7; 32]), ..admission(3) }),
        Command::FoundCluster {
            cluster: Cluster { authorities: vec![vec![1, 2], vec![3]], crossed: vec![5], authority: 2, ..settings() },
            node: admission(1),
            sealed_key: vec![4],
        },
        Command::CreateToken(CreateToken { hash: [7; 32], role: TokenRole::Observer, uses: 3, life_ms: 5_000 }),
        Command::RotateAuthority(RotateAuthority {
            certificate: vec![1],
            crossed: vec![2],
            sealed_key: vec![3],
            locks: true,
        }),
        Command::DropAuthorities,
        Command::ReportCertificate { node, authority: 2, until_ms: 77 },
        Command::RevokeToken { token: TokenId(0xff) },
        Command::RotateToken { token: TokenId(u64::MAX), hash: [9; 32] },
        Command::ConfigureCluster(ConfigureCluster { voters: Some(0), replace_after_ms: None, lock_off: false }),
        Command::ConfigureCluster(ConfigureCluster { voters: None, replace_after_ms: Some(5_000), lock_off: true }),
        Command::SetVoting { node, voting: Voting::Promoted },
        Command::RetireMember { node },
        Command::SetVoting { node, voting: Voting::Demoted },
        Command::CreateNetwork(named("empty")),
        Command::CreateNetwork(network),
        Command::RemoveNetwork { network: NetworkId(4) },
        Command::CreateEndpoint(world.container(&web, 1, "c1")),
        Command::CreateEndpoint(endpoint),
        Command::ActivateEndpoint { endpoint: EndpointId(5), epoch: 6 },
        Command::RemoveEndpoint { endpoint: EndpointId(5), epoch: 6 },
    ]
}

fn entry(command: Command) -> Entry {
    Entry { time_ms: 9, request: RequestId { node: NodeId(1), run: 2, seq: 3 }, command, origin: None }
}

/// A state with every kind of object and of lease.
fn full_state() -> State {
    let (mut world, web) = World::with_network();
    let dual = CreateNetwork { ipv6: true, reservations: vec![("k".to_owned(), ip("10.0.1.9"))], ..named("dual") };
    let dual = world.network(dual);
    for name in ["c1", "c2", "k"] {
        let made = world.endpoint(world.container(&dual, 1, name));
        world.ok(Command::ActivateEndpoint { endpoint: made.id, epoch: made.epoch });
        if name == "c1" {
            world.remove(&made);
        }
    }
    world.endpoint(world.container(&web, 2, "c3"));
    world.refused(Command::CreateNetwork(named("web")), Reason::NetworkNameTaken, &[]);
    world.ok(Command::ConfigureCluster(ConfigureCluster {
        voters: Some(3),
        replace_after_ms: Some(60_000),
        lock_off: false,
    }));
    world.ok(Command::AdmitNode(AdmitNode { voter_only: true, ..admission(4) }));
    world.ok(Command::SetVoting { node: world.node(1).id, voting: Voting::Promoted });
    for hash in [[7; 32], [8; 32]] {
        world.ok(Command::CreateToken(CreateToken { hash, role: TokenRole::Observer, uses: 2, life_ms: 5_000 }));
    }
    world.ok(Command::RevokeToken { token: TokenId::of(&[7; 32]) });
    world.state.sealed_key = vec![1, 2, 3];
    world.state
}

/// What an earlier version wrote has neither settings nor preferences for voters, and keeps its bytes and its hash.
#[test]
fn what_an_earlier_version_wrote_is_as_it_was() {
    let (world, _) = World::with_network();
    let node = v1::Node::from(&world.node(1));
    assert_eq!((node.voting, node.voter_only), (0, false));
    let cluster = v1::Cluster::from(world.state.cluster.as_ref().expect("founded"));
    assert_eq!((cluster.voters, cluster.replace_after_ms), (0, 0));
    let unknown = v1::Node { voting: 9, ..node };
    let error = crate::model::object::Node::try_from(unknown).expect_err("no version wrote it").to_string();
    assert!(error.contains("voting") && error.contains('9'), "{error}");
}

#[test]
fn entries_come_back() {
    for command in commands().into_iter().chain(of_level_6()) {
        let entry = entry(command);
        assert_eq!(decode_entry(&encode_entry(&entry)), Ok(entry));
    }
}

#[test]
fn answers_come_back() {
    let state = full_state();
    let [node, network, endpoint] = [
        state.nodes.values().next().map(|node| Outcome::Node(node.clone())),
        state.networks.values().last().map(|network| Outcome::Network(network.clone())),
        state.endpoints.values().last().map(|endpoint| Outcome::Endpoint(endpoint.clone())),
    ];
    let cluster = state.cluster.clone().map(Outcome::Cluster);
    for outcome in [Some(Outcome::Done), node, network, endpoint, cluster] {
        let answer = Ok(outcome.expect("there is one"));
        assert_eq!(result(response(&answer)), Ok(answer));
    }
    for reason in Reason::ALL {
        let answer = Err(Rejection::new(*reason, "message", "hint"));
        assert_eq!(result(response(&answer)), Ok(answer));
    }
}

#[test]
fn a_command_of_a_later_version_is_told_apart() {
    let command = Some(v1::Command { kind: None });
    let mut later = v1::Entry { command, ..v1::Entry::from(&entry(commands().remove(0))) };
    assert_eq!(decode_entry(&later.encode_to_vec()), Err(CodecError::UnknownCommand));
    // Field 99 of Command, which this version does not have, in field 3 of Entry.
    later.command = None;
    let mut bytes = later.encode_to_vec();
    bytes.extend([0x1a, 3, 0x9a, 0x06, 0]);
    assert_eq!(decode_entry(&bytes), Err(CodecError::UnknownCommand));
    let missing = CodecError::Missing { what: "entry", field: "command" };
    assert_eq!(decode_entry(&later.encode_to_vec()), Err(missing));
    assert!(matches!(decode_entry(&[0xff]), Err(CodecError::Bytes { what: "entry", .. })));
}

#[test]
fn a_wrong_field_is_named() {
    let good = v1::Network::from(full_state().networks.values().next().expect("one"));
    let wrong = v1::Network { vni: 0, ..good.clone() };
    let error = crate::model::object::Network::try_from(wrong).expect_err("0 is no VNI");
    assert_eq!(error.to_string(), "network has \"0\" as vni, which is not a number from 1 to 16777215");
    let mut wrong = good;
    wrong.subnets[0].gateway = "x".to_owned();
    let error = crate::model::object::Network::try_from(wrong).expect_err("x is no address");
    assert_eq!(error.to_string(), "subnet has \"x\" as gateway, which is not an IP address");
}

#[test]
fn snapshots_come_back() {
    for state in [State::empty(), full_state()] {
        let bytes = encode_snapshot(&state);
        let decoded = decode_snapshot(&bytes).expect("just written");
        assert_eq!(decoded, state);
        assert_eq!(encode_snapshot(&decoded), bytes);
        assert_eq!(decoded.check(), []);
    }
}

#[test]
fn a_newer_snapshot_is_refused() {
    let newer = v1::Snapshot { format: SNAPSHOT_FORMAT + 1, ..v1::Snapshot::default() };
    let error = CodecError::NewerFormat { found: 2, known: 1 };
    assert_eq!(decode_snapshot(&newer.encode_to_vec()), Err(error));
    assert!(decode_snapshot(&[]).is_err(), "an empty file is no snapshot");
}

#[test]
fn keys_come_back_and_sort_by_kind_and_id() {
    let keys = [
        Change::Cluster,
        Change::Node(NodeId(1)),
        Change::Node(NodeId(256)),
        Change::Network(NetworkId(u64::MAX)),
        Change::Endpoint(EndpointId(7)),
        Change::Lease(NetworkId(3), ip("10.0.0.2")),
        Change::Lease(NetworkId(3), ip("fd00::2")),
        Change::Answer(NodeId(0), 9),
    ];
    let bytes: Vec<Vec<u8>> = keys.iter().map(Change::key).collect();
    assert!(bytes.is_sorted());
    for (key, bytes) in keys.iter().zip(bytes) {
        assert_eq!(Change::from_key(&bytes), Ok(*key));
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(Change::from_key(&longer).is_err());
    }
    for wrong in [&[][..], &[9], &[2], &[1, 0, 0, 0, 0, 0, 0, 0, 0]] {
        assert!(Change::from_key(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_state_is_the_sum_of_its_objects() {
    let state = full_state();
    let objects: Vec<_> = state.objects().map(|o| (o.key(), state.object_bytes(&o).expect("it is there"))).collect();
    let rebuilt = State::from_objects(objects.iter().rev().cloned(), state.applied_index, state.clock_ms);
    assert_eq!(rebuilt.as_ref(), Ok(&state));
    let sum = objects.iter().fold(0_u128, |sum, (key, value)| sum.wrapping_add(object_hash(key, value)));
    assert_eq!(sum, state.hash());
    // sha256("abc"), FIPS 180-2 appendix B.1.
    assert_eq!(object_hash(b"a", b"bc"), 0xba78_16bf_8f01_cfea_4141_40de_5dae_2223);
}

#[test]
fn a_cooled_lease_is_shown_as_free() {
    let state = full_state();
    let cooling = state.leases.values().find(|lease| lease.previous.len() == 1).expect("c1's");
    let shown = |later_ms| lease_view(cooling, state.clock_ms + later_ms).state();
    assert_eq!(shown(Lease::COOLING_MS - 1), v1::LeaseState::Cooling);
    assert_eq!(shown(Lease::COOLING_MS), v1::LeaseState::Free);
}
