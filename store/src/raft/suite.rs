//! openraft's own tests of a storage, over the real log and state.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::log_store::LogStore;
use super::state_machine::StateMachine;
use super::types::Types;
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
