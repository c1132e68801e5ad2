//! From the leader's SIGKILL to the next committed write, beside etcd.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pontoon_tests::lab::Cluster;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::beside::{HEADER, Times};
use crate::etcd::Etcd;
use crate::writer::Writer;
use pontoon_tests::Section;

/// How often our leader is killed.
const RUNS: usize = 20;
/// After every so many of these, etcd's is.
const EVERY: usize = 4;
/// A new write is tried this often, whatever became of those before.
const TRY: Duration = Duration::from_millis(10);
/// Writes must go on within this.
const DEADLINE: Duration = Duration::from_secs(30);

/// Measures and reports.
pub(crate) fn measure(runtime: &Runtime) -> Result<Section> {
    let times = Times::take(runtime, (RUNS, EVERY), kill_leader, kill_etcd_leader)?;
    Ok(Section {
        title: "The leader's SIGKILL to the next committed write",
        how: format!(
            "3 nodes. The leader's process gets SIGKILL; from then on a new write is tried through the two others every {} ms, \
             and the first answer ends the clock. Then the killed one is started again and catches up. {RUNS} runs, {} of etcd \
             (default settings) between them. Milliseconds.",
            TRY.as_millis(),
            times.theirs.len()
        ),
        header: HEADER.to_vec(),
        rows: times.rows(),
    })
}

fn kill_leader(cluster: &mut Cluster, runtime: &Runtime) -> Result<Duration> {
    let leader = cluster.leader()?;
    let survivors = cluster.daemons().iter().enumerate().filter(|(host, _)| *host != leader);
    let sockets: Vec<_> = survivors.map(|(_, daemon)| daemon.socket()).collect();
    let mut writers = Vec::new();
    for socket in &sockets {
        writers.push(runtime.block_on(Writer::label(socket, 0))?);
    }
    runtime.block_on(warm(&mut writers))?;
    let killed = Instant::now();
    cluster.daemon(leader).kill9()?;
    let gap = runtime.block_on(first_answer(&writers, killed))?;
    cluster.daemon(leader).up()?;
    cluster.leader()?;
    cluster.wait_same_state()?;
    Ok(gap)
}

fn kill_etcd_leader(etcd: &mut Etcd, runtime: &Runtime) -> Result<Duration> {
    let leader = etcd.wait_agreed(runtime)?;
    let mut writers = Vec::new();
    for host in (0..3).filter(|host| *host != leader) {
        writers.push(runtime.block_on(Writer::put(&etcd.socket(host), 0))?);
    }
    runtime.block_on(warm(&mut writers))?;
    let killed = Instant::now();
    etcd.kill9(leader)?;
    let gap = runtime.block_on(first_answer(&writers, killed))?;
    etcd.restart(leader, runtime)?;
    Ok(gap)
}

/// One write each, so that the connections and what is behind them are there.
async fn warm(writers: &mut [Writer]) -> Result<()> {
    for writer in writers {
        writer.write(0).await.context("before the kill")?;
    }
    Ok(())
}

/// Tries until a write is answered. Many are under way at once: one that was handed to the dead leader may hang
/// until a timeout of the server, and would measure that instead.
async fn first_answer(writers: &[Writer], killed: Instant) -> Result<Duration> {
    let trying = async {
        let mut tick = interval(TRY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tries = JoinSet::new();
        let mut last_error = None;
        for number in 0.. {
            tick.tick().await;
            while let Some(done) = tries.try_join_next() {
                match done? {
                    Ok(gap) => return Ok(gap),
                    Err(error) => last_error = Some(error),
                }
            }
            let mut writer = writers[number % writers.len()].clone();
            tries.spawn(async move { writer.write(number as u64).await.map(|()| killed.elapsed()) });
        }
        anyhow::bail!("no write was answered; the last error: {last_error:?}")
    };
    timeout(DEADLINE, trying).await.context("writes do not go on")?
}
