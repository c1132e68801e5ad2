//! Names of containers: how fast they are answered, beside Docker's resolver, and how fresh they are.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hickory_proto::rr::RecordType;
use pontoon_tests::Section;
use pontoon_tests::lab::dns::{Asker, Resolver, question};
use pontoon_tests::lab::{Cluster, EngineKind, IMAGE, Options, ROUTER, run_with};
use pontoon_tests::wait_for;

use crate::stats::{median, ms, number, per_second, percentile, ratio};

/// Questions of one turn.
const QUESTIONS: usize = 20_000;
/// Turns of each, one after the other.
const TURNS: usize = 5;
/// Questions under way at once, when there are several.
const UNDER_WAY: usize = 32;
/// Containers that are started and stopped.
const STARTS: usize = 100;
/// How long a name may take to be known, or forgotten.
const SOON: Duration = Duration::from_secs(10);

/// Measures and reports.
pub(crate) fn measure() -> Result<Vec<Section>> {
    let mut sections = Vec::new();
    let engines = vec![EngineKind::Debian, EngineKind::Suite("trixie")];
    run_with(Options { hosts: 2, engines, ..Options::default() }, |cluster| {
        cluster.form()?;
        let _lan = Resolver::start(cluster.router(), ROUTER.into())?;
        cluster.cli(0).run("network create ours --wait")?;
        for host in [0, 1] {
            let engine = cluster.engine(host);
            engine.ask_name_servers(&[ROUTER.into()])?;
            engine.docker("network create own-bridge")?;
            for (network, name) in
                [("ours", "asker"), ("ours", "there"), ("own-bridge", "asks-docker"), ("own-bridge", "beside")]
            {
                engine.docker(&format!("run -d --net {network} --name {name}{host} {IMAGE}"))?;
            }
        }
        sections.push(speed(cluster)?);
        sections.push(freshness(cluster)?);
        Ok(())
    })?;
    Ok(sections)
}

fn asker(cluster: &Cluster, host: usize, container: &str) -> Result<Asker> {
    Asker::in_container(cluster.engine(host), container)
}

/// Questions in a second, and how long each takes, sorted.
type Turn = (f64, Vec<Duration>);

/// Asks for a name again and again, with some questions under way at any time.
fn turn(asker: &Asker, name: &str, under_way: usize) -> Result<Turn> {
    let message = question(name, RecordType::A)?.to_vec()?;
    let numbered = |number: usize| {
        let mut message = message.clone();
        message[..2].copy_from_slice(&u16::try_from(number % under_way).unwrap_or_default().to_be_bytes());
        message
    };
    let (start, mut since, mut times) =
        (Instant::now(), vec![Instant::now(); under_way], Vec::with_capacity(QUESTIONS));
    for number in 0..under_way {
        asker.send(&numbered(number))?;
    }
    for asked in under_way..QUESTIONS + under_way {
        let answer = asker.receive()?;
        ensure!(answer.get(6..8) == Some(&[0, 1]), "{name} has no address");
        let slot = usize::from(u16::from_be_bytes([answer[0], answer[1]]));
        times.push(since[slot].elapsed());
        if asked < QUESTIONS {
            since[slot] = Instant::now();
            asker.send(&numbered(slot))?;
        }
    }
    let rate = per_second(QUESTIONS as u64, start.elapsed());
    times.sort_unstable();
    Ok((rate, times))
}

