//! Making a cluster and entering it, rightly and wrongly.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use pontoon_tests::lab::{DaemonOptions, Options, run, run_with};
use serde_json::Value;

fn hosts(hosts: usize) -> Options {
    Options { hosts, ..Options::default() }
}

#[test]
fn a_daemon_starts_empty_and_waits() -> Result<()> {
    run_with(hosts(1), |cluster| {
        let status = cluster.status(0)?;
        ensure!(status["cluster_id"] == "" && status["node_id"] == 0, "{status}");
        cluster.cli(0).refuses("network ls", "NOT_IN_CLUSTER", &["pontoon init", "pontoon join"])?;
        cluster.init()?;
        cluster.cli(0).run("network create n").map(drop)
    })
}

#[test]
fn a_second_init_is_refused() -> Result<()> {
    run_with(hosts(1), |cluster| {
        let first = cluster.init()?;
        let id = first["cluster_id"].as_str().unwrap_or_default().to_owned();
        cluster.cli(0).refuses("init --advertise 192.168.140.200", "ALREADY_IN_CLUSTER", &[&id, "pontoon leave"])?;
        ensure!(cluster.status(0)?["cluster_id"] == *id, "the cluster has changed");
        Ok(())
    })
}

#[test]
fn an_address_that_is_not_of_this_host_is_refused() -> Result<()> {
    run_with(hosts(1), |cluster| {
        let error = cluster.cli(0).refused("init --advertise 192.168.140.99")?;
        ensure!(error.code == 1 && error.text().contains("192.168.140.99"), "{error}");
        for nonsense in ["here", "0.0.0.0", "127.0.0.1:x", "224.0.0.1"] {
            let error = cluster.cli(0).refused(&format!("init --advertise {nonsense}"))?;
            ensure!(error.text().contains(nonsense), "{error}");
        }
        ensure!(cluster.status(0)?["cluster_id"] == "", "a cluster was made");
        Ok(())
    })
}

#[test]
fn a_join_to_oneself_is_refused() -> Result<()> {
    run_with(hosts(1), |cluster| {
        let line = cluster.join_line(0, 0);
        cluster.cli(0).refuses(&line, "NO_MEMBER", &["192.168.140.200", "itself"])?;
        cluster.init()?;
        cluster.cli(0).refuses(&line, "ALREADY_IN_CLUSTER", &[]).map(drop)
    })
}

#[test]
fn a_join_to_nobody_is_refused() -> Result<()> {
    run_with(hosts(2), |cluster| {
        // Nothing has the first address; nothing listens at the second; the third is in no cluster.
        for peer in ["192.168.140.99", "192.168.140.1", "192.168.140.200"] {
            let start = Instant::now();
            cluster.cli(1).refuses(&format!("join {} {peer} --name h2", cluster.token()), "NO_MEMBER", &[peer])?;
            ensure!(start.elapsed() < Duration::from_secs(5), "{peer}: only after {:?}", start.elapsed());
        }
        ensure!(cluster.status(1)?["cluster_id"] == "", "it has joined something");
        Ok(())
    })
}

#[test]
fn a_member_is_found_after_one_that_does_not_answer() -> Result<()> {
    run_with(hosts(2), |cluster| {
        cluster.init()?;
        cluster.cli(1).run(&format!("join {} 192.168.140.99,192.168.140.200 --name h2", cluster.token()))?;
        cluster.wait_all_ready()
    })
}

#[test]
fn a_join_to_a_foreign_cluster_is_refused() -> Result<()> {
    run_with(hosts(2), |cluster| {
        cluster.init()?;
        let own = cluster.cli(1).run("init --advertise 192.168.140.201 --name h2")?;
        let id = own["cluster_id"].as_str().unwrap_or_default().to_owned();
        let line = cluster.join_line(1, 0);
        cluster.cli(1).refuses(&line, "ALREADY_IN_CLUSTER", &[&id, "pontoon leave"])?;
        ensure!(cluster.status(0)?["members"].as_array().map(Vec::len) == Some(1), "the other has admitted it");
        Ok(())
    })
}

#[test]
fn two_joins_at_once() -> Result<()> {
    run_with(hosts(3), |cluster| {
        cluster.init()?;
        let joins = [(cluster.cli(1), cluster.join_line(1, 0)), (cluster.cli(2), cluster.join_line(2, 0))];
        thread::scope(|scope| {
            let running = joins.map(|(cli, line)| scope.spawn(move || cli.run(&line)));
            running.into_iter().try_for_each(|join| match join.join() {
                Ok(result) => result.map(drop),
                Err(_) => Err(anyhow!("a join panicked")),
            })
        })?;
        cluster.wait_all_ready()?;
        pontoon_tests::wait_for("three voters", Duration::from_secs(20), || {
            let status = cluster.status(0)?;
            ensure!(status["quorum"] == 2, "{status}");
            Ok(())
        })?;
        cluster.wait_same_state()
    })
}

