//! The loop: wait for a change of the state, an event of the kernel, a request or a tick; read all that is desired and
//! all that is observed; plan the difference; execute; report. Events only wake it. There is no restore path: a restart is
//! the first pass of the same loop. Most changes of the state concern other nodes: one that asks for nothing else than before
//! is done without a look at the kernel.

mod pace;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use pontoon_store::model::id::{EndpointId, NodeId, Vni};
use pontoon_store::model::state::State;
use pontoon_store::rt::{self, now, sleep, sleep_until, watch};
use pontoon_store::tasks::Task;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::kernel::{Kernel, KernelError};
use crate::plan::desired::{Desired, Names, desired};
use crate::plan::diff::{Step, plan};
use crate::plan::drift::drift;
use crate::plan::object::{Key, Object, Scope};
use crate::plan::observed::{HostFacts, Observed, SandboxState};
use pace::Pace;

/// How long it waits for more changes of the state after one: writes come in swarms, too.
const COALESCE: Duration = Duration::from_millis(5);

/// Requests that may wait for a pass; each is an attach or a detach.
const REQUESTS: usize = 256;

/// Failed steps that the status names; what they have in common, the first ones show.
const MAX_FAILURES: usize = 20;

/// Where the state comes from.
pub trait StateSource: Send + Sync + 'static {
    /// This node; none while it is in no cluster.
    fn node(&self) -> Option<NodeId>;

    /// Whether a state knows this node as it is now: before it took the place of another, that one had its id.
    fn is_known(&self, state: &State) -> bool;

    /// Calls a function with the state of one moment, and the endpoints that are to lose their interfaces although the
    /// state has them.
    fn with_state<R>(&self, look: impl FnOnce(&State, &BTreeSet<EndpointId>) -> R) -> R;
}

/// What the loop has done since the daemon started.
#[derive(Debug, Clone, Default)]
pub struct DataPlaneStatus {
    /// Passes.
    pub passes: u64,
    /// Steps that the first pass planned.
    pub first_pass_steps: u64,
    /// The first pass is over.
    pub first_pass_done: bool,
    /// Steps that the latest pass planned.
    pub last_pass_steps: u64,
    /// Index of the state that is carried out: the latest pass's, or a later one's that asks for nothing else.
    pub reconciled_index: u64,
    /// Repairs of what somebody else changed, by kind.
    pub drift: BTreeMap<&'static str, u64>,
    /// The latest repair, as text; empty: none yet.
    pub last_drift: String,
    /// Steps that failed in the latest pass, or why there was none.
    pub failures: Vec<String>,
    /// What the administrator should know.
    pub notes: Vec<String>,
    /// Endpoints of this node whose sandboxes are gone, with the keys of these sandboxes: to be released.
    pub vanished: BTreeMap<EndpointId, String>,
    /// Endpoints of this node whose sandboxes cannot be worked on, and why.
    pub hidden: BTreeMap<EndpointId, String>,
    /// The host as the latest pass saw it.
    pub facts: HostFacts,
}

/// A step that failed.
#[derive(Debug, Clone, Error)]
#[error("{step}: {error}")]
pub struct StepFailure {
    /// Whom it concerns.
    pub scope: Scope,
    /// The step.
    pub step: String,
    /// Why it failed.
    pub error: Arc<KernelError>,
}

/// What one pass did.
#[derive(Debug, Clone, Default)]
pub struct PassReport {
    /// Index of the state that it carried out.
    pub index: u64,
    /// Steps that it planned.
    pub steps: usize,
    /// Those that failed.
    pub failures: Vec<StepFailure>,
    /// Endpoints that still have an interface on their network although it was to go, and why.
    pub kept: BTreeMap<EndpointId, String>,
    /// Endpoints whose sandboxes are gone, and how that was seen.
    pub vanished: BTreeMap<EndpointId, String>,
    /// Endpoints whose sandboxes cannot be worked on, and why.
    pub hidden: BTreeMap<EndpointId, String>,
}

impl PassReport {
    /// Why an endpoint of this node on a network is not in order; none when it is.
    pub fn problem_of(&self, endpoint: EndpointId, network: Vni, has_egress: bool) -> Option<String> {
        let sandbox = self.vanished.get(&endpoint).or_else(|| self.hidden.get(&endpoint)).cloned();
        let concerns = |failure: &&StepFailure| match failure.scope {
            Scope::Node => true,
            Scope::Egress => has_egress,
            Scope::Network(vni) => vni == network,
            Scope::Endpoint(id) => id == endpoint,
        };
        sandbox.or_else(|| self.failures.iter().find(concerns).map(|failure| failure.error.to_string()))
    }
}

