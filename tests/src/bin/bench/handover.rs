//! A leader that is asked to end (SIGTERM), and what writes through the others notice of it, beside etcd.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pontoon_tests::elapse;
use pontoon_tests::lab::Cluster;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::beside::{HEADER, Times};
use crate::etcd::Etcd;
use crate::writer::Writer;
use pontoon_tests::Section;

/// How often our leader is asked to end.
const RUNS: usize = 20;
/// After every so many of these, etcd's is.
const EVERY: usize = 2;
/// How long there are writes before and after.
const AROUND: Duration = Duration::from_millis(300);
/// A new write is tried this often, whatever became of those before.
const TRY: Duration = Duration::from_millis(10);
/// Writes must go on within this.
const DEADLINE: Duration = Duration::from_secs(30);

/// Measures and reports.
pub(crate) fn measure(runtime: &Runtime) -> Result<Section> {
    let times = Times::take(runtime, (RUNS, EVERY), stop_leader, stop_etcd_leader)?;
    Ok(Section {
        title: "The longest time without a committed write while the leader is stopped",
        how: format!(
            "3 nodes. The leader's process gets SIGTERM, and hands leadership over before it ends. A new write is tried through \
             the two others every {} ms, from {1} ms before until {1} ms after the end of the process; the longest time between \
             two answers. Then the stopped one is started again. {RUNS} runs, {2} of etcd (default settings) between them. \
             Milliseconds.",
            TRY.as_millis(),
            AROUND.as_millis(),
            times.theirs.len()
        ),
        header: HEADER.to_vec(),
        rows: times.rows(),
    })
}

fn stop_leader(cluster: &mut Cluster, runtime: &Runtime) -> Result<Duration> {
    let leader = cluster.leader()?;
    let others = cluster.daemons().iter().enumerate().filter(|(host, _)| *host != leader);
    let sockets: Vec<PathBuf> = others.map(|(_, daemon)| daemon.socket()).collect();
    let mut writers = Vec::new();
    for (client, socket) in sockets.iter().enumerate() {
        writers.push(runtime.block_on(Writer::label(socket, client))?);
    }
    let pause = pause_while(runtime, writers, || cluster.daemon(leader).term().map(drop))?;
    cluster.daemon(leader).up()?;
    cluster.leader()?;
    cluster.wait_same_state()?;
    Ok(pause)
}

fn stop_etcd_leader(etcd: &mut Etcd, runtime: &Runtime) -> Result<Duration> {
    let leader = etcd.wait_agreed(runtime)?;
    let mut writers = Vec::new();
    for host in (0..3).filter(|host| *host != leader) {
        writers.push(runtime.block_on(Writer::put(&etcd.socket(host), host))?);
    }
    let pause = pause_while(runtime, writers, || etcd.term(leader))?;
    etcd.restart(leader, runtime)?;
    Ok(pause)
}

/// The longest time without an answer while something happens.
fn pause_while(runtime: &Runtime, writers: Vec<Writer>, happens: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let over = Arc::new(AtomicBool::new(false));
    let writing = runtime.spawn(answers(writers, Arc::clone(&over)));
    elapse(AROUND);
    let happened = happens();
    elapse(AROUND);
    over.store(true, Ordering::Relaxed);
    let mut answers = runtime.block_on(writing)??;
    happened?;
    answers.sort_unstable();
    let pauses = answers.windows(2).map(|pair| pair[1].duration_since(pair[0]));
    pauses.max().context("no two writes were answered")
}

/// Tries a new write again and again, through each of these in turn, until it is over and the first one after that is
/// answered. Returns when writes were answered. Many are under way at once: one that was handed to the leader that ends may
/// hang until a timeout of the server, and would measure that instead.
async fn answers(writers: Vec<Writer>, over: Arc<AtomicBool>) -> Result<Vec<Instant>> {
    let trying = async {
        let mut tick = interval(TRY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut tries, mut answered) = (JoinSet::new(), Vec::new());
        for number in 0.. {
            tick.tick().await;
            let known = answered.len();
            while let Some(done) = tries.try_join_next() {
                answered.extend(done?);
            }
            if over.load(Ordering::Relaxed) && answered.len() > known {
                break;
            }
            let mut writer = writers[number % writers.len()].clone();
            tries.spawn(async move { writer.write(number as u64).await.ok().map(|()| Instant::now()) });
        }
        Ok(answered)
    };
    timeout(DEADLINE, trying).await.context("writes do not go on")?
}
