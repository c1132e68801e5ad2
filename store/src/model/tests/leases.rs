use crate::model::command::{Command, CreateEndpoint, CreateNetwork, WantedSubnet};
use crate::model::object::{Lease, LeaseState, Network};
use crate::model::rejection::Reason;

use super::{World, ip, named, on, with_subnets};

fn asking(world: &World, network: &Network, n: u8, name: &str, address: &str) -> CreateEndpoint {
    CreateEndpoint { addresses: vec![ip(address)], ..world.container(network, n, name) }
}

#[test]
fn an_address_asked_for_must_be_free_and_a_hosts() {
    let (mut world, web) = World::with_network();
    world.endpoint(asking(&world, &web, 1, "c1", "10.0.0.9"));
    for (address, reason, texts) in [
        ("10.0.0.0", Reason::InvalidAddress, ["network address", "10.0.0.0/24"]),
        ("10.0.0.255", Reason::InvalidAddress, ["broadcast address", "10.0.0.0/24"]),
        ("10.0.1.5", Reason::InvalidAddress, ["is not in", "10.0.0.0/24"]),
        ("fd00::5", Reason::InvalidAddress, ["is not in", "10.0.0.0/24"]),
        ("10.0.0.1", Reason::AddressReserved, ["kept for gateway", "web"]),
        ("10.0.0.9", Reason::AddressTaken, ["c1 on n1 has it", "web"]),
    ] {
        let command = Command::CreateEndpoint(asking(&world, &web, 2, "c2", address));
        world.refused(command, reason, &[address, "c2", texts[0], texts[1]]);
    }
    let two = vec![ip("10.0.0.7"), ip("10.0.0.8")];
    let command = CreateEndpoint { addresses: two, ..world.container(&web, 2, "c2") };
    world.refused(Command::CreateEndpoint(command), Reason::InvalidAddress, &["10.0.0.7", "10.0.0.8"]);
}

#[test]
fn a_released_address_cools_for_everybody_else() {
    let (mut world, web) = World::with_network();
    let c1 = world.endpoint(world.container(&web, 1, "c1"));
    world.now_ms += 10;
    world.remove(&c1);
    let until_ms = world.now_ms + Lease::COOLING_MS;
    let lease = world.state.leases[&(web.id, ip("10.0.0.2"))].clone();
    assert_eq!((lease.state, lease.endpoint), (LeaseState::Cooling { until_ms }, None));
    assert_eq!((lease.previous[0].name.as_str(), lease.previous[0].to_ms), ("c1", world.now_ms));
    assert_eq!(lease.previous[0].from_ms, world.now_ms - 10);

    let c2 = world.endpoint(world.container(&web, 1, "c2"));
    assert_eq!(c2.addresses, [ip("10.0.0.3")]);
    world.now_ms += Lease::COOLING_MS - 1;
    let asked = Command::CreateEndpoint(asking(&world, &web, 2, "c1", "10.0.0.2"));
    world.refused(asked.clone(), Reason::AddressTaken, &["10.0.0.2", "c1 on n1 released it", "free in 1 s"]);
    world.now_ms += 1;
    world.ok(asked);
    let lease = &world.state.leases[&(web.id, ip("10.0.0.2"))];
    assert!(lease.epoch > c1.epoch);
    assert_eq!(lease.previous[0].name, "c1", "who had it before is still told");
}

#[test]
fn a_clock_that_goes_back_ends_no_cooling() {
    let (mut world, web) = World::with_network();
    let c1 = world.endpoint(world.container(&web, 1, "c1"));
    world.remove(&c1);
    let clock_ms = world.state.clock_ms;
    world.now_ms -= 3_600_000;
    assert_eq!(world.endpoint(world.container(&web, 1, "c2")).addresses, [ip("10.0.0.3")]);
    assert_eq!(world.state.clock_ms, clock_ms);
}

#[test]
fn a_container_that_comes_back_gets_its_address() {
    let (mut world, web) = World::with_network();
    for later_ms in [0, 1000, Lease::COOLING_MS, 1_000_000_000] {
        let c1 = world.endpoint(asking(&world, &web, 1, "c1", "10.0.0.77"));
        world.remove(&c1);
        world.now_ms += later_ms;
        let again = world.endpoint(world.container(&web, 1, "c1"));
        assert_eq!(again.addresses, [ip("10.0.0.77")]);
        assert_ne!(again.epoch, c1.epoch);
        world.remove(&again);
    }
    let elsewhere = world.endpoint(world.container(&web, 2, "c1"));
    assert_eq!(elsewhere.addresses, [ip("10.0.0.2")], "on another node it is another container");
    world.now_ms += Lease::COOLING_MS;
    world.endpoint(asking(&world, &web, 2, "thief", "10.0.0.77"));
    assert_eq!(world.endpoint(world.container(&web, 1, "c1")).addresses, [ip("10.0.0.3")]);
}

