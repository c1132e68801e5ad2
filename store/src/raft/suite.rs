//! openraft's own tests of a storage, over the real log and state, and what they lack.

use std::sync::Arc;

use openraft::StorageError;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::log_store::LogStore;
use super::state_machine::StateMachine;
use super::types::{LeaderId, LogEntry, LogId, Payload, Types};
use crate::disk::snapshot::SnapshotDir;
use crate::disk::state::StateDb;
use crate::disk::wal::{Identity, Wal, WalOptions};
use crate::model::id::{ClusterId, RaftId};

struct OnDisk;

impl StoreBuilder<Types, LogStore, StateMachine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<Types>> {
        let dir = TempDir::new().unwrap();
        let identity = Identity { cluster: ClusterId(1), raft_id: RaftId(1) };
        let options = WalOptions { dir: dir.path().join("log"), identity, segment_bytes: 1 << 20 };
        let (wal, recovered) = Wal::open(options, Arc::new(|reason| panic!("{reason}"))).unwrap();
        let log = LogStore::new(Arc::new(wal), recovered).unwrap();
        let state = StateDb::open(&dir.path().join("state")).unwrap();
        let snapshots = SnapshotDir::open(dir.path().join("snapshots")).unwrap();
        let machine = StateMachine::new(state, snapshots, None).unwrap();
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_storage_suite() {
    Suite::test_all(OnDisk).await.unwrap();
}

/// A leader that had purged its log while a stream to a member was being given up sent that member what was behind the
/// purged entries as if it followed what was before them.
#[tokio::test]
async fn entries_behind_purged_ones_are_not_read_in_their_place() {
    let (_dir, mut log, _machine) = OnDisk.build().await.unwrap();
    let id = |index| LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index };
    let entries = (0..10).map(|index| LogEntry { log_id: id(index), payload: Payload::Blank });
    log.blocking_append(entries).await.unwrap();
    log.purge(id(4)).await.unwrap();
    assert_eq!(log.limited_get_log_entries(3, 10).await.unwrap(), []);
    let read = log.limited_get_log_entries(5, 10).await.unwrap();
    assert_eq!(read.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
}
