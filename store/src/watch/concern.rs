//! Following what concerns one node. What that is changes with the endpoints that the node has, so an observer is not sent
//! one change after the other, but what all of them have come to, each time from one look at the state.

use std::collections::BTreeSet;
use std::time::Duration;

use pontoon_proto::v1;
use pontoon_proto::v1::watch_response::Event;
use prometheus_client::metrics::counter::Counter;
use prost::Message;

use super::{Following, PART_BYTES, Place, WatchError, Watching, check, snapshot};
use crate::model::apply::Change;
use crate::model::id::{NetworkId, NodeId};
use crate::model::state::State;
use crate::rt::{sleep, timeout};
use crate::store::Store;

/// How long what does not concern the node is gathered before it is told how far the log is: everything that is written is
/// such a thing for most nodes.
const CALM: Duration = Duration::from_millis(5);

/// How often it is told that nothing has changed, and looked whether the member is cut off.
const QUIET: Duration = Duration::from_secs(2);

/// An observer that follows.
#[derive(Debug)]
pub(crate) struct Concern {
    place: Place,
    node: NodeId,
    /// The networks that the node had endpoints on, as of the index.
    networks: BTreeSet<NetworkId>,
}

impl Concern {
    /// Follows a store until that ends.
    ///
    /// # Errors
    ///
    /// What was asked for is not there, or not any more, or not yet.
    pub(crate) async fn follow(
        store: Store,
        watching: Watching,
        node: NodeId,
        request: v1::FollowRequest,
    ) -> Result<Self, WatchError> {
        check(&store, &request.cluster_id, request.from_index).await?;
        let (networks, index, whole) = if request.from_index > 0 {
            let networks = request.networks.into_iter().map(NetworkId).collect();
            (networks, request.from_index, None)
        } else {
            let turn = store.ending().run_until_cancelled(watching.backlog.turn()).await.ok_or(WatchError::Ended)??;
            let state = store.state();
            let networks = state.networks_of_node(node);
            let whole = turn.keep(snapshot(&state, |object, _, _| state.concerns(object, node, &networks)));
            (networks, state.applied_index, Some(whole))
        };
        let mut following = Self { place: Place::new(store, index, whole, watching), node, networks };
        // Said at once, and not in the stream: that it is too far behind; and, however little there is to say, when it is in step.
        following.advance()?;
        following.place.ready.push_back(following.place.progress());
        Ok(following)
    }

    /// Goes to the latest index; tells whether there was a later one. What has come to concern the node is in `ready`.
    fn advance(&mut self) -> Result<bool, WatchError> {
        let store = self.place.store.clone();
        let state = store.state();
        let (changes, reached) = self.place.changes(usize::MAX)?;
        if !state.nodes.contains_key(&self.node) {
            // It was removed, and finds out when it asks again.
            return Err(WatchError::Ended);
        }
        if reached <= self.place.index {
            return Ok(false);
        }
        let networks = state.networks_of_node(self.node);
        let changed = changes.iter().flat_map(|changes| changes.objects.iter().map(|(object, _)| *object));
        let new = networks.difference(&self.networks).flat_map(|network| state.objects_of_network(*network));
        let objects: BTreeSet<Change> = changed.chain(new).collect();
        self.place.ready.extend(parts(&state, self.node, &networks, objects));
        (self.networks, self.place.index) = (networks, reached);
        Ok(true)
    }
}

impl Following for Concern {
    async fn next(&mut self) -> Result<Event, WatchError> {
        let ending = self.place.store.ending();
        loop {
            if let Some(event) = self.place.take_ready()? {
                return Ok(event);
            }
            self.place.applied.borrow_and_update();
            if self.advance()? && self.place.ready.is_empty() {
                if ending.run_until_cancelled(sleep(CALM)).await.is_none() {
                    return Err(WatchError::Ended);
                }
                self.advance()?;
                self.place.ready.push_back(self.place.progress());
            }
            if !self.place.ready.is_empty() {
                continue;
            }
            match ending.run_until_cancelled(timeout(QUIET, self.place.applied.changed())).await {
                Some(Ok(Ok(()))) => {}
                // Others may know more by now.
                Some(Err(_)) if !self.place.store.is_connected() => return Err(WatchError::Ended),
                Some(Err(_)) => return Ok(self.place.progress()),
                Some(Ok(Err(_))) | None => return Err(WatchError::Ended),
            }
        }
    }

    fn sent(&self) -> &Counter {
        &self.place.watching.sent
    }
}

