//! Containers that are stopped keep their addresses, for their node alone.

use crate::model::command::{Command, CreateEndpoint, PlaceEndpoint, RebindEndpoint};
use crate::model::id::EndpointId;
use crate::model::object::{Endpoint, EndpointState, EngineContainer, EngineNetwork, LeaseState, Network};
use crate::model::rejection::Reason;

use super::super::World;

impl World {
    /// The engine of node `n` has these containers on a network.
    fn reports(&mut self, n: u8, network: &Network, names: &[&str]) {
        let container =
            |name: &&str| EngineContainer { id: format!("{name}-id"), name: (*name).to_owned(), fixed: false };
        let containers = names.iter().map(container).collect();
        let known = EngineNetwork {
            network: network.id,
            node: self.node(n).id,
            id: format!("{}-{n}", network.name),
            containers,
        };
        self.ok(Command::ReportEngineNetwork(known));
    }

    /// A container that runs on node 1, and that its engine has told of.
    fn runs(&mut self, network: &Network, name: &str) -> Endpoint {
        let lease = self.held(1, network, None, name);
        let wanted = self.engine_endpoint(1, network, &lease.address.to_string(), &format!("{name}-endpoint"));
        let endpoint = self.endpoint(wanted);
        self.placed(&endpoint, name)
    }

    fn stop(&mut self, endpoint: &Endpoint) {
        self.ok(Command::StopEndpoint { endpoint: endpoint.id, epoch: endpoint.epoch });
    }

    fn now(&self, endpoint: &Endpoint) -> Option<&Endpoint> {
        self.state.endpoints.get(&endpoint.id)
    }

    fn rebound(&mut self, endpoint: &Endpoint, engine_id: &str) -> Endpoint {
        self.ok(Command::RebindEndpoint(rebinding(endpoint, engine_id)));
        self.state.endpoints[&endpoint.id].clone()
    }
}

fn rebinding(endpoint: &Endpoint, engine_id: &str) -> RebindEndpoint {
    RebindEndpoint { endpoint: endpoint.id, epoch: endpoint.epoch, engine_id: engine_id.to_owned(), mac: None }
}

#[test]
fn a_stopped_container_keeps_its_address_until_it_is_removed() {
    let (mut world, network) = World::with_network();
    world.reports(1, &network, &["c1"]);
    let c1 = world.runs(&network, "c1");
    world.stop(&c1);
    let stopped = world.now(&c1).unwrap().clone();
    assert_eq!((stopped.state, stopped.mac, stopped.is_placed()), (EndpointState::Stopped, c1.mac, false));
    assert_eq!(world.lease(&network, "10.0.0.2").unwrap().state, LeaseState::Kept);
    world.stop(&c1);
    world.now_ms += 1_000_000;
    let told = ["10.0.0.2", "kept for c1, which is stopped on n1", "remove that container"];
    world.refused(world.hold(2, &network, Some("10.0.0.2"), ""), Reason::AddressTaken, &told);
    assert_eq!(world.held(2, &network, None, "c1").address.to_string(), "10.0.0.3");
    let remove = Command::RemoveNetwork { network: network.id };
    world.refused(remove, Reason::NetworkInUse, &["c1 on node n1 (not running)"]);
    let leave = Command::RemoveNode { node: world.node(1).id, force: false };
    world.refused(leave, Reason::NodeInUse, &["c1 on network web (10.0.0.2, not running)"]);
    // What was asked for before it stopped comes too late.
    world.refused(Command::PlaceEndpoint(world.placing(&c1, "c1")), Reason::EndpointNotFound, &["c1", "stopped"]);
    world.remove(&c1);
    assert!(matches!(world.lease(&network, "10.0.0.2").unwrap().state, LeaseState::Cooling { .. }));
}

