//! Which objects the cluster's state asks of this node's kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use pontoon_store::model::id::{EndpointId, Mac, NetworkId, NodeId, Vni};
use pontoon_store::model::object::{Endpoint, Family, Network, Node, Sandbox};
use pontoon_store::model::state::State;

use super::object::{
    Address, Bridge, BridgeUse, DockerUser, Fdb, Firewall, Forwarding, Key, Namespace, Neighbour, Object, Peer, Place,
    Port, Route, Tunnel, Veth, Vxlan,
};
use super::observed::{Forwarding6, HostFacts};

/// MTU of the gateway bridge when no interface has the VTEP's address.
const ETHERNET_MTU: u32 = 1500;

/// Names that this daemon uses in its host's kernel. Several daemons on one host need names of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Our namespace, under `/run/netns`.
    pub netns: String,
    /// The gateway bridge: at most 15 bytes.
    pub gateway: String,
}

impl Default for Names {
    fn default() -> Self {
        Self { netns: "pontoon".into(), gateway: "pontoon_gw".into() }
    }
}

impl Names {
    /// Our nftables table, of the family `inet`: the namespace's name, with `_` for what a table's name cannot have.
    pub fn table(&self) -> String {
        let clean = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name: String = self.netns.chars().map(clean).collect();
        if name == "pontoon" { name } else { format!("pontoon_{name}") }
    }

    /// Marks our rules in chains of others.
    pub fn mark(&self) -> String {
        format!("pontoon:{}", self.netns)
    }

    /// The namespace's name as a number (FNV-1a, 32 bits).
    fn hash(&self) -> u32 {
        self.netns.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
    }

    /// Marks our bridges: their interface group (IFLA_GROUP), which the kernel takes together with the name, so that no
    /// bridge of ours is ever without it. Never 0, which is everybody's, and at most 31 bits: the kernel keeps an int.
    pub fn group(&self) -> u32 {
        (self.hash() & 0x7fff_ffff).max(1)
    }

    /// Begins the names of our interfaces in the host's namespace: "pt" and four digits that depend on the
    /// namespace's name (its hash, folded), so that the endpoint's number still fits into 15 bytes.
    pub fn port_prefix(&self) -> String {
        let hash = self.hash();
        format!("pt{:04x}", (hash >> 16) ^ (hash & 0xffff))
    }

    /// Our end of an endpoint's interface: on the overlay's bridge, or on the gateway bridge.
    pub fn port(&self, egress: bool, endpoint: EndpointId) -> String {
        if egress { format!("{}{:x}", self.port_prefix(), endpoint.0) } else { format!("v{:x}", endpoint.0) }
    }

    /// A container's end of its interface on the overlay, in the host's namespace, until its engine has moved it.
    pub fn offer(&self, endpoint: EndpointId) -> String {
        format!("{}{:x}o", self.port_prefix(), endpoint.0)
    }

    /// The endpoint whose interface's end has this name.
    pub fn endpoint_of_port(&self, egress: bool, name: &str) -> Option<EndpointId> {
        let prefix = if egress { self.port_prefix() } else { "v".into() };
        let number = u64::from_str_radix(name.strip_prefix(&prefix)?, 16).ok()?;
        (self.port(egress, EndpointId(number)) == name).then_some(EndpointId(number))
    }
}

/// Name of a network's bridge.
pub fn bridge_name(vni: Vni) -> String {
    format!("br{vni}")
}

/// Name of a network's VXLAN device.
pub fn vxlan_name(vni: Vni) -> String {
    format!("vx{vni}")
}

/// What this node's kernel should hold.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Index of the state it was made from.
    pub index: u64,
    /// Objects.
    pub objects: BTreeMap<Key, Object>,
    /// The endpoints in each sandbox.
    pub sandboxes: BTreeMap<Sandbox, Vec<EndpointId>>,
    /// What the administrator should know about it.
    pub notes: Vec<String>,
}

impl Desired {
    pub(crate) fn insert(&mut self, object: Object) {
        self.objects.insert(object.key(), object);
    }

