//! What a member does about a damaged, foreign or incomplete data folder.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use prost::Message;

use super::*;
use crate::error_chain;
use crate::raft::types::EntryBytes;

/// A stopped member with some networks.
async fn stopped() -> (Daemon, RaftId, Option<u128>) {
    let mut daemon = Daemon::start(1).await;
    daemon.snapshot_every = 20;
    daemon.found().await;
    for number in 0..40 {
        daemon.create(&format!("net-{number}")).await.unwrap();
    }
    let store = daemon.store();
    until("there is a snapshot", || store.status().purged_index > 0).await;
    let hash = store.status().state_hash;
    drop(store);
    let id = daemon.kill().await;
    (daemon, id, hash)
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    paths.sort();
    paths
}

fn flip(path: &Path, position: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], position).unwrap();
}

async fn refused(daemon: &Daemon, id: RaftId) -> String {
    error_chain(&Store::open(daemon.options(id)).await.unwrap_err())
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_state_is_moved_aside_and_built_again() {
    let (mut daemon, id, hash) = stopped().await;
    let state = daemon.dir.path().join("state");
    for path in [state.join("db"), state.join("conf")] {
        let length = fs::metadata(&path).unwrap().len();
        for position in (0..length).step_by(64) {
            flip(&path, position);
        }
    }
    daemon.restart(id).await;
    daemon.store().read_barrier(DEADLINE).await.unwrap();
    assert_eq!(daemon.store().status().state_hash, hash);
    assert!(daemon.dir.path().join("state.bad-1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn state_that_can_be_read_but_is_wrong_is_built_again() {
    let (mut daemon, id, hash) = stopped().await;
    crate::disk::state::lose_an_object(&daemon.dir.path().join("state"), false);
    daemon.restart(id).await;
    daemon.store().read_barrier(DEADLINE).await.unwrap();
    assert_eq!(daemon.store().status().state_hash, hash);
    assert!(daemon.dir.path().join("state.bad-1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_moved_aside_while_the_state_is_whole() {
    let (mut daemon, id, hash) = stopped().await;
    let snapshots = daemon.dir.path().join("snapshots");
    flip(&files(&snapshots, "snap")[0], 100);
    daemon.restart(id).await;
    daemon.store().read_barrier(DEADLINE).await.unwrap();
    assert_eq!(daemon.store().status().state_hash, hash);
    assert_eq!(files(&snapshots, "bad").len(), 1);
    assert_eq!(files(&snapshots, "snap").len(), 1, "another is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_state_and_snapshot_the_member_does_not_start() {
    let (daemon, id, _) = stopped().await;
    fs::remove_dir_all(daemon.dir.path().join("state")).unwrap();
    fs::remove_dir_all(daemon.dir.path().join("snapshots")).unwrap();
    let error = refused(&daemon, id).await;
    assert!(error.contains("neither state nor snapshot"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_log_the_member_does_not_start() {
    let (daemon, id, _) = stopped().await;
    fs::remove_dir_all(daemon.dir.path().join("log")).unwrap();
    let error = refused(&daemon, id).await;
    assert!(error.contains("is gone") && error.contains("must not vote again"), "{error}");
    // Nor does it the second time.
    let error = refused(&daemon, id).await;
    assert!(error.contains("must not vote again"), "{error}");
}

/// Nothing in its folder tells then that it has had a log: whoever opens it does.
#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_left_the_member_does_not_start_again() {
    let (daemon, id, _) = stopped().await;
    for name in ["log", "state", "snapshots"] {
        fs::remove_dir_all(daemon.dir.path().join(name)).unwrap();
    }
    let options = StoreOptions { begun: true, ..daemon.options(id) };
    let error = error_chain(&Store::open(options).await.unwrap_err());
    assert!(error.contains("must not vote again") && error.contains("node rm"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_damaged_in_its_middle_is_not_voted_from() {
    let (daemon, id, _) = stopped().await;
    let last = files(&daemon.dir.path().join("log"), "wal").pop().unwrap();
    flip(&last, 200);
    let error = refused(&daemon, id).await;
    assert!(error.contains("is damaged at byte"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_members_folder_is_refused() {
    let (daemon, _, _) = stopped().await;
    let error = refused(&daemon, RaftId(44)).await;
    assert!(error.contains("belongs to member 1") && error.contains("this is member 44"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_command_stops_applying_and_says_so() {
    let daemon = Daemon::start(1).await;
    daemon.found().await;
    daemon.create("known").await.unwrap();
    let store = daemon.store();
    // What a later version would write: a kind of command that has no number here.
    let request = Some(pontoon_proto::v1::RequestId { node: 2, run: 9, seq: 1 });
    let command = Some(pontoon_proto::v1::Command { kind: None });
    let entry = pontoon_proto::v1::Entry { time_ms: clock(), request, command, origin: None }.encode_to_vec();
    let written = store.in_raft().unwrap().raft.client_write(EntryBytes(entry.into())).await;
    assert!(written.is_err());
    until("it says so", || store.status().stopped.is_some()).await;
    let status = store.status();
    let reason = status.stopped.unwrap();
    assert!(reason.contains(&format!("entry {} ", status.applied_index + 1)), "{reason}");
    assert!(reason.contains("upgrade"), "{reason}");
    let error = daemon.create("after").await.unwrap_err();
    assert!(matches!(error, ProposeError::Stopped { .. }), "{error}");
    assert_eq!(daemon.networks(), ["known"], "what was applied can still be read");
}
