use crate::model::command::{Command, CreateEndpoint, CreateNetwork, ReportNode};
use crate::model::id::{EndpointId, Mac, NetworkId, NodeId};
use crate::model::object::{EgressInterface, EndpointState, LeaseState, Sandbox};
use crate::model::rejection::Reason;

use super::{World, ip, named, report, with_subnets};

fn create(wanted: CreateEndpoint) -> Command {
    Command::CreateEndpoint(wanted)
}

fn egress(ifname: &str, host: u32) -> Option<EgressInterface> {
    Some(EgressInterface { ifname: ifname.to_owned(), host })
}

#[test]
fn the_first_container_gets_what_the_scenario_shows() {
    let (mut world, web) = World::with_network();
    let c1 = world.endpoint(world.container(&web, 1, "c1"));
    assert_eq!(c1.addresses, [ip("10.0.0.2")]);
    assert_eq!(c1.mac.to_string(), "02:42:0a:00:00:02");
    assert_eq!((c1.ifname.as_str(), c1.egress.clone(), c1.state), ("eth0", egress("eth1", 2), EndpointState::Pending));
    let c2 = world.endpoint(world.container(&web, 2, "c2"));
    assert_eq!((c2.addresses[0], c2.egress.clone()), (ip("10.0.0.3"), egress("eth1", 2)));
    let c3 = world.endpoint(world.container(&web, 1, "c3"));
    assert_eq!(c3.egress, egress("eth1", 3));

    world.now_ms += 5;
    world.ok(Command::ActivateEndpoint { endpoint: c1.id, epoch: c1.epoch });
    let lease = &world.state.leases[&(web.id, ip("10.0.0.2"))];
    assert_eq!((lease.state, lease.endpoint, lease.since_ms), (LeaseState::Active, Some(c1.id), world.now_ms));
    assert_eq!(world.state.endpoints[&c1.id].state, EndpointState::Active);
    world.ok(Command::ActivateEndpoint { endpoint: c1.id, epoch: c1.epoch });
}

#[test]
fn both_families_get_an_address() {
    let (mut world, _web) = World::with_network();
    let dual = world.network(CreateNetwork { ipv6: true, ..named("dual") });
    let c1 = world.endpoint(world.container(&dual, 1, "c1"));
    assert_eq!(c1.addresses, [ip("10.0.1.2"), ip("fd12:3456:789a::2")]);
    let asked = CreateEndpoint { addresses: vec![ip("fd12:3456:789a::99")], ..world.container(&dual, 1, "c2") };
    assert_eq!(world.endpoint(asked).addresses, [ip("10.0.1.3"), ip("fd12:3456:789a::99")]);
    let anycast = CreateEndpoint { addresses: vec![ip("fd12:3456:789a::")], ..world.container(&dual, 1, "c3") };
    world.refused(create(anycast), Reason::InvalidAddress, &["fd12:3456:789a::", "network address"]);
}

#[test]
fn unknown_things_are_named() {
    let (mut world, web) = World::with_network();
    let good = world.container(&web, 1, "c1");
    let no_network = CreateEndpoint { network: NetworkId(99), ..good.clone() };
    world.refused(create(no_network), Reason::NetworkNotFound, &["99", "network ls"]);
    let no_node = CreateEndpoint { node: NodeId(98), ..good };
    world.refused(create(no_node), Reason::NodeNotFound, &["98", "node ls"]);
    let endpoint = EndpointId(97);
    world.refused(Command::ActivateEndpoint { endpoint, epoch: 1 }, Reason::EndpointNotFound, &["97"]);
    world.refused(Command::RemoveEndpoint { endpoint, epoch: 1 }, Reason::EndpointNotFound, &["97"]);
}

#[test]
fn texts_are_checked() {
    let (mut world, web) = World::with_network();
    let good = world.container(&web, 1, "c1");
    let sandbox = |netns: &str, key: &str| Sandbox { netns: netns.to_owned(), key: key.to_owned() };
    for (wanted, reason) in [
        (CreateEndpoint { name: String::new(), ..good.clone() }, Reason::InvalidName),
        (CreateEndpoint { name: "x".repeat(256), ..good.clone() }, Reason::InvalidName),
        (CreateEndpoint { name: "c\n".to_owned(), ..good.clone() }, Reason::InvalidName),
        (CreateEndpoint { aliases: vec!["a b".to_owned()], ..good.clone() }, Reason::InvalidName),
        (CreateEndpoint { aliases: vec!["a".to_owned(); 33], ..good.clone() }, Reason::TooLarge),
        (CreateEndpoint { container_id: "x".repeat(129), ..good.clone() }, Reason::TooLarge),
        (CreateEndpoint { sandbox: sandbox("", "k"), ..good.clone() }, Reason::InvalidName),
        (CreateEndpoint { sandbox: sandbox("/n", ""), ..good.clone() }, Reason::InvalidName),
    ] {
        world.refused(create(wanted), reason, &[]);
    }
    for ifname in ["", ".", "..", "a/b", "a b", "a:b", "abcdefghijklmnop"] {
        let wanted = CreateEndpoint { ifname: Some(ifname.to_owned()), ..good.clone() };
        world.refused(create(wanted), Reason::InvalidIfname, &[ifname, "eth0"]);
    }
    world.endpoint(CreateEndpoint { name: "x".repeat(255), ..good });
}

