//! Tables and properties of the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use pontoon_store::model::id::{ClusterId, EndpointId, Mac, NetworkId, NodeId, RaftId, Vni};
use pontoon_store::model::object::{
    Cluster, EgressInterface, Endpoint, EndpointState, EngineNetwork, Family, Network, Node, NodeState,
    Route as HostRoute, Sandbox, Subnet, Voting,
};
use pontoon_store::model::state::State;
use proptest::prelude::*;

use super::desired::{Desired, Names, desired};
use super::diff::{Step, plan};
use super::drift::drift;
use super::egress;
use super::object::{BridgeUse, Key, Kind, Object};
use super::observed::{Forwarding6, HostFacts, Observed, SandboxState};
use crate::kernel::Kernel;
use crate::kernel::memory::Memory;

const ME: NodeId = NodeId(1);

pub(crate) fn node(id: u64, egress: &[&str]) -> Node {
    let address = IpAddr::V4(Ipv4Addr::new(192, 168, 140, 200 + u8::try_from(id).unwrap()));
    Node {
        id: NodeId(id),
        raft_id: RaftId(id),
        name: format!("node{id}"),
        advertise: SocketAddr::new(address, 7300),
        data_addr: address,
        public_key: [0; 32],
        labels: BTreeMap::new(),
        version: String::new(),
        feature_level: 1,
        state: NodeState::Ready,
        joined_ms: 0,
        routes: vec![],
        underlay_mtu: 1500,
        egress_subnets: egress.iter().map(|s| s.parse().unwrap()).collect(),
        attempt: 0,
        engine: String::new(),
        voting: Voting::Auto,
        voter_only: false,
        authority: 0,
        certificate_until_ms: 0,
    }
}

pub(crate) fn sandbox(name: u64) -> Sandbox {
    Sandbox { netns: format!("/run/netns/c{name}"), key: format!("boot:{name}") }
}

pub(crate) fn network(id: u64, ipv6: bool, internal: bool) -> Network {
    let third = u8::try_from(id).unwrap();
    let mut subnets = vec![subnet(&format!("10.0.{third}.0/24"))];
    if ipv6 {
        subnets.push(subnet(&format!("fd00:{third}::/64")));
    }
    Network {
        id: NetworkId(id),
        name: format!("net{id}"),
        vni: Vni::new(65_536 + u32::from(third)).unwrap(),
        subnets,
        mtu: 1450,
        internal,
        labels: BTreeMap::new(),
        created_ms: 0,
        engine: None,
        provisional: false,
    }
}

fn subnet(cidr: &str) -> Subnet {
    let cidr: IpNet = cidr.parse().unwrap();
    Subnet { cidr, gateway: cidr.hosts().next().unwrap(), ip_range: None }
}

/// An endpoint number `number` (from 2) of a network; its sandbox is that of `place`.
fn endpoint(id: u64, network: &Network, node: u64, place: u64, egress: Option<u32>) -> Endpoint {
    let number = u32::try_from(id % 250).unwrap() + 2;
    let addresses: Vec<IpAddr> =
        network.subnets.iter().filter_map(|s| super::desired::host_of(s.cidr, number)).collect();
    let mac = match addresses[0] {
        IpAddr::V4(a) => Mac::of_ipv4(a),
        IpAddr::V6(_) => unreachable!("the first subnet is IPv4"),
    };
    Endpoint {
        id: EndpointId(id),
        network: network.id,
        node: NodeId(node),
        name: format!("c{id}"),
        container_id: String::new(),
        aliases: vec![],
        mac,
        addresses,
        state: if id.is_multiple_of(2) { EndpointState::Active } else { EndpointState::Pending },
        sandbox: sandbox(place),
        ifname: format!("eth{}", network.id.0),
        egress: egress.map(|host| EgressInterface { ifname: "eth9".into(), host }),
        created_ms: 0,
        epoch: 1,
        engine_id: String::new(),
        ports: vec![],
    }
}

