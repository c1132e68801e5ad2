//! What was there before: networks of another cluster, and those that were removed under containers, which are put on them
//! again.

use pontoon_store::model::id::NetworkId;

use super::{Container, Net, Place, Sim, pick};

impl Place {
    /// A place where the container has not run yet.
    pub(super) fn on(network: &str, aliases: Vec<String>) -> Self {
        Self { network: network.to_owned(), network_id: None, running: None, aliases }
    }
}

impl Sim {
    /// The node was in another cluster before, which had a network of this name, and of the id of one of this cluster.
    pub(in super::super) fn left_behind(&mut self, at: usize, name: &str) {
        let (id, ids) = (self.id(), self.world.state.networks.keys().copied().collect::<Vec<_>>());
        if self.named(name).is_none() {
            let network = pick(&ids, at).unwrap_or(NetworkId(9));
            self.networks.push(Net { id, name: name.to_owned(), ours: Some((network, true)), left: true });
        }
    }

    /// Puts a container on a network of ours, which has the name of one that was.
    pub(super) fn reconnect(&mut self, name: &str, container: &str) -> Result<(), String> {
        assert!(self.named(name).is_some_and(|net| net.ours.is_some()), "{name} is not ours");
        let at = self.containers.iter().position(|c| c.id == container).expect("a container of the engine");
        let place = self.containers[at].places.iter().position(|p| p.network == name).expect("a place of this name");
        let old = self.containers[at].places[place].network_id.clone().expect("it has run there");
        assert!(
            self.past.contains(&old) && self.networks.iter().all(|net| net.id != old),
            "{old} was not the cluster's, or is there"
        );
        assert!(!self.containers[at].runs, "a container that runs is cut off");
        self.containers[at].places[place].network_id = None;
        self.reconnected.insert((container.to_owned(), name.to_owned()));
        Ok(())
    }

    /// These, as they are when they were put on networks again.
    pub(super) fn with_reconnected(&self, mut containers: Vec<Container>) -> Vec<Container> {
        for (id, name) in &self.reconnected {
            let places = containers.iter_mut().filter(|c| c.id == *id).flat_map(|c| &mut c.places);
            places.filter(|place| place.network == *name).for_each(|place| place.network_id = None);
        }
        containers
    }
}
