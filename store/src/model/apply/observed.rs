//! What an observer is told of, instead of commands: objects as they are.

use std::collections::BTreeSet;

use crate::model::admin::{Admin, Audited};
use crate::model::object::{Claim, Cluster, Endpoint, EngineNetwork, Lease, Network, Node, Token};
use crate::model::state::State;

use super::{Change, Changing};

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// The settings.
    Cluster(Cluster),
    /// A node.
    Node(Node),
    /// A network.
    Network(Network),
    /// An endpoint.
    Endpoint(Endpoint),
    /// A lease.
    Lease(Lease),
    /// A claimed subnet.
    Claim(Claim),
    /// A network as a node's engine has it.
    EngineNetwork(EngineNetwork),
    /// A token.
    Token(Token),
    /// An admin.
    Admin(Admin),
    /// What somebody has done.
    Audited(Audited),
}

impl State {
    /// Takes over the objects that were put and deleted up to an index, and that index's time. Tells what has changed.
    pub fn observe(
        &mut self,
        index: u64,
        time_ms: u64,
        put: Vec<Observed>,
        deleted: impl IntoIterator<Item = Change>,
    ) -> BTreeSet<Change> {
        self.pass(index, time_ms);
        let mut change = Changing { state: self, entry_index: index, changes: BTreeSet::new() };
        deleted.into_iter().for_each(|key| change.delete(key));
        for object in put {
            match object {
                Observed::Cluster(cluster) => change.put_cluster(cluster),
                Observed::Node(node) => change.put_node(node),
                Observed::Network(network) => change.put_network(network),
                Observed::Endpoint(endpoint) => change.put_endpoint(endpoint),
                Observed::Lease(lease) => change.put_lease(lease),
                Observed::Claim(claim) => change.put_claim(claim),
                Observed::EngineNetwork(known) => change.put_engine_network(known),
                Observed::Token(token) => change.put_token(token),
                Observed::Admin(admin) => change.put_admin(admin),
                Observed::Audited(audited) => change.put_audited(audited),
            }
        }
        change.changes
    }

    /// Nothing has changed up to an index.
    pub fn pass(&mut self, index: u64, time_ms: u64) {
        self.applied_index = index;
        self.clock_ms = self.clock_ms.max(time_ms);
        self.index.expire(self.clock_ms);
    }
}

impl Changing<'_> {
    fn delete(&mut self, key: Change) {
        self.changes.insert(key);
        match key {
            Change::Cluster => self.state.cluster = None,
            Change::Node(id) => drop(self.state.nodes.remove(&id)),
            Change::Network(id) => drop(self.state.networks.remove(&id)),
            Change::Endpoint(id) => {
                if let Some(endpoint) = self.state.endpoints.get(&id).cloned() {
                    self.drop_endpoint(&endpoint);
                }
            }
            Change::Lease(network, address) => self.drop_lease(network, address),
            Change::Claim(cidr) => drop(self.state.claims.remove(&cidr)),
            Change::EngineNetwork(network, node) => drop(self.state.engine_networks.remove(&(network, node))),
            Change::Token(id) => drop(self.state.tokens.remove(&id)),
            Change::Admin(id) => drop(self.state.admins.remove(&id)),
            Change::Audited(index) => drop(self.state.audit.remove(&index)),
            // Watchers are told of neither.
            Change::SealedKey | Change::Answer(..) => {}
        }
    }
}
