//! Nodes that leave or are removed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::Cluster;
use pontoon_tests::wait_for;

use super::environment::{Environment, Field};

/// Nothing of Pontoon is left on a host.
pub(super) fn is_clean(cluster: &Cluster, host: usize) -> Result<()> {
    ensure!(!cluster.overlay(host).path().exists(), "the overlay namespace is left");
    let netns = &cluster.hosts()[host].netns;
    let links = netns.run("ip", &["-o", "link", "show"])?;
    let left: Vec<&str> = links.lines().filter(|line| !line.contains(": lo:") && !line.contains(": ens33@")).collect();
    ensure!(left.is_empty(), "interfaces are left: {left:?}");
    let rules = netns.run("nft", &["list", "ruleset"])?;
    ensure!(rules.trim().is_empty(), "rules are left: {rules}");
    Ok(())
}

/// Nothing of a host's container is known to the others any more.
fn is_forgotten(cluster: &Cluster, by: usize, node: &str) -> Result<()> {
    let nodes = cluster.cli(by).run("node ls")?.to_string();
    ensure!(!nodes.contains(&format!("\"name\":\"{node}\"")), "{node} is still there: {nodes}");
    let leases = cluster.cli(by).run("lease ls --state active")?.to_string();
    ensure!(!leases.contains(&format!("\"node_name\":\"{node}\"")), "it still has leases: {leases}");
    Ok(())
}

fn detach(cluster: &Cluster, field: &Field, host: usize) -> Result<()> {
    let container = &field.members[host].container;
    cluster.cli(host).run(&format!("detach --netns {}", container.netns.path().display()))?;
    ensure!(container.interface("eth0")?.is_none(), "eth0 is left");
    ensure!(container.interface("eth1")?.is_none(), "eth1 is left");
    Ok(())
}

#[test]
fn a_node_with_containers_does_not_leave() -> Result<()> {
    Environment::Plain.run(|cluster, field| {
        cluster.cli(2).refuses("leave", "NODE_IN_USE", &["c3", "my-overlay"])?;
        detach(cluster, field, 2)?;
        cluster.cli(2).run("leave")?;
        is_clean(cluster, 2)?;
        is_forgotten(cluster, 0, "h3")?;
        ensure!(cluster.status(2)?["cluster_id"] == "", "it still believes to be in it");
        // And comes back as somebody new.
        cluster.join(2, 0)?;
        cluster.wait_all_ready()?;
        let (_, last) = cluster.attached(2, "again", "my-overlay")?;
        cluster.pinger(&field.members[0].container, &last)?.lost_nothing(0).map(drop)
    })
}

#[test]
fn a_node_leaves_by_force() -> Result<()> {
    Environment::Plain.run(|cluster, field| {
        cluster.cli(2).run("leave --force")?;
        is_clean(cluster, 2)?;
        is_forgotten(cluster, 0, "h3")?;
        let container = &field.members[2].container;
        ensure!(container.interface("eth0")?.is_none(), "the container still has eth0");
        Ok(())
    })
}

#[test]
fn the_leader_leaves() -> Result<()> {
    Environment::Plain.run(|cluster, field| {
        let leader = cluster.leader()?;
        detach(cluster, field, leader)?;
        cluster.cli(leader).run("leave")?;
        is_clean(cluster, leader)?;
        let other = (leader + 1) % 3;
        wait_for("writes", Duration::from_secs(20), || cluster.cli(other).run("network create n"))?;
        is_forgotten(cluster, other, &cluster.hosts()[leader].name)
    })
}

#[test]
fn the_last_node_leaves_only_by_force() -> Result<()> {
    let options = pontoon_tests::lab::Options { hosts: 1, ..Default::default() };
    pontoon_tests::lab::run_with(options, |cluster| {
        cluster.form()?;
        cluster.cli(0).refuses("leave", "LAST_NODE", &["--force"])?;
        cluster.cli(0).run("leave --force")?;
        is_clean(cluster, 0)?;
        cluster.init().map(drop)
    })
}

