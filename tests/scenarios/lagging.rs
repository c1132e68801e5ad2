//! A member whose copy is older than the state of the cluster finds what has a name now.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, run};
use pontoon_tests::wait_for;
use serde_json::Value;

/// How often: whether the request or the news comes first is chance.
const ROUNDS: usize = 5;

/// Sends a request to a member that does not run, and lets it go on once the request waits at its socket.
fn ask_late(cluster: &mut Cluster, host: usize, line: &str) -> Result<Value> {
    let mut command = cluster.cli(host).command(line)?;
    let asked = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot run pontoon")?;
    let waits = wait_for("the request to be sent", Duration::from_secs(20), || is_connected(&asked));
    cluster.daemon(host).resume()?;
    let output = asked.wait_with_output()?;
    waits?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`pontoon {line}`: {said}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Whether a process has a connected socket.
fn is_connected(process: &Child) -> Result<()> {
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.id()))?;
    let sockets = open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    let sockets: Vec<_> = sockets.filter(|target| target.to_string_lossy().starts_with("socket:")).collect();
    ensure!(!sockets.is_empty(), "it has no socket");
    Ok(())
}

/// Makes a network known to a member, stops the member, and puts another network of that name into its place.
/// Returns the latter's id.
fn replaced_behind_its_back(cluster: &mut Cluster, host: usize, by: usize) -> Result<Value> {
    cluster.cli(by).run("network create web")?;
    cluster.cli(host).run("network inspect web")?;
    cluster.daemon(host).pause()?;
    cluster.cli(by).run("network rm web")?;
    Ok(cluster.cli(by).run("network create web")?["network"]["id"].clone())
}

#[test]
fn a_member_that_lags_writes_to_what_has_the_name_now() -> Result<()> {
    run(|cluster| {
        let leader = cluster.leader()?;
        let host = (leader + 1) % 3;
        let container = cluster.container(host, "c1")?;
        for _ in 0..ROUNDS {
            let new = replaced_behind_its_back(cluster, host, leader)?;
            let removed = ask_late(cluster, host, "network rm web")?;
            ensure!(removed["network"]["id"] == new, "{new} has the name: {removed}");
            cluster.cli(leader).refuses("network inspect web", "NETWORK_NOT_FOUND", &[])?;

            let new = replaced_behind_its_back(cluster, host, leader)?;
            let attached = ask_late(cluster, host, &container.attach_line("web", ""))?;
            ensure!(attached["endpoint"]["endpoint"]["network"] == new, "{new} has the name: {attached}");
            cluster.cli(host).run("detach --network web --name c1")?;
            cluster.cli(leader).run("network rm web")?;

            // One that is not known there at all yet.
            cluster.daemon(host).pause()?;
            let new = cluster.cli(leader).run("network create web")?["network"]["id"].clone();
            let removed = ask_late(cluster, host, "network rm web")?;
            ensure!(removed["network"]["id"] == new, "{new} is new: {removed}");

            // A number is an id only if nothing has it for a name.
            let old = cluster.cli(leader).run("network create old")?["network"]["id"].clone();
            cluster.cli(host).run("network inspect old")?;
            cluster.daemon(host).pause()?;
            let new = cluster.cli(leader).run(&format!("network create {old}"))?["network"]["id"].clone();
            let removed = ask_late(cluster, host, &format!("network rm {old}"))?;
            ensure!(removed["network"]["id"] == new, "{new} has the name {old}: {removed}");
            cluster.cli(leader).run("network rm old")?;
        }
        cluster.wait_same_state()
    })
}
