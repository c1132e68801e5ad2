//! Arithmetic of prefixes and addresses, and which prefixes can be a network's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::command::WantedSubnet;
use super::object::{Family, Subnet};
use super::rejection::{Reason, Rejection};

/// Shortest and longest IPv4 prefix of a network: a /31 or /32 has no room for containers.
const V4_PREFIX: (u8, u8) = (8, 30);
/// Shortest and longest IPv6 prefix of a network.
const V6_PREFIX: (u8, u8) = (32, 126);

/// Prefixes that a network cannot have, and what they are (RFC 6890).
const SPECIAL: [(IpNet, &str); 10] = [
    (v4([0, 0, 0, 0], 8), "\"this network\""),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([169, 254, 0, 0], 16), "link-local"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([240, 0, 0, 0], 4), "reserved"),
    (v6(0, 128), "unspecified"),
    (v6(1, 128), "loopback"),
    (v6(0xffff_0000_0000, 96), "IPv4-mapped"),
    (v6(0xfe80 << 112, 10), "link-local"),
    (v6(0xff00 << 112, 8), "multicast"),
];

const fn v4(bytes: [u8; 4], prefix: u8) -> IpNet {
    let [a, b, c, d] = bytes;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6(bits: u128, prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), prefix))
}

/// An address as a number, to be compared only within its family.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of a number that came from [`number`] of the same family.
pub(super) fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

/// First and last number of a prefix.
pub(super) fn span(cidr: IpNet) -> (u128, u128) {
    (number(cidr.network()), number(cidr.broadcast()))
}

/// First and last number that a container can have: not the network and broadcast address of
/// IPv4, not the subnet-router anycast address of IPv6 (RFC 4291, section 2.6.1).
pub(super) fn hosts(cidr: IpNet) -> (u128, u128) {
    let (first, last) = span(cidr);
    if cidr.addr().is_ipv4() { (first + 1, last.saturating_sub(1)) } else { (first + 1, last) }
}

/// Whether a container can have the address.
pub(super) fn is_host(cidr: IpNet, address: IpAddr) -> bool {
    let (first, last) = hosts(cidr);
    Family::of(cidr.addr()) == Family::of(address) && (first..=last).contains(&number(address))
}

/// First and last number that addresses of a subnet are handed out from.
pub(super) fn handed_out(subnet: &Subnet) -> (u128, u128) {
    let (first, last) = hosts(subnet.cidr);
    let (from, to) = span(subnet.ip_range.unwrap_or(subnet.cidr));
    (first.max(from), last.min(to))
}

/// Whether two prefixes have an address in common.
pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// The subnet that was asked for, with its gateway.
pub(super) fn checked(wanted: &WantedSubnet) -> Result<Subnet, Rejection> {
    let cidr = checked_cidr(wanted.cidr)?;
    let gateway = match wanted.gateway {
        Some(gateway) => checked_gateway(cidr, gateway)?,
        None => address(Family::of(cidr.addr()), hosts(cidr).0),
    };
    let subnet = Subnet { cidr, gateway, ip_range: wanted.ip_range };
    if let Some(range) = wanted.ip_range {
        check_range(&subnet, range)?;
    }
    Ok(subnet)
}

fn checked_cidr(cidr: IpNet) -> Result<IpNet, Rejection> {
    let refuse = |why: String, hint: String| {
        Err(Rejection::new(Reason::InvalidSubnet, format!("{cidr} cannot be a network's subnet: {why}"), hint))
    };
    let (shortest, longest) = if cidr.addr().is_ipv4() { V4_PREFIX } else { V6_PREFIX };
    let length = cidr.prefix_len();
    if length > longest {
        let larger = larger(cidr, longest);
        return refuse(format!("a /{length} has no room for containers"), format!("use {larger} or a larger one"));
    }
    if length < shortest {
        return refuse(format!("/{length} is too large"), format!("use a prefix of /{shortest} to /{longest}"));
    }
    let special = SPECIAL.iter().find(|(special, _)| overlap(*special, cidr));
    if let Some((special, what)) = special {
        let hint = "use a private range, such as 10.0.0.0/24 or fd00:1::/64";
        return refuse(format!("{special} is {what}"), hint.to_owned());
    }
    if cidr.trunc() != cidr {
        return refuse("it has host bits set".to_owned(), format!("use {}", cidr.trunc()));
    }
    Ok(cidr)
}

fn larger(cidr: IpNet, length: u8) -> IpNet {
    IpNet::new(cidr.addr(), length).unwrap_or(cidr).trunc()
}

fn checked_gateway(cidr: IpNet, gateway: IpAddr) -> Result<IpAddr, Rejection> {
    if is_host(cidr, gateway) {
        return Ok(gateway);
    }
    let why = if cidr.contains(&gateway) { "is its network or broadcast address" } else { "is not in it" };
    let first = address(Family::of(cidr.addr()), hosts(cidr).0);
    Err(Rejection::new(
        Reason::InvalidGateway,
        format!("gateway {gateway} cannot be used with subnet {cidr}: it {why}"),
        format!("use a host address of {cidr}, such as {first}"),
    ))
}

fn check_range(subnet: &Subnet, range: IpNet) -> Result<(), Rejection> {
    let cidr = subnet.cidr;
    let refuse = |why: &str, hint: String| {
        let message = format!("range {range} cannot be used with subnet {cidr}: it {why}");
        Err(Rejection::new(Reason::InvalidRange, message, hint))
    };
    if range.trunc() != range {
        return refuse("has host bits set", format!("use {}", range.trunc()));
    }
    if !cidr.contains(&range) {
        return refuse("is not part of it", format!("use a part of {cidr}"));
    }
    let (first, last) = handed_out(subnet);
    if first > last {
        return refuse("has no host address", format!("use a larger part of {cidr}"));
    }
    Ok(())
}
