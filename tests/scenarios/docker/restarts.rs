//! Engines and daemons that end and come back: containers keep their network, or have it again.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, Docker, DockerError, EngineKind, IMAGE, OUTSIDE, Pinger, Plugin};
use pontoon_tests::wait_for;
use serde_json::json;

use super::{CREATE, SOON, appears, has, interface, loses_nothing, on_engines, run_on};

pub(super) const TWO: [EngineKind; 2] = [EngineKind::Debian, EngineKind::Suite("trixie")];

/// `c1` on the first host, `c2` on the second; gives their addresses.
pub(super) fn two_containers(cluster: &Cluster, more: &str) -> Result<[IpAddr; 2]> {
    cluster.engine(0).docker(&format!("{CREATE} app"))?;
    appears(cluster, 1, "app")?;
    run_on(cluster, 0, "app", "c1", more)?;
    run_on(cluster, 1, "app", "c2", more)?;
    placed(cluster, 2)?;
    Ok([address(cluster, 0, "c1")?, address(cluster, 1, "c2")?])
}

/// Waits until this many containers are on the network, as the cluster knows them.
pub(super) fn placed(cluster: &Cluster, count: usize) -> Result<()> {
    wait_for(&format!("{count} containers to be known"), SOON * 2, || {
        let answer = cluster.cli(0).run("network inspect app")?;
        let endpoints = answer["endpoints"].as_array().cloned().unwrap_or_default();
        let known = endpoints.iter().filter(|view| view["endpoint"]["sandbox"]["key"] != "");
        ensure!(known.count() == count && endpoints.len() == count, "{answer}");
        Ok(())
    })
}

pub(super) fn address(cluster: &Cluster, host: usize, container: &str) -> Result<IpAddr> {
    let shown = interface(cluster, host, container, "eth0")?;
    let address = shown.split("inet ").nth(1).and_then(|rest| rest.split('/').next());
    Ok(address.with_context(|| format!("no address in {shown}"))?.parse()?)
}

/// Pings from `c1` to the other one's address, until it is stopped.
pub(super) fn pinger(cluster: &Cluster, to: IpAddr) -> Result<Pinger> {
    Pinger::start(&cluster.engine(0).netns("c1")?, to, cluster.file("ping"))
}

/// A restarted daemon has found everything in order, and works with its engine again.
fn is_settled(cluster: &Cluster, host: usize) -> Result<()> {
    wait_for("the daemon to be settled", SOON, || {
        let status = cluster.status(host)?;
        ensure!(status["data_plane"]["first_pass_done"] == true, "{status}");
        let steps = &status["data_plane"]["first_pass_steps"];
        ensure!(*steps == 0, "the first pass took {steps} steps");
        Ok(())
    })
}

#[test]
fn a_daemon_that_is_killed() -> Result<()> {
    on_engines(&TWO, |cluster| {
        let [_, second] = two_containers(cluster, "")?;
        let pinger = pinger(cluster, second)?;
        for host in [0, 1] {
            cluster.daemon(host).kill9()?;
            cluster.daemon(host).up()?;
            is_settled(cluster, host)?;
        }
        pinger.lost_nothing(20)?;
        cluster.wait_all_ready()?;
        run_on(cluster, 0, "app", "c3", "")?;
        loses_nothing(cluster, 0, "c3", second)?;
        placed(cluster, 3)
    })
}

/// A host's daemon is killed when its engine has asked it for something and is not answered. Gives what the user was told.
fn killed_while_asked(cluster: &mut Cluster, host: usize, line: &str) -> Result<DockerError> {
    let engine = Docker::clone(cluster.engine(host));
    cluster.daemon(host).pause()?;
    thread::scope(|scope| {
        let asking = scope.spawn(|| engine.ask(line));
        let asked = wait_for("the engine to ask", SOON, || {
            let sockets = cluster.hosts()[host].netns.run("ss", &["-xH", "state", "established"])?;
            let mut ours = sockets.lines().filter(|line| line.contains("/plugins/pontoon.sock"));
            let unread = |line: &str| line.split_whitespace().nth(1).is_some_and(|bytes| bytes != "0");
            ensure!(ours.any(unread), "{sockets}");
            Ok(())
        });
        cluster.daemon(host).kill9()?;
        cluster.daemon(host).up()?;
        let told = asking.join().ok().context("it panicked")??;
        asked?;
        told.err().with_context(|| format!("`docker {line}` did not fail"))
    })
}

