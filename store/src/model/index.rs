//! What is derived from the objects so that commands need not search: never stored, never
//! part of what nodes compare.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::id::{EndpointId, Mac, NetworkId, NodeId};
use super::object::{Endpoint, Family, Lease, LeaseState};
use super::state::State;
use super::subnet::{address, number};

/// Ways to find endpoints and leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Index {
    names: BTreeMap<(NetworkId, NodeId, String), EndpointId>,
    /// By every name that a container is asked for by: [`Endpoint::called`].
    called: BTreeSet<(NetworkId, String, EndpointId)>,
    networks: BTreeSet<(NetworkId, EndpointId)>,
    nodes: BTreeSet<(NodeId, EndpointId)>,
    sandboxes: BTreeSet<(NodeId, String, EndpointId)>,
    macs: BTreeMap<(NetworkId, Mac), EndpointId>,
    egress_hosts: Runs<NodeId>,
    /// Released addresses by who had them, with the time of release.
    released: BTreeSet<(NetworkId, NodeId, String, u64, IpAddr)>,
    /// Addresses kept for names.
    kept: BTreeSet<(NetworkId, String, IpAddr)>,
    /// Ends of cooling that are to come.
    cooling: BTreeSet<(u64, NetworkId, IpAddr)>,
    /// Addresses that nobody can get now.
    busy: Runs<(NetworkId, Family)>,
}

impl Index {
    /// The index of a state.
    pub(super) fn of(state: &State) -> Self {
        let mut index = Self::default();
        state.endpoints.values().for_each(|endpoint| index.add_endpoint(endpoint));
        state.leases.values().for_each(|lease| index.add_lease(lease, state.clock_ms));
        index
    }

    pub(super) fn add_endpoint(&mut self, endpoint: &Endpoint) {
        let Endpoint { id, network, node, .. } = *endpoint;
        self.names.insert((network, node, endpoint.name.clone()), id);
        self.called.extend(endpoint.called().map(|name| (network, name, id)));
        self.networks.insert((network, id));
        self.nodes.insert((node, id));
        if endpoint.is_placed() {
            self.sandboxes.insert((node, endpoint.sandbox.key.clone(), id));
        }
        self.macs.insert((network, endpoint.mac), id);
        if let Some(egress) = &endpoint.egress {
            self.egress_hosts.insert(node, egress.host.into());
        }
    }

    pub(super) fn remove_endpoint(&mut self, endpoint: &Endpoint) {
        let Endpoint { id, network, node, .. } = *endpoint;
        // What changes places with another endpoint may be the other one's by now.
        remove_own(&mut self.names, &(network, node, endpoint.name.clone()), id);
        for name in endpoint.called() {
            self.called.remove(&(network, name, id));
        }
        self.networks.remove(&(network, id));
        self.nodes.remove(&(node, id));
        self.sandboxes.remove(&(node, endpoint.sandbox.key.clone(), id));
        remove_own(&mut self.macs, &(network, endpoint.mac), id);
        if let Some(egress) = &endpoint.egress {
            self.egress_hosts.remove(node, egress.host.into());
        }
    }

    pub(super) fn add_lease(&mut self, lease: &Lease, clock_ms: u64) {
        let Lease { network, address, .. } = *lease;
        if let Some(name) = &lease.reserved_for {
            self.kept.insert((network, name.clone(), address));
        }
        let LeaseState::Cooling { until_ms } = lease.state else {
            return self.busy.insert((network, Family::of(address)), number(address));
        };
        self.released.extend(Self::release(lease));
        if until_ms > clock_ms {
            self.cooling.insert((until_ms, network, address));
            self.busy.insert((network, Family::of(address)), number(address));
        }
    }

    pub(super) fn remove_lease(&mut self, lease: &Lease) {
        let Lease { network, address, .. } = *lease;
        if let Some(name) = &lease.reserved_for {
            self.kept.remove(&(network, name.clone(), address));
        }
        if let LeaseState::Cooling { until_ms } = lease.state {
            if let Some(release) = Self::release(lease) {
                self.released.remove(&release);
            }
            self.cooling.remove(&(until_ms, network, address));
        }
        self.busy.remove((network, Family::of(address)), number(address));
    }

    fn release(lease: &Lease) -> Option<(NetworkId, NodeId, String, u64, IpAddr)> {
        Some((lease.network, lease.node?, lease.name.clone(), lease.since_ms, lease.address))
    }

    /// Frees the addresses whose cooling has ended.
    pub(super) fn expire(&mut self, clock_ms: u64) {
        while let Some(&(until_ms, network, address)) = self.cooling.first() {
            if until_ms > clock_ms {
                return;
            }
            self.cooling.pop_first();
            self.busy.remove((network, Family::of(address)), number(address));
        }
    }

    pub(super) fn named(&self, network: NetworkId, node: NodeId, name: &str) -> Option<EndpointId> {
        self.names.get(&(network, node, name.to_owned())).copied()
    }

