//! What holds at all times. Runs after every entry in tests, and on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::id::NodeId;
use super::index::Index;
use super::object::{Endpoint, Lease, LeaseState, Network};
use super::state::{Session, State};
use super::subnet::{is_host, overlap};

/// An invariant that does not hold, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl State {
    /// Every invariant that does not hold; none in a state that only [`State::apply`] changed.
    pub fn check(&self) -> Vec<Violation> {
        let mut found = Found::default();
        self.check_nodes(&mut found);
        self.check_networks(&mut found);
        self.check_endpoints(&mut found);
        self.check_sandboxes(&mut found);
        self.check_leases(&mut found);
        self.check_engines(&mut found);
        for (id, token) in &self.tokens {
            found.unless(*id == token.id(), || format!("token {} is kept as {id}", token.id()));
            found.unless(token.used <= token.uses, || format!("token {id} was used {} times", token.used));
        }
        for (node, session) in &self.sessions {
            found.unless(session.answers.len() <= Session::MAX_ANSWERS, || format!("session {node} keeps too many"));
        }
        found.unless(self.index == Index::of(self), || "what is derived differs from the objects".to_owned());
        found.0
    }

    fn check_nodes(&self, found: &mut Found) {
        let founded = self.cluster.is_some();
        found.unless(founded || self.nodes.is_empty(), || "there are nodes without a cluster".to_owned());
        found.unique("node name", self.nodes.values().map(|node| &node.name));
        found.unique("advertise address", self.nodes.values().map(|node| node.advertise));
        found.unique("data address", self.nodes.values().map(|node| node.data_addr));
        found.unique("public key", self.nodes.values().map(|node| node.public_key));
        found.unique("Raft id", self.nodes.values().map(|node| node.raft_id));
        for (id, node) in &self.nodes {
            found.unless(*id == node.id, || format!("node {} is kept as {id}", node.id));
            for network in self.networks.values() {
                let own = [node.data_addr, node.advertise.ip()];
                let inside = network.subnets.iter().any(|s| own.iter().any(|address| s.cidr.contains(address)));
                found.unless(!inside, || format!("an address of node {id} is in network {}", network.name));
            }
        }
    }

    fn check_networks(&self, found: &mut Found) {
        found.unique("network name", self.networks.values().map(|network| &network.name));
        found.unique("VNI", self.networks.values().map(|network| network.vni));
        let mut cidrs = Vec::new();
        for (id, network) in &self.networks {
            found.unless(*id == network.id, || format!("network {} is kept as {id}", network.id));
            for subnet in &network.subnets {
                let gateway = self.leases.get(&(*id, subnet.gateway));
                let reserved = gateway.is_some_and(|l| l.state == LeaseState::Reserved && l.reserved_for.is_none());
                found.unless(reserved, || format!("gateway {} is not reserved", subnet.gateway));
                found.unless(is_host(subnet.cidr, subnet.gateway), || format!("gateway {} is no host", subnet.gateway));
                let other = cidrs.iter().find(|other| overlap(**other, subnet.cidr));
                found.unless(other.is_none(), || format!("{} overlaps {other:?}", subnet.cidr));
                cidrs.push(subnet.cidr);
            }
            let families = network.subnets.iter().map(|subnet| subnet.cidr.addr().is_ipv4());
            let families: Vec<bool> = families.collect();
            let right = matches!(families.as_slice(), [true] | [true, false]);
            found.unless(right, || format!("network {} has wrong subnets", network.name));
        }
    }

    fn check_endpoints(&self, found: &mut Found) {
        let of_engines = self.endpoints.values().filter(|e| !e.engine_id.is_empty());
        found.unique("endpoint of an engine", of_engines.map(|e| (e.node, &e.engine_id)));
        found.unique("container", self.endpoints.values().map(|e| (e.network, e.node, &e.name)));
        found.unique("MAC", self.endpoints.values().map(|e| (e.network, e.mac)));
        let addresses = self.endpoints.values().flat_map(|e| e.addresses.iter().map(|a| (e.network, *a)));
        found.unique("address", addresses);
        for (id, endpoint) in &self.endpoints {
            found.unless(*id == endpoint.id, || format!("endpoint {} is kept as {id}", endpoint.id));
            found.unless(self.nodes.contains_key(&endpoint.node), || format!("endpoint {id} is on no node"));
            match self.networks.get(&endpoint.network) {
                Some(network) => self.check_addresses(found, endpoint, network),
                None => found.unless(false, || format!("endpoint {id} is on no network")),
            }
        }
    }

    fn check_addresses(&self, found: &mut Found, endpoint: &Endpoint, network: &Network) {
        let id = endpoint.id;
        let one_each = endpoint.addresses.len() == network.subnets.len()
            && network.subnets.iter().zip(&endpoint.addresses).all(|(subnet, a)| is_host(subnet.cidr, *a));
        found.unless(one_each, || format!("endpoint {id} has not one address of each subnet"));
        let state = endpoint.state.of_leases();
        for address in &endpoint.addresses {
            let lease = self.leases.get(&(network.id, *address));
            let holds = |l: &Lease| l.endpoint == Some(id) && l.state == state && l.epoch == endpoint.epoch;
            found.unless(lease.is_some_and(holds), || format!("endpoint {id} has no lease of {address}"));
        }
        let egress = endpoint.egress.is_some();
        found.unless(!(egress && network.internal), || format!("endpoint {id} has a way out of an internal network"));
    }

    fn check_sandboxes(&self, found: &mut Found) {
        let egress = self.endpoints.values().filter_map(|e| Some((e, e.egress.as_ref()?)));
        found.unique("egress host", egress.clone().map(|(e, egress)| (e.node, egress.host)));
        found.unique("sandbox with egress", egress.clone().map(|(e, _)| (e.node, &e.sandbox.key)));
        let placed = || self.endpoints.values().filter(|endpoint| endpoint.is_placed());
        found.unique("sandbox on network", placed().map(|e| (e.node, &e.sandbox.key, e.network)));
        let own = placed().map(|e| (e.node, &e.sandbox.key, &e.ifname));
        found.unique("interface", own.chain(egress.clone().map(|(e, way)| (e.node, &e.sandbox.key, &way.ifname))));
        let with: BTreeSet<(NodeId, &String)> = egress.map(|(e, _)| (e.node, &e.sandbox.key)).collect();
        for endpoint in self.endpoints.values() {
            let of_engine = !endpoint.engine_id.is_empty();
            found.unless(of_engine || endpoint.is_placed(), || format!("endpoint {} is nowhere", endpoint.id));
            found.unless(!of_engine || endpoint.egress.is_none(), || {
                format!("endpoint {} has a way out besides its engine's", endpoint.id)
            });
        }
        for endpoint in self.endpoints.values().filter(|endpoint| endpoint.engine_id.is_empty()) {
            let internal = self.networks.get(&endpoint.network).is_none_or(|network| network.internal);
            let out = internal || with.contains(&(endpoint.node, &endpoint.sandbox.key));
            found.unless(out, || format!("the sandbox of endpoint {} has no way out", endpoint.id));
        }
    }

    fn check_leases(&self, found: &mut Found) {
        for ((network, address), lease) in &self.leases {
            let what = || format!("lease {address} of network {network}");
            found
                .unless((*network, *address) == (lease.network, lease.address), || format!("{} is kept wrong", what()));
            let inside =
                self.networks.get(network).is_some_and(|n| n.subnets.iter().any(|s| is_host(s.cidr, *address)));
            found.unless(inside, || format!("{} is no host address of it", what()));
            let held = matches!(lease.state, LeaseState::Pending | LeaseState::Active | LeaseState::Kept);
            let holder = lease.endpoint.and_then(|id| self.endpoints.get(&id));
            let right = holder.is_some_and(|e| e.network == *network && e.addresses.contains(address));
            let right = if lease.held_for().is_some() { lease.endpoint.is_none() } else { held == right };
            found.unless(right, || format!("{} has no holder", what()));
            found.unless(held || lease.endpoint.is_none(), || format!("{} has a holder", what()));
            let known = lease.held_for().is_none_or(|node| self.nodes.contains_key(&node));
            found.unless(known, || format!("{} is held for no node", what()));
            let same = holder.is_none_or(|e| lease.node == Some(e.node) && lease.name == e.name);
            found.unless(same, || format!("{} tells of another holder", what()));
            found.unless(lease.since_ms <= self.clock_ms, || format!("{} is of the future", what()));
            found.unless(lease.previous.len() <= Lease::MAX_PREVIOUS, || format!("{} keeps too much", what()));
        }
    }
}

