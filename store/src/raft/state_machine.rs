//! openraft's state machine: applies entries to the state, and makes and takes snapshots.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{OptionalSend, Snapshot};

use super::convert;
use super::guard::{StateGuard, check_not_looking};
use super::types::{Answer, LogEntry, LogId, Payload, SnapshotMeta, StoredMembership, Types};
use crate::codec;
use crate::disk::snapshot::{self, SnapshotDir, SnapshotFile};
use crate::disk::state::{StateDb, StateMeta};
use crate::feed::Feed;
use crate::model::agreement::StateHash;
use crate::model::apply::Change;
use crate::model::state::State;
use crate::rt::{self, watch};

/// How many earlier hashes are remembered: some tenths of a second of a busy cluster.
const EARLIER: usize = 512;
/// Most entries that go into one batch on disk.
const BATCH_ENTRIES: usize = 512;

type SnapshotOf = Snapshot<super::types::LeaderId, u64, super::types::Peer, SnapshotFile>;

/// What the rest of the store sees of the state machine.
#[derive(Debug)]
pub(crate) struct Shared {
    state: RwLock<State>,
    applied: watch::Sender<u64>,
    view: Mutex<View>,
    feed: Mutex<Feed>,
    /// Counts the changes in which nodes may have gone.
    departures: watch::Sender<u64>,
}

/// What the state machine tells about itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// Last entry that is in the hash.
    pub(crate) index: u64,
    /// Hash of the state.
    pub(crate) hash: u128,
    /// Those before, oldest first: members apply different numbers of entries at once, and two that are to be compared need
    /// one in common.
    earlier: VecDeque<StateHash>,
    /// The latest snapshot.
    pub(crate) snapshot: Option<(SnapshotMeta, SnapshotFile)>,
    /// Why nothing is applied any more.
    pub(crate) stopped: Option<String>,
}

impl View {
    /// The state is another one now.
    pub(crate) fn advance(&mut self, index: u64, hash: u128) {
        if self.earlier.len() == EARLIER {
            self.earlier.pop_front();
        }
        self.earlier.push_back(StateHash { index: self.index, hash: self.hash });
        (self.index, self.hash) = (index, hash);
    }

    /// The hashes of the latest states, oldest first.
    pub(crate) fn hashes(&self) -> Vec<StateHash> {
        let latest = StateHash { index: self.index, hash: self.hash };
        self.earlier.iter().copied().chain([latest]).collect()
    }
}

impl Shared {
    /// What was on disk, with the hash of it and the latest snapshot.
    pub(crate) fn new(state: State, hash: u128, snapshot: Option<(SnapshotMeta, SnapshotFile)>) -> Self {
        let (applied, _) = watch::channel(state.applied_index);
        Self {
            applied,
            view: Mutex::new(View { index: state.applied_index, hash, snapshot, ..View::default() }),
            feed: Mutex::new(Feed::new(state.applied_index)),
            departures: watch::channel(0).0,
            state: RwLock::new(state),
        }
    }

    pub(crate) fn state(&self) -> StateGuard<'_> {
        StateGuard::new(&self.state)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        check_not_looking(&self.state);
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait for an entry.
    pub(crate) fn tell_applied(&self, index: u64) {
        self.applied.send_replace(index);
    }

    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Tells watchers what has changed.
    pub(crate) fn tell_changes(&self, state: &State, changes: &BTreeSet<Change>) {
        self.feed().add(state, changes);
        // One that is there still may have another key.
        if changes.iter().any(|change| matches!(change, Change::Node(_))) {
            self.tell_departures();
        }
    }

    /// Tells watchers that everything may have changed.
    pub(crate) fn tell_anew(&self, index: u64) {
        self.feed().restart(index);
        self.tell_departures();
    }

    fn tell_departures(&self) {
        self.departures.send_modify(|count| *count += 1);
    }

    /// Wakes those who wait for nodes to go.
    pub(crate) fn departures(&self) -> watch::Receiver<u64> {
        self.departures.subscribe()
    }