/// What of some objects a node is sent, in parts that go together.
fn parts(state: &State, node: NodeId, networks: &BTreeSet<NetworkId>, objects: BTreeSet<Change>) -> Vec<Event> {
    let (index, time_ms) = (state.applied_index, state.clock_ms);
    let part = || v1::WatchChanges { index, time_ms, ..v1::WatchChanges::default() };
    let (mut parts, mut current, mut bytes) = (Vec::new(), part(), 0);
    for object in objects {
        let Some(key) = object.watched() else { continue };
        match state.watched(&object).filter(|_| state.concerns(&object, node, networks)) {
            Some(found) => {
                bytes += found.encoded_len();
                current.put.push(found);
            }
            None if may_have(state, &object, node, networks) => current.deleted.push(key),
            None => {}
        }
        if bytes >= PART_BYTES {
            current.more = true;
            parts.push(Event::Changes(std::mem::replace(&mut current, part())));
            bytes = 0;
        }
    }
    if !parts.is_empty() || !current.put.is_empty() || !current.deleted.is_empty() {
        parts.push(Event::Changes(current));
    }
    parts
}

/// Whether a node may have an object that is gone, or does not concern it any more: a lease changes hands, and nothing else
/// begins or ends to concern a node by itself.
fn may_have(state: &State, object: &Change, node: NodeId, networks: &BTreeSet<NetworkId>) -> bool {
    matches!(object, Change::Lease(..)) || state.watched(object).is_none() && state.concerns(object, node, networks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Command;
    use crate::model::object::Network;
    use crate::model::tests::{World, named};

    /// An observer of `World`'s second node, and what it was sent.
    struct Follower {
        copy: State,
        networks: BTreeSet<NetworkId>,
    }

    fn node(world: &World) -> NodeId {
        world.node(2).id
    }

    /// What of the state concerns the node.
    fn concerning(world: &World) -> State {
        let (state, node) = (&world.state, node(world));
        let networks = state.networks_of_node(node);
        let objects = state.objects().filter(|object| state.concerns(object, node, &networks));
        let objects = objects.filter_map(|object| state.watched(&object)).collect();
        State::of_watched(objects, state.applied_index, state.clock_ms).unwrap()
    }

    impl Follower {
        fn new(world: &World) -> Self {
            Self { copy: concerning(world), networks: world.state.networks_of_node(node(world)) }
        }

        fn take(&mut self, world: &World, changed: BTreeSet<Change>) -> usize {
            let networks = world.state.networks_of_node(node(world));
            let new = networks.difference(&self.networks).flat_map(|network| world.state.objects_of_network(*network));
            let objects = changed.into_iter().chain(new).collect();
            let mut sent = 0;
            for event in parts(&world.state, node(world), &networks, objects) {
                let Event::Changes(changes) = event else { panic!("{event:?}") };
                sent += changes.put.len() + changes.deleted.len();
                self.copy.take_watched(changes).unwrap();
            }
            let left = self.networks.difference(&networks).copied().collect();
            self.copy.forget(node(world), &left);
            self.copy.pass(world.state.applied_index, world.state.clock_ms);
            self.networks = networks;
            assert_eq!(self.copy, concerning(world));
            sent
        }
    }

    fn step(world: &mut World, follower: &mut Follower, command: Command) -> usize {
        let applied = world.apply(command);
        applied.result.expect("accepted");
        follower.take(world, applied.changes.into_iter().collect())
    }

    #[test]
    fn a_node_is_sent_what_concerns_it_and_no_more() {
        let (mut world, web) = World::with_network();
        let other: Network = world.network(named("other"));
        let mut follower = Follower::new(&world);
        let create = |world: &World, network: &Network, n: u8, name: &str| {
            Command::CreateEndpoint(world.container(network, n, name))
        };
        let command = create(&world, &web, 1, "far");
        assert_eq!(
            step(&mut world, &mut follower, command),
            1,
            "another node's, on a network that it is not on: a lease's key"
        );
        let command = create(&world, &web, 2, "own");
        assert!(step(&mut world, &mut follower, command) >= 4, "its own, and what was there before");
        let command = create(&world, &web, 3, "near");
        assert_eq!(step(&mut world, &mut follower, command), 2, "an endpoint and its lease");
        let command = create(&world, &other, 3, "away");
        assert_eq!(step(&mut world, &mut follower, command), 1);
        let own = world.state.endpoints.values().find(|endpoint| endpoint.name == "own").unwrap().clone();
        step(&mut world, &mut follower, Command::RemoveEndpoint { endpoint: own.id, epoch: own.epoch });
        assert!(follower.copy.endpoints.is_empty(), "{:?}", follower.copy.endpoints);
        let near = world.state.endpoints.values().find(|endpoint| endpoint.name == "near").unwrap().clone();
        step(&mut world, &mut follower, Command::RemoveEndpoint { endpoint: near.id, epoch: near.epoch });
        // Somebody else gets the address that was its own.
        world.now_ms += 120_000;
        let command = create(&world, &web, 1, "heir");
        step(&mut world, &mut follower, command);
    }
}
