//! Endpoints that wait for their containers to start again, and which of them an engine gets for one that starts.

use std::collections::BTreeSet;
use std::net::IpAddr;

use pontoon_store::model::id::{EndpointId, NetworkId, NodeId};
use pontoon_store::model::object::{Endpoint, EngineContainer, EngineNetwork, Family};
use pontoon_store::model::state::State;

use super::Step;

/// The endpoints of a node whose containers do not run.
#[derive(Debug, Clone, Copy)]
pub struct Waiting<'a> {
    /// The cluster.
    pub state: &'a State,
    /// Node.
    pub me: NodeId,
    /// Endpoints that are known here to have no container that runs, although the cluster may not know it yet.
    pub ended: &'a BTreeSet<EndpointId>,
    /// Endpoints that this node may have given up: somebody else may have their addresses by now.
    pub given_up: &'a BTreeSet<EndpointId>,
    /// Addresses that the engine was given a moment ago, for a container that starts.
    pub handed: &'a BTreeSet<(NetworkId, IpAddr)>,
}

impl<'a> Waiting<'a> {
    fn on(self, network: NetworkId) -> impl Iterator<Item = &'a Endpoint> {
        let endpoints = self.state.endpoints_of_node(self.me).filter(move |e| e.network == network);
        endpoints.filter(move |endpoint| self.is_waiting(endpoint))
    }

    fn is_waiting(self, endpoint: &Endpoint) -> bool {
        let stopped = !endpoint.is_up() || self.ended.contains(&endpoint.id);
        let of_engine = !endpoint.engine_id.is_empty();
        of_engine && stopped && !self.given_up.contains(&endpoint.id) && self.container_of(endpoint).is_some()
    }

    fn container_of(self, endpoint: &Endpoint) -> Option<&'a EngineContainer> {
        let known = self.state.engine_networks.get(&(endpoint.network, self.me))?;
        known.containers.iter().find(|container| container.id == endpoint.container_id)
    }

    /// The one that has all of these addresses.
    pub fn with_addresses(self, network: NetworkId, addresses: &[IpAddr]) -> Option<&'a Endpoint> {
        let has_all = |e: &&Endpoint| addresses.iter().all(|address| e.addresses.contains(address));
        self.on(network).find(has_all).filter(|_| !addresses.is_empty())
    }

    /// The one of the container of this name.
    pub fn of_container(self, network: NetworkId, name: &str) -> Option<&'a Endpoint> {
        self.on(network).find(|endpoint| self.container_of(endpoint).is_some_and(|container| container.name == name))
    }

    /// The one of the container that most likely starts when nothing is known of it: of those whose addresses were not
    /// given by number, the one that stopped last. An engine that has got an address of one family asks for the other.
    pub fn likeliest(self, network: NetworkId, family: Family) -> Option<&'a Endpoint> {
        let guessed = |e: &&Endpoint| self.container_of(e).is_some_and(|container| !container.fixed);
        let is_handed = |e: &Endpoint, of: Family| {
            e.addresses.iter().any(|a| Family::of(*a) == of && self.handed.contains(&(network, *a)))
        };
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        let half = self.on(network).find(|e| is_handed(e, other) && !is_handed(e, family));
        let free = |e: &&Endpoint| !is_handed(e, family) && !is_handed(e, other);
        half.or_else(|| self.on(network).filter(guessed).filter(free).max_by_key(|e| (self.stopped_ms(e), e.id)))
    }

    fn stopped_ms(self, endpoint: &Endpoint) -> u64 {
        let lease = endpoint.addresses.first().and_then(|a| self.state.leases.get(&(endpoint.network, *a)));
        // The cluster has not been told yet of the others.
        if endpoint.is_up() { u64::MAX } else { lease.map_or(0, |lease| lease.since_ms) }
    }
}

/// The endpoints of a node that a step gives up, with their epochs: once it is proposed, somebody else may get their
/// addresses, whether this node hears of it or not.
pub fn gives_up(state: &State, me: NodeId, step: &Step) -> Vec<(EndpointId, u64)> {
    let given_up: Vec<&Endpoint> = match step {
        Step::Report(known) => forgotten(state, me, known).collect(),
        Step::Forget { endpoint, .. } => state.endpoints.get(endpoint).into_iter().collect(),
        Step::Place { endpoint, container_id, .. } => {
            let others = state.endpoints_of_node(me).filter(|e| e.network == endpoint.network && e.id != endpoint.id);
            others.filter(|other| !other.is_up() && other.container_id == *container_id).collect()
        }
        Step::Name { .. } | Step::Create(_) | Step::Remove { .. } | Step::Reconnect { .. } => Vec::new(),
    };
    given_up.into_iter().map(|endpoint| (endpoint.id, endpoint.epoch)).collect()
}

/// What waits, or could, for containers that a report does not have any more.
fn forgotten<'a>(state: &'a State, me: NodeId, known: &'a EngineNetwork) -> impl Iterator<Item = &'a Endpoint> {
    let listed = |e: &Endpoint| known.containers.iter().any(|container| container.id == e.container_id);
    // One whose container is not known yet waits for none.
    let has_container = |e: &&Endpoint| e.network == known.network && !e.container_id.is_empty();
    state.endpoints_of_node(me).filter(has_container).filter(move |endpoint| !listed(endpoint))
}
