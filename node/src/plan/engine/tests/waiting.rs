//! Tables of what waits for containers that are stopped.

use std::collections::BTreeSet;

use super::*;

/// What is known besides the state.
#[derive(Default)]
struct Known {
    ended: BTreeSet<EndpointId>,
    given_up: GivenUp,
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
    known.given_up.insert(c[0].id, c[0].epoch);
    assert_eq!(known.likeliest(&world, &web).as_deref(), Some("c2"), "rather one that is not given up");
    assert_eq!(with(&known, &c[0].addresses), Some(c[0].id), "the cluster says whether it is there");
    known.given_up.insert(c[1].id, c[1].epoch);
    assert_eq!(known.likeliest(&world, &web).as_deref(), Some("c1"));
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
    let steps = planned(&world).steps;
    assert_eq!(steps, [forget(&c[1])], "it stopped first");
    assert_eq!(steps[0].to_string(), "give up what was kept for container c2");
}

fn forget(endpoint: &Endpoint) -> Step {
    Step::Forget { endpoint: endpoint.id, epoch: endpoint.epoch, name: endpoint.name.clone() }
}

#[test]
fn what_waits_for_nobody_is_forgotten() {
    let mut world = World::new();
    let web = world.network("web");
    let c = running(&mut world, &web, &["c1", "c2"]);
    world.stops(&c[0]);
    world.stops(&c[1]);
    let own = || vec![of_cluster("w", &web)];
    let on = |name: &str, network: &str| {
        let mut on = container(name, &[(network, "")]);
        on.attachments[0].name = "web".to_owned();
        on
    };
    let forgotten = |world: &World, networks, containers| {
        let steps = world.planned(networks, containers).steps;
        steps.into_iter().filter(|step| matches!(step, Step::Forget { .. })).collect::<Vec<_>>()
    };
    assert_eq!(forgotten(&world, own(), vec![on("c1", "w"), on("c2", "w")]), []);
    assert_eq!(forgotten(&world, own(), vec![on("c2", "w")]), [forget(&c[0])], "its container was removed");
    let elsewhere = vec![foreign("x", "other")];
    let networks = || own().into_iter().chain(elsewhere.clone()).collect();
    assert_eq!(
        forgotten(&world, networks(), vec![on("c1", "x"), on("c2", "w")]),
        [forget(&c[0])],
        "it is not on it any more"
    );
    // The network was removed under them, and comes back.
    assert_eq!(forgotten(&world, vec![], vec![on("c1", "w"), on("c2", "w")]), []);
    // Another one has its container, as has one that stopped later.
    let held = world.hold(world.me, web.id, None, "").unwrap();
    let made = world.endpoint(world.me, web.id, held.address, "again").unwrap();
    let there = || vec![container("c1", &[("w", "again")]), on("c2", "w")];
    assert_eq!(forgotten(&world, own(), there()), [], "the cluster does not know yet whose it is");
    world.places(&made, "c1", "c1-id");
    let nobodys = world.state.endpoints[&c[0].id].clone();
    assert_eq!(forgotten(&world, own(), there()), [forget(&nobodys)]);
}
