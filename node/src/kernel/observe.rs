//! What the kernel holds of ours.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::link::{InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoVxlan};
use pontoon_store::model::id::{EndpointId, Mac, Vni};
use pontoon_store::model::object::Sandbox;

use super::error::KernelError;
use super::link::Link;
use super::netns::{self, Namespace};
use super::socket::Netlink;
use super::{address, link, neighbour};
use crate::plan::desired::{Desired, Names, bridge_name, vxlan_name};
use crate::plan::object::{
    Address, Bridge, BridgeUse, Fdb, Key, Neighbour, Object, Peer, Place, Port, Route, Tunnel, Veth, Vxlan,
};
use crate::plan::observed::{Observed, SandboxState};

/// The links of one namespace.
struct Links(BTreeMap<u32, Link>);

impl Links {
    fn of(netlink: &mut Netlink, place: &Place) -> Result<Self, KernelError> {
        let links = link::list(netlink).map_err(KernelError::netlink(format!("list the links {place}")))?;
        Ok(Self(links.into_iter().map(|l| (l.index, l)).collect()))
    }

    fn master_of(&self, link: &Link) -> Option<String> {
        let master = link.master?;
        // A bridge that vanished between two answers is no bridge of ours.
        Some(self.0.get(&master).map_or_else(|| format!("#{master}"), |l| l.name.clone()))
    }
}

/// A veth pair of which only our end has been seen.
struct Half {
    veth: Veth,
    link: Link,
}

/// Everything that is looked at step by step.
pub(super) struct Observer<'a> {
    names: &'a Names,
    desired: &'a Desired,
    observed: Observed,
    halves: Vec<Half>,
}

impl<'a> Observer<'a> {
    pub(super) fn new(names: &'a Names, desired: &'a Desired) -> Self {
        Self { names, desired, observed: Observed::default(), halves: Vec::new() }
    }

    /// Adds what was seen elsewhere.
    pub(super) fn insert(&mut self, object: Object) {
        self.observed.insert(object);
    }

    /// Whether our gateway bridge was seen.
    pub(super) fn has_gateway(&self) -> bool {
        self.observed.objects.contains_key(&Key::Bridge(BridgeUse::Gateway))
    }

    /// Looks at our own namespace.
    pub(super) fn overlay(&mut self, netlink: &mut Netlink) -> Result<(), KernelError> {
        let links = Links::of(netlink, &Place::Overlay)?;
        let mut tunnels = BTreeMap::new();
        for link in links.0.values() {
            if let Some(vni) = number_of(&link.name, "br").filter(|v| bridge_name(*v) == link.name) {
                self.insert(Object::Bridge(bridge(link, BridgeUse::Overlay(vni))));
            } else if let Some(vxlan) = vxlan(link, &links) {
                tunnels.insert(link.index, vxlan.vni);
                self.insert(Object::Vxlan(vxlan));
            } else if let Some(endpoint) = self.names.endpoint_of_port(false, &link.name) {
                self.half(link, &links, endpoint, false);
            }
        }
        let entries = neighbour::list(netlink);
        let entries = entries.map_err(KernelError::netlink("list the neighbours in our namespace"))?;
        self.entries(&tunnels, entries);
        Ok(())
    }

    fn entries(&mut self, tunnels: &BTreeMap<u32, Vni>, entries: Vec<neighbour::Seen>) {
        let mut fdb: BTreeMap<(Vni, Mac), (Option<IpAddr>, bool)> = BTreeMap::new();
        for entry in entries {
            let (neighbour::Seen::Tunnel { index, .. }
            | neighbour::Seen::Static { index, .. }
            | neighbour::Seen::Neighbour { index, .. }) = entry;
            let Some(vni) = tunnels.get(&index).copied() else { continue };
            match entry {
                neighbour::Seen::Tunnel { mac, vtep, .. } => fdb.entry((vni, mac)).or_default().0 = Some(vtep),
                neighbour::Seen::Static { mac, .. } => fdb.entry((vni, mac)).or_default().1 = true,
                neighbour::Seen::Neighbour { address, mac, .. } => {
                    self.insert(Object::Neighbour(Neighbour { vni, address, mac }));
                }
            }
        }
        for ((vni, mac), (vtep, on_bridge)) in fdb {
            self.insert(Object::Fdb(Fdb { vni, mac, vtep, on_bridge }));
        }
    }

