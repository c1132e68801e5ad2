//! Which subnets the gateway bridge gets.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use pontoon_store::model::id::NodeId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::observed::HostFacts;

/// Docker's choice for docker_gwbridge, and what it takes when that is occupied:
/// 172.18.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 to 192.168.240.0/20.
fn candidates() -> impl Iterator<Item = Ipv4Net> {
    let of = |address, prefix| Ipv4Net::new_assert(address, prefix);
    let class_b = (18..=31).map(move |b| of(Ipv4Addr::new(172, b, 0, 0), 16));
    class_b.chain((0..=240).step_by(16).map(move |c| of(Ipv4Addr::new(192, 168, c, 0), 20)))
}

/// Whether two prefixes have an address in common.
pub(crate) fn overlaps(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Whether a subnet meets no route and no address of the host, nor one of `taken`.
pub fn is_free(subnet: IpNet, facts: &HostFacts, taken: &[IpNet]) -> bool {
    let routes = facts.routes.iter().map(|r| r.destination);
    !routes.chain(facts.addresses.iter().copied()).chain(taken.iter().copied()).any(|n| overlaps(n, subnet))
}

/// The IPv4 subnet for the gateway bridge: the one it has, else the one of `before` (which the node had reported), else
/// the first candidate, that meets no route or address of the host and none of the overlay subnets `taken`.
/// None: all are occupied.
pub fn choose(facts: &HostFacts, before: &[IpNet], taken: &[IpNet]) -> Option<IpNet> {
    let kept = facts.gateway_subnets.iter().chain(before).copied().filter(|s| matches!(s, IpNet::V4(_)));
    kept.chain(candidates().map(IpNet::V4)).find(|subnet| is_free(*subnet, facts, taken))
}

/// The IPv6 subnet for a node's gateway bridge: a /64 of the upper half of the cluster's pool, from its end downwards by
/// node id (the overlay's are taken from its beginning). Nothing is routed to it from elsewhere, so two nodes may share one.
pub fn choose6(pool6: Ipv6Net, node: NodeId) -> IpNet {
    // A pool is a /48: 16 bits number its /64s. A shorter or longer one is treated alike, by the 64-bit prefix.
    let low_bits = u128::from(64_u8.saturating_sub(pool6.prefix_len()).min(15));
    let mask = (1_u128 << low_bits) - 1;
    let number = mask - (u128::from(node.0) & (mask >> 1));
    let network = u128::from(pool6.network()) | (number << 64);
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::from(network)), 64)
}
