//! Tables of what waits for containers that are stopped.

use std::collections::BTreeSet;

use super::*;

/// What is known besides the state.
#[derive(Default)]
struct Known {
    ended: BTreeSet<EndpointId>,
    given_up: BTreeSet<EndpointId>,
    handed: BTreeSet<(NetworkId, IpAddr)>,
}

impl Known {
    fn waiting<'a>(&'a self, world: &'a World) -> Waiting<'a> {
        let Self { ended, given_up, handed } = self;
        Waiting { state: &world.state, me: world.me, ended, given_up, handed }
    }

    /// Name of the container whose endpoint an engine gets that says nothing.
    fn likeliest(&self, world: &World, network: &Network) -> Option<String> {
        self.waiting(world).likeliest(network.id, Family::V4).map(|endpoint| endpoint.name.clone())
    }
}

/// Containers on this node, all running, and that the engine has told of.
fn running(world: &mut World, network: &Network, names: &[&str]) -> Vec<Endpoint> {
    world.reported(world.me, network, "w", names);
    names.iter().map(|name| world.runs(world.me, network, name)).collect()
}

#[test]
fn an_endpoint_waits_for_its_container() {
    let mut world = World::new();
    let (web, mut known) = (world.network("web"), Known::default());
    let c = running(&mut world, &web, &["c1", "c2", "c3"]);
    assert_eq!(known.likeliest(&world, &web), None, "all of them run");
    world.stops(&c[1]);
    world.stops(&c[0]);
    assert_eq!(known.likeliest(&world, &web).as_deref(), Some("c1"), "it stopped last");
    let named = |known: &Known, name: &str| known.waiting(&world).of_container(web.id, name).map(|e| e.id);
    assert_eq!((named(&known, "c2"), named(&known, "c3")), (Some(c[1].id), None));
    let with =
        |known: &Known, addresses: &[IpAddr]| known.waiting(&world).with_addresses(web.id, addresses).map(|e| e.id);
    assert_eq!(with(&known, &c[1].addresses), Some(c[1].id));
    assert_eq!((with(&known, &c[2].addresses), with(&known, &[])), (None, None));
    known.ended.insert(c[2].id);
    assert_eq!(
        known.likeliest(&world, &web).as_deref(),
        Some("c3"),
        "the cluster does not know yet that it has stopped"
    );
    known.handed.extend(c[2].addresses.iter().map(|address| (web.id, *address)));
    known.given_up.insert(c[0].id);
    assert_eq!(
        known.likeliest(&world, &web).as_deref(),
        Some("c2"),
        "of one container each, and none that is given up"
    );
    assert_eq!(with(&known, &c[0].addresses), None);
}

#[test]
fn nobody_is_guessed_to_start_on_an_address_given_by_number() {
    let mut world = World::new();
    let (web, known) = (world.network("web"), Known::default());
    let c = running(&mut world, &web, &["c1", "c2"]);
    world.stops(&c[1]);
    world.stops(&c[0]);
    let container = |name: &str, fixed| EngineContainer { fixed, ..known_container(name) };
    let containers = vec![container("c1", true), container("c2", false)];
    world.ok(Command::ReportEngineNetwork(EngineNetwork {
        network: web.id,
        node: world.me,
        id: "w".into(),
        containers,
    }));
    assert_eq!(known.likeliest(&world, &web).as_deref(), Some("c2"));
    assert!(known.waiting(&world).with_addresses(web.id, &c[0].addresses).is_some());
}

#[test]
fn the_two_addresses_of_one_start_are_one_endpoints() {
    let mut world = World::new();
    let wanted = CreateNetwork { name: "web".to_owned(), ipv6: true, ..CreateNetwork::default() };
    let web = network(world.ok(Command::CreateNetwork(wanted)));
    let c = running(&mut world, &web, &["c1", "c2"]);
    world.stops(&c[1]);
    world.stops(&c[0]);
    let mut known = Known::default();
    known.handed.insert((web.id, c[1].addresses[0]));
    let guessed = |family| known.waiting(&world).likeliest(web.id, family).map(|e| e.id);
    assert_eq!((guessed(Family::V6), guessed(Family::V4)), (Some(c[1].id), Some(c[0].id)));
}

#[test]
fn a_node_keeps_a_part_of_the_addresses() {
    let mut world = World::new();
    let subnets = vec![WantedSubnet { cidr: "10.7.0.0/28".parse().unwrap(), gateway: None, ip_range: None }];
    let web = network(world.ok(Command::CreateNetwork(CreateNetwork {
        name: "web".to_owned(),
        subnets,
        ..CreateNetwork::default()
    })));
    world.reported(world.other, &web, "w", &[]);
    let c = running(&mut world, &web, &["c1", "c2", "c3"]);
    world.stops(&c[1]);
    world.stops(&c[0]);
    let seen = || (vec![of_cluster("w", &web)], ["c1", "c2", "c3"].map(|name| container(name, &[("w", "")])).to_vec());
    let planned = |world: &World| world.planned(seen().0, seen().1);
    assert_eq!(planned(&world).steps, [], "a quarter of 16, for two engines");
    world.stops(&c[2]);
    let forget = Step::Forget { endpoint: c[1].id, epoch: c[1].epoch, name: "c2".into() };
    assert_eq!(planned(&world).steps, [forget.clone()], "the one that stopped first");
    assert_eq!(forget.to_string(), "give up the address of container c2, which is stopped");
    assert_eq!(gives_up(&world.state, world.me, &forget), [(c[1].id, c[1].epoch)]);
}

#[test]
fn what_a_step_gives_up_is_known_before() {
    let mut world = World::new();
    let (web, other) = (world.network("web"), world.network("other"));
    let c = running(&mut world, &web, &["c1", "c2", "c3"]);
    world.stops(&c[0]);
    // Its container is about to be known.
    let held = world.hold(world.me, web.id, None, "").unwrap();
    world.endpoint(world.me, web.id, held.address, "new").unwrap();
    let given_up = |step: &Step| gives_up(&world.state, world.me, step);
    let report = |network: &Network, names: &[&str]| {
        let containers = names.iter().map(|name| known_container(name)).collect();
        Step::Report(EngineNetwork { network: network.id, node: world.me, id: "w".into(), containers })
    };
    let id = |n: usize| (c[n].id, c[n].epoch);
    assert_eq!(given_up(&report(&web, &["c1", "c2", "c3"])), []);
    // Also of one that runs: it may have stopped by the time the report is applied.
    assert_eq!(given_up(&report(&web, &["c2"])), [id(0), id(2)]);
    assert_eq!(given_up(&report(&other, &[])), []);
    let place = |name: &str| Step::Place {
        endpoint: Box::new(c[1].clone()),
        name: name.to_owned(),
        container_id: format!("{name}-id"),
        aliases: Vec::new(),
        ports: Vec::new(),
    };
    assert_eq!(given_up(&place("c1")), [id(0)], "it is handed over, or ended");
    assert_eq!(given_up(&place("c3")), []);
    assert_eq!(given_up(&Step::Create(web.clone())), []);
}