    pub(crate) fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct StateMachine {
    shared: Arc<Shared>,
    db: StateDb,
    snapshots: SnapshotDir,
    applied: Option<LogId>,
    membership: StoredMembership,
    hash: u128,
}

impl StateMachine {
    /// The state machine over what was on disk.
    ///
    /// # Errors
    ///
    /// A description that cannot be understood.
    pub(crate) fn new(
        (db, state, meta): (StateDb, State, StateMeta),
        snapshots: SnapshotDir,
        current: Option<(SnapshotMeta, SnapshotFile)>,
    ) -> Result<Self, io::Error> {
        let applied = match &meta.applied.membership {
            // A state that nothing was applied to yet.
            None => SnapshotMeta::default(),
            Some(_) => convert::snapshot_in(&meta.applied).map_err(io::Error::other)?,
        };
        Ok(Self {
            shared: Arc::new(Shared::new(state, meta.hash, current)),
            db,
            snapshots,
            applied: applied.last_log_id,
            membership: applied.last_membership,
            hash: meta.hash,
        })
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Last applied entry.
    pub(crate) fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// Hands what is in memory to the system.
    pub(crate) fn flush(&self) -> Result<(), io::Error> {
        self.db.flush().map_err(io::Error::other)
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }

    /// Applies entries, writes what they changed, and only then answers.
    fn apply_batch(&mut self, batch: Vec<EntryResponder<Types>>) -> Result<(), io::Error> {
        let mut answers = Vec::with_capacity(batch.len());
        let mut changes = BTreeSet::new();
        let mut failed = None;
        let shared = Arc::clone(&self.shared);
        let mut state = shared.write();
        for (entry, responder) in batch {
            match self.apply_one(&mut state, &entry, &mut changes) {
                Ok(answer) => answers.extend(responder.map(|responder| (responder, answer))),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        // Before watchers are woken, and together with the state: who looks at both finds them to be as of one index.
        self.shared.tell_changes(&state, &changes);
        // Nothing changes the state any more, and writing it takes longer than others should wait for a look at it.
        let state = RwLockWriteGuard::downgrade(state);
        let described = convert::snapshot_out(None, &self.meta(), 0);
        let mut meta = StateMeta { applied: described, clock_ms: state.clock_ms, hash: self.hash };
        self.db.apply(&state, changes, &mut meta).map_err(io::Error::other)?;
        let index = state.applied_index;
        drop(state);
        self.hash = meta.hash;
        self.shared.view().advance(index, meta.hash);
        self.shared.tell_applied(index);
        for (responder, answer) in answers {
            responder.send(answer);
        }
        failed.map_or(Ok(()), Err)
    }

    fn apply_one(
        &mut self,
        state: &mut State,
        entry: &LogEntry,
        changes: &mut BTreeSet<Change>,
    ) -> Result<Answer, io::Error> {
        let index = entry.log_id.index;
        let answer = match &entry.payload {
            Payload::Blank => None,
            Payload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                None
            }
            Payload::Normal(data) => {
                let decoded = codec::decode_entry(&data.0).map_err(|error| {
                    let reason = format!("entry {index} of the log cannot be applied: {error}");
                    self.shared.view().stopped = Some(reason.clone());
                    io::Error::other(reason)
                })?;
                let applied = state.apply(index, &decoded);
                changes.extend(applied.changes);
                Some(applied.result)
            }
        };
        state.applied_index = index;
        self.applied = Some(entry.log_id);
        Ok(answer)
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(BATCH_ENTRIES);
        while let Some(chunk) = chunks.next().await {
            self.apply_batch(chunk.into_iter().collect::<Result<_, _>>()?)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let state = self.shared.state().clone();
        let (meta, snapshots, shared) = (self.meta(), self.snapshots.clone(), self.shared());
        SnapshotBuilder { state: Some(state), meta, snapshots, shared }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let path = snapshot.path.clone();
        let read = move || -> Result<State, io::Error> {
            let (_, _, data) = snapshot::read(&path).map_err(io::Error::other)?;
            codec::decode_snapshot(&data).map_err(io::Error::other)
        };
        let mut state = rt::spawn_blocking(read).await.map_err(io::Error::other)??;
        // Entries that Raft makes itself are not in the model's index.
        state.applied_index = meta.last_log_id.map_or(0, |id| id.index);
        let header = convert::snapshot_out(None, meta, snapshot.data_bytes);
        let kept = self.snapshots.keep(snapshot, &header).map_err(io::Error::other)?;
        rt::settle().await;
        let mut described = StateMeta { applied: header, clock_ms: state.clock_ms, hash: 0 };
        self.db.replace(&state, &mut described).map_err(io::Error::other)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.hash = described.hash;
        let index = state.applied_index;
        {
            let mut shared = self.shared.write();
            *shared = state;
            self.shared.tell_anew(index);
        }
        {
            let mut view = self.shared.view();
            view.advance(index, described.hash);
            view.snapshot = Some((meta.clone(), kept));
        }
        self.shared.tell_applied(index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf>, io::Error> {
        let current = self.shared.view().snapshot.clone();
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Writes a snapshot of the state as it was when the builder was made.
#[derive(Debug)]
pub(crate) struct SnapshotBuilder {
    state: Option<State>,
    meta: SnapshotMeta,
    snapshots: SnapshotDir,
    shared: Arc<Shared>,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf, io::Error> {
        let state = self.state.take().ok_or_else(|| io::Error::other("this snapshot is built already"))?;
        let (meta, snapshots) = (self.meta.clone(), self.snapshots.clone());
        let build = move || {
            let data = codec::encode_snapshot(&state);
            let header = convert::snapshot_out(None, &meta, data.len() as u64);
            snapshots.write(&header, &data).map(|file| (meta, file))
        };
        let built = rt::spawn_blocking(build).await.map_err(io::Error::other)?;
        let (meta, file) = built.map_err(io::Error::other)?;
        let mut view = self.shared.view();
        let newer = view.snapshot.as_ref().is_none_or(|(current, _)| current.last_log_id <= meta.last_log_id);
        if newer {
            view.snapshot = Some((meta.clone(), file.clone()));
        }
        Ok(Snapshot { meta, snapshot: file })
    }
}
