//! Tables of an engine's plan, on states that commands have made.

mod leftovers;
mod random;
mod sim;
mod waiting;

use std::net::IpAddr;

use pontoon_store::model::command::{
    AdmitNode, ClaimSubnet, Command, CreateEndpoint, CreateNetwork, EngineRef, FEATURE_LEVEL, HoldAddress, Outcome,
    PlaceEndpoint, WantedSubnet,
};
use pontoon_store::model::entry::{Entry, RequestId};
use pontoon_store::model::id::{ClusterId, NetworkId, NodeId, RaftId};
use pontoon_store::model::object::{
    Cluster, Endpoint, EngineContainer, EngineNetwork, Family, Lease, Network, Pool, Sandbox,
};
use pontoon_store::model::rejection::{Reason, Rejection};
use pontoon_store::model::state::State;

use super::*;

const CLUSTER: ClusterId = ClusterId(7);

/// The state of a cluster of two nodes, and the commands that have made it.
struct World {
    state: State,
    index: u64,
    now_ms: u64,
    me: NodeId,
    other: NodeId,
}

impl World {
    fn new() -> Self {
        let mut world = Self { state: State::empty(), index: 1, now_ms: 1_000_000, me: NodeId(0), other: NodeId(0) };
        let cluster = Cluster {
            id: CLUSTER,
            created_ms: 0,
            pools: vec![Pool { cidr: "10.0.0.0/8".parse().unwrap(), prefix: 24 }],
            pool6: "fd12:3456:789a::/48".parse().unwrap(),
            vxlan_port: 4789,
            feature_level: 0,
            underlay: Family::V4,
            voters: None,
            replace_after_ms: None,
            authorities: Vec::new(),
            crossed: Vec::new(),
            authority: 1,
            locked: false,
        };
        let admitted = |outcome| match outcome {
            Outcome::Node(node) => node.id,
            other => panic!("{other:?}"),
        };
        world.me = admitted(world.ok(Command::FoundCluster { cluster, node: admission(1), sealed_key: Vec::new() }));
        world.other = admitted(world.ok(Command::AdmitNode(admission(2))));
        world
    }

    /// Applies a command as a new request. Whatever it is, the invariants hold.
    fn apply(&mut self, command: Command) -> Result<Outcome, Rejection> {
        self.index += 1;
        self.now_ms += 1;
        let request = RequestId { node: NodeId(0), run: 7, seq: self.index };
        let applied = self.state.apply(self.index, &Entry { time_ms: self.now_ms, request, command, origin: None });
        assert_eq!(self.state.check(), [], "{applied:?}");
        applied.result
    }

    #[track_caller]
    fn ok(&mut self, command: Command) -> Outcome {
        self.apply(command).expect("accepted")
    }

    /// `pontoon network create NAME`.
    #[track_caller]
    fn network(&mut self, name: &str) -> Network {
        network(self.ok(Command::CreateNetwork(CreateNetwork { name: name.to_owned(), ..CreateNetwork::default() })))
    }

    /// A node's engine makes a network under this id, and has not told its name.
    fn made(&mut self, node: NodeId, id: &str) -> Result<Network, Rejection> {
        let wanted = ClaimSubnet { node, family: Family::V4, cidr: None, ip_range: None };
        let claim = match self.apply(Command::ClaimSubnet(wanted))? {
            Outcome::Claim(claim) => claim,
            other => panic!("{other:?}"),
        };
        let subnets = vec![WantedSubnet { cidr: claim.cidr, gateway: None, ip_range: None }];
        let engine = Some(EngineRef { node, id: id.to_owned() });
        let name = Endpoint::short_id(id);
        self.apply(Command::CreateNetwork(CreateNetwork { name, subnets, engine, ..CreateNetwork::default() }))
            .map(network)
    }

    /// A node tells how its engine has a network.
    #[track_caller]
    fn reported(&mut self, node: NodeId, network: &Network, id: &str, containers: &[&str]) {
        let containers = containers.iter().map(|name| known_container(name)).collect();
        let known = EngineNetwork { network: network.id, node, id: id.to_owned(), containers };
        self.ok(Command::ReportEngineNetwork(known));
    }

    fn hold(
        &mut self,
        node: NodeId,
        network: NetworkId,
        address: Option<IpAddr>,
        name: &str,
    ) -> Result<Lease, Rejection> {
        let wanted = HoldAddress { network, node, family: Family::V4, address, name: name.to_owned() };
        self.apply(Command::HoldAddress(wanted)).map(|outcome| match outcome {
            Outcome::Lease(lease) => lease,
            other => panic!("{other:?}"),
        })
    }

