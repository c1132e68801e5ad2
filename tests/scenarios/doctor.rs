//! `pontoon doctor`: it is content with a cluster in good health, and names what is wrong and what to do about it.

use std::fs::File;
use std::net::UdpSocket;
use std::time::{Duration, Instant};
use std::{process, thread};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use pontoon_tests::lab::{Cluster, EngineKind, LAN_INTERFACE, Options, ROUTER, run_with};
use pontoon_tests::wait_for;
use serde_json::Value;

/// How long it may take until the daemons know of a change.
const SOON: Duration = Duration::from_secs(20);
/// How long an answer may take, whatever is wrong; the rest is for starting the command on a busy machine.
const ANSWER: Duration = Duration::from_secs(6);

/// What `pontoon doctor` found.
#[derive(Debug)]
struct Diagnosis {
    code: i32,
    findings: Vec<Value>,
}

impl Diagnosis {
    fn of(cluster: &Cluster, host: usize) -> Result<Self> {
        let start = Instant::now();
        let output = cluster.cli(host).command("doctor")?.output()?;
        let took = start.elapsed();
        ensure!(took < ANSWER, "it took {took:?}");
        ensure!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let findings = answer["findings"].as_array().context("no findings")?.clone();
        for finding in &findings {
            ensure!(!finding["evidence"].to_string().is_empty(), "{finding} says nothing");
            ensure!((finding["level"] == "ok") == (finding["cure"] == ""), "{finding}");
        }
        let code = output.status.code().context("it was killed")?;
        let failed = findings.iter().any(|finding| finding["level"] == "failure");
        ensure!(code == i32::from(failed), "exit code {code}: {findings:#?}");
        Ok(Self { code, findings })
    }

    /// There is a finding of this check and level whose subject is this and whose evidence has these words.
    fn has(&self, check: &str, level: &str, subject: &str, words: &[&str]) -> Result<()> {
        let is = |finding: &&Value| {
            let evidence = finding["evidence"].as_str().unwrap_or_default();
            finding["check"] == check
                && finding["level"] == level
                && finding["subject"] == subject
                && words.iter().all(|word| evidence.contains(word))
        };
        ensure!(
            self.findings.iter().any(|f| is(&f)),
            "no {level} of {check} about {subject:?} with {words:?}: {self:#?}"
        );
        Ok(())
    }

    /// Only these checks found something that is not well.
    fn only(&self, checks: &[&str]) -> Result<()> {
        let well = |finding: &&Value| finding["level"] == "ok" || checks.iter().any(|check| finding["check"] == *check);
        ensure!(self.findings.iter().all(|finding| well(&finding)), "something else than {checks:?}: {self:#?}");
        Ok(())
    }
}

/// Waits until a host's daemon finds this, and nothing else but what is always so in a cluster of two.
fn finds(cluster: &Cluster, host: usize, check: &str, level: &str, subject: &str, words: &[&str]) -> Result<()> {
    wait_for(&format!("{check} to be found"), SOON, || {
        let found = Diagnosis::of(cluster, host)?;
        found.has(check, level, subject, words)?;
        found.only(&["quorum", check])
    })
}

/// Waits until a host's daemon finds nothing but what is always so in a cluster of two.
fn is_well(cluster: &Cluster, host: usize) -> Result<Diagnosis> {
    wait_for("all to be well", SOON, || {
        let found = Diagnosis::of(cluster, host)?;
        found.only(&["quorum"])?;
        ensure!(found.code == 0, "{found:#?}");
        Ok(found)
    })
}

/// A cluster of two, the first with an engine, and a network with a container on each of them.
fn on_two(scenario: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let options = Options { hosts: 2, engines: vec![EngineKind::Suite("trixie")], ..Options::default() };
    run_with(options, |cluster| {
        cluster.form()?;
        cluster.cli(1).run("network create my-overlay --subnet 10.7.0.0/24")?;
        cluster.attached(1, "c2", "my-overlay")?;
        scenario(cluster)
    })
}

