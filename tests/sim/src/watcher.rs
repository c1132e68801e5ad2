//! A watcher: it mirrors the cluster's objects from what a daemon's Watch API sends it, and goes on at another daemon when
//! that one goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use pontoon_proto::v1::watch_response::Event;
use pontoon_proto::v1::{self, ObjectKind, object};
use pontoon_store::Watching;
use pontoon_store::model::state::State;
use pontoon_store::rt::sim::Chance;
use pontoon_store::rt::{Instant, now, sleep, spawn};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bug::Bug;
use crate::daemon::Daemon;
use crate::notes::Notes;

/// How long it waits before it goes to another daemon.
const AGAIN: Duration = Duration::from_millis(20);
/// About after how many messages it goes to another daemon without need.
const RESTLESS: u64 = 60;

type Key = (i32, u64, u64, u64, String, String);
type Mirror = BTreeMap<Key, v1::Object>;

/// A watcher. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Follower {
    notes: Notes,
    bug: Option<Bug>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Everything up to this index.
    index: u64,
    mirror: Mirror,
    /// Parts of a beginning that is not complete.
    coming: Option<Mirror>,
}

impl Follower {
    pub(crate) fn new(notes: Notes, bug: Option<Bug>) -> Self {
        Self { notes, bug, seen: Arc::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches until a moment.
    pub(crate) async fn run(self, daemons: Vec<Arc<Daemon>>, mut chance: Chance, end: Instant) {
        while now() < end && !self.notes.is_bad() {
            let daemon = &daemons[chance.below(daemons.len() as u64) as usize];
            self.watch_at(daemon, &mut chance, end).await;
            sleep(AGAIN).await;
        }
    }

    async fn watch_at(&self, daemon: &Arc<Daemon>, chance: &mut Chance, end: Instant) {
        let Some((run, store)) = daemon.up() else { return };
        let mut from_index = self.seen().index;
        if self.bug == Some(Bug::WatchGap) && from_index > 0 {
            from_index = from_index.max(*store.applied().borrow());
        }
        self.seen().coming = None;
        let request = v1::WatchRequest { from_index, ..v1::WatchRequest::default() };
        let (sender, mut events) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serving = async move {
            let mut told = match store.watch(request, stopped, Watching::default()).await {
                Ok(told) => told,
                Err(error) => return drop(sender.send(Err(error))),
            };
            while let Some(event) = told.next().await {
                let over = event.is_err();
                let event = event.map(|response| response.event);
                if sender.send(event).is_err() || over {
                    return;
                }
            }
        };
        run.within(|| drop(spawn(serving)));
        while now() < end && !chance.once_in(RESTLESS) {
            let event = tokio::select! {
                biased;
                () = run.over() => return,
                event = events.recv() => event,
                () = sleep(Duration::from_secs(1)) => continue,
            };
            match event {
                Some(Ok(event)) => event.into_iter().for_each(|event| self.take(daemon, event)),
                Some(Err(error)) if error.reason() == "INDEX_COMPACTED" => {
                    self.notes.count("watchers that began anew");
                    self.seen().index = 0;
                    return;
                }
                Some(Err(_)) | None => return,
            }
        }
        stop.cancel();
    }

    fn take(&self, daemon: &Daemon, event: Event) {
        self.notes.count("messages to watchers");
        let mut seen = self.seen();
        match event {
            Event::Snapshot(part) => {
                let coming = seen.coming.get_or_insert_default();
                coming.extend(part.objects.into_iter().map(|object| (key_of(&object), object)));
                if part.last {
                    seen.mirror = seen.coming.take().unwrap_or_default();
                    seen.index = part.index;
                }
            }
            Event::Changes(changes) => {
                if changes.index <= seen.index {
                    let (index, before) = (changes.index, seen.index);
                    self.notes.violation(format!("a watcher at index {before} was sent what changed at {index}"));
                }
                seen.index = changes.index;
                seen.mirror.extend(changes.put.into_iter().map(|object| (key_of(&object), object)));
                for key in changes.deleted {
                    seen.mirror.remove(&(key.kind, key.id, key.network, key.node, key.address, key.cidr));
                }
            }
            Event::Progress(progress) => seen.index = seen.index.max(progress.index),
        }
        let index = seen.index;
        drop(seen);
        if let Some((_, store)) = daemon.up()
            && !store.observes()
            && store.state().applied_index == index
        {
            self.compare(&store.state());
        }
    }

    /// Looks whether what it has is what there is, at the index that it has seen everything up to.
    pub(crate) fn compare(&self, state: &State) {
        let there = state.objects().filter_map(|change| state.watched(&change));
        let there: Mirror = there.map(|object| (key_of(&object), object)).collect();
        let seen = self.seen();
        self.notes.count("comparisons of watchers");
        let wrong = there.iter().find(|(key, object)| seen.mirror.get(*key) != Some(*object));
        let wrong = wrong.or_else(|| seen.mirror.iter().find(|(key, _)| !there.contains_key(*key)));
        if let Some((key, _)) = wrong {
            self.notes
                .violation(format!("a watcher that has seen everything up to {} is wrong about {key:?}", seen.index));
        }
    }

    /// Up to where it has seen everything.
    pub(crate) fn index(&self) -> u64 {
        self.seen().index
    }
}

/// What names an object, as `ObjectKey` has it.
fn key_of(object: &v1::Object) -> Key {
    use object::Object;
    let key = |kind: ObjectKind, id, network, node| (kind as i32, id, network, node, String::new(), String::new());
    match object.object.as_ref() {
        None => key(ObjectKind::Unspecified, 0, 0, 0),
        Some(Object::Cluster(_)) => key(ObjectKind::Cluster, 0, 0, 0),
        Some(Object::Node(node)) => key(ObjectKind::Node, node.id, 0, 0),
        Some(Object::Network(network)) => key(ObjectKind::Network, network.id, 0, 0),
        Some(Object::Endpoint(endpoint)) => key(ObjectKind::Endpoint, endpoint.id, 0, 0),
        Some(Object::Lease(lease)) => {
            (ObjectKind::Lease as i32, 0, lease.network, 0, lease.address.clone(), String::new())
        }
        Some(Object::Claim(claim)) => (ObjectKind::Claim as i32, 0, 0, 0, String::new(), claim.cidr.clone()),
        Some(Object::Admin(admin)) => key(ObjectKind::Admin, admin.id, 0, 0),
        Some(Object::Audited(audited)) => key(ObjectKind::Audited, audited.index, 0, 0),
        Some(Object::Token(token)) => {
            key(ObjectKind::Token, u64::from_str_radix(&token.id, 16).unwrap_or_default(), 0, 0)
        }
        Some(Object::EngineNetwork(known)) => key(ObjectKind::EngineNetwork, 0, known.network, known.node),
    }
}