    pub(super) fn called(&self, network: NetworkId, name: &str) -> impl Iterator<Item = EndpointId> {
        let of = |id| (network, name.to_owned(), EndpointId(id));
        self.called.range(of(0)..=of(u64::MAX)).map(|&(.., id)| id)
    }

    /// Those that are called something that begins so, with what they are called.
    pub(super) fn called_like(&self, network: NetworkId, start: &str) -> impl Iterator<Item = (&str, EndpointId)> {
        let from = (network, start.to_owned(), EndpointId(0));
        let like = move |(of, name, _): &&(NetworkId, String, EndpointId)| *of == network && name.starts_with(start);
        self.called.range(from..).take_while(like).map(|(_, name, id)| (name.as_str(), *id))
    }

    pub(super) fn of_network(&self, network: NetworkId) -> impl Iterator<Item = EndpointId> {
        self.networks.range((network, EndpointId(0))..=(network, EndpointId(u64::MAX))).map(|&(_, id)| id)
    }

    pub(super) fn of_node(&self, node: NodeId) -> impl Iterator<Item = EndpointId> {
        self.nodes.range((node, EndpointId(0))..=(node, EndpointId(u64::MAX))).map(|&(_, id)| id)
    }

    pub(super) fn of_sandbox(&self, node: NodeId, key: &str) -> impl Iterator<Item = EndpointId> {
        let from = (node, key.to_owned(), EndpointId(0));
        let to = (node, key.to_owned(), EndpointId(u64::MAX));
        self.sandboxes.range(from..=to).map(|&(_, _, id)| id)
    }

    pub(super) fn with_mac(&self, network: NetworkId, mac: Mac) -> Option<EndpointId> {
        self.macs.get(&(network, mac)).copied()
    }

    /// The addresses that a container had on this network and node and released, latest first.
    pub(super) fn released(&self, network: NetworkId, node: NodeId, name: &str) -> impl Iterator<Item = IpAddr> {
        let from = (network, node, name.to_owned(), 0, address(Family::V4, 0));
        let to = (network, node, name.to_owned(), u64::MAX, address(Family::V6, u128::MAX));
        self.released.range(from..=to).rev().map(|&(.., address)| address)
    }

    /// The addresses of a network that are kept for a name.
    pub(super) fn kept(&self, network: NetworkId, name: &str) -> impl Iterator<Item = IpAddr> {
        let from = (network, name.to_owned(), address(Family::V4, 0));
        let to = (network, name.to_owned(), address(Family::V6, u128::MAX));
        self.kept.range(from..=to).map(|&(.., address)| address)
    }

    /// Lowest number of a host from 2 that no egress interface of the node has.
    pub(super) fn free_egress_host(&self, node: NodeId) -> u32 {
        self.egress_hosts.free(node, 2).and_then(|free| free.try_into().ok()).unwrap_or(u32::MAX)
    }

    /// Lowest free number from `first` to `last`.
    pub(super) fn free_address(&self, network: NetworkId, family: Family, first: u128, last: u128) -> Option<IpAddr> {
        let free = self.busy.free((network, family), first)?;
        (free <= last).then(|| address(family, free))
    }
}

fn remove_own<K: Ord>(owners: &mut BTreeMap<K, EndpointId>, key: &K, owner: EndpointId) {
    if owners.get(key) == Some(&owner) {
        owners.remove(key);
    }
}

/// Numbers that are taken, per group, as runs without gaps, so that the lowest free one is
/// found in one step however many are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Runs<G> {
    /// First number of a run → its last. Runs of one group neither overlap nor touch.
    runs: BTreeMap<(G, u128), u128>,
}

impl<G> Default for Runs<G> {
    fn default() -> Self {
        Self { runs: BTreeMap::new() }
    }
}

impl<G: Ord + Copy> Runs<G> {
    /// The run that holds a number: its first and last.
    fn run(&self, group: G, number: u128) -> Option<(u128, u128)> {
        let (&(_, first), &last) = self.runs.range((group, 0)..=(group, number)).next_back()?;
        (last >= number).then_some((first, last))
    }

    /// The lowest number from `first` on that is in no run; none at the end of the numbers.
    fn free(&self, group: G, first: u128) -> Option<u128> {
        match self.run(group, first) {
            Some((_, last)) => last.checked_add(1),
            None => Some(first),
        }
    }

    fn insert(&mut self, group: G, at: u128) {
        if self.run(group, at).is_some() {
            return;
        }
        let below = at.checked_sub(1).and_then(|below| self.run(group, below));
        let above = at.checked_add(1).and_then(|above| self.runs.remove(&(group, above)));
        let first = below.map_or(at, |(first, _)| first);
        self.runs.insert((group, first), above.unwrap_or(at));
    }

    fn remove(&mut self, group: G, at: u128) {
        let Some((first, last)) = self.run(group, at) else { return };
        self.runs.remove(&(group, first));
        if first < at {
            self.runs.insert((group, first), at - 1);
        }
        if at < last {
            self.runs.insert((group, at + 1), last);
        }
    }
}
