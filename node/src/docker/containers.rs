//! What is known of an engine's containers before it is in the cluster's state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_store::model::id::{EndpointId, NetworkId};
use tokio::time::Instant;

use crate::reconcile::Begun;

/// For how long a container that was created is the likeliest to start: `docker run` starts it within a second, on a busy
/// host within a few.
const FRESH: Duration = Duration::from_secs(10);
/// How long the engine may take from an address to the endpoint, at most: then it has given up.
const HANDED: Duration = Duration::from_secs(20);
/// How long the engine may take to remove a network that it has said it removes, at most.
const REMOVED: Duration = Duration::from_secs(20);
/// For how long what a pass has made is taken to be there still: somebody else may have removed it since.
const MAKING: Duration = Duration::from_secs(1);

/// What is known of an engine's containers before it is in the cluster's state.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    /// Names, by their ids, of containers that were created and have never started, and when that was.
    fresh: Mutex<BTreeMap<String, (String, Instant)>>,
    /// Addresses of endpoints that wait for their containers and that the engine was given for one, and when.
    handed: Mutex<BTreeMap<(NetworkId, IpAddr), Instant>>,
    /// The engine's ids of networks that it has said it removes, and when.
    removed: Mutex<BTreeMap<String, Instant>>,
    /// Passes that make the interfaces of endpoints that the engine has just made, and when they were asked for.
    making: Mutex<BTreeMap<EndpointId, (Begun, Instant)>>,
    /// Name and version of the engine; empty when it is not reached.
    engine: Mutex<String>,
}

/// A container that was created and has not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fresh {
    /// Its name; empty when there are several.
    pub(super) name: String,
    /// It, or the last of them, was created a moment ago.
    pub(super) is_recent: bool,
}

impl Containers {
    /// The container that has been created and not started yet.
    pub(super) fn fresh(&self) -> Option<Fresh> {
        self.fresh_at(Instant::now())
    }

    fn fresh_at(&self, now: Instant) -> Option<Fresh> {
        let fresh = lock(&self.fresh);
        let (name, _) = fresh.values().next()?;
        let name = if fresh.len() == 1 { name.clone() } else { String::new() };
        Some(Fresh { name, is_recent: fresh.values().any(|(_, since)| now.duration_since(*since) < FRESH) })
    }

    /// Whether a container was created and has not started yet.
    pub(super) fn is_fresh(&self, id: &str) -> bool {
        lock(&self.fresh).contains_key(id)
    }

    pub(super) fn created(&self, id: &str, name: &str) {
        lock(&self.fresh).insert(id.to_owned(), (name.to_owned(), Instant::now()));
    }

    pub(super) fn started_or_gone(&self, id: &str) {
        lock(&self.fresh).remove(id);
    }

    /// Notes that the engine was given an address of an endpoint that waits for its container.
    pub(super) fn hand(&self, network: NetworkId, address: IpAddr) {
        lock(&self.handed).insert((network, address), Instant::now());
    }

    /// Addresses that the engine was given and has made no endpoint of yet.
    pub(super) fn handed(&self) -> BTreeSet<(NetworkId, IpAddr)> {
        self.handed_at(Instant::now())
    }

    fn handed_at(&self, now: Instant) -> BTreeSet<(NetworkId, IpAddr)> {
        let mut handed = lock(&self.handed);
        handed.retain(|_, since| now.duration_since(*since) < HANDED);
        handed.keys().copied().collect()
    }

    /// The engine has made the endpoint, or does not want the address any more.
    pub(super) fn take_back(&self, network: NetworkId, address: IpAddr) {
        lock(&self.handed).remove(&(network, address));
    }

    /// Notes that the engine removes a network: an earlier look may have found it there.
    pub(super) fn removes(&self, network: &str) {
        let mut removed = lock(&self.removed);
        removed.retain(|_, since| since.elapsed() < REMOVED);
        removed.insert(network.to_owned(), Instant::now());
    }

    /// Whether the engine has said a while ago, at most, that it removes a network.
    pub(super) fn is_removed(&self, network: &str) -> bool {
        lock(&self.removed).get(network).is_some_and(|since| since.elapsed() < REMOVED)
    }

    /// Notes that a pass makes the interface of an endpoint.
    pub(super) fn makes_interface(&self, endpoint: EndpointId, pass: Begun) {
        let mut making = lock(&self.making);
        making.retain(|_, (_, since)| since.elapsed() < MAKING);
        making.insert(endpoint, (pass, Instant::now()));
    }

    /// The pass that makes the interface of an endpoint, once; none: that was a while ago, or there is none.
    pub(super) fn making_interface(&self, endpoint: EndpointId) -> Option<Begun> {
        let (pass, since) = lock(&self.making).remove(&endpoint)?;
        (since.elapsed() < MAKING).then_some(pass)
    }

    /// Name and version of the engine; empty when it is not reached.
    pub(crate) fn engine(&self) -> String {
        lock(&self.engine).clone()
    }

    pub(super) fn set_engine(&self, version: &str) {
        version.clone_into(&mut lock(&self.engine));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each of them is whole after every change, even if a holder panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_was_created_is_the_likeliest_for_a_moment() {
        let (containers, fresh) =
            (Containers::default(), |name: &str, is_recent| Fresh { name: name.into(), is_recent });
        assert_eq!(containers.fresh(), None);
        containers.created("1", "c1");
        assert_eq!(containers.fresh(), Some(fresh("c1", true)));
        assert_eq!(containers.fresh_at(Instant::now() + FRESH), Some(fresh("c1", false)));
        containers.created("2", "c2");
        assert_eq!(containers.fresh(), Some(fresh("", true)));
        containers.started_or_gone("1");
        containers.started_or_gone("2");
        assert_eq!(containers.fresh(), None);
    }

    #[test]
    fn a_network_that_the_engine_removes_is_not_taken_for_there() {
        let containers = Containers::default();
        containers.removes("abc");
        assert!(containers.is_removed("abc") && !containers.is_removed("def"));
    }

    #[test]
    fn an_address_is_handed_out_once_at_a_time() {
        let containers = Containers::default();
        let addresses = ["10.0.0.2", "10.0.0.3"].map(|text| text.parse().unwrap());
        addresses.iter().for_each(|address| containers.hand(NetworkId(1), *address));
        containers.take_back(NetworkId(1), addresses[0]);
        assert_eq!(containers.handed(), [(NetworkId(1), addresses[1])].into());
        assert_eq!(containers.handed_at(Instant::now() + HANDED), BTreeSet::new());
    }
}
