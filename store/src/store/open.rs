//! Opening a store.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::{Config, Raft, SnapshotPolicy};
use pontoon_proto::v1;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::attend::Attendance;
use super::consensus::Consensus;
use super::{Inner, Part, RoomWatch, Store, StoreOptions, agreement, members, room};
use crate::codec;
use crate::disk::snapshot::{SnapshotDir, SnapshotError, SnapshotFile};
use crate::disk::state::{StateDb, StateError, StateMeta};
use crate::disk::wal::{Identity, Wal, WalError, WalOptions};
use crate::model::state::State;
use crate::raft::arrival::Arrival;
use crate::raft::channel::Channels;
use crate::raft::convert;
use crate::raft::log_store::LogStore;
use crate::raft::network::Network;
use crate::raft::state_machine::{Shared, StateMachine};
use crate::raft::types::{LogId, SnapshotMeta};
use crate::rt;

/// How long a folder may be in use by a daemon that is ending.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// How long to wait before looking again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The log, the state or a snapshot: foreign, newer, damaged or not accessible.
    #[error("cannot open the {what}")]
    Disk {
        /// Which of them.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Another process has the folder open.
    #[error("{} is in use: another pontoond runs with this data folder; stop it first", dir.display())]
    InUse {
        /// Folder.
        dir: PathBuf,
    },
    /// The log is gone, and the member has had one. Without its votes it could split the cluster.
    #[error(
        "the log in {} is gone: without it this member must not vote again. Remove the node from the cluster (pontoon node rm \
         --force on another), move its data folder away and join again",
        dir.display()
    )]
    LogMissing {
        /// Folder.
        dir: PathBuf,
    },
    /// Neither the state nor a snapshot reaches the first entry of the log.
    #[error(
        "the log in {} begins after entry {purged}, and neither state nor snapshot reach it (they end at {applied}). \
         Remove the node from the cluster, clear its data folder and join again",
        dir.display()
    )]
    StateLost {
        /// Folder.
        dir: PathBuf,
        /// Up to where the log is purged.
        purged: u64,
        /// Last entry of the state or snapshot.
        applied: u64,
    },
    /// Its copy of the state is not what the other members have.
    #[error("{reason}")]
    Differs {
        /// What was found, and what to do.
        reason: String,
    },
    /// Raft does not start.
    #[error("Raft does not start: {reason}")]
    Raft {
        /// Why.
        reason: String,
    },
}

impl OpenError {
    pub(super) fn disk(what: &'static str) -> impl FnOnce(Box<dyn Error + Send + Sync>) -> Self {
        move |source| Self::Disk { what, source }
    }

    pub(super) fn raft(error: &dyn Error) -> Self {
        Self::Raft { reason: crate::error_chain(error) }
    }
}

impl Store {
    /// Opens the member's log and state, and takes part in Raft from then on.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub async fn open(options: StoreOptions) -> Result<Self, OpenError> {
        let config = config(&options)?;
        let opening = options.clone();
        let (wal, log, machine, snapshots) = when_free(move || open_disk(&opening)).await?;
        let shared = machine.shared();
        let channels = Channels::new(options.cluster, options.raft_id, options.key.clone());
        let network = Network::new(channels.clone());
        let raft = Raft::new(options.raft_id.0, Arc::new(config), network, log.clone(), machine).await;
        let consensus = Consensus {
            raft: raft.map_err(|error| OpenError::raft(&error))?,
            log,
            wal,
            snapshots,
            arrival: Arrival::default(),
            changing: tokio::sync::Mutex::default(),
            silence: Mutex::default(),
            replaced: AtomicU64::new(0),
        };
        let store = Self::of(Part::Member(Box::new(consensus)), shared, channels, options);
        let mut tasks = members::spawn(&store);
        tasks.extend([agreement::spawn(&store), room::spawn(&store)]);
        *store.0.tasks.lock().await = tasks;
        Ok(store)
    }

    /// Itself, without its tasks.
    pub(super) fn of(part: Part, shared: Arc<Shared>, channels: Channels, options: StoreOptions) -> Self {
        Self(Arc::new(Inner {
            part,
            shared,
            room: RoomWatch::default(),
            channels,
            attendance: Attendance::default(),
            role: rt::watch::channel(None).0,
            vouched: Mutex::default(),
            ending: CancellationToken::new(),
            ended: CancellationToken::new(),
            tasks: tokio::sync::Mutex::default(),
            options,
        }))
    }
}

fn config(options: &StoreOptions) -> Result<Config, OpenError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: options.cluster.to_string(),
        heartbeat_interval: millis(options.timing.heartbeat),
        election_timeout_min: millis(options.timing.election_min),
        election_timeout_max: millis(options.timing.election_max),
        enable_pre_vote: Some(true),
        // Entries go to the others while they are written here. A leader that is killed in between knows nothing of them
        // when it comes back; going on in its old term, it would give others the same places in the log.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_every),
        max_in_snapshot_log_to_keep: options.keep_entries,
        // A follower that is behind gets entries as long as they are kept.
        replication_lag_threshold: options.snapshot_every.saturating_mul(2),
        install_snapshot_timeout: 60_000,
        ..Config::default()
    };
    config.validate().map_err(|error| OpenError::raft(&error))
}

