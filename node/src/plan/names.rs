//! What containers are called on the networks that somebody is on, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pontoon_store::model::id::{EndpointId, NetworkId, NodeId};
use pontoon_store::model::object::{Endpoint, Family, Network};
use pontoon_store::model::state::State;

/// The fewest digits of an engine's id that stand for its container: as many as engines show.
const SHORTEST_ID: usize = 12;

/// The namespaces of this node's engine whose containers are on networks, by their files, and as which endpoints.
pub fn placed(state: &State, me: NodeId) -> BTreeMap<&str, BTreeSet<EndpointId>> {
    let of_engine = |e: &&Endpoint| e.is_up() && e.is_placed() && !e.engine_id.is_empty();
    let mut placed: BTreeMap<&str, BTreeSet<EndpointId>> = BTreeMap::new();
    for endpoint in state.endpoints_of_node(me).filter(of_engine) {
        placed.entry(endpoint.sandbox.netns.as_str()).or_default().insert(endpoint.id);
    }
    placed
}

/// What somebody may know: the networks that it is on.
#[derive(Debug, Clone)]
pub struct Directory<'a> {
    state: &'a State,
    networks: Vec<&'a Network>,
    /// Endpoints of this node that have ended, although the state may say otherwise yet.
    ended: &'a BTreeSet<EndpointId>,
}

impl<'a> Directory<'a> {
    /// Of a container that these endpoints are of.
    pub fn of_container(state: &'a State, endpoints: &BTreeSet<EndpointId>, ended: &'a BTreeSet<EndpointId>) -> Self {
        let on = endpoints.iter().filter_map(|id| Some(state.endpoints.get(id)?.network));
        let networks: BTreeSet<NetworkId> = on.collect();
        Self { state, networks: networks.iter().filter_map(|id| state.networks.get(id)).collect(), ended }
    }

    /// Of one network.
    pub fn of_network(state: &'a State, network: &'a Network, ended: &'a BTreeSet<EndpointId>) -> Self {
        Self { state, networks: vec![network], ended }
    }

    fn runs(&self, endpoint: &Endpoint) -> bool {
        endpoint.is_up() && !self.ended.contains(&endpoint.id)
    }

    /// The containers that are called so and run: see [`Directory::ever_called`].
    pub fn called(&self, name: &str) -> Vec<&'a Endpoint> {
        self.ever_called(name).into_iter().filter(|endpoint| self.runs(endpoint)).collect()
    }

    /// The containers that are called so, also if they are stopped: by name, other name, the engine's id or its first digits, each also with
    /// `.NETWORK` behind it. `name` is in lower case, without a dot at its end.
    pub fn ever_called(&self, name: &str) -> Vec<&'a Endpoint> {
        let mut found = BTreeMap::new();
        for network in &self.networks {
            let alone = name.strip_suffix(&network.name.to_ascii_lowercase()).and_then(|rest| rest.strip_suffix('.'));
            for name in [Some(name), alone].into_iter().flatten() {
                let named = self.state.endpoints_called(network.id, name);
                let by_id = is_id(name).then(|| self.state.endpoints_of_container(network.id, name));
                found.extend(named.chain(by_id.into_iter().flatten()).map(|endpoint| (endpoint.id, endpoint)));
            }
        }
        found.into_values().collect()
    }

    /// The container at an address, if it runs, and its network.
    pub fn holder(&self, address: IpAddr) -> Option<(&'a Endpoint, &'a Network)> {
        self.networks.iter().find_map(|network| {
            let lease = self.state.leases.get(&(network.id, address))?;
            let endpoint = self.state.endpoints.get(&lease.endpoint?)?;
            self.runs(endpoint).then_some((endpoint, *network))
        })
    }

    /// What the container at an address is called, with its network.
    pub fn name_at(&self, address: IpAddr) -> Option<String> {
        let (endpoint, network) = self.holder(address).filter(|(endpoint, _)| endpoint.is_named())?;
        Some(format!("{}.{}", endpoint.name, network.name))
    }
}

fn is_id(name: &str) -> bool {
    name.len() >= SHORTEST_ID && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Addresses of one family.
pub fn addresses(endpoints: &[&Endpoint], family: Family) -> Vec<IpAddr> {
    let all = endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    all.copied().filter(|address| Family::of(*address) == family).collect()
}
