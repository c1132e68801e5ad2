use std::net::SocketAddr;

use crate::model::command::{AdmitNode, Command, FEATURE_LEVEL, MoveNode, Outcome, ReportNode};
use crate::model::id::{ClusterId, NodeId, RaftId};
use crate::model::object::{Cluster, Family, LeaseState, Node, NodeState, Pool};
use crate::model::rejection::Reason;
use crate::model::voters::MAX_NODES;

use super::{World, admission, container, ip, named, report, settings, with_subnets};

fn found(cluster: Cluster) -> Command {
    Command::FoundCluster { cluster, node: admission(1), sealed_key: Vec::new() }
}

#[test]
fn a_cluster_is_founded_once_and_first() {
    let mut world = World::new();
    world.refused(Command::CreateNetwork(named("web")), Reason::NotFounded, &["no cluster", "pontoon init"]);
    let Outcome::Node(node) = world.ok(found(settings())) else { panic!("a node") };
    assert_eq!((node.id, node.raft_id, node.state), (NodeId(world.index), RaftId(1), NodeState::Joining));
    let cluster = world.state.cluster.clone().expect("founded");
    assert_eq!((cluster.created_ms, cluster.feature_level), (world.now_ms, FEATURE_LEVEL));
    world.refused(found(settings()), Reason::AlreadyFounded, &["abc", "leave"]);
}

#[test]
fn settings_are_checked() {
    let mut world = World::new();
    let pool = |cidr: &str, prefix| Pool { cidr: cidr.parse().unwrap(), prefix };
    let with = |pools: &[Pool]| Cluster { pools: pools.to_vec(), ..settings() };
    let pool6 = |cidr: &str| Cluster { pool6: cidr.parse().unwrap(), ..settings() };
    for (cluster, told) in [
        (with(&[]), "0 pools"),
        (with(&[pool("10.0.0.0/8", 24); 17]), "17 pools"),
        (with(&[pool("10.1.0.0/8", 24)]), "use 10.0.0.0/8"),
        (with(&[pool("10.0.0.0/8", 31)]), "/31s"),
        (with(&[pool("10.0.0.0/16", 15)]), "/15s"),
        (with(&[pool("10.0.0.0/31", 31)]), "/31s"),
        (with(&[pool("224.0.0.0/8", 24)]), "224.0.0.0/8"),
        (with(&[pool("127.0.0.0/8", 24)]), "127.0.0.0/8"),
        (with(&[pool("0.0.0.0/0", 24)]), "0.0.0.0/0"),
        (with(&[pool("10.0.0.0/8", 24), pool("10.5.0.0/16", 24)]), "10.5.0.0/16 overlaps pool 10.0.0.0/8"),
        (pool6("fd00::/64"), "/48"),
        (pool6("2001:db8::/48"), "fd00::/8"),
        (pool6("fd00:0:0:1::/48"), "fd00::/8"),
        (Cluster { vxlan_port: 0, ..settings() }, "port 0"),
        (Cluster { id: ClusterId(0), ..settings() }, "id"),
    ] {
        world.refused(found(cluster), Reason::InvalidCluster, &[told]);
    }
}

