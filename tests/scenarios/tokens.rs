//! Tokens on real daemons: who enters with one, and what everybody else is told.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, DaemonOptions, Options, run_with};
use pontoon_tests::wait_for;

/// Nothing that is wrong with a token takes as long as a time-out would.
const AT_ONCE: Duration = Duration::from_secs(2);

fn hosts(hosts: usize) -> Options {
    Options { hosts, ..Options::default() }
}

fn create(cluster: &Cluster, more: &str) -> Result<(String, String)> {
    let answer = cluster.cli(0).run(&format!("token create {more}"))?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned).context("no text");
    Ok((text(&answer["join_token"])?, text(&answer["token"]["id"])?))
}

#[test]
fn init_prints_the_command_for_one_more_host() -> Result<()> {
    run_with(hosts(3), |cluster| {
        let answer = cluster.cli(0).run("init --advertise 192.168.140.200 --name h1")?;
        let token = answer["join_token"].as_str().context("no token")?.to_owned();
        // It says where to ask, in either case and with blanks around it.
        cluster.cli(1).run(&format!("join {} --name h2", token.to_lowercase()))?;
        cluster.cli(2).refuses(
            &format!("join {token} --name h3"),
            "TOKEN_USED_UP",
            &["h3", "1 hosts", "token create"],
        )?;
        let log = fs::read_to_string(cluster.daemon(0).log())?;
        let told = log.lines().find(|line| line.contains("TOKEN_USED_UP")).context("the log does not tell it")?;
        ensure!(told.contains("192.168.140.202") && told.contains("h3"), "{told}");
        let secret = token.trim_start_matches("PTN1-");
        ensure!(!log.contains(secret) && !log.contains(&secret.to_lowercase()), "the log has the token");
        Ok(())
    })
}

#[test]
fn a_typing_error_is_no_time_out() -> Result<()> {
    run_with(hosts(2), |cluster| {
        cluster.init()?;
        let token = cluster.token();
        let last = if token.ends_with('A') { 'B' } else { 'A' };
        let (mistyped, cut) = (format!("{}{last}", &token[..token.len() - 1]), &token[..40]);
        for (wrong, text) in [
            (mistyped.as_str(), "wrong character"),
            (cut, "cut off"),
            ("PTN1-0O", "character 6"),
            ("192.168.140.200", "does not begin with PTN1-"),
        ] {
            let start = Instant::now();
            let error = cluster.cli(1).refused(&format!("join {wrong}"))?;
            ensure!(error.code == 2 && error.message.contains(text), "{wrong}: {error}");
            ensure!(start.elapsed() < AT_ONCE, "{wrong}: only after {:?}", start.elapsed());
        }
        ensure!(cluster.status(1)?["cluster_id"] == "", "it has joined something");
        Ok(())
    })
}

#[test]
fn tokens_that_are_not_good_any_more() -> Result<()> {
    run_with(hosts(2), |cluster| {
        cluster.init()?;
        let join = |token: &str| format!("join {token} --name h2");
        let (revoked, id) = create(cluster, "--uses 5")?;
        cluster.cli(0).run(&format!("token rm {}", &id[..6]))?;
        cluster.cli(1).refuses(&join(&revoked), "TOKEN_REVOKED", &["h2", &id, "token create"])?;
        let (short, id) = create(cluster, "--expires 1s --uses 5")?;
        wait_for("the token to end", Duration::from_secs(10), || {
            let error = cluster.cli(1).refused(&format!("join {short} --name h1"))?;
            // Until then the name is what is wrong.
            ensure!(error.reason == "TOKEN_EXPIRED", "{error}");
            ensure!(error.text().contains(&id) && error.text().contains("token create"), "{error}");
            Ok(())
        })?;
        let (rotated, id) = create(cluster, "--uses 5")?;
        let answer = cluster.cli(0).run(&format!("token rotate {id}"))?;
        let new = answer["join_token"].as_str().context("no token")?;
        cluster.cli(1).refuses(&join(&rotated), "TOKEN_REVOKED", &["h2"])?;
        cluster.cli(1).run(&join(new))?;
        cluster.wait_all_ready()?;
        let listed = cluster.cli(1).run("token ls")?;
        let states: Vec<_> =
            listed["tokens"].as_array().context("no tokens")?.iter().map(|t| t["used"].clone()).collect();
        ensure!(states == [0, 0, 0, 0, 1], "{listed}");
        ensure!(!listed.to_string().contains("PTN1"), "{listed}");
        cluster.cli(0).refuses("token rm ffffffffffffffff", "TOKEN_NOT_FOUND", &["token ls"])?;
        cluster.cli(0).refuses("token rotate nonsense", "TOKEN_NOT_FOUND", &["nonsense"]).map(drop)
    })
}

