//! What container engines ask for, and in which order they do.

use ipnet::IpNet;

use crate::model::command::{
    ClaimSubnet, Command, CreateEndpoint, CreateNetwork, EngineRef, HoldAddress, Outcome, PlaceEndpoint,
};
use crate::model::object::{
    Claim, Endpoint, EndpointState, EngineContainer, EngineNetwork, Family, Lease, LeaseState, Network, Sandbox,
};
use crate::model::rejection::Reason;

use super::{World, ip, named, on, with_subnets};

mod stopped;

impl World {
    fn wants(&self, n: u8, cidr: Option<&str>) -> ClaimSubnet {
        let cidr = cidr.map(|cidr| cidr.parse().unwrap());
        ClaimSubnet { node: self.node(n).id, family: Family::V4, cidr, ip_range: None }
    }

    #[track_caller]
    fn claim(&mut self, n: u8, cidr: Option<&str>) -> Claim {
        match self.ok(Command::ClaimSubnet(self.wants(n, cidr))) {
            Outcome::Claim(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    /// A network as node `n`'s engine makes it, under this id.
    fn of_engine(&self, n: u8, id: &str, cidr: IpNet) -> CreateNetwork {
        let engine = Some(EngineRef { node: self.node(n).id, id: id.to_owned() });
        CreateNetwork { engine, ..with_subnets(id, &[&cidr.to_string()]) }
    }

    /// The same, from the claim to the name.
    #[track_caller]
    fn made_by_engine(&mut self, n: u8, id: &str, name: &str) -> Network {
        let claim = self.claim(n, None);
        let network = self.network(self.of_engine(n, id, claim.cidr));
        match self.ok(naming(&network, name)) {
            Outcome::Network(network) => network,
            other => panic!("{other:?}"),
        }
    }

    fn hold(&self, n: u8, network: &Network, address: Option<&str>, name: &str) -> Command {
        let (node, family) = (self.node(n).id, Family::V4);
        Command::HoldAddress(HoldAddress {
            network: network.id,
            node,
            family,
            address: address.map(ip),
            name: name.to_owned(),
        })
    }

    #[track_caller]
    fn held(&mut self, n: u8, network: &Network, address: Option<&str>, name: &str) -> Lease {
        match self.ok(self.hold(n, network, address, name)) {
            Outcome::Lease(lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    /// An endpoint as node `n`'s engine makes it, on an address that is held for it.
    fn engine_endpoint(&self, n: u8, network: &Network, address: &str, id: &str) -> CreateEndpoint {
        CreateEndpoint {
            addresses: vec![ip(address)],
            sandbox: Sandbox::default(),
            engine_id: id.to_owned(),
            ..self.container(network, n, id)
        }
    }

    fn placing(&self, endpoint: &Endpoint, name: &str) -> PlaceEndpoint {
        PlaceEndpoint {
            endpoint: endpoint.id,
            epoch: endpoint.epoch,
            name: name.to_owned(),
            container_id: format!("{name}-id"),
            aliases: Vec::new(),
            sandbox: Sandbox { netns: format!("/run/docker/netns/{name}"), key: name.to_owned() },
            ifname: "eth0".to_owned(),
            ports: vec!["0.0.0.0:8080->80/tcp".to_owned()],
        }
    }

    #[track_caller]
    fn placed(&mut self, endpoint: &Endpoint, name: &str) -> Endpoint {
        match self.ok(Command::PlaceEndpoint(self.placing(endpoint, name))) {
            Outcome::Endpoint(endpoint) => endpoint,
            other => panic!("{other:?}"),
        }
    }

    fn lease(&self, network: &Network, address: &str) -> Option<&Lease> {
        self.state.leases.get(&(network.id, ip(address)))
    }
}

fn naming(network: &Network, name: &str) -> Command {
    Command::NameNetwork { network: network.id, name: name.to_owned(), labels: Default::default() }
}

#[test]
fn a_claim_becomes_a_network() {
    let (mut world, web) = World::with_network();
    let claim = world.claim(1, None);
    assert_eq!(claim.cidr.to_string(), "10.0.1.0/24", "the lowest free one");
    assert_eq!(world.claim(2, None).cidr.to_string(), "10.0.2.0/24");
    let network = world.network(world.of_engine(1, "abc", claim.cidr));
    assert!(network.provisional && network.engine == Some(world.node(1).id) && network.name == "abc");
    assert_eq!(world.state.claims.len(), 1, "only the other one is left");
    assert_eq!(world.state.network_of_engine(world.node(1).id, "abc").map(|known| known.id), Some(network.id));
    let again = world.network(world.of_engine(1, "abc", claim.cidr));
    assert_eq!(again.id, network.id, "the engine made it before");
    world.refused(world.hold(1, &network, None, ""), Reason::NetworkProvisional, &["abc", "name", "moment"]);
    world.refused(naming(&network, "web"), Reason::NetworkNameTaken, &["web", &web.id.to_string()]);
    let Outcome::Network(named) = world.ok(naming(&network, "db")) else { panic!("a network") };
    assert_eq!((named.name.as_str(), named.provisional), ("db", false));
    world.ok(naming(&network, "db"));
    world.refused(naming(&network, "other"), Reason::InvalidName, &["db", "other", "renamed"]);
}

#[test]
fn a_network_that_nobody_can_name_any_more_is_gone() {
    let (mut world, _) = World::with_network();
    let named = world.made_by_engine(2, "abc", "db");
    let claim = world.claim(2, None);
    let unnamed = world.network(world.of_engine(2, "def", claim.cidr));
    world.ok(Command::RemoveNode { node: world.node(2).id, force: false });
    assert!(world.state.networks.contains_key(&named.id) && !world.state.networks.contains_key(&unnamed.id));
    assert!(world.state.leases_of_network(unnamed.id).next().is_none());
}

#[test]
fn a_claim_keeps_others_away_for_as_long_as_it_lasts() {
    let (mut world, _) = World::with_network();
    let claim = world.claim(1, Some("10.9.0.0/24"));
    for cidr in ["10.9.0.0/24", "10.9.0.0/16", "10.9.0.128/25"] {
        let wanted = world.wants(1, Some(cidr));
        world.refused(Command::ClaimSubnet(wanted), Reason::SubnetOverlap, &[cidr, "10.9.0.0/24", "n1"]);
        world.refused(Command::CreateNetwork(with_subnets("x", &[cidr])), Reason::SubnetOverlap, &[cidr, "n1"]);
    }
    let other = world.of_engine(2, "abc", claim.cidr);
    world.refused(Command::CreateNetwork(other), Reason::SubnetOverlap, &["n1"]);
    world.now_ms += Claim::LIFE_MS;
    let node = world.node(2).id;
    world.network(with_subnets("x", &["10.9.0.0/24"]));
    assert!(world.state.claims.is_empty());
    let claim = world.claim(2, Some("10.8.0.0/24"));
    world.ok(Command::ReleaseClaim { node, cidr: claim.cidr });
    assert!(world.state.claims.is_empty());
    let told = ["10.0.0.0/25 of a new network overlaps 10.0.0.0/24 of network web"];
    world.refused(Command::ClaimSubnet(world.wants(1, Some("10.0.0.0/25"))), Reason::SubnetOverlap, &told);
    world.refused(Command::ClaimSubnet(world.wants(1, Some("192.168.140.0/26"))), Reason::InvalidSubnet, &["n1"]);
    world.refused(Command::ClaimSubnet(world.wants(1, Some("172.17.0.0/24"))), Reason::RouteOverlap, &["docker0"]);
    world.refused(Command::ClaimSubnet(world.wants(1, Some("10.7.0.1/24"))), Reason::InvalidSubnet, &["host bits"]);
}

#[test]
fn the_range_of_a_claim_is_the_networks() {
    let (mut world, _) = World::with_network();
    let ip_range = Some("10.9.0.128/25".parse().unwrap());
    let wanted = ClaimSubnet { ip_range, ..world.wants(1, Some("10.9.0.0/24")) };
    world.ok(Command::ClaimSubnet(wanted));
    let network = world.network(world.of_engine(1, "abc", "10.9.0.0/24".parse().unwrap()));
    assert_eq!(network.subnets[0].ip_range, ip_range);
    let outside = ClaimSubnet { ip_range: Some("10.8.0.0/25".parse().unwrap()), ..wanted };
    let outside = ClaimSubnet { cidr: Some("10.7.0.0/24".parse().unwrap()), ..outside };
    world.refused(Command::ClaimSubnet(outside), Reason::InvalidRange, &["10.8.0.0/25", "10.7.0.0/24"]);
}

#[test]
fn a_container_of_an_engine_from_its_address_to_its_end() {
    let (mut world, _) = World::with_network();
    let network = world.made_by_engine(1, "abc", "db");
    let lease = world.held(1, &network, None, "");
    assert_eq!((lease.address, lease.state, lease.endpoint), (ip("10.0.1.2"), LeaseState::Pending, None));
    assert_eq!(world.held(2, &network, None, "").address, ip("10.0.1.3"), "nobody gets an address that is held");
    let endpoint = world.endpoint(world.engine_endpoint(1, &network, "10.0.1.2", "e1"));
    assert_eq!((endpoint.mac.to_string().as_str(), endpoint.state), ("02:42:0a:00:01:02", EndpointState::Pending));
    assert!(!endpoint.is_placed() && endpoint.egress.is_none());
    let endpoint = world.placed(&endpoint, "c1");
    assert_eq!((endpoint.name.as_str(), endpoint.state), ("c1", EndpointState::Active));
    assert_eq!(world.lease(&network, "10.0.1.2").unwrap().name, "c1");
    let renamed = world.placed(&endpoint, "c2");
    assert_eq!((renamed.id, renamed.name.as_str()), (endpoint.id, "c2"), "a container can be renamed");
    world.remove(&endpoint);
    let lease = world.lease(&network, "10.0.1.2").unwrap();
    assert!(matches!(lease.state, LeaseState::Cooling { .. }) && lease.previous[0].name == "c2", "{lease:?}");
    assert_eq!(world.held(1, &network, None, "").address, ip("10.0.1.4"), "it cools");
    assert_eq!(world.held(1, &network, None, "c2").address, ip("10.0.1.2"), "but not for the one that had it");
}

#[test]
fn containers_that_have_swapped_names_are_known_by_them() {
    let (mut world, network) = World::with_network();
    let running = |world: &mut World, address: &str, name: &str| {
        let endpoint = world.endpoint(world.engine_endpoint(1, &network, address, &format!("{name}-endpoint")));
        world.placed(&endpoint, name)
    };
    let (first, second) = (running(&mut world, "10.0.0.2", "c1"), running(&mut world, "10.0.0.3", "c2"));
    // As seen from here, both names changed at once, each to the one that the other still has.
    let placing = |endpoint: &Endpoint, name: &str| PlaceEndpoint {
        endpoint: endpoint.id,
        epoch: endpoint.epoch,
        name: name.to_owned(),
        container_id: endpoint.container_id.clone(),
        aliases: Vec::new(),
        sandbox: endpoint.sandbox.clone(),
        ifname: endpoint.ifname.clone(),
        ports: Vec::new(),
    };
    world.ok(Command::PlaceEndpoint(placing(&first, "c2")));
    let unnamed = &world.state.endpoints[&second.id];
    assert_eq!((unnamed.name.as_str(), unnamed.state), ("c2-endpoint", EndpointState::Active));
    assert_eq!(world.lease(&network, "10.0.0.3").unwrap().name, "c2-endpoint");
    world.ok(Command::PlaceEndpoint(placing(&second, "c1")));
    assert_eq!([first.id, second.id].map(|id| world.state.endpoints[&id].name.clone()), ["c2", "c1"]);
    // What no engine has made keeps its name.
    world.endpoint(world.container(&network, 1, "c3"));
    let third = placing(&second, "c3");
    world.refused(Command::PlaceEndpoint(third), Reason::EndpointNameTaken, &["c3", "n1", "/run/netns/c3"]);
}

#[test]
fn containers_are_called_by_all_their_names_as_long_as_they_have_them() {
    let (mut world, network) = World::with_network();
    let endpoint = world.endpoint(world.engine_endpoint(1, &network, "10.0.0.2", "0123456789abcdef"));
    let called = |world: &World, name: &str| world.state.endpoints_called(network.id, name).count();
    let of_id = |world: &World, start: &str| world.state.endpoints_of_container(network.id, start).count();
    assert_eq!(called(&world, "0123456789ab"), 0, "what stands for a name is none");
    let placing = |name: &str, aliases: &[&str]| PlaceEndpoint {
        aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
        container_id: "fedcba9876543210".into(),
        ..world.placing(&endpoint, name)
    };
    let (first, second) = (placing("C1", &["db", "web"]), placing("c2", &["db"]));
    world.ok(Command::PlaceEndpoint(first));
    assert_eq!(["c1", "db", "web", "C1", "c2"].map(|name| called(&world, name)), [1, 1, 1, 0, 0]);
    assert_eq!(["fedcba987654", "fedcba9876543210", "fedcba987655", "db"].map(|id| of_id(&world, id)), [1, 1, 0, 0]);
    world.ok(Command::PlaceEndpoint(second));
    assert_eq!(["c1", "db", "web", "c2"].map(|name| called(&world, name)), [0, 1, 0, 1]);
    world.ok(Command::RemoveEndpoint { endpoint: endpoint.id, epoch: endpoint.epoch });
    assert_eq!(["db", "c2"].map(|name| called(&world, name)), [0, 0]);
    assert_eq!(of_id(&world, "fedcba987654"), 0);
}

#[test]
fn a_restarted_engine_asks_again_and_takes_nobodys_address() {
    let (mut world, _) = World::with_network();
    let network = world.made_by_engine(1, "abc", "db");
    world.held(1, &network, None, "");
    let endpoint = world.endpoint(world.engine_endpoint(1, &network, "10.0.1.2", "e1"));
    let lease = world.held(1, &network, Some("10.0.1.2"), "");
    assert_eq!(lease.endpoint, Some(endpoint.id), "it is told the lease as it is");
    let told = ["a container cannot have 10.0.1.2", "e1 on n1 has it"];
    world.refused(world.hold(2, &network, Some("10.0.1.2"), ""), Reason::AddressTaken, &told);
    let second = world.engine_endpoint(1, &network, "10.0.1.2", "e2");
    world.refused(Command::CreateEndpoint(second), Reason::AddressTaken, &["10.0.1.2", "e1"]);
    let again = world.engine_endpoint(1, &network, "10.0.1.2", "e1");
    world.refused(Command::CreateEndpoint(again), Reason::AlreadyAttached, &["e1", "n1"]);
    // After the refusal the engine releases the address that the first one has.
    world.ok(Command::ReleaseAddress { network: network.id, address: ip("10.0.1.2"), epoch: lease.epoch });
    assert_eq!(world.lease(&network, "10.0.1.2"), Some(&lease));
    assert_eq!(world.held(1, &network, Some("10.0.1.1"), "").state, LeaseState::Reserved, "the gateway");
    let gateway = world.engine_endpoint(1, &network, "10.0.1.1", "e3");
    world.refused(Command::CreateEndpoint(gateway), Reason::AddressReserved, &["10.0.1.1", "gateway"]);
}

#[test]
fn an_address_that_no_endpoint_took_is_given_back() {
    let (mut world, network) = World::with_network();
    let lease = world.held(1, &network, None, "");
    let release =
        |lease: &Lease| Command::ReleaseAddress { network: lease.network, address: lease.address, epoch: lease.epoch };
    let wrong = Lease { epoch: 1, ..lease.clone() };
    world.refused(release(&wrong), Reason::EpochMismatch, &["10.0.0.2", "epoch"]);
    world.ok(release(&lease));
    assert_eq!(world.lease(&network, "10.0.0.2"), None, "nobody has ever used it");
    world.ok(release(&lease));

    let endpoint = world.endpoint(world.container(&network, 1, "c1"));
    world.remove(&endpoint);
    let lease = world.held(1, &network, Some("10.0.0.2"), "");
    world.ok(release(&lease));
    let lease = world.lease(&network, "10.0.0.2").unwrap();
    assert_eq!((lease.name.as_str(), lease.state), ("c1", LeaseState::Cooling { until_ms: world.now_ms }));
    let other = world.container(&network, 1, "c2");
    world.held(1, &network, Some("10.0.0.2"), "");
    let asked = CreateEndpoint { addresses: vec![ip("10.0.0.2")], ..other };
    world.refused(Command::CreateEndpoint(asked), Reason::AddressTaken, &["container that starts", "n1"]);
    world.ok(Command::RemoveNode { node: world.node(1).id, force: false });
    assert!(world.lease(&network, "10.0.0.2").is_some_and(|lease| lease.held_for().is_none()), "its node is gone");
}

#[test]
fn a_container_without_a_name_is_told_of_without_one() {
    let (mut world, _) = World::with_network();
    let network = world.network(with_subnets("tiny", &["10.5.0.0/30"]));
    let nowhere = world.hold(1, &network, Some("10.5.0.0"), "");
    world.refused(nowhere, Reason::InvalidAddress, &["a container cannot have 10.5.0.0"]);
    world.held(1, &network, None, "");
    world.refused(world.hold(1, &network, None, ""), Reason::NetworkFull, &["10.5.0.0/30 for a container:"]);
}

#[test]
fn an_address_kept_for_a_name_is_its_containers() {
    let (mut world, _) = World::with_network();
    let reservations = vec![("db".to_owned(), ip("10.5.0.9"))];
    let network = world.network(CreateNetwork { reservations, ..with_subnets("five", &["10.5.0.0/24"]) });
    assert_eq!(world.held(1, &network, Some("10.5.0.9"), "").state, LeaseState::Reserved, "asked again, not taken");
    let refused = world.engine_endpoint(1, &network, "10.5.0.9", "e1");
    world.refused(Command::CreateEndpoint(refused), Reason::AddressReserved, &["db"]);
    let lease = world.held(1, &network, None, "db");
    assert_eq!((lease.address, lease.state), (ip("10.5.0.9"), LeaseState::Pending));
    world.ok(Command::ReleaseAddress { network: network.id, address: lease.address, epoch: lease.epoch });
    assert_eq!(world.lease(&network, "10.5.0.9").unwrap().state, LeaseState::Reserved);
}

#[test]
fn a_network_with_containers_that_do_not_run_is_not_removed() {
    let (mut world, network) = World::with_network();
    let container = |name: &str| EngineContainer { id: format!("{name}-id"), name: name.to_owned(), fixed: false };
    let known = |world: &World, id: &str, containers| EngineNetwork {
        network: network.id,
        node: world.node(2).id,
        id: id.to_owned(),
        containers,
    };
    world.ok(Command::ReportEngineNetwork(known(&world, "abc", vec![container("c1"), container("c2")])));
    world.held(2, &network, None, "");
    let remove = Command::RemoveNetwork { network: network.id };
    world.refused(remove.clone(), Reason::NetworkInUse, &["c1 on node n2 (not running)", "starts on node n2"]);
    let endpoint = world.endpoint(world.engine_endpoint(2, &network, "10.0.0.2", "e1"));
    world.placed(&endpoint, "c1");
    let texts = ["2 containers", "c1 on node n2 (10.0.0.2)", "c2 on node n2 (not running)"];
    world.refused(remove.clone(), Reason::NetworkInUse, &texts);
    world.remove(&endpoint);
    world.ok(Command::ReportEngineNetwork(known(&world, "abc", Vec::new())));
    world.ok(remove);
    assert!(world.state.engine_networks.is_empty());
    world.refused(
        Command::ReportEngineNetwork(known(&world, "abc", Vec::new())),
        Reason::NetworkNotFound,
        &[&network.id.to_string()],
    );
}

#[test]
fn an_engine_has_a_network_under_one_id() {
    let (mut world, network) = World::with_network();
    let other = world.network(named("other"));
    let node = world.node(1).id;
    let known = |network: &Network, id: &str| EngineNetwork {
        network: network.id,
        node,
        id: id.to_owned(),
        containers: Vec::new(),
    };
    world.ok(Command::ReportEngineNetwork(known(&network, "abc")));
    world.refused(Command::ReportEngineNetwork(known(&other, "abc")), Reason::NetworkNameTaken, &["abc", "web"]);
    world.ok(Command::ReportEngineNetwork(known(&network, "def")));
    world.ok(Command::ReportEngineNetwork(known(&other, "abc")));
    world.ok(Command::ReportEngineNetwork(known(&other, "")));
    assert_eq!(world.state.engine_networks.len(), 1);
    world.refused(Command::ReportEngineNetwork(known(&network, "a b")), Reason::InvalidName, &["engine"]);
    let wrong =
        CreateNetwork { subnets: vec![on("10.6.0.0/24")], ..world.of_engine(1, "", "10.6.0.0/24".parse().unwrap()) };
    world.refused(Command::CreateNetwork(wrong), Reason::InvalidName, &["engine"]);
}