#[test]
fn an_admission_is_refused_by_name() {
    let mut world = World::founded();
    let admit = |change: &dyn Fn(&mut AdmitNode)| {
        let mut admit = admission(2);
        change(&mut admit);
        Command::AdmitNode(admit)
    };
    world.network(with_subnets("web", &["10.7.0.0/24"]));
    let socket = |text: &str| text.parse().unwrap();
    world.refused(admit(&|a| a.name = "a b".to_owned()), Reason::InvalidName, &["a b"]);
    world.refused(admit(&|a| a.name = "n1".to_owned()), Reason::NodeNameTaken, &["n1", "node rm"]);
    let taken = Reason::NodeAddressTaken;
    world.refused(admit(&|a| a.advertise = socket("192.168.140.1:7300")), taken, &["n2", "192.168.140.1:7300", "n1"]);
    world.refused(admit(&|a| a.data_addr = ip("192.168.140.1")), taken, &["n2", "192.168.140.1", "n1"]);
    world.refused(admit(&|a| a.raft_id = Some(RaftId(1))), taken, &["n2", "Raft id 1", "n1"]);
    let invalid = Reason::InvalidNodeAddress;
    for address in ["0.0.0.0", "224.0.0.1", "255.255.255.255"] {
        world.refused(admit(&|a| a.data_addr = ip(address)), invalid, &["n2", address]);
    }
    world.refused(admit(&|a| a.data_addr = ip("fd00::2")), invalid, &["n2", "fd00::2", "IPv4"]);
    world.refused(admit(&|a| a.data_addr = ip("10.7.0.9")), invalid, &["n2", "10.7.0.9", "10.7.0.0/24", "web"]);
    world.refused(admit(&|a| a.advertise = socket("10.7.0.9:1")), invalid, &["10.7.0.9", "web"]);
    world.refused(admit(&|a| a.advertise = socket("0.0.0.0:1")), invalid, &["0.0.0.0:1"]);
    world.refused(admit(&|a| a.advertise = socket("192.168.140.2:0")), invalid, &["192.168.140.2:0"]);
    world.refused(
        admit(&|a| a.feature_level = 0),
        Reason::FeatureLevelTooLow,
        &["n2", "level 0", &format!("uses {FEATURE_LEVEL}")],
    );
    world.refused(admit(&|a| a.version = "v".repeat(65)), Reason::TooLarge, &["65 bytes"]);
}

#[test]
fn an_underlay_of_ipv6_takes_ipv6_nodes() {
    let mut world = World::new();
    let node = AdmitNode { data_addr: ip("fd00::1"), ..admission(1) };
    world.ok(Command::FoundCluster { cluster: settings(), node, sealed_key: Vec::new() });
    assert_eq!(world.state.cluster.as_ref().map(|cluster| cluster.underlay), Some(Family::V6));
    assert_eq!(world.network(named("web")).mtu, 1430);
    world.refused(Command::AdmitNode(admission(2)), Reason::InvalidNodeAddress, &["IPv6"]);
}

/// A node that has lost its log and has its key still must not get its Raft id back.
#[test]
fn only_the_same_attempt_of_a_node_without_log_gets_the_old_answer() {
    let mut world = World::founded();
    let Outcome::Node(second) = world.ok(Command::AdmitNode(admission(2))) else { panic!("a node") };
    let other = |change: &dyn Fn(&mut AdmitNode)| {
        let mut admit = admission(2);
        change(&mut admit);
        Command::AdmitNode(admit)
    };
    let told = ["n2", "pontoon node rm n2 --force"];
    world.refused(other(&|a| a.attempt = 7), Reason::NodeKeyTaken, &told);
    world.refused(other(&|a| a.attempt = 0), Reason::NodeKeyTaken, &told);
    world.refused(other(&|a| a.name = "other".to_owned()), Reason::NodeKeyTaken, &told);
    world.refused(other(&|a| a.advertise.set_port(1)), Reason::NodeKeyTaken, &told);
    world.refused(other(&|a| a.data_addr = ip("192.168.140.9")), Reason::NodeKeyTaken, &told);
    world.ok(Command::ReportNode(report(second.id)));
    world.refused(Command::AdmitNode(admission(2)), Reason::NodeKeyTaken, &told);
    world.ok(Command::RemoveNode { node: second.id, force: true });
    let Outcome::Node(anew) = world.ok(other(&|a| a.attempt = 7)) else { panic!("a node") };
    assert_ne!(anew.raft_id, second.raft_id);
}

#[test]
fn a_key_is_admitted_once() {
    let mut world = World::founded();
    let Outcome::Node(second) = world.ok(Command::AdmitNode(admission(2))) else { panic!("a node") };
    assert_eq!(second.raft_id, RaftId(second.id.0));
    assert_eq!(world.ok(Command::AdmitNode(admission(2))), Outcome::Node(second));
}

