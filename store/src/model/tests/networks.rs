use crate::model::command::{Command, CreateNetwork, ReportNode, WantedSubnet};
use crate::model::id::{NetworkId, Vni};
use crate::model::object::{LeaseState, NodeState, Route};
use crate::model::rejection::Reason;

use super::{World, ip, named, on, report, settings, with_subnets};

fn create(wanted: CreateNetwork) -> Command {
    Command::CreateNetwork(wanted)
}

#[test]
fn the_first_network_gets_the_first_subnet_and_vni() {
    let (mut world, web) = World::with_network();
    assert_eq!(web.subnets[0].cidr, "10.0.0.0/24".parse().unwrap());
    assert_eq!(web.subnets[0].gateway, ip("10.0.0.1"));
    assert_eq!((web.vni.get(), web.mtu, web.created_ms), (65_536, 1450, world.now_ms));
    let gateway = &world.state.leases[&(web.id, ip("10.0.0.1"))];
    assert_eq!((gateway.state, gateway.name.as_str()), (LeaseState::Reserved, "gateway"));
    let second = world.network(CreateNetwork { ipv6: true, ..named("db") });
    assert_eq!(second.subnets[0].cidr, "10.0.1.0/24".parse().unwrap());
    assert_eq!(second.subnets[1].cidr, "fd12:3456:789a::/64".parse().unwrap());
    assert_eq!(second.subnets[1].gateway, ip("fd12:3456:789a::1"));
    assert_eq!(second.vni.get(), 65_537);
    world.ok(Command::RemoveNetwork { network: web.id });
    assert_eq!(world.network(named("again")).subnets[0].cidr, "10.0.0.0/24".parse().unwrap());
}

#[test]
fn a_name_must_be_one() {
    let mut world = World::founded();
    let long = "x".repeat(300);
    for (name, told) in [
        ("", "it is empty"),
        (long.as_str(), "300 bytes"),
        ("a b", "' ' is not allowed"),
        ("a\u{7}", "'\\u{7}' is not allowed"),
        ("-a", "begin with a letter or digit"),
        ("grün", "'ü'"),
    ] {
        world.refused(create(named(name)), Reason::InvalidName, &["network", told, "1 to 63"]);
    }
    world.network(named(&"x".repeat(63)));
    world.network(named("web"));
    world.refused(create(named("web")), Reason::NetworkNameTaken, &["web"]);
}

#[test]
fn a_subnet_must_have_room_and_be_a_networks() {
    let mut world = World::founded();
    for (cidr, told) in [
        ("10.0.0.5/24", ["has host bits set", "use 10.0.0.0/24"]),
        ("10.0.0.4/31", ["/31 has no room", "use 10.0.0.4/30"]),
        ("10.0.0.5/32", ["/32 has no room", "use 10.0.0.4/30"]),
        ("fd00::4/127", ["/127 has no room", "use fd00::4/126"]),
        ("fd00::4/128", ["/128 has no room", "use fd00::4/126"]),
        ("10.0.0.0/7", ["/7 is too large", "/8 to /30"]),
        ("fd00::/31", ["/31 is too large", "/32 to /126"]),
        ("224.1.0.0/16", ["224.0.0.0/4 is multicast", "private range"]),
        ("127.0.5.0/24", ["127.0.0.0/8 is loopback", "private range"]),
        ("169.254.0.0/24", ["169.254.0.0/16 is link-local", "private range"]),
        ("0.0.0.0/8", ["0.0.0.0/8 is", "private range"]),
        ("255.255.255.0/24", ["240.0.0.0/4 is reserved", "private range"]),
        ("fe80::/64", ["fe80::/10 is link-local", "private range"]),
        ("ff02::/64", ["ff00::/8 is multicast", "private range"]),
        ("::/64", ["unspecified", "private range"]),
    ] {
        let wanted = CreateNetwork { ipv6: true, ..with_subnets("web", &[cidr]) };
        world.refused(create(wanted), Reason::InvalidSubnet, &[cidr, told[0], told[1]]);
    }
    let two = with_subnets("web", &["10.1.0.0/24", "10.2.0.0/24"]);
    world.refused(create(two), Reason::InvalidSubnet, &["two IPv4", "10.1.0.0/24", "10.2.0.0/24"]);
    let mixed = with_subnets("web", &["10.1.0.0/24", "fd00:1::/64"]);
    world.refused(create(mixed.clone()), Reason::InvalidSubnet, &["fd00:1::/64", "--ipv6"]);
    let network = world.network(CreateNetwork { ipv6: true, ..mixed });
    assert_eq!(network.subnets.len(), 2);
    world.network(with_subnets("small", &["10.9.0.0/30"]));
}

