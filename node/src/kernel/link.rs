//! Links: bridges, VXLAN devices and veth pairs.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use pontoon_store::model::id::Mac;

use super::error::Refusal;
use super::netns::Namespace;
use super::socket::Netlink;
use crate::plan::object::{Bridge, Peer, Port, Vxlan};

/// A link as the kernel shows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) loopback: bool,
    /// Interface group; 0: none was given.
    pub(super) group: u32,
    /// Index of its bridge.
    pub(super) master: Option<u32>,
    /// Index of the other end, in the other end's namespace.
    pub(super) link: Option<u32>,
    pub(super) kind: Option<InfoKind>,
    pub(super) data: Option<InfoData>,
    pub(super) port: Vec<InfoBridgePort>,
}

impl Link {
    fn parse(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            loopback: flags.contains(LinkFlags::Loopback),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().and_then(Mac::new),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.master = Some(index).filter(|i| *i != 0),
                LinkAttribute::Link(index) => link.link = Some(index),
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::LinkInfo(infos) => link.take_info(infos),
                _ => {}
            }
        }
        link
    }

    pub(super) fn is(&self, kind: &InfoKind) -> bool {
        self.kind.as_ref() == Some(kind)
    }

    /// Whether the two, each in its own namespace, are the ends of one veth pair. Indexes are those of one namespace; that
    /// the two name each other tells a pair.
    pub(super) fn is_pair(&self, other: &Self) -> bool {
        let names = |a: &Self, b: &Self| a.is(&InfoKind::Veth) && a.link == Some(b.index);
        names(self, other) && names(other, self)
    }

    /// Whether it is a bridge that carries our mark.
    pub(super) fn is_bridge_of(&self, group: u32) -> bool {
        self.is(&InfoKind::Bridge) && self.group == group
    }

    fn take_info(&mut self, infos: Vec<LinkInfo>) {
        for info in infos {
            match info {
                LinkInfo::Kind(kind) => self.kind = Some(kind),
                LinkInfo::Data(data) => self.data = Some(data),
                LinkInfo::PortData(InfoPortData::BridgePort(port)) => self.port = port,
                _ => {}
            }
        }
    }
}

/// What is to be set on a link; what is none or empty stays.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) mac: Option<Mac>,
    pub(super) mtu: Option<u32>,
    /// Index of the bridge; 0 takes it out of its bridge.
    pub(super) master: Option<u32>,
    pub(super) port: Vec<InfoBridgePort>,
    pub(super) bridge: Vec<InfoBridge>,
    /// No link-local address: the interface is to send nothing of its own.
    pub(super) silent: bool,
    pub(super) up: Option<bool>,
}

/// All links: `ip -d link show`.
pub(super) fn list(netlink: &mut Netlink) -> Result<Vec<Link>, Refusal> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let answers = netlink.dump(&RouteNetlinkMessage::GetLink(message))?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(Link::parse(link)),
        _ => None,
    });
    Ok(links.collect())
}

/// A link; none when there is none of that name: `ip -d link show dev NAME`.
pub(super) fn find(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, Refusal> {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    match netlink.get(RouteNetlinkMessage::GetLink(message)) {
        Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Some(Link::parse(link))),
        Err(Refusal { errno: libc::ENODEV, .. }) => Ok(None),
        Ok(_) => Err(Refusal { errno: libc::EPROTO, text: "the answer is no link".into() }),
        Err(refusal) => Err(refusal),
    }
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn make(netlink: &mut Netlink, message: LinkMessage) -> Result<(), Refusal> {
    netlink.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// `ip link add NAME group GROUP address MAC mtu N type bridge mcast_snooping 0`
pub(super) fn add_bridge(netlink: &mut Netlink, bridge: &Bridge, group: u32) -> Result<(), Refusal> {
    let mut message = named(&bridge.name);
    message.attributes.push(LinkAttribute::Group(group));
    message.attributes.push(LinkAttribute::Address(bridge.mac.bytes().to_vec()));
    message.attributes.push(LinkAttribute::Mtu(bridge.mtu));
    let data = InfoData::Bridge(vec![InfoBridge::MulticastSnooping(bridge.mcast_snooping)]);
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)]));
    make(netlink, message)
}