/// Whoever answers learns nothing: not the token, and not who asks.
#[test]
fn a_token_of_another_cluster() -> Result<()> {
    run_with(hosts(3), |cluster| {
        cluster.init()?;
        cluster.cli(2).run("init --advertise 192.168.140.202 --name h3")?;
        let token = cluster.token();
        let start = Instant::now();
        let words = ["192.168.140.202", "stands between", "nothing was told"];
        // The token names another node, which is asked next.
        cluster.cli(1).run(&format!("join {token} 192.168.140.202 --name h2"))?;
        ensure!(start.elapsed() < AT_ONCE * 2, "only after {:?}", start.elapsed());
        cluster.cli(1).run("leave")?;
        let (without, _) = create(cluster, "--no-addresses")?;
        cluster.cli(1).refuses(&format!("join {without} 192.168.140.202 --name h2"), "TOKEN_OTHER_CLUSTER", &words)?;
        cluster.cli(1).refuses(&format!("join {without} --name h2"), "NO_MEMBER", &["names no node"])?;
        let log = fs::read_to_string(cluster.daemon(2).log())?;
        ensure!(!log.contains("h2"), "{log}");
        Ok(())
    })
}

/// A name that was there is not admitted again with the same answer, whatever is sent once more.
#[test]
fn a_join_that_is_played_once_more() -> Result<()> {
    run_with(hosts(3), |cluster| {
        cluster.init()?;
        cluster.join(1, 0)?;
        wait_for("h2 to be ready", AT_ONCE * 5, || {
            let listed = cluster.cli(0).run("node ls")?.to_string();
            ensure!(listed.matches("\"ready\"").count() == 2, "{listed}");
            Ok(())
        })?;
        // With the key and the token of the second, as somebody has them who has copied its folder.
        let (from, to) = (cluster.daemon(1).data_dir(), cluster.daemon(2).data_dir());
        cluster.daemon(2).term()?;
        fs::copy(from.join("node.key"), to.join("node.key"))?;
        fs::remove_file(to.join("identity.json"))?;
        cluster.daemon(2).up()?;
        let line = cluster.join_line(2, 0);
        cluster.cli(2).refuses(&line, "NODE_KEY_TAKEN", &["h3", "h2"]).map(drop)
    })
}

#[test]
fn an_observers_token() -> Result<()> {
    run_with(hosts(3), |cluster| {
        cluster.init()?;
        cluster.join(1, 0)?;
        let (token, _) = create(cluster, "--role observer")?;
        cluster.cli(2).refuses(&format!("join {token} --name h3 --voter-only"), "TOKEN_ROLE", &["--voter-only"])?;
        cluster.cli(2).run(&format!("join {token} --name h3"))?;
        wait_for("it to observe", Duration::from_secs(20), || {
            let listed = cluster.cli(0).run("node ls")?;
            let third = listed["nodes"].as_array().and_then(|nodes| nodes.iter().find(|m| m["node"]["name"] == "h3"));
            let third = third.context("h3 is not there")?;
            ensure!(third["observer"] == true && third["node"]["voting"] == "demoted", "{third}");
            Ok(())
        })?;
        // An observer takes newcomers in like any node, and makes tokens.
        cluster.cli(2).run("token create").map(drop)
    })
}

#[test]
fn a_token_on_the_standard_input() -> Result<()> {
    run_with(hosts(2), |cluster| {
        cluster.init()?;
        let mut command = cluster.cli(1).command("join - --name h2")?;
        let mut joining = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        joining.stdin.take().context("no input")?.write_all(format!("{}\n", cluster.token()).as_bytes())?;
        ensure!(joining.wait()?.success(), "it did not join");
        cluster.wait_all_ready()
    })
}

/// docker/for-linux#400: the reason was a clock, and a time-out was what was told.
#[test]
fn a_clock_that_is_wrong_by_days() -> Result<()> {
    let library = super::faketime()?;
    run_with(hosts(2), |cluster| {
        cluster.init()?;
        for (offset, reason) in [("-2d", "CERTIFICATE"), ("+13h", "CLOCK_SKEW"), ("+200d", "CERTIFICATE")] {
            let daemon = cluster.daemon(1);
            daemon.term()?;
            *daemon.options_mut() = DaemonOptions { env: super::clock(&library, offset), ..DaemonOptions::default() };
            daemon.up()?;
            let line = cluster.join_line(1, 0);
            let error = cluster.cli(1).refuses(&line, reason, &["192.168.140.200", "timedatectl"])?;
            let clocks = error.message.matches("T").count();
            ensure!(clocks >= 2, "{offset}: not both clocks: {error}");
            ensure!(cluster.status(0)?["members"].as_array().map(Vec::len) == Some(1), "it was admitted");
        }
        Ok(())
    })
}