    /// The same without the interfaces that these endpoints have on their networks. What does not carry a leased address
    /// stays until the endpoint is gone: another one of its sandbox may inherit the way out.
    pub(crate) fn without_interfaces_of(mut self, endpoints: &BTreeSet<EndpointId>) -> Self {
        for endpoint in endpoints {
            let Some(Object::Veth(veth)) = self.objects.remove(&Key::Veth(false, *endpoint)) else { continue };
            let ifname = veth.peer.map(|peer| peer.ifname);
            let on_it =
                |address: &Address| address.endpoint == Some(*endpoint) && Some(&address.ifname) == ifname.as_ref();
            self.objects.retain(|_, object| !matches!(object, Object::Address(address) if on_it(address)));
        }
        self
    }

    /// The firewall table, if one is wanted.
    pub fn firewall(&self) -> Option<&Firewall> {
        match self.objects.get(&Key::Firewall) {
            Some(Object::Firewall(firewall)) => Some(firewall),
            _ => None,
        }
    }
}

/// What the kernel of node `me` should hold. A node that the state does not know keeps only its empty namespace, and one
/// that only votes has nothing.
pub fn desired(state: &State, me: NodeId, names: &Names, facts: &HostFacts) -> Desired {
    let mut desired = Desired { index: state.applied_index, ..Desired::default() };
    if state.nodes.get(&me).is_some_and(|node| node.voter_only) {
        return desired;
    }
    desired.insert(Object::Namespace(Namespace { mounted: true }));
    let (Some(node), Some(cluster)) = (state.nodes.get(&me), &state.cluster) else { return desired };

    let mut local = BTreeSet::new();
    for endpoint in state.endpoints_of_node(me).filter(|endpoint| endpoint.is_up()) {
        let Some(network) = state.networks.get(&endpoint.network) else { continue };
        if local.insert(network.id) {
            let tunnel = Tunnel {
                local: Some(node.data_addr),
                port: cluster.vxlan_port,
                learning: false,
                proxy: true,
                misses: false,
            };
            add_network(&mut desired, network, me, tunnel);
        }
        add_endpoint(&mut desired, names, network, endpoint);
        add_egress(&mut desired, names, node, facts, endpoint);
    }
    for network in local.iter().filter_map(|id| state.networks.get(id)) {
        // Also of those that are stopped: their nodes may start them again, and nobody can tell this one without a majority.
        for endpoint in state.endpoints_of_network(network.id).filter(|e| e.node != me) {
            let Some(vtep) = state.nodes.get(&endpoint.node).map(|n| n.data_addr) else { continue };
            add_remote(&mut desired, network.vni, endpoint, vtep);
        }
    }
    add_host(&mut desired, state, names, node, facts, &local);
    desired
}

/// MAC of one of our devices: locally administered, made of the VNI and the node's id, and never of
/// the form 02:42 that endpoints have.
fn device_mac(first: u8, vni: Vni, node: NodeId) -> Mac {
    let [_, a, b, c] = vni.get().to_be_bytes();
    let [.., low] = node.0.to_be_bytes();
    Mac::new([first, 0x50, a, b, c, low]).expect("the first byte is even and not zero")
}

fn add_network(desired: &mut Desired, network: &Network, me: NodeId, tunnel: Tunnel) {
    let (vni, mtu) = (network.vni, network.mtu);
    desired.insert(Object::Bridge(Bridge {
        purpose: BridgeUse::Overlay(vni),
        name: bridge_name(vni),
        mac: device_mac(0x0a, vni, me),
        mtu,
        mcast_snooping: false,
        up: true,
    }));
    desired.insert(Object::Vxlan(Vxlan {
        vni,
        name: vxlan_name(vni),
        tunnel,
        mac: device_mac(0x0e, vni, me),
        mtu,
        up: true,
        bridge: Some(bridge_name(vni)),
        port_learning: false,
    }));
}

