//! Losing machines for good: what is left goes on, and what comes back is not let in.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, Options, run, run_with};
use pontoon_tests::wait_for;

const SOON: Duration = Duration::from_secs(20);

/// Copies a folder as it is.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(copied.success(), "cannot copy {}", from.display());
    Ok(())
}

/// A daemon is gone with its disk.
fn destroy(cluster: &mut Cluster, host: usize) -> Result<()> {
    cluster.daemon(host).kill9()?;
    Ok(fs::remove_dir_all(cluster.daemon(host).data_dir())?)
}

#[test]
fn two_of_three_voters_are_destroyed() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create n")?;
        let (c1, _) = cluster.attached(2, "c1", "n")?;
        let (_, second) = cluster.attached(2, "c2", "n")?;
        let (_, third) = cluster.attached(0, "c3", "n")?;
        cluster.pinger(&c1, &third)?.lost_nothing(0)?;
        cluster.cli(2).refuses("recover --force", "NOT_RECOVERABLE", &["majority", "node rm"])?;
        let networks = cluster.cli(2).run("network ls")?["networks"].clone();
        let old = cluster.status(2)?;
        let pings = cluster.pinger(&c1, &second)?;
        for host in [0, 1] {
            copy(&cluster.daemon(host).data_dir(), &cluster.file(&format!("old-{host}")))?;
            destroy(cluster, host)?;
        }
        let gone = Instant::now();
        let told = wait_for("the leader to be gone", SOON, || cluster.cli(2).run("recover"))?;
        ensure!(told["done"] == false && told["removed"] == serde_json::json!(["h1", "h2"]), "{told}");
        ensure!(told["warnings"].to_string().contains("is lost"), "{told}");
        ensure!(cluster.status(2)?["cluster_id"] == old["cluster_id"], "it was done without --force");
        let done = cluster.cli(2).run("recover --force")?;
        wait_for("writes", SOON, || cluster.cli(2).run("network create after").map(drop))?;
        ensure!(gone.elapsed() < Duration::from_secs(60), "only after {:?}", gone.elapsed());
        ensure!(done["done"] == true && done["cluster_id"] != old["cluster_id"], "{done}");
        // What there was is there, but for the containers of the others, and traffic has not noticed.
        let now = cluster.cli(2).run("network ls")?["networks"].clone();
        ensure!(now[0]["network"]["id"] == networks[0]["network"]["id"], "{now}");
        let leases = cluster.cli(2).run("lease ls --network n --state active")?;
        ensure!(leases["leases"].as_array().map(Vec::len) == Some(2), "{leases}");
        // The others join as new nodes.
        cluster.set_token(done["join_token"].as_str().context("no token")?);
        for host in [0, 1] {
            cluster.daemon(host).up()?;
            if host == 1 {
                let more = cluster.cli(2).run("token create")?;
                cluster.set_token(more["join_token"].as_str().context("no token")?);
            }
            cluster.join(host, 2)?;
        }
        cluster.wait_all_ready()?;
        cluster.wait_same_state()?;
        pings.lost_nothing(0)?;
        let (c4, _) = cluster.attached(1, "c4", "n")?;
        cluster.pinger(&c4, &second)?.lost_nothing(0)?;
        the_old_disk_is_refused(cluster)
    })
}

/// It is put back, and nobody deals with it.
fn the_old_disk_is_refused(cluster: &mut Cluster) -> Result<()> {
    cluster.daemon(1).term()?;
    let (data, new) = (cluster.daemon(1).data_dir(), cluster.file("new-1"));
    fs::rename(&data, &new)?;
    fs::rename(cluster.file("old-1"), &data)?;
    cluster.daemon(1).up()?;
    let address = cluster.advertise(1);
    wait_for("the refusal in the log", SOON, || {
        for host in [0, 2] {
            let log = fs::read_to_string(cluster.daemon(host).log())?;
            let told = log.lines().any(|line| line.contains(&address) && line.contains("no authority of this cluster"));
            if told {
                return Ok(());
            }
        }
        anyhow::bail!("nobody has refused it")
    })?;
    wait_for("the old node to know", SOON, || {
        let warnings = cluster.status(1)?["warnings"].to_string();
        ensure!(warnings.contains("in another cluster") && warnings.contains("pontoon leave --force"), "{warnings}");
        Ok(())
    })?;
    let error = cluster.cli(1).refused("network create never")?;
    ensure!(error.reason == "NO_QUORUM", "{error}");
    cluster.daemon(1).term()?;
    fs::remove_dir_all(&data)?;
    fs::rename(new, data)?;
    cluster.daemon(1).up()?;
    cluster.wait_all_ready()
}

