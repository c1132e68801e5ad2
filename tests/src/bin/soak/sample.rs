//! What a daemon takes at one moment.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pontoon_proto::v1::StatusRequest;
use pontoon_proto::v1::cluster_service_client::ClusterServiceClient;
use pontoon_tests::lab::{Cluster, Netns};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::client::{Node, Tries, answer};

/// Bytes of a block, as the system counts a file's (stat(2)).
const BLOCK: u64 = 512;
/// Kinds of interfaces that a daemon makes.
const KINDS: [&str; 3] = ["vxlan", "veth", "bridge"];

/// What a daemon takes at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// When, since the churn is measured.
    pub(crate) at: Duration,
    /// How often the daemon has been started by then.
    pub(crate) starts: u32,
    /// Resident memory, in bytes (`VmRSS`).
    pub(crate) resident: u64,
    /// Open file descriptors.
    pub(crate) descriptors: u64,
    /// Threads.
    pub(crate) threads: u64,
    /// Bytes that its write-ahead log takes on disk, with what is allocated in advance.
    pub(crate) log: u64,
    /// Bytes that its snapshots take on disk.
    pub(crate) snapshots: u64,
    /// Bytes that the materialised state takes on disk: sled's folder.
    pub(crate) state: u64,
    /// VXLAN, veth and bridge interfaces on its host and in its overlay's namespace.
    pub(crate) interfaces: u64,
    /// Last entry of its log: entries written since there is a cluster.
    pub(crate) entries: u64,
}

/// Samples a daemon that has been started so often and runs.
pub(crate) fn take(
    cluster: &mut Cluster,
    node: &Node,
    (at, starts): (Duration, u32),
    runtime: &Runtime,
) -> Result<Sample> {
    let daemon = cluster.daemon(node.host);
    let pid = daemon.pid().with_context(|| format!("the daemon on {} does not run", node.name))?;
    let process = Path::new("/proc").join(pid.to_string());
    let ended =
        || format!("{} shows no running daemon: the one on {} has ended by itself", process.display(), node.name);
    let status = fs::read_to_string(process.join("status")).with_context(ended)?;
    let field = |name: &str| -> Result<u64> {
        let value = status.lines().find_map(|line| line.strip_prefix(name)).with_context(ended)?;
        Ok(value.trim().trim_end_matches("kB").trim().parse()?)
    };
    let store = daemon.data_dir().join("store");
    let overlay = daemon.overlay().clone();
    Ok(Sample {
        at,
        starts,
        resident: field("VmRSS:")? * 1024,
        descriptors: fs::read_dir(process.join("fd")).with_context(ended)?.count().try_into()?,
        threads: field("Threads:")?,
        log: on_disk(&store.join("log"))?,
        snapshots: on_disk(&store.join("snapshots"))?,
        state: on_disk(&store.join("state"))?,
        interfaces: interfaces(&overlay)? + interfaces(&cluster.hosts()[node.host].netns)?,
        entries: runtime.block_on(last_index(node))?,
    })
}

/// Tries, as the clients do: a connection may still be the one to the daemon that was killed.
async fn last_index(node: &Node) -> Result<u64> {
    let mut tries = Tries::of(format!("ask {} for its status", node.name));
    loop {
        match answer(ClusterServiceClient::new(node.channel.clone()).status(StatusRequest {})).await {
            Ok(status) => return Ok(status.last_index),
            Err(status) => tries.failed(&status).await?,
        }
    }
}

/// Bytes that a folder takes, with all that is in it. What goes while it is looked at does not count.
fn on_disk(path: &Path) -> Result<u64> {
    match look(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        looked => looked.with_context(|| format!("cannot look at {}", path.display())),
    }
}

fn look(path: &Path) -> io::Result<u64> {
    let entry = fs::symlink_metadata(path)?;
    let mut bytes = entry.blocks() * BLOCK;
    if entry.is_dir() {
        for inside in fs::read_dir(path)? {
            bytes += match look(&inside?.path()) {
                Err(error) if error.kind() == ErrorKind::NotFound => 0,
                looked => looked?,
            };
        }
    }
    Ok(bytes)
}

/// Interfaces in a namespace that are of a kind that a daemon makes; none if the namespace is not there yet.
fn interfaces(netns: &Netns) -> Result<u64> {
    if !netns.path().exists() {
        return Ok(0);
    }
    let text = netns.run("ip", &["-json", "-details", "link", "show"])?;
    let links: Value = serde_json::from_str(&text).with_context(|| format!("ip printed {text:?}"))?;
    let links = links.as_array().context("ip printed no list")?;
    let is_made = |link: &&Value| link["linkinfo"]["info_kind"].as_str().is_some_and(|kind| KINDS.contains(&kind));
    Ok(links.iter().filter(is_made).count().try_into()?)
}
