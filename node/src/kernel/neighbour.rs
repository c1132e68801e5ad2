//! Forwarding entries and neighbours.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use pontoon_store::model::id::Mac;

use super::error::Refusal;
use super::socket::{Netlink, Request};

/// An entry as the kernel shows it.
#[derive(Debug, Clone)]
pub(super) enum Seen {
    /// On a VXLAN device: frames to the MAC go to the VTEP.
    Tunnel { index: u32, mac: Mac, vtep: IpAddr },
    /// On a bridge: frames to the MAC go to this port, for good.
    Static { index: u32, mac: Mac },
    /// A permanent neighbour of a device.
    Neighbour { index: u32, address: IpAddr, mac: Mac },
}

/// All forwarding entries and permanent neighbours: `bridge fdb show` and `ip neighbour show nud permanent`.
pub(super) fn list(netlink: &mut Netlink) -> Result<Vec<Seen>, Refusal> {
    let mut seen = Vec::new();
    for family in [AddressFamily::Bridge, AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        let answers = netlink.dump(&RouteNetlinkMessage::GetNeighbour(message))?;
        seen.extend(answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(entry) => parse(&entry),
            _ => None,
        }));
    }
    Ok(seen)
}

fn parse(message: &NeighbourMessage) -> Option<Seen> {
    let header = &message.header;
    let (mut destination, mut mac, mut master) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(address) => destination = ip(header.family, address),
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().and_then(Mac::new);
            }
            NeighbourAttribute::Controller(index) => master = Some(*index),
            _ => {}
        }
    }
    let (index, mac) = (header.ifindex, mac?);
    if header.family != AddressFamily::Bridge {
        let permanent = header.state == NeighbourState::Permanent;
        return permanent.then_some(Seen::Neighbour { index, address: destination?, mac });
    }
    match (destination, master) {
        (Some(vtep), _) => Some(Seen::Tunnel { index, mac, vtep }),
        // `static` of the bridge command is NUD_NOARP; the devices' own addresses are `permanent`.
        (None, Some(_)) if header.state == NeighbourState::Noarp => Some(Seen::Static { index, mac }),
        _ => None,
    }
}

/// An address; of a forwarding entry, whose family is the bridge's, by its length.
fn ip(family: AddressFamily, address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(a) => Some(IpAddr::V4(*a)),
        NeighbourAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        NeighbourAddress::Other(bytes) if family == AddressFamily::Bridge => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
        }
        _ => None,
    }
}

fn entry(index: u32, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.bytes().to_vec()));
    message
}

fn on_tunnel(index: u32, mac: Mac) -> NeighbourMessage {
    let mut message = entry(index, mac);
    message.header.flags = NeighbourFlags::Own;
    message.header.state = NeighbourState::Permanent;
    message
}

fn on_bridge(index: u32, mac: Mac) -> NeighbourMessage {
    let mut message = entry(index, mac);
    message.header.flags = NeighbourFlags::Controller;
    message.header.state = NeighbourState::Noarp;
    message
}

/// `bridge fdb replace MAC dev VXLAN self permanent dst VTEP`
pub(super) fn set_tunnel(index: u32, mac: Mac, vtep: IpAddr) -> Request {
    let mut message = on_tunnel(index, mac);
    let bytes = match vtep {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)));
    (RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// `bridge fdb replace MAC dev VXLAN master static`
pub(super) fn set_static(index: u32, mac: Mac) -> Request {
    (RouteNetlinkMessage::NewNeighbour(on_bridge(index, mac)), NLM_F_CREATE | NLM_F_REPLACE)
}

/// `bridge fdb del MAC dev VXLAN self`
pub(super) fn delete_tunnel(index: u32, mac: Mac) -> Request {
    (RouteNetlinkMessage::DelNeighbour(on_tunnel(index, mac)), 0)
}

/// `bridge fdb del MAC dev VXLAN master`
pub(super) fn delete_static(index: u32, mac: Mac) -> Request {
    (RouteNetlinkMessage::DelNeighbour(on_bridge(index, mac)), 0)
}

fn neighbour(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    let (family, address) = match address {
        IpAddr::V4(a) => (AddressFamily::Inet, NeighbourAddress::Inet(a)),
        IpAddr::V6(a) => (AddressFamily::Inet6, NeighbourAddress::Inet6(a)),
    };
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::Destination(address));
    message
}

/// `ip neighbour replace ADDRESS lladdr MAC dev VXLAN nud permanent`
pub(super) fn set_neighbour(index: u32, address: IpAddr, mac: Mac) -> Request {
    let mut message = neighbour(index, address);
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.bytes().to_vec()));
    (RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// `ip neighbour del ADDRESS dev VXLAN`
pub(super) fn delete_neighbour(index: u32, address: IpAddr) -> Request {
    (RouteNetlinkMessage::DelNeighbour(neighbour(index, address)), 0)
}
