//! An observer: a node outside the Raft membership. It follows the cluster's objects at a member, keeps a durable copy of
//! them, and tells that it is there.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use openraft::{RaftMetrics, StoredMembership};
use pontoon_proto::v1;
use pontoon_proto::v1::watch_response::Event;
use tokio::sync::Notify;
use tonic::Status;

use super::copy::{Copy, CopyError};
use super::members::upgrade;
use super::open::when_free;
use super::{END_STEP, Inner, Level, OpenError, Part, Store, StoreOptions, room};
use crate::disk::state::{StateDb, StateError};
use crate::model::object::{Node, NodeState};
use crate::model::state::State;
use crate::raft::channel::Channels;
use crate::raft::convert;
use crate::raft::types::{Membership, Peer, SnapshotMeta, StoredMembership as Stored, Types};
use crate::rt::{self, JoinHandle, sleep, timeout, watch};
use crate::watch::WatchError;

/// How often it tells that it is there.
const ATTEND: Duration = Duration::from_secs(1);
/// How long it waits before it goes to another member, at least; up to twice as long, so that those that a member leaves do
/// not all come to the next at once.
const AGAIN: Duration = Duration::from_millis(100);
/// How long it waits to be told who leads before it follows anybody: that one has other things to do.
const FIRST_TOLD: Duration = Duration::from_secs(1);
/// How many nodes it tries that were no members when it heard of them last.
const OTHERS: usize = 7;
/// Most messages that are written to its disk together.
const AT_ONCE: usize = 256;

/// An observer's part in the cluster.
pub(super) struct Observing {
    copy: Arc<Copy>,
    /// Who votes and leads, as a member has told: in the words in which a member knows it from Raft.
    told: watch::Sender<RaftMetrics<Types>>,
    /// Whether it has been as far as a member, since it was opened.
    in_step: watch::Sender<bool>,
    /// What it was told seems not to be so any more.
    ask: Notify,
    /// The member that told it last.
    answered: AtomicU64,
}

impl Observing {
    pub(super) fn told(&self) -> RaftMetrics<Types> {
        self.told.subscribe().borrow().clone()
    }

    /// Ends when it is told of another leader than that one.
    pub(super) async fn other_leader(&self, leader: u64) {
        // Once it is gone, so is whoever asks.
        let _ = self.told.subscribe().wait_for(|told| told.current_leader != Some(leader)).await;
    }

    /// Ends when it is told of what is so. False: never.
    pub(super) async fn is_told(&self, is_so: impl Fn(&RaftMetrics<Types>) -> bool) -> bool {
        self.told.subscribe().wait_for(is_so).await.is_ok()
    }

    /// Ends when it has been as far as a member.
    pub(super) async fn in_step(&self) {
        let _ = self.in_step.subscribe().wait_for(|in_step| *in_step).await;
    }

    /// What it was told has turned out not to be so.
    pub(super) fn doubt(&self) {
        self.ask.notify_one();
    }

    /// Hands what is in memory to the disk.
    pub(super) async fn end(&self) {
        let copy = Arc::clone(&self.copy);
        let flushed = timeout(END_STEP, rt::spawn_blocking(move || copy.flush())).await;
        if !matches!(flushed, Ok(Ok(Ok(())))) {
            tracing::warn!("the copy of the state could not be flushed; it will be followed again");
        }
    }

    pub(super) fn take_told(&self, answer: v1::AttendResponse) -> Option<()> {
        let membership = match answer.membership.as_ref() {
            Some(membership) => Some(Arc::new(stored(membership, answer.membership_log_id.as_ref())?)),
            None => None,
        };
        self.told.send_modify(|told| {
            if answer.term < told.current_term {
                return;
            }
            told.current_term = answer.term;
            told.current_leader = (answer.leader != 0).then_some(answer.leader);
            // One that has just joined may know of nobody yet, and with nobody to ask, this would stay so.
            let knows = |new: &Arc<Stored>| new.voter_ids().next().is_some();
            let is_newer = |new: &Arc<Stored>| new.log_id() >= told.membership_config.log_id();
            if let Some(membership) = membership.filter(|new| knows(new) && is_newer(new)) {
                told.membership_config = membership;
            }
        });
        Some(())
    }
}

