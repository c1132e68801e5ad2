//! The objects that the cluster keeps. `proto/pontoon/v1/objects.proto` describes the fields
//! for users; here they have types that cannot be wrong.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::command::OBSERVERS;
use super::id::{ClusterId, EndpointId, Mac, NetworkId, NodeId, RaftId, TokenId, Vni};

/// Free labels of a node or a network.
pub type Labels = BTreeMap<String, String>;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bytes that VXLAN adds on an underlay of this family: outer IP header (20 or 40), UDP 8, VXLAN 8, inner
    /// Ethernet 14 (RFC 7348, section 5).
    pub fn vxlan_overhead(self) -> u32 {
        match self {
            Self::V4 => 50,
            Self::V6 => 70,
        }
    }
}

/// Settings that hold for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's id.
    pub id: ClusterId,
    /// When it was founded, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Where subnets are taken from.
    pub pools: Vec<Pool>,
    /// The /48 that IPv6 subnets (/64 each) are taken from.
    pub pool6: Ipv6Net,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Highest feature level that every member knows.
    pub feature_level: u32,
    /// Address family of every VTEP.
    pub underlay: Family,
    /// How many nodes vote at most: 1, 3 or 5; none: by the number of nodes.
    pub voters: Option<u8>,
    /// How long a voter may not answer before another node takes its place, in milliseconds; none:
    /// [`Cluster::REPLACE_AFTER`]. Kept as it was given: a state without it has the same bytes as before there was such a
    /// setting.
    pub replace_after_ms: Option<u64>,
    /// Certificates (X.509, DER) of the authorities that nodes are believed from; the last one issues theirs. None: it was
    /// founded before there were any.
    pub authorities: Vec<Vec<u8>>,
    /// Certificate of the one that issues, by the one before it; empty: it was never exchanged.
    pub crossed: Vec<u8>,
    /// Number of the one that issues, from 1.
    pub authority: u32,
    /// The key that the authority's is encrypted with is on no disk.
    pub locked: bool,
}

impl Cluster {
    /// Whether nodes may be outside the Raft membership: every one of them knows how to be that.
    pub fn has_observers(&self) -> bool {
        self.feature_level >= OBSERVERS
    }

    /// How long a voter may not answer before another node takes its place, unless it is set.
    pub const REPLACE_AFTER: Duration = Duration::from_secs(5 * 60);

    /// How long a voter may not answer before another node takes its place.
    pub fn replace_after(&self) -> Duration {
        self.replace_after_ms.map_or(Self::REPLACE_AFTER, Duration::from_millis)
    }
}

/// A range that IPv4 subnets are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The range.
    pub cidr: Ipv4Net,
    /// Prefix length of each subnet: at least the range's own, at most 30.
    pub prefix: u8,
}

/// What a host may become that joins with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRole {
    /// Any node, also one that votes.
    Voter,
    /// A node that does not vote, unless somebody promotes it.
    Observer,
}

/// Lets hosts join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of its secret.
    pub hash: [u8; 32],
    /// What hosts may become.
    pub role: TokenRole,
    /// How many hosts may join with it.
    pub uses: u32,
    /// How many have.
    pub used: u32,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it ends.
    pub until_ms: u64,
    /// When it was revoked.
    pub revoked_ms: Option<u64>,
}

impl Token {
    /// How many hosts may join with one at most.
    pub const MAX_USES: u32 = 1_000;
    /// How long one may last, in milliseconds: a second to a year.
    pub const LIFE_MS: RangeInclusive<u64> = 1_000..=365 * 24 * 3_600_000;
    /// How long one lasts unless it is given, in milliseconds: a day.
    pub const DEFAULT_LIFE_MS: u64 = 24 * 3_600_000;

    /// Its id.
    pub fn id(&self) -> TokenId {
        TokenId::of(&self.hash)
    }

    /// Whether somebody can join with it at this time, in milliseconds since the Unix epoch.
    pub fn is_good(&self, now_ms: u64) -> bool {
        self.revoked_ms.is_none() && now_ms < self.until_ms && self.used < self.uses
    }
}

/// What the cluster thinks of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Admitted, has not reported itself yet.
    Joining,
    /// The leader hears from it.
    Ready,
    /// The leader does not hear from it. Its endpoints and leases stay.
    Down,
}

