//! Committed writes per second and their latency, beside etcd.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pontoon_tests::lab::{Cluster, run};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::etcd::Etcd;
use crate::stats::{ms, number, per_second, percentile, ratio};
use crate::writer::{VALUE_BYTES, Writer};
use pontoon_tests::Section;

/// Numbers of clients.
const CLIENTS: [usize; 3] = [1, 16, 64];
/// How often the candidates take turns.
const ROUNDS: usize = 2;
/// How long each writes in a turn.
const TURN: Duration = Duration::from_millis(1500);

/// What is measured, and through which servers.
struct Candidate {
    what: What,
    sockets: Vec<PathBuf>,
    seen: Load,
}

#[derive(Clone, Copy)]
enum What {
    Label,
    Network,
    Put,
}

/// What clients saw.
#[derive(Debug, Default)]
struct Load {
    latencies: Vec<Duration>,
    elapsed: Duration,
}

impl Load {
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
        self.elapsed += other.elapsed;
    }

    fn per_second(&self) -> f64 {
        per_second(self.latencies.len() as u64, self.elapsed)
    }

    fn cells(&self) -> [String; 3] {
        let percentile = |percent| number(ms(percentile(&self.latencies, percent)));
        [number(self.per_second()), percentile(50), percentile(99)]
    }
}

/// Measures and reports.
pub(crate) fn measure(runtime: &Runtime) -> Result<Section> {
    let mut rows = Vec::new();
    run(|cluster| {
        let etcd = Etcd::start(cluster, runtime)?;
        for clients in CLIENTS {
            rows.extend(with_clients(clients, cluster, &etcd, runtime)?);
        }
        Ok(())
    })?;
    Ok(Section {
        title: "Committed writes",
        how: format!(
            "3 nodes, each with a pontoond and an etcd member with default settings, all syncing to one disk. Every client has \
             a connection of its own (gRPC over the unix socket) and one write under way. \"label\" is `node label` with a \
             short value, \"network\" is `network create` and `network rm` in turn (each counts), etcd gets puts of \
             {VALUE_BYTES} bytes. {ROUNDS} turns of {} s each.",
            TURN.as_secs_f64()
        ),
        header: vec![
            "clients",
            "through",
            "write",
            "writes/s",
            "p50 ms",
            "p99 ms",
            "etcd writes/s",
            "etcd p50",
            "etcd p99",
            "ratio",
        ],
        rows,
    })
}

fn with_clients(clients: usize, cluster: &mut Cluster, etcd: &Etcd, runtime: &Runtime) -> Result<Vec<Vec<String>>> {
    let daemons: Vec<PathBuf> = cluster.daemons().iter().map(|daemon| daemon.socket()).collect();
    let members: Vec<PathBuf> = (0..daemons.len()).map(|host| etcd.socket(host)).collect();
    let leader = |sockets: &[PathBuf], host: usize| vec![sockets[host].clone()];
    let our_leader = leader(&daemons, cluster.leader()?);
    let their_leader = leader(&members, etcd.wait_agreed(runtime)?);
    let candidate = |what, sockets| Candidate { what, sockets, seen: Load::default() };
    let mut candidates = [
        candidate(What::Label, daemons.clone()),
        candidate(What::Put, members),
        candidate(What::Label, our_leader),
        candidate(What::Put, their_leader),
        candidate(What::Network, daemons),
    ];
    for _ in 0..ROUNDS {
        for candidate in &mut candidates {
            candidate.seen.add(runtime.block_on(load(candidate, clients))?);
        }
    }
    let [label, put, leader_label, leader_put, network] = &candidates.map(|candidate| candidate.seen);
    let row = |through: &str, write: &str, ours: &Load, theirs: &Load| {
        let mut row = vec![clients.to_string(), through.to_owned(), write.to_owned()];
        row.extend(ours.cells());
        row.extend(theirs.cells());
        row.push(ratio(ours.per_second(), theirs.per_second()));
        row
    };
    Ok(vec![
        row("all nodes", "label", label, put),
        row("the leader", "label", leader_label, leader_put),
        row("all nodes", "network", network, put),
    ])
}

/// Lets clients write for a turn, spread over the servers.
async fn load(candidate: &Candidate, clients: usize) -> Result<Load> {
    let mut writers = Vec::new();
    for client in 0..clients {
        let socket = &candidate.sockets[client % candidate.sockets.len()];
        let mut writer = match candidate.what {
            What::Label => Writer::label(socket, client).await?,
            What::Network => Writer::network(socket, client).await?,
            What::Put => Writer::put(socket, client).await?,
        };
        // Opens whatever the first request opens; a network is made and removed again.
        for number in 0..2 {
            writer.write(number).await.context("the first writes")?;
        }
        writers.push(writer);
    }
    let start = Instant::now();
    let mut tasks: JoinSet<Result<Vec<Duration>>> =
        writers.into_iter().map(|writer| write_until(writer, start + TURN)).collect();
    let mut latencies = Vec::new();
    while let Some(task) = tasks.join_next().await {
        latencies.extend(task??);
    }
    Ok(Load { latencies, elapsed: start.elapsed() })
}

/// Writes until then, and an even number of times. How long each took.
pub(crate) async fn write_until(mut writer: Writer, end: Instant) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    // An even number of writes, so that no network is left.
    for number in 0.. {
        let start = Instant::now();
        if start >= end && number % 2 == 0 {
            break;
        }
        writer.write(number).await.with_context(|| format!("write {number}"))?;
        latencies.push(start.elapsed());
    }
    Ok(latencies)
}
