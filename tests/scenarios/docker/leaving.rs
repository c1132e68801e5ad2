//! A host that leaves the cluster: its engine has the cluster's networks no more, and the others' have.

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, EngineKind};
use pontoon_tests::wait_for;

use super::networks::problem;
use super::{CREATE, SOON, appears, disappears, on_engines, run_on};

const TWO: [EngineKind; 2] = [EngineKind::Debian, EngineKind::Suite("trixie")];

/// `app`, which the second host's engine has made, and `web`, which the command has.
fn two_networks(cluster: &Cluster) -> Result<()> {
    cluster.engine(1).docker(&format!("{CREATE} app"))?;
    cluster.cli(1).run("network create web")?;
    for host in [0, 1] {
        appears(cluster, host, "app")?;
        appears(cluster, host, "web")?;
    }
    Ok(())
}

/// Leaves, and returns what is said of it.
fn leaves(cluster: &Cluster, line: &str) -> Result<Vec<String>> {
    let answer = cluster.cli(1).run(line)?;
    let warnings = answer["warnings"].as_array().context("no warnings")?;
    Ok(warnings.iter().map(|warning| warning.as_str().unwrap_or_default().to_owned()).collect())
}

/// Names of the networks of a host's engine, besides those that every engine has.
fn networks(cluster: &Cluster, host: usize) -> Result<Vec<String>> {
    let listed = cluster.engine(host).docker("network ls --format {{.Name}}")?;
    let usual = ["bridge", "docker_gwbridge", "host", "none"];
    let mut names: Vec<String> = listed.lines().map(str::to_owned).filter(|n| !usual.contains(&n.as_str())).collect();
    names.sort();
    Ok(names)
}

/// The cluster goes on with both networks, and containers can be started on them.
fn goes_on(cluster: &Cluster) -> Result<()> {
    for network in ["app", "web"] {
        cluster.cli(0).run(&format!("network inspect {network}"))?;
    }
    ensure!(networks(cluster, 0)? == ["app", "web"], "{:?}", networks(cluster, 0)?);
    run_on(cluster, 0, "app", "goes-on", "")?;
    cluster.engine(0).docker("rm -f goes-on").map(drop)
}

#[test]
fn its_engine_has_the_clusters_networks_no_more() -> Result<()> {
    on_engines(&TWO, |cluster| {
        two_networks(cluster)?;
        cluster.engine(1).docker("network create mine")?;
        run_on(cluster, 1, "mine", "c1", "")?;
        let left = leaves(cluster, "leave")?;
        ensure!(left.is_empty(), "{left:?}");
        ensure!(networks(cluster, 1)? == ["mine"], "{:?}", networks(cluster, 1)?);
        ensure!(cluster.engine(1).exec("c1", "hostname").is_ok(), "c1 does not run any more");
        goes_on(cluster)?;
        // It comes back as somebody new, and has them again.
        cluster.join(1, 0)?;
        appears(cluster, 1, "app")?;
        appears(cluster, 1, "web")?;
        run_on(cluster, 1, "app", "c2", "")
    })
}

#[test]
fn a_network_that_containers_are_on_stays_and_is_named() -> Result<()> {
    on_engines(&TWO, |cluster| {
        two_networks(cluster)?;
        run_on(cluster, 1, "web", "c1", "")?;
        run_on(cluster, 1, "app", "c2", "")?;
        cluster.engine(1).docker("stop c1")?;
        cluster.cli(1).refuses("leave", "NODE_IN_USE", &["c1", "c2"])?;
        let left = leaves(cluster, "leave --force")?;
        ensure!(left.len() == 2, "{left:?}");
        for (network, container) in [("app", "c2"), ("web", "c1")] {
            let cure = format!("docker network disconnect --force {network} {container}");
            let named = |said: &String| said.contains(&cure) && said.contains(&format!("docker network rm {network}"));
            ensure!(left.iter().any(named), "no {cure:?} in {left:?}");
        }
        ensure!(networks(cluster, 1)? == ["app", "web"], "{:?}", networks(cluster, 1)?);
        // What it says to do works, though nobody is in a cluster here.
        for (network, container) in [("app", "c2"), ("web", "c1")] {
            cluster.engine(1).docker(&format!("network disconnect --force {network} {container}"))?;
            cluster.engine(1).docker(&format!("network rm {network}"))?;
        }
        goes_on(cluster)
    })
}

#[test]
fn an_engine_that_is_down_holds_nothing_up() -> Result<()> {
    on_engines(&TWO, |cluster| {
        two_networks(cluster)?;
        cluster.engine_mut(1).stop()?;
        let left = leaves(cluster, "leave")?;
        ensure!(left.len() == 1 && left[0].contains("docker network rm app web"), "{left:?}");
        ensure!(cluster.status(1)?["cluster_id"] == "", "it still believes to be in it");
        cluster.engine_mut(1).start()?;
        ensure!(networks(cluster, 1)? == ["app", "web"], "{:?}", networks(cluster, 1)?);
        cluster.engine(1).docker("network rm app web")?;
        disappears(cluster, 1, "app")?;
        goes_on(cluster)
    })
}

/// The second host comes into another cluster, which has a network of the same name and subnet.
#[test]
fn what_is_left_of_another_cluster_is_not_taken_for_this_ones() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.cli(0).run("network create web --subnet 10.7.0.0/24")?;
        appears(cluster, 1, "web")?;
        run_on(cluster, 1, "web", "c1", "")?;
        cluster.engine(1).docker("stop c1")?;
        leaves(cluster, "leave --force")?;
        let left = cluster.engine(1).docker("network inspect -f {{.Id}} web")?;
        let options = cluster.engine(1).docker("network inspect -f {{.Options}}{{.IPAM.Options}} web")?;
        let id = cluster.status(0)?["cluster_id"].as_str().context("no id")?.to_owned();
        ensure!(options.matches(&id).count() == 2, "{id} is not in {options}");
        // The first host founds another cluster, and makes the same.
        cluster.cli(0).run("leave --force")?;
        cluster.form()?;
        cluster.cli(0).run("network create web --subnet 10.7.0.0/24")?;
        appears(cluster, 0, "web")?;
        let cure = "docker network rm web";
        problem(cluster, 1, &["network web", &id, "c1", cure])?;
        ensure!(cluster.engine(1).docker("network inspect -f {{.Id}} web")? == left, "it was removed under c1");
        cluster.engine(1).refuses("start c1", &["pontoon"])?;
        // Its engine asks for the subnet of what it has when it starts again.
        cluster.engine_mut(1).stop()?;
        cluster.engine_mut(1).start()?;
        problem(cluster, 1, &["network web", &id, "c1", cure])?;
        cluster.engine(1).docker("rm c1")?;
        wait_for("this cluster's network to be there", SOON, || {
            let now = cluster.engine(1).docker("network inspect -f {{.Id}} web")?;
            ensure!(now != left, "it is the other cluster's");
            Ok(())
        })?;
        run_on(cluster, 1, "web", "c2", "")
    })
}
