//! Everything that can be written, and what is answered. `proto/pontoon/v1/store.proto` says
//! what each field is for.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::id::{EndpointId, Mac, NetworkId, NodeId, RaftId, Vni};
use super::object::{Cluster, Endpoint, Labels, Network, Node, NodeState, Route, Sandbox};

/// Highest feature level that this version knows. A command kind that a later version adds
/// gets a higher level, and is proposed only once every member reports that level.
pub const FEATURE_LEVEL: u32 = 1;

/// What a log entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The leader's time when it was proposed, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Who asked.
    pub request: RequestId,
    /// What to do.
    pub command: Command,
}

/// Names a request, the same for every retry of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// Node whose daemon asked; 0 while a cluster is founded.
    pub node: NodeId,
    /// Random number of that daemon's run.
    pub run: u64,
    /// Counts the run's requests, from 1.
    pub seq: u64,
}

/// Everything that can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Makes the cluster and its first node.
    FoundCluster {
        /// Settings; `created_ms` is taken from the entry.
        cluster: Cluster,
        /// First node.
        node: AdmitNode,
    },
    /// Admits a node.
    AdmitNode(AdmitNode),
    /// A node tells what it is.
    ReportNode(ReportNode),
    /// The leader tells whether it hears from a node.
    SetNodeState {
        /// Node.
        node: NodeId,
        /// Its state.
        state: NodeState,
    },
    /// Changes labels.
    LabelNode {
        /// Node.
        node: NodeId,
        /// To set.
        set: Labels,
        /// Keys to remove.
        remove: Vec<String>,
    },
    /// Removes a node.
    RemoveNode {
        /// Node.
        node: NodeId,
        /// Also with endpoints.
        force: bool,
    },
    /// Creates a network.
    CreateNetwork(CreateNetwork),
    /// Removes a network.
    RemoveNetwork {
        /// Network.
        network: NetworkId,
    },
    /// Makes an endpoint and its leases.
    CreateEndpoint(CreateEndpoint),
    /// An endpoint's interfaces are made.
    ActivateEndpoint {
        /// Endpoint.
        endpoint: EndpointId,
        /// Its epoch.
        epoch: u64,
    },
    /// Ends an endpoint.
    RemoveEndpoint {
        /// Endpoint.
        endpoint: EndpointId,
        /// Its epoch.
        epoch: u64,
    },
}

impl Command {
    /// The feature level that every member must have before this command is proposed.
    pub fn feature_level(&self) -> u32 {
        1
    }
}

/// Admits a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmitNode {
    /// Name.
    pub name: String,
    /// Where its daemon is reached.
    pub advertise: SocketAddr,
    /// Its VTEP.
    pub data_addr: IpAddr,
    /// Ed25519 public key.
    pub public_key: [u8; 32],
    /// Version of its daemon.
    pub version: String,
    /// Highest feature level it knows.
    pub feature_level: u32,
    /// Raft id; none: the log index of the entry.
    pub raft_id: Option<RaftId>,
    /// Random number of this attempt to join, the same for its retries, which get the same answer. Not 0.
    pub attempt: u64,
}

/// A node tells what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportNode {
    /// Node.
    pub node: NodeId,
    /// Version of its daemon.
    pub version: String,
    /// Highest feature level it knows.
    pub feature_level: u32,
    /// Routes of its host.
    pub routes: Vec<Route>,
    /// MTU of its underlay interface.
    pub underlay_mtu: u32,
    /// Subnets of its gateway bridge.
    pub egress_subnets: Vec<IpNet>,
}

/// Creates a network. What is none or empty is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateNetwork {
    /// Name.
    pub name: String,
    /// Subnets, at most one per family.
    pub subnets: Vec<WantedSubnet>,
    /// MTU.
    pub mtu: Option<u32>,
    /// VNI.
    pub vni: Option<Vni>,
    /// No way out.
    pub internal: bool,
    /// Labels.
    pub labels: Labels,
    /// Also an IPv6 subnet.
    pub ipv6: bool,
    /// Addresses kept for names.
    pub reservations: Vec<(String, IpAddr)>,
    /// Although a subnet overlaps a route that a ready node reported.
    pub force: bool,
}

/// A subnet as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedSubnet {
    /// The prefix as it was typed: `apply` refuses one with host bits, a /31 or a /32.
    pub cidr: IpNet,
    /// Gateway; none: the first address.
    pub gateway: Option<IpAddr>,
    /// Part of the prefix that addresses are handed out from.
    pub ip_range: Option<IpNet>,
}

/// Makes an endpoint and its leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateEndpoint {
    /// Network.
    pub network: NetworkId,
    /// Node.
    pub node: NodeId,
    /// Name of the container.
    pub name: String,
    /// The engine's id of the container.
    pub container_id: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// MAC; none: 02:42 and the IPv4 address.
    pub mac: Option<Mac>,
    /// Addresses asked for, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// Where its interface goes.
    pub sandbox: Sandbox,
    /// Name of its interface; none: the first ethN that no other endpoint of the sandbox has.
    pub ifname: Option<String>,
}

/// What a command made or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to show.
    Done,
    /// A node: admitted, labelled, or as it was when removed.
    Node(Node),
    /// A network: created, or as it was when removed.
    Network(Network),
    /// An endpoint: created, activated, or as it was when removed.
    Endpoint(Endpoint),
}