#[test]
fn a_cluster_in_good_health() -> Result<()> {
    on_two(|cluster| {
        let first = is_well(cluster, 0)?;
        first.has("cluster", "ok", "", &["node h1", "2 nodes"])?;
        // One of two votes: that is said, and is no failure.
        first.has("quorum", "warning", "", &["1 of 1 voter", "none may fail"])?;
        first.has("engine", "ok", "", &["Docker 26.1", "/run/docker.sock"])?;
        first.has("driver", "ok", "", &["/run/docker/plugins/pontoon.sock", "1 network of the driver pontoon"])?;
        first.has(
            "kernel",
            "ok",
            "",
            &["network namespaces, bridge, VXLAN, veth, nftables, steering of names work"],
        )?;
        first.has("ports", "ok", "7300/tcp", &["192.168.140.200:7300"])?;
        first.has("ports", "ok", "4789/udp", &["is free"])?;
        first.has("peers", "ok", "h2", &["192.168.140.201:7300", " ms"])?;
        first.has("mtu", "ok", "", &["MTU 1500", "1 network"])?;
        first.has("mtu", "ok", "h2", &["packets of 1500 bytes get through", "192.168.140.201"])?;
        first.has("reconcile", "ok", "", &["none failed"])?;
        first.has("forwarding", "ok", "", &["net.ipv4.ip_forward is 1", "left to Docker"])?;
        first.has("routes", "ok", "", &["of 2 nodes", "none overlaps"])?;
        first.has("clock", "ok", "", &["h2"])?;
        let second = is_well(cluster, 1)?;
        second.has("engine", "ok", "", &["switched off"])?;
        second.has("ports", "ok", "4789/udp", &["VXLAN devices of this kernel"])?;
        ensure!(!second.findings.iter().any(|finding| finding["check"] == "driver"), "{second:#?}");
        // What was tried out is gone, and nothing was repaired or planned because of it.
        let links = cluster.hosts()[1].netns.run("ip", &["-o", "link"])?;
        ensure!(!links.contains("vx1:") && !links.contains("br1:"), "{links}");
        let plane = &cluster.status(1)?["data_plane"];
        ensure!(plane["last_drift"] == "" && plane["failures"] == Value::Array(vec![]), "{plane}");
        Ok(())
    })
}

#[test]
fn what_is_wrong_is_named() -> Result<()> {
    on_two(|cluster| {
        is_well(cluster, 0)?;
        let host = cluster.hosts()[0].netns.clone();

        host.ip(&format!("route add 10.7.0.128/25 via {ROUTER}"))?;
        let words = ["h1", "10.7.0.128/25", LAN_INTERFACE, "my-overlay", "10.7.0.0/24"];
        finds(cluster, 0, "routes", "warning", "my-overlay", &words)?;
        // The other node knows of it from the cluster.
        finds(cluster, 1, "routes", "warning", "my-overlay", &words)?;
        host.ip("route del 10.7.0.128/25")?;
        is_well(cluster, 0)?;

        host.ip(&format!("link set {LAN_INTERFACE} mtu 1400"))?;
        finds(cluster, 0, "mtu", "failure", "my-overlay", &["my-overlay", "1450", "node h1", "1400"])?;
        finds(cluster, 1, "mtu", "failure", "my-overlay", &["node h1"])?;
        host.ip(&format!("link set {LAN_INTERFACE} mtu 1500"))?;
        is_well(cluster, 0)?;

        host.run("sysctl", &["-qw", "net.ipv4.ip_forward=0"])?;
        finds(cluster, 0, "forwarding", "warning", "", &["net.ipv4.ip_forward is 0"])?;
        host.run("sysctl", &["-qw", "net.ipv4.ip_forward=1"])?;
        host.run("nft", &["add table inet strict"])?;
        host.run("nft", &["add chain inet strict forward { type filter hook forward priority 0; policy drop; }"])?;
        finds(cluster, 0, "forwarding", "warning", "inet strict forward", &["docker_gwbridge"])?;
        host.run("nft", &["add rule inet strict forward iifname docker_gwbridge accept"])?;
        is_well(cluster, 0)?;

        // One that hangs holds nothing up.
        let engine = cluster.engine(0).pid().context("the engine does not run")?;
        kill(engine, Signal::SIGSTOP)?;
        finds(cluster, 0, "engine", "failure", "", &["no answer within 3 s"])?;
        kill(engine, Signal::SIGCONT)?;
        is_well(cluster, 0)?;
        cluster.engine_mut(0).stop()?;
        finds(cluster, 0, "engine", "failure", "", &["/run/docker.sock"])?;
        cluster.engine_mut(0).start()?;
        is_well(cluster, 0).map(drop)
    })
}

