//! A member in a process of its own that is killed while it takes a snapshot.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};

use super::*;
use crate::disk::wal::Wal;
use crate::disk::wal::{Identity, WalOptions, Write};

/// Moments that the installation is cut off at.
const MOMENTS: u32 = 12;
/// In the member's process: its folder, its address and its Raft id.
const MEMBER: &str = "PONTOON_TEST_MEMBER";
/// What runs there.
const TEST: &str = "store::tests::crash::a_member_that_is_killed_while_it_takes_a_snapshot_goes_on";
/// A snapshot after so many entries.
const SNAPSHOT_EVERY: u64 = 20;

/// Runs a member until it is killed.
async fn be_the_member(description: &str) -> ! {
    let words: Vec<&str> = description.split(' ').collect();
    let [dir, address, id] = words[..] else { panic!("{description}") };
    let key = NodeKey::from_pkcs8(&std::fs::read(std::path::Path::new(dir).join(KEY)).unwrap()).unwrap();
    let key = certify(key, id.parse().unwrap());
    let slot = StoreSlot::new("host-3".to_owned(), key.clone(), clock);
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(PeerServer::new(slot.clone()).serve(listener, std::future::pending()));
    let mut daemon = Daemon::start(3).await;
    (daemon.snapshot_every, daemon.run) = (SNAPSHOT_EVERY, clock());
    let options = StoreOptions { dir: dir.into(), key, ..daemon.options(RaftId(id.parse().unwrap())) };
    slot.set(Some(Store::open(options).await.unwrap()));
    std::future::pending().await
}

/// The member as a process, which is killed when this is dropped.
struct Member(Child);

impl Member {
    fn start(daemon: &Daemon, id: RaftId) -> Self {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let description = format!("{} {} {id}", daemon.dir.path().display(), daemon.address);
        command.args(["--exact", TEST, "--nocapture"]).env(MEMBER, description);
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Waits until the member has stored all that the leader has.
async fn caught_up(leader: &Daemon, id: RaftId) {
    until("the member has caught up", || {
        let status = leader.store().status();
        status.members.get(&id).is_some_and(|member| member.matched_index == Some(status.last_index))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_killed_while_it_takes_a_snapshot_goes_on() {
    if let Ok(description) = std::env::var(MEMBER) {
        be_the_member(&description).await;
    }
    let mut daemons = three_with(SNAPSHOT_EVERY).await;
    let id = daemons[2].kill().await;
    let leading = loop {
        match daemons[..2].iter().position(|daemon| daemon.store().status().is_leader) {
            Some(leading) => break leading,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let snapshots = || -> BTreeSet<_> {
        let files = std::fs::read_dir(daemons[2].dir.path().join("snapshots")).unwrap();
        files.map(|file| file.unwrap().file_name()).collect()
    };
    let mut whole = Duration::ZERO;
    for moment in 0..=MOMENTS {
        // More than is kept behind a snapshot: the member needs that one.
        let had = daemons[leading].store().status().last_index;
        for n in 0..3 * SNAPSHOT_EVERY {
            daemons[leading].create(&format!("n{moment}-{n}")).await.unwrap();
        }
        until("the log is purged", || daemons[leading].store().status().purged_index > had).await;
        let before = snapshots();
        let member = Member::start(&daemons[2], id);
        until("a snapshot begins to come", || !snapshots().is_subset(&before)).await;
        let begin = Instant::now();
        if moment > 0 {
            tokio::time::sleep(whole * (moment - 1) / MOMENTS).await;
            drop(member);
            let _member = Member::start(&daemons[2], id);
            caught_up(&daemons[leading], id).await;
        } else {
            caught_up(&daemons[leading], id).await;
            whole = begin.elapsed();
            eprintln!("uninterrupted, the snapshot and what follows take {whole:?}");
        }
    }
    daemons[2].restart(id).await;
    caught_up(&daemons[leading], id).await;
    let last = daemons[leading].store().status().applied_index;
    until("it has applied all", || daemons[2].store().status().applied_index >= last).await;
    assert_eq!(daemons[2].networks(), daemons[leading].networks());
    let hash = |daemon: &Daemon| (daemon.store().status().applied_index, daemon.store().status().state_hash);
    until("the same state", || hash(&daemons[2]) == hash(&daemons[leading])).await;
    for daemon in &daemons {
        daemon.store().shutdown().await;
    }
}

/// A leader that was killed while its disk was slower than those of the others had a state that was ahead of its log. Raft
/// purged the log up to there, behind every snapshot: with the state, which is never synced, all would have been lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_ahead_of_its_log_goes_into_a_snapshot() {
    let mut daemon = Daemon::start(1).await;
    daemon.found().await;
    daemon.create("last").await.unwrap();
    let last = daemon.store().status().last_index;
    let id = daemon.kill().await;
    let identity = Identity { cluster: CLUSTER, raft_id: id };
    let options = WalOptions { dir: daemon.dir.path().join("log"), identity, segment_bytes: 64 << 10 };
    // Whoever had it open may still be closing it.
    let opened = Mutex::new(None);
    until("the log is free", || {
        let wal = Wal::open(options.clone(), Arc::new(|reason| panic!("{reason}"))).map(|(wal, _)| wal);
        *opened.lock().unwrap() = wal.ok();
        opened.lock().unwrap().is_some()
    })
    .await;
    let (done, is_done) = oneshot::channel();
    let wal = opened.into_inner().unwrap().unwrap();
    wal.submit(vec![Write::Truncate(last)], Some(Box::new(move |written| done.send(written).unwrap())));
    is_done.await.unwrap().unwrap();
    drop(wal);
    daemon.restart(id).await;
    until("it leads", || daemon.store().status().is_leader).await;
    let status = daemon.store().status();
    assert!(status.snapshot_index >= last && status.purged_index <= status.snapshot_index, "{status:?}");
    assert_eq!(daemon.networks(), ["last"]);
}
