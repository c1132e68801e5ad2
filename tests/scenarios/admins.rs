//! Administering a cluster from elsewhere, and who has done what.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{self, Signal};
use pontoon_tests::lab::{Cli, Cluster, Options, run, run_with};
use pontoon_tests::wait_for;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// Lets somebody in, who goes to the last host and uses what he was given.
fn let_in(cluster: &Cluster, name: &str, role: &str) -> Result<Cli> {
    let file = cluster.file(&format!("{name}.context"));
    cluster.cli(0).run(&format!("admin cert create {name} --role {role} --out {}", file.display()))?;
    let mode = fs::metadata(&file)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{mode:o}");
    let there = elsewhere(cluster, name);
    let mut add = there.command("context add lab")?;
    let added = add.arg(&file).output()?;
    ensure!(added.status.success(), "{added:?}");
    Ok(there)
}

fn configuration(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.file(&format!("home-of-{name}"))
}

fn elsewhere(cluster: &Cluster, name: &str) -> Cli {
    let host = cluster.hosts().last().expect("the lab has hosts");
    Cli::elsewhere(&host.netns, &configuration(cluster, name))
}

/// What was done, by whom, the latest last.
fn audit(cluster: &Cluster) -> Result<Vec<(String, String, String)>> {
    let answer = cluster.cli(0).run("audit")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = answer["audit"].as_array().context("no audit")?.iter();
    Ok(rows.map(|row| (text(&row["origin"]["who"]), text(&row["origin"]["from"]), text(&row["what"]))).collect())
}

#[test]
fn each_may_what_his_role_lets_him() -> Result<()> {
    // Of four nodes one does not vote, and can be spared.
    run_with(Options { hosts: 4, ..Options::default() }, |cluster| {
        cluster.form()?;
        let alice = let_in(cluster, "alice", "operator")?;
        let key = fs::read_to_string(configuration(cluster, "alice").join("pontoon/contexts/lab"))?;
        ensure!(key.contains("PRIVATE KEY") && !cluster.cli(0).run("admin cert ls")?.to_string().contains("PRIVATE"));
        alice.run("network create web")?;
        let networks = alice.run("network ls")?;
        ensure!(networks["networks"][0]["network"]["name"] == "web", "{networks}");
        alice.refuses("token create", "ROLE_TOO_LOW", &["alice is operator", "takes admin"])?;
        alice.refuses("node rm h2", "ROLE_TOO_LOW", &["alice is operator"])?;
        alice.refuses("audit", "ROLE_TOO_LOW", &["alice"])?;
        alice.refuses("leave", "HOST_ONLY", &["on that host"])?;
        let bob = let_in(cluster, "bob", "viewer")?;
        bob.run("status")?;
        bob.refuses("network rm web", "ROLE_TOO_LOW", &["bob is viewer", "takes operator"])?;
        for kind in ["token", "admin", "audited"] {
            bob.refuses(&format!("watch --kind {kind}"), "ROLE_TOO_LOW", &[kind, "for admins"])?;
        }
        let carol = let_in(cluster, "carol", "admin")?;
        carol.run("token create")?;
        carol.refuses("recover --force", "HOST_ONLY", &["without a context"])?;
        cluster.cli(1).refuses(
            "admin cert create bob --role admin --out -",
            "ADMIN_NAME_TAKEN",
            &["bob", "cert rm bob"],
        )?;
        let there = cluster.hosts()[3].address.to_string();
        let log = audit(cluster)?;
        let find =
            |what: &str| log.iter().find(|(_, _, done)| done == what).with_context(|| format!("no {what}: {log:?}"));
        ensure!(find("created network web")?.0 == "alice" && find("created network web")?.1 == there, "{log:?}");
        let (who, from, _) = find("let in alice as operator")?;
        ensure!((who.as_str(), from.as_str()) == ("root", "the admin socket"), "{log:?}");
        ensure!(log.iter().any(|(who, _, done)| who == "carol" && done.starts_with("made token ")), "{log:?}");
        ensure!(
            log.iter()
                .any(|(who, from, done)| who.starts_with("token ") && *from == there && done == "joined as node h4")
        );
        ensure!(!log.iter().any(|(_, _, done)| done.contains("removed")), "what was refused is there: {log:?}");
        // An observer has none of it, and asks a member.
        cluster.cli(0).run("node demote h4")?;
        wait_for("h4 to observe", SOON, || {
            let status = cluster.status(3)?;
            let members = status["members"].as_array().context("no members")?;
            ensure!(members.iter().any(|m| m["node"]["name"] == "h4" && m["observer"] == true), "{status}");
            Ok(())
        })?;
        let told = cluster.cli(3).run("audit --limit 2")?;
        ensure!(
            told["audit"][1]["what"] == "demoted node h4" && told["audit"].as_array().map(Vec::len) == Some(2),
            "{told}"
        );
        carol.run("token create")?;
        Ok(())
    })
}

