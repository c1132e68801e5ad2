//! How much of the state there is: a pure function of it.

use std::collections::BTreeMap;

use pontoon_proto::{ShortName, v1};
use pontoon_store::codec::lease_state;
use pontoon_store::model::id::NetworkId;
use pontoon_store::model::state::State;

/// How many there are of each network, by its name, and state.
pub(super) type ByNetwork = BTreeMap<(String, String), u64>;

/// How much of the state there is. States that nothing is in are there with 0, so that their series do not come and go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Networks.
    pub(super) networks: usize,
    /// Endpoints.
    pub(super) endpoints: ByNetwork,
    /// Leases.
    pub(super) leases: ByNetwork,
}

impl Usage {
    /// That of a state.
    pub(super) fn of(state: &State) -> Self {
        let endpoints = state.endpoints.values();
        let leases = state.leases.values();
        Self {
            networks: state.networks.len(),
            endpoints: count(
                state,
                endpoints.map(|endpoint| (endpoint.network, v1::EndpointState::from(endpoint.state))),
            ),
            leases: count(state, leases.map(|lease| (lease.network, lease_state(lease, state.clock_ms)))),
        }
    }
}

/// Counts things that each belong to a network and are in a state.
fn count<S: TryFrom<i32> + Into<i32> + ShortName>(
    state: &State,
    things: impl Iterator<Item = (NetworkId, S)>,
) -> ByNetwork {
    // Counted by number, and named in the end: there may be many of them.
    let mut counts = BTreeMap::<(NetworkId, i32), u64>::new();
    for (network, thing) in things {
        *counts.entry((network, thing.into())).or_default() += 1;
    }
    let of_network = |(id, name): (&NetworkId, &str)| {
        let of_state = |(number, state)| ((name.to_owned(), state), counts.get(&(*id, number)).copied().unwrap_or(0));
        states::<S>().map(of_state).collect::<Vec<_>>()
    };
    state.networks.iter().map(|(id, network)| (id, network.name.as_str())).flat_map(of_network).collect()
}

/// Numbers and names of the states that something can be in; 0 stands for none.
pub(super) fn states<S: TryFrom<i32> + ShortName>() -> impl Iterator<Item = (i32, String)> {
    (1..).map_while(|number| Some((number, S::try_from(number).ok()?.short_name())))
}

/// How many of some things are in which state.
pub(super) fn by_state<S: TryFrom<i32> + ShortName>(things: impl Iterator<Item = i32>) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<i32, u64> = states::<S>().map(|(number, _)| (number, 0)).collect();
    for thing in things {
        *counts.entry(thing).or_default() += 1;
    }
    states::<S>().map(|(number, name)| (name, counts[&number])).collect()
}
