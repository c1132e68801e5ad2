//! Too many nodes are gone: writes stop and say why, reads and traffic go on.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use pontoon_tests::lab::{Cluster, run};
use pontoon_tests::wait_for;

use super::environment::Environment;

/// Within this, a request without quorum must say who is missing.
const ANSWER: Duration = Duration::from_secs(5);

/// Every kind of write is answered in time, naming the missing: refused, or unknown where it may be on its way. Tells
/// whether the network `late` was refused for certain.
fn writes_are_refused(cluster: &Cluster, host: usize, missing: &[&str]) -> Result<bool> {
    let mut certain = true;
    let container = cluster.container(host, "late")?;
    let attach = container.attach_line("my-overlay", "");
    let writes = ["network create late", "network rm my-overlay", "node label h1 a=b", "node rm h2 --force", "leave"];
    for line in writes.into_iter().chain([attach.as_str(), "detach --network my-overlay --name c1"]) {
        let start = Instant::now();
        let error = cluster.cli(host).refused(line)?;
        let took = start.elapsed();
        ensure!(took < ANSWER, "`{line}` took {took:?}: {error}");
        ensure!(["NO_QUORUM", "UNKNOWN_OUTCOME"].contains(&error.reason.as_str()), "`{line}`: {error}");
        certain &= line != "network create late" || error.reason == "NO_QUORUM";
        for name in missing {
            ensure!(error.text().contains(name), "`{line}` does not say that {name} is missing: {error}");
        }
    }
    ensure!(container.interface("eth0")?.is_none(), "a refused attach has left an interface");
    Ok(certain)
}

#[test]
fn without_quorum_writes_are_refused_and_reads_are_old() -> Result<()> {
    Environment::Plain.run(|cluster, field| {
        let ways = field.pairs().map(|(from, to)| cluster.pinger(&from.container, &to.attached[0]));
        let ways = ways.collect::<Result<Vec<_>>>()?;
        cluster.daemon(1).kill9()?;
        cluster.daemon(2).kill9()?;
        // A leader that has only just lost the others writes to its own log before it notices: unknown, not refused.
        wait_for("the loss to be noticed", Duration::from_secs(20), || {
            let error = cluster.cli(0).refused("network create unsettled")?;
            ensure!(error.reason == "NO_QUORUM", "{error}");
            Ok(())
        })?;
        let certain = writes_are_refused(cluster, 0, &["h2", "h3"])?;
        for line in ["network ls", "network inspect my-overlay", "node ls", "lease ls", "lease inspect 10.0.0.2"] {
            let start = Instant::now();
            let answer = cluster.cli(0).run(line)?;
            ensure!(start.elapsed() < ANSWER, "`{line}` took {:?}", start.elapsed());
            let freshness = &answer["freshness"];
            ensure!(freshness["linearizable"] == false && freshness["reason"] != "", "`{line}`: {freshness}");
            ensure!(freshness["applied_index"].as_u64() > Some(0), "`{line}`: {freshness}");
        }
        cluster.status(0)?;
        for way in ways {
            way.lost_nothing(50)?;
        }
        cluster.daemon(1).up()?;
        wait_for("writes", Duration::from_secs(20), || cluster.cli(0).run("network create again"))?;
        let answer = cluster.cli(0).run("network ls")?;
        ensure!(answer["freshness"]["linearizable"] == true, "{answer}");
        let names = answer["networks"].to_string();
        ensure!(!certain || !names.contains("\"late\""), "a write that was refused was applied later: {names}");
        Ok(())
    })
}