pub(crate) fn state(networks: Vec<Network>, endpoints: Vec<Endpoint>) -> State {
    let mut state = State::default();
    state.cluster = Some(Cluster {
        id: ClusterId(1),
        created_ms: 0,
        pools: vec![],
        pool6: "fd00:1234:5678::/48".parse().unwrap(),
        vxlan_port: 4789,
        feature_level: 1,
        underlay: Family::V4,
        voters: None,
        replace_after_ms: None,
        authorities: Vec::new(),
        crossed: Vec::new(),
        authority: 1,
        locked: false,
    });
    state.nodes = (1..4).map(|id| (NodeId(id), node(id, &["172.18.0.0/16", "fd00:1:2:3::/64"]))).collect();
    state.networks = networks.into_iter().map(|n| (n.id, n)).collect();
    state.endpoints = endpoints.into_iter().map(|e| (e.id, e)).collect();
    state.applied_index = 7;
    state.reindex();
    state
}

/// Two containers here and one there, on one network.
pub(crate) fn small_state() -> State {
    let net = network(1, true, false);
    let endpoints = vec![
        endpoint(11, &net, 1, 11, Some(2)),
        endpoint(12, &net, 1, 12, Some(3)),
        endpoint(13, &net, 2, 13, Some(2)),
    ];
    state(vec![net], endpoints)
}

fn facts() -> HostFacts {
    HostFacts {
        forwarding6: Forwarding6::PerInterface,
        openable: BTreeSet::from([(Family::V4, "ens33".into()), (Family::V6, "ens33".into())]),
        underlay_mtu: 1500,
        ..HostFacts::default()
    }
}

fn want(state: &State) -> Desired {
    desired(state, ME, &Names::default(), &facts())
}