#[test]
fn the_latest_of_several_addresses_comes_back() {
    let (mut world, web) = World::with_network();
    for address in ["10.0.0.50", "10.0.0.40"] {
        let c1 = world.endpoint(asking(&world, &web, 1, "c1", address));
        world.now_ms += 1;
        world.remove(&c1);
    }
    assert_eq!(world.endpoint(world.container(&web, 1, "c1")).addresses, [ip("10.0.0.40")]);
}

#[test]
fn past_holders_are_few() {
    let (mut world, web) = World::with_network();
    for n in 0..7 {
        let c = world.endpoint(asking(&world, &web, 1, &format!("c{n}"), "10.0.0.9"));
        world.remove(&c);
        world.now_ms += Lease::COOLING_MS;
    }
    let names = |lease: &Lease| lease.previous.iter().map(|past| past.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&world.state.leases[&(web.id, ip("10.0.0.9"))]), ["c6", "c5", "c4", "c3"]);
}

#[test]
fn a_kept_address_is_its_names() {
    let (mut world, _web) = World::with_network();
    let reservations = vec![("c1".to_owned(), ip("10.5.0.2")), ("gateway".to_owned(), ip("10.5.0.3"))];
    let net = world.network(CreateNetwork { reservations, ..with_subnets("kept", &["10.5.0.0/24"]) });
    assert_eq!(world.endpoint(world.container(&net, 1, "other")).addresses, [ip("10.5.0.4")]);
    let thief = Command::CreateEndpoint(asking(&world, &net, 1, "thief", "10.5.0.2"));
    world.refused(thief.clone(), Reason::AddressReserved, &["thief", "10.5.0.2", "kept for c1"]);
    let c1 = world.endpoint(world.container(&net, 1, "c1"));
    assert_eq!(c1.addresses, [ip("10.5.0.2")]);
    world.refused(thief.clone(), Reason::AddressTaken, &["c1 on n1 has it"]);
    assert_eq!(world.endpoint(world.container(&net, 2, "c1")).addresses, [ip("10.5.0.5")]);
    assert_eq!(world.endpoint(world.container(&net, 1, "gateway")).addresses, [ip("10.5.0.3")]);
    world.remove(&c1);
    let lease = &world.state.leases[&(net.id, ip("10.5.0.2"))];
    assert_eq!((lease.state, lease.name.as_str(), lease.node), (LeaseState::Reserved, "c1", None));
    assert_eq!(lease.previous[0].name, "c1");
    world.refused(thief, Reason::AddressReserved, &["kept for c1"]);
    assert_eq!(world.endpoint(asking(&world, &net, 3, "c1", "10.5.0.2")).addresses, [ip("10.5.0.2")]);
}

#[test]
fn a_full_network_counts_its_leases() {
    let (mut world, _web) = World::with_network();
    let reservations = vec![("kept".to_owned(), ip("10.5.0.3"))];
    let net = world.network(CreateNetwork { reservations, ..with_subnets("tiny", &["10.5.0.0/29"]) });
    let ends: Vec<_> = (1..=4).map(|n| world.endpoint(world.container(&net, 1, &format!("c{n}")))).collect();
    world.ok(Command::ActivateEndpoint { endpoint: ends[0].id, epoch: ends[0].epoch });
    world.ok(Command::ActivateEndpoint { endpoint: ends[1].id, epoch: ends[1].epoch });
    world.remove(&ends[1]);
    world.now_ms += 20_000;
    let more = Command::CreateEndpoint(world.container(&net, 1, "more"));
    let counts = "1 active, 2 pending, 1 cooling, 2 reserved";
    world.refused(more.clone(), Reason::NetworkFull, &["tiny", "10.5.0.0/29", "more", counts, "in 40 s"]);
    world.now_ms += 40_000;
    world.ok(more);
    let last = Command::CreateEndpoint(world.container(&net, 1, "last"));
    world.refused(last, Reason::NetworkFull, &["1 active, 3 pending, 0 cooling, 2 reserved", "detach"]);
}

#[test]
fn a_range_is_handed_out_and_no_more() {
    let (mut world, _web) = World::with_network();
    let subnet = WantedSubnet { ip_range: Some("10.5.0.128/30".parse().unwrap()), ..on("10.5.0.0/24") };
    let net = world.network(CreateNetwork { subnets: vec![subnet], ..named("range") });
    let first = world.endpoint(world.container(&net, 1, "c0"));
    assert_eq!(first.addresses, [ip("10.5.0.128")]);
    (1..4).for_each(|n| drop(world.endpoint(world.container(&net, 1, &format!("c{n}")))));
    let more = Command::CreateEndpoint(world.container(&net, 1, "more"));
    world.refused(more, Reason::NetworkFull, &["10.5.0.128/30", "4 pending"]);
    world.endpoint(asking(&world, &net, 1, "asked", "10.5.0.7"));
}