/// A leader that is cut off does not acknowledge; the others go on; it comes back and agrees.
#[test]
fn a_leader_that_is_cut_off() -> Result<()> {
    Environment::Plain.run(|cluster, _| {
        let leader = cluster.leader()?;
        let name = cluster.hosts()[leader].name.clone();
        cluster.cut(leader)?;
        let others: Vec<usize> = (0..3).filter(|&host| host != leader).collect();
        let missing: Vec<String> = others.iter().map(|&host| cluster.hosts()[host].name.clone()).collect();
        wait_for("the others' writes", Duration::from_secs(20), || {
            cluster.cli(others[0]).run("network create meanwhile")
        })?;
        let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
        let start = Instant::now();
        let error = cluster.cli(leader).refused("network create lonely")?;
        ensure!(start.elapsed() < ANSWER, "{name} took {:?}: {error}", start.elapsed());
        ensure!(missing.iter().all(|name| error.text().contains(name)), "{name} does not name {missing:?}: {error}");
        cluster.heal(leader)?;
        cluster.wait_all_ready()?;
        cluster.wait_same_state()?;
        cluster.cli(leader).run("network inspect meanwhile").map(drop)
    })
}

#[test]
fn status_says_how_many_losses_the_cluster_stands() -> Result<()> {
    Environment::Plain.run(|cluster, _| {
        let status = cluster.status(0)?;
        ensure!(status["quorum"] == 2 && status["tolerates"] == 1, "{status}");
        cluster.daemon(2).kill9()?;
        wait_for("the loss to be seen", Duration::from_secs(20), || {
            let status = cluster.status(cluster.leader()?)?;
            ensure!(status["tolerates"] == 0, "{status}");
            let members = status["members"].to_string();
            ensure!(members.contains("\"down\""), "{members}");
            Ok(())
        })
    })
}

/// How often an attach is tried until one was cut off between its two steps, which are milliseconds apart.
const TRIES: usize = 8;

/// Quorum is lost after the cluster has given an attach its lease, and before it is told that the interface is there.
#[test]
fn quorum_is_lost_midway() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create n")?;
        for number in 0..TRIES {
            if attach_is_cut_off(cluster, &format!("c{number}"))? {
                return Ok(());
            }
        }
        bail!("none of {TRIES} attaches was cut off midway")
    })
}

/// Stops the others once the interface of an attach appears. Tells whether that was before it was done.
fn attach_is_cut_off(cluster: &mut Cluster, name: &str) -> Result<bool> {
    let container = cluster.container(0, name)?;
    let mut inside = container.netns.command("sleep").arg("60").spawn()?;
    let links = format!("/proc/{}/net/dev", inside.id());
    let (cli, line) = (cluster.cli(0), container.attach_line("n", "--ifname late0"));
    let asking = thread::spawn(move || cli.ask(&line));
    let start = Instant::now();
    // No pause between two looks: it would be longer than what is looked for.
    while !fs::read_to_string(&links)?.contains("late0") {
        ensure!(start.elapsed() < ANSWER, "no interface after {:?}", start.elapsed());
        thread::yield_now();
    }
    cluster.daemon(1).pause()?;
    cluster.daemon(2).pause()?;
    let lost = Instant::now();
    let answer = asking.join().map_err(|_| anyhow!("asking panicked"))??;
    let took = lost.elapsed();
    let left = [container.interface("late0")?, container.interface("eth1")?];
    inside.kill()?;
    inside.wait()?;
    cluster.daemon(1).resume()?;
    cluster.daemon(2).resume()?;
    let Err(error) = answer else {
        cluster.wait_all_ready()?;
        return Ok(false);
    };
    eprintln!("{name} was answered {took:?} after quorum was lost: {error}");
    ensure!(took < ANSWER, "it took {took:?}: {error}");
    ensure!(["NO_QUORUM", "UNKNOWN_OUTCOME"].contains(&error.reason.as_str()), "{error}");
    ensure!(left == [None, None], "interfaces are left: {left:?}");
    wait_for("the lease to be released", Duration::from_secs(20), || {
        for state in ["pending", "active"] {
            let answer = cluster.cli(0).run(&format!("lease ls --state {state}"))?;
            ensure!(answer["freshness"]["linearizable"] == true, "{answer}");
            let leases = answer["leases"].as_array().context("no leases")?;
            ensure!(leases.iter().all(|view| view["lease"]["name"] != name), "{answer}");
        }
        Ok(())
    })?;
    cluster.wait_all_ready()?;
    ensure!(container.interface("late0")?.is_none(), "the interface is back");
    Ok(true)
}
