//! This daemon as a member of a cluster: its store, its reconcile loop and what runs beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_store::model::command::{Command, Outcome};
use pontoon_store::model::id::{ClusterId, EndpointId, NodeId, RaftId};
use pontoon_store::model::state::State;
use pontoon_store::tasks::Task;
use pontoon_store::{ReadError, Store};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::warn;

use crate::api::error::ApiError;
use crate::attach::{self, InFlight};
use crate::clock::{self, Compared};
use crate::daemon::Daemon;
use crate::docker;
use crate::identity::Membership;
use crate::journal::{Journal, View};
use crate::kernel::{self, KernelError, Linux};
use crate::names;
use crate::reconcile::{self, Reconciler, StateSource};
use crate::report;

/// How long a write may take before its asker is told what is in its way: less than the 5 s
/// in which a request without quorum must be answered.
pub(crate) const WRITE_DEADLINE: Duration = Duration::from_secs(4);
/// How long a read waits for the leader before the local copy answers.
pub(crate) const READ_DEADLINE: Duration = Duration::from_secs(2);
/// How long a change of the Raft membership may take.
const EXPEL_DEADLINE: Duration = Duration::from_secs(15);
/// How often it is looked meanwhile whether there is a majority.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// How long the first pass waits for the end of the log to be confirmed: an election takes about a second.
const RECOVERY: Duration = Duration::from_secs(3);
/// How often background tasks look although nothing has woken them.
const TICK: Duration = Duration::from_secs(30);
/// How often nodes are asked for their time as long as one of them has not answered.
const UNANSWERED: Duration = Duration::from_secs(5);
/// How long a task waits after a failure.
const AGAIN: Duration = Duration::from_secs(1);

/// A member of a cluster, running.
pub struct Member {
    cluster: ClusterId,
    node: NodeId,
    raft_id: RaftId,
    store: Store,
    pub(crate) reconciler: Reconciler,
    pub(crate) attachments: Arc<InFlight>,
    pub(crate) journal: Arc<Journal>,
    reclaimed: AtomicU64,
    repairs: Mutex<Repairs>,
    clocks: Mutex<Compared>,
    stop: CancellationToken,
    background: Mutex<Option<Background>>,
}

/// Repairs of what somebody changed in this node's container engine.
#[derive(Debug, Clone, Default)]
pub struct Repairs {
    /// How many there were, by kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// The latest, as text; empty: none yet.
    pub latest: String,
}

/// What a node is doing with its endpoints. It goes on when the node becomes something else in its cluster.
#[derive(Debug, Clone)]
pub(crate) struct AtWork {
    /// What is being attached and detached.
    pub(crate) attachments: Arc<InFlight>,
    /// What the cluster has not been told of.
    pub(crate) journal: Arc<Journal>,
    /// Index of the state that the kernel was brought in order with: an older one is not to be gone back to.
    pub(crate) reached: u64,
}

/// What ends with the member.
struct Background {
    reconcile: JoinHandle<Linux>,
    others: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("cluster", &self.cluster).field("node", &self.node).finish_non_exhaustive()
    }
}

/// The state, for the reconcile loop.
struct Source {
    store: Store,
    node: NodeId,
    attachments: Arc<InFlight>,
    journal: Arc<Journal>,
}

impl StateSource for Source {
    fn node(&self) -> Option<NodeId> {
        Some(self.node)
    }

    fn is_known(&self, state: &State) -> bool {
        self.store.is_known_in(state)
    }

    fn with_state<R>(&self, look: impl FnOnce(&State, &BTreeSet<EndpointId>) -> R) -> R {
        // Asked first: an endpoint is forgotten there once the state has it no more.
        let ending = self.attachments.ending();
        let view = self.journal.view(self.store.state());
        look(&view, &in_use(ending, &view))
    }
}

/// Whether an endpoint is what it was when it was to be ended.
pub(crate) fn is_in_use(view: &View<'_>, id: EndpointId, epoch: u64) -> bool {
    let known = view.endpoints.get(&id);
    known.is_some_and(|endpoint| endpoint.epoch == epoch && endpoint.is_up()) && !view.is_rebound(id)
}

