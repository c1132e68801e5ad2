//! Asking daemons that may be killed, or stand still, at any moment.

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use pontoon_tests::lab::Cluster;
use pontoon_tests::socket;
use tokio::runtime::Runtime;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tonic::transport::Channel;
use tonic::{Response, Status};

/// How long an answer is waited for. A daemon answers within 10 s, also without quorum.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it is tried before the cluster is called broken. An election takes a second, a daemon's start a few.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(100);

/// A node, and a connection to its daemon. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Its host.
    pub(crate) host: usize,
    /// Its name.
    pub(crate) name: String,
    /// Its admin socket.
    pub(crate) socket: PathBuf,
    /// A connection, which is made again by itself when the daemon is.
    pub(crate) channel: Channel,
}

/// Connects to every daemon.
pub(crate) fn connect(cluster: &mut Cluster, runtime: &Runtime) -> Result<Vec<Node>> {
    let names: Vec<String> = cluster.hosts().iter().map(|host| host.name.clone()).collect();
    let nodes = names.into_iter().enumerate().map(|(host, name)| {
        let socket = cluster.daemon(host).socket();
        let channel = runtime.block_on(socket::connect(&socket))?;
        Ok(Node { host, name, socket, channel })
    });
    nodes.collect()
}

/// The answer to a call, or why there is none.
pub(crate) async fn answer<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match timeout(PATIENCE, call).await {
        Ok(answered) => answered.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {PATIENCE:?}"))),
    }
}

/// Something that is tried until it is done.
#[derive(Debug)]
pub(crate) struct Tries {
    what: String,
    begun: Instant,
    tick: Interval,
    /// Whether it was tried before.
    pub(crate) again: bool,
}

impl Tries {
    /// Begins to try this.
    pub(crate) fn of(what: String) -> Self {
        Self { what, begun: Instant::now(), tick: paced(AGAIN), again: false }
    }

    /// Waits a moment after a try that has failed with this.
    ///
    /// # Errors
    ///
    /// It has failed for a minute.
    pub(crate) async fn failed(&mut self, status: &Status) -> Result<()> {
        if self.begun.elapsed() > GIVE_UP {
            bail!("cannot {}, after {GIVE_UP:?} of tries: {:?}: {}", self.what, status.code(), status.message());
        }
        self.again = true;
        self.tick.tick().await;
        Ok(())
    }
}

/// Ticks that are never nearer than this.
pub(crate) fn paced(period: Duration) -> Interval {
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}
