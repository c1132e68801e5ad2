//! The lab's Docker Engines: what they share with a daemon beside them, and that nothing is left of them.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Engine, EngineKind, EnginesStart, IMAGE, Lab, OUTSIDE, Options, Pinger, run_with};
use pontoon_tests::wait_for;

/// In a test that runs itself: that it is the one to be killed.
const KILLED: &str = "PONTOON_TEST_IS_KILLED";

/// Makes a lab with an engine that runs, and a container `c1` on it.
fn with_container(kind: EngineKind, args: &[&str]) -> Result<(Lab, Engine)> {
    let lab = Lab::new(1)?;
    let mut engine = Engine::new(&lab, &lab.hosts()[0], kind)?;
    engine.args_mut().extend(args.iter().map(|&arg| arg.to_owned()));
    let start = Instant::now();
    engine.start()?;
    println!("{kind:?}: {}, started in {:?}", engine.version()?, start.elapsed());
    let start = Instant::now();
    engine.docker(&format!("run -d --name c1 {IMAGE} sleep 1d"))?;
    println!("{kind:?}: the first container in {:?}", start.elapsed());
    Ok((lab, engine))
}

/// A container on the engine's own bridge reaches the outside, which knows no route to it.
fn leaves_by_nat(kind: EngineKind, version: &str) -> Result<()> {
    let (lab, engine) = with_container(kind, &[])?;
    ensure!(engine.version()?.starts_with(version), "not {version} but {}", engine.version()?);
    wait_for("the way out to be up", Duration::from_secs(10), || {
        engine.exec("c1", &format!("ping -c 3 -i 0.1 -W 1 {OUTSIDE}"))
    })?;
    engine.netns("c1")?.reaches(OUTSIDE.into(), 10)?;
    ensure!(
        engine.exec("c1", "hostname")? == engine.docker("inspect -f {{.Config.Hostname}} c1")?,
        "another host name"
    );
    ensure!(engine.room().command("hostname").output()?.stdout == b"h1\n", "the host is not called h1");
    ensure!(engine.exec("c1", "cat /proc/1/comm")? == "sleep", "docker exec does not lead into the container");
    engine.refuses("exec c1 false", &[])?;
    engine.refuses("run --pull never no-such-image", &["no-such-image"])?;
    drop(lab);
    Ok(())
}

#[test]
fn the_machines_engine_runs_on_a_host() -> Result<()> {
    leaves_by_nat(EngineKind::Debian, "20.10.")
}

#[test]
fn an_engine_of_another_release_runs_on_a_host() -> Result<()> {
    leaves_by_nat(EngineKind::Suite("trixie"), "26.1.")
}

/// A crash of the engine: without `--live-restore` it ends its containers when it is back.
fn survives(kind: EngineKind) -> Result<()> {
    let (lab, mut engine) = with_container(kind, &["--live-restore"])?;
    let id = engine.docker("inspect -f {{.State.Pid}} c1")?;
    let address: IpAddr = engine.docker("inspect -f {{.NetworkSettings.IPAddress}} c1")?.parse()?;
    let pinger = Pinger::start(&engine.netns("c1")?, OUTSIDE.into(), lab.dir().join("ping"))?;
    engine.kill9()?;
    engine.start()?;
    ensure!(engine.docker("inspect -f {{.State.Pid}} c1")? == id, "c1 was started anew");
    lab.hosts()[0].netns.reaches(address, 3)?;
    pinger.lost_nothing(20)?;
    engine.stop()?;
    ensure!(Path::new("/proc").join(&id).exists(), "c1 ended with an engine that was to leave it alone");
    engine.args_mut().clear();
    engine.start()?;
    engine.kill9()?;
    engine.start()?;
    ensure!(engine.docker("inspect -f {{.State.Running}} c1")? == "false", "c1 runs on");
    engine.docker("start c1")?;
    let first = engine.exec("c1", "cat /proc/1/comm")?;
    ensure!(first == "sleep", "c1 does not run but {first}");
    engine.stop().map(drop)
}

#[test]
fn the_machines_engine_comes_back_from_a_crash() -> Result<()> {
    survives(EngineKind::Debian)
}

#[test]
fn an_engine_of_another_release_comes_back_from_a_crash() -> Result<()> {
    survives(EngineKind::Suite("trixie"))
}

