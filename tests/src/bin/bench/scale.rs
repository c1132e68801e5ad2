//! Many nodes in one process, each with its own store, gRPC and reconcile loop, on a kernel in memory: what a container that
//! starts costs the leader, and how soon the nodes that need to know are in order.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pontoon_node::kernel::memory::Memory;
use pontoon_node::plan::desired::Names;
use pontoon_node::reconcile::{self, Reconciler, StateSource};
use pontoon_proto::{JoinToken, Secret};
use pontoon_store::model::command::{
    AdmitNode, Command, CreateEndpoint, CreateNetwork, CreateToken, FEATURE_LEVEL, Outcome, ReportNode,
};
use pontoon_store::model::id::{ClusterId, EndpointId, FOUNDER, NetworkId, NodeId, RaftId};
use pontoon_store::model::object::{Cluster, Family, Pool, Sandbox, Token, TokenRole};
use pontoon_store::model::state::State;
use pontoon_store::tasks::TaskBoard;
use pontoon_store::{
    Authority, ClusterKey, NodeKey, Peer, PeerServer, Requests, Store, StoreOptions, StoreSlot, Timing, knock,
};
use pontoon_tests::{Section, resident, wait_for};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::stats::{ms, number, percentile};

/// How many nodes there are.
const NODES: [usize; 3] = [50, 100, 200];
/// Endpoints that there are before.
const ENDPOINTS: usize = 10_000;
/// Endpoints of a network.
const OF_NETWORK: usize = 50;
/// Nodes that a network is on.
const ON_NODES: usize = 10;
/// Endpoints that are made while it is measured, one after the other.
const MEASURED: usize = 200;
/// How many are made at once before.
const AT_ONCE: usize = 64;
/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long a cluster may take to be as it should.
const PATIENCE: Duration = Duration::from_secs(120);
/// The cluster.
const CLUSTER: ClusterId = ClusterId(0x5ca1e);

/// Measures and reports.
pub(crate) fn measure() -> Result<Section> {
    let rows = NODES.map(|nodes| with(nodes).with_context(|| format!("{nodes} nodes")));
    Ok(Section {
        title: "10,000 endpoints on many nodes, and one more",
        how: format!(
            "Nodes in one process, each with its own threads, sled, gRPC over TLS on loopback and reconcile loop on a kernel in \
             memory: 5 voters, 2 learners, observers. {ENDPOINTS} endpoints, {OF_NETWORK} on a network, which is on {ON_NODES} nodes. \
             {MEASURED} more are made one after the other through the leader. From the leader's answer until the reconcile loop of a \
             node on that network has carried out that index: p50 and p99 over all endpoints and nodes. Processor time of the \
             leader's threads, and of those of the member that serves most observers, for each endpoint; resident memory of the \
             process for each node; bytes on loopback for each endpoint, all nodes together; observers that the leader serves."
        ),
        header: vec![
            "nodes",
            "p50 ms",
            "p99 ms",
            "leader ms",
            "a member ms",
            "MiB a node",
            "KiB on the wire",
            "served by the leader",
        ],
        rows: rows.into_iter().collect::<Result<_>>()?,
    })
}

/// A node of this process.
struct Node {
    number: usize,
    runtime: Runtime,
    slot: StoreSlot,
    store: Store,
    id: NodeId,
    reconciler: Reconciler,
    _dir: tempfile::TempDir,
}

struct Source {
    store: Store,
    node: NodeId,
}

impl StateSource for Source {
    fn node(&self) -> Option<NodeId> {
        Some(self.node)
    }

    fn is_known(&self, _: &State) -> bool {
        true
    }

    fn with_state<R>(&self, look: impl FnOnce(&State, &BTreeSet<EndpointId>) -> R) -> R {
        look(&self.store.state(), &BTreeSet::new())
    }
}

fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn cluster_key() -> ClusterKey {
    ClusterKey::new([7; 32])
}

fn authority() -> Result<Authority> {
    Ok(Authority::of_pkcs8(CLUSTER, &document(usize::MAX))?)
}