/// `ip link add NAME netns OURS address MAC mtu N type vxlan id VNI local VTEP dstport PORT nolearning proxy`, sent in
/// the host's namespace: the device appears in ours at once, and its UDP socket stays in the host's.
pub(super) fn add_vxlan(host: &mut Netlink, overlay: &Namespace, vxlan: &Vxlan) -> Result<(), Refusal> {
    let tunnel = &vxlan.tunnel;
    let mut message = named(&vxlan.name);
    message.attributes.push(LinkAttribute::NetNsFd(overlay.file.as_raw_fd()));
    message.attributes.push(LinkAttribute::Address(vxlan.mac.bytes().to_vec()));
    message.attributes.push(LinkAttribute::Mtu(vxlan.mtu));
    let mut data = vec![InfoVxlan::Id(vxlan.vni.get())];
    match tunnel.local {
        Some(IpAddr::V4(local)) => data.push(InfoVxlan::Local(local)),
        Some(IpAddr::V6(local)) => data.push(InfoVxlan::Local6(local)),
        None => {}
    }
    data.extend([InfoVxlan::Port(tunnel.port), InfoVxlan::Learning(tunnel.learning), InfoVxlan::Proxy(tunnel.proxy)]);
    let info = vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))];
    message.attributes.push(LinkAttribute::LinkInfo(info));
    make(host, message)
}

/// `ip link add PORT mtu N type veth peer name NAME netns SANDBOX address MAC mtu N`
pub(super) fn add_veth(netlink: &mut Netlink, port: &Port, peer: &Peer, sandbox: RawFd) -> Result<(), Refusal> {
    let mut other = named(&peer.ifname);
    other.attributes.push(LinkAttribute::Address(peer.mac.bytes().to_vec()));
    other.attributes.push(LinkAttribute::Mtu(peer.mtu));
    other.attributes.push(LinkAttribute::NetNsFd(sandbox));
    let mut message = named(&port.name);
    message.attributes.push(LinkAttribute::Mtu(port.mtu));
    let data = InfoData::Veth(InfoVeth::Peer(other));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)]));
    make(netlink, message)
}

/// `ip link del dev NAME`
pub(super) fn delete(netlink: &mut Netlink, index: u32) -> Result<(), Refusal> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    netlink.request(RouteNetlinkMessage::DelLink(message), 0)
}

/// `ip link set dev NAME [address MAC] [mtu N] [master BRIDGE] [type bridge …] [type bridge_slave …] [up|down]`: each by
/// a request of its own, since a port's options need the port, and going up comes last. `RTM_NEWLINK` and not
/// `RTM_SETLINK`, which ignores the options of a kind of link without a word.
pub(super) fn set(netlink: &mut Netlink, index: u32, settings: Settings) -> Result<(), Refusal> {
    let mut wanted: Vec<Vec<LinkAttribute>> = Vec::new();
    if settings.silent {
        let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        wanted.push(vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])])]);
    }
    let mac = settings.mac.map(|mac| LinkAttribute::Address(mac.bytes().to_vec()));
    let basics: Vec<_> = mac.into_iter().chain(settings.mtu.map(LinkAttribute::Mtu)).collect();
    if !basics.is_empty() {
        wanted.push(basics);
    }
    wanted.extend(settings.master.map(|master| vec![LinkAttribute::Controller(master)]));
    if !settings.bridge.is_empty() {
        let data = LinkInfo::Data(InfoData::Bridge(settings.bridge));
        wanted.push(vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), data])]);
    }
    if !settings.port.is_empty() {
        let data = LinkInfo::PortData(InfoPortData::BridgePort(settings.port));
        wanted.push(vec![LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bridge), data])]);
    }
    for attributes in wanted {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        netlink.request(RouteNetlinkMessage::NewLink(message), 0)?;
    }
    if let Some(up) = settings.up {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.header.change_mask = LinkFlags::Up;
        netlink.request(RouteNetlinkMessage::NewLink(message), 0)?;
    }
    Ok(())
}
