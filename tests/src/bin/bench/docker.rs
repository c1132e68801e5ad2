//! `docker run` and `docker network create` on real engines, beside the engine's bridge and Swarm's overlay.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pontoon_tests::lab::{Cluster, Engine, EngineKind, IMAGE, Options, run_with};

use crate::least::{DRIVER, Least};
use crate::stats::{ms, number, percentile};
use pontoon_tests::Section;

/// How often each network is made, in turn with the others.
const RUNS: usize = 10;
/// Before them, uncounted.
const WARM: usize = 2;
/// A network must be there within this.
const DEADLINE: Duration = Duration::from_secs(20);

/// Engines to start containers on.
const ENGINES: [EngineKind; 2] = [EngineKind::Debian, EngineKind::Suite("trixie")];

/// Measures and reports.
pub(crate) fn measure() -> Result<Vec<Section>> {
    let mut rows = Vec::new();
    let mut made = None;
    for kind in ENGINES {
        run_with(Options { hosts: 2, engines: vec![kind; 2], ..Options::default() }, |cluster| {
            cluster.form()?;
            cluster.cli(0).run("network create ours --wait")?;
            cluster.engine(0).docker("network create own-bridge")?;
            let _least = Least::start(cluster.engine(0), EACH * (ROUNDS + 1))?;
            cluster.engine(0).docker(&format!("network create -d {DRIVER} --ipam-driver {DRIVER} least"))?;
            swarm(cluster)?;
            let version = cluster.engine(0).version()?;
            rows.extend(runs(cluster.engine(0), &version)?);
            if kind == EngineKind::Debian {
                made = Some(networks(cluster, &version)?);
            }
            Ok(())
        })?;
    }
    Ok([Some(started(rows)), made].into_iter().flatten().collect())
}

/// Puts both engines into a swarm as managers, the only nodes of one that list a network before they use it, and makes an
/// overlay there that plain containers can be on.
fn swarm(cluster: &Cluster) -> Result<()> {
    let [first, second] = [0, 1].map(|host| cluster.hosts()[host].address);
    let (one, two) = (cluster.engine(0), cluster.engine(1));
    one.docker(&format!("swarm init --advertise-addr {first} --data-path-port 4790"))?;
    let token = one.docker("swarm join-token -q manager")?;
    two.docker(&format!("swarm join --advertise-addr {second} --token {token} {first}:2377"))?;
    one.docker("network create -d overlay --attachable swarm")?;
    Ok(())
}

/// Times a command of an engine.
fn time(engine: &Engine, line: &str) -> Result<Duration> {
    let start = Instant::now();
    engine.docker(line)?;
    Ok(start.elapsed())
}

/// Networks to start a container on.
const NETWORKS: [&str; 5] = ["bridge", "own-bridge", "least", "ours", "swarm"];
/// In which order: each follows each other one once in a round, and a round the one before. An engine is at work on the removal
/// of a container for a while after the command has ended, and the longer the more its network asks of it.
const ROUND: [usize; 20] = [0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 1, 3, 1, 4, 2, 3, 2, 4, 3, 4];
/// How often each is there in a round.
const EACH: u32 = 4;
/// Rounds that count, after one that does not.
const ROUNDS: u32 = 3;

/// How long `docker run` takes on each network.
fn runs(engine: &Engine, version: &str) -> Result<Vec<Vec<String>>> {
    let mut times = [const { Vec::new() }; NETWORKS.len()];
    for round in 0..=ROUNDS {
        for (number, at) in ROUND.into_iter().enumerate() {
            let network = NETWORKS[at];
            let name = format!("{network}{round}-{number}");
            let took = time(engine, &format!("run -d --net {network} --name {name} {IMAGE}"))?;
            if round > 0 {
                times[at].push(took);
            }
            engine.docker(&format!("rm -f {name}"))?;
        }
    }
    times.iter_mut().for_each(|times| times.sort_unstable());
    let row = |what: &str, percent: usize| {
        let times = times.each_ref().map(|times| ms(percentile(times, percent)));
        let over_bridge = times[1..].iter().map(|time| time - times[0]);
        let cells: Vec<String> = times.iter().copied().chain(over_bridge).map(number).collect();
        [vec![version.to_owned(), what.to_owned()], cells].concat()
    };
    Ok(vec![row("least", 0), row("p50", 50), row("most", 100)])
}

fn started(rows: Vec<Vec<String>>) -> Section {
    Section {
        title: "`docker run -d` on a network",
        how: format!(
            "Two hosts with engines of the same version, which are Pontoon nodes and managers of a swarm at the same time; the \
             container is started and removed on one of them, on the engine's bridge, on a bridge network that a user made there, \
             on a network of a driver that does the least that an engine asks of one, on a Pontoon network and on an attachable \
             Swarm overlay, in an order in which each follows each other one as often. The engine sets up a resolver in a \
             container on any but the first, with a dozen runs of iptables, and gives one on the last three a second interface: \
             what the least driver takes over the bridge is the engine's own. {} times each after {EACH} that do not count. \
             Milliseconds from the command to its end.",
            EACH * ROUNDS
        ),
        header: vec![
            "engine",
            "",
            "bridge",
            "user's bridge",
            "least driver",
            "Pontoon",
            "Swarm",
            "user's bridge over bridge",
            "least driver over bridge",
            "Pontoon over bridge",
            "Swarm over bridge",
        ],
        rows,
    }
}

/// From the end of `docker network create` on one host until the other engine lists the network.
fn networks(cluster: &Cluster, version: &str) -> Result<Section> {
    let drivers = [("ours", "-d pontoon --ipam-driver pontoon"), ("swarm", "-d overlay --attachable")];
    let (mut made, mut seen) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    for number in 0..WARM + RUNS {
        for (at, (kind, options)) in drivers.iter().enumerate() {
            let name = format!("{kind}-{number}");
            let start = Instant::now();
            cluster.engine(0).docker(&format!("network create {options} {name}"))?;
            let created = start.elapsed();
            let listed = until_listed(cluster.engine(1), &name, start)?;
            if number >= WARM {
                made[at].push(created);
                seen[at].push(listed);
            }
            cluster.engine(0).docker(&format!("network rm {name}"))?;
        }
    }
    made.iter_mut().chain(&mut seen).for_each(|times| times.sort_unstable());
    let row = |what: &str, times: &[Vec<Duration>; 2]| {
        let of = |percent: usize| times.each_ref().map(|times| number(ms(percentile(times, percent))));
        let ([ours, theirs], [most, most_theirs]) = (of(50), of(100));
        vec![what.to_owned(), ours, theirs, most, most_theirs]
    };
    Ok(Section {
        title: "`docker network create`, and the network on the other host",
        how: format!(
            "The same hosts, Docker {version}: the command on one, and from its beginning until `docker network ls` on the other \
             lists the network, asked again and again (one such command takes some 40 ms). {RUNS} times each, in turn, after \
             {WARM} that do not count. Milliseconds."
        ),
        header: vec!["", "Pontoon, p50", "Swarm, p50", "Pontoon, most", "Swarm, most"],
        rows: vec![row("until the command ends", &made), row("until the other host lists it", &seen)],
    })
}

fn until_listed(engine: &Engine, name: &str, start: Instant) -> Result<Duration> {
    while start.elapsed() < DEADLINE {
        let listed = engine.docker("network ls --format {{.Name}}").context("listing networks")?;
        if listed.lines().any(|line| line == name) {
            return Ok(start.elapsed());
        }
        thread::yield_now();
    }
    bail!("network {name} is not on the other host")
}
