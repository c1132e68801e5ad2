//! How an engine and the cluster are when nothing is left to do.

use std::collections::{BTreeMap, BTreeSet};

use pontoon_store::model::object::{Endpoint, EndpointState, EngineNetwork};

use super::Sim;

impl Sim {
    /// All is as it should be, or a problem says why not.
    pub(super) fn check(&self, problems: &[String]) {
        let says = |name: &str| problems.iter().any(|problem| problem.contains(&format!("network {name} ")));
        let (state, me) = (&self.world.state, self.world.me);
        let mut mapped = BTreeSet::new();
        for network in state.networks.values() {
            if network.provisional {
                assert_ne!(network.engine, Some(me), "{network:?} was never named");
                continue;
            }
            match state.engine_networks.get(&(network.id, me)) {
                Some(known) => self.check_known(known, &network.name, &mut mapped),
                None => {
                    let there = self.named(&network.name).unwrap_or_else(|| panic!("no network {}", network.name));
                    let in_the_way = there.ours.is_none() || self.users(there).next().is_some();
                    assert!(in_the_way && says(&network.name), "{there:?}, {problems:?}");
                }
            }
        }
        for net in self.networks.iter().filter(|net| net.ours.is_some() && !mapped.contains(net.id.as_str())) {
            assert!(self.users(net).next().is_some() && says(&net.name), "{net:?} is left over: {problems:?}");
        }
        for (container, place) in self.containers.iter().flat_map(|c| c.places.iter().map(move |place| (c, place))) {
            let again = self.named(&place.network).filter(|net| mapped.contains(net.id.as_str()));
            let cut_off = !container.runs && self.meant(place).is_none() && again.is_some();
            let told = problems.iter().any(|problem| problem.contains(&format!("container {} ", container.name)));
            assert!(!cut_off || told, "{container:?} cannot be started: {problems:?}");
            let known = place.network_id.as_ref().is_some_and(|id| self.past.contains(id));
            assert!(!(cut_off && known), "{container:?} is not put on its network again");
        }
        let running = self.running();
        let known: BTreeMap<&str, &Endpoint> =
            state.endpoints_of_node(me).filter(|e| e.is_up()).map(|e| (e.engine_id.as_str(), e)).collect();
        assert!(running.keys().eq(known.keys()), "{running:?} and {known:?}");
        for endpoint in state.endpoints_of_node(me).filter(|endpoint| !endpoint.is_up()) {
            let its = self.containers.iter().find(|container| container.id == endpoint.container_id);
            assert!(its.is_some_and(|its| !its.runs), "{endpoint:?} waits for {its:?}");
        }
        for (endpoint, (container, place)) in known.values().zip(running.values()) {
            assert_eq!((&endpoint.name, &endpoint.container_id), (&container.name, &container.id));
            assert_eq!((&endpoint.aliases, endpoint.state), (&place.aliases, EndpointState::Active));
        }
        assert!(state.leases.values().all(|lease| lease.held_for() != Some(me)), "an address is held for nobody");
    }

    /// A network is in the engine under the name that it has in the cluster, and who is on it is known.
    fn check_known<'a>(&self, known: &'a EngineNetwork, name: &str, mapped: &mut BTreeSet<&'a str>) {
        let net = self.networks.iter().find(|net| net.id == known.id).unwrap_or_else(|| panic!("{known:?} is lost"));
        assert!(
            net.name == name && net.ours.is_some_and(|(network, _)| network == known.network),
            "{net:?}: {known:?}"
        );
        let users: BTreeSet<(&String, &String)> = self.users(net).map(|(c, _)| (&c.id, &c.name)).collect();
        assert!(known.containers.iter().map(|c| (&c.id, &c.name)).eq(users), "on network {name}: {known:?}");
        mapped.insert(&known.id);
    }
}