fn stored(membership: &v1::Membership, log_id: Option<&v1::LogId>) -> Option<Stored> {
    let log_id = log_id.map(convert::log_id_in).transpose().ok()?;
    Some(StoredMembership::new(log_id, convert::membership_in(membership).ok()?))
}

impl Store {
    /// Opens the copy of an observer, and follows the cluster from then on. If the node was a member, `seed` is the state that
    /// it had: it goes on with that, unless the copy is newer.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub async fn observe(options: StoreOptions, seed: Option<State>) -> Result<Self, OpenError> {
        room::prepare(&options).map_err(|error| OpenError::disk("data folder")(error.into()))?;
        let dir = options.dir.join("observed");
        let seed = seed.map(|seed| concerning(seed, &options));
        let (copy, shared, known) = when_free(move || {
            let opened = StateDb::open(&dir).map_err(|error| match error {
                StateError::InUse { .. } => OpenError::InUse { dir: dir.clone() },
                error => OpenError::disk("copy of the state")(error.into()),
            })?;
            Copy::new(opened, seed.clone()).map_err(|error| OpenError::disk("copy of the state")(error.into()))
        })
        .await?;
        let mut told = RaftMetrics::new_initial(options.raft_id.0);
        let known = known.and_then(|(membership, id)| stored(&membership, id.as_ref()));
        told.membership_config = Arc::new(known.unwrap_or_else(|| guess(&options)));
        let observing = Observing {
            copy,
            told: watch::channel(told).0,
            in_step: watch::channel(false).0,
            ask: Notify::new(),
            answered: AtomicU64::new(0),
        };
        let channels = Channels::new(options.cluster, options.raft_id, options.key.clone());
        let store = Self::of(Part::Observer(observing), shared, channels, options);
        *store.0.tasks.lock().await = vec![spawn_follow(&store), spawn_attend(&store), room::spawn(&store)];
        Ok(store)
    }

    pub(super) fn observing(&self) -> Option<&Observing> {
        match &self.0.part {
            Part::Observer(observing) => Some(observing),
            Part::Member(_) => None,
        }
    }

    /// The leader seems to be another one.
    pub(super) fn doubt_leader(&self) {
        if let Some(observing) = self.observing() {
            observing.doubt();
        }
    }

    /// The members in the order in which it goes to them: each observer has its own, and the leader has other things to do.
    pub(super) fn candidates(&self) -> Vec<(u64, Peer)> {
        let metrics = self.metrics();
        let me = self.id().0;
        // Not itself, under whatever id it is known.
        let own = self.key().public();
        let nodes = metrics.membership_config.nodes().filter(|(id, peer)| **id != me && peer.key != own);
        let mut members: Vec<(u64, Peer)> = nodes.map(|(id, peer)| (*id, peer.clone())).collect();
        let place = |id: u64| (metrics.current_leader == Some(id), scattered(me, id));
        members.sort_by_key(|(id, _)| place(*id));
        // All of them may have become something else while it was away.
        let known = |node: &Node| node.public_key == own || members.iter().any(|(id, _)| *id == node.raft_id.0);
        let state = self.state();
        let others = state.nodes.values().filter(|node| !known(node) && node.state != NodeState::Down);
        let peer = |node: &Node| (node.raft_id.0, Peer { address: node.advertise.to_string(), key: node.public_key });
        let mut others: Vec<(u64, Peer)> = others.map(peer).collect();
        others.sort_by_key(|(id, _)| place(*id));
        members.extend(others.into_iter().take(OTHERS));
        members
    }

    /// Follows a member for as long as it goes.
    async fn follow_at(&self, observing: &Observing, member: u64, peer: &Peer, anew: bool) -> Result<(), FollowError> {
        let request = self.follow_request(anew);
        let mut client =
            self.0.channels.follow(member, peer).map_err(|error| FollowError::Address(error.to_string()))?;
        let answer = client.follow(self.0.channels.request(member, request)).await;
        self.0.channels.note(&answer);
        let mut events = answer?.into_inner().ready_chunks(AT_ONCE);
        let mut coming = Coming::default();
        while let Some(chunk) = events.next().await {
            let mut batch = Vec::new();
            let mut failed = None;
            for event in chunk {
                match event {
                    Ok(response) => batch.extend(response.event.and_then(|event| coming.whole(event))),
                    Err(status) => failed = Some(status),
                }
            }
            if !batch.is_empty() {
                self.take(observing, batch).await?;
            }
            if let Some(status) = failed {
                return Err(status.into());
            }
        }
        Ok(())
    }

    fn follow_request(&self, anew: bool) -> v1::FollowRequest {
        let (node, state) = (self.node(), self.state());
        v1::FollowRequest {
            cluster_id: self.cluster().to_string(),
            from_index: if anew { 0 } else { state.applied_index },
            networks: state.networks_of_node(node).into_iter().map(|network| network.0).collect(),
        }
    }

    /// Takes over what it was sent: on its disk first.
    async fn take(&self, observing: &Observing, batch: Vec<Event>) -> Result<(), FollowError> {
        let last_membership = observing.told().membership_config.as_ref().clone();
        let header = convert::snapshot_out(None, &SnapshotMeta { last_log_id: None, last_membership }, 0);
        let (copy, full, node) = (Arc::clone(&observing.copy), self.room().level == Level::Full, self.node());
        let taken = rt::spawn_blocking(move || copy.take(batch, node, header, full)).await;
        taken.map_err(|error| FollowError::Cut(error.to_string()))??;
        observing.in_step.send_replace(true);
        Ok(())
    }
}