#[test]
fn the_same_daemon_twice_at_once() -> Result<()> {
    run_with(hosts(2), |cluster| {
        cluster.init()?;
        let (cli, line) = (cluster.cli(1), cluster.join_line(1, 0));
        let joined: Vec<bool> = thread::scope(|scope| {
            let running = [0, 1].map(|_| scope.spawn(|| matches!(cli.ask(&line), Ok(Ok(_)))));
            running.into_iter().map(|join| join.join().unwrap_or(false)).collect()
        });
        ensure!(joined.iter().filter(|&&done| done).count() == 1, "joined: {joined:?}");
        cluster.wait_all_ready()
    })
}

#[test]
fn a_join_goes_through_any_member() -> Result<()> {
    run_with(hosts(3), |cluster| {
        cluster.init()?;
        cluster.join(1, 0)?;
        // The second does not lead.
        cluster.join(2, 1)?;
        cluster.wait_all_ready()?;
        let names = |status: &Value| status["members"].as_array().map(Vec::len);
        ensure!(names(&cluster.status(2)?) == Some(3), "{}", cluster.status(2)?);
        Ok(())
    })
}

#[test]
fn a_name_or_address_that_is_taken_is_refused() -> Result<()> {
    run_with(hosts(2), |cluster| {
        cluster.init()?;
        let join = format!("join {} --name", cluster.token());
        cluster.cli(1).refuses(&format!("{join} h1"), "NODE_NAME_TAKEN", &["h1"])?;
        for name in ["two words", "bell\u{7}", &"x".repeat(300)] {
            let mut command = cluster.cli(1).command(&join)?;
            command.arg(name);
            let Err(error) = cluster.cli(1).finish("join", command)? else { bail!("{name:?} was taken as a name") };
            ensure!(error.reason == "INVALID_NAME", "{name:?}: {error}");
        }
        cluster.join(1, 0).map(drop)
    })
}

#[test]
fn the_voters_follow_the_nodes_and_the_eighth_observes() -> Result<()> {
    run_with(hosts(8), |cluster| {
        cluster.init()?;
        for (host, quorum, tolerates) in [(1, 1, 0), (2, 2, 1), (3, 2, 1), (4, 3, 2), (5, 3, 2), (6, 3, 2)] {
            cluster.join(host, 0)?;
            pontoon_tests::wait_for("the voters", Duration::from_secs(20), || {
                let status = cluster.status(0)?;
                let seen = (&status["quorum"], &status["tolerates"]);
                ensure!(*seen.0 == quorum && *seen.1 == tolerates, "{} nodes: {seen:?}", host + 1);
                Ok(())
            })?;
        }
        cluster.join(7, 0)?;
        cluster.wait_all_ready()?;
        let eighth = cluster.cli(7).run("node inspect h8")?["node"].clone();
        ensure!(eighth["observer"] == true && eighth["voter"] == false, "{eighth}");
        cluster.cli(7).run("network create n").map(drop)
    })
}

/// Times are the leader's, and no decision is taken by comparing two hosts' clocks.
#[test]
fn a_clock_an_hour_off() -> Result<()> {
    let library = super::faketime()?;
    run_with(hosts(3), |cluster| {
        for (host, offset) in [(1, "-1h"), (2, "+1h")] {
            let daemon = cluster.daemon(host);
            daemon.term()?;
            *daemon.options_mut() = DaemonOptions { env: super::clock(&library, offset), ..DaemonOptions::default() };
            daemon.up()?;
        }
        cluster.form()?;
        for (host, expected) in [(0, [("h2", "behind"), ("h3", "ahead")]), (2, [("h1", "behind"), ("h2", "behind")])] {
            pontoon_tests::wait_for("warnings of the wrong clocks", Duration::from_secs(20), || {
                let warnings = cluster.status(host)?["warnings"].to_string();
                let told = |(node, direction): &(&str, &str)| {
                    let text = warnings.split(&format!("clock of node {node} is ")).nth(1).unwrap_or_default();
                    text.split_whitespace().nth(2) == Some(direction)
                };
                ensure!(expected.iter().all(told), "h{}: {warnings}", host + 1);
                Ok(())
            })?;
        }
        cluster.cli(0).run("network create n")?;
        let (c1, _) = cluster.attached(1, "c1", "n")?;
        let (_, second) = cluster.attached(2, "c2", "n")?;
        cluster.pinger(&c1, &second)?.lost_nothing(0)?;
        // Whoever leads next, the state's time does not go back.
        let before = cluster.status(0)?["applied_ms"].as_u64();
        let leader = cluster.leader()?;
        cluster.daemon(leader).kill9()?;
        cluster.cli((leader + 1) % 3).run("network create later")?;
        let after = cluster.status((leader + 1) % 3)?["applied_ms"].as_u64();
        ensure!(after >= before, "the time went from {before:?} to {after:?}");
        cluster.daemon(leader).up()?;
        cluster.wait_all_ready()?;
        cluster.wait_same_state()
    })
}

#[test]
fn any_node_takes_any_request() -> Result<()> {
    run(|cluster| {
        for host in 0..3 {
            cluster.cli(host).run(&format!("network create n{host}"))?;
            for reader in 0..3 {
                // Read after write, on any node, at once.
                cluster.cli(reader).run(&format!("network inspect n{host}"))?;
            }
        }
        Ok(())
    })
}