/// A pass that was not made.
#[derive(Debug, Clone, Error)]
pub enum PassError {
    /// The loop has ended.
    #[error("the reconcile loop has ended: this daemon is stopping")]
    Stopped,
    /// The kernel could not be read.
    #[error("cannot look at the kernel: {0}")]
    Kernel(Arc<KernelError>),
    /// This node is in no cluster, or its cluster does not know it (yet, or any more).
    #[error("this node is no member of a cluster: see `pontoon status`")]
    NoMember,
}

type Answer = Result<Arc<PassReport>, PassError>;

/// Reaches the loop.
#[derive(Debug, Clone)]
pub struct Reconciler {
    requests: mpsc::Sender<oneshot::Sender<Answer>>,
    wake: Arc<Notify>,
    status: watch::Receiver<DataPlaneStatus>,
}

/// A pass that was asked for.
#[derive(Debug)]
pub struct Begun(oneshot::Receiver<Answer>);

impl Begun {
    /// What it did, once it is over.
    ///
    /// # Errors
    /// When there was none.
    pub async fn report(self) -> Answer {
        self.0.await.unwrap_or(Err(PassError::Stopped))
    }
}

impl Reconciler {
    /// Makes a pass that begins after this call, and tells what it did.
    ///
    /// # Errors
    /// When there was none.
    pub async fn pass_now(&self) -> Answer {
        self.begin_pass().await?.report().await
    }

    /// Has a pass made that begins after this call, for somebody who has something else to do meanwhile.
    ///
    /// # Errors
    /// When the loop has ended.
    pub async fn begin_pass(&self) -> Result<Begun, PassError> {
        let (answer, result) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| PassError::Stopped)?;
        Ok(Begun(result))
    }

    /// Wakes the loop without waiting for it.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// What the loop has done; changes with each pass, and with changes of the state that took none.
    pub fn status(&self) -> watch::Receiver<DataPlaneStatus> {
        self.status.clone()
    }
}

/// The loop, not yet running.
#[derive(Debug)]
pub struct ReconcileLoop<K, S> {
    core: Core<K>,
    source: Arc<S>,
    changes: watch::Receiver<u64>,
    requests: mpsc::Receiver<oneshot::Sender<Answer>>,
    wake: Arc<Notify>,
    status: watch::Sender<DataPlaneStatus>,
}

/// Makes a loop. `changes` tells the applied index of the state; `wake` is what [`crate::kernel::watch::watch`] wakes;
/// `task` is what the loop is shown as: each pass is a run.
pub fn new<K: Kernel, S: StateSource>(
    kernel: K,
    names: Names,
    source: Arc<S>,
    changes: watch::Receiver<u64>,
    wake: Arc<Notify>,
    task: Task,
) -> (Reconciler, ReconcileLoop<K, S>) {
    let (requests, inbox) = mpsc::channel(REQUESTS);
    let (status, seen) = watch::channel(DataPlaneStatus::default());
    let core =
        Core { kernel, names, established: None, last: None, index: 0, status: DataPlaneStatus::default(), task };
    let handle = Reconciler { requests, wake: wake.clone(), status: seen };
    (handle, ReconcileLoop { core, source, changes, requests: inbox, wake, status })
}

/// Why the loop does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// Nothing but the state has changed since a pass that brought everything in order: unless it asks for something else
    /// than before, nothing needs doing.
    State,
    /// Anything else.
    Look,
}

/// What a change of the state asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing else than before, as far as can be told without looking.
    Nothing,
    /// Only for rules of networks that nobody is on here.
    Ahead,
    /// Anything else.
    Pass,
}

impl<K: Kernel, S: StateSource> ReconcileLoop<K, S> {
    /// The kernel was brought in order with the state of this index before: an older copy of it is not gone back to.
    #[must_use]
    pub fn not_before(mut self, index: u64) -> Self {
        self.core.index = index;
        self
    }

    /// Runs until `stop`, and gives the kernel back. The kernel keeps what it has: traffic goes on.
    pub async fn run(mut self, stop: CancellationToken) -> K {
        let mut pace = Pace::new();
        let mut waiting = Vec::new();
        loop {
            let reason = tokio::select! {
                biased;
                () = stop.cancelled() => return self.core.kernel,
                reason = self.wait(&mut waiting, &mut pace) => reason,
            };
            let Some(reason) = reason else { return self.core.kernel };
            while let Ok(request) = self.requests.try_recv() {
                waiting.push(request);
            }
            let reason = if waiting.is_empty() { reason } else { Reason::Look };
            self.changes.borrow_and_update();
            let begin = now();
            let done;
            (self, done) = self.pass(reason).await;
            let answer = match done {
                Ok(answer) => answer,
                Err(Need::Ahead) => {
                    pace.ahead();
                    continue;
                }
                Err(_) => continue,
            };
            let failed = match &answer {
                Ok(report) => !report.failures.is_empty(),
                Err(PassError::NoMember) => false,
                Err(_) => true,
            };
            for request in mem::take(&mut waiting) {
                // Whoever asked may have stopped waiting.
                let _ = request.send(answer.clone());
            }
            pace.after(now() - begin, failed);
        }
    }