/// Those of these endpoints, given with their epochs, that are what they were when they were to be ended.
pub(crate) fn in_use(ending: BTreeMap<EndpointId, u64>, view: &View<'_>) -> BTreeSet<EndpointId> {
    ending.into_iter().filter(|(id, epoch)| is_in_use(view, *id, *epoch)).map(|(id, _)| id).collect()
}

impl Member {
    /// Starts everything that a member does in the background.
    pub(crate) fn start(
        daemon: &Daemon,
        membership: Membership,
        store: Store,
        AtWork { attachments, journal, reached }: AtWork,
    ) -> Result<Arc<Self>, KernelError> {
        let in_kernel = daemon.config.names();
        let linux = Linux::open(in_kernel.clone())?;
        let (stop, wake) = (CancellationToken::new(), Arc::new(Notify::new()));
        let source = Arc::new(Source {
            store: store.clone(),
            node: membership.node,
            attachments: attachments.clone(),
            journal: journal.clone(),
        });
        let task = daemon.tasks.task("reconcile");
        let (reconciler, run) = reconcile::new(linux, in_kernel.clone(), source, store.applied(), wake.clone(), task);
        let run = run.not_before(reached);
        let member = Arc::new(Self {
            cluster: membership.cluster,
            node: membership.node,
            raft_id: membership.raft_id,
            store,
            reconciler,
            attachments,
            journal,
            reclaimed: AtomicU64::new(0),
            repairs: Mutex::default(),
            clocks: Mutex::default(),
            stop: stop.clone(),
            background: Mutex::new(None),
        });
        let (opened, ending) = (member.store.clone(), stop.clone());
        let engine = daemon.config.docker.as_ref().map(|docker| {
            tokio::spawn(docker::run(docker::Sync {
                member: member.clone(),
                socket: docker.socket.clone(),
                names: in_kernel.clone(),
                containers: daemon.containers.clone(),
                task: daemon.tasks.task("docker"),
            }))
        });
        let mut background = Background {
            reconcile: tokio::spawn(async move {
                ending.run_until_cancelled(opened.recovered(RECOVERY)).await;
                run.run(ending).await
            }),
            others: vec![
                tokio::spawn(kernel::watch::watch(in_kernel, wake, daemon.tasks.task("watch"), stop)),
                tokio::spawn(run_reports(
                    member.clone(),
                    daemon.tasks.task("report"),
                    daemon.containers.clone(),
                    daemon.config.egress_subnet,
                )),
                tokio::spawn(run_collector(member.clone(), daemon.tasks.task("collect"))),
                tokio::spawn(run_clock(member.clone(), daemon.tasks.task("clock"))),
            ],
        };
        if engine.is_some() {
            let task = daemon.tasks.task("names");
            background.others.push(tokio::spawn(names::run(member.clone(), daemon.names.clone(), task)));
        }
        background.others.extend(engine);
        *member.background() = Some(background);
        Ok(member)
    }

    /// Ends it: first what changes the kernel, then the store. The kernel keeps what it has. Gives back the means to
    /// clean it up.
    pub(crate) async fn stop(&self) -> Option<Linux> {
        let linux = self.end_work().await;
        self.store.clone().shutdown().await;
        linux
    }

    /// Ends all that works in the background, and leaves the store to the requests that are under way.
    pub(crate) async fn end_work(&self) -> Option<Linux> {
        self.stop.cancel();
        let background = self.background().take()?;
        for task in background.others {
            if let Err(error) = task.await {
                warn!(%error, "a background task did not end well");
            }
        }
        let linux = background.reconcile.await;
        linux.inspect_err(|error| warn!(%error, "the reconcile loop did not end well")).ok()
    }

    fn background(&self) -> std::sync::MutexGuard<'_, Option<Background>> {
        // What is in there is put and taken whole.
        self.background.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// This node in the Raft membership.
    pub fn raft_id(&self) -> RaftId {
        self.raft_id
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What it is doing with its endpoints.
    pub(crate) fn at_work(&self) -> AtWork {
        let reached = *self.store.applied().borrow();
        AtWork { attachments: self.attachments.clone(), journal: self.journal.clone(), reached }
    }

    /// The state as this node sees it, with what it has rebound.
    pub(crate) fn view(&self) -> View<'_> {
        self.journal.view(self.store.state())
    }