/// It goes on where it was, and does not need to be told again.
#[test]
fn a_recovery_that_is_cut_off() -> Result<()> {
    run_with(Options { hosts: 3, ..Options::default() }, |cluster| {
        cluster.form()?;
        cluster.cli(0).run("network create n")?;
        cluster.wait_same_state()?;
        destroy(cluster, 0)?;
        destroy(cluster, 1)?;
        let told = wait_for("the leader to be gone", SOON, || cluster.cli(2).run("recover"))?;
        for moment in [20, 60, 100, 200] {
            let mut command = cluster.cli(2).command("recover --force")?;
            let mut recovering =
                command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
            pontoon_tests::elapse(Duration::from_millis(moment));
            cluster.daemon(2).kill9()?;
            recovering.wait()?;
            cluster.daemon(2).up()?;
            let status = cluster.status(2)?;
            let members = status["members"].as_array().map(Vec::len);
            ensure!(members == Some(3) || members == Some(1), "{status}");
            if members == Some(1) {
                break;
            }
        }
        if cluster.status(2)?["members"].as_array().map(Vec::len) == Some(3) {
            wait_for("the leader to be gone", SOON, || cluster.cli(2).run("recover --force").map(drop))?;
        }
        wait_for("writes", SOON, || cluster.cli(2).run("network create after").map(drop))?;
        let listed = cluster.cli(2).run("network ls")?;
        ensure!(listed["networks"].as_array().map(Vec::len) == Some(2), "{told} {listed}");
        Ok(())
    })
}

#[test]
fn a_backup_is_restored_into_a_new_cluster() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create n --subnet 10.9.0.0/24 --reserve db=10.9.0.77 --label a=b")?;
        cluster.cli(0).run("network create m --ipv6")?;
        cluster.attached(1, "c1", "n")?;
        let file = cluster.file("backup");
        let told = cluster.cli(1).run(&format!("backup {}", file.display()))?;
        ensure!(told["linearizable"] == true, "{told}");
        let before = cluster.cli(0).run("network ls")?["networks"].clone();
        let old = cluster.status(0)?["cluster_id"].clone();
        // What comes later is not in it.
        cluster.cli(0).run("network create later")?;
        for host in 0..3 {
            destroy(cluster, host)?;
            cluster.daemon(host).up()?;
        }
        let line = format!("restore {} --advertise {} --name h3 --token-uses 9", file.display(), cluster.advertise(2));
        let bytes = fs::read(&file)?;
        let damaged = cluster.file("damaged");
        fs::write(&damaged, &bytes[..bytes.len() - 9])?;
        let wrong = line.replace(&file.display().to_string(), &damaged.display().to_string());
        cluster.cli(2).refuses(&wrong, "INVALID_BACKUP", &["damaged or cut off", "another copy"])?;
        let answer = cluster.cli(2).run(&line)?;
        ensure!(answer["old_cluster_id"] == old && answer["cluster_id"] != old, "{answer}");
        ensure!(answer["networks"] == 2 && answer["nodes"] == 3, "{answer}");
        cluster.cli(2).refuses(&line, "ALREADY_IN_CLUSTER", &["pontoon leave"])?;
        cluster.set_token(answer["join_token"].as_str().context("no token")?);
        cluster.join(0, 2)?;
        cluster.join(1, 0)?;
        cluster.wait_all_ready()?;
        let after = cluster.cli(1).run("network ls")?["networks"].clone();
        let shown = |networks: &serde_json::Value| {
            let networks = networks.as_array().cloned().unwrap_or_default();
            networks.iter().map(|view| view["network"].to_string()).collect::<Vec<_>>()
        };
        ensure!(shown(&after) == shown(&before), "{after} is not {before}");
        let reserved = cluster.cli(0).run("lease inspect 10.9.0.77")?.to_string();
        ensure!(reserved.contains("db"), "{reserved}");
        let (c3, _) = cluster.attached(0, "c3", "n")?;
        let (_, second) = cluster.attached(2, "c2", "n")?;
        cluster.pinger(&c3, &second)?.lost_nothing(0).map(drop)
    })
}