    /// One pass, on a thread that may block; or what there was need for instead.
    async fn pass(mut self, reason: Reason) -> (Self, Result<Answer, Need>) {
        let (mut core, source) = (self.core, self.source.clone());
        let pass = rt::spawn_blocking(move || {
            let need = if reason == Reason::State { core.need(source.as_ref()) } else { Need::Pass };
            let done = if need == Need::Pass { Ok(core.pass(source.as_ref())) } else { Err(need) };
            (core, done)
        });
        let done;
        (self.core, done) = match pass.await {
            Ok(done) => done,
            Err(error) => panic!("nobody cancels a pass: {error}"),
        };
        if done.is_ok() {
            self.status.send_replace(self.core.status.clone());
        } else {
            let index = self.core.status.reconciled_index;
            self.status.send_modify(|status| status.reconciled_index = index);
        }
        (self, done)
    }

    /// Waits for a reason to make a pass; none: there will be none. It can be dropped without loss: a change stays marked
    /// as unseen, a wake-up stays stored or is in `pace`, and a request stays in its channel or is in `waiting`.
    async fn wait(&mut self, waiting: &mut Vec<oneshot::Sender<Answer>>, pace: &mut Pace) -> Option<Reason> {
        loop {
            tokio::select! {
                biased;
                Some(request) = self.requests.recv() => {
                    waiting.push(request);
                    return Some(Reason::Look);
                }
                () = sleep_until(pace.due) => return Some(Reason::Look),
                () = self.wake.notified() => pace.hurry(),
                changed = self.changes.changed() => {
                    // The store ends before the loop only when the daemon does.
                    changed.ok()?;
                    if self.core.last.is_some() {
                        break;
                    }
                    pace.hurry();
                }
            }
        }
        tokio::select! {
            biased;
            Some(request) = self.requests.recv() => {
                waiting.push(request);
                Some(Reason::Look)
            }
            () = sleep(COALESCE) => Some(Reason::State),
        }
    }
}

/// What a pass needs, and keeps for the next one.
#[derive(Debug)]
struct Core<K> {
    kernel: K,
    names: Names,
    /// What earlier passes have brought about or found in place; none before the first.
    established: Option<BTreeMap<Key, Object>>,
    /// What the latest pass was to bring about; none when it did not.
    last: Option<Desired>,
    /// Index of the latest state that was carried out.
    index: u64,
    status: DataPlaneStatus,
    task: Task,
}

impl<K: Kernel> Core<K> {
    /// What there is need for after a pass that brought everything in order.
    fn need(&mut self, source: &impl StateSource) -> Need {
        let (Some(last), Some(me)) = (&self.last, source.node()) else { return Need::Pass };
        let Some(desired) = self.desired(source, me, &self.status.facts) else { return Need::Pass };
        if desired.sandboxes != last.sandboxes || desired.objects.len() != last.objects.len() {
            return Need::Pass;
        }
        let mut need = Need::Nothing;
        for (now, before) in desired.objects.iter().zip(&last.objects).filter(|(now, before)| now != before) {
            match (now, before) {
                ((_, Object::Firewall(now)), (_, Object::Firewall(before))) if now.differs_in_networks_only(before) => {
                    need = Need::Ahead;
                }
                _ => return Need::Pass,
            }
        }
        if need == Need::Nothing {
            self.index = desired.index;
            self.status.reconciled_index = desired.index;
        }
        need
    }

    /// What the state asks for; none while this node is no member.
    fn desired(&self, source: &impl StateSource, me: NodeId, facts: &HostFacts) -> Option<Desired> {
        source.with_state(|state, ending| {
            // A copy of the state that is older than what was carried out is not to be gone back to.
            let usable = state.nodes.contains_key(&me) && source.is_known(state) && state.applied_index >= self.index;
            usable.then(|| desired(state, me, &self.names, facts).without_interfaces_of(ending))
        })
    }

