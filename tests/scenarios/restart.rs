//! A daemon dies and comes back: the containers' traffic does not notice, and there is nothing to mend.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, Pinger};
use pontoon_tests::wait_for;
use serde_json::Value;

use super::environment::{Environment, Field};

fn restart(environment: Environment) -> Result<()> {
    environment.run(|cluster, field| {
        let ways = pingers(cluster, field)?;
        for host in 0..cluster.hosts().len() {
            cluster.daemon(host).kill9()?;
            cluster.daemon(host).up()?;
            nothing_to_mend(cluster, host)?;
            let status = cluster.daemon(host).term()?;
            ensure!(status.success(), "h{}: SIGTERM ended it with {status}", host + 1);
            cluster.daemon(host).up()?;
            nothing_to_mend(cluster, host)?;
        }
        lost_nothing(ways)?;
        cluster.wait_all_ready()?;
        cluster.wait_same_state()
    })
}

/// All daemons die at once and come back.
fn blackout(environment: Environment) -> Result<()> {
    environment.run(|cluster, field| {
        let ways = pingers(cluster, field)?;
        let before = cluster.cli(0).run(&format!("network inspect {}", field.networks[0]))?;
        for daemon in cluster.daemons() {
            daemon.kill9()?;
        }
        field.all_reach_all(20)?;
        for daemon in cluster.daemons() {
            daemon.start()?;
        }
        for daemon in cluster.daemons() {
            daemon.wait_ready()?;
        }
        cluster.leader()?;
        for host in 0..cluster.hosts().len() {
            nothing_to_mend(cluster, host)?;
        }
        lost_nothing(ways)?;
        let after = cluster.cli(0).run(&format!("network inspect {}", field.networks[0]))?;
        ensure!(before["endpoints"] == after["endpoints"], "before: {before}\nafter: {after}");
        Ok(())
    })
}

fn pingers(cluster: &Cluster, field: &Field) -> Result<Vec<Pinger>> {
    field.pairs().map(|(from, to)| cluster.pinger(&from.container, &to.attached[0])).collect()
}

fn lost_nothing(ways: Vec<Pinger>) -> Result<()> {
    ways.into_iter().try_for_each(|way| way.lost_nothing(50).map(drop))
}

/// The first pass of the loop is over, and planned nothing.
fn nothing_to_mend(cluster: &Cluster, host: usize) -> Result<()> {
    let data_plane: Value = wait_for("the first pass", Duration::from_secs(20), || {
        let status = cluster.status(host)?;
        let data_plane = status["data_plane"].clone();
        ensure!(data_plane["first_pass_done"] == true, "{data_plane}");
        Ok(data_plane)
    })?;
    let steps = data_plane["first_pass_steps"].as_u64().context("no first_pass_steps")?;
    ensure!(steps == 0, "h{}: the first pass planned {steps} steps: {data_plane}", host + 1);
    Ok(())
}

#[test]
fn plain() -> Result<()> {
    restart(Environment::Plain)
}

#[test]
fn with_the_gateway_bridges_subnet_occupied() -> Result<()> {
    restart(Environment::OccupiedGateway)
}

#[test]
fn with_the_pool_routed_elsewhere() -> Result<()> {
    restart(Environment::RoutedPool)
}

#[test]
fn with_two_networks_on_one_container() -> Result<()> {
    restart(Environment::TwoNetworks)
}

#[test]
fn with_ipv6() -> Result<()> {
    restart(Environment::Ipv6Overlay)
}

#[test]
fn over_ipv6() -> Result<()> {
    restart(Environment::Ipv6Underlay)
}

#[test]
fn all_killed_at_once() -> Result<()> {
    blackout(Environment::Plain)
}

#[test]
fn all_killed_at_once_with_ipv6() -> Result<()> {
    blackout(Environment::Ipv6Overlay)
}

#[test]
fn all_killed_at_once_with_two_networks_on_one_container() -> Result<()> {
    blackout(Environment::TwoNetworks)
}
