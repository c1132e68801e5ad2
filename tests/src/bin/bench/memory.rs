//! Memory of a daemon that has nothing to do, beside an etcd member's.

use std::fs;

use anyhow::{Context, Result};
use nix::unistd::Pid;
use pontoon_tests::lab::{Cluster, run};
use tokio::runtime::Runtime;

use crate::etcd::Etcd;
use crate::report::Section;
use crate::stats::{number, ratio};
use crate::writer::Writer;

/// Networks that exist.
const NETWORKS: usize = 10;
/// Endpoints that exist, two on each network.
const ENDPOINTS: usize = 20;

/// A process' memory, in MB.
#[derive(Debug, Clone, Copy)]
struct Memory {
    /// Resident: with the pages that it shares, such as the other daemons' program text.
    rss: f64,
    /// Its share: a page shared by three counts a third.
    pss: f64,
}

/// Measures and reports.
pub(crate) fn measure(runtime: &Runtime) -> Result<Section> {
    let mut rows = Vec::new();
    run(|cluster| {
        let etcd = Etcd::start(cluster, runtime)?;
        populate(cluster)?;
        runtime.block_on(populate_etcd(&etcd))?;
        let (our_leader, their_leader) = (cluster.leader()?, etcd.wait_agreed(runtime)?);
        let our_follower = (our_leader + 1) % 3;
        let their_follower = (their_leader + 1) % 3;
        for (what, ours, theirs) in [("leader", our_leader, their_leader), ("follower", our_follower, their_follower)] {
            let ours = Memory::of(cluster.daemon(ours).pid().context("pontoond does not run")?)?;
            let theirs = Memory::of(etcd.pid(theirs).context("etcd does not run")?)?;
            let row = |kind: &str, ours: f64, theirs: f64| {
                vec![format!("{what}, {kind}"), number(ours), number(theirs), ratio(ours, theirs)]
            };
            rows.push(row("resident", ours.rss, theirs.rss));
            rows.push(row("its share", ours.pss, theirs.pss));
        }
        Ok(())
    })?;
    Ok(Section {
        title: "Idle memory",
        how: format!(
            "3 nodes with {NETWORKS} networks and {ENDPOINTS} endpoints, nothing going on; etcd holds as many keys. \"Resident\" is \
             VmRSS, \"its share\" divides shared pages among their users (Pss). MB. What etcd does for the classic overlay comes \
             on top of dockerd's 90-106 MB (measured elsewhere: Docker 20.10)."
        ),
        header: vec!["", "pontoond", "etcd", "ratio"],
        rows,
    })
}

impl Memory {
    fn of(pid: Pid) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let field = |name: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"));
            let kib: f64 = line.with_context(|| format!("{path} has no {name}"))?.trim().parse()?;
            Ok(kib * 1024.0 / 1e6)
        };
        Ok(Self { rss: field("Rss:")?, pss: field("Pss:")? })
    }
}

fn populate(cluster: &mut Cluster) -> Result<()> {
    for number in 0..NETWORKS {
        cluster.cli(number % 3).run(&format!("network create net-{number}"))?;
    }
    for number in 0..ENDPOINTS {
        cluster.attached(number % 3, &format!("idle-{number}"), &format!("net-{}", number % NETWORKS))?;
    }
    cluster.wait_same_state()
}

async fn populate_etcd(etcd: &Etcd) -> Result<()> {
    for number in 0..NETWORKS + ENDPOINTS {
        Writer::put(&etcd.socket(number % 3), number).await?.write(0).await?;
    }
    Ok(())
}