#[test]
fn a_thousand_nodes_at_most() {
    let mut world = World::founded();
    let admit = |n: usize| AdmitNode {
        name: format!("n{n}"),
        advertise: SocketAddr::new(ip(&format!("192.168.{}.{}", n / 250, n % 250 + 1)), 7300),
        data_addr: ip(&format!("192.168.{}.{}", n / 250, n % 250 + 1)),
        public_key: std::array::from_fn(|i| n.to_be_bytes()[i % 8]),
        raft_id: None,
        ..admission(1)
    };
    for n in world.state.nodes.len()..MAX_NODES {
        world.ok(Command::AdmitNode(admit(n + 10)));
    }
    world.refused(Command::AdmitNode(admit(1_100)), Reason::TooManyNodes, &["n1100", "1000 nodes", "node rm"]);
}

/// Under an id that had a log, a node without that log could vote twice.
#[test]
fn a_member_that_is_retired_gets_an_id_that_was_never_used() {
    let mut world = World::founded();
    world.ok(Command::AdmitNode(admission(2)));
    let before = world.node(2);
    let Outcome::Node(after) = world.ok(Command::RetireMember { node: before.id }) else { panic!("a node") };
    assert!(after.raft_id > before.raft_id && after.raft_id.0 == world.index);
    assert_eq!(after, Node { raft_id: after.raft_id, ..before });
    world.refused(Command::RetireMember { node: NodeId(99) }, Reason::NodeNotFound, &["99"]);
}

/// Nodes of an earlier version refuse the sixth node, and every node must make the same of an entry.
#[test]
fn five_nodes_at_most_while_one_of_them_is_older() {
    let mut world = World::new();
    let node = |n| AdmitNode { feature_level: 2, ..admission(n) };
    world.ok(Command::FoundCluster { cluster: settings(), node: node(1), sealed_key: Vec::new() });
    (2..=5).for_each(|n| drop(world.ok(Command::AdmitNode(node(n)))));
    world.refused(Command::AdmitNode(admission(6)), Reason::TooManyNodes, &["n6", "5 nodes", "feature level 4"]);
    for n in 1..=5 {
        world.ok(Command::ReportNode(report(world.node(n).id)));
    }
    world.ok(Command::AdmitNode(admission(6)));
}

#[test]
fn the_first_report_makes_a_node_ready() {
    let mut world = World::founded();
    let node = world.node(1).id;
    world.ok(Command::SetNodeState { node, state: NodeState::Ready });
    assert_eq!(world.node(1).state, NodeState::Joining, "nothing is known of it yet");
    let mut told = report(node);
    told.routes
        .push(crate::model::object::Route { destination: "0.0.0.0/0".parse().unwrap(), device: "ens33".to_owned() });
    world.ok(Command::ReportNode(told));
    assert_eq!((world.node(1).state, world.node(1).routes.len()), (NodeState::Ready, 2));
    world.ok(Command::SetNodeState { node, state: NodeState::Joining });
    assert_eq!(world.node(1).state, NodeState::Ready);
    world.ok(Command::SetNodeState { node, state: NodeState::Down });
    world.ok(Command::ReportNode(report(node)));
    assert_eq!(world.node(1).state, NodeState::Down, "only the leader says that it hears from it");
    world.ok(Command::SetNodeState { node, state: NodeState::Ready });
    assert_eq!(world.node(1).state, NodeState::Ready);
    let routes = vec![report(node).routes.remove(0); 4097];
    world.refused(Command::ReportNode(ReportNode { routes, ..report(node) }), Reason::TooLarge, &["n1", "4097"]);
    world.refused(Command::ReportNode(report(NodeId(99))), Reason::NodeNotFound, &["99"]);
    let state = NodeState::Down;
    world.refused(Command::SetNodeState { node: NodeId(99), state }, Reason::NodeNotFound, &["99"]);
}

#[test]
fn the_feature_level_is_the_lowest_and_never_falls() {
    let mut world = World::founded();
    world.ok(Command::AdmitNode(admission(2)));
    let level = |world: &World| world.state.cluster.as_ref().map(|cluster| cluster.feature_level);
    let [first, second] = [1, 2].map(|n| world.node(n).id);
    let mut tell = |node, feature_level| {
        world.ok(Command::ReportNode(ReportNode { feature_level, ..report(node) }));
        level(&world)
    };
    assert_eq!(tell(first, FEATURE_LEVEL + 2), Some(FEATURE_LEVEL));
    assert_eq!(tell(second, FEATURE_LEVEL + 1), Some(FEATURE_LEVEL + 1));
    assert_eq!(tell(first, FEATURE_LEVEL), Some(FEATURE_LEVEL + 1));
}