    /// Endpoints that were ended because their namespace was gone or nobody finished them.
    pub fn reclaimed(&self) -> u64 {
        self.reclaimed.load(Ordering::Relaxed)
    }

    /// Counts more of them.
    pub(crate) fn count_reclaimed(&self, count: u64) {
        self.reclaimed.fetch_add(count, Ordering::Relaxed);
    }

    /// Repairs in this node's container engine.
    pub fn repairs(&self) -> Repairs {
        self.repairs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts one more of them.
    pub(crate) fn count_repair(&self, kind: &'static str, latest: String) {
        let mut repairs = self.repairs.lock().unwrap_or_else(PoisonError::into_inner);
        *repairs.counts.entry(kind).or_default() += 1;
        repairs.latest = latest;
    }

    /// What other nodes have said of themselves, those that answered last time.
    pub(crate) fn clocks(&self) -> Compared {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes, through the leader.
    pub async fn propose(&self, command: Command) -> Result<Outcome, ApiError> {
        self.propose_by(command, Instant::now() + WRITE_DEADLINE).await
    }

    /// Writes, through the leader, as one of several tries that have this time together.
    pub(crate) async fn propose_by(&self, command: Command, end: Instant) -> Result<Outcome, ApiError> {
        Ok(self.store.propose(command, end.saturating_duration_since(Instant::now())).await?)
    }

    /// Makes the local copy as new as any write that was acknowledged before now.
    pub async fn refresh(&self) -> Result<(), ApiError> {
        Ok(self.store.read_barrier(READ_DEADLINE).await?)
    }

    /// Does a write about something that a user names, such as a network: `write` looks for it in the local copy and
    /// proposes. The leader is asked for the newest state only if that is not enough, because
    ///
    /// - a name that is there means the same id for as long as the object lives, and no id is used again, so a name
    ///   that a copy has and the cluster has not any more ends in "not found", and never at another object;
    /// - a name that is new is not found here, either;
    /// - a number may be an id, but if something newer has it for a name, the name counts.
    ///
    /// All of it has the time of one write, whose end `write` is told.
    pub(crate) async fn write_named<T, F>(&self, wanted: &str, write: impl Fn(Instant) -> F) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let end = Instant::now() + WRITE_DEADLINE;
        let refresh = async || {
            let left = end.saturating_duration_since(Instant::now());
            Ok(self.store.read_barrier(left.min(READ_DEADLINE)).await?)
        };
        if wanted.parse::<u64>().is_ok() {
            refresh().await?;
            return write(end).await;
        }
        once_more_if_not_found(|| write(end), refresh).await
    }

    /// Runs something until its end; none when the member is stopped before.
    pub(crate) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.stop.run_until_cancelled(work).await
    }

    /// Takes a member out of the Raft membership. That takes a few steps, and sometimes an election: it is given up
    /// before its deadline only when no majority answers.
    pub async fn expel(&self, raft_id: RaftId) -> Result<(), ApiError> {
        tokio::select! {
            done = self.store.expel(raft_id, EXPEL_DEADLINE) => Ok(done?),
            lost = self.quorum_lost() => Err(lost),
        }
    }

    /// Ends when no majority has answered for as long as a write may take.
    async fn quorum_lost(&self) -> ApiError {
        loop {
            match self.store.read_barrier(WRITE_DEADLINE).await {
                Err(ReadError::NoQuorum { missing }) if !self.store.majority_answers(&missing) => {
                    return ReadError::NoQuorum { missing }.into();
                }
                // Nobody tells one that was removed how far the others are, and in the end it is told that it is out.
                _ => tokio::time::sleep(HEARTBEAT).await,
            }
        }
    }
}

/// Tries; if what it is about is not found, tries once more on the newest state.
async fn once_more_if_not_found<T, F, R>(write: impl Fn() -> F, refresh: impl FnOnce() -> R) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
    R: Future<Output = Result<(), ApiError>>,
{
    match write().await {
        Err(error) if error.code == Code::NotFound => {
            refresh().await?;
            write().await
        }
        answer => answer,
    }
}