#[test]
fn one_who_is_locked_out_is_out_at_once() -> Result<()> {
    run(|cluster| {
        let alice = let_in(cluster, "alice", "admin")?;
        wait_for("three voters", SOON, || {
            let status = cluster.status(0)?;
            let members = status["members"].as_array().context("no members")?;
            ensure!(members.iter().filter(|member| member["voter"] == true).count() == 3, "{status}");
            Ok(())
        })?;
        // Whichever node is there will do.
        cluster.daemon(0).kill9()?;
        wait_for("another node to serve him", SOON, || alice.run("network create web").map(drop))?;
        cluster.daemon(0).up()?;
        cluster.wait_all_ready()?;
        let mut watch = alice.command("watch")?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        alice.run("network ls")?;
        ensure!(watch.try_wait()?.is_none(), "it does not watch");
        // Of others that stand still he notices little.
        signal::kill(cluster.daemon(0).pid().context("it does not run")?, Signal::SIGSTOP)?;
        let listed = alice.run("network ls");
        signal::kill(cluster.daemon(0).pid().context("it does not run")?, Signal::SIGCONT)?;
        listed?;
        cluster.cli(1).run("admin cert rm alice")?;
        // A call that is just under way loses its connection.
        wait_for("him to be told", SOON, || {
            alice.refuses("network ls", "ADMIN_UNKNOWN", &["alice", "admin cert create"])
        })?;
        let ended = wait_for("his watching to end", SOON, || watch.try_wait()?.context("he watches still"))?;
        ensure!(!ended.success(), "{ended}");
        cluster.cli(1).refuses("admin cert rm alice", "ADMIN_NOT_FOUND", &["alice", "admin cert ls"])?;
        // Another one of that name has another key.
        fs::remove_dir_all(configuration(cluster, "alice"))?;
        fs::remove_file(cluster.file("alice.context"))?;
        let_in(cluster, "alice", "viewer")?.run("network ls")?;
        Ok(())
    })
}

/// The authority that a context names is the cluster's; one that was exchanged for another has certified that.
#[test]
fn nobody_else_is_taken_for_the_cluster() -> Result<()> {
    run_with(Options { hosts: 3, ..Options::default() }, |cluster| {
        cluster.init()?;
        let alice = let_in(cluster, "alice", "admin")?;
        cluster.cli(0).run("cluster rotate-authority")?;
        wait_for("the new authority", SOON, || {
            let status = cluster.status(0)?;
            ensure!(status["members"][0]["node"]["authority"] == 2, "{status}");
            Ok(())
        })?;
        alice.run("network create web")?;
        // Another cluster has the address now.
        cluster.cli(0).run("leave --force")?;
        cluster.init()?;
        alice.refuses("network ls", "DAEMON_UNREACHABLE", &[&cluster.advertise(0), "certificate"])?;
        alice.refuses("network ls --context other", "CONTEXT_NOT_FOUND", &["other", "context ls"]).map(drop)
    })
}

/// What is done with contexts, without any daemon.
#[test]
fn contexts_are_kept_and_used() -> Result<()> {
    run_with(Options { hosts: 1, ..Options::default() }, |cluster| {
        cluster.init()?;
        let alice = let_in(cluster, "alice", "viewer")?;
        let file = cluster.file("alice.context");
        let current = |cli: &Cli| -> Result<Vec<String>> {
            let list = cli.run("context ls")?;
            let list = list.as_array().context("no list")?.iter().filter(|context| context["current"] == true);
            Ok(list.map(|context| context["name"].as_str().unwrap_or_default().to_owned()).collect())
        };
        ensure!(current(&alice)? == ["lab"], "the first one is not used");
        let add = |name: &str| format!("context add {name} {}", file.display());
        alice.refuses(&add("lab"), "CONTEXT_EXISTS", &["lab", "context rm lab"])?;
        alice.refuses(&add("../lab"), "INVALID_NAME", &["../lab"])?;
        alice.refuses(&add("default"), "INVALID_NAME", &["default"])?;
        alice.refuses("context add x /etc/hostname", "INVALID_CONTEXT", &["/etc/hostname", "admin cert create"])?;
        alice.refuses("context use other", "CONTEXT_NOT_FOUND", &["other"])?;
        let taken = format!("admin cert create bob --role admin --out {}", file.display());
        cluster.cli(0).refuses(&taken, "FILE_EXISTS", &["alice.context", "--out"])?;
        ensure!(cluster.cli(0).run("admin cert ls")?["admins"].as_array().map(Vec::len) == Some(1), "bob was let in");
        ensure!(alice.command("context use default")?.output()?.status.success());
        ensure!(current(&alice)? == ["default"], "it is not used");
        ensure!(alice.command("context use lab")?.output()?.status.success());
        ensure!(alice.command("context rm lab")?.output()?.status.success());
        ensure!(current(&alice)? == ["default"], "one that is gone is used");
        Ok(())
    })
}
