//! Much going on for a long time on a real cluster, and whether memory, disk and the kernel stay flat. `make soak` runs it.
//!
//! Five daemons, three of which vote. Networks come and go with their containers, labels are written, watchers come and
//! go; daemons are killed, stopped and stand still. At the end, all that was acknowledged must be there, and once it is
//! removed, nothing of it in the kernel.

mod churn;
mod client;
mod harm;
mod judge;
mod label;
mod remains;
mod sample;
mod slot;
mod table;
mod watcher;

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pontoon_tests::elapse;
use pontoon_tests::lab::{Cluster, Options, run_with};
use tokio::runtime::Runtime;

use churn::Churn;
use client::Node;
use harm::Harm;
use judge::Course;
use remains::Kernel;

/// Hosts.
const HOSTS: usize = 5;
/// Samples of each daemon in the whole time.
const SAMPLES: u32 = 60;
/// Samples are not nearer than this.
const EVERY: Duration = Duration::from_secs(2);
/// Between two things that are done to daemons.
const HARM_EVERY: Duration = Duration::from_secs(12);
/// How often it is told how far it is.
const TOLD: u32 = 10;

/// Churns on a real cluster for so long, and fails unless it stays flat.
#[derive(Debug, Parser)]
struct CommandLine {
    /// For so many minutes, after what it takes to get warm.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    minutes: u32,
}

/// Why it failed is said last, and in one line: what is above it are the daemons' logs.
fn main() -> ExitCode {
    match run(Duration::from_secs(60) * CommandLine::parse().minutes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(length: Duration) -> Result<()> {
    let runtime = Runtime::new().context("cannot start the clients' runtime")?;
    run_with(Options { hosts: HOSTS, ..Options::default() }, |cluster| {
        cluster.form()?;
        soak(cluster, length, &runtime)
    })
}

fn soak(cluster: &mut Cluster, length: Duration, runtime: &Runtime) -> Result<()> {
    let mut harm = Harm::prepare(cluster)?;
    let bare = Kernel::look(cluster)?;
    let nodes = client::connect(cluster, runtime)?;
    let mut churn = Churn::start(cluster, nodes.clone(), runtime)?;
    println!("getting warm: what the daemons keep within bounds is filled");
    let warm_up = churn.warm_up(runtime)?;
    println!("warm after {warm_up:.0?}; now it counts, for {length:?}");
    let mut courses = begin(&nodes);
    let churned = measure(cluster, (&mut churn, &mut harm), (&mut courses, length), runtime);
    let written = churn.shared.written.load(Ordering::Relaxed);
    let how = format!(
        "{HOSTS} daemons, 3 of which vote, for {length:?} after {warm_up:.0?} that do not count. {written} writes were \
         acknowledged; daemons were started {} times, and leadership went to another one {} times. The quarters are medians.",
        harm.starts.iter().sum::<u32>(),
        harm.leaders
    );
    println!("\n{}", table::table(&courses, length, how));
    churned?;

    let mut left = churn.stop(runtime)?;
    cluster.wait_all_ready()?;
    remains::all_is_there(&nodes, &left, runtime)?;
    cluster.wait_same_state()?;
    runtime.block_on(left.clear())?;
    let mut wrong = judge::judge(&courses, length);
    wrong.extend(bare.is_again(cluster).err().map(|error| format!("{error:#}")));
    ensure!(wrong.is_empty(), "it does not stay flat:\n  {}", wrong.join("\n  "));
    println!("Flat. All that was acknowledged was on every node, and nothing of it is left in the kernel.");
    Ok(())
}

fn begin(nodes: &[Node]) -> Vec<Course> {
    nodes.iter().map(|node| Course { node: node.name.clone(), samples: Vec::new() }).collect()
}

/// Does harm now and then, and samples every daemon.
fn measure(
    cluster: &mut Cluster,
    (churn, harm): (&mut Churn, &mut Harm),
    (courses, length): (&mut [Course], Duration),
    runtime: &Runtime,
) -> Result<()> {
    let nodes: Vec<Node> = churn.shared.nodes.clone();
    let begun = Instant::now();
    let (mut next_sample, mut next_harm, mut next_told) = (Duration::ZERO, HARM_EVERY, length / TOLD);
    while begun.elapsed() < length {
        churn.check()?;
        if begun.elapsed() >= next_sample {
            next_sample += EVERY.max(length / SAMPLES);
            for (node, course) in nodes.iter().zip(&mut *courses) {
                let when = (begun.elapsed(), harm.starts[node.host]);
                course.samples.push(sample::take(cluster, node, when, runtime)?);
            }
        }
        if begun.elapsed() >= next_harm {
            let done = harm.next(cluster)?;
            println!("{:>6.0?} {done}", begun.elapsed());
            next_harm = begun.elapsed() + HARM_EVERY;
        }
        if begun.elapsed() >= next_told {
            next_told += length / TOLD;
            let written = churn.shared.written.load(Ordering::Relaxed);
            println!("{:>6.0?} {written} writes acknowledged", begun.elapsed());
        }
        let next = next_sample.min(next_harm).min(next_told).min(length);
        elapse(next.saturating_sub(begun.elapsed()));
    }
    Ok(())
}
