//! The objects together.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::id::{EndpointId, NetworkId, NodeId};
use super::object::{Cluster, Endpoint, Lease, Network, Node};

/// Everything that the cluster agrees on, as of one log index. Only `apply` changes it.
#[derive(Debug, Clone, Default)]
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
    /// Time of the latest entry; never goes back.
    pub clock_ms: u64,
    /// Index of the latest entry.
    pub applied_index: u64,
}