    /// An engine makes an endpoint, on an address that is held for it.
    fn endpoint(&mut self, node: NodeId, network: NetworkId, address: IpAddr, id: &str) -> Result<Endpoint, Rejection> {
        let wanted = CreateEndpoint {
            network,
            node,
            name: Endpoint::short_id(id),
            container_id: String::new(),
            aliases: Vec::new(),
            mac: None,
            addresses: vec![address],
            sandbox: Sandbox::default(),
            ifname: None,
            engine_id: id.to_owned(),
        };
        self.apply(Command::CreateEndpoint(wanted)).map(endpoint)
    }

    /// A container of an engine runs on a network, in a namespace of its own.
    #[track_caller]
    fn runs(&mut self, node: NodeId, network: &Network, name: &str) -> Endpoint {
        let lease = self.hold(node, network.id, None, name).unwrap();
        let made = self.endpoint(node, network.id, lease.address, &format!("{name}-ep")).unwrap();
        self.places(&made, name, &format!("{name}-id"))
    }

    /// An engine has moved an endpoint's interface.
    #[track_caller]
    fn places(&mut self, made: &Endpoint, name: &str, container_id: &str) -> Endpoint {
        endpoint(self.ok(Command::PlaceEndpoint(PlaceEndpoint {
            endpoint: made.id,
            epoch: made.epoch,
            name: name.to_owned(),
            container_id: container_id.to_owned(),
            aliases: Vec::new(),
            sandbox: Sandbox { netns: format!("/run/docker/netns/{name}"), key: format!("{}-{name}", made.node.0) },
            ifname: "eth0".to_owned(),
            ports: Vec::new(),
        })))
    }

    /// `pontoon attach --name NAME`.
    #[track_caller]
    fn attached(&mut self, network: &Network, name: &str) {
        self.ok(Command::CreateEndpoint(CreateEndpoint {
            network: network.id,
            node: self.me,
            name: name.to_owned(),
            container_id: String::new(),
            aliases: Vec::new(),
            mac: None,
            addresses: Vec::new(),
            sandbox: Sandbox { netns: format!("/run/netns/{name}"), key: name.to_owned() },
            ifname: None,
            engine_id: String::new(),
        }));
    }

    #[track_caller]
    fn ends(&mut self, endpoint: &Endpoint) {
        self.ok(Command::RemoveEndpoint { endpoint: endpoint.id, epoch: endpoint.epoch });
    }

    #[track_caller]
    fn stops(&mut self, endpoint: &Endpoint) {
        self.ok(Command::StopEndpoint { endpoint: endpoint.id, epoch: endpoint.epoch });
    }

    /// What is planned on this node.
    fn planned(&self, networks: Vec<SeenNetwork>, containers: Vec<SeenContainer>) -> EnginePlan {
        plan(&self.state, self.me, &Seen { networks, containers, ..Seen::default() })
    }
}

fn admission(n: u8) -> AdmitNode {
    AdmitNode {
        name: format!("n{n}"),
        advertise: (IpAddr::from([192, 168, 140, n]), 7300).into(),
        data_addr: IpAddr::from([192, 168, 140, n]),
        public_key: [n; 32],
        version: "0.1.0".to_owned(),
        feature_level: FEATURE_LEVEL,
        raft_id: (n == 1).then_some(RaftId(1)),
        attempt: 1000 + u64::from(n),
        voter_only: false,
        token: None,
        replaces: String::new(),
    }
}

fn network(outcome: Outcome) -> Network {
    match outcome {
        Outcome::Network(network) => network,
        other => panic!("{other:?}"),
    }
}

fn endpoint(outcome: Outcome) -> Endpoint {
    match outcome {
        Outcome::Endpoint(endpoint) => endpoint,
        other => panic!("{other:?}"),
    }
}

fn stray(endpoint: &Endpoint) -> Stray {
    Stray::Endpoint(endpoint.id, endpoint.epoch, endpoint.engine_id.clone())
}

fn known_container(name: &str) -> EngineContainer {
    EngineContainer { id: format!("{name}-id"), name: name.to_owned(), fixed: false }
}

/// A network that the engine has of the cluster's.
fn of_cluster(id: &str, network: &Network) -> SeenNetwork {
    SeenNetwork { made_for: Some(network.id), cluster: Some(CLUSTER), ..own(id, &network.name) }
}

/// A network that the engine has made with our driver.
fn own(id: &str, name: &str) -> SeenNetwork {
    SeenNetwork { ours: true, ..foreign(id, name) }
}

