//! The subnets of a new network.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::alloc;
use crate::model::command::{ClaimSubnet, CreateNetwork, WantedSubnet};
use crate::model::object::{Claim, Family, Node, NodeState, Subnet};
use crate::model::rejection::{Reason, Rejection};
use crate::model::subnet::{checked, overlap};

use super::{Changing, list};

/// Prefix length of IPv6 subnets (RFC 4291, section 2.5.4).
const V6_SUBNET: u8 = 64;

/// A prefix that a host sends elsewhere.
struct Occupied<'a> {
    cidr: IpNet,
    node: &'a Node,
    device: &'a str,
}

impl Changing<'_> {
    /// The subnets of a new network: an IPv4 one and, if asked for, an IPv6 one.
    pub(super) fn choose_subnets(&self, wanted: &CreateNetwork) -> Result<Vec<Subnet>, Rejection> {
        let (mut v4, mut v6) = (None, None);
        for asked in &wanted.subnets {
            let subnet = checked(&self.with_claimed_range(wanted, asked))?;
            let (slot, family) = match Family::of(subnet.cidr.addr()) {
                Family::V4 => (&mut v4, "IPv4"),
                Family::V6 => (&mut v6, "IPv6"),
            };
            if let Some(Subnet { cidr, .. }) = slot.replace(subnet) {
                return Err(Rejection::new(
                    Reason::InvalidSubnet,
                    format!("{} cannot have two {family} subnets: {cidr} and {}", wanted.shown(), subnet.cidr),
                    "give one subnet of each family at most",
                ));
            }
        }
        if let (Some(subnet), false) = (v6, wanted.ipv6) {
            let message = format!("{} cannot have {}: IPv6 was not asked for", wanted.shown(), subnet.cidr);
            return Err(Rejection::new(Reason::InvalidSubnet, message, "add --ipv6"));
        }
        for subnet in [v4, v6].into_iter().flatten() {
            self.check_conflicts(wanted, subnet.cidr)?;
        }
        let v4 = v4.map_or_else(|| self.free_subnet(wanted, Family::V4), Ok)?;
        let mut subnets = vec![v4];
        if wanted.ipv6 {
            subnets.push(v6.map_or_else(|| self.free_subnet(wanted, Family::V6), Ok)?);
        }
        Ok(subnets)
    }

    /// An engine tells the range of addresses when it asks for the subnet, and not again when it makes the network.
    fn with_claimed_range(&self, wanted: &CreateNetwork, asked: &WantedSubnet) -> WantedSubnet {
        let claim = self.state.claims.get(&asked.cidr).filter(|claim| wanted.may_have(claim, asked.cidr));
        WantedSubnet { ip_range: asked.ip_range.or_else(|| claim?.ip_range), ..*asked }
    }

    /// The subnet of a claim, as if a network was made with it.
    pub(super) fn claimable(&self, wanted: &ClaimSubnet) -> Result<Subnet, Rejection> {
        let network = CreateNetwork::default();
        let Some(cidr) = wanted.cidr else { return self.free_subnet(&network, wanted.family) };
        let subnet = checked(&WantedSubnet { cidr, gateway: None, ip_range: wanted.ip_range })?;
        self.check_conflicts(&network, subnet.cidr)?;
        Ok(subnet)
    }

    pub(super) fn check_conflicts(&self, wanted: &CreateNetwork, cidr: IpNet) -> Result<(), Rejection> {
        for other in self.state.networks.values() {
            if let Some(taken) = other.subnets.iter().find(|subnet| overlap(subnet.cidr, cidr)) {
                return Err(Rejection::new(
                    Reason::SubnetOverlap,
                    format!("{cidr} of {} overlaps {} of network {}", wanted.shown(), taken.cidr, other.name),
                    "use another subnet, or none to have one chosen",
                ));
            }
        }
        let in_the_way = |claim: &&Claim| overlap(claim.cidr, cidr) && !wanted.may_have(claim, cidr);
        if let Some(claim) = self.claims().find(in_the_way) {
            let node = self.state.nodes.get(&claim.node).map_or("?", |node| &node.name);
            return Err(Rejection::new(
                Reason::SubnetOverlap,
                format!(
                    "{cidr} of {} overlaps {}, which a network is being made with on node {node}",
                    wanted.shown(),
                    claim.cidr
                ),
                "use another subnet, or none to have one chosen",
            ));
        }
        for (node, address) in self.node_addresses() {
            if cidr.contains(&address) {
                return Err(Rejection::new(
                    Reason::InvalidSubnet,
                    format!("{cidr} of {} contains {address}, the address of node {}", wanted.shown(), node.name),
                    "use another subnet: the packets that carry the network go to this address",
                ));
            }
        }
        if wanted.force {
            return Ok(());
        }
        match self.occupied().find(|occupied| overlap(occupied.cidr, cidr)) {
            Some(Occupied { cidr: route, node, device }) => Err(Rejection::new(
                Reason::RouteOverlap,
                format!("{cidr} of {} overlaps the route {route} by {device} of node {}", wanted.shown(), node.name),
                "use another subnet, or --force if no container needs what is behind that route",
            )),
            None => Ok(()),
        }
    }

    /// The claims that have not ended.
    fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.state.claims.values().filter(|claim| claim.until_ms > self.state.clock_ms)
    }

    fn node_addresses(&self) -> impl Iterator<Item = (&Node, IpAddr)> {
        let nodes = self.state.nodes.values();
        nodes.flat_map(|node| [(node, node.data_addr), (node, node.advertise.ip())])
    }

    /// Routes and gateway bridges of the ready nodes.
    fn occupied(&self) -> impl Iterator<Item = Occupied<'_>> {
        let ready = self.state.nodes.values().filter(|node| node.state == NodeState::Ready);
        ready.flat_map(|node| {
            let routes = node.routes.iter().map(move |r| Occupied { cidr: r.destination, node, device: &r.device });
            let bridge = move |cidr: &IpNet| Occupied { cidr: *cidr, node, device: "the gateway bridge" };
            routes.chain(node.egress_subnets.iter().map(bridge))
        })
    }

    /// The lowest free subnet of the pools. `force` allows one that overlaps a route, if there is no other.
    fn free_subnet(&self, wanted: &CreateNetwork, family: Family) -> Result<Subnet, Rejection> {
        let pools = self.pools(family);
        let networks = self.state.networks.values().flat_map(|network| network.subnets.iter().map(|s| s.cidr));
        let networks = networks.chain(self.claims().map(|claim| claim.cidr));
        let mut obstacles: Vec<IpNet> = networks.chain(self.node_addresses().map(|(_, a)| IpNet::from(a))).collect();
        let hard = obstacles.len();
        obstacles.extend(self.occupied().map(|occupied| occupied.cidr));
        let free = |obstacles: &[IpNet]| pools.iter().find_map(|&(pool, p)| alloc::free_subnet(pool, p, obstacles));
        let found = free(&obstacles).or_else(|| wanted.force.then(|| free(obstacles.get(..hard)?)).flatten());
        let cidr = found.ok_or_else(|| self.pool_exhausted(wanted, &pools))?;
        checked(&WantedSubnet { cidr, gateway: None, ip_range: None })
    }

    fn pools(&self, family: Family) -> Vec<(IpNet, u8)> {
        let Some(cluster) = &self.state.cluster else { return Vec::new() };
        match family {
            Family::V4 => cluster.pools.iter().map(|pool| (IpNet::V4(pool.cidr), pool.prefix)).collect(),
            Family::V6 => vec![(IpNet::V6(cluster.pool6), V6_SUBNET)],
        }
    }

    fn pool_exhausted(&self, wanted: &CreateNetwork, pools: &[(IpNet, u8)]) -> Rejection {
        let names = list(pools.iter().map(|(pool, prefix)| format!("{pool} in /{prefix}s")));
        let in_the_way = self.occupied().filter(|occupied| pools.iter().any(|(pool, _)| overlap(*pool, occupied.cidr)));
        let routes = list(in_the_way.map(|o| format!("{} by {} of node {}", o.cidr, o.device, o.node.name)));
        let because = if routes.is_empty() { String::new() } else { format!("; routes in the way: {routes}") };
        Rejection::new(
            Reason::PoolExhausted,
            format!("no free subnet for {} in {names}{because}", wanted.shown()),
            "give one with --subnet (with --force it may overlap a route), or remove a network",
        )
    }
}
