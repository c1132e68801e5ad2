//! Two of five voters that are killed for good, in a cluster most of whose nodes observe.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, Journal, while_writing};
use pontoon_tests::{Section, wait_for};

use crate::observers::hosts;
use crate::stats::{ms, number};

/// What the cluster is told to wait before it replaces a voter.
const AFTER: &str = "5s";
/// Both must be replaced within this.
const DEADLINE: Duration = Duration::from_secs(60);
/// Writes that are to follow it.
const MORE_WRITES: u64 = 20;
/// Containers that ping the next one, on nodes of each kind.
const PINGED: [(&str, usize); 3] = [("voters", 4), ("learners", 1), ("observers", 3)];

/// What came of it.
struct Replaced {
    after: Duration,
    /// The longest time without an acknowledged write.
    gap: Duration,
}

/// Measures and reports.
pub(crate) fn measure(cluster: &mut Cluster) -> Result<Section> {
    let leader = cluster.leader()?;
    let voters = hosts(cluster, leader, "voters")?;
    let other = voters.iter().copied().find(|host| *host != leader).context("nobody else votes")?;
    let killed = [leader, other];
    let left: Vec<usize> = voters.into_iter().filter(|host| !killed.contains(host)).collect();
    let observer = *hosts(cluster, leader, "observers")?.first().context("nobody observes")?;
    cluster.cli(left[0]).run(&format!("cluster set replace-after={AFTER}"))?;

    cluster.cli(0).run("network create pinged")?;
    let mut containers = Vec::new();
    for (kind, count) in PINGED {
        for host in hosts(cluster, leader, kind)?.into_iter().take(count) {
            containers.push(cluster.attached(host, &format!("p{host}"), "pinged")?);
        }
    }
    let ways = containers.iter().zip(containers.iter().cycle().skip(1));
    let ways = ways.map(|((from, _), (_, to))| cluster.pinger(from, to)).collect::<Result<Vec<_>>>()?;
    let mut replaced = None;
    let journal = while_writing(cluster, &[left[0], observer], |cluster, journal| {
        replaced = Some(replace(cluster, journal, killed, left[0])?);
        Ok(())
    })?;
    let Replaced { after, gap } = replaced.context("nothing was measured")?;
    let pings = ways.into_iter().map(|way| way.lost_nothing(1)).collect::<Result<Vec<_>>>()?;
    let pings: u64 = pings.iter().map(|report| report.sent).sum();
    for host in killed {
        cluster.daemon(host).up()?;
    }
    cluster.wait_all_ready()?;
    cluster.wait_same_state()?;
    journal.check(cluster, MORE_WRITES)?;
    let written = journal.acknowledged.load(Ordering::Relaxed);
    Ok(Section {
        title: "Two of five voters killed for good, until others vote in their place",
        how: format!(
            "The same {} daemons, told to replace a voter after {AFTER} of silence. The leader and another voter are killed while \
             networks are made and containers attached and detached through a voter and an observer, and {} containers on voters \
             (the killed ones among them), a learner and observers ping each other. Afterwards all that was acknowledged must \
             be on every node; the benchmark fails if it is not, or if a ping is lost. One run.",
            cluster.hosts().len(),
            containers.len(),
        ),
        header: vec!["", ""],
        rows: vec![
            vec!["both replaced after, s".into(), number(after.as_secs_f64())],
            vec!["longest time without an acknowledged write, ms".into(), number(ms(gap))],
            vec!["writes acknowledged, of which lost".into(), format!("{written}, 0")],
            vec!["pings sent, of which lost".into(), format!("{pings}, 0")],
        ],
    })
}

/// Kills two voters, and waits until five others vote and writes go on.
fn replace(cluster: &mut Cluster, journal: &Journal, killed: [usize; 2], asked: usize) -> Result<Replaced> {
    let acknowledged = || journal.acknowledged.load(Ordering::Relaxed);
    wait_for("writes", DEADLINE, || {
        ensure!(acknowledged() >= MORE_WRITES, "{}", acknowledged());
        Ok(())
    })?;
    let (start, before) = (Instant::now(), acknowledged());
    let (mut latest, mut gap) = ((start, before), Duration::ZERO);
    let mut note = |now: u64| {
        if now > latest.1 {
            gap = gap.max(latest.0.elapsed());
            latest = (Instant::now(), now);
        }
    };
    killed.into_iter().try_for_each(|host| cluster.daemon(host).kill9())?;
    wait_for("five others to vote", DEADLINE, || {
        note(acknowledged());
        let voters = hosts(cluster, asked, "voters")?;
        ensure!(voters.len() == 5 && killed.iter().all(|host| !voters.contains(host)), "{voters:?} vote");
        Ok(())
    })?;
    let after = start.elapsed();
    let replaced = acknowledged();
    wait_for("more writes", DEADLINE, || {
        note(acknowledged());
        ensure!(acknowledged() >= replaced + MORE_WRITES, "{} after {replaced}", acknowledged());
        Ok(())
    })?;
    Ok(Replaced { after, gap })
}