fn add_endpoint(desired: &mut Desired, names: &Names, network: &Network, endpoint: &Endpoint) {
    let placed = endpoint.is_placed();
    let ifname = if placed { endpoint.ifname.clone() } else { names.offer(endpoint.id) };
    let peer = Some(Peer { ifname, mac: endpoint.mac, mtu: network.mtu, up: placed });
    let (peer, offer) = if placed { (peer, None) } else { (None, peer) };
    desired.insert(Object::Veth(Box::new(Veth {
        endpoint: endpoint.id,
        network: Some(network.vni),
        sandbox: placed.then(|| endpoint.sandbox.clone()),
        port: Port {
            name: names.port(false, endpoint.id),
            bridge: Some(bridge_name(network.vni)),
            isolated: false,
            mtu: network.mtu,
            up: true,
        },
        peer,
        offer,
    })));
    if !placed {
        return;
    }
    desired.sandboxes.entry(endpoint.sandbox.clone()).or_default().push(endpoint.id);
    for address in &endpoint.addresses {
        let subnet = network.subnets.iter().find(|s| s.cidr.contains(address));
        let Some(subnet) = subnet else { continue };
        add_address(desired, endpoint, &endpoint.ifname, *address, subnet.cidr);
    }
}

fn add_address(desired: &mut Desired, endpoint: &Endpoint, ifname: &str, address: IpAddr, subnet: IpNet) {
    let Ok(address) = IpNet::new(address, subnet.prefix_len()) else { return };
    desired.insert(Object::Address(Address {
        place: Place::Sandbox(endpoint.sandbox.clone()),
        ifname: ifname.to_owned(),
        address,
        broadcast: broadcast(subnet),
        endpoint: Some(endpoint.id),
    }));
}

fn broadcast(subnet: IpNet) -> Option<Ipv4Addr> {
    match subnet {
        IpNet::V4(subnet) => Some(subnet.broadcast()),
        IpNet::V6(_) => None,
    }
}

/// The host with this number in a subnet; none when the subnet has none.
pub fn host_of(subnet: IpNet, number: u32) -> Option<IpAddr> {
    let address = match subnet {
        IpNet::V4(subnet) => IpAddr::V4(Ipv4Addr::from(u32::from(subnet.network()).checked_add(number)?)),
        IpNet::V6(subnet) => IpAddr::V6(Ipv6Addr::from(u128::from(subnet.network()).checked_add(u128::from(number))?)),
    };
    subnet.contains(&address).then_some(address)
}

fn add_egress(desired: &mut Desired, names: &Names, node: &Node, facts: &HostFacts, endpoint: &Endpoint) {
    let Some(egress) = &endpoint.egress else { return };
    let hosts = |number: u32| node.egress_subnets.iter().filter_map(move |s| Some((*s, host_of(*s, number)?)));
    let v4 = hosts(egress.host).find_map(|(_, a)| match a {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(_) => None,
    });
    // Without an IPv4 subnet the MAC is made as if the node had Docker's: it is unique on the bridge all the same.
    let mac = Mac::of_ipv4(v4.unwrap_or_else(|| Ipv4Addr::from(0xac12_0000_u32.wrapping_add(egress.host))));
    if node.egress_subnets.is_empty() {
        return;
    }
    let mtu = gateway_mtu(facts);
    desired.insert(Object::Veth(Box::new(Veth {
        endpoint: endpoint.id,
        network: None,
        sandbox: Some(endpoint.sandbox.clone()),
        port: Port {
            name: names.port(true, endpoint.id),
            bridge: Some(names.gateway.clone()),
            isolated: true,
            mtu,
            up: true,
        },
        peer: Some(Peer { ifname: egress.ifname.clone(), mac, mtu, up: true }),
        offer: None,
    })));
    for (subnet, address) in hosts(egress.host) {
        add_address(desired, endpoint, &egress.ifname, address, subnet);
        desired.insert(Object::Route(Route {
            sandbox: endpoint.sandbox.clone(),
            family: Family::of(address),
            gateway: host_of(subnet, 1),
            ifname: egress.ifname.clone(),
            endpoint: Some(endpoint.id),
        }));
    }
}

fn gateway_mtu(facts: &HostFacts) -> u32 {
    if facts.underlay_mtu == 0 { ETHERNET_MTU } else { facts.underlay_mtu }
}

