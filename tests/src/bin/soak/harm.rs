//! What is done to the daemons meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::Cluster;
use pontoon_tests::{elapse, wait_for};

/// How long a host stands still: long enough for the others to elect another leader.
const STILL: Duration = Duration::from_secs(3);
/// How long the cluster may take to have as many voters as it is told.
const VOTERS: Duration = Duration::from_secs(40);

/// Kills and restarts some daemons, in turn, and makes others lose their leadership. One voter and one node that does
/// not vote are spared: what they have in memory shows whether it grows.
#[derive(Debug)]
pub(crate) struct Harm {
    /// Hosts whose daemons are killed.
    mortal: Vec<usize>,
    round: usize,
    /// How often each host's daemon was started.
    pub(crate) starts: Vec<u32>,
    /// How often another daemon led afterwards.
    pub(crate) leaders: u32,
}

impl Harm {
    /// Gives the cluster three voters, and chooses who is spared.
    pub(crate) fn prepare(cluster: &Cluster) -> Result<Self> {
        cluster.cli(0).run("cluster set voters=3")?;
        let votes = wait_for("three voters", VOTERS, || {
            let status = cluster.status(cluster.leader()?)?;
            let members = status["members"].as_array().context("no members")?;
            let votes = |name: &str| members.iter().any(|m| m["node"]["name"] == name && m["voter"] == true);
            let votes: Vec<bool> = cluster.hosts().iter().map(|host| votes(&host.name)).collect();
            ensure!(votes.iter().filter(|&&votes| votes).count() == 3, "{votes:?}");
            Ok(votes)
        })?;
        let first = |voting: bool| votes.iter().position(|&votes| votes == voting);
        let spared = [first(true), first(false)];
        let mortal = (0..votes.len()).filter(|host| !spared.contains(&Some(*host))).collect();
        Ok(Self { mortal, round: 0, starts: vec![1; votes.len()], leaders: 0 })
    }

    /// Does the next thing, and waits until there is a leader and the daemon is back. Returns what was done.
    pub(crate) fn next(&mut self, cluster: &mut Cluster) -> Result<String> {
        let leader = cluster.leader()?;
        let in_turn = self.mortal[self.round / 4 % self.mortal.len()];
        let leads = self.mortal.contains(&leader);
        self.round += 1;
        let done = match self.round % 4 {
            1 if leads => self.restart(cluster, leader, Daemon::Killed)?,
            2 => self.restart(cluster, in_turn, Daemon::Killed)?,
            3 => self.restart(cluster, if leads { leader } else { in_turn }, Daemon::Stopped)?,
            _ => stand_still(cluster, leader)?,
        };
        self.leaders += u32::from(cluster.leader()? != leader);
        Ok(done)
    }

    fn restart(&mut self, cluster: &mut Cluster, host: usize, how: Daemon) -> Result<String> {
        match how {
            Daemon::Killed => cluster.daemon(host).kill9()?,
            Daemon::Stopped => {
                let status = cluster.daemon(host).term()?;
                ensure!(status.success(), "the daemon on h{} ended with {status}", host + 1);
            }
        }
        cluster.daemon(host).up()?;
        self.starts[host] += 1;
        Ok(format!("h{} {how:?} and started again", host + 1).to_lowercase())
    }
}

/// What becomes of a daemon.
#[derive(Debug, Clone, Copy)]
enum Daemon {
    /// SIGKILL.
    Killed,
    /// SIGTERM: a leader hands over.
    Stopped,
}

fn stand_still(cluster: &mut Cluster, host: usize) -> Result<String> {
    cluster.daemon(host).pause()?;
    elapse(STILL);
    cluster.daemon(host).resume()?;
    Ok(format!("h{}, which led, stood still for {STILL:?}", host + 1))
}