    /// Looks at the host's namespace.
    pub(super) fn host(&mut self, netlink: &mut Netlink) -> Result<(), KernelError> {
        let links = Links::of(netlink, &Place::Host)?;
        for link in links.0.values() {
            if let Some(endpoint) = self.names.endpoint_of_port(true, &link.name).filter(|_| link.is(&InfoKind::Veth)) {
                self.half(link, &links, endpoint, true);
            }
        }
        let group = self.names.group();
        let gateway = links.0.values().find(|l| l.name == self.names.gateway && l.is_bridge_of(group));
        let Some(gateway) = gateway else { return Ok(()) };
        self.insert(Object::Bridge(bridge(gateway, BridgeUse::Gateway)));
        let addresses = address::list(netlink).map_err(KernelError::netlink("list the host's addresses"))?;
        let name = gateway.name.clone();
        self.addresses(&Place::Host, &BTreeMap::from([(gateway.index, (name, None))]), addresses);
        Ok(())
    }

    fn half(&mut self, link: &Link, links: &Links, endpoint: EndpointId, egress: bool) {
        let wanted = match self.desired.objects.get(&Key::Veth(egress, endpoint)) {
            Some(Object::Veth(veth)) => Some(veth),
            _ => None,
        };
        // The network of a pair that nobody asks for matters only as far as the pair is not an egress pair.
        let unknown = || Vni::new(1).expect("1 is a VNI");
        let veth = Veth {
            endpoint,
            network: (!egress).then(|| wanted.and_then(|w| w.network).unwrap_or_else(unknown)),
            sandbox: wanted.and_then(|w| w.sandbox.clone()),
            port: Port {
                name: link.name.clone(),
                bridge: links.master_of(link),
                isolated: link.port.contains(&InfoBridgePort::Isolated(true)),
                mtu: link.mtu,
                up: link.up,
            },
            peer: None,
            offer: wanted.and_then(|w| w.offer.clone()),
        };
        self.halves.push(Half { veth, link: link.clone() });
    }

    /// Looks into a sandbox. One that cannot be looked into is no reason to leave the others alone.
    pub(super) fn sandbox(&mut self, sandbox: &Sandbox) {
        let looked = netns::open_sandbox(sandbox).and_then(|mut namespace| self.inside(sandbox, &mut namespace));
        let state = match looked {
            Ok(()) => SandboxState::Present,
            Err(error) => {
                let text = error.to_string();
                let gone = match &error {
                    // ESRCH: the file is one of a process that has ended.
                    KernelError::Namespace { source, .. } => {
                        source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(libc::ESRCH)
                    }
                    KernelError::OtherNamespace { .. } | KernelError::NoNamespace { .. } => true,
                    _ => false,
                };
                let alive = self.halves.iter().any(|h| h.veth.sandbox.as_ref() == Some(sandbox));
                match (gone, alive) {
                    (false, _) => SandboxState::Unreachable(text),
                    (true, true) => SandboxState::Hidden(text),
                    (true, false) => SandboxState::Vanished(text),
                }
            }
        };
        self.observed.sandboxes.insert(sandbox.clone(), state);
    }

    fn inside(&mut self, sandbox: &Sandbox, namespace: &mut Namespace) -> Result<(), KernelError> {
        let place = Place::Sandbox(sandbox.clone());
        let links = Links::of(&mut namespace.netlink, &place)?;
        let mut ours = BTreeMap::new();
        for half in self.halves.iter_mut().filter(|h| h.veth.sandbox.as_ref() == Some(sandbox)) {
            let other = half.link.link.and_then(|index| links.0.get(&index)).filter(|l| l.is_pair(&half.link));
            let Some((other, mac)) = other.and_then(|l| Some((l, l.mac?))) else { continue };
            half.veth.peer = Some(Peer { ifname: other.name.clone(), mac, mtu: other.mtu, up: other.up });
            ours.insert(other.index, (other.name.clone(), Some(half.veth.endpoint)));
        }
        let failed = |what: &str| KernelError::netlink(format!("list the {what} {place}"));
        let addresses = address::list(&mut namespace.netlink).map_err(failed("addresses"))?;
        self.addresses(&place, &ours, addresses);
        let routes = address::list_routes(&mut namespace.netlink).map_err(failed("routes"))?;
        for route in routes {
            let Some((ifname, endpoint)) = route.index.and_then(|i| ours.get(&i)) else { continue };
            let wanted = self.desired.objects.contains_key(&Key::Route(sandbox.clone(), route.family));
            if route.destination.is_none_or(|d| d.prefix_len() == 0) && (route.ours || wanted) {
                self.observed.insert(Object::Route(Route {
                    sandbox: sandbox.clone(),
                    family: route.family,
                    gateway: route.gateway,
                    ifname: ifname.clone(),
                    endpoint: *endpoint,
                }));
            }
        }
        Ok(())
    }

