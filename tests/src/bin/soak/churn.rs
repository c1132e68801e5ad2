//! All clients together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use pontoon_tests::lab::Cluster;
use pontoon_tests::wait_for;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::client::Node;
use crate::label::{Label, Labeller};
use crate::slot::Slot;
use crate::watcher;

/// Networks at a time.
pub(crate) const NETWORKS: usize = 20;
/// Clients that write labels.
const LABELLERS: usize = 15;
/// Watchers at a time.
const WATCHERS: usize = 8;

/// So many entries are in memory at most: a snapshot is made after 10,000, and the log purged down to 1,000.
const WARM_WRITES: u64 = 12_000;
/// How long that may take.
const WARM_UP: Duration = Duration::from_secs(300);

/// What the clients share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Every node.
    pub(crate) nodes: Vec<Node>,
    /// Whether writes are to come as fast as they can.
    pub(crate) warming: AtomicBool,
    /// Whether the clients are to end.
    pub(crate) stop: AtomicBool,
    /// Writes that were acknowledged.
    pub(crate) written: AtomicU64,
}

impl Shared {
    /// One more write was acknowledged.
    pub(crate) fn done(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
    }
}

/// The clients at work.
#[derive(Debug)]
pub(crate) struct Churn {
    /// What they share.
    pub(crate) shared: Arc<Shared>,
    slots: JoinSet<Result<Slot>>,
    labellers: JoinSet<Result<Label>>,
    watchers: JoinSet<Result<()>>,
}

/// What the clients left.
#[derive(Debug)]
pub(crate) struct Left {
    /// Networks and containers.
    pub(crate) slots: Vec<Slot>,
    /// Labels.
    pub(crate) labels: Vec<Label>,
}

impl Left {
    /// Removes the networks and containers.
    pub(crate) async fn clear(&mut self) -> Result<()> {
        for slot in &mut self.slots {
            slot.clear().await?;
        }
        Ok(())
    }
}

impl Churn {
    /// Starts them.
    pub(crate) fn start(cluster: &Cluster, nodes: Vec<Node>, runtime: &Runtime) -> Result<Self> {
        let shared = Arc::new(Shared {
            nodes,
            warming: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            written: AtomicU64::new(0),
        });
        let slots = (0..NETWORKS).map(|number| Slot::new(cluster, number, &shared)).collect::<Result<Vec<_>>>()?;
        let _context = runtime.enter();
        Ok(Self {
            slots: slots.into_iter().map(Slot::work).collect(),
            labellers: (0..LABELLERS).map(|number| Labeller::new(number, &shared).work()).collect(),
            watchers: (0..WATCHERS).map(|_| watcher::work(shared.clone())).collect(),
            shared,
        })
    }

    /// Waits until the daemons have all that they keep within bounds, so that more of it displaces some of it. Returns how
    /// long that took.
    pub(crate) fn warm_up(&mut self, runtime: &Runtime) -> Result<Duration> {
        let begun = Instant::now();
        let nodes = self.shared.nodes.clone();
        let first = runtime.block_on(watcher::first_index(&nodes))?;
        wait_for("the daemons to be warm", WARM_UP, || {
            if let Err(failed) = self.check() {
                return Ok(Err(failed));
            }
            let written = self.shared.written.load(Ordering::Relaxed);
            ensure!(written >= WARM_WRITES, "{written} writes of {WARM_WRITES}");
            runtime.block_on(watcher::all_forget(&nodes, first)).map(Ok)
        })??;
        self.shared.warming.store(false, Ordering::Relaxed);
        Ok(begun.elapsed())
    }

    /// None of them has ended.
    ///
    /// # Errors
    ///
    /// Why one has.
    pub(crate) fn check(&mut self) -> Result<()> {
        let ended = [
            self.slots.try_join_next().map(|ended| ended?.map(drop)),
            self.labellers.try_join_next().map(|ended| ended?.map(drop)),
            self.watchers.try_join_next().map(|ended| ended?),
        ];
        match ended.into_iter().flatten().next() {
            None => Ok(()),
            Some(Err(error)) => Err(error),
            Some(Ok(())) => bail!("a client has ended although nobody told it to"),
        }
    }

    /// Ends them, once each knows what became of what it wrote last.
    pub(crate) fn stop(self, runtime: &Runtime) -> Result<Left> {
        self.shared.stop.store(true, Ordering::Relaxed);
        runtime.block_on(async {
            let slots = all(self.slots).await?;
            let labels = all(self.labellers).await?;
            all(self.watchers).await?;
            Ok(Left { slots, labels })
        })
    }
}

async fn all<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut results = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        results.push(ended??);
    }
    Ok(results)
}