/// An engine that is not answered asks again, and leaves out what it asks for: that must not be taken for another wish.
#[test]
fn a_daemon_that_is_killed_while_its_engine_asks() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.engine(0).docker(&format!("{CREATE} app"))?;
        appears(cluster, 1, "app")?;
        let container = |host: usize| format!("run -d --net app --name c{host} {IMAGE}");
        // Engines from 26.1 on first ask what needs no words.
        let own = format!("{CREATE} --subnet 10.77.0.0/24 own");
        for (host, line) in [(0, &own), (0, &container(0)), (1, &container(1))] {
            let told = killed_while_asked(cluster, host, line)?;
            ensure!(told.stderr.contains("pontoond ended before it had answered; run the command again"), "{told}");
            cluster.wait_all_ready()?;
        }
        for host in [0, 1] {
            cluster.engine(host).docker(&format!("rm -f c{host}"))?;
            cluster.engine(host).docker(&container(host))?;
        }
        placed(cluster, 2)?;
        let networks = cluster.cli(0).run("network ls")?;
        ensure!(networks["networks"].as_array().is_some_and(|networks| networks.len() == 1), "{networks}");
        Ok(())
    })
}

#[test]
fn an_engine_that_leaves_its_containers_alone() -> Result<()> {
    on_engines(&TWO, |cluster| {
        for host in [0, 1] {
            cluster.engine_mut(host).stop()?;
            cluster.engine_mut(host).args_mut().push("--live-restore".into());
            cluster.engine_mut(host).start()?;
        }
        let [first, second] = two_containers(cluster, "")?;
        let pinger = pinger(cluster, second)?;
        for host in [0, 1] {
            cluster.engine_mut(host).kill9()?;
            cluster.engine_mut(host).start()?;
        }
        pinger.lost_nothing(20)?;
        ensure!([address(cluster, 0, "c1")?, address(cluster, 1, "c2")?] == [first, second]);
        // Docker's resolver listens elsewhere now.
        for (host, container, other) in [(0, "c1", "c2"), (1, "c2", "c1")] {
            wait_for("names of the other host", SOON, || {
                cluster.engine(host).exec(container, &format!("ping -c 1 -W 1 {other}"))
            })?;
        }
        // Nobody gets an address that the engine has asked for again.
        run_on(cluster, 0, "app", "c3", "")?;
        let third = address(cluster, 0, "c3")?;
        ensure!(![first, second].contains(&third), "{third} is given twice");
        loses_nothing(cluster, 0, "c3", second)?;
        cluster.engine(0).docker("rm -f c1")?;
        placed(cluster, 2)
    })
}

#[test]
fn an_engine_that_starts_its_containers_again() -> Result<()> {
    on_engines(&TWO, |cluster| {
        let [first, second] = two_containers(cluster, "--restart always")?;
        for (host, name, was) in [(0, "c1", first), (1, "c2", second)] {
            for crash in [false, true] {
                if crash {
                    cluster.engine_mut(host).kill9()?;
                } else {
                    cluster.engine_mut(host).stop()?;
                }
                cluster.engine_mut(host).start()?;
                wait_for(&format!("{name} to be up"), SOON, || interface(cluster, host, name, "eth0"))?;
                let now = address(cluster, host, name)?;
                ensure!(now == was, "{name} had {was} and has {now}, crash: {crash}");
                placed(cluster, 2)?;
            }
        }
        loses_nothing(cluster, 0, "c1", second)?;
        loses_nothing(cluster, 1, "c2", first)?;
        loses_nothing(cluster, 1, "c2", OUTSIDE.into())
    })
}

