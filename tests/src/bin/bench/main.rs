//! Figures, side by side with a peer in the same run. `make bench` runs it; docs/benchmarks.md keeps what it printed.
//!
//! Never a test: nothing here fails because it is slow.

mod beside;
mod catch_up;
mod docker;
mod etcd;
mod failover;
mod fill;
mod handover;
mod least;
mod memory;
mod names;
mod observers;
mod program;
mod replace;
mod report;
mod scale;
mod stats;
mod tls;
mod traffic;
mod writer;
mod writes;

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tokio::runtime::Runtime;

/// Measures Pontoon beside its peers.
#[derive(Debug, Parser)]
struct CommandLine {
    /// What to measure; everything when none is given.
    which: Vec<Part>,
    /// Also write the report into this file.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    /// Committed writes, beside etcd.
    Writes,
    /// The leader's SIGKILL to the next committed write, and what is noticed of its SIGTERM, beside etcd.
    Failover,
    /// A member that has missed 100,000 entries or lost its disk, until it is in step, and writes meanwhile.
    CatchUp,
    /// Leases, labels and connections, beside daemons that are built without TLS.
    Tls,
    /// TCP and small packets, beside the bare hosts and a VXLAN made by hand.
    Traffic,
    /// 10,000 endpoints of other nodes after the first local one, beside `bridge -batch` and `ip -batch`.
    Program,
    /// Idle memory, beside etcd.
    Memory,
    /// Names of containers, beside Docker's resolver, and how soon they are known.
    Names,
    /// `docker run` and `docker network create`, beside the engine's bridge and Swarm.
    Docker,
    /// A network on 27 nodes, most of which observe, and voters that are replaced there; and 10,000 endpoints on up to 200 nodes in one process.
    ///
    /// The last: what those nodes leave in this process makes each program slower that it starts afterwards.
    Observers,
}

fn main() -> Result<()> {
    let line = CommandLine::parse();
    let parts = if line.which.is_empty() { Part::value_variants() } else { &line.which };
    let runtime = Runtime::new().context("cannot start the clients' runtime")?;
    let machine = report::machine(&env::temp_dir())?;
    println!("{machine}\n");
    let mut sections = Vec::new();
    for part in parts {
        let measured = match part {
            Part::Writes => vec![writes::measure(&runtime)?],
            Part::Failover => vec![failover::measure(&runtime)?, handover::measure(&runtime)?],
            Part::CatchUp => vec![catch_up::measure(&runtime)?],
            Part::Tls => vec![tls::measure(&runtime)?],
            Part::Traffic => vec![traffic::measure()?],
            Part::Program => vec![program::measure(&runtime)?],
            Part::Memory => vec![memory::measure(&runtime)?],
            Part::Names => names::measure()?,
            Part::Docker => docker::measure()?,
            Part::Observers => observers::measure(&runtime)?.into_iter().chain([scale::measure()?]).collect(),
        };
        measured.iter().for_each(|section| println!("{section}"));
        sections.extend(measured);
    }
    if let Some(path) = line.markdown {
        let old = fs::read_to_string(&path).unwrap_or_default();
        let text = report::document(&machine, &sections) + report::kept(&old);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