/// What all nodes join with.
fn token() -> Result<JoinToken> {
    let digest = JoinToken::digest_of(authority()?.certificate());
    Ok(JoinToken { digest, secret: Secret::new([7; 16]), addresses: Vec::new() })
}

/// An Ed25519 key pair in PKCS #8 (RFC 8410, section 7).
fn document(number: usize) -> Vec<u8> {
    let mut document = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    document.extend((0..32).map(|at| number.to_be_bytes()[at % 8]));
    document
}

/// What a node's threads are called.
fn thread_name(number: usize) -> String {
    format!("scale-{number}")
}

impl Node {
    /// Founds the cluster, or joins it through its founder.
    fn start(number: usize, founder: Option<&Node>) -> Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name(thread_name(number)).enable_all().build()?;
        let (dir, key) = (tempfile::tempdir()?, NodeKey::from_pkcs8(&document(number))?);
        let slot = StoreSlot::new(format!("n{number}"), key.clone(), clock);
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let advertise = listener.local_addr()?;
        runtime.spawn(PeerServer::new(slot.clone()).serve(listener, std::future::pending()));
        let host = u32::try_from(number)?;
        let admission = AdmitNode {
            name: format!("n{number}"),
            advertise,
            data_addr: IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + host)),
            public_key: key.public(),
            version: "0.1.0".into(),
            feature_level: FEATURE_LEVEL,
            raft_id: None,
            attempt: 1,
            voter_only: false,
            token: None,
            replaces: String::new(),
        };
        let options = |raft_id, node, members| StoreOptions {
            dir: dir.path().to_owned(),
            cluster: CLUSTER,
            raft_id,
            node,
            key: key.clone(),
            cluster_key: Some(cluster_key()).into(),
            members,
            begun: false,
            requests: Requests::of_run(rand::random()),
            timing: Timing::default(),
            clock,
            fatal: Arc::new(|reason| eprintln!("a log cannot be written: {reason}")),
            snapshot_every: StoreOptions::SNAPSHOT_EVERY,
            keep_entries: StoreOptions::KEEP_ENTRIES,
            segment_bytes: StoreOptions::SEGMENT_BYTES,
            reserve: 0,
            tasks: TaskBoard::new(clock),
        };
        let (store, id) = runtime.block_on(async {
            match founder {
                None => found(options(FOUNDER, NodeId(0), Default::default()), admission, &slot).await,
                Some(founder) => join(&key, founder, admission, &options, &slot).await,
            }
        })?;
        let source = Arc::new(Source { store: store.clone(), node: id });
        let kernel: Arc<Mutex<Memory>> = Arc::default();
        let task = TaskBoard::new(clock).task("reconcile");
        let (reconciler, run) =
            reconcile::new(kernel, Names::default(), source, store.applied(), Arc::new(Notify::new()), task);
        runtime.spawn(run.run(CancellationToken::new()));
        let node = Self { number, runtime, slot, store, id, reconciler, _dir: dir };
        node.report()?;
        Ok(node)
    }

    fn report(&self) -> Result<()> {
        let report = ReportNode {
            node: self.id,
            version: "0.1.0".into(),
            feature_level: FEATURE_LEVEL,
            routes: Vec::new(),
            underlay_mtu: 1500,
            egress_subnets: Vec::new(),
            engine: String::new(),
        };
        self.runtime.block_on(self.store.propose(Command::ReportNode(report), DEADLINE))?;
        Ok(())
    }

    /// Processor time of its threads so far.
    fn processor(&self) -> Result<Duration> {
        let name = thread_name(self.number);
        let mut ticks = 0;
        for task in fs::read_dir("/proc/self/task")? {
            // A thread may have ended since.
            let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue };
            // Its name is in brackets, and may be anything; what follows is numbers (proc_pid_stat(5)).
            let Some((head, rest)) = stat.rsplit_once(')') else { continue };
            if head.split_once('(').is_some_and(|(_, found)| found == name) {
                ticks +=
                    rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>();
            }
        }
        // USER_HZ is 100 on every architecture that Linux has now (time(7)).
        Ok(Duration::from_millis(ticks * 10))
    }
}

