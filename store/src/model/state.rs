//! The objects together.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::admin::{Admin, Audited};
use super::command::Outcome;
use super::id::{AdminId, EndpointId, Mac, NetworkId, NodeId, RaftId, TokenId};
use super::index::Index;
use super::object::{Claim, Cluster, Endpoint, EngineNetwork, Lease, Network, Node, Token};
use super::rejection::Rejection;

/// Everything that the cluster agrees on, as of one log index. Only [`State::apply`] changes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Settings; none before the cluster is founded.
    pub cluster: Option<Cluster>,
    /// Members.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Networks.
    pub networks: BTreeMap<NetworkId, Network>,
    /// Endpoints.
    pub endpoints: BTreeMap<EndpointId, Endpoint>,
    /// Addresses that are, or were, in use or reserved.
    pub leases: BTreeMap<(NetworkId, IpAddr), Lease>,
    /// Subnets that engines were given and no network has yet.
    pub claims: BTreeMap<IpNet, Claim>,
    /// Networks as the engines have them.
    pub engine_networks: BTreeMap<(NetworkId, NodeId), EngineNetwork>,
    /// Tokens that hosts can join with, or could.
    pub tokens: BTreeMap<TokenId, Token>,
    /// Who may administer the cluster from elsewhere.
    pub admins: BTreeMap<AdminId, Admin>,
    /// Who has done what, by log index: the [`Audited::KEPT`] latest.
    pub audit: BTreeMap<u64, Audited>,
    /// Key of the authority that issues the nodes' certificates, encrypted; empty: there is none.
    pub sealed_key: Vec<u8>,
    /// Answers that are kept so that a retried request is not applied twice, by the node that
    /// asked (node 0 while a cluster is founded).
    pub sessions: BTreeMap<NodeId, Session>,
    /// Time of the latest entry; never goes back.
    pub clock_ms: u64,
    /// Index of the latest entry.
    pub applied_index: u64,
    /// Derived from the above, never stored.
    pub(super) index: Index,
}

/// The latest answers to one run of a node's daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Random number of the run. The first request of another run replaces the session.
    pub run: u64,
    /// Answers by sequence number; the [`Session::MAX_ANSWERS`] highest.
    pub answers: BTreeMap<u64, Kept>,
}

/// An answer as it is kept. Hundreds of them are, and few are ever asked for again: of an object that is there only the
/// id is kept, because a node can have thousands of routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// A node that was made or changed.
    Node(NodeId),
    /// A network that was made.
    Network(NetworkId),
    /// An endpoint that was made or changed.
    Endpoint(EndpointId),
    /// Anything else as it was: a rejection, nothing to show, or an object that was removed.
    Whole(Box<Result<Outcome, Rejection>>),
}

impl Session {
    /// How many answers are kept: more than a daemon has requests under way.
    pub const MAX_ANSWERS: usize = 256;
    /// How many sessions of nodes that are not members are kept: a node that leaves may ask
    /// again for the answer to its leaving.
    pub const MAX_STRANGERS: usize = 8;
}

impl State {
    /// The state before the first entry.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Rebuilds what is derived from the maps, after they were filled by something else than `apply`.
    pub fn reindex(&mut self) {
        self.index = Index::of(self);
    }