impl State {
    fn check_engines(&self, found: &mut Found) {
        for endpoint in self.endpoints.values().filter(|endpoint| !endpoint.is_up()) {
            let nowhere = !endpoint.is_placed() && endpoint.ifname.is_empty() && !endpoint.engine_id.is_empty();
            found.unless(nowhere, || format!("endpoint {} of a stopped container is placed", endpoint.id));
        }
        let subnets = || self.networks.values().flat_map(|n| n.subnets.iter().map(|s| s.cidr));
        for (cidr, claim) in &self.claims {
            found.unless(*cidr == claim.cidr, || format!("claim {} is kept as {cidr}", claim.cidr));
            let others = self.claims.keys().filter(|other| *other != cidr).copied();
            let other = others.chain(subnets()).find(|other| overlap(*other, *cidr));
            found.unless(other.is_none(), || format!("claim {cidr} overlaps {other:?}"));
            found.unless(self.nodes.contains_key(&claim.node), || format!("claim {cidr} is of no node"));
        }
        found.unique("network of an engine", self.engine_networks.values().map(|known| (known.node, &known.id)));
        for ((network, node), known) in &self.engine_networks {
            let what = || format!("network {network} of the engine of node {node}");
            found.unless((*network, *node) == (known.network, known.node), || format!("{} is kept wrong", what()));
            found.unless(self.networks.contains_key(network), || format!("{} is no network", what()));
            found.unless(self.nodes.contains_key(node), || format!("{} is of no node", what()));
        }
        for network in self.networks.values().filter(|network| network.provisional) {
            let used = self.endpoints_of_network(network.id).next().is_some()
                || self.leases_of_network(network.id).any(|lease| lease.held_for().is_some());
            found.unless(!used, || format!("network {} is used and has no name", network.name));
            let made_by = network.engine.is_some_and(|node| self.nodes.contains_key(&node));
            found.unless(made_by, || format!("nobody can tell the name of network {}", network.name));
        }
    }
}

#[derive(Default)]
struct Found(Vec<Violation>);

impl Found {
    fn unless(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation(text()));
        }
    }

    fn unique<T: Ord + fmt::Debug>(&mut self, what: &str, values: impl Iterator<Item = T>) {
        let mut counts = BTreeMap::new();
        for value in values {
            *counts.entry(value).or_insert(0) += 1;
        }
        for (value, count) in counts.into_iter().filter(|(_, count)| *count > 1) {
            self.unless(false, || format!("{what} {value:?} is there {count} times"));
        }
    }
}