/// A name of another host, answered by us, and one of the same host, answered by Docker's resolver.
fn speed(cluster: &Cluster) -> Result<Section> {
    let mut rows = Vec::new();
    for host in [0, 1] {
        let version = cluster.engine(host).version()?;
        let (ours, theirs) =
            (asker(cluster, host, &format!("asker{host}"))?, asker(cluster, host, &format!("asks-docker{host}"))?);
        let (name, beside) = (format!("there{}", 1 - host), format!("beside{host}"));
        for (asker, name) in [(&ours, &name), (&theirs, &beside)] {
            known(asker, name)?;
        }
        for under_way in [1, UNDER_WAY] {
            let (mut rates, mut times) = ([vec![], vec![]], [vec![], vec![]]);
            for _ in 0..TURNS {
                for (at, (asker, name)) in [(&ours, &name), (&theirs, &beside)].into_iter().enumerate() {
                    let (rate, took) = turn(asker, name, under_way)?;
                    rates[at].push(rate);
                    times[at].extend(took);
                }
            }
            times.iter_mut().for_each(|times| times.sort_unstable());
            let rate = rates.each_ref().map(|rates| median(rates));
            let micros = |at: usize, percent| number(ms(percentile(&times[at], percent)) * 1e3);
            let what = format!("{}, {under_way}", version.split('+').next().unwrap_or_default());
            let latencies = [micros(0, 50), micros(1, 50), micros(0, 99), micros(1, 99)];
            let cells = [vec![what, number(rate[0]), number(rate[1]), ratio(rate[0], rate[1])], latencies.to_vec()];
            rows.push(cells.concat());
        }
    }
    Ok(Section {
        title: "A container's name",
        how: format!(
            "Asked by UDP from inside a container, 127.0.0.11, by one program with one or {UNDER_WAY} questions under way: on a \
             Pontoon network for a container of the other host, and on a bridge network of the same engine for a container \
             beside it, which Docker's resolver answers. {QUESTIONS} questions, {TURNS} times in turn; the median of the rates, \
             and the percentiles of all. Microseconds."
        ),
        header: vec![
            "engine, under way",
            "Pontoon/s",
            "Docker/s",
            "ratio",
            "Pontoon p50",
            "Docker p50",
            "Pontoon p99",
            "Docker p99",
        ],
        rows,
    })
}

fn known(asker: &Asker, name: &str) -> Result<IpAddr> {
    wait_for(&format!("{name} to be known"), SOON, || {
        asker.addresses(name)?.first().copied().with_context(|| format!("{name} is not known"))
    })
}

/// From the end of `docker run` and `docker stop` until other hosts tell of it.
fn freshness(cluster: &Cluster) -> Result<Section> {
    let (own, other) = (asker(cluster, 0, "asker0")?, asker(cluster, 1, "asker1")?);
    let (mut came, mut went) = (Vec::new(), Vec::new());
    let until = |told: &mut dyn FnMut() -> Result<bool>| -> Result<Duration> {
        let start = Instant::now();
        while !told()? {
            ensure!(start.elapsed() < SOON, "it is not told");
        }
        Ok(start.elapsed())
    };
    for number in 0..STARTS {
        let name = format!("fresh{number}");
        cluster.engine(0).docker(&format!("run -d --net ours --name {name} {IMAGE}"))?;
        came.push(until(&mut || Ok(!other.addresses(&name)?.is_empty()))?);
        cluster.engine(0).docker(&format!("stop {name}"))?;
        went.push(until(&mut || Ok(other.addresses(&name)?.is_empty()))?);
        cluster.engine(0).docker(&format!("rm {name}"))?;
    }
    let mut own_late = 0;
    for number in 0..STARTS {
        let name = format!("own{number}");
        cluster.engine(0).docker(&format!("run -d --net ours --name {name} {IMAGE}"))?;
        own_late += usize::from(own.addresses(&name)?.is_empty());
        cluster.engine(0).docker(&format!("rm -f {name}"))?;
    }
    let row = |what: &str, mut times: Vec<Duration>| {
        times.sort_unstable();
        let of = |percent| number(ms(percentile(&times, percent)));
        vec![what.to_owned(), of(50), of(99), of(100)]
    };
    Ok(Section {
        title: "How soon a name is known and forgotten",
        how: format!(
            "Two hosts. {STARTS} containers are started and stopped on one, and a container on the other asks for the name without \
             a pause from the end of the command. On its own host the name was not known at the end of `docker run` in {own_late} of \
             {STARTS} more cases. Milliseconds."
        ),
        header: vec!["", "p50", "p99", "most"],
        rows: vec![
            row("`docker run`, until the other host tells the name", came),
            row("`docker stop`, until it does not", went),
        ],
    })
}