#[test]
fn both_that_are_killed() -> Result<()> {
    on_engines(&TWO, |cluster| {
        let [first, second] = two_containers(cluster, "--restart always")?;
        cluster.daemon(1).kill9()?;
        cluster.engine_mut(1).kill9()?;
        cluster.daemon(1).up()?;
        cluster.engine_mut(1).start()?;
        wait_for("c2 to be up", SOON, || interface(cluster, 1, "c2", "eth0"))?;
        ensure!(address(cluster, 1, "c2")? == second);
        placed(cluster, 2)?;
        loses_nothing(cluster, 1, "c2", first)?;
        loses_nothing(cluster, 0, "c1", second)
    })
}

/// The engine's containers are gone and it could not say so: what they had is found and given back.
#[test]
fn an_engine_that_has_lost_its_containers() -> Result<()> {
    on_engines(&[EngineKind::Debian], |cluster| {
        cluster.engine(0).docker(&format!("{CREATE} app"))?;
        appears(cluster, 0, "app")?;
        run_on(cluster, 0, "app", "c1", "")?;
        placed(cluster, 1)?;
        cluster.engine_mut(0).kill9()?;
        cluster.daemon(0).kill9()?;
        // Without the daemon, the engine cannot tell it that the endpoint goes with its container.
        cluster.engine_mut(0).start()?;
        cluster.engine(0).docker("rm -f c1")?;
        cluster.daemon(0).up()?;
        wait_for("the lease to be given back and counted", SOON * 6, || {
            let answer = cluster.cli(0).run("network inspect app")?;
            ensure!(answer["endpoints"].as_array().is_none_or(Vec::is_empty), "{answer}");
            let reclaimed = &cluster.status(0)?["data_plane"]["reclaimed"];
            ensure!(*reclaimed == 1, "{reclaimed} were counted");
            Ok(())
        })
    })
}

/// An engine that asks for an address and never makes the endpoint, as one does that dies in between.
#[test]
fn an_address_that_no_endpoint_comes_for_is_given_back() -> Result<()> {
    on_engines(&[EngineKind::Suite("trixie")], |cluster| {
        cluster.engine(0).docker(&format!("{CREATE} --subnet 10.7.0.0/24 app"))?;
        run_on(cluster, 0, "app", "c1", "")?;
        placed(cluster, 1)?;
        let plugin = Plugin::new(&cluster.engine(0).room().path("/run/docker/plugins/pontoon.sock"));
        let asked = Instant::now();
        let request = json!({ "PoolID": "10.7.0.0/24", "Address": "10.7.0.77", "Options": {} });
        let answer = plugin.ask("IpamDriver.RequestAddress", &request)?;
        ensure!(answer["Address"] == "10.7.0.77/24", "{answer}");
        ensure!(is_held(cluster)? && reclaimed(cluster)? == 0, "{} were given back", reclaimed(cluster)?);
        wait_for("the address to be given back", SOON * 4, || {
            ensure!(!is_held(cluster)?, "it is held");
            Ok(())
        })?;
        let took = asked.elapsed();
        println!("the address was held for {took:?}");
        // A container that is slow to start has this long.
        ensure!(took >= Duration::from_secs(20), "it was held for {took:?} only");
        wait_for("it to be counted", SOON, || {
            ensure!(reclaimed(cluster)? == 1, "{}", reclaimed(cluster)?);
            Ok(())
        })?;
        // What is in use is nobody's to give back.
        placed(cluster, 1)?;
        cluster.engine(0).exec("c1", "ip addr show dev eth0")?;
        run_on(cluster, 0, "app", "c2", "--ip 10.7.0.77")?;
        has(cluster, 0, "c2", "eth0", &["inet 10.7.0.77/24"])
    })
}

/// Whether 10.7.0.77 is held for somebody.
fn is_held(cluster: &Cluster) -> Result<bool> {
    Ok(cluster.cli(0).run("lease ls --state pending")?.to_string().contains("10.7.0.77"))
}

/// How often something of this node was ended that nobody used.
fn reclaimed(cluster: &Cluster) -> Result<u64> {
    cluster.status(0)?["data_plane"]["reclaimed"].as_u64().context("no count")
}