/// Whether a node is to vote.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Voting {
    /// As the leader chooses.
    #[default]
    Auto,
    /// Rather than others.
    Promoted,
    /// Never, as long as others can.
    Demoted,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Log index of its admission.
    pub id: NodeId,
    /// Its id in the Raft membership.
    pub raft_id: RaftId,
    /// Unique name.
    pub name: String,
    /// Where other members reach its daemon.
    pub advertise: SocketAddr,
    /// Its VTEP.
    pub data_addr: IpAddr,
    /// Ed25519 public key.
    pub public_key: [u8; 32],
    /// Free labels.
    pub labels: Labels,
    /// Version of its daemon.
    pub version: String,
    /// Highest feature level that its daemon knows.
    pub feature_level: u32,
    /// What the leader thinks of it.
    pub state: NodeState,
    /// When it was admitted.
    pub joined_ms: u64,
    /// Routes of its host, without the default route.
    pub routes: Vec<Route>,
    /// MTU of the interface that carries its VTEP; 0 before its first report.
    pub underlay_mtu: u32,
    /// Subnets of its gateway bridge, at most one per family.
    pub egress_subnets: Vec<IpNet>,
    /// Random number of the attempt to join that it was admitted by.
    pub attempt: u64,
    /// Container engine that its daemon works with; empty when it reaches none.
    pub engine: String,
    /// Whether it is to vote.
    pub voting: Voting,
    /// It only votes: it has no containers, and nothing of the networks is in its kernel.
    pub voter_only: bool,
    /// Number of the authority that has issued its certificate; 0: it has not said so yet.
    pub authority: u32,
    /// Until when its certificate is good; 0: it has not said so yet.
    pub certificate_until_ms: u64,
}

/// A route of a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Destination.
    pub destination: IpNet,
    /// Interface it leaves by.
    pub device: String,
}

/// A subnet of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The prefix, without host bits.
    pub cidr: IpNet,
    /// The gateway: reserved, and answered by nobody.
    pub gateway: IpAddr,
    /// Part of the prefix that addresses are handed out from.
    pub ip_range: Option<IpNet>,
}

/// A layer-2 network that spans the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Log index of its creation.
    pub id: NetworkId,
    /// Unique name.
    pub name: String,
    /// Unique VNI.
    pub vni: Vni,
    /// One IPv4 subnet, and one IPv6 subnet at most; they overlap no other network's.
    pub subnets: Vec<Subnet>,
    /// MTU of the containers' interfaces.
    pub mtu: u32,
    /// No way out.
    pub internal: bool,
    /// Free labels.
    pub labels: Labels,
    /// When it was made.
    pub created_ms: u64,
    /// Node whose engine made it; none: `pontoon network create`.
    pub engine: Option<NodeId>,
    /// The engine that made it has not told its name yet: it has the first digits of the engine's id for a name, and no
    /// container can be on it.
    pub provisional: bool,
}

/// A subnet that a node's engine was given for a network that it is about to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The prefix, without host bits. It overlaps no network and no other claim.
    pub cidr: IpNet,
    /// Part of the prefix that addresses are to be handed out from.
    pub ip_range: Option<IpNet>,
    /// Node.
    pub node: NodeId,
    /// Until when nobody else gets it, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

impl Claim {
    /// How long a claim lasts, in milliseconds: an engine makes the network within a second of it.
    pub const LIFE_MS: u64 = 60_000;
}

/// A network as one node's engine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineNetwork {
    /// Network.
    pub network: NetworkId,
    /// Node.
    pub node: NodeId,
    /// The engine's own id of the network, unique on the node.
    pub id: String,
    /// Containers that the engine has on it, running or not, by id.
    pub containers: Vec<EngineContainer>,
}

/// A container of an engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EngineContainer {
    /// The engine's id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Its user has given it an address on the network by number: no other container is guessed to be the one that
    /// starts with it.
    pub fixed: bool,
}

/// State of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    /// Has its leases; its node has not finished its interfaces.
    Pending,
    /// In use.
    Active,
    /// Its container is stopped: it has neither a namespace nor an interface, and keeps its MAC and its leases until its
    /// node's engine starts the container again, or its node ends it. Nobody else does, so the node can take it into use
    /// again also without a majority.
    Stopped,
}

impl EndpointState {
    /// The state that the leases of an endpoint in this state have.
    pub fn of_leases(self) -> LeaseState {
        match self {
            Self::Pending => LeaseState::Pending,
            Self::Active => LeaseState::Active,
            Self::Stopped => LeaseState::Kept,
        }
    }
}

/// A container's place in a network. It owns its leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Log index of its creation.
    pub id: EndpointId,
    /// Network it is on.
    pub network: NetworkId,
    /// Node it is on.
    pub node: NodeId,
    /// Name of the container, unique on this network and node; the first digits of `engine_id` until the engine has
    /// told it.
    pub name: String,
    /// The engine's id of the container, or empty.
    pub container_id: String,
    /// Other names of the container.
    pub aliases: Vec<String>,
    /// Its MAC, unique on the network.
    pub mac: Mac,
    /// Its addresses, one of each of the network's subnets.
    pub addresses: Vec<IpAddr>,
    /// State.
    pub state: EndpointState,
    /// Network namespace it is in; empty while the engine has not placed it.
    pub sandbox: Sandbox,
    /// Name of its interface there; empty while the engine has not placed it.
    pub ifname: String,
    /// The sandbox's way out, kept by exactly one of its endpoints on networks that are not internal.
    pub egress: Option<EgressInterface>,
    /// When it was made.
    pub created_ms: u64,
    /// A command about the endpoint carries it, so that an old one cannot end a newer use.
    pub epoch: u64,
    /// The engine's id of the endpoint; empty without an engine. The engine then moves its interface, addresses it and
    /// gives the container its way out.
    pub engine_id: String,
    /// Ports that the engine publishes for its container.
    pub ports: Vec<String>,
}