    fn pass(&mut self, source: &impl StateSource) -> Answer {
        self.last = None;
        self.task.begin();
        let answer = self.try_pass(source);
        match &answer {
            Ok(report) => self.task.end(report.failures.first().map_or(Ok(()), |failure| Err(failure.clone()))),
            Err(PassError::NoMember) => self.task.end(Ok::<(), PassError>(())),
            Err(error) => self.task.end(Err(error.clone())),
        }
        if let Err(error) = &answer {
            self.status.failures = match error {
                PassError::NoMember => Vec::new(),
                _ => vec![error.to_string()],
            };
        }
        answer
    }

    fn try_pass(&mut self, source: &impl StateSource) -> Answer {
        // A node that its cluster does not know keeps what it has: losing the store, or being removed from it, must
        // not take the network away from running containers. `pontoon leave` does.
        let me = source.node().ok_or(PassError::NoMember)?;
        let vtep = source.with_state(|state, _| state.nodes.get(&me).map(|node| node.data_addr));
        let vtep = vtep.ok_or(PassError::NoMember)?;
        let failed = |error| PassError::Kernel(Arc::new(error));
        let facts = self.kernel.facts(Some(vtep)).map_err(failed)?;
        let desired = self.desired(source, me, &facts).ok_or(PassError::NoMember)?;
        let observed = self.kernel.observe(&desired).map_err(failed)?;
        let report = self.carry_out(&desired, &observed);
        self.status.facts = facts;
        self.last = report.failures.is_empty().then_some(desired);
        Ok(Arc::new(report))
    }

    fn carry_out(&mut self, desired: &Desired, observed: &Observed) -> PassReport {
        let steps = plan(desired, observed);
        if let Some(established) = &self.established {
            for (kind, step) in drift(established, observed, &steps) {
                *self.status.drift.entry(kind.as_str()).or_default() += 1;
                self.status.last_drift = step.to_string();
                info!(kind = kind.as_str(), %step, "repairing what somebody else changed");
            }
        }
        let outcomes = self.kernel.execute(&steps);
        let mut report = PassReport { index: desired.index, steps: steps.len(), ..PassReport::default() };
        let mut failed = BTreeSet::new();
        for (step, outcome) in steps.iter().zip(outcomes) {
            match outcome {
                Ok(()) => debug!(%step, "done"),
                Err(error) => {
                    warn!(%step, %error, "failed");
                    failed.insert(step.object().key());
                    if let Step::Remove(Object::Veth(veth)) = step
                        && veth.network.is_some()
                    {
                        report.kept.insert(veth.endpoint, error.to_string());
                    }
                    let (scope, step) = (step.scope(), step.to_string());
                    report.failures.push(StepFailure { scope, step, error: Arc::new(error) });
                }
            }
        }
        for (sandbox, endpoints) in &desired.sandboxes {
            let (list, text) = match observed.sandboxes.get(sandbox) {
                Some(SandboxState::Vanished(text)) => (&mut report.vanished, text),
                Some(SandboxState::Hidden(text) | SandboxState::Unreachable(text)) => (&mut report.hidden, text),
                Some(SandboxState::Present) | None => continue,
            };
            list.extend(endpoints.iter().map(|id| (*id, text.clone())));
        }
        self.note(desired, observed, &report, &failed);
        report
    }

    fn note(&mut self, desired: &Desired, observed: &Observed, report: &PassReport, failed: &BTreeSet<Key>) {
        let status = &mut self.status;
        if !status.first_pass_done {
            status.first_pass_steps = report.steps as u64;
            status.first_pass_done = true;
        }
        status.passes += 1;
        status.last_pass_steps = report.steps as u64;
        status.reconciled_index = report.index;
        let failures = report.failures.iter().take(MAX_FAILURES);
        status.failures = failures.map(ToString::to_string).collect();
        status.notes = desired.notes.clone();
        let sandboxes = desired.sandboxes.iter().flat_map(|(sandbox, ids)| ids.iter().map(move |id| (*id, sandbox)));
        let vanished = sandboxes.filter(|(id, _)| report.vanished.contains_key(id));
        status.vanished = vanished.map(|(id, sandbox)| (id, sandbox.key.clone())).collect();
        status.hidden = report.hidden.clone();
        self.index = report.index;
        let present = |object: &Object| {
            let sandbox = object.sandbox().and_then(|s| observed.sandboxes.get(s));
            matches!(sandbox, None | Some(SandboxState::Present))
        };
        let established = desired.objects.iter().filter(|(key, object)| !failed.contains(*key) && present(object));
        self.established = Some(established.map(|(key, object)| (key.clone(), object.clone())).collect());
    }
}

#[cfg(test)]
mod tests;