fn open_disk(options: &StoreOptions) -> Result<Opened, OpenError> {
    let mark = agreement::mark_of(&options.dir).map_err(|error| OpenError::disk("data folder")(error.into()))?;
    if let Some(reason) = mark {
        return Err(OpenError::Differs { reason });
    }
    room::prepare(options).map_err(|error| OpenError::disk("data folder")(error.into()))?;
    let log_dir = options.dir.join("log");
    let state_dir = options.dir.join("state");
    let snapshot_dir = options.dir.join("snapshots");
    if is_empty(&log_dir) && (options.begun || !(is_empty(&state_dir) && is_empty(&snapshot_dir))) {
        return Err(OpenError::LogMissing { dir: options.dir.clone() });
    }
    let identity = Identity { cluster: options.cluster, raft_id: options.raft_id };
    let wal_options = WalOptions { dir: log_dir, identity, segment_bytes: options.segment_bytes };
    let opened = Wal::open(wal_options, Arc::clone(&options.fatal));
    let (wal, recovered) = opened.map_err(|error| match error {
        WalError::InUse { .. } => OpenError::InUse { dir: options.dir.clone() },
        error => OpenError::disk("log")(error.into()),
    })?;
    if recovered.torn {
        tracing::info!("the last write to the log had not been finished and was cut off");
    }
    let wal = Arc::new(wal);
    let log = LogStore::new(Arc::clone(&wal), recovered).map_err(|error| OpenError::disk("log")(error.into()))?;
    let state = StateDb::open(&state_dir).map_err(|error| match error {
        StateError::InUse { .. } => OpenError::InUse { dir: options.dir.clone() },
        error => OpenError::disk("state")(error.into()),
    })?;
    let (snapshots, current) =
        open_snapshots(snapshot_dir).map_err(|error| OpenError::disk("snapshots")(error.into()))?;
    let current = cover(&state, &log, &snapshots, current)?;
    let snapshot_index = current.as_ref().and_then(|(meta, _)| meta.last_log_id).map_or(0, |id| id.index);
    let machine = StateMachine::new(state, snapshots.clone(), current);
    let machine = machine.map_err(|error| OpenError::disk("state")(error.into()))?;
    let applied = machine.applied().map_or(0, |id| id.index).max(snapshot_index);
    let purged = log.purged().map_or(0, |id| id.index);
    if applied < purged {
        return Err(OpenError::StateLost { dir: options.dir.clone(), purged, applied });
    }
    Ok((wal, log, machine, snapshots))
}

/// A leader applies what a majority has on its disks, its own may not be among them. If it is killed then, its state is ahead
/// of its log, which Raft begins anew behind the state. What is before that is in a snapshot, as always: the state
/// itself was never synced.
fn cover(
    (_, state, meta): &(StateDb, State, StateMeta),
    log: &LogStore,
    snapshots: &SnapshotDir,
    current: Current,
) -> Result<Current, OpenError> {
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
    let covered = index(log.last()).max(current.as_ref().map_or(0, |(meta, _)| index(meta.last_log_id)));
    if state.applied_index <= covered {
        return Ok(current);
    }
    tracing::info!(applied = state.applied_index, covered, "the state is ahead of the log, and goes into a snapshot");
    let data = codec::encode_snapshot(state);
    let header = v1::SnapshotHeader { size: data.len() as u64, ..meta.applied.clone() };
    let file = snapshots.write(&header, &data).map_err(|error| OpenError::disk("snapshots")(error.into()))?;
    let meta = convert::snapshot_in(&header).map_err(|error| OpenError::disk("state")(error.into()))?;
    Ok(Some((meta, file)))
}

type Opened = (Arc<Wal>, LogStore, StateMachine, SnapshotDir);

/// Opens a folder; a daemon that is ending may have it a little longer.
pub(super) async fn when_free<T: Send + 'static>(
    open: impl Fn() -> Result<T, OpenError> + Send + Sync + 'static,
) -> Result<T, OpenError> {
    let end = rt::now() + LOCK_WAIT;
    let open = Arc::new(open);
    loop {
        let opening = Arc::clone(&open);
        let opened = rt::spawn_blocking(move || opening()).await;
        match opened.map_err(|error| OpenError::raft(&error))? {
            Err(OpenError::InUse { .. }) if rt::now() < end => rt::sleep(LOOK_AGAIN).await,
            other => return other,
        }
    }
}

type Current = Option<(SnapshotMeta, SnapshotFile)>;

/// A damaged snapshot is moved aside: the state may still reach the log.
fn open_snapshots(dir: PathBuf) -> Result<(SnapshotDir, Current), SnapshotError> {
    let snapshots = SnapshotDir::open(dir)?;
    let current = match snapshots.current() {
        Ok(current) => current,
        Err(SnapshotError::Damaged { path, detail }) => {
            tracing::warn!(path = %path.display(), detail, "a snapshot is damaged and is moved aside");
            snapshots.set_aside(&path)?;
            None
        }
        Err(error) => return Err(error),
    };
    let current = current.and_then(|(header, file)| Some((convert::snapshot_in(&header).ok()?, file)));
    Ok((snapshots, current))
}

fn is_empty(dir: &Path) -> bool {
    let lock = |entry: &rt::fs::DirEntry| entry.file_name() == "lock";
    rt::fs::read_dir(dir).map_or(true, |entries| entries.flatten().all(|entry| lock(&entry)))
}
