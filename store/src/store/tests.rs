//! Three members in one process, over real gRPC on loopback and real disks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ring::signature::{Ed25519KeyPair, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;
use crate::model::command::{AdmitNode, Command, CreateNetwork, FEATURE_LEVEL, Outcome, ReportNode};
use crate::model::id::FOUNDER;
use crate::model::object::{Cluster, Family, NodeState, Pool};
use crate::model::rejection::Reason;
use crate::{HelloInfo, PeerServer, StoreSlot, admit, hello};

const CLUSTER: ClusterId = ClusterId(0x5eed);
const DEADLINE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);

fn clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A daemon: a data folder, a listening port, and a store when it is in a cluster.
struct Daemon {
    name: String,
    dir: TempDir,
    address: SocketAddr,
    data_addr: IpAddr,
    key: Ed25519KeyPair,
    slot: StoreSlot,
    stop: Option<oneshot::Sender<()>>,
    server: Option<tokio::task::JoinHandle<()>>,
    snapshot_every: u64,
    run: u64,
}

impl Daemon {
    async fn start(number: u8) -> Self {
        let seed = [number; 32];
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let info =
            HelloInfo { name: format!("host-{number}"), public_key: key.public_key().as_ref().try_into().unwrap() };
        let mut daemon = Self {
            name: info.name.clone(),
            dir: TempDir::new().unwrap(),
            address,
            data_addr: IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)),
            key,
            slot: StoreSlot::new(info, clock),
            stop: None,
            server: None,
            snapshot_every: 10_000,
            run: u64::from(number),
        };
        daemon.serve(listener);
        daemon
    }

    fn serve(&mut self, listener: TcpListener) {
        let (stop, stopped) = oneshot::channel::<()>();
        let server = PeerServer::new(self.slot.clone());
        self.server = Some(tokio::spawn(async move {
            server.serve(listener, async { drop(stopped.await) }).await.unwrap();
        }));
        self.stop = Some(stop);
    }

    fn options(&self, raft_id: RaftId) -> StoreOptions {
        StoreOptions {
            dir: self.dir.path().to_owned(),
            cluster: CLUSTER,
            raft_id,
            node: NodeId(0),
            run: self.run,
            timing: Timing::default(),
            clock,
            fatal: Arc::new(|reason| panic!("{reason}")),
            snapshot_every: self.snapshot_every,
            keep_entries: 10,
            segment_bytes: 64 << 10,
            tasks: TaskBoard::new(clock),
        }
    }

    fn admission(&self) -> AdmitNode {
        AdmitNode {
            name: self.name.clone(),
            advertise: self.address,
            data_addr: self.data_addr,
            public_key: self.key.public_key().as_ref().try_into().unwrap(),
            version: "0.1.0".into(),
            feature_level: FEATURE_LEVEL,
            raft_id: None,
        }
    }

    async fn found(&self) {
        let store = Store::open(self.options(FOUNDER)).await.unwrap();
        store.initialize(self.address).await.unwrap();
        store.initialize(self.address).await.unwrap();
        self.slot.set(Some(store.clone()));
        let cluster = Cluster {
            id: CLUSTER,
            created_ms: 0,
            pools: vec![Pool { cidr: "10.0.0.0/8".parse().unwrap(), prefix: 24 }],
            pool6: "fd00:1:2::/48".parse().unwrap(),
            vxlan_port: 4789,
            feature_level: FEATURE_LEVEL,
            underlay: Family::V4,
        };
        let node = AdmitNode { raft_id: Some(FOUNDER), ..self.admission() };
        store.propose(Command::FoundCluster { cluster, node }, DEADLINE).await.unwrap();
        self.report().await;
    }

    async fn join(&self, through: &Daemon) {
        let node = self.admission();
        let signature = self.key.sign(&node.signed_bytes()).as_ref().to_vec();
        let admitted = admit(through.address, &node, signature, DEADLINE).await.unwrap();
        assert_eq!(admitted.cluster, CLUSTER);
        self.slot.set(Some(Store::open(self.options(admitted.raft_id)).await.unwrap()));
    }

    /// Tells what the node is, once it knows who it is.
    async fn report(&self) {
        let store = self.store();
        until("the node knows itself", || store.node() != NodeId(0)).await;
        let report = ReportNode {
            node: store.node(),
            version: "0.1.0".into(),
            feature_level: FEATURE_LEVEL,
            routes: Vec::new(),
            underlay_mtu: 1500,
            egress_subnets: Vec::new(),
        };
        store.propose(Command::ReportNode(report), DEADLINE).await.unwrap();
    }

    fn store(&self) -> Store {
        self.slot.get().unwrap()
    }

    /// Takes it off the network and stops it without any farewell.
    async fn kill(&mut self) -> RaftId {
        let store = self.store();
        self.slot.set(None);
        self.stop = None;
        self.server.take().unwrap().abort();
        let id = store.id();
        store.0.ending.cancel();
        store.raft().shutdown().await.unwrap();
        id
    }

    async fn restart(&mut self, id: RaftId) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
        self.run += 100;
        self.slot.set(Some(Store::open(self.options(id)).await.unwrap()));
    }

    async fn create(&self, name: &str) -> Result<Outcome, ProposeError> {
        let network = CreateNetwork { name: name.into(), ..CreateNetwork::default() };
        self.store().propose(Command::CreateNetwork(network), DEADLINE).await
    }

    fn networks(&self) -> Vec<String> {
        self.store().state().networks.values().map(|network| network.name.clone()).collect()
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A founded cluster of three voters.
async fn three() -> [Daemon; 3] {
    three_with(10_000).await
}

async fn three_with(snapshot_every: u64) -> [Daemon; 3] {
    let mut daemons = [Daemon::start(1).await, Daemon::start(2).await, Daemon::start(3).await];
    for daemon in &mut daemons {
        daemon.snapshot_every = snapshot_every;
    }
    daemons[0].found().await;
    daemons[1].join(&daemons[0]).await;
    // Through a member that does not lead.
    until("the second has the log", || daemons[1].store().node() != NodeId(0)).await;
    daemons[2].join(&daemons[1]).await;
    for daemon in &daemons[1..] {
        daemon.report().await;
    }
    let voters = |daemon: &Daemon| daemon.store().status().voters.len();
    until("three voters", || daemons.iter().all(|daemon| voters(daemon) == 3)).await;
    daemons
}

fn leader(daemons: &[Daemon]) -> usize {
    let leads = |daemon: &Daemon| daemon.slot.get().is_some_and(|store| store.status().is_leader);
    daemons.iter().position(leads).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_takes_writes_and_comes_back() {
    let mut daemon = Daemon::start(1).await;
    daemon.found().await;
    daemon.create("one").await.unwrap();
    let before = daemon.store().status();
    let id = daemon.kill().await;
    daemon.restart(id).await;
    daemon.store().read_barrier(DEADLINE).await.unwrap();
    assert_eq!(daemon.networks(), ["one"]);
    assert_eq!(daemon.store().status().state_hash, before.state_hash);
    daemon.create("two").await.unwrap();
    let ProposeError::Rejected(rejection) = daemon.create("two").await.unwrap_err() else { panic!("not rejected") };
    assert_eq!(rejection.reason, Reason::NetworkNameTaken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_on_any_member_is_there_on_every_member() {
    let daemons = three().await;
    for (number, daemon) in daemons.iter().enumerate() {
        daemon.create(&format!("net-{number}")).await.unwrap();
        assert!(daemon.networks().contains(&format!("net-{number}")), "applied where it was asked");
    }
    for daemon in &daemons {
        daemon.store().read_barrier(DEADLINE).await.unwrap();
        assert_eq!(daemon.networks().len(), 3);
    }
    let hashes: Vec<_> = daemons.iter().map(|daemon| daemon.store().status().state_hash).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_write_after_the_leaders_death_takes_about_a_second() {
    let mut daemons = three().await;
    daemons[0].create("before").await.unwrap();
    let dead = leader(&daemons);
    let id = daemons[dead].kill().await;
    let alive = (dead + 1) % 3;
    let begun = Instant::now();
    daemons[alive].create("after").await.unwrap();
    let took = begun.elapsed();
    println!("failover: {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    daemons[dead].restart(id).await;
    daemons[dead].store().read_barrier(DEADLINE).await.unwrap();
    assert_eq!(daemons[dead].networks(), ["before", "after"]);
    let store = daemons[alive].store();
    let names = || store.state().nodes.values().filter(|node| node.state == NodeState::Ready).count();
    until("everybody is ready", || names() == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_is_down_and_one_that_returns_is_ready() {
    let mut daemons = three().await;
    let gone = (leader(&daemons) + 1) % 3;
    let node = daemons[gone].store().node();
    let id = daemons[gone].kill().await;
    let other = daemons[(gone + 1) % 3].store();
    let state = |store: &Store| store.state().nodes[&node].state;
    until("it is down", || state(&other) == NodeState::Down).await;
    daemons[gone].restart(id).await;
    until("it is ready", || state(&other) == NodeState::Ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handing_over_at_the_end_is_quick() {
    let mut daemons = three().await;
    daemons[0].create("before").await.unwrap();
    let first = leader(&daemons);
    let begun = Instant::now();
    let store = daemons[first].store();
    daemons[first].slot.set(None);
    store.shutdown().await;
    println!("shutdown of the leader: {:?}", begun.elapsed());
    daemons[first].stop = None;
    let begun = Instant::now();
    daemons[(first + 1) % 3].create("after").await.unwrap();
    let took = begun.elapsed();
    println!("first write after handing over: {took:?}");
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_quorum_it_says_who_is_missing_within_five_seconds() {
    let mut daemons = three().await;
    let last = (leader(&daemons) + 1) % 3;
    for other in [(last + 1) % 3, (last + 2) % 3] {
        daemons[other].kill().await;
    }
    let begun = Instant::now();
    let error = daemons[last].create("never").await.unwrap_err();
    assert!(begun.elapsed() <= DEADLINE + Duration::from_millis(200), "{:?}", begun.elapsed());
    let text = error.to_string();
    for other in [(last + 1) % 3, (last + 2) % 3] {
        assert!(text.contains(&daemons[other].name), "{text}");
    }
    let begun = Instant::now();
    let text = daemons[last].store().read_barrier(DEADLINE).await.unwrap_err().to_string();
    assert!(begun.elapsed() <= DEADLINE + Duration::from_millis(200), "{:?}", begun.elapsed());
    assert!(text.contains(&daemons[(last + 1) % 3].name), "{text}");
    // By now it knows that nobody leads.
    let error = daemons[last].create("never").await.unwrap_err();
    println!("{error}");
    assert!(daemons[last].networks().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_request_is_not_applied_twice() {
    let daemons = three().await;
    let store = daemons[leader(&daemons)].store();
    let request = crate::model::command::RequestId { node: store.node(), run: 77, seq: 1 };
    let network = CreateNetwork { name: "once".into(), ..CreateNetwork::default() };
    let command = Command::CreateNetwork(network);
    let open = std::sync::atomic::AtomicBool::new(false);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let Proposed::Done { result, .. } = store.propose_here(request, command.clone(), &open).await else {
            panic!("not done");
        };
        answers.push(result.unwrap());
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(store.state().networks.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_catches_up_by_snapshot() {
    let mut daemons = [Daemon::start(1).await, Daemon::start(2).await];
    daemons[0].snapshot_every = 50;
    daemons[1].snapshot_every = 50;
    daemons[0].found().await;
    for number in 0..120 {
        daemons[0].create(&format!("net-{number}")).await.unwrap();
    }
    let first = daemons[0].store();
    until("the log is purged behind a snapshot", || {
        let status = first.status();
        status.snapshot_index > 0 && status.purged_index > 20
    })
    .await;
    daemons[1].join(&daemons[0]).await;
    let second = daemons[1].store();
    until("the second has everything", || second.state().networks.len() == 120).await;
    until("the hashes agree", || first.status().state_hash == second.status().state_hash).await;
    assert!(second.status().snapshot_index > 0, "it came by snapshot");
    // From the snapshot and the log alone.
    let id = daemons[1].kill().await;
    drop(second);
    std::fs::remove_dir_all(daemons[1].dir.path().join("state")).unwrap();
    daemons[1].restart(id).await;
    let second = daemons[1].store();
    until("it is built again", || first.status().state_hash == second.status().state_hash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_cluster_is_refused() {
    let daemons = three().await;
    let channels = Channels::new(ClusterId(99), RaftId(1));
    let mut client = channels.peer(1, &daemons[0].address.to_string()).unwrap();
    let ask = |channels: &Channels, to: u64| channels.request(to, pontoon_proto::v1::ReadIndexRequest {});
    let status = client.read_index(ask(&channels, 1)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert!(status.message().contains(&CLUSTER.to_string()), "{status}");
    assert!(status.message().contains(&ClusterId(99).to_string()), "{status}");
    let ours = Channels::new(CLUSTER, RaftId(2));
    let status = client.read_index(ask(&ours, 55)).await.unwrap_err();
    assert!(status.message().contains("member 55") && status.message().contains("member 1"), "{status}");
    // 2 was never anybody's id, and is older than the membership.
    let status = client.read_index(ask(&ours, 1)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_in_no_cluster_says_hello_and_nothing_else() {
    let daemon = Daemon::start(7).await;
    let identified = hello(daemon.address, DEADLINE).await.unwrap();
    assert_eq!(identified.cluster, None);
    assert_eq!(identified.name, "host-7");
    let node = daemon.admission();
    let error = admit(daemon.address, &node, Vec::new(), DEADLINE).await.unwrap_err().to_string();
    assert!(error.contains("in no cluster"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admission_needs_the_key() {
    let daemons = [Daemon::start(1).await, Daemon::start(2).await];
    daemons[0].found().await;
    let node = daemons[1].admission();
    let forged = daemons[0].key.sign(&node.signed_bytes()).as_ref().to_vec();
    let error = admit(daemons[0].address, &node, forged, DEADLINE).await.unwrap_err().to_string();
    assert!(error.contains("signature"), "{error}");
    let named = AdmitNode { name: "host-1".into(), ..node };
    let signature = daemons[1].key.sign(&named.signed_bytes()).as_ref().to_vec();
    let error = admit(daemons[0].address, &named, signature, DEADLINE).await.unwrap_err();
    assert!(matches!(&error, crate::AdmitError::Rejected(rejection) if rejection.reason == Reason::NodeNameTaken));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_can_be_taken_out_through_any_other_and_also_the_leader() {
    let daemons = three().await;
    let first = leader(&daemons);
    let (out, asked) = (daemons[first].store(), daemons[(first + 1) % 3].store());
    let node = out.node();
    asked.propose(Command::RemoveNode { node, force: false }, DEADLINE).await.unwrap();
    asked.expel(out.id(), DEADLINE).await.unwrap();
    let status = || asked.status();
    until("it is out", || !status().members.contains_key(&out.id())).await;
    until("two nodes have one voter", || status().voters.len() == 1).await;
    asked
        .propose(
            Command::LabelNode { node: asked.node(), set: [("a".into(), "b".into())].into(), remove: vec![] },
            DEADLINE,
        )
        .await
        .unwrap();
    let only = *asked.status().voters.first().unwrap();
    assert!(matches!(asked.expel(only, DEADLINE).await, Err(ExpelError::OnlyVoter { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_write_of_one_member_was_synced() {
    let daemon = Daemon::start(1).await;
    daemon.found().await;
    let store = daemon.store();
    let before = store.status();
    for number in 0..20 {
        daemon.create(&format!("net-{number}")).await.unwrap();
    }
    let after = store.status();
    let (groups, syncs) = (after.log_groups - before.log_groups, after.log_syncs - before.log_syncs);
    println!("20 writes: {groups} groups, {syncs} syncs");
    assert!(groups >= 20, "one after the other: each needs a group of its own");
    assert!(syncs >= groups && syncs <= groups + 2, "one sync for each group, and one for each new segment");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_a_command_is_refused() {
    let daemon = Daemon::start(1).await;
    daemon.found().await;
    let error = daemon.create(&"x".repeat(300_000)).await.unwrap_err();
    assert!(matches!(error, ProposeError::TooLarge { .. }), "{error}");
}

/// Prints how fast writes are: run it by hand.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn write_rates() {
    let daemons = three().await;
    let leading = leader(&daemons);
    for (place, at) in [("leader", leading), ("follower", (leading + 1) % 3)] {
        for clients in [1_usize, 16, 64] {
            let store = daemons[at].store();
            let node = store.node();
            let begun = Instant::now();
            let end = begun + Duration::from_secs(2);
            let write = |client: usize| {
                let store = store.clone();
                async move {
                    let mut took = Vec::new();
                    while Instant::now() < end {
                        let set = [(format!("c{client}"), took.len().to_string())].into();
                        let begun = Instant::now();
                        store.propose(Command::LabelNode { node, set, remove: vec![] }, DEADLINE).await.unwrap();
                        took.push(begun.elapsed());
                    }
                    took
                }
            };
            let tasks: Vec<_> = (0..clients).map(|client| tokio::spawn(write(client % 16))).collect();
            let mut took = Vec::new();
            for task in tasks {
                took.extend(task.await.unwrap());
            }
            took.sort();
            let rate = took.len() as f64 / begun.elapsed().as_secs_f64();
            println!(
                "{place}, {clients} clients: {rate:.0}/s, p50 {:?}, p99 {:?}",
                took[took.len() / 2],
                took[took.len() * 99 / 100]
            );
        }
    }
    let begun = Instant::now();
    for _ in 0..200 {
        daemons[(leading + 1) % 3].store().read_barrier(DEADLINE).await.unwrap();
    }
    println!("linearizable read on a follower: {:?}", begun.elapsed() / 200);
}
