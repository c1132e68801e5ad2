//! Everything that can be written, and what is answered. `proto/pontoon/v1/store.proto` says
//! what each field is for.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::admin::{Admin, CreateAdmin};
use super::id::{AdminId, EndpointId, Mac, NetworkId, NodeId, RaftId, TokenId, Vni};
use super::object::{
    Claim, Cluster, Endpoint, EngineNetwork, Family, Labels, Lease, Network, Node, NodeState, Route, Sandbox, Token,
    TokenRole, Voting,
};

/// Highest feature level that this version knows. A command kind that a later version adds
/// gets a higher level, and is proposed only once every member reports that level.
pub const FEATURE_LEVEL: u32 = 6;

/// Feature level from which on nodes may be outside the Raft membership.
pub const OBSERVERS: u32 = 4;

/// Feature level from which on nodes have certificates, and hosts join with tokens.
pub const TOKENS: u32 = 5;

/// Feature level from which on nodes can take the place of others, and have other addresses, and the cluster knows admins and
/// who has done what.
pub const MOVES: u32 = 6;

/// Everything that can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Makes the cluster and its first node.
    FoundCluster {
        /// Settings; `created_ms` is taken from the entry.
        cluster: Cluster,
        /// First node.
        node: AdmitNode,
        /// Key of the authority whose certificate is in the settings, encrypted; empty without one.
        sealed_key: Vec<u8>,
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
    /// Changes settings of the cluster.
    ConfigureCluster(ConfigureCluster),
    /// Says whether a node is to vote.
    SetVoting {
        /// Node.
        node: NodeId,
        /// Whether it is to.
        voting: Voting,
    },
    /// Takes a node that does not vote out of the Raft membership: it becomes an observer, and gets a Raft id that was never
    /// used.
    RetireMember {
        /// Node.
        node: NodeId,
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
    /// A node's engine wants a subnet for a network that it is about to make.
    ClaimSubnet(ClaimSubnet),
    /// A claim is not needed any more.
    ReleaseClaim {
        /// Node that has it.
        node: NodeId,
        /// Its prefix.
        cidr: IpNet,
    },
    /// The engine that made a network has told its name.
    NameNetwork {
        /// Network.
        network: NetworkId,
        /// Name.
        name: String,
        /// Labels.
        labels: Labels,
    },
    /// A node tells how its engine has a network; with an empty id, that it has it no more.
    ReportEngineNetwork(EngineNetwork),
    /// A node's engine wants an address for an endpoint that it is about to make.
    HoldAddress(HoldAddress),
    /// An address that was held for an engine is not needed any more.
    ReleaseAddress {
        /// Network.
        network: NetworkId,
        /// Address.
        address: IpAddr,
        /// Epoch of its lease.
        epoch: u64,
    },
    /// An engine has placed an endpoint's interface.
    PlaceEndpoint(PlaceEndpoint),
    /// An endpoint's container has stopped: the endpoint and its leases stay until its node ends them.
    StopEndpoint {
        /// Endpoint.
        endpoint: EndpointId,
        /// Its epoch.
        epoch: u64,
    },
    /// An engine takes an endpoint whose container does not run into use again.
    RebindEndpoint(RebindEndpoint),
    /// Makes a token that hosts can join with.
    CreateToken(CreateToken),
    /// Revokes a token.
    RevokeToken {
        /// Token.
        token: TokenId,
    },
    /// Puts another secret in the place of a token's, which is revoked.
    RotateToken {
        /// Token.
        token: TokenId,
        /// SHA-256 of the new secret.
        hash: [u8; 32],
    },
    /// Puts another authority in the place of the one that issues certificates.
    RotateAuthority(RotateAuthority),
    /// Ends the belief in the authorities before.
    DropAuthorities,
    /// A node tells which certificate it has.
    ReportCertificate {
        /// Node.
        node: NodeId,
        /// Number of the authority that has issued it.
        authority: u32,
        /// Until when it is good.
        until_ms: u64,
    },
    /// A node has other addresses.
    MoveNode(MoveNode),
    /// Lets somebody administer the cluster from elsewhere.
    CreateAdmin(CreateAdmin),
    /// Locks him out.
    RemoveAdmin(AdminId),
}

impl Command {
    /// The feature level that every member must have before this command is proposed.
    pub fn feature_level(&self) -> u32 {
        match self {
            Self::RotateAuthority(new) if new.locks => MOVES,
            Self::ConfigureCluster(wanted) if wanted.lock_off => MOVES,
            Self::ClaimSubnet(_)
            | Self::ReleaseClaim { .. }
            | Self::NameNetwork { .. }
            | Self::ReportEngineNetwork(_)
            | Self::HoldAddress(_)
            | Self::ReleaseAddress { .. }
            | Self::PlaceEndpoint(_)
            | Self::StopEndpoint { .. }
            | Self::RebindEndpoint(_) => 2,
            Self::ConfigureCluster(_) | Self::SetVoting { .. } => 3,
            Self::RetireMember { .. } => OBSERVERS,
            Self::CreateToken(_)
            | Self::RevokeToken { .. }
            | Self::RotateToken { .. }
            | Self::RotateAuthority(_)
            | Self::DropAuthorities
            | Self::ReportCertificate { .. } => TOKENS,
            Self::MoveNode(_) | Self::CreateAdmin(_) | Self::RemoveAdmin(_) => MOVES,
            Self::AdmitNode(admit) if !admit.replaces.is_empty() => MOVES,
            Self::FoundCluster { sealed_key, .. } if !sealed_key.is_empty() => TOKENS,
            Self::AdmitNode(admit) if admit.token.is_some() => TOKENS,
            Self::AdmitNode(admit) if admit.voter_only => 3,
            Self::CreateNetwork(wanted) if wanted.engine.is_some() => 2,
            Self::CreateEndpoint(wanted) if !wanted.engine_id.is_empty() => 2,
            _ => 1,
        }
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
    /// It is only to vote.
    pub voter_only: bool,
    /// SHA-256 of the secret of the token that it joins with.
    pub token: Option<[u8; 32]>,
    /// Name or id of the node whose place it takes, with its endpoints; empty: it is a new one.
    pub replaces: String,
}

/// A node has other addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveNode {
    /// Node.
    pub node: NodeId,
    /// Where its daemon is reached.
    pub advertise: SocketAddr,
    /// Its VTEP.
    pub data_addr: IpAddr,
}

/// Makes a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateToken {
    /// SHA-256 of its secret.
    pub hash: [u8; 32],
    /// What hosts may become.
    pub role: TokenRole,
    /// How many hosts may join with it.
    pub uses: u32,
    /// How long it lasts, in milliseconds.
    pub life_ms: u64,
}