async fn found(options: StoreOptions, admission: AdmitNode, slot: &StoreSlot) -> Result<(Store, NodeId)> {
    let store = Store::open(options).await?;
    store.initialize(admission.advertise).await?;
    slot.set(Some(store.clone()));
    let cluster = Cluster {
        id: CLUSTER,
        created_ms: 0,
        pools: vec![Pool { cidr: "10.0.0.0/8".parse()?, prefix: 24 }],
        pool6: "fd00:1:2::/48".parse()?,
        vxlan_port: 4789,
        feature_level: FEATURE_LEVEL,
        underlay: Family::V4,
        voters: None,
        replace_after_ms: None,
        authorities: vec![authority()?.certificate().to_vec()],
        crossed: Vec::new(),
        authority: 1,
        locked: false,
    };
    let node = AdmitNode { raft_id: Some(FOUNDER), ..admission };
    let sealed_key = authority()?.seal(&cluster_key());
    let node = match store.propose(Command::FoundCluster { cluster, node, sealed_key }, DEADLINE).await? {
        Outcome::Node(node) => node,
        other => bail!("founding made {other:?}"),
    };
    let certificate = store.certify(node.id)?;
    store.key().certify(certificate)?;
    let hash = token()?.secret.hash();
    let token = CreateToken { hash, role: TokenRole::Voter, uses: 1_000, life_ms: Token::DEFAULT_LIFE_MS };
    store.propose(Command::CreateToken(token), DEADLINE).await?;
    Ok((store, node.id))
}

async fn join(
    key: &NodeKey,
    founder: &Node,
    admission: AdmitNode,
    options: &impl Fn(RaftId, NodeId, std::collections::BTreeMap<RaftId, Peer>) -> StoreOptions,
    slot: &StoreSlot,
) -> Result<(Store, NodeId)> {
    let through = founder.store.state().nodes.values().next().context("no founder")?.advertise;
    let admitted = knock(key, through, &token()?, DEADLINE).await?.enter(&admission, &token()?, DEADLINE).await?;
    key.certify(admitted.certificate)?;
    let options = options(admitted.raft_id, admitted.node, admitted.members);
    let store = if admitted.observer { Store::observe(options, None).await? } else { Store::open(options).await? };
    slot.set(Some(store.clone()));
    let known = || store.state().nodes.contains_key(&admitted.node);
    tokio::time::timeout(DEADLINE, store.applied().wait_for(|_| known())).await.context("it hears nothing")??;
    Ok((store, admitted.node))
}

/// One row.
fn with(count: usize) -> Result<Vec<String>> {
    let founder = Node::start(1, None)?;
    let mut nodes = vec![founder];
    for number in 2..=count {
        nodes.push(Node::start(number, nodes.first()).with_context(|| format!("node {number}"))?);
        // The first seven are members before anybody is admitted as an observer.
        let members = number.min(7);
        wait_for("it to be in its place", PATIENCE, || {
            let known = nodes[0].store.status().members.len();
            ensure!(known == members, "{known} members");
            Ok(())
        })?;
    }
    wait_for("five voters", PATIENCE, || {
        ensure!(nodes[0].store.status().voters.len() == 5);
        Ok(())
    })?;
    let networks = fill(&nodes)?;
    let index = *nodes[0].store.applied().borrow();
    wait_for("all to be in order", PATIENCE, || nodes.iter().try_for_each(|node| in_order(node, index)))?;
    let figures = one_more(&nodes, &networks);
    for node in nodes {
        node.runtime.shutdown_background();
    }
    figures
}

fn in_order(node: &Node, index: u64) -> Result<()> {
    let applied = *node.store.applied().borrow();
    ensure!(applied >= index, "node {} is at {applied} of {index}", node.number);
    Ok(())
}

/// The place of an endpoint: its network and its node.
fn place(endpoint: usize, nodes: usize) -> (usize, usize) {
    let network = endpoint / OF_NETWORK;
    (network, (network * ON_NODES + endpoint % ON_NODES) % nodes)
}

fn endpoint(network: NetworkId, node: NodeId, number: usize) -> Command {
    let name = format!("c{number}");
    Command::CreateEndpoint(CreateEndpoint {
        network,
        node,
        name: name.clone(),
        container_id: String::new(),
        aliases: Vec::new(),
        mac: None,
        addresses: Vec::new(),
        sandbox: Sandbox { netns: format!("/run/netns/{name}"), key: name },
        ifname: None,
        engine_id: String::new(),
    })
}

