//! Containers that are put on a network again, which was removed under them.

use super::{Container, Place, Sim};

impl Place {
    /// A place where the container has not run yet.
    pub(super) fn on(network: &str, aliases: Vec<String>) -> Self {
        Self { network: network.to_owned(), network_id: None, running: None, aliases }
    }
}

impl Sim {
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