/// What goes together is kept until the last of it is there.
#[derive(Default)]
pub(super) struct Coming {
    objects: Vec<v1::Object>,
    changes: v1::WatchChanges,
}

impl Coming {
    pub(super) fn whole(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Snapshot(mut part) => {
                self.objects.append(&mut part.objects);
                let objects = || std::mem::take(&mut self.objects);
                part.last.then(objects).map(|objects| Event::Snapshot(v1::WatchSnapshot { objects, ..part }))
            }
            Event::Changes(mut part) => {
                self.changes.put.append(&mut part.put);
                self.changes.deleted.append(&mut part.deleted);
                if part.more {
                    return None;
                }
                let v1::WatchChanges { put, deleted, .. } = std::mem::take(&mut self.changes);
                Some(Event::Changes(v1::WatchChanges { put, deleted, ..part }))
            }
            progress => Some(progress),
        }
    }
}

/// What of a member's state concerns the node still.
fn concerning(mut seed: State, options: &StoreOptions) -> State {
    let own = seed.node_with_key(&options.key.public()).map_or(options.node, |node| node.id);
    let networks = seed.networks.keys().copied().collect();
    seed.forget(own, &networks);
    seed
}

/// Those who were members when this node was admitted.
fn guess(options: &StoreOptions) -> Stored {
    let peers: BTreeMap<u64, Peer> = options.members.iter().map(|(id, peer)| (id.0, peer.clone())).collect();
    let voters = peers.keys().copied().collect();
    StoredMembership::new(None, Membership::new(vec![voters], peers).unwrap_or_default())
}

/// Why a member is not followed (any more).
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("its address cannot be one: {0}")]
    Address(String),
    #[error("{}", .0.message())]
    Refused(#[from] Status),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error("writing what it sent was cut off: {0}")]
    Cut(String),
    #[error("it has ended")]
    Ended,
}

impl FollowError {
    /// Whether what it would go on from is not kept any more.
    fn is_compacted(&self) -> bool {
        matches!(self, Self::Refused(status) if WatchError::of(status).is_compacted())
    }
}

/// No member is followed at the moment.
#[derive(Debug, thiserror::Error)]
#[error("cannot follow {address}")]
struct NotFollowed {
    address: String,
    #[source]
    source: FollowError,
}