/// Makes the networks, and the endpoints that there are before.
fn fill(nodes: &[Node]) -> Result<Vec<NetworkId>> {
    let (leader, ids) = (nodes[0].store.clone(), nodes.iter().map(|node| node.id).collect::<Vec<_>>());
    nodes[0].runtime.block_on(async {
        let mut networks = Vec::new();
        for number in 0..ENDPOINTS / OF_NETWORK {
            let wanted = CreateNetwork { name: format!("n{number}"), ..CreateNetwork::default() };
            match leader.propose(Command::CreateNetwork(wanted), DEADLINE).await? {
                Outcome::Network(network) => networks.push(network.id),
                other => bail!("a network is {other:?}"),
            }
        }
        let mut under_way = JoinSet::new();
        for number in 0..ENDPOINTS {
            let (network, node) = place(number, ids.len());
            let (store, command) = (leader.clone(), endpoint(networks[network], ids[node], number));
            under_way.spawn(async move { store.propose(command, DEADLINE).await });
            if under_way.len() >= AT_ONCE
                && let Some(made) = under_way.join_next().await
            {
                made??;
            }
        }
        while let Some(made) = under_way.join_next().await {
            made??;
        }
        Ok(networks)
    })
}

/// Makes some more, one after the other, and looks what that takes.
fn one_more(nodes: &[Node], networks: &[NetworkId]) -> Result<Vec<String>> {
    let leader = nodes.iter().find(|node| node.store.status().is_leader).context("nobody leads")?;
    let served = |node: &Node| node.slot.watching().now.get();
    let busiest = nodes.iter().filter(|node| node.number != leader.number).max_by_key(|node| served(node));
    let busiest = busiest.context("nobody serves")?;
    let (wire, before) = (bytes_on_loopback()?, [leader.processor()?, busiest.processor()?]);
    let mut times = Vec::new();
    for number in 0..MEASURED {
        let (network, node) = place(number * 37 % ENDPOINTS, nodes.len());
        let command = endpoint(networks[network], nodes[node].id, ENDPOINTS + number);
        leader.runtime.block_on(leader.store.propose(command, DEADLINE))?;
        let (index, committed) = (*leader.store.applied().borrow(), Instant::now());
        let concerned = (0..ON_NODES).map(|at| &nodes[(network * ON_NODES + at) % nodes.len()]);
        let mut waiting = JoinSet::new();
        for node in concerned {
            let mut status = node.reconciler.status();
            let carried_out = async move {
                status.wait_for(|status| status.reconciled_index >= index).await.map(|_| committed.elapsed())
            };
            waiting.spawn_on(carried_out, leader.runtime.handle());
        }
        times.extend(leader.runtime.block_on(all(waiting))?);
    }
    let after = [leader.processor()?, busiest.processor()?];
    let wire = bytes_on_loopback()? - wire;
    times.sort_unstable();
    let each = |at: usize| ms(after[at] - before[at]) / MEASURED as f64;
    let figures = [
        ms(percentile(&times, 50)),
        ms(percentile(&times, 99)),
        each(0),
        each(1),
        resident(process::id())? as f64 / f64::from(1 << 20) / nodes.len() as f64,
        wire as f64 / 1024.0 / MEASURED as f64,
    ];
    let cells = figures.map(number);
    Ok([vec![nodes.len().to_string()], cells.to_vec(), vec![served(leader).to_string()]].concat())
}

async fn all<E: std::error::Error + Send + Sync + 'static>(
    mut waiting: JoinSet<Result<Duration, E>>,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let ended = async {
        while let Some(time) = waiting.join_next().await {
            times.push(time??);
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(PATIENCE, ended).await.context("a node does not carry it out")??;
    Ok(times)
}

/// Bytes that were sent over loopback so far.
fn bytes_on_loopback() -> Result<u64> {
    let text = fs::read_to_string("/sys/class/net/lo/statistics/tx_bytes")?;
    text.trim().parse().context("not a number")
}