fn foreign(id: &str, name: &str) -> SeenNetwork {
    SeenNetwork { id: id.to_owned(), name: name.to_owned(), ..SeenNetwork::default() }
}

/// A container on networks: the engine's ids of the network and of the endpoint.
fn container(name: &str, on: &[(&str, &str)]) -> SeenContainer {
    let attachment = |&(network, endpoint): &(&str, &str)| SeenAttachment {
        fixed: false,
        network: network.to_owned(),
        name: String::new(),
        endpoint: endpoint.to_owned(),
        aliases: Vec::new(),
    };
    let (id, stopped) = (format!("{name}-id"), on.iter().all(|(_, endpoint)| endpoint.is_empty()));
    let attachments = on.iter().map(attachment).collect();
    SeenContainer { id, name: name.to_owned(), stopped, attachments, ports: Vec::new() }
}

/// Steps, then problems.
fn texts(plan: &EnginePlan) -> Vec<String> {
    plan.steps.iter().map(ToString::to_string).chain(plan.problems.iter().cloned()).collect()
}

#[test]
fn a_network_that_the_engine_lacks_is_made() {
    let mut world = World::new();
    let web = world.network("web");
    let others = vec![foreign("b", "bridge"), foreign("h", "host")];
    assert_eq!(world.planned(others.clone(), vec![]).steps, [Step::Create(web.clone())]);
    world.reported(world.other, &web, "x", &[]);
    assert_eq!(world.planned(others, vec![]).steps, [Step::Create(web.clone())], "the other node's engine has it");
    world.reported(world.me, &web, "w", &[]);
    assert_eq!(world.planned(vec![of_cluster("w", &web)], vec![]), EnginePlan::default(), "it is there");
}

#[test]
fn a_network_that_the_engine_has_made_is_named() {
    let mut world = World::new();
    let made = world.made(world.me, "abc").unwrap();
    let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
    let seen = SeenNetwork { labels: labels.clone(), ..own("abc", "web") };
    let named = Step::Name { network: made.id, id: "abc".to_owned(), name: "web".to_owned(), labels };
    assert_eq!(world.planned(vec![seen], vec![]).steps, [named]);
    // Another node's, and one that the engine has not finished.
    world.made(world.other, "def").unwrap();
    let plan = world.planned(vec![], vec![]);
    assert_eq!((plan.steps, plan.strays), (vec![], [Stray::Network(made.id)].into()));
}

#[test]
fn the_loser_of_a_name_is_told_so_before_the_winner_is_made() {
    let mut world = World::new();
    let early = world.made(world.other, "def").unwrap();
    let late = world.made(world.me, "abc").unwrap();
    world.ok(Command::NameNetwork { network: early.id, name: "web".to_owned(), labels: Labels::default() });
    let plan = world.planned(vec![own("abc", "web")], vec![]);
    let named =
        Step::Name { network: late.id, id: "abc".to_owned(), name: "web".to_owned(), labels: Labels::default() };
    assert_eq!(plan.steps, [named], "the cluster refuses it, and then it is removed");
    let refused =
        world.apply(Command::NameNetwork { network: late.id, name: "web".to_owned(), labels: Labels::default() });
    assert_eq!(refused.unwrap_err().reason, Reason::NetworkNameTaken);
    world.ok(Command::RemoveNetwork { network: late.id });
    assert_eq!(texts(&world.planned(vec![], vec![])), ["make network web in the engine"]);
}

#[test]
fn a_foreign_network_of_the_same_name_is_a_problem_and_stays() {
    let mut world = World::new();
    world.network("web");
    let db = world.network("db");
    let plan = world.planned(vec![foreign("f", "web")], vec![]);
    assert_eq!(plan.steps, [Step::Create(db)], "the others are made all the same");
    let [problem] = plan.problems.as_slice() else { panic!("{:?}", plan.problems) };
    assert!(["web", "of its own", "remove or rename"].iter().all(|words| problem.contains(words)), "{problem}");
}

#[test]
fn an_orphan_is_removed_unless_a_container_is_on_it() {
    let mut world = World::new();
    let gone = world.network("gone");
    world.ok(Command::RemoveNetwork { network: gone.id });
    let remove = |cluster| Step::Remove { id: "g".to_owned(), name: "gone".to_owned(), cluster };
    for orphan in [of_cluster("g", &gone), own("g", "gone")] {
        let others = vec![foreign("f", "mine"), orphan.clone()];
        let elsewhere = vec![container("c", &[("f", "")])];
        assert_eq!(world.planned(others.clone(), elsewhere).steps, [remove(orphan.cluster)]);
        for on in [("g", ""), ("g", "c-ep")] {
            let plan = world.planned(others.clone(), vec![container("c1", &[on])]);
            assert_eq!(plan.steps, [], "{on:?}");
            let [problem] = plan.problems.as_slice() else { panic!("{:?}", plan.problems) };
            assert!(["gone", "c1", "remove"].iter().all(|words| problem.contains(words)), "{problem}");
        }
    }
    // First it goes, and then the one of the same name comes.
    let again = world.network("gone");
    assert_eq!(world.planned(vec![of_cluster("g", &gone)], vec![]).steps, [remove(Some(CLUSTER)), Step::Create(again)]);
}