/// Puts another authority in the place of the one that issues certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotateAuthority {
    /// Its certificate (X.509, DER).
    pub certificate: Vec<u8>,
    /// The same, by the one before.
    pub crossed: Vec<u8>,
    /// Its key, encrypted.
    pub sealed_key: Vec<u8>,
    /// With a key that is to be on no disk.
    pub locks: bool,
}

/// Changes settings of the cluster. What is none stays as it is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ConfigureCluster {
    /// How many nodes vote at most: 1, 3 or 5; 0: by the number of nodes.
    pub voters: Option<u32>,
    /// How long a voter may not answer before another node takes its place, in milliseconds; 0:
    /// [`Cluster::REPLACE_AFTER`].
    pub replace_after_ms: Option<u64>,
    /// The key that the authority's is encrypted with is on the disks again.
    pub lock_off: bool,
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
    /// Container engine that its daemon works with; empty when it reaches none.
    pub engine: String,
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
    /// Which engine makes it, under which id. Its name is not known then until [`Command::NameNetwork`], and it may have
    /// the subnets that the node has claimed.
    pub engine: Option<EngineRef>,
}

impl CreateNetwork {
    /// The network, as messages name it: what an engine makes has no name yet.
    pub(super) fn shown(&self) -> String {
        if self.name.is_empty() || self.engine.is_some() {
            "a new network".to_owned()
        } else {
            format!("network {}", self.name)
        }
    }

    /// Whether a claim is made for this network: by the engine that makes it, and of just this prefix.
    pub(super) fn may_have(&self, claim: &Claim, cidr: IpNet) -> bool {
        claim.cidr == cidr && self.engine.as_ref().is_some_and(|engine| engine.node == claim.node)
    }
}

/// Something of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineRef {
    /// The engine's node.
    pub node: NodeId,
    /// The engine's id of it.
    pub id: String,
}

/// A node's engine wants a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimSubnet {
    /// Node.
    pub node: NodeId,
    /// Family.
    pub family: Family,
    /// The prefix; none: the lowest free one of the pools.
    pub cidr: Option<IpNet>,
    /// Part of it that addresses are to be handed out from.
    pub ip_range: Option<IpNet>,
}

/// A node's engine wants an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldAddress {
    /// Network.
    pub network: NetworkId,
    /// Node.
    pub node: NodeId,
    /// Family.
    pub family: Family,
    /// The address; none: what the container had last, else the lowest free one.
    pub address: Option<IpAddr>,
    /// Name of the container, or the likeliest; empty when nothing is known of it.
    pub name: String,
}

/// An engine has placed an endpoint's interface, or its container has other names now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceEndpoint {
    /// Endpoint.
    pub endpoint: EndpointId,
    /// Its epoch.
    pub epoch: u64,
    /// Name of the container.
    pub name: String,
    /// The engine's id of the container.
    pub container_id: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// Where the interface is.
    pub sandbox: Sandbox,
    /// Its name there.
    pub ifname: String,
    /// Ports that the engine publishes for the container.
    pub ports: Vec<String>,
}

/// An engine takes an endpoint into use again, under another id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebindEndpoint {
    /// Endpoint.
    pub endpoint: EndpointId,
    /// Its epoch.
    pub epoch: u64,
    /// The engine's id of the endpoint from now on.
    pub engine_id: String,
    /// Its MAC from now on; none: the one that it has.
    pub mac: Option<Mac>,
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
    /// Where its interface goes; empty when an engine makes the endpoint.
    pub sandbox: Sandbox,
    /// Name of its interface; none: the first ethN that no other endpoint of the sandbox has.
    pub ifname: Option<String>,
    /// The engine's id of the endpoint; empty without an engine. The addresses may be held for its node then.
    pub engine_id: String,
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
    /// An endpoint: created, activated, placed, or as it was when removed.
    Endpoint(Endpoint),
    /// A claimed subnet.
    Claim(Claim),
    /// The lease of an address that is held, or that somebody on the same node has already.
    Lease(Lease),
    /// The settings.
    Cluster(Cluster),
    /// A token: made, rotated or revoked.
    Token(Token),
    /// An admin: let in, or as he was when he was locked out.
    Admin(Admin),
}
