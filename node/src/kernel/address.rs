//! Addresses and routes.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use pontoon_store::model::object::Family;

use super::error::Refusal;
use super::socket::Netlink;
use crate::plan::object::{Address, Route};

/// Marks our addresses and routes (IFA_PROTO, rtm_protocol). Of the numbers that nobody has registered in
/// linux/rtnetlink.h and iproute2's rt_protos.
pub(super) const PROTOCOL: u8 = 0x70;

/// An address as the kernel shows it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) index: u32,
    pub(super) address: IpNet,
    pub(super) broadcast: Option<std::net::Ipv4Addr>,
    pub(super) ours: bool,
}

/// A route as the kernel shows it.
#[derive(Debug, Clone)]
pub(super) struct SeenRoute {
    pub(super) family: Family,
    pub(super) destination: Option<IpNet>,
    pub(super) gateway: Option<IpAddr>,
    pub(super) index: Option<u32>,
    pub(super) ours: bool,
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// All addresses: `ip address show`.
pub(super) fn list(netlink: &mut Netlink) -> Result<Vec<Seen>, Refusal> {
    let answers = netlink.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let seen = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(message) => parse(message),
        _ => None,
    });
    Ok(seen.collect())
}

fn parse(message: AddressMessage) -> Option<Seen> {
    let (mut address, mut local, mut broadcast, mut ours) = (None, None, None, false);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Address(a) => address = Some(a),
            AddressAttribute::Local(a) => local = Some(a),
            AddressAttribute::Broadcast(a) => broadcast = Some(a),
            AddressAttribute::Protocol(p) => ours = u8::from(p) == PROTOCOL,
            _ => {}
        }
    }
    let address = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some(Seen { index: message.header.index, address, broadcast, ours })
}

fn message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    message
}

/// `ip address replace ADDRESS/PREFIX [brd BROADCAST] dev NAME nodad proto 112`: an address that the cluster has leased
/// to this container is nobody else's, so it need not be probed for (IPv6).
pub(super) fn add(netlink: &mut Netlink, index: u32, address: &Address) -> Result<(), Refusal> {
    let mut message = message(index, address.address);
    message.attributes.extend(address.broadcast.map(AddressAttribute::Broadcast));
    if address.address.addr().is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)));
    netlink.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// `ip address del ADDRESS/PREFIX dev NAME`
pub(super) fn delete(netlink: &mut Netlink, index: u32, address: IpNet) -> Result<(), Refusal> {
    netlink.request(RouteNetlinkMessage::DelAddress(message(index, address)), 0)
}

/// Unicast routes of the main table: `ip route show table main` and `ip -6 route show table main`.
pub(super) fn list_routes(netlink: &mut Netlink) -> Result<Vec<SeenRoute>, Refusal> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let answers = netlink.dump(&RouteNetlinkMessage::GetRoute(message))?;
        routes.extend(answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => parse_route(&route),
            _ => None,
        }));
    }
    Ok(routes)
}

fn parse_route(route: &RouteMessage) -> Option<SeenRoute> {
    let header = &route.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    };
    let family = if header.address_family == AddressFamily::Inet { Family::V4 } else { Family::V6 };
    let ours = u8::from(header.protocol) == PROTOCOL;
    let mut seen = SeenRoute { family, destination: None, gateway: None, index: None, ours };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                seen.destination = IpNet::new(ip(address)?, header.destination_prefix_length).ok();
            }
            RouteAttribute::Gateway(address) => seen.gateway = ip(address),
            RouteAttribute::Oif(index) => seen.index = Some(*index),
            // Of several next hops, one that tells the interface is enough to know that the destination is occupied.
            RouteAttribute::MultiPath(hops) => seen.index = hops.first().map(|h| h.interface_index),
            _ => {}
        }
    }
    Some(seen)
}

fn default_route(index: u32, family: Family) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if family == Family::V4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

/// `ip route add default via GATEWAY dev NAME proto 112`, or `ip route replace …`
pub(super) fn set_route(netlink: &mut Netlink, index: u32, route: &Route, replace: bool) -> Result<(), Refusal> {
    let mut message = default_route(index, route.family);
    if let Some(gateway) = route.gateway {
        let gateway = match gateway {
            IpAddr::V4(address) => RouteAddress::Inet(address),
            IpAddr::V6(address) => RouteAddress::Inet6(address),
        };
        message.attributes.push(RouteAttribute::Gateway(gateway));
    }
    let how = if replace { NLM_F_REPLACE } else { NLM_F_EXCL };
    netlink.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | how)
}

/// `ip route del default dev NAME proto 112`
pub(super) fn delete_route(netlink: &mut Netlink, index: u32, family: Family) -> Result<(), Refusal> {
    netlink.request(RouteNetlinkMessage::DelRoute(default_route(index, family)), 0)
}
