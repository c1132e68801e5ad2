//! Docker's plugin socket, when a supervisor keeps it open and passes it to the daemon.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, EngineKind, EnginesStart, IMAGE, Options, run_with};
use pontoon_tests::wait_for;
use serde_json::{Value, json};

use crate::docker::appears;

/// Where Docker looks for the driver, on a host.
const PLUGIN: &str = "/run/docker/plugins/pontoon.sock";
/// How long a daemon may take to start and answer.
const SOON: Duration = Duration::from_secs(10);

/// Runs a scenario on a host whose daemon has been in a cluster, and is started by the first connection from now on.
fn activated(listen: &str, name: &str, scenario: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let engines = vec![EngineKind::Debian];
    let options = Options { hosts: 1, engines, engines_start: EnginesStart::ByHand, ..Options::default() };
    run_with(options, |cluster| {
        cluster.form()?;
        cluster.cli(0).run("network create my-overlay --subnet 10.9.0.0/24")?;
        let (listen, name) = (format!("--listen={listen}"), format!("--fdname={name}"));
        cluster.daemon(0).start_through(&["systemd-socket-activate", &listen, &name]);
        scenario(cluster)
    })
}

/// Starts what listens for the daemon, which does not run yet.
fn listen(cluster: &mut Cluster) -> Result<()> {
    cluster.daemon(0).term()?;
    let log = cluster.daemon(0).log();
    let before = fs::read_to_string(&log)?.len();
    cluster.daemon(0).start()?;
    wait_for("the supervisor to listen", SOON, || {
        let log = fs::read_to_string(&log)?;
        ensure!(log[before..].contains("Listening on"), "{log}");
        Ok(())
    })
}

/// A path of the host, as the test sees it.
fn path(cluster: &Cluster, inside: &str) -> PathBuf {
    cluster.engine(0).room().path(inside)
}

/// Asks as an engine does.
fn ask(cluster: &Cluster, method: &str, request: &Value) -> Result<Value> {
    let mut stream = UnixStream::connect(path(cluster, PLUGIN)).context("nobody listens")?;
    stream.set_read_timeout(Some(SOON))?;
    let body = request.to_string();
    write!(stream, "POST /{method} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains(" 200 OK"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok(serde_json::from_str(body)?)
}

#[test]
fn a_request_from_before_the_start_is_answered() -> Result<()> {
    activated(PLUGIN, "docker-plugin", |cluster| {
        listen(cluster)?;
        let inode = fs::metadata(path(cluster, PLUGIN))?.ino();
        cluster.cli(0).refused("status").context("the daemon runs already")?;
        // It is in the cluster, and must not say that it is not.
        let held = json!({ "PoolID": "10.9.0.0/24", "Address": "10.9.0.7" });
        let answer = ask(cluster, "IpamDriver.RequestAddress", &held)?;
        ensure!(answer["Address"] == "10.9.0.7/24", "{answer}");
        ensure!(fs::metadata(path(cluster, PLUGIN))?.ino() == inode, "the daemon has made a socket of its own");
        cluster.daemon(0).wait_ready()?;
        // What is given back at once, while the daemon does not know yet that it is a member, must not be forgotten.
        listen(cluster)?;
        let answer = ask(cluster, "IpamDriver.ReleaseAddress", &held)?;
        ensure!(answer == json!({}), "{answer}");
        cluster.daemon(0).wait_ready()?;
        cluster.cli(0).refuses("lease inspect 10.9.0.7", "LEASE_NOT_FOUND", &[]).map(drop)
    })
}

#[test]
fn a_socket_of_another_name_is_left_alone() -> Result<()> {
    activated("/run/other.sock", "other", |cluster| {
        listen(cluster)?;
        UnixStream::connect(path(cluster, "/run/other.sock"))?;
        cluster.daemon(0).wait_ready()?;
        let answer = ask(cluster, "Plugin.Activate", &json!({}))?;
        ensure!(answer["Implements"] == json!(["NetworkDriver", "IpamDriver"]), "{answer}");
        Ok(())
    })
}

/// As at a boot. Without the socket, the engine waits 15 s for each of its networks.
#[test]
fn an_engine_that_starts_first_has_its_networks_at_once() -> Result<()> {
    activated(PLUGIN, "docker-plugin", |cluster| {
        cluster.engine_mut(0).start()?;
        appears(cluster, 0, "my-overlay")?;
        cluster.engine(0).docker(&format!("run -d --restart always --net my-overlay --name c1 {IMAGE}"))?;
        wait_for("c1 to be listed", SOON, || {
            let answer = cluster.cli(0).run("network inspect my-overlay")?.to_string();
            ensure!(answer.contains("\"c1\""), "{answer}");
            Ok(())
        })?;
        cluster.engine_mut(0).stop()?;
        listen(cluster)?;
        let start = Instant::now();
        cluster.engine_mut(0).start()?;
        let took = start.elapsed();
        println!("the engine was up after {took:?}");
        ensure!(took < SOON, "the engine was up only after {took:?}");
        wait_for("c1 to run", SOON, || {
            let address = cluster.engine(0).exec("c1", "ip -o -4 addr show dev eth0")?;
            ensure!(address.contains("10.9.0.2/24"), "{address}");
            Ok(())
        })
    })
}