fn add_remote(desired: &mut Desired, vni: Vni, endpoint: &Endpoint, vtep: IpAddr) {
    desired.insert(Object::Fdb(Fdb { vni, mac: endpoint.mac, vtep: Some(vtep), on_bridge: true }));
    for address in &endpoint.addresses {
        desired.insert(Object::Neighbour(Neighbour { vni, address: *address, mac: endpoint.mac }));
    }
}

/// What lies in the host's namespace: the gateway bridge, the firewall and forwarding.
fn add_host(
    desired: &mut Desired,
    state: &State,
    names: &Names,
    node: &Node,
    facts: &HostFacts,
    local: &BTreeSet<NetworkId>,
) {
    let egress = desired.objects.keys().any(|k| matches!(k, Key::Veth(true, _)));
    // An engine may start a container at any moment on a network that it has, and need not wait for rules then.
    let may_be_here =
        |network: &&Network| local.contains(&network.id) || state.engine_networks.contains_key(&(network.id, node.id));
    let mut firewall = Firewall {
        vxlan_port: state.cluster.as_ref().map_or(0, |c| c.vxlan_port),
        vnis: state.networks.values().filter(may_be_here).map(|network| network.vni.get()).collect(),
        members: state.nodes.values().filter(|n| !n.voter_only).map(|n| n.data_addr).collect(),
        gateway: names.gateway.clone(),
        egress: BTreeSet::new(),
        opened: BTreeSet::new(),
        altered: None,
    };
    if egress {
        add_gateway(desired, names, node, facts);
    }
    // Where the bridge cannot be made, nothing is to act on the interface that has its name.
    if egress && !facts.gateway_taken {
        firewall.egress = node.egress_subnets.iter().copied().collect();
        firewall.opened = opened(desired, names, node, facts);
        for (family, ifname) in &firewall.opened {
            desired.insert(Object::Forwarding(Forwarding { family: *family, ifname: ifname.clone() }));
        }
        if facts.docker_user {
            desired.insert(Object::DockerUser(DockerUser { gateway: names.gateway.clone(), complete: true }));
        }
    }
    if egress || !firewall.vnis.is_empty() {
        desired.insert(Object::Firewall(Box::new(firewall)));
    }
}

/// Interfaces whose forwarding has to be on, and is on only because of us.
fn opened(desired: &mut Desired, names: &Names, node: &Node, facts: &HostFacts) -> BTreeSet<(Family, String)> {
    let mut opened = BTreeSet::new();
    for family in node.egress_subnets.iter().map(|s| Family::of(s.addr())) {
        let per_interface = match family {
            Family::V4 => !facts.forwarding4,
            Family::V6 => facts.forwarding6 == Forwarding6::PerInterface,
        };
        if per_interface {
            opened.insert((family, names.gateway.clone()));
            opened.extend(facts.openable.iter().filter(|(f, _)| *f == family).cloned());
        }
        if family == Family::V6 && facts.forwarding6 == Forwarding6::Off {
            desired.notes.push(
                "containers have no way out over IPv6: this kernel can forward IPv6 for the whole host only; \
                 set net.ipv6.conf.all.forwarding=1, or use Linux 6.17 or later"
                    .into(),
            );
        }
    }
    opened
}

fn add_gateway(desired: &mut Desired, names: &Names, node: &Node, facts: &HostFacts) {
    let mut mac = Mac::of_ipv4(Ipv4Addr::new(172, 18, 0, 1));
    for subnet in &node.egress_subnets {
        let Some(address) = host_of(*subnet, 1) else { continue };
        if let IpAddr::V4(v4) = address {
            mac = Mac::of_ipv4(v4);
        }
        let Ok(with_prefix) = IpNet::new(address, subnet.prefix_len()) else { continue };
        desired.insert(Object::Address(Address {
            place: Place::Host,
            ifname: names.gateway.clone(),
            address: with_prefix,
            broadcast: broadcast(*subnet),
            endpoint: None,
        }));
    }
    desired.insert(Object::Bridge(Bridge {
        purpose: BridgeUse::Gateway,
        name: names.gateway.clone(),
        mac,
        mtu: gateway_mtu(facts),
        mcast_snooping: false,
        up: true,
    }));
}