#[test]
fn what_could_not_be_removed_from_a_host_is_removed_at_the_next_start() -> Result<()> {
    let options = pontoon_tests::lab::Options { hosts: 1, ..Default::default() };
    pontoon_tests::lab::run_with(options, |cluster| {
        cluster.form()?;
        cluster.cli(0).run("network create n")?;
        let (container, _) = cluster.attached(0, "c1", "n")?;
        // From now on it finds no nft, and cannot tell what there is.
        cluster.daemon(0).term()?;
        cluster.daemon(0).options_mut().env = vec![("PATH".to_owned(), "/nowhere".to_owned())];
        cluster.daemon(0).up()?;
        let answer = cluster.cli(0).run("leave --force")?;
        ensure!(answer["warnings"].to_string().contains("next time"), "{answer}");
        ensure!(container.interface("eth0")?.is_some(), "there is nothing to remove any more");
        cluster.daemon(0).term()?;
        cluster.daemon(0).options_mut().env.clear();
        cluster.daemon(0).up()?;
        // It answers once that is over.
        ensure!(cluster.status(0)?["cluster_id"] == "", "it is still in its cluster");
        is_clean(cluster, 0)?;
        ensure!(container.interface("eth0")?.is_none(), "eth0 is left");
        Ok(())
    })
}

#[test]
fn a_dead_node_is_removed_and_fenced() -> Result<()> {
    Environment::Plain.run(|cluster, field| {
        cluster.daemon(2).kill9()?;
        let error = cluster.cli(0).refuses("node rm h3", "NODE_IN_USE", &["c3", "--force"])?;
        ensure!(error.code == 1, "{error}");
        cluster.cli(0).run("node rm h3 --force")?;
        is_forgotten(cluster, 1, "h3")?;
        // Its container runs on, on a host that nobody listens to any more.
        let dead = &field.members[2];
        wait_for("the fence", Duration::from_secs(5), || {
            dead.container.netns.cannot_reach(field.members[0].attached[0].addresses[0])
        })?;
        // It must not come back as what it was.
        cluster.daemon(2).start()?;
        wait_for("the removed node to say so", Duration::from_secs(20), || {
            let status = cluster.status(2)?;
            ensure!(status["warnings"].to_string().contains("removed"), "{}", status["warnings"]);
            Ok(())
        })?;
        // Its container loses its network only by force.
        cluster.cli(2).refuses("leave", "STOPPED", &["removed"])?;
        ensure!(dead.container.interface("eth0")?.is_some(), "a refused leave has taken eth0 away");
        cluster.cli(2).run("leave --force")?;
        is_clean(cluster, 2)?;
        cluster.join(2, 0)?;
        cluster.wait_all_ready()
    })
}

#[test]
fn a_node_that_was_removed_leaves_without_force() -> Result<()> {
    pontoon_tests::lab::run(|cluster| {
        cluster.daemon(2).kill9()?;
        cluster.cli(0).run("node rm h3")?;
        cluster.daemon(2).up()?;
        cluster.cli(2).run("leave")?;
        is_clean(cluster, 2)?;
        cluster.join(2, 0)?;
        cluster.wait_all_ready()
    })
}

#[test]
fn labels() -> Result<()> {
    Environment::Plain.run(|cluster, _| {
        cluster.cli(1).run("node label h1 rack=a disk=ssd")?;
        cluster.cli(2).run("node label h1 disk-")?;
        let node = cluster.cli(0).run("node inspect h1")?;
        let labels = node["node"]["node"]["labels"].as_object().context("no labels")?;
        ensure!(labels.len() == 1 && labels["rack"] == "a", "{labels:?}");
        cluster.cli(0).refuses("node label h9 a=b", "NODE_NOT_FOUND", &["h9"])?;
        cluster.cli(0).refuses("node inspect h9", "NODE_NOT_FOUND", &["h9"])?;
        cluster.cli(0).refuses("node rm h9", "NODE_NOT_FOUND", &["h9"]).map(drop)
    })
}