#[test]
fn names_and_sandboxes_are_on_a_network_once() {
    let (mut world, web) = World::with_network();
    let c1 = world.container(&web, 1, "c1");
    world.endpoint(c1.clone());
    let again = CreateEndpoint { name: "other".to_owned(), ..c1.clone() };
    world.refused(create(again), Reason::AlreadyAttached, &["/run/netns/c1", "web", "c1"]);
    let elsewhere = Sandbox { netns: "/run/netns/x".to_owned(), key: "x".to_owned() };
    let same_name = CreateEndpoint { sandbox: elsewhere, ..c1 };
    world.refused(create(same_name), Reason::EndpointNameTaken, &["c1", "web", "n1", "/run/netns/c1"]);
    world.endpoint(world.container(&web, 2, "c1"));
}

#[test]
fn macs_are_on_a_network_once() {
    let (mut world, web) = World::with_network();
    let mac: Mac = "02:42:0a:00:00:03".parse().unwrap();
    let chosen = world.endpoint(CreateEndpoint { mac: Some(mac), ..world.container(&web, 1, "c1") });
    assert_eq!((chosen.mac, chosen.addresses[0]), (mac, ip("10.0.0.2")));
    let same = CreateEndpoint { mac: Some(mac), ..world.container(&web, 2, "c2") };
    world.refused(create(same), Reason::MacTaken, &["02:42:0a:00:00:03", "web", "c1", "c2"]);
    let derived = world.endpoint(world.container(&web, 2, "c2"));
    assert_eq!((derived.addresses[0], derived.mac.to_string().as_str()), (ip("10.0.0.3"), "02:43:0a:00:00:03"));
}

#[test]
fn interfaces_of_a_sandbox_have_different_names() {
    let (mut world, web) = World::with_network();
    let [db, dc] = ["db", "dc"].map(|name| world.network(named(name)));
    let c1 = world.container(&web, 1, "c1");
    let first = world.endpoint(c1.clone());
    let on_db = CreateEndpoint { network: db.id, ..c1.clone() };
    for taken in ["eth0", "eth1"] {
        let wanted = CreateEndpoint { ifname: Some(taken.to_owned()), ..on_db.clone() };
        world.refused(create(wanted), Reason::IfnameTaken, &[taken, "c1"]);
    }
    let second = world.endpoint(on_db);
    assert_eq!((second.ifname.as_str(), second.egress.clone()), ("eth2", None));

    world.remove(&first);
    assert_eq!(world.state.endpoints[&second.id].egress, first.egress, "the way out stays as it is");
    let third = world.endpoint(CreateEndpoint { network: dc.id, ..c1 });
    assert_eq!((third.ifname.as_str(), third.egress), ("eth0", None));
    let odd = CreateEndpoint { ifname: Some("net7".to_owned()), ..world.container(&web, 1, "c2") };
    assert_eq!(world.endpoint(odd).egress, egress("eth0", 3));
}

#[test]
fn internal_networks_have_no_way_out() {
    let (mut world, web) = World::with_network();
    let inside = world.network(CreateNetwork { internal: true, ..named("inside") });
    let wanted = world.container(&inside, 1, "c1");
    let first = world.endpoint(wanted.clone());
    assert_eq!(first.egress, None);
    let second = world.endpoint(CreateEndpoint { network: web.id, ..wanted });
    assert_eq!((second.ifname.as_str(), second.egress.clone()), ("eth1", egress("eth2", 2)));
    world.remove(&second);
    assert_eq!(world.state.endpoints[&first.id].egress, None, "an internal network does not inherit it");
}

#[test]
fn a_full_gateway_bridge_is_told() {
    let (mut world, web) = World::with_network();
    let node = world.node(1).id;
    let egress_subnets = vec!["172.18.0.0/30".parse().unwrap()];
    world.ok(Command::ReportNode(ReportNode { egress_subnets, ..report(node) }));
    let first = world.endpoint(world.container(&web, 1, "c1"));
    let wanted = world.container(&web, 1, "c2");
    world.refused(create(wanted.clone()), Reason::EgressFull, &["n1", "c2"]);
    world.remove(&first);
    assert_eq!(world.endpoint(wanted).egress, egress("eth1", 2));
}

#[test]
fn an_old_command_does_not_end_a_new_endpoint() {
    let (mut world, web) = World::with_network();
    let c1 = world.endpoint(world.container(&web, 1, "c1"));
    let wrong = c1.epoch + 1;
    let texts = [c1.id.to_string(), "c1".to_owned(), wrong.to_string()];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    world.refused(Command::RemoveEndpoint { endpoint: c1.id, epoch: wrong }, Reason::EpochMismatch, &texts);
    world.refused(Command::ActivateEndpoint { endpoint: c1.id, epoch: wrong }, Reason::EpochMismatch, &texts);
}

#[test]
fn ten_thousand_endpoints_are_made_in_time() {
    let (mut world, _web) = World::with_network();
    let big = world.network(with_subnets("big", &["10.64.0.0/16"]));
    let node = world.node(1);
    let mut state = world.state;
    for n in 0..10_000_u64 {
        let command = create(super::container(&big, &node, &format!("c{n}")));
        let request = crate::model::entry::RequestId { node: node.id, run: 1, seq: n };
        let applied = state.apply(100 + n, &crate::model::entry::Entry { time_ms: 1, request, command, origin: None });
        assert!(applied.result.is_ok(), "{applied:?}");
    }
    assert_eq!(state.check(), []);
    assert!(state.leases.contains_key(&(big.id, ip("10.64.39.17"))), "addresses have no gaps");
}
