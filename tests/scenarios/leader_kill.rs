//! The leader is killed again and again under a stream of writes. What was acknowledged stays, no address is given
//! twice, and the containers notice nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use pontoon_tests::lab::{Cluster, Daemon, Journal, while_writing};
use pontoon_tests::{elapse, wait_for};

use super::environment::{Environment, Field};

/// How often the leader is killed.
const KILLS: u64 = 20;
/// How often all daemons are killed at once.
const BLACKOUTS: u64 = 5;

fn leader_kill(environment: Environment) -> Result<()> {
    under_writes(environment, kill_leaders)
}

/// Writes while something is done to the cluster; nothing that was acknowledged is lost.
fn under_writes(environment: Environment, harm: impl FnOnce(&mut Cluster, &Journal) -> Result<()>) -> Result<()> {
    environment.run(|cluster, field| {
        let ways = field.pairs().map(|(from, to)| cluster.pinger(&from.container, &to.attached[0]));
        let ways = ways.collect::<Result<Vec<_>>>()?;
        let hosts: Vec<usize> = (0..cluster.hosts().len()).collect();
        let journal = while_writing(cluster, &hosts, harm)?;
        for way in ways {
            way.lost_nothing(KILLS * 10)?;
        }
        cluster.wait_all_ready()?;
        cluster.wait_same_state()?;
        journal.check(cluster, KILLS)?;
        still_works(cluster, field)
    })
}

fn kill_leaders(cluster: &mut Cluster, journal: &Journal) -> Result<()> {
    for round in 0..KILLS {
        // From at once to 0.4 s into a term, and at different places in a write.
        elapse(Duration::from_millis(round * 37 % 400));
        let leader = cluster.leader()?;
        cluster.daemon(leader).kill9()?;
        let before = journal.acknowledged.load(Ordering::Relaxed);
        if round % 2 == 0 {
            // It comes back to a cluster that has a new leader; in other rounds, perhaps before there is one.
            cluster.leader()?;
        }
        cluster.daemon(leader).up()?;
        wait_for_writes(journal, round, before)?;
    }
    Ok(())
}

/// Kills all daemons at once: none of them can ask another what it had.
fn kill_all(cluster: &mut Cluster, journal: &Journal) -> Result<()> {
    for round in 0..BLACKOUTS {
        // From about half a second to one under way, and at different places in a write.
        elapse(Duration::from_millis(500 + round * 137));
        // Held first: a kill waits for the end of its process, and the others would go on meanwhile.
        cluster.daemons().iter().try_for_each(Daemon::pause)?;
        let before = journal.acknowledged.load(Ordering::Relaxed);
        cluster.daemons().iter_mut().try_for_each(Daemon::kill9)?;
        cluster.daemons().iter_mut().try_for_each(Daemon::start)?;
        cluster.daemons().iter_mut().try_for_each(Daemon::wait_ready)?;
        // An answer that was on its way may have been counted since; more than that is new.
        wait_for_writes(journal, round, before + u64::try_from(cluster.hosts().len())? + 1)?;
    }
    Ok(())
}

fn wait_for_writes(journal: &Journal, round: u64, before: u64) -> Result<()> {
    wait_for("writes after the kill", Duration::from_secs(20), || {
        let now = journal.acknowledged.load(Ordering::Relaxed);
        ensure!(now > before, "round {round}: {now} by now, {before} before");
        Ok(())
    })
}

fn still_works(cluster: &Cluster, field: &Field) -> Result<()> {
    field.all_reach_all(10)?;
    let (_, last) = cluster.attached(1, "afterwards", &field.networks[0])?;
    cluster.pinger(&field.members[0].container, &last)?.lost_nothing(0).map(drop)
}

#[test]
fn plain() -> Result<()> {
    leader_kill(Environment::Plain)
}

#[test]
fn all_at_once() -> Result<()> {
    under_writes(Environment::Plain, kill_all)
}

#[test]
fn with_the_gateway_bridges_subnet_occupied() -> Result<()> {
    leader_kill(Environment::OccupiedGateway)
}

#[test]
fn with_the_pool_routed_elsewhere() -> Result<()> {
    leader_kill(Environment::RoutedPool)
}

#[test]
fn with_two_networks_on_one_container() -> Result<()> {
    leader_kill(Environment::TwoNetworks)
}

#[test]
fn with_ipv6() -> Result<()> {
    leader_kill(Environment::Ipv6Overlay)
}

#[test]
fn over_ipv6() -> Result<()> {
    leader_kill(Environment::Ipv6Underlay)
}