#[test]
fn gateway_range_and_reservations_must_be_in_the_subnet() {
    let mut world = World::founded();
    let subnet = |gateway: Option<&str>, range: Option<&str>| WantedSubnet {
        gateway: gateway.map(ip),
        ip_range: range.map(|range| range.parse().unwrap()),
        ..on("10.1.0.0/24")
    };
    let with = |subnet| create(CreateNetwork { subnets: vec![subnet], ..named("web") });
    for gateway in ["10.2.0.1", "10.1.0.0", "10.1.0.255", "fd00::1"] {
        let texts = [gateway, "10.1.0.0/24", "such as 10.1.0.1"];
        world.refused(with(subnet(Some(gateway), None)), Reason::InvalidGateway, &texts);
    }
    for (range, told) in [
        ("10.2.0.0/25", "not part"),
        ("10.1.0.9/25", "use 10.1.0.0/25"),
        ("10.0.0.0/8", "not part"),
        ("10.1.0.0/32", "no host address"),
        ("fd00::/64", "not part"),
    ] {
        world.refused(with(subnet(None, Some(range))), Reason::InvalidRange, &[range, "10.1.0.0/24", told]);
    }
    let keep = |pairs: &[(&str, &str)]| {
        let reservations = pairs.iter().map(|(name, address)| ((*name).to_owned(), ip(address))).collect();
        create(CreateNetwork { reservations, ..with_subnets("web", &["10.1.0.0/24"]) })
    };
    type Case = (&'static [(&'static str, &'static str)], Reason, &'static str);
    let cases: [Case; 7] = [
        (&[("a", "10.2.0.9")], Reason::InvalidAddress, "10.2.0.9"),
        (&[("a", "10.1.0.0")], Reason::InvalidAddress, "10.1.0.0"),
        (&[("a", "10.1.0.255")], Reason::InvalidAddress, "10.1.0.255"),
        (&[("a", "10.1.0.1")], Reason::AddressReserved, "gateway"),
        (&[("a", "10.1.0.9"), ("b", "10.1.0.9")], Reason::AddressReserved, "kept for b"),
        (&[("a", "10.1.0.9"), ("a", "10.1.0.8")], Reason::AddressReserved, "kept for a"),
        (&[("a b", "10.1.0.9")], Reason::InvalidName, "a b"),
    ];
    for (pairs, reason, told) in cases {
        world.refused(keep(pairs), reason, &[told]);
    }
    let network = world
        .network(CreateNetwork { subnets: vec![subnet(Some("10.1.0.254"), Some("10.1.0.128/25"))], ..named("web") });
    assert_eq!(network.subnets[0].gateway, ip("10.1.0.254"));
}

#[test]
fn overlaps_name_both_sides() {
    let (mut world, _web) = World::with_network();
    let overlaps = with_subnets("db", &["10.0.0.128/25"]);
    let texts = ["10.0.0.128/25", "db", "10.0.0.0/24", "web"];
    world.refused(create(overlaps.clone()), Reason::SubnetOverlap, &texts);
    let forced = CreateNetwork { force: true, ..overlaps };
    world.refused(create(forced), Reason::SubnetOverlap, &["web"]);

    let on_route = with_subnets("db", &["172.17.5.0/24"]);
    let texts = ["172.17.5.0/24", "db", "172.17.0.0/16", "docker0", "n1", "--force"];
    world.refused(create(on_route.clone()), Reason::RouteOverlap, &texts);
    let on_bridge = with_subnets("db", &["172.18.5.0/24"]);
    world.refused(create(on_bridge), Reason::RouteOverlap, &["172.18.0.0/16", "gateway bridge", "n1"]);
    world.network(CreateNetwork { force: true, ..on_route });

    let on_vtep = CreateNetwork { force: true, ..with_subnets("vtep", &["192.168.140.0/24"]) };
    let texts = ["192.168.140.0/24", "vtep", "192.168.140.1", "n1"];
    world.refused(create(on_vtep), Reason::InvalidSubnet, &texts);
}

#[test]
fn routes_of_nodes_that_are_down_do_not_count() {
    let (mut world, _web) = World::with_network();
    for n in 1..=3 {
        let node = world.node(n).id;
        world.ok(Command::SetNodeState { node, state: NodeState::Down });
    }
    world.network(with_subnets("db", &["172.17.5.0/24"]));
}

#[test]
fn chosen_subnets_avoid_routes() {
    let (mut world, _web) = World::with_network();
    let node = world.node(2).id;
    let mut reported = report(node);
    let route = |cidr: &str| Route { destination: cidr.parse().unwrap(), device: "tun0".to_owned() };
    reported.routes = vec![route("10.0.1.7/32"), route("10.0.2.0/23"), route("10.0.5.0/30")];
    world.ok(Command::ReportNode(reported.clone()));
    assert_eq!(world.network(named("db")).subnets[0].cidr, "10.0.4.0/24".parse().unwrap());
    assert_eq!(world.network(named("dc")).subnets[0].cidr, "10.0.6.0/24".parse().unwrap());
    reported.routes = vec![route("10.0.0.0/8")];
    world.ok(Command::ReportNode(reported));
    let texts = ["dd", "10.0.0.0/8 in /24s", "10.0.0.0/8 by tun0 of node n2", "--subnet"];
    world.refused(create(named("dd")), Reason::PoolExhausted, &texts);
    let forced = world.network(CreateNetwork { force: true, ..named("dd") });
    assert_eq!(forced.subnets[0].cidr, "10.0.1.0/24".parse().unwrap());
}