/// How long it waits before the next member: those that one leaves do not all come to the next at once.
fn pause(me: u64, attempt: u64) -> Duration {
    AGAIN + AGAIN.mul_f64((scattered(me, attempt) % 1000) as f64 / 1000.0)
}

/// A number that looks like chance, and is another one for each node.
fn scattered(me: u64, of: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (me, of).hash(&mut hasher);
    hasher.finish()
}

fn spawn_follow(store: &Store) -> JoinHandle<()> {
    let (weak, task, me) = (Arc::downgrade(&store.0), store.0.options.tasks.task("follow"), store.id().0);
    let ending = store.0.ending.clone();
    rt::spawn(async move {
        if ending.run_until_cancelled(first_told(&weak)).await.is_none() {
            return;
        }
        let (mut anew, mut attempt) = (false, 0);
        let mut candidates = Vec::new().into_iter();
        loop {
            let Some(store) = upgrade(&weak) else { return };
            let Some(observing) = store.observing() else { return };
            if candidates.len() == 0 {
                candidates = store.candidates().into_iter();
            }
            if let Some((id, peer)) = candidates.next() {
                task.begin();
                let before = *store.applied().borrow();
                let followed = ending.run_until_cancelled(store.follow_at(observing, id, &peer, anew)).await;
                let Some(followed) = followed else { return };
                let error = followed.err().unwrap_or(FollowError::Ended);
                anew = error.is_compacted() || anew && *store.applied().borrow() == before;
                task.end(Err(NotFollowed { address: peer.address, source: error }));
                observing.doubt();
            }
            attempt += 1;
            drop(store);
            if ending.run_until_cancelled(sleep(pause(me, attempt))).await.is_none() {
                return;
            }
        }
    })
}

/// Waits a moment for a member to tell who leads; with nobody in reach, it is tried without knowing.
async fn first_told(weak: &Weak<Inner>) {
    let Some(store) = upgrade(weak) else { return };
    let Some(observing) = store.observing() else { return };
    let _ = timeout(FIRST_TOLD, observing.is_told(|told| told.current_leader.is_some())).await;
}

fn spawn_attend(store: &Store) -> JoinHandle<()> {
    let (weak, task) = (Arc::downgrade(&store.0), store.0.options.tasks.task("attend"));
    let ending = store.0.ending.clone();
    rt::spawn(async move {
        loop {
            let Some(store) = upgrade(&weak) else { return };
            let Some(observing) = store.observing() else { return };
            store.look_for_own_id();
            task.begin();
            let Some(told) = ending.run_until_cancelled(store.attend_somewhere(observing)).await else { return };
            task.end(told.ok_or(NobodyThere));
            // One question more often than it tells, and not more, if what it was told changes all the time.
            let soon = async {
                observing.ask.notified().await;
                sleep(AGAIN).await;
            };
            if ending.run_until_cancelled(timeout(ATTEND, soon)).await.is_none() {
                return;
            }
        }
    })
}

/// Nobody knows that this observer is there.
#[derive(Debug, thiserror::Error)]
#[error("no member answers")]
struct NobodyThere;

impl Store {
    /// Tells the first member that answers that this observer is there, and hears who leads.
    async fn attend_somewhere(&self, observing: &Observing) -> Option<()> {
        // One that does not answer costs time: first the one that did.
        let mut candidates = self.candidates();
        candidates.sort_by_key(|(id, _)| *id != observing.answered.load(Ordering::Relaxed));
        for (id, peer) in candidates {
            let here = v1::Attendance { raft_id: self.id().0, index: *self.applied().borrow(), age_ms: 0 };
            // One that knows of no leader knows no more than this observer.
            let answer = self.tell_attendance(id, &peer, vec![here]).await.filter(|answer| answer.leader != 0);
            if let Some(answer) = answer {
                observing.answered.store(id, Ordering::Relaxed);
                return observing.take_told(answer);
            }
        }
        None
    }
}
