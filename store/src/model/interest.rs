//! What of the state concerns one node, so that an observer need not know everything.

use std::collections::BTreeSet;

use super::apply::Change;
use super::id::{NetworkId, NodeId};
use super::object::{Lease, LeaseState};
use super::state::State;

impl State {
    /// The networks that a node has endpoints on: what belongs to them concerns it.
    pub fn networks_of_node(&self, node: NodeId) -> BTreeSet<NetworkId> {
        self.endpoints_of_node(node).map(|endpoint| endpoint.network).collect()
    }

    /// Whether an object concerns a node with endpoints on these networks. One that is gone may have.
    pub fn concerns(&self, object: &Change, node: NodeId, networks: &BTreeSet<NetworkId>) -> bool {
        match object {
            Change::Cluster
            | Change::Node(_)
            | Change::Network(_)
            | Change::Claim(_)
            | Change::Token(_)
            | Change::Admin(_) => true,
            Change::Endpoint(id) => {
                let endpoint = self.endpoints.get(id);
                endpoint.is_none_or(|endpoint| endpoint.node == node || networks.contains(&endpoint.network))
            }
            Change::Lease(network, address) => {
                let lease = self.leases.get(&(*network, *address));
                networks.contains(network) || lease.is_none_or(|lease| lease.node == Some(node) || is_reserved(lease))
            }
            Change::EngineNetwork(network, other) => *other == node || networks.contains(network),
            Change::Audited(_) | Change::SealedKey | Change::Answer(..) => false,
        }
    }

    /// Everything that belongs to a network.
    pub fn objects_of_network(&self, network: NetworkId) -> impl Iterator<Item = Change> {
        let endpoints = self.endpoints_of_network(network).map(|endpoint| Change::Endpoint(endpoint.id));
        let leases = self.leases_of_network(network).map(|lease| Change::Lease(lease.network, lease.address));
        let engines = self.engines_of_network(network).map(|known| Change::EngineNetwork(known.network, known.node));
        endpoints.chain(leases).chain(engines)
    }

    /// Forgets what belongs to networks that a node has no endpoints on any more, and does not concern it otherwise. Tells
    /// what that was.
    pub fn forget(&mut self, node: NodeId, left: &BTreeSet<NetworkId>) -> BTreeSet<Change> {
        let networks = self.networks_of_node(node);
        let gone = left.iter().flat_map(|network| self.objects_of_network(*network));
        let gone: Vec<Change> = gone.filter(|object| !self.concerns(object, node, &networks)).collect();
        self.observe(self.applied_index, self.clock_ms, Vec::new(), gone)
    }
}

/// Whether somebody decided whom an address is for, as for gateways: engines are told so when they get the network.
fn is_reserved(lease: &Lease) -> bool {
    lease.state == LeaseState::Reserved || lease.reserved_for.is_some()
}