/// A daemon beside the engine sees the containers' namespaces, and the engine the daemon's sockets.
fn shares_with_daemon(kind: EngineKind, engines_start: EnginesStart) -> Result<()> {
    let options = Options { hosts: 2, engines: vec![kind], engines_start, ..Options::default() };
    run_with(options, |cluster| {
        cluster.form()?;
        cluster.cli(1).run("network create my-overlay")?;
        let (other, address) = cluster.attached(1, "c2", "my-overlay")?;
        let engine = cluster.engine(0);
        fs::write(engine.room().path("/run/docker/plugins/seen"), "")?;
        let plugins = engine.docker(&format!("run --rm -v /run/docker/plugins:/plugins {IMAGE} ls /plugins"))?;
        ensure!(plugins.lines().any(|name| name == "seen"), "the engine looks for plugins elsewhere: {plugins:?}");
        engine.docker(&format!("run -d --net none --name c1 {IMAGE}"))?;
        // What a daemon does for a container whose engine gives it a namespace.
        let netns = engine.netns("c1")?.path();
        ensure!(!netns.exists(), "{} is the machine's own", netns.display());
        let line = format!("attach --network my-overlay --netns {} --name c1", netns.display());
        cluster.cli(0).run(&line)?;
        let to: IpAddr = *address.addresses.first().context("c2 has no address")?;
        wait_for("the way to c2", Duration::from_secs(10), || {
            engine.exec("c1", &format!("ping -c 3 -i 0.1 -W 1 {to}"))
        })?;
        cluster.overlay(0).run("ip", &["link", "show", "type", "vxlan"])?;
        ensure!(!cluster.overlay(0).path().exists(), "the overlay's namespace is the machine's own");
        ensure!(engine.room().path(cluster.overlay(0).path()).exists(), "the overlay's namespace is not the host's");
        other.netns.reaches(to, 1)
    })
}

#[test]
fn a_daemon_is_beside_the_machines_engine() -> Result<()> {
    shares_with_daemon(EngineKind::Debian, EnginesStart::Last)
}

#[test]
fn a_daemon_is_beside_an_engine_of_another_release() -> Result<()> {
    shares_with_daemon(EngineKind::Suite("trixie"), EnginesStart::First)
}

/// What is left of a lab whose names begin with `prefix`, and of its folder.
pub(crate) fn leftovers(prefix: &str, dir: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let named = |line: &str| line.contains(&format!("{prefix}-")) || line.contains(&format!("{}/", dir.display()));
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        for file in ["cgroup", "cmdline"] {
            // It may end just now.
            let text = fs::read_to_string(process.join(file)).unwrap_or_default();
            found.extend(text.lines().filter(|line| named(line)).map(|line| format!("{} {line}", process.display())));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    found.extend(mounts.lines().filter(|line| named(line)).map(str::to_owned));
    for entry in fs::read_dir("/run/netns")? {
        found.extend(entry?.file_name().into_string().ok().filter(|name| named(name)));
    }
    // Cgroups may be mounted nowhere.
    let list = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && ls /sys/fs/cgroup";
    let groups = Command::new("unshare").args(["--mount", "sh", "-c", list]).output()?;
    ensure!(groups.status.success(), "{}", String::from_utf8_lossy(&groups.stderr));
    found.extend(String::from_utf8_lossy(&groups.stdout).lines().filter(|name| named(name)).map(str::to_owned));
    if dir.exists() {
        found.insert(dir.display().to_string());
    }
    Ok(found)
}

/// Waits until nothing is left.
pub(crate) fn gone(prefix: &str, dir: &Path) -> Result<()> {
    wait_for("nothing to be left", Duration::from_secs(20), || {
        let left = leftovers(prefix, dir)?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    })
}

/// That there is something to be left: otherwise its absence proves nothing.
fn present(prefix: &str, dir: &Path) -> Result<()> {
    let left: Vec<_> = leftovers(prefix, dir)?.into_iter().collect();
    let text = left.join("\n");
    for what in ["dockerd", "-h1/host", "-h1/docker/"] {
        ensure!(text.contains(what), "no {what} is found: {text}");
    }
    ensure!(left.contains(&format!("{prefix}-h1")), "neither namespace nor cgroup is found: {text}");
    Ok(())
}

#[test]
fn nothing_is_left_of_an_engine() -> Result<()> {
    for kind in [EngineKind::Debian, EngineKind::Suite("trixie")] {
        let (lab, engine) = with_container(kind, &[])?;
        let (prefix, dir) = (lab.prefix().to_owned(), lab.dir().to_owned());
        present(&prefix, &dir)?;
        drop((engine, lab));
        gone(&prefix, &dir)?;
    }
    Ok(())
}

#[test]
fn nothing_is_left_of_an_engine_when_its_test_is_killed() -> Result<()> {
    if env::var_os(KILLED).is_some() {
        let (lab, _engine) = with_container(EngineKind::Suite("trixie"), &["--live-restore"])?;
        println!("{KILLED} {} {}", lab.prefix(), lab.dir().display());
        // The other end is closed only by an end that it comes too late for.
        io::stdin().read_line(&mut String::new())?;
        return Ok(());
    }
    let name = "engine::nothing_is_left_of_an_engine_when_its_test_is_killed";
    let mut test = Command::new(env::current_exe()?);
    test.args(["--exact", name, "--nocapture"]).env(KILLED, "").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut test = test.spawn()?;
    let output = BufReader::new(test.stdout.take().context("no output")?);
    let lines = output.lines().map_while(Result::ok);
    let said = lines.filter_map(|line| Some(line.split_once(KILLED)?.1.trim().to_owned())).next();
    let (prefix, dir) = said.as_deref().and_then(|said| said.split_once(' ')).context("the test made no lab")?;
    let seen = present(prefix, Path::new(dir));
    test.kill()?;
    test.wait()?;
    seen?;
    gone(prefix, Path::new(dir))
}
