//! Endpoints that wait for their containers to start again, and which of them an engine gets for one that starts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pontoon_store::model::id::{EndpointId, NetworkId, NodeId};
use pontoon_store::model::object::{Endpoint, EngineContainer, Family, Network, Subnet};
use pontoon_store::model::state::State;

use super::{SeenAttachment, Step, View};

/// The most stopped containers of one node that keep their endpoints on a network.
const MAX_KEPT: usize = 64;

/// Endpoints that a node may have given up, with the epochs up to which it has: only the cluster can say whether it still
/// has them.
pub type GivenUp = BTreeMap<EndpointId, u64>;

/// Whether an endpoint is among them. A state that is older than what was given up has an older epoch.
pub fn is_given_up(all: &GivenUp, endpoint: EndpointId, epoch: u64) -> bool {
    all.get(&endpoint).is_some_and(|given| *given >= epoch)
}

/// The endpoints of a node whose containers do not run.
#[derive(Debug, Clone, Copy)]
pub struct Waiting<'a> {
    /// The cluster.
    pub state: &'a State,
    /// Node.
    pub me: NodeId,
    /// Endpoints that are known here to have no container that runs, although the cluster may not know it yet.
    pub ended: &'a BTreeSet<EndpointId>,
    /// Those that this node may have given up.
    pub given_up: &'a GivenUp,
    /// Addresses that the engine was given a moment ago, for a container that starts.
    pub handed: &'a BTreeSet<(NetworkId, IpAddr)>,
}

impl<'a> Waiting<'a> {
    fn on(self, network: NetworkId) -> impl Iterator<Item = &'a Endpoint> {
        let endpoints = self.state.endpoints_of_node(self.me).filter(move |e| e.network == network);
        endpoints.filter(move |endpoint| self.is_waiting(endpoint))
    }

    fn is_waiting(self, endpoint: &Endpoint) -> bool {
        let stopped = !endpoint.is_up() || self.ended.contains(&endpoint.id);
        stopped && !endpoint.engine_id.is_empty()
    }

    fn container_of(self, endpoint: &Endpoint) -> Option<&'a EngineContainer> {
        let known = self.state.engine_networks.get(&(endpoint.network, self.me))?;
        known.containers.iter().find(|container| container.id == endpoint.container_id)
    }

    /// The one that has all of these addresses.
    pub fn with_addresses(self, network: NetworkId, addresses: &[IpAddr]) -> Option<&'a Endpoint> {
        let has_all = |e: &&Endpoint| addresses.iter().all(|address| e.addresses.contains(address));
        self.on(network).find(has_all).filter(|_| !addresses.is_empty())
    }

    /// The one of the container of this name.
    pub fn of_container(self, network: NetworkId, name: &str) -> Option<&'a Endpoint> {
        self.on(network).find(|endpoint| self.container_of(endpoint).is_some_and(|container| container.name == name))
    }

    /// The one of the container that most likely starts when nothing is known of it: of those whose addresses were not
    /// given by number, the one that stopped last. An engine that has got an address of one family asks for the other.
    pub fn likeliest(self, network: NetworkId, family: Family) -> Option<&'a Endpoint> {
        let guessed = |e: &&Endpoint| self.container_of(e).is_some_and(|container| !container.fixed);
        let is_handed = |e: &Endpoint, of: Family| {
            e.addresses.iter().any(|a| Family::of(*a) == of && self.handed.contains(&(network, *a)))
        };
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        let half = self.on(network).find(|e| is_handed(e, other) && !is_handed(e, family));
        let free = |e: &&Endpoint| !is_handed(e, family) && !is_handed(e, other);
        let is_ours = |e: &Endpoint| !is_given_up(self.given_up, e.id, e.epoch);
        // The cluster has not been told yet of those that it takes for running.
        let when = |e: &Endpoint| if e.is_up() { u64::MAX } else { stopped_ms(self.state, e) };
        let all = || self.on(network).filter(guessed).filter(free);
        half.or_else(|| all().max_by_key(|e| (is_ours(e), when(e), e.id)))
    }
}

impl View<'_> {
    /// Ends what waits for nobody any more.
    pub(super) fn forgotten(&self) -> Vec<Step> {
        let networks = self.state.networks.values();
        networks.flat_map(|network| self.forgotten_on(network)).map(forget).collect()
    }

    fn forgotten_on(&self, network: &Network) -> Vec<&Endpoint> {
        let own = || self.state.endpoints_of_node(self.me).filter(|endpoint| endpoint.network == network.id);
        let mut waiting: Vec<&Endpoint> = own().filter(|endpoint| !endpoint.is_up()).collect();
        // The one that stopped last first.
        waiting.sort_by_key(|endpoint| std::cmp::Reverse((stopped_ms(self.state, endpoint), endpoint.id)));
        let mut served: BTreeSet<&str> = own().filter(|e| e.is_up()).map(|e| e.container_id.as_str()).collect();
        let (mut kept, most) = (0, most_kept(self.state, network));
        waiting.retain(|endpoint| {
            let stays = self.has_on(endpoint, network) && kept < most && served.insert(&endpoint.container_id);
            kept += usize::from(stays);
            !stays
        });
        waiting
    }

    /// Whether the engine has an endpoint's container, and on the network: also on one that it has lost, and will have again.
    fn has_on(&self, endpoint: &Endpoint, network: &Network) -> bool {
        let here = self.here.get(&network.id).map(|net| net.id.as_str());
        let is_there = |id: &str| self.seen.networks.iter().any(|net| net.id == id);
        let mut its = self.seen.containers.iter().filter(|container| container.id == endpoint.container_id);
        let is_on = |on: &SeenAttachment| {
            Some(on.network.as_str()) == here || on.name == network.name && !is_there(&on.network)
        };
        its.any(|container| container.attachments.iter().any(is_on))
    }
}

fn forget(endpoint: &Endpoint) -> Step {
    Step::Forget { endpoint: endpoint.id, epoch: endpoint.epoch, name: endpoint.name.clone() }
}

fn stopped_ms(state: &State, endpoint: &Endpoint) -> u64 {
    let lease = endpoint.addresses.first().and_then(|address| state.leases.get(&(endpoint.network, *address)));
    lease.map_or(0, |lease| lease.since_ms)
}

/// For how many stopped containers a node keeps addresses of a network: all nodes together keep a quarter of them at most,
/// but each at least one.
fn most_kept(state: &State, network: &Network) -> usize {
    let bits = |subnet: &Subnet| {
        let range = subnet.ip_range.unwrap_or(subnet.cidr);
        u32::from(range.max_prefix_len() - range.prefix_len()).min(16)
    };
    let addresses = network.subnets.iter().map(bits).min().map_or(0, |bits| 1 << bits);
    let engines = state.engines_of_network(network.id).count().max(1);
    (addresses / 4 / engines).clamp(1, MAX_KEPT)
}