#[test]
fn labels_are_set_and_removed() {
    let mut world = World::founded();
    let node = world.node(1).id;
    let label = |set: &[(&str, &str)], remove: &[&str]| Command::LabelNode {
        node,
        set: set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        remove: remove.iter().map(|key| (*key).to_owned()).collect(),
    };
    world.ok(label(&[("a", "1"), ("b", "2")], &[]));
    world.ok(label(&[("c", "3")], &["a", "none"]));
    assert_eq!(world.node(1).labels.into_keys().collect::<Vec<_>>(), ["b", "c"]);
    world.refused(label(&[("", "x")], &[]), Reason::InvalidLabel, &["node n1"]);
    let gone = Command::LabelNode { node: NodeId(99), set: [].into(), remove: vec![] };
    world.refused(gone, Reason::NodeNotFound, &["99"]);
}

#[test]
fn a_node_in_use_goes_by_force_only() {
    let (mut world, web) = World::with_network();
    let db = world.network(named("db"));
    let wanted = world.container(&web, 2, "c0");
    world.endpoint(wanted.clone());
    world.endpoint(crate::model::command::CreateEndpoint { network: db.id, ..wanted });
    (1..=11).for_each(|n| drop(world.endpoint(world.container(&web, 2, &format!("c{n}")))));
    let node = world.node(2).id;
    let remove = |force| Command::RemoveNode { node, force };
    let texts = ["n2", "13 endpoints", "c0 on network web (10.0.0.2)", "and 3 more", "--force"];
    world.refused(remove(false), Reason::NodeInUse, &texts);
    world.ok(remove(true));
    assert_eq!((world.state.endpoints.len(), world.state.nodes.len()), (0, 2));
    let lease = &world.state.leases[&(web.id, ip("10.0.0.2"))];
    assert!(matches!(lease.state, LeaseState::Cooling { .. }));
    world.refused(remove(true), Reason::NodeNotFound, &[&node.to_string()]);
    let third = world.node(3).id;
    world.ok(Command::RemoveNode { node: third, force: false });
    let last = world.node(1).id;
    world.refused(Command::RemoveNode { node: last, force: false }, Reason::NodeInUse, &["n1", "last", "--force"]);
    world.ok(Command::RemoveNode { node: last, force: true });
}

