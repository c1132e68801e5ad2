//! Certificates over months and years, which pass in the daemons alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, DaemonOptions, run};
use pontoon_tests::wait_for;

const SOON: Duration = Duration::from_secs(20);
const DAY_MS: u64 = 24 * 3_600_000;

/// Starts daemons anew whose clocks go on from a later time.
fn later(cluster: &mut Cluster, hosts: &[usize], days: u64) -> Result<()> {
    let library = super::faketime()?;
    for &host in hosts {
        let daemon = cluster.daemon(host);
        if daemon.pid().is_some() {
            daemon.term()?;
        }
        let env = super::clock(&library, &format!("+{days}d"));
        *daemon.options_mut() = DaemonOptions { env, ..DaemonOptions::default() };
    }
    hosts.iter().try_for_each(|&host| cluster.daemon(host).start())?;
    hosts.iter().try_for_each(|&host| cluster.daemon(host).wait_ready())
}

fn until_ms(cluster: &Cluster, host: usize) -> Result<u64> {
    cluster.status(host)?["certificate_until_ms"].as_u64().context("no certificate")
}

#[test]
fn a_certificate_is_renewed_before_it_ends() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create n")?;
        let (c1, _) = cluster.attached(0, "c1", "n")?;
        let (_, second) = cluster.attached(1, "c2", "n")?;
        let pings = cluster.pinger(&c1, &second)?;
        let first = until_ms(cluster, 0)?;
        // Four fifths of 91 days are over.
        later(cluster, &[0, 1, 2], 75)?;
        wait_for("new certificates", SOON, || {
            for host in 0..3 {
                let until = until_ms(cluster, host)?;
                ensure!(until > first + 70 * DAY_MS, "h{}: {until} after {first}", host + 1);
            }
            Ok(())
        })?;
        cluster.wait_all_ready()?;
        cluster.cli(1).run("network create later")?;
        ensure!(cluster.status(0)?["warnings"].to_string().find("certificate").is_none(), "it warns");
        pings.lost_nothing(0)?;
        cluster.wait_same_state()
    })
}

/// moby#24132, moby#42660: a daemon that had been off for longer did not start.
#[test]
fn nodes_that_were_off_for_a_year_come_back() -> Result<()> {
    run(|cluster| {
        // An observer has no authority's key, and asks a member.
        cluster.cli(0).run("node demote h3")?;
        wait_for("h3 to observe", SOON, || {
            let members = cluster.status(0)?["members"].clone();
            let observes = members.as_array().context("no members")?.iter().any(|m| m["observer"] == true);
            ensure!(observes, "{members}");
            Ok(())
        })?;
        let first = until_ms(cluster, 2)?;
        cluster.daemon(2).term()?;
        later(cluster, &[0, 1], 380)?;
        wait_for("a leader", SOON, || cluster.cli(0).run("network create first").map(drop))?;
        ensure!(until_ms(cluster, 0)? > first + 370 * DAY_MS, "h1 has not renewed its own");
        later(cluster, &[2], 380)?;
        cluster.wait_all_ready()?;
        wait_for("h3's certificate", SOON, || {
            let until = until_ms(cluster, 2)?;
            ensure!(until > first + 370 * DAY_MS, "{until} after {first}");
            Ok(())
        })?;
        cluster.cli(2).run("network create second").map(drop)
    })
}

#[test]
fn keys_are_their_owners_alone() -> Result<()> {
    run(|cluster| {
        for host in 0..3 {
            let dir = cluster.daemon(host).data_dir();
            for secret in ["node.key", "cluster.key"] {
                let mode = fs::metadata(dir.join(secret))?.permissions().mode();
                ensure!(mode & 0o777 == 0o600, "{secret}: {mode:o}");
            }
        }
        let keys: Vec<_> = (0..3).map(|host| fs::read(cluster.daemon(host).data_dir().join("node.key"))).collect();
        let hexadecimal = |key: &Vec<u8>| hex::encode(key);
        for key in keys.into_iter().collect::<Result<Vec<_>, _>>()? {
            for line in ["status", "node inspect h1 h2 h3", "token ls"] {
                let printed = cluster.cli(0).command(line)?.output()?.stdout;
                ensure!(!String::from_utf8_lossy(&printed).contains(&hexadecimal(&key)[32..]), "{line} shows a key");
            }
        }
        Ok(())
    })
}
