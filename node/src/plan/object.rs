//! The things that a node keeps in its kernel. Desired and observed are both maps of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use pontoon_store::model::id::{EndpointId, Mac, Vni};
use pontoon_store::model::object::{Family, Sandbox};

/// Where an interface is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The host's network namespace: the one that the daemon runs in.
    Host,
    /// The namespace of our own that holds the overlay bridges.
    Overlay,
    /// A container's.
    Sandbox(Sandbox),
}

/// What a bridge is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BridgeUse {
    /// The gateway bridge, in the host's namespace.
    Gateway,
    /// An overlay network, in our own namespace.
    Overlay(Vni),
}

/// Names an object. The order is the order of work: what comes first is made first and
/// removed last. The firewall stands before the VXLAN devices, so that no frame of a
/// stranger gets in between.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Our own namespace.
    Namespace,
    /// Our firewall table.
    Firewall,
    /// Our rules in Docker's chain.
    DockerUser,
    /// A bridge.
    Bridge(BridgeUse),
    /// A VXLAN device.
    Vxlan(Vni),
    /// Forwarding of packets that come in by an interface.
    Forwarding(Family, String),
    /// The overlay interface of an endpoint (false), or its egress interface (true).
    Veth(bool, EndpointId),
    /// An address of an interface.
    Address(Place, String, IpNet),
    /// The default route of a sandbox.
    Route(Sandbox, Family),
    /// A forwarding entry.
    Fdb(Vni, Mac),
    /// A neighbour entry.
    Neighbour(Vni, IpAddr),
}

/// A namespace of our own. It exists when the object does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its file names it. Without the file only the daemon's open handle keeps it.
    pub mounted: bool,
}

/// Our firewall table in the host's namespace: VTEP filter, NAT, and what may be forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firewall {
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// VNIs that are ours.
    pub vnis: BTreeSet<u32>,
    /// VTEPs that frames of these VNIs may come from.
    pub members: BTreeSet<IpAddr>,
    /// The gateway bridge.
    pub gateway: String,
    /// Its subnets: what leaves from them by another interface is masqueraded. Without any, the table has no rule for
    /// the gateway bridge.
    pub egress: BTreeSet<IpNet>,
    /// Interfaces whose forwarding we switched on. What comes in by them passes to the gateway bridge only in reply, and
    /// elsewhere only as part of a connection that somebody else has let through: the host does not become a router. The
    /// table is also the record of them.
    pub opened: BTreeSet<(Family, String)>,
    /// How the table in the kernel differs from its rules; none when it does not.
    pub altered: Option<String>,
}

impl Firewall {
    /// Whether it is another table's rules but for the networks that it has them for.
    pub fn differs_in_networks_only(&self, other: &Self) -> bool {
        Self { vnis: other.vnis.clone(), ..self.clone() } == *other
    }
}

/// Rules of ours in Docker's `DOCKER-USER` chain, which let the gateway bridge's traffic through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerUser {
    /// The gateway bridge.
    pub gateway: String,
    /// Both rules are there, once.
    pub complete: bool,
}

/// A bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// What it is for.
    pub purpose: BridgeUse,
    /// Name.
    pub name: String,
    /// MAC: fixed, else it would follow the lowest of its ports.
    pub mac: Mac,
    /// MTU.
    pub mtu: u32,
    /// IGMP and MLD snooping.
    pub mcast_snooping: bool,
    /// Administratively up.
    pub up: bool,
}

/// What cannot be changed on a VXLAN device: it has to be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// VTEP of this node.
    pub local: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// Learns forwarding entries from frames.
    pub learning: bool,
    /// Answers ARP and neighbour solicitations from its neighbour table.
    pub proxy: bool,
    /// Reports frames without forwarding or neighbour entry.
    pub misses: bool,
}

/// A VXLAN device in our own namespace; its UDP socket is in the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// VNI.
    pub vni: Vni,
    /// Name.
    pub name: String,
    /// What it was made with.
    pub tunnel: Tunnel,
    /// MAC.
    pub mac: Mac,
    /// MTU.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Its bridge.
    pub bridge: Option<String>,
    /// The bridge learns from frames that come in by it.
    pub port_learning: bool,
}

/// Forwarding of packets that come in by an interface of the host, although the host does
/// not forward in general.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// Of which family.
    pub family: Family,
    /// Interface.
    pub ifname: String,
}

/// Our end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name.
    pub name: String,
    /// Its bridge.
    pub bridge: Option<String>,
    /// Passes frames to ports that are not isolated only.
    pub isolated: bool,
    /// MTU.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
}

/// The container's end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Name.
    pub ifname: String,
    /// MAC.
    pub mac: Mac,
    /// MTU.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
}

/// A veth pair between a bridge and a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    /// Endpoint.
    pub endpoint: EndpointId,
    /// The endpoint's network; none: the pair is the sandbox's way out.
    pub network: Option<Vni>,
    /// Sandbox; none when observed and asked for by nobody.
    pub sandbox: Option<Sandbox>,
    /// Our end.
    pub port: Port,
    /// The container's end; none when it is not where it should be.
    pub peer: Option<Peer>,
    /// Instead of a sandbox: the container's end as it is left in the host's namespace for an engine to move. What the
    /// engine makes of it is not looked at.
    pub offer: Option<Peer>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Where the interface is.
    pub place: Place,
    /// Interface.
    pub ifname: String,
    /// Address and prefix length.
    pub address: IpNet,
    /// Broadcast address (IPv4).
    pub broadcast: Option<Ipv4Addr>,
    /// Endpoint that it belongs to.
    pub endpoint: Option<EndpointId>,
}

