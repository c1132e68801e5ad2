//! What a member has to do with Raft.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use openraft::Raft;

use super::{END_STEP, voting};
use crate::disk::snapshot::SnapshotDir;
use crate::disk::wal::Wal;
use crate::raft::arrival::Arrival;
use crate::raft::log_store::LogStore;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::Types;
use crate::rt::timeout;

/// A member's part in Raft.
pub(crate) struct Consensus {
    pub(crate) raft: Raft<Types, StateMachine>,
    pub(super) log: LogStore,
    pub(super) wal: Arc<Wal>,
    /// The folder of its snapshots.
    pub(crate) snapshots: SnapshotDir,
    /// The snapshot that it is being sent.
    pub(crate) arrival: Arrival,
    /// Held while the membership changes.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// How long the others have not answered this member, since it leads.
    pub(super) silence: Mutex<voting::Silence>,
    /// Voters that this member has replaced as the leader.
    pub(super) replaced: AtomicU64,
}

impl Consensus {
    /// Hands what is in memory to the disk, and ends Raft.
    pub(super) async fn end(&self) {
        let flush = self.raft.with_state_machine(|machine| {
            let flushed = machine.flush();
            Box::pin(async move { flushed })
        });
        match timeout(END_STEP, flush).await {
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the state could not be flushed; it will be applied again"),
            Ok(_) => {}
            Err(_) => tracing::warn!("the state was not flushed in time; it will be applied again"),
        }
        if timeout(END_STEP, self.raft.shutdown()).await.is_err() {
            tracing::warn!("Raft does not end in time");
        }
    }
}
