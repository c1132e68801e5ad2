//! A cluster that grows from one node to seven and back, while it is used and daemons are killed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, Journal, Options, run_with, while_writing};
use pontoon_tests::wait_for;

/// How long nothing may be acknowledged once a daemon was killed: it is started again, or another leads.
const FAILOVER: Duration = Duration::from_secs(5);
/// How long the nodes may take to be ready.
const READY: Duration = Duration::from_secs(20);
/// Most nodes.
const MOST: usize = 7;

/// Waits until the first so many hosts, and no others, are ready, as all of them see it.
fn wait_ready(cluster: &Cluster, count: usize) -> Result<()> {
    wait_for(&format!("{count} nodes to be ready"), READY, || {
        for host in 0..count {
            let status = cluster.status(host)?;
            let members = status["members"].as_array().context("no members")?;
            let ready = members.iter().filter(|member| member["node"]["state"] == "ready").count();
            ensure!(members.len() == count && ready == count, "h{} sees {ready} of {}", host + 1, members.len());
            let leader = status["leader"].as_u64();
            ensure!(leader.is_some_and(|leader| leader != 0), "h{} knows no leader", host + 1);
        }
        Ok(())
    })
}

/// Kills one of the first so many daemons, and starts it again.
fn kill_one(cluster: &mut Cluster, journal: &Journal, count: usize) -> Result<()> {
    let host = rand::random_range(0..count);
    eprintln!("of {count} nodes, h{} is killed", host + 1);
    let killed = Instant::now();
    let before = journal.acknowledged.load(Ordering::Relaxed);
    cluster.daemon(host).kill9()?;
    cluster.daemon(host).up()?;
    wait_for("writes to go on", FAILOVER, || {
        let acknowledged = journal.acknowledged.load(Ordering::Relaxed);
        ensure!(acknowledged > before + 2, "{} since h{} was killed", acknowledged - before, host + 1);
        Ok(())
    })?;
    eprintln!("writes went on after {:?}", killed.elapsed());
    wait_ready(cluster, count)
}

#[test]
fn from_one_to_seven_nodes_and_back() -> Result<()> {
    run_with(Options { hosts: MOST, ..Options::default() }, |cluster| {
        cluster.init()?;
        cluster.cli(0).run("network create pinged")?;
        let journal = while_writing(cluster, &[0], |cluster, journal| {
            wait_ready(cluster, 1)?;
            kill_one(cluster, journal, 1)?;
            cluster.join(1, 0)?;
            wait_ready(cluster, 2)?;
            let (from, _) = cluster.attached(0, "p1", "pinged")?;
            let (other, to) = cluster.attached(1, "p2", "pinged")?;
            let pings = cluster.pinger(&from, &to)?;
            kill_one(cluster, journal, 2)?;
            for count in 3..=MOST {
                cluster.join(count - 1, rand::random_range(0..count - 1))?;
                wait_ready(cluster, count)?;
                kill_one(cluster, journal, count)?;
            }
            for count in (2..MOST).rev() {
                cluster.cli(count).run("leave")?;
                wait_ready(cluster, count)?;
                kill_one(cluster, journal, count)?;
            }
            pings.lost_nothing(500)?;
            cluster.cli(1).run(&format!("detach --netns {}", other.netns.path().display()))?;
            cluster.cli(1).run("leave")?;
            wait_ready(cluster, 1)?;
            kill_one(cluster, journal, 1)
        })?;
        // The others are in no cluster any more.
        journal.check_on(cluster, &[0], 200)
    })
}