impl Endpoint {
    /// How much of an engine's id stands for a name, in bytes: as much as engines show of their ids.
    const SHORT_ID: usize = 12;

    /// What stands for the name of something of an engine until it is known: the first digits of its id.
    pub fn short_id(id: &str) -> String {
        id.chars().take(Self::SHORT_ID).collect()
    }

    /// Whether its name is its container's, and does not stand for one that the engine has not told yet.
    pub fn is_named(&self) -> bool {
        self.engine_id.is_empty() || self.name != Self::short_id(&self.engine_id)
    }

    /// What its container is asked for by: its name, unless that only stands for one, its other names, and the engine's id.
    /// In lower case, as names are compared without regard to it (RFC 4343).
    pub fn called(&self) -> impl Iterator<Item = String> {
        let name = self.is_named().then_some(&self.name);
        let id = (!self.container_id.is_empty()).then_some(&self.container_id);
        name.into_iter().chain(&self.aliases).chain(id).map(|name| name.to_ascii_lowercase())
    }

    /// How many other names a container may have on a network.
    pub const MAX_ALIASES: usize = 32;

    /// Whether its container runs, or is about to.
    pub fn is_up(&self) -> bool {
        self.state != EndpointState::Stopped
    }

    /// The same without a place: no namespace, interface or ports.
    pub fn unplaced(self) -> Self {
        Self { sandbox: Sandbox::default(), ifname: String::new(), ports: Vec::new(), ..self }
    }

    /// Whether its interface is in its namespace, as far as the cluster knows.
    pub fn is_placed(&self) -> bool {
        !self.sandbox.key.is_empty()
    }
}

/// A network namespace on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sandbox {
    /// File that names it.
    pub netns: String,
    /// Boot id of the host and the kernel's namespace cookie: a path can come back with another namespace.
    pub key: String,
}

/// A sandbox's interface on its node's gateway bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressInterface {
    /// Name in the sandbox.
    pub ifname: String,
    /// Number of the host within each egress subnet of the node, from 2; unique on the node.
    pub host: u32,
}

/// State of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseState {
    /// Kept for a name.
    Reserved,
    /// Held by an endpoint that is being made, or for one that a node's engine is about to make.
    Pending,
    /// Held by an endpoint in use.
    Active,
    /// Held by an endpoint whose container is stopped.
    Kept,
    /// Released; nobody else gets it before this time (milliseconds since the Unix epoch).
    /// Afterwards the record only tells of the past.
    Cooling {
        /// Until when.
        until_ms: u64,
    },
}

/// One address of one network: who has it and who had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Network.
    pub network: NetworkId,
    /// Address.
    pub address: IpAddr,
    /// Grows each time the address changes hands.
    pub epoch: u64,
    /// State.
    pub state: LeaseState,
    /// Endpoint that holds it, when active or kept, and when pending unless it is held for an engine.
    pub endpoint: Option<EndpointId>,
    /// Node that holds it or held it last; none when reserved.
    pub node: Option<NodeId>,
    /// Name that it is reserved for, or of the container that holds it or held it last; empty while it is held for a
    /// container of an engine that has not told its name.
    pub name: String,
    /// Since when it is in this state.
    pub since_ms: u64,
    /// Name it was reserved for when the network was made: to be reserved again once released.
    pub reserved_for: Option<String>,
    /// Who had it before, latest first; [`Lease::MAX_PREVIOUS`] at most.
    pub previous: Vec<PastHolder>,
}

impl Lease {
    /// How many past holders are kept.
    pub const MAX_PREVIOUS: usize = 4;
    /// How long a released address is given to nobody else, in milliseconds: longer than the
    /// 30 s to 60 s that hosts keep an ARP entry without asking again.
    pub const COOLING_MS: u64 = 60_000;
    /// Name under which gateways are reserved.
    pub const GATEWAY: &str = "gateway";

    /// The node whose engine it is held for, when no endpoint has it yet.
    pub fn held_for(&self) -> Option<NodeId> {
        self.node.filter(|_| self.state == LeaseState::Pending && self.endpoint.is_none())
    }
}

/// Who had an address before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastHolder {
    /// Name of the container.
    pub name: String,
    /// Node it was on.
    pub node: NodeId,
    /// From when.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
}