#[test]
fn pools_are_used_in_order_until_they_are_exhausted() {
    let mut world = World::new();
    let mut cluster = settings();
    let pool = |cidr: &str, prefix| crate::model::object::Pool { cidr: cidr.parse().unwrap(), prefix };
    cluster.pools = vec![pool("10.9.0.0/30", 30), pool("10.8.0.0/29", 30)];
    world.ok(Command::FoundCluster { cluster, node: super::admission(1), sealed_key: Vec::new() });
    let cidrs = ["a", "b", "c"].map(|name| world.network(named(name)).subnets[0].cidr.to_string());
    assert_eq!(cidrs, ["10.9.0.0/30", "10.8.0.0/30", "10.8.0.4/30"]);
    let rejection = world.refused(create(named("d")), Reason::PoolExhausted, &["10.9.0.0/30", "10.8.0.0/29"]);
    assert!(!rejection.message.contains("routes in the way"));
}

#[test]
fn mtu_fits_the_narrowest_ready_node() {
    let (mut world, _web) = World::with_network();
    let node = world.node(2).id;
    world.ok(Command::ReportNode(ReportNode { underlay_mtu: 1400, ..report(node) }));
    assert_eq!(world.network(named("db")).mtu, 1350);
    let given = |mtu, ipv6| create(CreateNetwork { mtu: Some(mtu), ipv6, ..named("given") });
    world.refused(given(1351, false), Reason::InvalidMtu, &["1351", "n2", "1400", "1350"]);
    world.refused(given(575, false), Reason::InvalidMtu, &["575", "576 to 1350"]);
    world.refused(given(1279, true), Reason::InvalidMtu, &["1279", "1280 to 1350"]);
    world.ok(Command::ReportNode(ReportNode { underlay_mtu: 600, ..report(node) }));
    world.refused(create(named("none")), Reason::InvalidMtu, &["550", "n2", "600", "raise"]);
    world.ok(Command::SetNodeState { node, state: NodeState::Down });
    assert_eq!(world.network(named("none")).mtu, 1450);

    let mut alone = World::founded();
    let given = |mtu| create(CreateNetwork { mtu: Some(mtu), ..named("given") });
    alone.refused(given(65_486), Reason::InvalidMtu, &["65486", "576 to 65485"]);
    alone.ok(given(9000));
    assert_eq!(alone.network(named("usual")).mtu, 1450);
}

#[test]
fn a_vni_is_one_networks() {
    let (mut world, web) = World::with_network();
    let with = |name, vni| CreateNetwork { vni: Vni::new(vni), ..named(name) };
    world.refused(create(with("db", web.vni.get())), Reason::VniTaken, &["db", "65536", "web"]);
    assert_eq!(world.network(with("db", 65_537)).vni.get(), 65_537);
    assert_eq!(world.network(with("dc", 5)).vni.get(), 5);
    assert_eq!(world.network(named("dd")).vni.get(), 65_538);
}

#[test]
fn labels_are_bounded() {
    let mut world = World::founded();
    let many = (0..65).map(|n| (n.to_string(), String::new())).collect();
    let one = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    for (labels, told) in [
        (many, "65 labels"),
        (one("", "x"), "key of a label of network web"),
        (one("a=b", "x"), "\"a=b\""),
        (one("a", &"x".repeat(513)), "\"a\""),
        (one("a", "\n"), "\"a\""),
    ] {
        world.refused(create(CreateNetwork { labels, ..named("web") }), Reason::InvalidLabel, &[told]);
    }
}

#[test]
fn a_network_in_use_stays() {
    let (mut world, web) = World::with_network();
    let first = world.endpoint(world.container(&web, 1, "c1"));
    let second = world.endpoint(world.container(&web, 2, "c2"));
    let remove = Command::RemoveNetwork { network: web.id };
    let texts = ["web", "2 containers", "c1 on node n1 (10.0.0.2)", "c2 on node n2 (10.0.0.3)"];
    world.refused(remove.clone(), Reason::NetworkInUse, &texts);
    world.remove(&first);
    world.remove(&second);
    world.ok(remove.clone());
    assert_eq!(world.state.leases.len(), 0);
    world.refused(remove, Reason::NetworkNotFound, &[&web.id.to_string()]);
    world.refused(Command::RemoveNetwork { network: NetworkId(99) }, Reason::NetworkNotFound, &["99"]);
}
