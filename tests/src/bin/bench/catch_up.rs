//! How long a member takes that has missed much, or has nothing any more, and what writers notice of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_proto::v1::StatusRequest;
use pontoon_proto::v1::cluster_service_client::ClusterServiceClient;
use pontoon_tests::lab::run;
use pontoon_tests::{elapse, wait_for};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::stats::{number, per_second};
use crate::writer::Writer;
use pontoon_tests::Section;
use pontoon_tests::socket;

/// Clients that write all the time, on the two members that stay.
const CLIENTS: usize = 32;
/// Entries that are missed.
const MISSED: u64 = 100_000;
/// How long a rate is measured when nothing else ends the measurement.
const TURN: Duration = Duration::from_secs(5);
/// A member must be back in step within this.
const DEADLINE: Duration = Duration::from_secs(120);

/// What was seen while something went on.
struct Seen {
    what: &'static str,
    took: Duration,
    writes: u64,
}

impl Seen {
    fn per_second(&self) -> f64 {
        per_second(self.writes, self.took)
    }
}

/// Measures and reports.
pub(crate) fn measure(runtime: &Runtime) -> Result<Section> {
    let mut seen = Vec::new();
    run(|cluster| {
        let follower = (cluster.leader()? + 1) % 3;
        let stay: Vec<usize> = (0..3).filter(|host| *host != follower).collect();
        let sockets: Vec<PathBuf> = stay.iter().map(|host| cluster.daemons()[*host].socket()).collect();
        let load = Load::start(runtime, &sockets)?;
        load.during("warming up", pass)?;
        let leader = cluster.leader()?;
        let leading = cluster.daemons()[leader].socket();
        seen.push(load.during("three members", pass)?);

        cluster.daemon(follower).kill9()?;
        seen.push(load.during("one of them is away", pass)?);
        miss(runtime, &leading)?;
        seen.push(load.during("it comes back, with that to catch up", || {
            cluster.daemon(follower).up()?;
            in_step(runtime, &leading, &cluster.daemons()[follower].socket())
        })?);
        seen.push(load.during("three members", pass)?);

        cluster.daemon(follower).kill9()?;
        fs::remove_dir_all(cluster.daemon(follower).data_dir())?;
        let name = format!("h{}", follower + 1);
        cluster.cli(leader).run(&format!("node rm --force {name}"))?;
        miss(runtime, &leading)?;
        seen.push(load.during("it joins again, its folder wiped", || {
            cluster.daemon(follower).up()?;
            cluster.join(follower, leader)?;
            in_step(runtime, &leading, &cluster.daemons()[follower].socket())
        })?);
        load.stop(runtime)
    })?;
    let whole = seen.first().map_or(0.0, Seen::per_second);
    let row = |seen: &Seen| {
        let of_whole = if whole > 0.0 { 100.0 * seen.per_second() / whole } else { 0.0 };
        let cells = [seen.took.as_secs_f64(), seen.per_second(), of_whole].map(number);
        [vec![seen.what.to_owned()], cells.to_vec()].concat()
    };
    Ok(Section {
        title: "A member that has missed 100,000 entries, or lost its disk",
        how: format!(
            "3 nodes with default settings, all on one disk. {CLIENTS} clients write labels on the two that stay, one after the \
             other each, all the time. The third, a follower, is killed, {MISSED} entries are committed, and it is started again; \
             then it is killed, its data folder removed, the node removed from the cluster, and after {MISSED} more it joins \
             anew. The clock begins when its process is started and ends when it has applied what the leader had at a moment \
             before."
        ),
        header: vec!["while", "s", "writes/s", "% of the first"],
        rows: seen.iter().map(row).collect(),
    })
}

fn pass() -> Result<()> {
    elapse(TURN);
    Ok(())
}

/// Clients that write until they are stopped.
struct Load {
    writes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<()>>,
}

impl Load {
    fn start(runtime: &Runtime, sockets: &[PathBuf]) -> Result<Self> {
        let (writes, stop, mut tasks) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)), JoinSet::new());
        for client in 0..CLIENTS {
            let mut writer = runtime.block_on(Writer::label(&sockets[client % sockets.len()], client))?;
            let (writes, stop) = (writes.clone(), stop.clone());
            let write = async move {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    writer.write(number).await.with_context(|| format!("write {number} of client {client}"))?;
                    writes.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            };
            tasks.spawn_on(write, runtime.handle());
        }
        Ok(Self { writes, stop, tasks })
    }

    /// Counts what is written while something is done.
    fn during(&self, what: &'static str, work: impl FnOnce() -> Result<()>) -> Result<Seen> {
        let (before, begun) = (self.writes.load(Ordering::Relaxed), Instant::now());
        work().with_context(|| format!("while {what}"))?;
        let (writes, took) = (self.writes.load(Ordering::Relaxed) - before, begun.elapsed());
        Ok(Seen { what, took, writes })
    }

    /// Ends it; fails when a write has.
    fn stop(mut self, runtime: &Runtime) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        runtime.block_on(async {
            while let Some(ended) = self.tasks.join_next().await {
                ended??;
            }
            Ok(())
        })
    }
}

async fn applied(socket: &Path) -> Result<u64> {
    let mut client = ClusterServiceClient::new(socket::connect(socket).await?);
    Ok(client.status(StatusRequest::default()).await?.into_inner().applied_index)
}

/// Waits until so many more entries are committed.
fn miss(runtime: &Runtime, leader: &Path) -> Result<()> {
    let first = runtime.block_on(applied(leader))?;
    wait_for("enough to be missed", DEADLINE, || {
        let missed = runtime.block_on(applied(leader))? - first;
        ensure!(missed >= MISSED, "{missed} entries");
        Ok(())
    })
}

/// Waits until a member has what the leader has.
fn in_step(runtime: &Runtime, leader: &Path, member: &Path) -> Result<()> {
    wait_for("it to be in step", DEADLINE, || {
        let there = runtime.block_on(applied(leader))?;
        let here = runtime.block_on(applied(member))?;
        ensure!(here >= there, "it lacks {} entries", there - here);
        Ok(())
    })
}