fn texts(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

/// Carries out a plan and asserts that nothing is left to do.
fn settle(kernel: &mut Memory, desired: &Desired) -> Vec<Step> {
    let steps = plan(desired, &kernel.observed(desired));
    for (step, outcome) in steps.iter().zip(kernel.execute(&steps)) {
        outcome.unwrap_or_else(|error| panic!("{step}: {error}\nof {:#?}", texts(&steps)));
    }
    let left = plan(desired, &kernel.observed(desired));
    assert!(left.is_empty(), "left: {:#?}\nafter: {:#?}", texts(&left), texts(&steps));
    steps
}

#[test]
fn an_endpoint_of_an_engine_is_offered_until_it_is_placed() {
    let net = network(1, false, false);
    let placed = Endpoint { engine_id: "e2".into(), ..endpoint(2, &net, 1, 2, None) };
    let offered = Endpoint { sandbox: Sandbox::default(), ifname: String::new(), ..placed.clone() };
    let mut kernel = Memory::default();
    let texts = texts(&settle(&mut kernel, &want(&state(vec![net.clone()], vec![offered]))));
    let offer = "create veth v2 of endpoint 2 (bridge br65537, mtu 1450, up, peer ptb3fa2o 02:42:0a:00:01:04 mtu 1450 down \
                 left to an engine)";
    assert!(texts.iter().any(|text| text == offer), "{texts:#?}");
    assert!(!texts.iter().any(|text| text.contains("address 10.0.1")), "the engine gives it its address: {texts:#?}");
    let desired = want(&state(vec![net], vec![placed]));
    assert_eq!(desired.sandboxes.len(), 1);
    // The engine has moved it, named it and given it its address.
    let moved = desired.objects.iter().filter(|(key, _)| matches!(key, Key::Veth(..) | Key::Address(..)));
    kernel.objects.extend(moved.map(|(key, object)| (key.clone(), object.clone())));
    assert_eq!(settle(&mut kernel, &desired), [], "nothing is left to do");
}

#[test]
fn an_endpoint_is_made_in_order() {
    let net = network(1, false, false);
    let state = state(vec![net.clone()], vec![endpoint(2, &net, 1, 2, Some(2)), endpoint(3, &net, 2, 3, Some(2))]);
    let mut kernel = Memory::default();
    let desired = desired(&state, ME, &Names::default(), &HostFacts { forwarding4: true, ..facts() });
    let texts = texts(&settle(&mut kernel, &desired));
    let expected = [
        "create our namespace",
        "create firewall table (port 4789, 1 VNIs, 3 members, NAT for 172.18.0.0/16, NAT for fd00:1:2:3::/64)",
        "create bridge pontoon_gw (02:42:ac:12:00:01, mtu 1500, up)",
        "create bridge br65537 (0a:50:01:00:01:01, mtu 1450, up)",
        "create VXLAN device vx65537 (VNI 65537, local 192.168.140.201, port 4789, 0e:50:01:00:01:01, mtu 1450, \
         bridge br65537, up)",
        "create IPv6 forwarding of ens33",
        "create IPv6 forwarding of pontoon_gw",
        "create veth v2 of endpoint 2 (bridge br65537, mtu 1450, up, peer eth1 in /run/netns/c2 02:42:0a:00:01:04 mtu \
         1450 up)",
        "create veth pt0c5e2 of endpoint 2 (bridge pontoon_gw, mtu 1500, up, isolated, peer eth9 in /run/netns/c2 \
         02:42:ac:12:00:02 mtu 1500 up)",
        "create address 172.18.0.1/16 of pontoon_gw on the host (broadcast 172.18.255.255)",
        "create address fd00:1:2:3::1/64 of pontoon_gw on the host",
        "create address 10.0.1.4/24 of eth1 in /run/netns/c2 (broadcast 10.0.1.255)",
        "create address 172.18.0.2/16 of eth9 in /run/netns/c2 (broadcast 172.18.255.255)",
        "create address fd00:1:2:3::2/64 of eth9 in /run/netns/c2",
        "create default route via 172.18.0.1 dev eth9 in /run/netns/c2",
        "create default route via fd00:1:2:3::1 dev eth9 in /run/netns/c2",
        "create fdb 02:42:0a:00:01:05 of VNI 65537 (VTEP 192.168.140.202)",
        "create neighbour 10.0.1.5 of VNI 65537 (02:42:0a:00:01:05)",
    ];
    let prefix = Names::default().port(true, EndpointId(2));
    let expected: Vec<String> = expected.iter().map(|e| e.replace("pt0c5e2", &prefix)).collect();
    assert_eq!(texts, expected);
}

#[test]
fn a_node_without_endpoints_in_a_network_does_nothing_for_it() {
    let net = network(1, false, false);
    let state = state(vec![net.clone()], vec![endpoint(3, &net, 2, 3, Some(2))]);
    assert_eq!(want(&state).objects.keys().collect::<Vec<_>>(), [&Key::Namespace]);
}

#[test]
fn the_first_container_of_an_engine_does_not_wait_for_rules() {
    let net = network(1, false, false);
    let mut state = state(vec![net.clone()], Vec::new());
    for node in [1, 2].map(NodeId) {
        let known = EngineNetwork { network: net.id, node, id: format!("{node:064}"), containers: Vec::new() };
        state.engine_networks.insert((net.id, node), known);
    }
    assert_eq!(want(&state).objects.into_keys().collect::<Vec<_>>(), [Key::Namespace, Key::Firewall]);
    assert_eq!(want(&state).firewall().unwrap().vnis, [net.vni.get()].into());
    state.engine_networks.remove(&(net.id, NodeId(1)));
    assert_eq!(want(&state).firewall(), None);
}

#[test]
fn a_node_that_only_votes_has_nothing_and_is_sent_nothing() {
    let mut state = small_state();
    let voter = |state: &mut State, id| state.nodes.get_mut(&NodeId(id)).unwrap().voter_only = true;
    voter(&mut state, 3);
    let members = want(&state).firewall().unwrap().members.clone();
    assert_eq!(members, BTreeSet::from([1, 2].map(|id| node(id, &[]).data_addr)));
    voter(&mut state, 1);
    assert_eq!((want(&state).objects, want(&state).index), (BTreeMap::new(), 7));
}

#[test]
fn an_internal_network_brings_no_way_out() {
    let net = network(1, true, true);
    let state = state(vec![net.clone()], vec![endpoint(2, &net, 1, 2, None)]);
    let outside = |k: &&Key| matches!(k, Key::Veth(true, _) | Key::Route(..) | Key::Bridge(BridgeUse::Gateway));
    assert_eq!(want(&state).objects.keys().filter(outside).count(), 0);
}

#[test]
fn an_endpoint_that_moves_is_replaced_not_removed() {
    let mut state = small_state();
    let mut kernel = Memory::default();
    settle(&mut kernel, &want(&state));
    let moved = state.endpoints.get_mut(&EndpointId(13)).unwrap();
    moved.node = NodeId(3);
    state.reindex();
    let steps = settle(&mut kernel, &want(&state));
    assert_eq!(
        texts(&steps),
        ["change fdb 02:42:0a:00:01:0f of VNI 65537 (VTEP 192.168.140.202) to fdb 02:42:0a:00:01:0f of VNI 65537 \
         (VTEP 192.168.140.203)"]
    );
}

#[test]
fn what_is_in_a_sandbox_that_is_not_there_is_left_alone() {
    let state = small_state();
    let desired = want(&state);
    for absent in [SandboxState::Vanished("gone".into()), SandboxState::Unreachable("no".into())] {
        let mut kernel = Memory::default();
        kernel.absent.insert(sandbox(11), absent);
        let steps = settle(&mut kernel, &desired);
        assert!(steps.iter().all(|s| s.object().sandbox() != Some(&sandbox(11))), "{:#?}", texts(&steps));
        assert!(steps.iter().any(|s| s.object().sandbox() == Some(&sandbox(12))));
    }
}

#[test]
fn forwarding_is_opened_only_where_it_is_off() {
    let state = small_state();
    let with = |facts: &HostFacts| desired(&state, ME, &Names::default(), facts);
    let opened = |d: &Desired| d.firewall().unwrap().opened.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>();
    let on = HostFacts { forwarding4: true, forwarding6: Forwarding6::On, ..facts() };
    assert_eq!(opened(&with(&on)), Vec::<String>::new());
    assert_eq!(opened(&with(&facts())), ["ens33", "pontoon_gw", "ens33", "pontoon_gw"]);
    let old = HostFacts { forwarding4: true, forwarding6: Forwarding6::Off, ..facts() };
    assert_eq!(opened(&with(&old)), Vec::<String>::new());
    assert_eq!(with(&old).notes.len(), 1);
}

#[test]
fn repairs_are_drift_and_changes_are_not() {
    let mut state = small_state();
    let mut kernel = Memory::default();
    settle(&mut kernel, &want(&state));
    let established = want(&state).objects;
    let kinds = |kernel: &Memory, desired: &Desired| -> Vec<Kind> {
        let observed = kernel.observed(desired);
        let steps = plan(desired, &observed);
        drift(&established, &observed, &steps).into_iter().map(|(kind, _)| kind).collect()
    };
    assert_eq!(kinds(&kernel, &want(&state)), []);

    let net = network(1, true, false);
    let new = endpoint(14, &net, 3, 14, None);
    state.endpoints.insert(new.id, new);
    state.endpoints.remove(&EndpointId(12));
    state.reindex();
    assert_eq!(kinds(&kernel, &want(&state)), [], "the state changed");

    let mut damaged = kernel.clone();
    damaged.remove(&Key::Neighbour(net.vni, "10.0.1.15".parse().unwrap()));
    assert_eq!(kinds(&damaged, &want(&small_state())), [Kind::Neighbour]);

    // A tunnel that is made again because the VTEP changed takes its entries with it: no drift.
    state = small_state();
    state.nodes.get_mut(&ME).unwrap().data_addr = "192.168.140.99".parse().unwrap();
    let desired = want(&state);
    assert!(plan(&desired, &kernel.observed(&desired)).len() > 3);
    assert_eq!(kinds(&kernel, &desired), []);

    // Something that nobody asked for, and that an earlier pass would have removed.
    let mut damaged = kernel;
    let Some(Object::Neighbour(mut n)) =
        damaged.objects.get(&Key::Neighbour(net.vni, "10.0.1.15".parse().unwrap())).cloned()
    else {
        panic!("no neighbour")
    };
    n.address = "10.0.1.99".parse().unwrap();
    damaged.objects.insert(Object::Neighbour(n.clone()).key(), Object::Neighbour(n));
    assert_eq!(kinds(&damaged, &want(&small_state())), [Kind::Neighbour]);
}

#[test]
fn the_gateway_bridge_gets_the_first_free_subnet() {
    let with = |routes: &[&str], has: &[&str]| HostFacts {
        routes: routes.iter().map(|r| HostRoute { destination: r.parse().unwrap(), device: "x".into() }).collect(),
        gateway_subnets: has.iter().map(|s| s.parse().unwrap()).collect(),
        ..HostFacts::default()
    };
    let before: Vec<IpNet> = vec!["172.20.0.0/16".parse().unwrap()];
    type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a [IpNet], Option<&'a str>);
    let table: [Row; 7] = [
        (&[], &[], &[], Some("172.18.0.0/16")),
        (&["172.18.0.0/16"], &[], &[], Some("172.19.0.0/16")),
        (&["172.18.4.0/24", "172.16.0.0/12"], &[], &[], Some("192.168.0.0/20")),
        (&["172.16.0.0/12", "192.168.0.0/19"], &[], &[], Some("192.168.32.0/20")),
        (&[], &["172.25.0.0/16"], &before, Some("172.25.0.0/16")),
        (&[], &[], &before, Some("172.20.0.0/16")),
        (&["172.16.0.0/12", "192.168.0.0/16"], &[], &[], None),
    ];
    for (routes, has, before, expected) in table {
        let chosen = egress::choose(&with(routes, has), before, &[]);
        assert_eq!(chosen, expected.map(|e| e.parse().unwrap()), "routes {routes:?}, has {has:?}");
    }
    let taken = ["172.18.0.0/15".parse().unwrap()];
    assert_eq!(egress::choose(&with(&[], &[]), &[], &taken), Some("172.20.0.0/16".parse().unwrap()));
}

#[test]
fn each_node_has_an_ipv6_subnet_at_the_end_of_the_pool() {
    let pool = "fd00:1234:5678::/48".parse().unwrap();
    assert_eq!(egress::choose6(pool, NodeId(1)), "fd00:1234:5678:7ffe::/64".parse().unwrap());
    assert_eq!(egress::choose6(pool, NodeId(2)), "fd00:1234:5678:7ffd::/64".parse().unwrap());
}

#[test]
fn names_fit_and_are_told_apart() {
    let names = Names::default();
    let other = Names { netns: "pontoon2".into(), ..names.clone() };
    assert_ne!(names.port_prefix(), other.port_prefix());
    assert_ne!(names.table(), other.table());
    for id in [1, 0xfff_ffff, 0xf_ffff_ffff] {
        for egress in [false, true] {
            let name = names.port(egress, EndpointId(id));
            assert!(name.len() <= 15, "{name}");
            assert_eq!(names.endpoint_of_port(egress, &name), Some(EndpointId(id)));
        }
    }
    for stranger in ["veth1234", "v", "v01", "vG", "eth0"] {
        assert_eq!(names.endpoint_of_port(false, stranger), None, "{stranger}");
    }
}

/// A state: networks, and for each endpoint its network, node, sandbox and whether it brings the way out.
fn any_state() -> impl Strategy<Value = State> {
    let networks = prop::collection::vec((any::<bool>(), any::<bool>()), 1..4);
    let endpoints = prop::collection::vec((0..4_usize, 1..4_u64, 0..4_u64), 0..12);
    (networks, endpoints, any::<bool>()).prop_map(|(networks, places, other_vtep)| {
        let networks: Vec<Network> =
            networks.into_iter().zip(1..).map(|((ipv6, internal), id)| network(id, ipv6, internal)).collect();
        let (mut seen, mut used, mut endpoints) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for ((at, node, place), id) in places.into_iter().zip(20_u64..) {
            let network = &networks[at % networks.len()];
            if !used.insert((network.id, node, place)) {
                continue;
            }
            let egress = !network.internal && seen.insert((node, place));
            let host = u32::try_from(place).unwrap() + 2;
            endpoints.push(endpoint(id, network, node, place, egress.then_some(host)));
        }
        let mut state = state(networks, endpoints);
        if other_vtep {
            state.nodes.get_mut(&ME).unwrap().data_addr = "192.168.140.99".parse().unwrap();
        }
        state
    })
}

/// Changes an object as somebody with `ip` would.
fn damage(object: &mut Object, how: u8) {
    match object {
        Object::Namespace(n) => n.mounted = false,
        Object::Firewall(f) => f.altered = Some("3 rules".into()),
        Object::DockerUser(d) => d.complete = false,
        Object::Bridge(b) => b.up = false,
        Object::Vxlan(v) => match how % 4 {
            0 => v.up = false,
            1 => v.bridge = None,
            2 => v.tunnel.learning = true,
            _ => v.mtu += 1,
        },
        Object::Veth(v) => match how % 4 {
            0 => v.port.up = false,
            1 => v.port.bridge = None,
            2 => v.peer.iter_mut().for_each(|p| p.mtu += 1),
            _ => v.peer.iter_mut().for_each(|p| p.ifname = "renamed".into()),
        },
        Object::Address(a) => a.broadcast = Some(Ipv4Addr::BROADCAST),
        Object::Route(r) => r.gateway = Some("172.18.99.99".parse().unwrap()),
        Object::Fdb(f) => match how % 2 {
            0 => f.vtep = None,
            _ => f.on_bridge = false,
        },
        Object::Neighbour(n) => n.mac = Mac::new([2, 0, 0, 0, 0, 9]).unwrap(),
        Object::Forwarding(_) => {}
    }
}

proptest! {
    /// From whatever state and whatever damage, one plan leads to what is desired.
    #[test]
    fn a_plan_converges(
        before in any_state(),
        after in any_state(),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut kernel = Memory { facts: facts(), ..Memory::default() };
        settle(&mut kernel, &want(&before));
        for (at, how) in hits {
            if kernel.objects.is_empty() {
                break;
            }
            let key = at.get(&kernel.objects.keys().cloned().collect::<Vec<_>>()).clone();
            if how % 3 == 0 {
                kernel.remove(&key);
            } else if let Some(object) = kernel.objects.get_mut(&key) {
                damage(object, how / 3);
            }
        }
        settle(&mut kernel, &want(&after));
        prop_assert_eq!(&kernel.objects, &want(&after).objects);
    }

    /// What is as desired needs no steps, whatever it is.
    #[test]
    fn a_plan_of_the_same_is_empty(state in any_state()) {
        let desired = want(&state);
        let observed = Observed { objects: desired.objects.clone(), ..Observed::default() };
        prop_assert!(plan(&desired, &observed).is_empty());
    }

    /// Leaving takes away everything.
    #[test]
    fn nothing_desired_leaves_nothing(state in any_state()) {
        let mut kernel = Memory::default();
        settle(&mut kernel, &want(&state));
        settle(&mut kernel, &Desired::default());
        prop_assert!(kernel.objects.is_empty());
    }
}
