//! Certificates over months and years, which pass in the daemons alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_proto::UnlockKey;
use pontoon_tests::lab::{CliError, Cluster, DaemonOptions, run};
use pontoon_tests::wait_for;
use serde_json::Value;

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
        let mut secrets = Vec::new();
        for host in 0..3 {
            let dir = cluster.daemon(host).data_dir();
            let document = fs::read(dir.join("node.key"))?;
            // In a document of this kind the 32 bytes of the secret come 16 bytes from its beginning (RFC 8410, section 7).
            secrets.push(hex::encode(document.get(16..48).context("it is too short")?));
            secrets.push(fs::read_to_string(dir.join("cluster.key"))?.trim().to_owned());
        }
        cluster.cli(0).run(&format!("backup {}", cluster.file("backup").display()))?;
        let mut told = vec![hex::encode(fs::read(cluster.file("backup"))?)];
        for line in ["status", "node inspect h1 h2 h3", "token ls", "token create"] {
            told.push(String::from_utf8(cluster.cli(0).command(line)?.output()?.stdout)?);
        }
        for host in 0..3 {
            told.push(fs::read_to_string(cluster.daemon(host).log())?);
            told.push(fs::read_to_string(cluster.daemon(host).data_dir().join("identity.json"))?);
        }
        for secret in secrets {
            ensure!(secret.len() == 64, "{secret} is no secret");
            ensure!(!told.iter().any(|text| text.to_lowercase().contains(&secret)), "a secret is shown");
        }
        Ok(())
    })
}

/// moby#45027: one node that was down held it up for good. Here the one before is given up without it, and it comes back all
/// the same.
#[test]
fn the_authority_is_exchanged_while_a_node_is_down() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create n")?;
        let (c1, _) = cluster.attached(0, "c1", "n")?;
        let (_, second) = cluster.attached(1, "c2", "n")?;
        let pings = cluster.pinger(&c1, &second)?;
        let away = (cluster.leader()? + 1) % 3;
        let (stays, other) = ((away + 1) % 3, (away + 2) % 3);
        let old = cluster.daemon(stays).node_key()?;
        cluster.daemon(away).term()?;
        let token = cluster.token();
        let answer = cluster.cli(stays).run("cluster rotate-authority")?;
        ensure!(answer["cluster"]["authority"] == 2, "{answer}");
        wait_for("h3 to be down and the others to have new certificates", SOON, || {
            for host in [stays, other] {
                let identity = fs::read_to_string(cluster.daemon(host).data_dir().join("identity.json"))?;
                let identity: serde_json::Value = serde_json::from_str(&identity)?;
                let authorities = identity["authorities"].as_array().map(Vec::len);
                ensure!(authorities == Some(1), "h{} believes {authorities:?}", host + 1);
            }
            Ok(())
        })?;
        cluster.cli(other).run("network create meanwhile")?;
        // A certificate of the one before is not believed any more, and a token that names it is not good.
        let new = cluster.daemon(stays).node_key()?;
        ensure!(old.certificate() != new.certificate(), "it has the certificate that it had");
        let listed = cluster.cli(stays).run("token ls")?;
        ensure!(listed["tokens"][0]["revoked_ms"] != 0, "{listed}");
        ensure!(!listed.to_string().contains(&token), "{listed}");
        cluster.daemon(away).up()?;
        cluster.wait_all_ready()?;
        wait_for("its certificate", SOON, || {
            let status = cluster.status(stays)?;
            let members = status["members"].as_array().context("no members")?;
            ensure!(members.iter().all(|member| member["node"]["authority"] == 2), "{}", status["members"]);
            Ok(())
        })?;
        cluster.cli(away).run("network create after")?;
        cluster.wait_same_state()?;
        pings.lost_nothing(0)?;
        // Once more, now that all are there.
        cluster.cli(other).run("cluster rotate-authority")?;
        cluster.cli(other).run("network create again")?;
        wait_for("the one before to be given up", SOON, || {
            let refused = cluster.cli(other).ask("cluster rotate-authority")?;
            ensure!(refused.is_ok(), "{refused:?}");
            Ok(())
        })
    })
}

/// The key of the authority's key is on no disk, and the one before opens nothing.
#[test]
fn a_locked_cluster_has_no_key_on_any_disk() -> Result<()> {
    run(|cluster| {
        let keys = |cluster: &mut Cluster| -> Vec<bool> {
            cluster.daemons().iter().map(|daemon| daemon.data_dir().join("cluster.key").exists()).collect()
        };
        ensure!(keys(cluster) == [true; 3], "a daemon has no key before");
        let locked = cluster.cli(0).run("cluster lock")?;
        let key = locked["unlock_key"].as_str().context("no key")?.to_owned();
        wait_for("the keys to be gone, and all nodes to have new certificates", SOON, || {
            ensure!(keys(cluster) == [false; 3], "{:?}", keys(cluster));
            let status = cluster.status(0)?;
            ensure!(status["cluster"]["locked"] == true, "{status}");
            let members = status["members"].as_array().context("no members")?;
            ensure!(members.iter().all(|member| member["node"]["authority"] == 2), "{status}");
            Ok(())
        })?;
        let told = |host: usize, cluster: &Cluster| -> Result<bool> {
            Ok(cluster.status(host)?["warnings"].to_string().contains("pontoon cluster unlock"))
        };
        ensure!(!told(0, cluster)? && told(1, cluster)?, "who was told the key?");
        // After a restart nobody can, and everything else goes on.
        cluster.daemon(0).kill9()?;
        cluster.daemon(0).up()?;
        wait_for("writes", SOON, || cluster.cli(0).run("node label h1 a=b").map(drop))?;
        ensure!(told(0, cluster)?, "it has the key still");
        cluster.cli(0).refuses("cluster rotate-authority", "NO_AUTHORITY_KEY", &["pontoon cluster unlock"])?;
        cluster.cli(0).refuses("admin cert create x --role viewer --out -", "NO_AUTHORITY_KEY", &["cluster unlock"])?;
        cluster.cli(0).refuses("cluster lock --off", "NO_AUTHORITY_KEY", &["cluster unlock"])?;
        let unlock = |host: usize, key: &str, cluster: &Cluster| -> Result<Result<Value, CliError>> {
            let cli = cluster.cli(host);
            let mut command = cli.command("cluster unlock")?;
            let file = cluster.file("key");
            fs::write(&file, key)?;
            command.stdin(fs::File::open(file)?);
            cli.finish("cluster unlock", command)
        };
        let other = UnlockKey::new([7; 32]).to_string();
        let refused = unlock(0, &other, cluster)?.err().context("another key was taken")?;
        ensure!(refused.reason == "WRONG_KEY" && refused.text().contains("pontoon cluster lock"), "{refused}");
        unlock(1, &key, cluster)??;
        ensure!(told(0, cluster)? && !told(1, cluster)?, "who was told the key?");
        // One that can is enough for all: a host joins through another one.
        let token = cluster.cli(0).run("token create")?;
        cluster.set_token(token["join_token"].as_str().context("no token")?);
        cluster.cli(2).run("leave")?;
        cluster.join(2, 0)?;
        cluster.wait_all_ready()?;
        ensure!(keys(cluster) == [false; 3], "the newcomer has it on its disk");
        cluster.cli(1).run("cluster lock --off")?;
        wait_for("the key to be on a disk", SOON, || {
            ensure!(keys(cluster) == [false, true, false], "{:?}", keys(cluster));
            Ok(())
        })
    })
}