#[test]
fn a_way_that_large_packets_are_lost_on_is_named() -> Result<()> {
    for underlay6 in [false, true] {
        run_with(Options { hosts: 3, underlay6, ..Options::default() }, |cluster| {
            cluster.form()?;
            let mtu = if underlay6 { 1430 } else { 1450 };
            let made = cluster.cli(0).run("network create my-overlay")?["network"]["mtu"].clone();
            ensure!(made == mtu, "{made}");
            wait_for("all to be well", SOON, || Diagnosis::of(cluster, 0)?.only(&[]))?;
            cluster.narrow(1, 1440)?;
            let words = ["1440 bytes get through", &cluster.advertise(1), "1500 bytes", "my-overlay"];
            let found = Diagnosis::of(cluster, 0)?;
            found.has("mtu", "failure", "h2", &words)?;
            found.has("mtu", "ok", "h3", &["1500 bytes"])?;
            // From the other end, both are behind it.
            let found = Diagnosis::of(cluster, 1)?;
            found.has("mtu", "failure", "h1", &["1440 bytes", "my-overlay"])?;
            found.has("mtu", "failure", "h3", &["1440 bytes", "my-overlay"])?;
            cluster.narrow(1, 1500)?;
            wait_for("all to be well again", SOON, || Diagnosis::of(cluster, 0)?.only(&[]))?;

            // One that does not answer them is not taken for one that is behind a narrow way.
            let host = &cluster.hosts()[2].netns;
            for (name, on) in
                [("net.ipv4.icmp_echo_ignore_all", !underlay6), ("net.ipv6.icmp.echo_ignore_all", underlay6)]
            {
                host.run("sysctl", &["-qw", &format!("{name}={}", i32::from(on))])?;
            }
            let found = Diagnosis::of(cluster, 0)?;
            found.has("mtu", "warning", "h3", &["does not answer echo requests", &cluster.advertise(2)])?;
            found.has("mtu", "ok", "h2", &["1500 bytes"])
        })?;
    }
    Ok(())
}

#[test]
fn a_filter_that_nftables_does_not_show_is_named() -> Result<()> {
    run_with(Options { hosts: 1, ..Options::default() }, |cluster| {
        Diagnosis::of(cluster, 0)?.has("forwarding", "ok", "", &[])?;
        cluster.hosts()[0].netns.run("iptables-legacy", &["-P", "FORWARD", "DROP"])?;
        Diagnosis::of(cluster, 0)?.has("forwarding", "warning", "iptables-legacy", &["FORWARD", "nft does not show"])
    })
}

#[test]
fn another_program_on_the_port_of_vxlan_is_named() -> Result<()> {
    run_with(Options { hosts: 1, ..Options::default() }, |cluster| {
        // In no cluster, too.
        let before = Diagnosis::of(cluster, 0)?;
        before.has("cluster", "warning", "", &["in no cluster"])?;
        before.has("ports", "ok", "7300/tcp", &["[::]:7300"])?;
        before.only(&["cluster"])?;

        let path = cluster.hosts()[0].netns.path();
        let bind = || -> Result<UdpSocket> {
            setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
            Ok(UdpSocket::bind("0.0.0.0:4789")?)
        };
        let socket = thread::scope(|scope| scope.spawn(bind).join()).expect("it does not panic")?;
        let found = Diagnosis::of(cluster, 0)?;
        found.has("ports", "failure", "4789/udp", &["UDP port 4789", &format!("process {} ", process::id())])?;
        found.only(&["cluster", "ports"])?;
        drop(socket);
        Diagnosis::of(cluster, 0)?.has("ports", "ok", "4789/udp", &["is free"])?;

        cluster.init()?;
        cluster.cli(0).run("network create my-overlay --vni 70000")?;
        let host = &cluster.hosts()[0].netns;
        host.ip("link add theirs type vxlan id 70001 dstport 4789 local 192.168.140.200")?;
        host.ip("link set theirs up")?;
        wait_for("the node to be ready", SOON, || Diagnosis::of(cluster, 0)?.only(&[]))?;
        host.ip("link add clash type vxlan id 70000 dstport 4789 local 192.168.140.200")?;
        let found = Diagnosis::of(cluster, 0)?;
        found.has("ports", "ok", "4789/udp", &["VXLAN devices of this kernel"])?;
        found.has("ports", "failure", "clash", &["VNI 70000", "my-overlay"])
    })
}

#[test]
fn a_node_that_does_not_answer_is_named() -> Result<()> {
    on_two(|cluster| {
        is_well(cluster, 0)?;
        cluster.daemon(1).term()?;
        finds(cluster, 0, "peers", "failure", "h2", &["h2", "192.168.140.201:7300", "refused"])?;
        cluster.daemon(1).up()?;
        is_well(cluster, 0)?;
        // One that is off says nothing at all.
        cluster.cut(1)?;
        finds(cluster, 0, "peers", "failure", "h2", &["h2", "192.168.140.201:7300"])?;
        cluster.heal(1)?;
        is_well(cluster, 0).map(drop)
    })
}
