//! Containers come and go on two hosts while daemons and engines are killed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pontoon_tests::lab::{Cluster, Docker, EngineKind, IMAGE};
use pontoon_tests::wait_for;

use super::{CREATE, appears, on_engines};

/// Containers in all.
const CONTAINERS: usize = 300;
/// At a time.
const AT_A_TIME: usize = 8;
/// How long the end may take to be tidy: what nobody asks for is ended after a while.
const TIDY: Duration = Duration::from_secs(60);

/// Who runs with which address now.
#[derive(Default)]
struct Running(Mutex<BTreeMap<String, String>>);

impl Running {
    fn enter(&self, address: &str, name: &str) -> Result<()> {
        let mut all = self.0.lock().ok().context("poisoned")?;
        let other = all.insert(address.to_owned(), name.to_owned());
        ensure!(other.is_none(), "{name} and {other:?} have {address} at the same time");
        Ok(())
    }

    fn leave(&self, address: &str) {
        if let Ok(mut all) = self.0.lock() {
            all.remove(address);
        }
    }
}

/// One container's life; tells what the user saw if it could not begin.
fn live(engine: &Docker, name: &str, running: &Running) -> Result<Option<String>> {
    let run = ["run", "-d", "--net", "churn", "--name", name, IMAGE];
    if let Err(error) = engine.ask_args(&run)? {
        // A container that was made and not started is left by the engine.
        remove(engine, name)?;
        return Ok(Some(error.stderr));
    }
    let address = || engine.ask_args(&["exec", name, "hostname", "-i"]);
    // One that an engine that was killed has ended has none.
    if let Ok(first) = address()? {
        running.enter(&first, name)?;
        let second = address()?;
        // Before it goes: somebody else may have its address the moment after.
        running.leave(&first);
        if let Ok(second) = second {
            ensure!(second == first, "{name} had {first} and has {second}");
        }
    }
    remove(engine, name)?;
    Ok(None)
}

/// Removes a container; an engine that was killed is waited for.
fn remove(engine: &Docker, name: &str) -> Result<()> {
    wait_for(&format!("{name} to be removed"), TIDY, || match engine.ask_args(&["rm", "-f", name])? {
        Err(error) if !error.stderr.contains("No such container") => bail!("{error}"),
        _ => Ok(()),
    })
}

/// What the user was told says why, and is not about something else.
fn is_explained(told: &str) -> bool {
    let engine_is_down = ["Cannot connect to the Docker daemon", "error during connect"];
    let daemon_was_killed = ["pontoond ended before it had answered; run the command again"];
    let cluster_is_busy = ["no majority of voters"];
    engine_is_down.iter().chain(&daemon_was_killed).chain(&cluster_is_busy).any(|words| told.contains(words))
}

/// Runs the containers of one worker until there are no more to run.
fn work(engines: [Docker; 2], next: &AtomicUsize, running: &Running, failures: &Mutex<Vec<String>>) -> Result<()> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= CONTAINERS {
            return Ok(());
        }
        let told = live(&engines[number % 2], &format!("c{number}"), running)?;
        if let (Some(told), Ok(mut failures)) = (told, failures.lock()) {
            failures.push(told);
        }
    }
}

/// Kills a daemon and an engine whenever another tenth of the containers is begun: of the first host, of the second, of both.
fn harm(cluster: &mut Cluster, next: &AtomicUsize) -> Result<()> {
    for tenth in 1..10 {
        wait_for("the containers to go on", Duration::from_secs(120), || {
            let begun = next.load(Ordering::Relaxed);
            ensure!(begun >= CONTAINERS * tenth / 10, "{begun} are begun");
            Ok(())
        })?;
        let (daemon, engine) = (tenth % 2, tenth / 2 % 2);
        cluster.daemon(daemon).kill9()?;
        cluster.daemon(daemon).up()?;
        cluster.engine_mut(engine).kill9()?;
        cluster.engine_mut(engine).start()?;
    }
    Ok(())
}

/// No container runs: nothing is leased, and no interface or entry is left.
fn is_tidy(cluster: &Cluster) -> Result<()> {
    wait_for("everything to be given back", TIDY, || {
        let leases = cluster.cli(0).run("lease ls --network churn")?;
        let used =
            |view: &&serde_json::Value| ["pending", "active", "kept"].iter().any(|s| view["lease"]["state"] == **s);
        let left: Vec<_> = leases["leases"].as_array().into_iter().flatten().filter(used).collect();
        ensure!(left.is_empty(), "{left:?}");
        let answer = cluster.cli(1).run("network inspect churn")?;
        ensure!(answer["endpoints"].as_array().is_none_or(Vec::is_empty), "{answer}");
        for host in [0, 1] {
            let overlay = cluster.overlay(host).run("ip", &["-o", "link"])?;
            ensure!(!overlay.contains("vx") && !overlay.contains("@"), "h{}: {overlay}", host + 1);
            let own = cluster.hosts()[host].netns.run("ip", &["-o", "link"])?;
            // An engine that is killed while it starts a container leaves what it has just put on its own bridge.
            ensure!(!own.contains(": pt"), "h{}: {own}", host + 1);
        }
        Ok(())
    })?;
    cluster.cli(0).run("network rm churn").map(drop)
}

#[test]
fn nothing_is_left_of_many_containers() -> Result<()> {
    on_engines(&[EngineKind::Debian, EngineKind::Suite("trixie")], |cluster| {
        cluster.engine(0).docker(&format!("{CREATE} churn"))?;
        appears(cluster, 1, "churn")?;
        let (next, running, failures) = (AtomicUsize::new(0), Running::default(), Mutex::new(Vec::new()));
        let begin = Instant::now();
        let engines = || [0, 1].map(|host| Docker::clone(cluster.engine(host)));
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| engines()).collect();
        thread::scope(|scope| {
            let work = |engines| scope.spawn(|| work(engines, &next, &running, &failures));
            let workers: Vec<_> = workers.into_iter().map(work).collect();
            let harm = harm(cluster, &next);
            let worked = workers.into_iter().try_for_each(|worker| worker.join().ok().context("a worker panicked")?);
            harm.and(worked)
        })?;
        println!("{CONTAINERS} containers in {:?}", begin.elapsed());
        let failures = failures.into_inner()?;
        println!("{} could not start: {failures:#?}", failures.len());
        for told in &failures {
            ensure!(is_explained(told), "the user was told {told:?}");
        }
        ensure!(failures.len() < CONTAINERS / 3, "{} of {CONTAINERS} failed", failures.len());
        is_tidy(cluster)
    })
}