/// Its node may be on its own, and take into use again what nobody has told it was ended.
#[test]
fn only_a_command_that_names_it_ends_what_waits() {
    let (mut world, network) = World::with_network();
    let (c1, c2) = (world.runs(&network, "c1"), world.runs(&network, "c2"));
    world.stop(&c1);
    world.reports(1, &network, &["c1"]);
    world.reports(1, &network, &["c2"]);
    world.stop(&c2);
    world.ok(Command::ReportEngineNetwork(EngineNetwork {
        network: network.id,
        node: world.node(1).id,
        id: String::new(),
        containers: Vec::new(),
    }));
    // Another one for the same container, which is stopped in turn.
    let lease = world.held(1, &network, None, "");
    let again = world.endpoint(world.engine_endpoint(1, &network, &lease.address.to_string(), "again"));
    world.placed(&again, "c1");
    world.stop(&again);
    let waiting = world.state.endpoints.values().filter(|endpoint| !endpoint.is_up());
    assert_eq!(waiting.map(|endpoint| endpoint.id).collect::<Vec<_>>(), [c1.id, c2.id, again.id]);
    let attached = world.endpoint(world.container(&network, 1, "c3"));
    let stop = Command::StopEndpoint { endpoint: attached.id, epoch: attached.epoch };
    world.refused(stop, Reason::AlreadyAttached, &["c3", "no engine's"]);
}

#[test]
fn what_waits_is_renamed_with_its_container() {
    let (mut world, network) = World::with_network();
    world.reports(1, &network, &["c1"]);
    let c1 = world.runs(&network, "c1");
    world.stop(&c1);
    let renamed = |name: &str| EngineContainer { id: "c1-id".to_owned(), name: name.to_owned(), fixed: false };
    let known = |name: &str| EngineNetwork {
        network: network.id,
        node: c1.node,
        id: "web-1".to_owned(),
        containers: vec![renamed(name)],
    };
    world.ok(Command::ReportEngineNetwork(known("db")));
    assert_eq!(
        (world.now(&c1).unwrap().name.as_str(), &*world.lease(&network, "10.0.0.2").unwrap().name),
        ("db", "db")
    );
    world.endpoint(world.container(&network, 1, "taken"));
    world.ok(Command::ReportEngineNetwork(known("taken")));
    assert_eq!(world.now(&c1).unwrap().name, "db");
}

#[test]
fn a_container_that_starts_again_has_the_same_endpoint() {
    let (mut world, network) = World::with_network();
    world.reports(1, &network, &["c1"]);
    let c1 = world.runs(&network, "c1");
    world.stop(&c1);
    let again = world.rebound(&c1, "e2");
    assert_eq!(
        (again.state, again.engine_id.as_str(), &again.addresses),
        (EndpointState::Pending, "e2", &c1.addresses)
    );
    assert!(again.epoch > c1.epoch);
    assert_eq!(world.rebound(&c1, "e2"), again, "told twice");
    // A stop from before, which comes late, is about what it was then.
    let late = Command::StopEndpoint { endpoint: c1.id, epoch: c1.epoch };
    world.refused(late, Reason::EpochMismatch, &["c1", "epoch"]);
    world.refused(Command::RebindEndpoint(rebinding(&c1, "e3")), Reason::EpochMismatch, &["c1"]);
    let placed = world.placed(&again, "c1");
    assert_eq!((placed.id, placed.state), (c1.id, EndpointState::Active));
    // Also one whose stop nobody could tell the cluster of.
    assert_eq!(world.rebound(&placed, "e4").state, EndpointState::Pending);
}

#[test]
fn only_an_engines_own_endpoint_is_taken_into_use_again() {
    let (mut world, network) = World::with_network();
    world.reports(1, &network, &["c1", "c2"]);
    let (c1, c2) = (world.runs(&network, "c1"), world.runs(&network, "c2"));
    world.stop(&c1);
    let of_other = rebinding(&c1, &c2.engine_id);
    world.refused(Command::RebindEndpoint(of_other), Reason::AlreadyAttached, &["c2-endpoint", "c2"]);
    world.refused(Command::RebindEndpoint(rebinding(&c1, "")), Reason::InvalidName, &["engine"]);
    let nobody = RebindEndpoint { endpoint: EndpointId(999), ..rebinding(&c1, "e") };
    world.refused(Command::RebindEndpoint(nobody), Reason::EndpointNotFound, &["999"]);
    let attached = world.endpoint(world.container(&network, 1, "c3"));
    world.refused(Command::RebindEndpoint(rebinding(&attached, "e")), Reason::AlreadyAttached, &["c3", "no engine's"]);
}

