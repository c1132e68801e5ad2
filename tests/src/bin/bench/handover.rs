//! A leader that is asked to end (SIGTERM), and what writes through the others notice of it, beside etcd.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pontoon_tests::lab::{Cluster, run};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

use crate::etcd::Etcd;
use crate::report::Section;
use crate::stats::{ms, number, percentile, ratio};
use crate::writer::Writer;

/// How often our leader is asked to end.
const RUNS: usize = 20;
/// After every so many of these, etcd's is.
const EVERY: usize = 2;
/// How long there are writes before and after.
const AROUND: Duration = Duration::from_millis(300);
/// A write that failed is tried again after this.
const AGAIN: Duration = Duration::from_millis(1);
/// A write must be answered within this.
const DEADLINE: Duration = Duration::from_secs(30);

/// Measures and reports.
pub(crate) fn measure(runtime: &Runtime) -> Result<Section> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    run(|cluster| {
        let mut etcd = Etcd::start(cluster, runtime)?;
        for number in 0..RUNS {
            ours.push(stop_leader(cluster, runtime).with_context(|| format!("run {}", number + 1))?);
            if number % EVERY == 0 {
                theirs.push(stop_etcd_leader(&mut etcd, runtime).with_context(|| format!("etcd, run {}", number + 1))?);
            }
        }
        Ok(())
    })?;
    ours.sort_unstable();
    theirs.sort_unstable();
    let row = |what: &str, percent: usize| {
        let (ours, theirs) = (ms(percentile(&ours, percent)), ms(percentile(&theirs, percent)));
        vec![what.to_owned(), number(ours), number(theirs), ratio(ours, theirs)]
    };
    Ok(Section {
        title: "The slowest write while the leader is stopped",
        how: format!(
            "3 nodes. The leader's process gets SIGTERM, and hands leadership over before it ends. Through each of the two \
             others one client writes without a pause, from {0} ms before until {0} ms after the end of the process; a write that \
             fails is tried again. The slowest of these, from the first try to the answer. Then the stopped one is started \
             again. {RUNS} runs, {1} of etcd (default settings) between them. Milliseconds.",
            AROUND.as_millis(),
            theirs.len()
        ),
        header: vec!["", "Pontoon", "etcd", "ratio"],
        rows: vec![row("least", 0), row("p50", 50), row("p99", 99), row("most", 100)],
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
    let slowest = slowest_while(runtime, writers, || cluster.daemon(leader).term().map(drop))?;
    cluster.daemon(leader).up()?;
    cluster.leader()?;
    cluster.wait_same_state()?;
    Ok(slowest)
}

fn stop_etcd_leader(etcd: &mut Etcd, runtime: &Runtime) -> Result<Duration> {
    let leader = etcd.wait_agreed(runtime)?;
    let mut writers = Vec::new();
    for host in (0..3).filter(|host| *host != leader) {
        writers.push(runtime.block_on(Writer::put(&etcd.socket(host), host))?);
    }
    let slowest = slowest_while(runtime, writers, || etcd.term(leader))?;
    etcd.restart(leader, runtime)?;
    Ok(slowest)
}

/// The slowest write of these clients while something happens.
fn slowest_while(runtime: &Runtime, writers: Vec<Writer>, happens: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let over = Arc::new(AtomicBool::new(false));
    let running: Vec<_> = writers.into_iter().map(|writer| runtime.spawn(write(writer, Arc::clone(&over)))).collect();
    runtime.block_on(sleep(AROUND));
    let happened = happens();
    runtime.block_on(sleep(AROUND));
    over.store(true, Ordering::Relaxed);
    let mut slowest = Duration::ZERO;
    for writer in running {
        slowest = slowest.max(runtime.block_on(writer)??);
    }
    happened.map(|()| slowest)
}

/// Writes until it is over; returns how long the slowest write took.
async fn write(mut writer: Writer, over: Arc<AtomicBool>) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        let answered = async {
            while writer.write(number).await.is_err() {
                sleep(AGAIN).await;
            }
        };
        timeout(DEADLINE, answered).await.context("writes do not go on")?;
        slowest = slowest.max(start.elapsed());
        number += 1;
    }
    Ok(slowest)
}