    /// Takes the addresses of our interfaces that carry our mark or are asked for: others are the container's own.
    fn addresses(
        &mut self,
        place: &Place,
        ours: &BTreeMap<u32, (String, Option<EndpointId>)>,
        addresses: Vec<address::Seen>,
    ) {
        for seen in addresses {
            let Some((ifname, endpoint)) = ours.get(&seen.index) else { continue };
            let object = Address {
                place: place.clone(),
                ifname: ifname.clone(),
                address: seen.address,
                broadcast: seen.broadcast,
                endpoint: *endpoint,
            };
            let object = Object::Address(object);
            if seen.ours || self.desired.objects.contains_key(&object.key()) {
                self.insert(object);
            }
        }
    }

    /// Ends the observation.
    pub(super) fn finish(mut self) -> Observed {
        for half in self.halves {
            self.observed.insert(Object::Veth(Box::new(half.veth)));
        }
        self.observed
    }
}

/// Whether an interface in our namespace has a name that we give there.
pub(super) fn is_our_name(names: &Names, name: &str) -> bool {
    number_of(name, "br").is_some_and(|vni| bridge_name(vni) == name)
        || number_of(name, "vx").is_some_and(|vni| vxlan_name(vni) == name)
        || names.endpoint_of_port(false, name).is_some()
}

fn number_of(name: &str, prefix: &str) -> Option<Vni> {
    name.strip_prefix(prefix)?.parse().ok().and_then(Vni::new)
}

/// Stands for a MAC that is none of one station's; no object of ours has it.
fn mac_of(link: &Link) -> Mac {
    link.mac.unwrap_or_else(|| Mac::new([2, 0, 0, 0, 0, 0]).expect("2 is even"))
}

fn bridge(link: &Link, purpose: BridgeUse) -> Bridge {
    let mcast_snooping = match &link.data {
        Some(InfoData::Bridge(data)) => data.contains(&InfoBridge::MulticastSnooping(true)),
        _ => false,
    };
    Bridge { purpose, name: link.name.clone(), mac: mac_of(link), mtu: link.mtu, mcast_snooping, up: link.up }
}

fn vxlan(link: &Link, links: &Links) -> Option<Vxlan> {
    let vni = number_of(&link.name, "vx").filter(|v| vxlan_name(*v) == link.name)?;
    let Some(InfoData::Vxlan(data)) = &link.data else { return None };
    let mut tunnel = Tunnel { local: None, port: 0, learning: false, proxy: false, misses: false };
    let mut id = None;
    for info in data {
        match info {
            InfoVxlan::Id(number) => id = Some(*number),
            InfoVxlan::Local(a) => tunnel.local = Some(IpAddr::V4(*a)),
            InfoVxlan::Local6(a) => tunnel.local = Some(IpAddr::V6(*a)),
            InfoVxlan::Port(port) => tunnel.port = *port,
            InfoVxlan::Learning(on) => tunnel.learning = *on,
            InfoVxlan::Proxy(on) => tunnel.proxy = *on,
            InfoVxlan::L2Miss(true) | InfoVxlan::L3Miss(true) => tunnel.misses = true,
            _ => {}
        }
    }
    // A device of our name with another VNI is made again like one that misses packets.
    tunnel.misses |= id != Some(vni.get());
    Some(Vxlan {
        vni,
        name: link.name.clone(),
        tunnel,
        mac: mac_of(link),
        mtu: link.mtu,
        up: link.up,
        bridge: links.master_of(link),
        port_learning: link.port.contains(&InfoBridgePort::Learning(true)),
    })
}
