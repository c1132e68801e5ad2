//! This daemon as a member of a cluster: its store, and what it may ask of it.

use std::time::Duration;

use pontoon_proto::v1;
use pontoon_store::Store;
use pontoon_store::model::command::{Command, Outcome};
use pontoon_store::model::id::{ClusterId, NodeId, RaftId};
use pontoon_store::model::state::State;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::error::ApiError;
use crate::reconcile::ReconcileHandle;

/// How long a write may take before its asker is told what is in its way.
const WRITE_DEADLINE: Duration = Duration::from_secs(4);
/// How long a read waits for the leader before the local copy answers.
const READ_DEADLINE: Duration = Duration::from_secs(2);
/// How long a change of the Raft membership may take.
const EXPEL_DEADLINE: Duration = Duration::from_secs(15);

/// A member of a cluster, running.
#[derive(Debug)]
pub struct Member {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) raft_id: RaftId,
    pub(crate) store: Store,
    pub(crate) reconcile: ReconcileHandle,
    pub(crate) attachments: crate::attach::InFlight,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: Vec<JoinHandle<()>>,
}

impl Member {
    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Writes, through the leader.
    pub async fn propose(&self, command: Command) -> Result<Outcome, ApiError> {
        Ok(self.store.propose(command, WRITE_DEADLINE).await?)
    }

    /// Makes the local copy as new as any write that was acknowledged before now.
    pub async fn refresh(&self) -> Result<(), ApiError> {
        Ok(self.store.read_barrier(READ_DEADLINE).await?)
    }

    /// Prepares a read. Without a leader the local copy answers, and says so.
    pub async fn read(&self, options: Option<v1::ReadOptions>) -> Result<ReadBasis, ApiError> {
        if options.is_some_and(|options| options.stale) {
            return Ok(ReadBasis { linearizable: false, reason: String::new() });
        }
        match self.store.read_barrier(READ_DEADLINE).await {
            Ok(()) => Ok(ReadBasis { linearizable: true, reason: String::new() }),
            Err(error) => Ok(ReadBasis { linearizable: false, reason: error.to_string() }),
        }
    }

    /// Takes a member out of the Raft membership.
    pub async fn expel(&self, raft_id: RaftId) -> Result<(), ApiError> {
        Ok(self.store.expel(raft_id, EXPEL_DEADLINE).await?)
    }
}

/// What a read can promise.
#[derive(Debug)]
pub struct ReadBasis {
    linearizable: bool,
    reason: String,
}

impl ReadBasis {
    /// The promise, as of the state that the answer is made from.
    pub fn of(self, state: &State) -> v1::Freshness {
        v1::Freshness {
            linearizable: self.linearizable,
            applied_index: state.applied_index,
            applied_ms: state.clock_ms,
            reason: self.reason,
        }
    }
}

/// Starts everything that a member does in the background.
pub(crate) fn start(daemon: &Arc<Daemon>, membership: Membership, store: Store) -> Result<Arc<Member>, ApiError> {
    todo!()
}

/// Ends it: the loop first, so that nothing is half done, then the store.
pub(crate) async fn stop(member: &Member) {
    member.stop.cancel();
    let tasks = std::mem::take(&mut *member.tasks.lock().unwrap_or_else(PoisonError::into_inner));
    for task in tasks {
        if let Err(error) = task.await {
            warn!(%error, "a background task did not end well");
        }
    }
    member.store.shutdown().await;
}
