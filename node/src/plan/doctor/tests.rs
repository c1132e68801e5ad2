//! Tables of what is seen and what is said of it.

use std::collections::{BTreeMap, BTreeSet};

use pontoon_store::model::id::{ClusterId, NetworkId, NodeId, RaftId};
use pontoon_store::model::object::{EngineNetwork, Family, NodeState, Route};
use pontoon_store::model::state::State;

use super::*;
use crate::plan::engine::SeenNetwork;
use crate::plan::observed::HostFacts;
use crate::plan::tests;

const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

fn id() -> ClusterId {
    ClusterId(1)
}

/// Two nodes and a network net7, 10.0.7.0/24 with MTU 1450 and VNI 65543.
fn state() -> State {
    let mut state = tests::state(vec![tests::network(7, false, false)], vec![]);
    state.nodes = [1, 2].map(|number| (NodeId(number), tests::node(number, &[]))).into();
    state
}

/// Calls a check with node 1's place in this state, where these vote.
fn at<T>(state: &State, voters: &[u64], check: impl FnOnce(&Place<'_>) -> T) -> T {
    let voters: BTreeSet<RaftId> = voters.iter().map(|voter| RaftId(*voter)).collect();
    let leader = voters.first().copied();
    check(&Place { state, cluster: id(), me: ME, voters: &voters, leader, stopped: None })
}

/// Level and subject are these, the evidence has all these words, and there is a cure unless all is well.
#[track_caller]
fn says(finding: &Finding, level: Level, subject: &str, words: &[&str]) {
    assert_eq!((finding.level, finding.subject.as_str()), (level, subject), "{finding:?}");
    for word in words {
        assert!(finding.evidence.contains(word), "no {word:?} in {finding:?}");
    }
    assert_eq!(finding.cure.is_empty(), level == Level::Ok, "{finding:?}");
}

/// The same of a check that found one thing only.
#[track_caller]
fn says_only(found: &[Finding], level: Level, subject: &str, words: &[&str]) {
    assert_eq!(found.len(), 1, "{found:#?}");
    says(&found[0], level, subject, words);
}

#[test]
fn membership() {
    says(&cluster(None), Level::Warning, "", &["no cluster"]);
    assert!(cluster(None).cure.contains("pontoon init") && cluster(None).cure.contains("pontoon join"));
    let state = state();
    let words = ["node1", "id 1", "2 nodes", "00000000000000000000000000000001"];
    at(&state, &[1], |place| says(&cluster(Some(place)), Level::Ok, "", &words));
    let stopped = |place: &Place<'_>| cluster(Some(&Place { stopped: Some("it was removed"), ..*place }));
    says(&at(&state, &[1], stopped), Level::Failure, "", &["it was removed"]);
    says(&at(&State::default(), &[1], |place| cluster(Some(place))), Level::Ok, "", &["node id 1", "0 nodes"]);
}

#[test]
fn a_node_that_only_votes_is_not_looked_at_for_networks() {
    let mut state = state();
    let about =
        |state: &State| at(state, &[1], |place| [Check::Kernel, Check::Mtu, Check::Quorum].map(|c| place.concerns(c)));
    assert_eq!(about(&state), [true, true, true]);
    state.nodes.get_mut(&ME).unwrap().voter_only = true;
    assert_eq!(about(&state), [false, false, true]);
}

#[test]
fn majorities() {
    // nodes, the one that is down (0: none), voters, level, who must agree, what may fail
    let cases = [
        (1, 0, 1, Level::Ok, "1 of 1 voter must", "none may fail"),
        (2, 0, 1, Level::Warning, "1 of 1 voter must", "none may fail"),
        (3, 0, 3, Level::Ok, "2 of 3 voters must", "1 more may fail"),
        (3, 3, 3, Level::Warning, "2 of 3 voters must", "none may fail"),
        (4, 4, 3, Level::Ok, "2 of 3 voters must", "1 more may fail"),
        (5, 4, 5, Level::Ok, "3 of 5 voters must", "1 more may fail"),
    ];
    for (nodes, down, voters, level, must, may) in cases {
        let voters: Vec<u64> = (1..=voters).collect();
        let mut state = state();
        state.nodes = (1..=nodes).map(|number| (NodeId(number), tests::node(number, &[]))).collect();
        state.nodes.values_mut().filter(|node| node.id == NodeId(down)).for_each(|node| node.state = NodeState::Down);
        let finding = at(&state, &voters, |place| quorum(place, None));
        says(&finding, level, "", &[must, may]);
        assert_eq!(finding.cure.contains("bring back node3"), down == 3, "{finding:?}");
        let silent = at(&state, &voters, |place| quorum(place, Some("node2 does not answer")));
        says(&silent, Level::Failure, "", &["node2 does not answer"]);
    }
}

fn greeting() -> Greeting {
    Greeting { cluster: Some(id()), node: OTHER, took_ms: 3, ahead_ms: 0 }
}

#[test]
fn other_nodes() {
    let mut state = state();
    let ask = |state: &State, answer| at(state, &[1], |place| peers(place, &BTreeMap::from([(OTHER, answer)])));
    says_only(&ask(&state, Ok(greeting())), Level::Ok, "node2", &["node2", "192.168.140.202:7300", "3 ms"]);
    let silent = ask(&state, Err("no pontoond answers at 192.168.140.202:7300: refused".to_owned()));
    says_only(&silent, Level::Failure, "node2", &["node2", "192.168.140.202:7300", "refused"]);
    assert!(silent[0].cure.contains("TCP port 7300") && silent[0].cure.contains("node2"), "{silent:?}");
    let wrong = [
        (Greeting { node: NodeId(3), ..greeting() }, "node id 3 of cluster 0000"),
        (Greeting { cluster: None, ..greeting() }, "in no cluster"),
    ];
    for (other, words) in wrong {
        says_only(&ask(&state, Ok(other)), Level::Failure, "node2", &[words, "instead"]);
    }
    state.nodes.get_mut(&OTHER).unwrap().state = NodeState::Down;
    says_only(&ask(&state, Ok(greeting())), Level::Warning, "node2", &["leader does not hear"]);
    state.nodes.remove(&OTHER);
    says_only(&at(&state, &[1], |place| peers(place, &BTreeMap::new())), Level::Ok, "", &["no other node"]);
}

#[test]
fn clocks() {
    let cases = [
        (0, Level::Ok, "node2"),
        (500, Level::Ok, "node2"),
        (-500, Level::Ok, "node2"),
        (501, Level::Warning, "0.5 s ahead of this host's"),
        (-61_300, Level::Warning, "61.3 s behind this host's"),
        (i64::MAX, Level::Warning, "ahead of"),
    ];
    let state = state();
    let ask = |answer| at(&state, &[1], |place| clock(place, &BTreeMap::from([(OTHER, answer)])));
    for (ahead_ms, level, words) in cases {
        let found = ask(Ok(Greeting { ahead_ms, ..greeting() }));
        says_only(&found, level, if level == Level::Ok { "" } else { "node2" }, &[words]);
    }
    // Who does not answer, or is somebody else, has no clock that could differ.
    assert_eq!(ask(Err("silent".to_owned())), []);
    assert_eq!(ask(Ok(Greeting { cluster: None, ahead_ms: 9999, ..greeting() })), []);
}

fn seen(id: &str, ours: bool, made_for: Option<u64>) -> SeenNetwork {
    let made_for = made_for.map(NetworkId);
    SeenNetwork {
        id: id.into(),
        name: "n".into(),
        ours,
        made_for,
        cluster: Some(ClusterId(1)),
        labels: BTreeMap::new(),
    }
}

fn answers(networks: Vec<SeenNetwork>) -> EngineLook {
    EngineLook::Answers { version: "26.1.5".into(), api: "1.45".into(), networks }
}

#[test]
fn engines() {
    let silent = |socket, program: Option<&str>| EngineLook::Silent {
        why: "refused".into(),
        socket,
        program: program.map(str::to_owned),
    };
    let cases = [
        (None, false, Level::Ok, "switched off"),
        (Some(answers(vec![])), false, Level::Ok, "Docker 26.1.5 (API 1.45) answers at /run/docker.sock"),
        (Some(silent(false, None)), false, Level::Warning, "not installed"),
        (Some(silent(false, None)), true, Level::Failure, "does not answer at /run/docker.sock: refused"),
        (Some(silent(true, None)), false, Level::Failure, "does not answer at /run/docker.sock: refused"),
        (Some(silent(false, Some("/usr/bin/dockerd"))), false, Level::Failure, "/usr/bin/dockerd is installed"),
    ];
    for (look, used, level, words) in cases {
        says(&engine("/run/docker.sock", look.as_ref(), used), level, "", &[words]);
    }
}

#[test]
fn drivers() {
    let plugin = |path: &str, told| PluginLook { path: path.into(), problem: None, told };
    let usual = plugin("/run/docker/plugins/pontoon.sock", false);
    let state = state();
    let ask = |plugin: &PluginLook, networks| driver(plugin, &answers(networks), Some((&state, ME)), Some("conflict"));
    let there = || vec![seen("a", true, Some(7))];
    says(&ask(&usual, there()), Level::Ok, "", &["/run/docker/plugins/pontoon.sock", "1 network of the driver"]);
    let broken = PluginLook { problem: Some("process 4711 listens there".into()), ..usual.clone() };
    says(&ask(&broken, there()), Level::Failure, "", &["process 4711 listens there"]);
    let elsewhere = ask(&plugin("/run/x/pontoon.sock", false), there());
    says(&elsewhere, Level::Failure, "", &["/run/x/pontoon.sock", "/run/docker/plugins/pontoon.sock"]);
    says(&ask(&plugin("/run/x/pontoon.sock", true), there()), Level::Ok, "", &["/run/x/pontoon.sock"]);
    // Of another driver, and made for another network.
    for networks in [vec![], vec![seen("a", false, None)], vec![seen("a", true, Some(8))]] {
        says(&ask(&usual, networks), Level::Warning, "", &["lacks net7", "conflict"]);
    }
    // The engine does not answer: that is told elsewhere.
    let silent = EngineLook::Silent { why: "refused".into(), socket: false, program: None };
    says(&driver(&usual, &silent, Some((&state, ME)), None), Level::Ok, "", &["answers"]);
    says(&driver(&usual, &answers(vec![]), None, None), Level::Ok, "", &["0 networks"]);
}

#[test]
fn networks_that_an_engine_made_are_there() {
    let mut state = state();
    let usual = PluginLook { path: "/run/docker/plugins/pontoon.sock".into(), problem: None, told: false };
    let ask = |state: &State| driver(&usual, &answers(vec![seen("a", true, None)]), Some((state, ME)), None);
    says(&ask(&state), Level::Warning, "", &["lacks net7"]);
    let known = EngineNetwork { network: NetworkId(7), node: ME, id: "a".into(), containers: vec![] };
    state.engine_networks.insert((NetworkId(7), ME), known);
    says(&ask(&state), Level::Ok, "", &["1 network"]);
    state.engine_networks.clear();
    state.networks.get_mut(&NetworkId(7)).unwrap().provisional = true;
    says(&ask(&state), Level::Ok, "", &["1 network"]);
}

#[test]
fn kernels() {
    let features =
        [Feature::Namespaces, Feature::Bridge, Feature::Vxlan, Feature::Veth, Feature::Nftables, Feature::Steering];
    let mut trials = features.map(|feature| Trial { feature, error: None });
    says_only(
        &kernel("6.1.0", &trials),
        Level::Ok,
        "",
        &["Linux 6.1.0", "VXLAN, veth, nftables, steering of names work"],
    );
    trials[2].error = Some("cannot create a VXLAN device: not supported".into());
    trials[4].error = Some("cannot run nft".into());
    let found = kernel("6.1.0", &trials);
    assert_eq!(found.len(), 2);
    says(&found[0], Level::Failure, "VXLAN", &["6.1.0", "not supported"]);
    assert!(found[0].cure.contains("modprobe vxlan"));
    says(&found[1], Level::Failure, "nftables", &["cannot run nft"]);
}

#[test]
fn the_peer_port() {
    let state = state();
    let listen = "[::]:7300".parse().unwrap();
    says(&peer_port(listen, None, None), Level::Ok, "7300/tcp", &["[::]:7300"]);
    let ask = |answer: Result<Greeting, String>, local| {
        at(&state, &[1], |place| peer_port(listen, Some(place), Some((&answer, local))))
    };
    let mine = || Greeting { node: ME, ..greeting() };
    says(&ask(Ok(mine()), true), Level::Ok, "7300/tcp", &["192.168.140.201:7300", "[::]:7300"]);
    says(&ask(Ok(greeting()), true), Level::Failure, "7300/tcp", &["node id 2"]);
    says(&ask(Err("refused".into()), true), Level::Failure, "7300/tcp", &["refused"]);
    says(&ask(Err("refused".into()), false), Level::Warning, "7300/tcp", &["refused", "not an address of this host"]);
}

#[test]
fn the_port_of_vxlan() {
    let holder = |address: &str, process: Option<u32>| Holder {
        address: address.parse().unwrap(),
        process: process.map(|pid| (pid, "socat".into())),
    };
    let cases = [
        (Family::V4, vec![], Level::Ok, "free"),
        (Family::V4, vec![holder("0.0.0.0", None)], Level::Ok, "VXLAN devices of this kernel"),
        (Family::V4, vec![holder("0.0.0.0", Some(47))], Level::Failure, "process 47 (socat)"),
        (Family::V4, vec![holder("192.0.2.1", Some(47))], Level::Failure, "on 192.0.2.1"),
        (Family::V4, vec![holder("192.0.2.1", None)], Level::Failure, "cannot be seen"),
        (Family::V4, vec![holder("::", Some(47))], Level::Failure, "on :: is held by process 47"),
        // It takes IPv6 only, or the kernel would not have the port of IPv4.
        (Family::V4, vec![holder("0.0.0.0", None), holder("::", Some(47))], Level::Ok, "VXLAN devices of this kernel"),
        (Family::V4, vec![holder("::1", Some(47))], Level::Ok, "free"),
        // A VXLAN device of somebody else's on IPv6.
        (Family::V4, vec![holder("::", None)], Level::Ok, "free"),
        (Family::V6, vec![holder("0.0.0.0", Some(47))], Level::Ok, "free"),
        (Family::V6, vec![holder("::", None)], Level::Ok, "VXLAN devices of this kernel"),
        (Family::V6, vec![holder("::", Some(47))], Level::Failure, "process 47"),
    ];
    for (underlay, holders, level, words) in cases {
        says_only(&vxlan_port(4789, underlay, None, &holders, &[]), level, "4789/udp", &[words]);
    }
    let device = |vni, port| [VxlanDevice { name: "vxlan0".into(), vni, port }];
    let ask = |devices: &[VxlanDevice]| vxlan_port(4789, Family::V4, Some(&state()), &[], devices);
    for harmless in [device(65_536, 4789), device(65_543, 8472)] {
        assert_eq!(ask(&harmless).len(), 1);
    }
    let found = ask(&device(65_543, 4789));
    assert_eq!(found.len(), 2);
    says(&found[1], Level::Failure, "vxlan0", &["vxlan0", "VNI 65543", "net7"]);
}

fn facts() -> HostFacts {
    HostFacts { underlay_mtu: 1500, forwarding4: true, ..HostFacts::default() }
}

#[test]
fn ways_out() {
    let chain = |name: &str, gateways: &[&str]| Chain {
        name: name.into(),
        gateways: gateways.iter().map(|gateway| (*gateway).to_owned()).collect(),
    };
    let ask = |facts: HostFacts, chains: &[Chain], docker| {
        let look = HostLook { facts, chains: chains.to_vec(), ..HostLook::default() };
        forwarding(&look, "pontoon_gw", docker, None)
    };
    says_only(&ask(facts(), &[], true), Level::Ok, "", &["ip_forward is 1", "left to Docker"]);
    says_only(&ask(facts(), &[], false), Level::Ok, "", &["ip_forward is 1"]);
    let off = || HostFacts { forwarding4: false, ..facts() };
    says_only(&ask(off(), &[], true), Level::Warning, "", &["ip_forward is 0"]);
    says_only(&ask(off(), &[], false), Level::Ok, "", &["ip_forward is 0", "once a container needs it"]);
    let opened = HostFacts { opened: [(Family::V4, "ens33".to_owned())].into(), ..off() };
    says_only(&ask(opened, &[], false), Level::Ok, "", &["on for ens33"]);
    let taken = || HostFacts { gateway_taken: true, ..facts() };
    says_only(&ask(taken(), &[], false), Level::Failure, "pontoon_gw", &["pontoon_gw"]);
    says_only(&ask(taken(), &[], true), Level::Warning, "pontoon_gw", &["pontoon_gw"]);

    let with_docker = || HostFacts { docker_user: true, ..facts() };
    let (theirs, other) = ("ip filter FORWARD", "inet filter forward");
    says_only(&ask(facts(), &[chain(theirs, &[])], false), Level::Warning, theirs, &["no rule names pontoon_gw"]);
    says_only(&ask(facts(), &[chain(theirs, &["docker_gwbridge"])], false), Level::Warning, theirs, &["pontoon_gw"]);
    says_only(&ask(facts(), &[chain(theirs, &["pontoon_gw"])], false), Level::Ok, "", &[]);
    // Our rules are in DOCKER-USER once they are needed.
    says_only(&ask(with_docker(), &[chain(theirs, &[])], false), Level::Ok, "", &[]);
    says_only(&ask(with_docker(), &[chain(theirs, &[])], true), Level::Ok, "", &[]);
    let found = ask(with_docker(), &[chain(theirs, &[]), chain(other, &[])], true);
    says_only(&found, Level::Warning, other, &["no rule names docker_gwbridge"]);
    assert!(found[0].cure.contains("nft insert rule inet filter forward iifname docker_gwbridge accept"), "{found:?}");
}

#[test]
fn mtus() {
    let mut state = state();
    let ask = |state: &State, underlay_mtu| at(state, &[1], |place| mtu(place, &HostFacts { underlay_mtu, ..facts() }));
    says_only(&ask(&state, 1500), Level::Ok, "", &["MTU 1500", "1 other node", "1 network"]);
    says_only(&ask(&state, 0), Level::Failure, "", &["192.168.140.201"]);
    let found = ask(&state, 1499);
    assert_eq!(found.len(), 2);
    says(&found[0], Level::Failure, "net7", &["net7", "MTU 1450", "node node1", "MTU 1499"]);
    assert!(found[0].cure.contains("to 1500") && found[0].cure.contains("--mtu 1449"), "{found:?}");
    says(&found[1], Level::Warning, "node2", &["MTU 1500", "1499"]);
    says_only(&ask(&state, 9000), Level::Warning, "node2", &["node2", "MTU 1500", "9000"]);
    state.nodes.get_mut(&OTHER).unwrap().underlay_mtu = 1400;
    says(&ask(&state, 1500)[0], Level::Failure, "net7", &["net7", "node node2", "MTU 1400"]);
    // What a node said before it went down, or did not say yet, says nothing.
    state.nodes.get_mut(&OTHER).unwrap().state = NodeState::Down;
    says_only(&ask(&state, 1500), Level::Ok, "", &["0 other nodes"]);
    state.cluster.as_mut().unwrap().underlay = Family::V6;
    says_only(&ask(&state, 1500), Level::Failure, "net7", &["70 bytes"]);
}

#[test]
fn overlapping_routes() {
    let route =
        |destination: &str, device: &str| Route { destination: destination.parse().unwrap(), device: device.into() };
    let mut state = state();
    let ask = |state: &State, facts: &HostFacts| at(state, &[1], |place| routes(place, facts));
    let mine = |route: Route| HostFacts { routes: vec![route], ..facts() };
    let elsewhere = mine(route("10.0.8.0/24", "eth0"));
    says_only(&ask(&state, &elsewhere), Level::Ok, "", &["1 route of 2 nodes", "1 subnet"]);
    let cases =
        [("10.0.0.0/8", "tun0"), ("10.0.7.0/24", "eth0"), ("10.0.7.128/25", "docker0"), ("10.0.7.9/32", "eth0")];
    for (destination, device) in cases {
        let found = ask(&state, &mine(route(destination, device)));
        says_only(&found, Level::Warning, "net7", &["node1", destination, device, "net7", "10.0.7.0/24"]);
    }
    let bridged = ask(&state, &mine(route("10.0.0.0/16", "docker_gwbridge")));
    says_only(&bridged, Level::Failure, "net7", &["docker_gwbridge", "10.0.0.0/16", "net7"]);
    let gateway = HostFacts { gateway_subnets: vec!["10.0.0.0/16".parse().unwrap()], ..facts() };
    says_only(&ask(&state, &gateway), Level::Failure, "net7", &["gateway bridge", "10.0.0.0/16", "net7"]);

    state.nodes.get_mut(&OTHER).unwrap().routes = vec![route("10.0.0.0/8", "tun0")];
    says_only(&ask(&state, &facts()), Level::Warning, "net7", &["node2", "tun0"]);
    // Of this node, what is seen now counts, and not what it told the cluster.
    state.nodes.get_mut(&ME).unwrap().routes = vec![route("10.0.7.0/24", "old")];
    assert_eq!(ask(&state, &facts()).len(), 1);
    state.nodes.get_mut(&OTHER).unwrap().state = NodeState::Down;
    says_only(&ask(&state, &facts()), Level::Ok, "", &["0 routes of 1 node"]);
}

#[test]
fn ipv6_leaves_only_where_it_is_forwarded() {
    let mut state = tests::small_state();
    let look = HostLook { facts: facts(), ..HostLook::default() };
    let ask = |state: &State, docker| at(state, &[1], |place| forwarding(&look, "pontoon_gw", docker, Some(place)));
    says_only(&ask(&state, false), Level::Warning, "", &["IPv6"]);
    says_only(&ask(&state, true), Level::Ok, "", &[]);
    state.endpoints.values_mut().for_each(|endpoint| endpoint.egress = None);
    says_only(&ask(&state, false), Level::Ok, "", &[]);
}

#[test]
fn ways_to_other_nodes() {
    let mut state = state();
    let address = state.nodes[&OTHER].data_addr;
    let sizes = |state: &State, mtu| at(state, &[1], |place| path_sizes(place, mtu));
    let asked = sizes(&state, 1500);
    let tried: Vec<u32> = asked[&address].iter().copied().collect();
    assert_eq!((asked.len(), tried.first(), tried.last()), (1, Some(&576), Some(&1500)));
    state.networks.get_mut(&NetworkId(7)).unwrap().mtu = 1411;
    assert!(sizes(&state, 9000)[&address].contains(&1461), "what the network needs");
    assert_eq!(sizes(&state, 9000)[&address].last(), Some(&1500), "the other end has no more");
    assert_eq!(sizes(&state, 0), Sizes::new());
    state.networks.get_mut(&NetworkId(7)).unwrap().mtu = 1450;

    let greet = |answer| BTreeMap::from([(OTHER, answer)]);
    let ask = |state: &State, answered: &[u32]| {
        let answered = Ok(Sizes::from([(address, answered.iter().copied().collect())]));
        at(state, &[1], |place| paths(place, &asked, &answered, &greet(Ok(greeting()))))
    };
    says_only(&ask(&state, &[576, 1500]), Level::Ok, "node2", &["1500 bytes", "node2", &address.to_string()]);
    let found = ask(&state, &[576, 1420]);
    says_only(&found, Level::Failure, "node2", &["1420 bytes get through", "of 1500 bytes they do not", "net7"]);
    assert!(found[0].cure.contains("to 1500") && found[0].cure.contains("--mtu 1370"), "{found:?}");
    state.networks.get_mut(&NetworkId(7)).unwrap().mtu = 1370;
    says_only(&ask(&state, &[576, 1420]), Level::Warning, "node2", &["1420 bytes", "1500 bytes"]);
    let silent = ask(&state, &[]);
    says_only(&silent, Level::Warning, "node2", &["node2", "echo", &address.to_string()]);
    assert!(silent[0].cure.contains(&format!("ping -M do -s 1472 {address}")), "{silent:?}");
    // Of one that is away, somebody else tells.
    let nothing = Ok(Sizes::from([(address, BTreeSet::new())]));
    let away = greet(Err("refused".to_owned()));
    assert_eq!(at(&state, &[1], |place| paths(place, &asked, &nothing, &away)), []);
    let failed = Err("not permitted".to_owned());
    let failed = |asked: &Sizes| at(&state, &[1], |place| paths(place, asked, &failed, &away));
    says_only(&failed(&asked), Level::Warning, "", &["not permitted"]);
    assert_eq!(failed(&Sizes::new()), [], "nothing was to be tried");
    state.nodes.get_mut(&OTHER).unwrap().state = NodeState::Down;
    assert_eq!(sizes(&state, 1500), Sizes::new());
}

#[test]
fn filters_that_nftables_does_not_show() {
    let ask = |docker, docker_user, legacy_filter| {
        let facts = HostFacts { docker_user, ..facts() };
        forwarding(&HostLook { facts, legacy_filter, ..HostLook::default() }, "pontoon_gw", docker, None)
    };
    // This host has Docker, Docker writes to nftables, and whom the rules are for.
    for (docker, nft, bridge) in
        [(false, false, "pontoon_gw"), (false, true, "pontoon_gw"), (true, true, DOCKER_GATEWAY)]
    {
        says_only(&ask(docker, nft, false), Level::Ok, "", &[]);
        let found = ask(docker, nft, true);
        says_only(&found, Level::Warning, "iptables-legacy", &["iptables-legacy", "FORWARD"]);
        assert!(found[0].cure.contains(&format!("-i {bridge} -j ACCEPT")), "{found:?}");
    }
    says_only(&ask(true, false, true), Level::Ok, "", &[]);
}

#[test]
fn passes_of_the_loop() {
    says_only(&reconcile(true, 3, &[]), Level::Ok, "", &["3 steps"]);
    says_only(&reconcile(false, 0, &[]), Level::Warning, "", &["first pass"]);
    let failures: Vec<String> = (0..12).map(|n| format!("create bridge br{n}: not permitted")).collect();
    says_only(&reconcile(true, 12, &failures[..1]), Level::Failure, "", &["br0", "not permitted"]);
    let found = reconcile(false, 12, &failures);
    assert_eq!(found.len(), 11);
    says(&found[9], Level::Failure, "", &["br9"]);
    says(&found[10], Level::Failure, "", &["2 more"]);
}