/// Tells the cluster about this host, whenever a pass of the loop has seen something else than before.
async fn run_reports(
    member: Arc<Member>,
    task: Task,
    containers: Arc<docker::Containers>,
    wanted: Option<ipnet::IpNet>,
) {
    let mut status = member.reconciler.status();
    loop {
        let facts = {
            let status = status.borrow_and_update();
            status.first_pass_done.then(|| status.facts.clone())
        };
        let mut pause = TICK;
        if let Some(facts) = facts {
            task.begin();
            let Some(result) =
                member.unless_stopped(report::report(&member, &facts, &containers.engine(), wanted)).await
            else {
                return;
            };
            pause = if result.is_err() { AGAIN } else { TICK };
            task.end(result);
        }
        tokio::select! {
            () = member.stop.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Ends endpoints of this node that nobody uses: their namespace is gone, or an attach did not come to its end.
async fn run_collector(member: Arc<Member>, task: Task) {
    let mut status = member.reconciler.status();
    loop {
        let vanished = status.borrow_and_update().vanished.clone();
        task.begin();
        let Some(result) = member.unless_stopped(attach::collect(&member, &vanished)).await else { return };
        let failed = result.is_err();
        if let Ok(count) = &result {
            member.count_reclaimed(*count);
        }
        task.end(result.map(|_| ()));
        // A run that failed has made passes and left something itself: that is no reason for the next.
        tokio::select! {
            () = member.stop.cancelled() => return,
            changed = status.changed(), if !failed => if changed.is_err() { return },
            () = member.attachments.left(), if !failed => {}
            () = tokio::time::sleep(if failed { AGAIN } else { TICK }) => {}
        }
    }
}

/// Compares the clocks of the other nodes with this host's: every now and then, and when there are other nodes than before.
async fn run_clock(member: Arc<Member>, task: Task) {
    let mut applied = member.store.applied();
    loop {
        applied.borrow_and_update();
        let others = clock::others(&member);
        task.begin();
        let Some(clocks) = member.unless_stopped(clock::compare(&member, &others)).await else { return };
        let pause = if clocks.ahead_ms.len() < others.len() { UNANSWERED } else { TICK };
        *member.clocks.lock().unwrap_or_else(PoisonError::into_inner) = clocks;
        task.end(Ok::<(), ApiError>(()));
        let changed = async {
            while applied.changed().await.is_ok() {
                if clock::others(&member) != others {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            () = member.stop.cancelled() => return,
            () = changed => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn failure(code: Code) -> ApiError {
        ApiError::new(code, "REASON", "", "")
    }

    #[tokio::test]
    async fn only_what_is_not_found_is_tried_once_more_on_the_newest_state() {
        let gone = || Err(failure(Code::NotFound));
        let refused = || Err(failure(Code::FailedPrecondition));
        let away = || Err(failure(Code::Unavailable));
        // What the first and the second try and the refresh come to; what is answered; refreshes and tries.
        let cases = [
            (Ok(1), Ok(2), Ok(()), Ok(1), (0, 1)),
            (refused(), Ok(2), Ok(()), Err(Code::FailedPrecondition), (0, 1)),
            (gone(), Ok(2), Ok(()), Ok(2), (1, 2)),
            (gone(), gone(), Ok(()), Err(Code::NotFound), (1, 2)),
            (gone(), refused(), Ok(()), Err(Code::FailedPrecondition), (1, 2)),
            (gone(), Ok(2), away(), Err(Code::Unavailable), (1, 1)),
        ];
        for (number, (first, second, refreshed, expected, counts)) in cases.into_iter().enumerate() {
            let (tries, refreshes) = (Cell::new(0), Cell::new(0));
            let answers = RefCell::new(vec![second, first]);
            let write = || {
                tries.set(tries.get() + 1);
                std::future::ready(answers.borrow_mut().pop().unwrap())
            };
            let refresh = || {
                refreshes.set(refreshes.get() + 1);
                std::future::ready(refreshed.map(drop))
            };
            let answer: Result<i32, ApiError> = once_more_if_not_found(write, refresh).await;
            assert_eq!(answer.map_err(|error| error.code), expected, "case {number}");
            assert_eq!((refreshes.get(), tries.get()), counts, "case {number}");
        }
    }
}
