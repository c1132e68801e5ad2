//! The addresses of a new endpoint.

use std::fmt;
use std::net::IpAddr;

use crate::model::id::NodeId;
use crate::model::object::{Family, Lease, LeaseState, Network, Subnet};
use crate::model::rejection::{Reason, Rejection};
use crate::model::subnet::{address, handed_out, is_host};

use super::{Changing, list};

/// Who asks for addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    /// Node of the container.
    pub(super) node: NodeId,
    /// Name of the container.
    pub(super) name: &'a str,
    /// An engine asks: it may not know the name of the container that it asks for.
    pub(super) engine: bool,
}

impl fmt::Display for Asker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() { f.write_str("a container") } else { write!(f, "container {}", self.name) }
    }
}

impl Changing<'_> {
    /// One address of each subnet: what was asked for, else what is kept for the name, else what
    /// the container had last, else the lowest free one.
    pub(super) fn choose_addresses(
        &self,
        asker: Asker<'_>,
        addresses: &[IpAddr],
        network: &Network,
    ) -> Result<Vec<IpAddr>, Rejection> {
        let mut asked = [None, None];
        for &address in addresses {
            self.check_asked(asker, network, address)?;
            let slot = &mut asked[usize::from(address.is_ipv6())];
            if let Some(other) = slot.replace(address) {
                return Err(Rejection::new(
                    Reason::InvalidAddress,
                    format!("{asker} cannot have {other} and {address} of network {}", network.name),
                    "ask for one address of each family at most",
                ));
            }
        }
        let choose = |subnet: &Subnet| {
            let asked = asked[usize::from(subnet.cidr.addr().is_ipv6())];
            asked.map_or_else(|| self.choose_address(asker, network, subnet), Ok)
        };
        network.subnets.iter().map(choose).collect()
    }

    pub(super) fn check_asked(&self, asker: Asker<'_>, network: &Network, asked: IpAddr) -> Result<(), Rejection> {
        let refuse = |reason: Reason, why: String, hint: &str| {
            let message = format!("{asker} cannot have {asked} of network {}: {why}", network.name);
            Err(Rejection::new(reason, message, hint))
        };
        if !network.subnets.iter().any(|subnet| is_host(subnet.cidr, asked)) {
            let inside = network.subnets.iter().find(|subnet| subnet.cidr.contains(&asked));
            let why = match inside {
                Some(subnet) if subnet.cidr.network() == asked => {
                    format!("it is the network address of {}", subnet.cidr)
                }
                Some(subnet) => format!("it is the broadcast address of {}", subnet.cidr),
                None => format!("it is not in {}", list(network.subnets.iter().map(|s| s.cidr.to_string()))),
            };
            return refuse(Reason::InvalidAddress, why, "ask for a host address of the network, or for none");
        }
        let Some(lease) = self.state.leases.get(&(network.id, asked)) else { return Ok(()) };
        let node = lease.node.and_then(|node| self.state.nodes.get(&node));
        let node = node.map_or("a removed node", |node| &node.name);
        let hint = "ask for another one, or for none; see `pontoon lease inspect`";
        match lease.state {
            _ if self.may_have(asker, lease) => Ok(()),
            LeaseState::Reserved => refuse(Reason::AddressReserved, format!("it is kept for {}", lease.name), hint),
            LeaseState::Pending | LeaseState::Active => {
                let name = if lease.name.is_empty() { "a container that starts" } else { &lease.name };
                refuse(Reason::AddressTaken, format!("{name} on {node} has it"), hint)
            }
            LeaseState::Kept => {
                let why = format!("it is kept for {}, which is stopped on {node}", lease.name);
                refuse(Reason::AddressTaken, why, "ask for another one, or for none; or remove that container")
            }
            LeaseState::Cooling { until_ms } => {
                let left = seconds(until_ms.saturating_sub(self.state.clock_ms));
                let why = format!("{} on {node} released it, and it is free in {left} s", lease.name);
                refuse(Reason::AddressTaken, why, hint)
            }
        }
    }

    /// Whether the container may have an address that has a lease already.
    fn may_have(&self, asker: Asker<'_>, lease: &Lease) -> bool {
        match lease.state {
            LeaseState::Reserved => lease.reserved_for.as_deref() == Some(asker.name),
            LeaseState::Pending => asker.engine && lease.held_for() == Some(asker.node),
            LeaseState::Active | LeaseState::Kept => false,
            // One who asks an engine for an address by number may have it back at once: its MAC is the same.
            LeaseState::Cooling { until_ms } => {
                let same_name = lease.name == asker.name || asker.engine;
                until_ms <= self.state.clock_ms || (lease.node == Some(asker.node) && same_name)
            }
        }
    }

    pub(super) fn choose_address(
        &self,
        asker: Asker<'_>,
        network: &Network,
        subnet: &Subnet,
    ) -> Result<IpAddr, Rejection> {
        let state = &self.state;
        let free = |address: &IpAddr| {
            let lease = state.leases.get(&(network.id, *address));
            subnet.cidr.contains(address) && lease.is_none_or(|lease| self.may_have(asker, lease))
        };
        if let Some(kept) = state.index.kept(network.id, asker.name).find(free) {
            return Ok(kept);
        }
        let mut had = state.index.released(network.id, asker.node, asker.name);
        if let Some(last) = had.find(|address| subnet.cidr.contains(address)).filter(free) {
            return Ok(last);
        }
        let (first, last) = handed_out(subnet);
        let lowest = state.index.free_address(network.id, Family::of(subnet.cidr.addr()), first, last);
        lowest.ok_or_else(|| self.network_full(asker, network, subnet))
    }

    fn network_full(&self, asker: Asker<'_>, network: &Network, subnet: &Subnet) -> Rejection {
        let clock_ms = self.state.clock_ms;
        let family = Family::of(subnet.cidr.addr());
        let (first, last) = handed_out(subnet);
        let range = (network.id, address(family, first))..=(network.id, address(family, last));
        let (mut reserved, mut pending, mut active, mut kept, mut cooling, mut next) = (0, 0, 0, 0, 0, u64::MAX);
        for lease in self.state.leases.range(range).map(|(_, lease)| lease) {
            match lease.state {
                LeaseState::Reserved => reserved += 1,
                LeaseState::Pending => pending += 1,
                LeaseState::Active => active += 1,
                LeaseState::Kept => kept += 1,
                LeaseState::Cooling { until_ms } if until_ms > clock_ms => {
                    cooling += 1;
                    next = next.min(until_ms);
                }
                LeaseState::Cooling { .. } => {}
            }
        }
        let mut counts = format!("{active} active, {pending} pending, {cooling} cooling, {reserved} reserved");
        if kept > 0 {
            counts.push_str(&format!(", {kept} kept for stopped containers"));
        }
        let range = subnet.ip_range.unwrap_or(subnet.cidr);
        let hint = if cooling > 0 {
            format!(
                "try again in {} s, when the next one has cooled, or use a larger network",
                seconds(next - clock_ms)
            )
        } else if kept > 0 {
            "remove stopped containers (docker container prune), or use a larger network".to_owned()
        } else {
            "detach a container, or use a larger network".to_owned()
        };
        let message = format!("network {} has no free address in {range} for {asker}", network.name);
        Rejection::new(Reason::NetworkFull, format!("{message}: {counts}"), hint)
    }
}

fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1000)
}
