//! Members in one process, over real gRPC on loopback and real disks.

mod admission;
mod agreement;
mod cluster;
mod crash;
mod damage;
mod keys;
mod observers;
mod refound;
mod removal;
mod snapshots;
mod voting;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use pontoon_proto::{JoinToken, Secret};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;
use crate::model::command::{AdmitNode, Command, CreateNetwork, CreateToken, FEATURE_LEVEL, Outcome, ReportNode};
use crate::model::id::FOUNDER;
use crate::model::object::{Cluster, Family, NodeState, Pool, Token, TokenRole};
use crate::model::rejection::Reason;
use crate::{AdmitError, Admitted, Authority, Certificate, PeerServer, StoreSlot, hello, knock};

const CLUSTER: ClusterId = ClusterId(0x5eed);
const DEADLINE: Duration = Duration::from_secs(5);
/// Numbers the attempts to join.
static ATTEMPTS: AtomicU64 = AtomicU64::new(1);
/// Its key pair, in a daemon's folder.
const KEY: &str = "node.key";
const PATIENCE: Duration = Duration::from_secs(20);

fn clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

fn new_document() -> Vec<u8> {
    Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref().to_vec()
}

fn new_key() -> NodeKey {
    NodeKey::from_pkcs8(&new_document()).unwrap()
}

/// The authority of every cluster here. All that encrypt its key have the same for it.
fn authority() -> Authority {
    authority_of(CLUSTER, 255)
}

/// The same in every process. Its key is an Ed25519 key pair in PKCS #8 (RFC 8410, section 7).
fn authority_of(cluster: ClusterId, number: u8) -> Authority {
    let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    Authority::of_pkcs8(cluster, &[head.as_slice(), &[number; 32]].concat()).unwrap()
}

/// A new key with a certificate that an authority of these tests has issued.
fn certified_key(node: u64) -> NodeKey {
    certify(new_key(), node)
}

fn certify(key: NodeKey, node: u64) -> NodeKey {
    let own = authority().issue(NodeId(node), &key.public(), clock()).unwrap();
    let authorities = vec![authority().certificate().to_vec()];
    key.certify(Certificate { own, authorities, crossed: Vec::new(), authority: 1 }).unwrap();
    key
}

fn cluster_key() -> crate::tls::ClusterKey {
    crate::tls::ClusterKey::new([7; 32])
}

/// The token that everybody joins with.
fn token() -> JoinToken {
    let digest = JoinToken::digest_of(authority().certificate());
    JoinToken { digest, secret: Secret::new([9; 16]), addresses: Vec::new() }
}

/// Asks a daemon for admission.
async fn admit(
    key: &NodeKey,
    address: SocketAddr,
    node: &AdmitNode,
    deadline: Duration,
) -> Result<Admitted, AdmitError> {
    knock(key, address, &token(), deadline).await?.enter(node, &token(), deadline).await
}

/// A daemon: a data folder, a listening port, and a store when it is in a cluster.
struct Daemon {
    name: String,
    dir: TempDir,
    address: SocketAddr,
    data_addr: IpAddr,
    key: NodeKey,
    slot: StoreSlot,
    stop: Option<oneshot::Sender<()>>,
    server: Option<tokio::task::JoinHandle<()>>,
    snapshot_every: u64,
    run: u64,
}

/// A loopback address of this test's process alone: a daemon that is to come back must find its port free, which on
/// 127.0.0.1 a connection, or another test that runs at the same time, may have been given meanwhile.
fn own_loopback() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, middle, low)
}

impl Daemon {
    async fn start(number: u8) -> Self {
        let (name, document) = (format!("host-{number}"), new_document());
        let key = NodeKey::from_pkcs8(&document).unwrap();
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join(KEY), document).unwrap();
        let listener = TcpListener::bind((own_loopback(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut daemon = Self {
            slot: StoreSlot::new(name.clone(), key.clone(), clock),
            name,
            dir,
            address,
            data_addr: IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)),
            key,
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
            key: self.key.clone(),
            cluster_key: Some(cluster_key()).into(),
            members: BTreeMap::new(),
            begun: false,
            requests: Requests::of_run(self.run),
            timing: Timing::default(),
            clock,
            fatal: Arc::new(|reason| panic!("{reason}")),
            snapshot_every: self.snapshot_every,
            keep_entries: 10,
            segment_bytes: 64 << 10,
            reserve: 0,
            tasks: TaskBoard::new(clock),
        }
    }

    fn admission(&self) -> AdmitNode {
        AdmitNode {
            name: self.name.clone(),
            advertise: self.address,
            data_addr: self.data_addr,
            public_key: self.key.public(),
            version: "0.1.0".into(),
            feature_level: FEATURE_LEVEL,
            raft_id: None,
            attempt: ATTEMPTS.fetch_add(1, Ordering::Relaxed),
            voter_only: false,
            token: None,
            replaces: String::new(),
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
            voters: None,
            replace_after_ms: None,
            authorities: vec![authority().certificate().to_vec()],
            crossed: Vec::new(),
            authority: 1,
            locked: false,
        };
        let node = AdmitNode { raft_id: Some(FOUNDER), ..self.admission() };
        let sealed_key = authority().seal(&cluster_key());
        let founded = store.propose(Command::FoundCluster { cluster, node, sealed_key }, DEADLINE).await;
        let Ok(Outcome::Node(node)) = founded else { panic!("{founded:?}") };
        let certificate = store.certify(node.id).unwrap();
        self.key.certify(certificate).unwrap();
        let (hash, role) = (token().secret.hash(), TokenRole::Voter);
        let token = CreateToken { hash, role, uses: 100, life_ms: Token::DEFAULT_LIFE_MS };
        store.propose(Command::CreateToken(token), DEADLINE).await.unwrap();
        self.report().await;
    }

    async fn join(&self, through: &Daemon) {
        let node = self.admission();
        let admitted = admit(&self.key, through.address, &node, DEADLINE).await.unwrap();
        assert_eq!(admitted.cluster, CLUSTER);
        self.key.certify(admitted.certificate).unwrap();
        let options = StoreOptions { members: admitted.members, ..self.options(admitted.raft_id) };
        self.slot.set(Some(Store::open(options).await.unwrap()));
    }

    fn peer(&self) -> Peer {
        Peer { address: self.address.to_string(), key: self.key.public() }
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
            engine: String::new(),
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
        self.free_port().await;
        let id = store.id();
        store.0.ending.cancel();
        store.in_raft().unwrap().raft.shutdown().await.unwrap();
        id
    }

    /// Serves its port no more, and has none when this returns.
    async fn free_port(&mut self) {
        self.stop = None;
        let server = self.server.take().unwrap();
        server.abort();
        let _ = server.await;
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

    /// Makes networks, each with eight labels of so many bytes.
    async fn create_many(&self, count: usize, label_bytes: usize) {
        let label = |number| (format!("label-{number}"), "x".repeat(label_bytes));
        let labels: BTreeMap<String, String> = (0..8).map(label).collect();
        for number in 0..count {
            let name = format!("net-{number}");
            let network = CreateNetwork { name, labels: labels.clone(), ..CreateNetwork::default() };
            self.store().propose(Command::CreateNetwork(network), DEADLINE).await.unwrap();
        }
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