/// The default route of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Sandbox.
    pub sandbox: Sandbox,
    /// Family.
    pub family: Family,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Interface.
    pub ifname: String,
    /// Endpoint that it belongs to.
    pub endpoint: Option<EndpointId>,
}

/// Where frames to a MAC go. Two entries of the kernel: on the VXLAN device the VTEP, and on
/// the bridge a static one, so that frames to it are never flooded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fdb {
    /// VNI.
    pub vni: Vni,
    /// MAC.
    pub mac: Mac,
    /// VTEP; none when the VXLAN device has no entry.
    pub vtep: Option<IpAddr>,
    /// The bridge has its entry.
    pub on_bridge: bool,
}

/// Which MAC an address of another node has: the VXLAN device answers for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// VNI.
    pub vni: Vni,
    /// Address.
    pub address: IpAddr,
    /// MAC.
    pub mac: Mac,
}

/// One thing that a node keeps in its kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant holds the struct of its name")]
pub enum Object {
    Namespace(Namespace),
    Firewall(Box<Firewall>),
    DockerUser(DockerUser),
    Bridge(Bridge),
    Vxlan(Vxlan),
    Forwarding(Forwarding),
    Veth(Box<Veth>),
    Address(Address),
    Route(Route),
    Fdb(Fdb),
    Neighbour(Neighbour),
}

/// Whom a failure concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every endpoint of the node.
    Node,
    /// Every endpoint that has a way out.
    Egress,
    /// Every endpoint of the node on this network.
    Network(Vni),
    /// One endpoint.
    Endpoint(EndpointId),
}

/// Kinds of objects, as drift is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Namespace,
    Link,
    Address,
    Route,
    Neighbour,
    Fdb,
    Rule,
    Forwarding,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Namespace,
        Self::Link,
        Self::Address,
        Self::Route,
        Self::Neighbour,
        Self::Fdb,
        Self::Rule,
        Self::Forwarding,
    ];

    /// Its name in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Link => "link",
            Self::Address => "address",
            Self::Route => "route",
            Self::Neighbour => "neighbour",
            Self::Fdb => "fdb",
            Self::Rule => "rule",
            Self::Forwarding => "forwarding",
        }
    }
}

impl Object {
    /// Its key.
    pub fn key(&self) -> Key {
        match self {
            Self::Namespace(_) => Key::Namespace,
            Self::Firewall(_) => Key::Firewall,
            Self::DockerUser(_) => Key::DockerUser,
            Self::Bridge(b) => Key::Bridge(b.purpose),
            Self::Vxlan(v) => Key::Vxlan(v.vni),
            Self::Forwarding(f) => Key::Forwarding(f.family, f.ifname.clone()),
            Self::Veth(v) => Key::Veth(v.network.is_none(), v.endpoint),
            Self::Address(a) => Key::Address(a.place.clone(), a.ifname.clone(), a.address),
            Self::Route(r) => Key::Route(r.sandbox.clone(), r.family),
            Self::Fdb(f) => Key::Fdb(f.vni, f.mac),
            Self::Neighbour(n) => Key::Neighbour(n.vni, n.address),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Firewall(_) | Self::DockerUser(_) => Kind::Rule,
            Self::Bridge(_) | Self::Vxlan(_) | Self::Veth(_) => Kind::Link,
            Self::Forwarding(_) => Kind::Forwarding,
            Self::Address(_) => Kind::Address,
            Self::Route(_) => Kind::Route,
            Self::Fdb(_) => Kind::Fdb,
            Self::Neighbour(_) => Kind::Neighbour,
        }
    }

    /// Whom it concerns when it cannot be made.
    pub fn scope(&self) -> Scope {
        let of = |endpoint: Option<EndpointId>| endpoint.map_or(Scope::Egress, Scope::Endpoint);
        match self {
            Self::Namespace(_) | Self::Firewall(_) => Scope::Node,
            Self::DockerUser(_) | Self::Forwarding(_) => Scope::Egress,
            Self::Bridge(Bridge { purpose: BridgeUse::Gateway, .. }) => Scope::Egress,
            Self::Bridge(Bridge { purpose: BridgeUse::Overlay(vni), .. }) => Scope::Network(*vni),
            Self::Vxlan(v) => Scope::Network(v.vni),
            Self::Veth(v) => Scope::Endpoint(v.endpoint),
            Self::Address(a) => of(a.endpoint),
            Self::Route(r) => of(r.endpoint),
            Self::Fdb(f) => Scope::Network(f.vni),
            Self::Neighbour(n) => Scope::Network(n.vni),
        }
    }

    /// The sandbox that it is in.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        match self {
            Self::Veth(v) => v.sandbox.as_ref(),
            Self::Address(Address { place: Place::Sandbox(sandbox), .. }) => Some(sandbox),
            Self::Route(r) => Some(&r.sandbox),
            _ => None,
        }
    }
}