#[test]
fn an_orphan_with_containers_keeps_its_name() {
    let mut world = World::new();
    let gone = world.network("web");
    world.ok(Command::RemoveNetwork { network: gone.id });
    world.network("web");
    let plan = world.planned(vec![of_cluster("g", &gone)], vec![container("c1", &[("g", "")])]);
    assert_eq!((plan.steps, plan.problems.len()), (vec![], 1), "an engine has a name once");
}

/// A user can say `-o pontoon.network=ID`, too.
#[test]
fn a_second_network_for_the_same_one_of_the_cluster_is_an_orphan() {
    let mut world = World::new();
    let web = world.network("web");
    let second = SeenNetwork { name: "second".to_owned(), ..of_cluster("s", &web) };
    let both = vec![second.clone(), of_cluster("w", &web)];
    world.reported(world.me, &web, "s", &[]);
    let report = |id: &str| {
        Step::Report(EngineNetwork { network: web.id, node: world.me, id: id.to_owned(), containers: vec![] })
    };
    assert_eq!(world.planned(both.clone(), vec![]).steps, [report("w")], "the right one is told first");
    let alone = world.planned(vec![second], vec![]);
    assert_eq!((alone.steps, alone.strays), (vec![], [Stray::Lost(web.id)].into()));
    world.reported(world.me, &web, "w", &[]);
    let removed = format!("remove network second from the engine, which was made for cluster {CLUSTER}");
    assert_eq!(texts(&world.planned(both, vec![])), [removed]);
}

#[test]
fn a_network_that_the_engine_has_lost_is_made_again() {
    let mut world = World::new();
    let web = world.network("web");
    world.reported(world.me, &web, "w", &["c1"]);
    // Its user may just be removing it: the engine does not list it then, and has not said so yet.
    let plan = world.planned(vec![], vec![]);
    assert_eq!((plan.steps, plan.strays), (vec![], [Stray::Lost(web.id)].into()));
    // Somebody has made it again while this daemon did not look.
    let made = EngineNetwork { network: web.id, node: world.me, id: "v".to_owned(), containers: vec![] };
    assert_eq!(world.planned(vec![of_cluster("v", &web)], vec![]).steps, [Step::Report(made)]);
    world.ok(gone(web.id, world.me));
    assert_eq!(world.planned(vec![], vec![]).steps, [Step::Create(web)]);
}

#[test]
fn the_containers_of_a_network_are_reported() {
    let mut world = World::new();
    let web = world.network("web");
    world.reported(world.me, &web, "w", &[]);
    let seen = vec![of_cluster("w", &web), foreign("f", "mine")];
    let containers = vec![
        container("c2", &[("w", "")]),
        container("c1", &[("f", "x"), ("w", "c1-ep")]),
        container("c3", &[("f", "y")]),
    ];
    let known = |names: &[&str]| EngineNetwork {
        network: web.id,
        node: world.me,
        id: "w".to_owned(),
        containers: names.iter().map(|name| known_container(name)).collect(),
    };
    assert_eq!(world.planned(seen.clone(), containers.clone()).steps, [Step::Report(known(&["c1", "c2"]))]);
    let nobody = known(&[]);
    world.reported(world.me, &web, "w", &["c1", "c2"]);
    assert_eq!(world.planned(seen.clone(), containers).steps, []);
    assert_eq!(world.planned(seen, vec![]).steps, [Step::Report(nobody)]);
}

