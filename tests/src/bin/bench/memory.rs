//! Memory of a daemon that has nothing to do, beside an etcd member's.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::unistd::Pid;
use pontoon_tests::lab::{Cluster, run};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::etcd::Etcd;
use crate::stats::{number, ratio};
use crate::writer::{VALUE_BYTES, Writer};
use pontoon_tests::Section;

/// Networks that exist.
const NETWORKS: usize = 10;
/// Endpoints that exist, two on each network.
const ENDPOINTS: usize = 20;

/// Writes by each of these many clients make the load after which it is measured again.
const CLIENTS: usize = 32;
/// Writes of each.
const WRITES: u64 = 300;

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
        rows.extend(look(cluster, &etcd, "idle", runtime)?);
        let daemons = cluster.daemons().iter().map(|daemon| daemon.socket()).collect::<Vec<_>>();
        let members = (0..3).map(|host| etcd.socket(host)).collect::<Vec<_>>();
        runtime.block_on(write_many(&daemons, &members))?;
        cluster.wait_same_state()?;
        rows.extend(look(cluster, &etcd, "after the writes", runtime)?);
        Ok(())
    })?;
    Ok(Section {
        title: "Idle memory",
        how: format!(
            "3 nodes with {NETWORKS} networks and {ENDPOINTS} endpoints, nothing going on; etcd holds as many keys. Again after {} writes (labels, \
             and values of {VALUE_BYTES} bytes). \"Resident\" is \
             VmRSS, \"its share\" divides shared pages among their users (Pss). MB. What etcd does for the classic overlay comes \
             on top of dockerd's 90-106 MB (measured elsewhere: Docker 20.10).",
            CLIENTS as u64 * WRITES
        ),
        header: vec!["", "pontoond", "etcd", "ratio"],
        rows,
    })
}

/// Rows of the leaders and of a follower each.
fn look(cluster: &mut Cluster, etcd: &Etcd, when: &str, runtime: &Runtime) -> Result<Vec<Vec<String>>> {
    let (our_leader, their_leader) = (cluster.leader()?, etcd.wait_agreed(runtime)?);
    let (our_follower, their_follower) = ((our_leader + 1) % 3, (their_leader + 1) % 3);
    let mut rows = Vec::new();
    for (what, ours, theirs) in [("leader", our_leader, their_leader), ("follower", our_follower, their_follower)] {
        let ours = Memory::of(cluster.daemon(ours).pid().context("pontoond does not run")?)?;
        let theirs = Memory::of(etcd.pid(theirs).context("etcd does not run")?)?;
        let row = |kind: &str, ours: f64, theirs: f64| {
            vec![format!("{when}: {what}, {kind}"), number(ours), number(theirs), ratio(ours, theirs)]
        };
        rows.push(row("resident", ours.rss, theirs.rss));
        rows.push(row("its share", ours.pss, theirs.pss));
    }
    Ok(rows)
}

/// As many writes to both, one after the other.
async fn write_many(daemons: &[PathBuf], members: &[PathBuf]) -> Result<()> {
    for ours in [true, false] {
        let mut tasks = JoinSet::new();
        for client in 0..CLIENTS {
            let mut writer = match ours {
                true => Writer::label(&daemons[client % daemons.len()], client).await?,
                false => Writer::put(&members[client % members.len()], client).await?,
            };
            tasks.spawn(async move {
                for number in 0..WRITES {
                    writer.write(number).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
    }
    Ok(())
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