/// A host that was wiped takes its place again: what runs on it stays what it was, and nobody has two places.
#[test]
fn a_wiped_node_takes_its_place_again() {
    let mut world = World::founded();
    let Outcome::Node(old) = world.ok(Command::AdmitNode(admission(2))) else { panic!("a node") };
    world.ok(Command::ReportNode(report(old.id)));
    world.ok(Command::LabelNode { node: old.id, set: [("zone".into(), "a".into())].into(), remove: Vec::new() });
    let network = world.network(named("web"));
    let endpoint = world.endpoint(container(&network, &old, "c1"));
    let again = |change: &dyn Fn(&mut AdmitNode)| {
        let mut admit = AdmitNode { public_key: [22; 32], attempt: 7, replaces: "n2".into(), ..admission(2) };
        change(&mut admit);
        Command::AdmitNode(admit)
    };
    world.refused(again(&|_| ()), Reason::NodeAlive, &["n2", "stop its daemon"]);
    world.ok(Command::SetNodeState { node: old.id, state: NodeState::Down });
    world.refused(again(&|a| a.replaces = "n9".into()), Reason::NodeNotFound, &["n9", "pontoon node ls"]);
    world.refused(again(&|a| a.name = "n1".into()), Reason::NodeNameTaken, &["n1", "--replace n1"]);
    world.refused(again(&|a| a.voter_only = true), Reason::NodeVoterOnly, &["n2", "--voter-only"]);
    world.refused(again(&|a| a.public_key = [1; 32]), Reason::NodeKeyTaken, &["n1"]);
    let labels = world.state.nodes[&old.id].labels.clone();
    let Outcome::Node(new) = world.ok(again(&|_| ())) else { panic!("a node") };
    assert_eq!((new.id, new.public_key, &new.labels), (old.id, [22; 32], &labels));
    assert_eq!(new.egress_subnets, report(old.id).egress_subnets, "its containers' way out stays");
    assert!(new.raft_id > old.raft_id && new.state == NodeState::Joining, "{new:?}");
    assert_eq!(world.state.endpoints[&endpoint.id], endpoint);
    assert_eq!(world.ok(again(&|_| ())), Outcome::Node(new.clone()), "the same attempt once more");
    // Another one must wait until it is down, also if it has never come; its own attempt is the same one all the time.
    let other = again(&|a| (a.public_key, a.attempt) = ([23; 32], 9));
    world.refused(other.clone(), Reason::NodeAlive, &["n2"]);
    world.ok(Command::SetNodeState { node: new.id, state: NodeState::Down });
    assert!(matches!(world.ok(again(&|a| a.name = String::new())), Outcome::Node(node) if node.raft_id == new.raft_id));
    let mut later = World { state: world.state.clone(), ..World::new() };
    (later.index, later.now_ms) = (world.index, world.now_ms);
    later.ok(other);
    world.ok(Command::SetNodeState { node: new.id, state: NodeState::Ready });
    assert_eq!(world.state.nodes[&new.id].state, NodeState::Joining);
    // By its id, from elsewhere, and with the key that it had: only its store was lost.
    world.ok(Command::ReportNode(report(new.id)));
    world.ok(Command::SetNodeState { node: new.id, state: NodeState::Down });
    let elsewhere = again(&|a| {
        (a.replaces, a.attempt, a.name) = (old.id.to_string(), 8, String::new());
        (a.data_addr, a.advertise) = (ip("192.168.140.22"), "192.168.140.22:7300".parse().unwrap());
    });
    let Outcome::Node(third) = world.ok(elsewhere) else { panic!("a node") };
    assert_eq!((third.id, third.name.as_str(), third.data_addr), (old.id, "n2", ip("192.168.140.22")));
    assert_eq!(world.state.nodes.len(), 2);
}

#[test]
fn a_node_has_other_addresses() {
    let mut world = World::founded();
    let Outcome::Node(second) = world.ok(Command::AdmitNode(admission(2))) else { panic!("a node") };
    let to = |advertise: &str, data_addr: &str| {
        let (advertise, data_addr) = (advertise.parse().unwrap(), ip(data_addr));
        Command::MoveNode(MoveNode { node: second.id, advertise, data_addr })
    };
    let subnet = world.network(named("web")).subnets[0].cidr;
    world.refused(to("192.168.140.1:7300", "192.168.140.22"), Reason::NodeAddressTaken, &["n2 cannot move", "n1"]);
    world.refused(to("192.168.140.22:7300", "192.168.140.1"), Reason::NodeAddressTaken, &["n2 cannot move", "n1"]);
    world.refused(to("192.168.140.22:7300", "fd00::2"), Reason::InvalidNodeAddress, &["n2", "IPv4"]);
    world.refused(to("192.168.140.22:0", "192.168.140.22"), Reason::InvalidNodeAddress, &["n2"]);
    let inside = subnet.hosts().nth(9).unwrap().to_string();
    world.refused(to("192.168.140.22:7300", &inside), Reason::InvalidNodeAddress, &["n2 cannot move", "web"]);
    let Outcome::Node(moved) = world.ok(to("192.168.140.22:7301", "192.168.140.22")) else { panic!("a node") };
    assert_eq!(moved, Node { advertise: moved.advertise, data_addr: moved.data_addr, ..second.clone() });
    assert_eq!((moved.advertise.port(), moved.data_addr), (7301, ip("192.168.140.22")));
    world.ok(to("192.168.140.22:7301", "192.168.140.22"));
    let gone =
        Command::MoveNode(MoveNode { node: NodeId(999), advertise: moved.advertise, data_addr: moved.data_addr });
    world.refused(gone, Reason::NodeNotFound, &["999"]);
}