    /// The node of this name.
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes.values().find(|node| node.name == name)
    }

    /// The node of this name or else of this id, as people type it.
    pub fn find_node(&self, name_or_id: &str) -> Option<&Node> {
        let by_id = || self.nodes.get(&NodeId(name_or_id.parse().ok()?));
        self.node_named(name_or_id).or_else(by_id)
    }

    /// The admin with this public key.
    pub fn admin_with_key(&self, public_key: &[u8; 32]) -> Option<&Admin> {
        self.admins.values().find(|admin| admin.public_key == *public_key)
    }

    /// The node with this public key.
    pub fn node_with_key(&self, public_key: &[u8; 32]) -> Option<&Node> {
        self.nodes.values().find(|node| node.public_key == *public_key)
    }

    /// The node with this Raft id.
    pub fn node_with_raft_id(&self, raft_id: RaftId) -> Option<&Node> {
        self.nodes.values().find(|node| node.raft_id == raft_id)
    }

    /// The network of this name.
    pub fn network_named(&self, name: &str) -> Option<&Network> {
        self.networks.values().find(|network| network.name == name)
    }

    /// The network of this name or else of this id, as people type it.
    pub fn find_network(&self, name_or_id: &str) -> Option<&Network> {
        let by_id = || self.networks.get(&NetworkId(name_or_id.parse().ok()?));
        self.network_named(name_or_id).or_else(by_id)
    }

    /// The network that a node's engine knows by this id.
    pub fn network_of_engine(&self, node: NodeId, id: &str) -> Option<&Network> {
        let known = self.engine_networks.values().find(|known| known.node == node && known.id == id)?;
        self.networks.get(&known.network)
    }

    /// The network that has this subnet.
    pub fn network_with_subnet(&self, cidr: IpNet) -> Option<&Network> {
        self.networks.values().find(|network| network.subnets.iter().any(|subnet| subnet.cidr == cidr))
    }

    /// A network as the engines have it, by node.
    pub fn engines_of_network(&self, network: NetworkId) -> impl Iterator<Item = &EngineNetwork> {
        self.engine_networks.range((network, NodeId(0))..=(network, NodeId(u64::MAX))).map(|(_, known)| known)
    }

    /// The endpoint that a node's engine knows by this id.
    pub fn endpoint_of_engine(&self, node: NodeId, id: &str) -> Option<&Endpoint> {
        self.endpoints_of_node(node).find(|endpoint| endpoint.engine_id == id)
    }

    /// The container of this name on a network and a node.
    pub fn endpoint_named(&self, network: NetworkId, node: NodeId, name: &str) -> Option<&Endpoint> {
        self.endpoints.get(&self.index.named(network, node, name)?)
    }

    /// The endpoints of a network whose containers are asked for by this name, in lower case: by id.
    pub fn endpoints_called(&self, network: NetworkId, name: &str) -> impl Iterator<Item = &Endpoint> {
        self.index.called(network, name).filter_map(|id| self.endpoints.get(&id))
    }

    /// The endpoints of a network whose containers have an engine's id that begins so.
    pub fn endpoints_of_container(&self, network: NetworkId, start: &str) -> impl Iterator<Item = &Endpoint> {
        let called = self.index.called_like(network, start);
        called.filter_map(|(name, id)| self.endpoints.get(&id).filter(|endpoint| endpoint.container_id == name))
    }

    /// What is kept with this MAC for a stopped container of a node's engine.
    pub fn kept_with_mac(&self, network: NetworkId, node: NodeId, mac: Mac) -> Option<&Endpoint> {
        let holder = self.endpoints.get(&self.index.with_mac(network, mac)?)?;
        (holder.node == node && !holder.is_up()).then_some(holder)
    }

    /// A network's endpoints, by id.
    pub fn endpoints_of_network(&self, network: NetworkId) -> impl Iterator<Item = &Endpoint> {
        self.index.of_network(network).filter_map(|id| self.endpoints.get(&id))
    }

    /// A node's endpoints, by id.
    pub fn endpoints_of_node(&self, node: NodeId) -> impl Iterator<Item = &Endpoint> {
        self.index.of_node(node).filter_map(|id| self.endpoints.get(&id))
    }

    /// The endpoints whose interfaces are in one sandbox, by id. `key` is [`super::object::Sandbox::key`].
    pub fn endpoints_of_sandbox(&self, node: NodeId, key: &str) -> impl Iterator<Item = &Endpoint> {
        self.index.of_sandbox(node, key).filter_map(|id| self.endpoints.get(&id))
    }

    /// A network's leases, by address.
    pub fn leases_of_network(&self, network: NetworkId) -> impl Iterator<Item = &Lease> {
        self.leases.range(lease_keys(network)).map(|(_, lease)| lease)
    }
}

/// The keys of a network's leases.
pub(super) fn lease_keys(network: NetworkId) -> RangeInclusive<(NetworkId, IpAddr)> {
    let first = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let last = IpAddr::V6(Ipv6Addr::from(u128::MAX));
    (network, first)..=(network, last)
}
