//! Whole clusters in a simulated world: the real store, reconcile loop and Watch API on simulated hosts, disks and links,
//! under a simulated clock. Everything in a run follows from its seed.

mod bug;
mod clients;
mod daemon;
mod inspector;
mod linear;
mod nemesis;
mod notes;
mod run;
mod secrets;
#[cfg(test)]
mod tests;
mod watcher;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;

use bug::Bug;
use run::{Plan, run};

/// Runs clusters in a simulated world, in which much goes wrong.
#[derive(Debug, Parser)]
struct Args {
    /// How many runs.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// One run, of which everything is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// A bug that is planted.
    #[arg(long)]
    bug: Option<Bug>,
    /// For how many simulated seconds things go wrong.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let plan = |seed| Plan {
        seed,
        time: Duration::from_secs(args.seconds),
        bug: args.bug,
        aloud: args.seed.is_some(),
        traced: false,
    };
    let begun = Instant::now();
    let (first, last) = match args.seed {
        Some(seed) => {
            tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
            (seed, seed)
        }
        None => (args.from, args.from + args.seeds.saturating_sub(1)),
    };
    let next = AtomicU64::new(first);
    let results = Mutex::new((BTreeMap::<&str, u64>::new(), 0_u64));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed > last {
            return;
        }
        let report = run(plan(seed));
        let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (what, count) in report.counts {
            *results.0.entry(what).or_default() += count;
        }
        if !report.violations.is_empty() {
            results.1 += 1;
            println!("seed {seed}: {}\n  again: make sim SEED={seed}", report.violations.join("\n  "));
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let (counts, failed) = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let counts: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
    println!("{}", counts.join(", "));
    println!("{} runs of {} s in {:.1?}, {failed} failed", last + 1 - first, args.seconds, begun.elapsed());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