#[test]
fn endpoints_are_placed_renamed_and_missed() {
    let mut world = World::new();
    let web = world.network("web");
    world.reported(world.me, &web, "w", &["c1"]);
    let seen = vec![of_cluster("w", &web)];
    let lease = world.hold(world.me, web.id, None, "c1").unwrap();
    let made = world.endpoint(world.me, web.id, lease.address, "c1-ep").unwrap();
    let running = vec![container("c1", &[("w", "c1-ep")])];
    let place = |endpoint: &Endpoint, name: &str, aliases: &[&str]| Step::Place {
        endpoint: Box::new(endpoint.clone()),
        name: name.to_owned(),
        container_id: "c1-id".to_owned(),
        aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
        ports: Vec::new(),
    };
    assert_eq!(world.planned(seen.clone(), running.clone()).steps, [place(&made, "c1", &[])]);
    world.ends(&made);
    let placed = world.runs(world.me, &web, "c1");
    assert_eq!(world.planned(seen.clone(), running.clone()), EnginePlan::default());

    let renamed = SeenContainer { name: "c2".to_owned(), ..running[0].clone() };
    let plan = world.planned(seen.clone(), vec![renamed]);
    assert!(plan.steps.contains(&place(&placed, "c2", &[])), "{plan:?}");
    let mut aliased = running.clone();
    aliased[0].attachments[0].aliases = vec!["db".to_owned()];
    assert_eq!(world.planned(seen.clone(), aliased).steps, [place(&placed, "c1", &["db"])]);

    let stopped = vec![container("c1", &[("w", "")])];
    let another = vec![container("c1", &[("w", "other-ep")])];
    for containers in [stopped, another] {
        let plan = world.planned(seen.clone(), containers);
        assert_eq!((plan.steps, plan.strays), (vec![], [stray(&placed)].into()));
    }
    // Those of another node, and those that no engine has made, are not this engine's.
    world.ends(&placed);
    world.runs(world.other, &web, "c1");
    world.attached(&web, "attached");
    world.reported(world.me, &web, "w", &[]);
    assert_eq!(world.planned(seen, vec![]), EnginePlan::default());
}

#[test]
fn a_container_with_the_name_of_an_attached_one_is_listed_by_its_id() {
    let mut world = World::new();
    let web = world.network("web");
    world.reported(world.me, &web, "w", &["c1"]);
    world.attached(&web, "c1");
    let held = world.hold(world.me, web.id, None, "c1").unwrap();
    let made = world.endpoint(world.me, web.id, held.address, "0123456789abcdef").unwrap();
    let planned =
        |world: &World| world.planned(vec![of_cluster("w", &web)], vec![container("c1", &[("w", "0123456789abcdef")])]);
    let plan = planned(&world);
    assert!(plan.problems[0].contains("c1") && plan.problems[0].contains("0123456789ab"), "{:?}", plan.problems);
    let [Step::Place { name, container_id, .. }] = &plan.steps[..] else { panic!("{plan:?}") };
    assert_eq!((name.as_str(), container_id.as_str()), ("0123456789ab", "c1-id"));
    world.places(&made, name, "c1-id");
    assert_eq!(planned(&world).steps, [], "and that is all");
}

#[test]
fn an_address_that_nobody_has_taken_is_stray() {
    let mut world = World::new();
    let web = world.network("web");
    world.reported(world.me, &web, "w", &[]);
    let seen = vec![of_cluster("w", &web)];
    let held = world.hold(world.me, web.id, None, "").unwrap();
    world.hold(world.other, web.id, None, "").unwrap();
    let plan = world.planned(seen.clone(), vec![]);
    assert_eq!(plan.strays, [Stray::Address(web.id, held.address, held.epoch)].into());
    let made = world.endpoint(world.me, web.id, held.address, "c1-ep").unwrap();
    assert_eq!(world.planned(seen, vec![]).strays, [stray(&made)].into());
}

#[test]
fn the_likeliest_is_the_container_that_stopped_last() {
    let mut world = World::new();
    let web = world.network("web");
    let likeliest = |world: &World| likeliest(&world.state, world.me, web.id);
    let ran = ["c1", "c2", "c3"].map(|name| world.runs(world.me, &web, name));
    let elsewhere = world.runs(world.other, &web, "far");
    assert_eq!(likeliest(&world), None, "nothing is known of the engine");
    world.reported(world.me, &web, "w", &["c1", "c2", "c3", "new", "far"]);
    assert_eq!(likeliest(&world), None, "all of them run, and the new one has never run");
    for ended in [&ran[1], &ran[0], &elsewhere] {
        world.ends(ended);
    }
    assert_eq!(likeliest(&world).as_deref(), Some("c1"), "the other node's is none of this one");
    world.reported(world.me, &web, "w", &["c2", "c3"]);
    assert_eq!(likeliest(&world).as_deref(), Some("c2"), "the other one was removed");
    world.hold(world.me, web.id, None, "c2").unwrap();
    assert_eq!(likeliest(&world), None, "it starts already");
    assert_eq!(super::likeliest(&world.state, world.me, NetworkId(99)), None);
}