#[test]
fn a_container_that_starts_on_anothers_endpoint_leaves_it_its_own() {
    let (mut world, network) = World::with_network();
    world.reports(1, &network, &["c1", "c2"]);
    let (c1, c2) = (world.runs(&network, "c1"), world.runs(&network, "c2"));
    world.stop(&c1);
    world.stop(&c2);
    let again = world.rebound(&c2, "e3");
    // It was not c2 that started.
    let placed = world.placed(&again, "c1");
    assert_eq!((placed.name.as_str(), &placed.addresses), ("c1", &c2.addresses));
    let other = world.now(&c1).unwrap();
    assert_eq!(
        (other.name.as_str(), other.container_id.as_str(), other.state),
        ("c2", "c2-id", EndpointState::Stopped)
    );
    assert_eq!(world.lease(&network, "10.0.0.2").unwrap().name, "c2");
    let again = world.rebound(&world.now(&c1).unwrap().clone(), "e4");
    world.placed(&again, "c2");
    // What waits for a container that runs on a new endpoint waits for nobody any more.
    world.stop(&placed);
    let lease = world.held(1, &network, None, "");
    let new = world.endpoint(world.engine_endpoint(1, &network, &lease.address.to_string(), "e5"));
    world.placed(&new, "c1");
    let nobodys = world.now(&placed).unwrap();
    assert_eq!((nobodys.name.as_str(), nobodys.container_id.as_str(), nobodys.is_up()), ("e3", "", false));
    assert_eq!(world.now(&new).unwrap().name, "c1");
}

#[test]
fn a_mac_that_was_given_by_number_tells_which_container_starts() {
    let (mut world, network) = World::with_network();
    world.reports(1, &network, &["c1", "c2"]);
    let mac = "02:00:00:00:00:07".parse().unwrap();
    let c1 = world.runs(&network, "c1");
    let lease = world.held(1, &network, None, "");
    let wanted = world.engine_endpoint(1, &network, &lease.address.to_string(), "e2");
    let c2 = world.endpoint(CreateEndpoint { mac: Some(mac), ..wanted });
    let c2 = world.placed(&c2, "c2");
    let with_mac = |endpoint: &Endpoint, id: &str| {
        Command::RebindEndpoint(RebindEndpoint { mac: Some(mac), ..rebinding(endpoint, id) })
    };
    world.stop(&c1);
    world.refused(with_mac(&c1, "e3"), Reason::MacTaken, &["c1", "02:00:00:00:00:07", "c2 has it"]);
    world.stop(&c2);
    // It was not c1 that starts on what is c1's.
    world.ok(with_mac(&c1, "e3"));
    assert_eq!((world.now(&c1).unwrap().mac, world.now(&c2).unwrap().mac), (mac, c1.mac), "they change places");
    let started = world.now(&c1).unwrap().clone();
    world.placed(&started, "c2");
    assert_eq!(world.now(&c2).unwrap().name, "c1");
    world.stop(&started);
    let lease = world.held(1, &network, None, "");
    let wanted = world.engine_endpoint(1, &network, &lease.address.to_string(), "e4");
    let new = world.endpoint(CreateEndpoint { mac: Some(mac), ..wanted });
    let left = world.now(&started).unwrap().mac.to_string();
    assert_eq!((new.mac, left.as_str()), (mac, "02:42:0a:00:00:04"), "what the new one would have had");
}

#[test]
fn a_container_that_is_called_like_an_endpoint_is_refused_its_name() {
    let (mut world, network) = World::with_network();
    world.reports(1, &network, &["c1"]);
    let c1 = world.runs(&network, "c1");
    world.stop(&c1);
    let lease = world.held(1, &network, None, "");
    let new = world.endpoint(world.engine_endpoint(1, &network, &lease.address.to_string(), "e2"));
    // What waits for c1 would be called by its engine's id from now on.
    let placing = PlaceEndpoint { container_id: "c1-id".to_owned(), ..world.placing(&new, &c1.engine_id) };
    world.refused(Command::PlaceEndpoint(placing), Reason::EndpointNameTaken, &["c1-endpoint", "rename"]);
}

#[test]
fn a_full_network_tells_what_stopped_containers_keep() {
    let (mut world, _) = World::with_network();
    let network = world.network(super::with_subnets("tiny", &["10.5.0.0/30"]));
    world.reports(1, &network, &["c1"]);
    let c1 = world.runs(&network, "c1");
    world.stop(&c1);
    let told = ["1 kept for stopped containers", "docker container prune"];
    world.refused(world.hold(2, &network, None, ""), Reason::NetworkFull, &told);
}
