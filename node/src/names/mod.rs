//! Containers find each other by name across hosts: what they ask Docker's resolver comes to this daemon, which answers
//! from the replicated state, and passes on what it does not know.
//!
//! - `answer`: from a question to what is said; `plan::names` decides who is meant
//! - `serve`: the sockets of one container
//! - `onward`: what is passed on to Docker's resolver
//! - `counts`: how often what was asked and answered

mod answer;
mod counts;
mod onward;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use futures::future::join_all;
use pontoon_store::Store;
use pontoon_store::model::id::{ClusterId, EndpointId};
use pontoon_store::model::object::Endpoint;
use pontoon_store::tasks::Task;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

pub(crate) use answer::TTL;
pub(crate) use counts::Counts;

use crate::kernel::{Door, KernelError, Steered};
use crate::member::{Member, in_use};
use crate::plan::names::placed;
use serve::Container;

/// How often it is looked whether containers are there still and Docker's resolver is where it was.
const TICK: Duration = Duration::from_secs(2);
/// How often it is looked for the resolver of a container that starts.
const STARTING: Duration = Duration::from_millis(10);
/// How long to wait after a failure of one: the sockets of a container that was let go are closed within a moment.
const AGAIN: Duration = Duration::from_millis(100);
/// For how long it may be about to start: a busy engine takes a few seconds.
const FRESH: Duration = Duration::from_secs(10);
/// How long the state here may take to become as new as the cluster's before anything is answered from it: an election
/// takes about a second.
const RECOVERY: Duration = Duration::from_secs(3);

/// What is shared with those who tell of containers, with those who ask, and with the metrics.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// What was counted.
    pub(crate) counts: Counts,
    /// Endpoints that the engine is about to place, or has placed without the cluster knowing it, and in which namespaces.
    joined: Mutex<BTreeMap<(ClusterId, EndpointId), String>>,
    /// Endpoints of this node that have ended, which the cluster may not know yet.
    ended: RwLock<BTreeSet<EndpointId>>,
    changed: Notify,
}

impl Names {
    fn joined(&self) -> MutexGuard<'_, BTreeMap<(ClusterId, EndpointId), String>> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Endpoints of this node that have ended, which the cluster may not know yet. To be taken before the state.
    pub(crate) fn ended(&self) -> RwLockReadGuard<'_, BTreeSet<EndpointId>> {
        self.ended.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine is about to put an endpoint into the namespace that this file names, or will.
    pub(crate) fn joins(&self, cluster: ClusterId, endpoint: EndpointId, netns: String) {
        if !netns.is_empty() {
            self.joined().insert((cluster, endpoint), netns);
            self.changed.notify_one();
        }
    }

    /// The engine has taken an endpoint out of its namespace.
    pub(crate) fn leaves(&self, cluster: ClusterId, endpoint: EndpointId) {
        self.joined().remove(&(cluster, endpoint));
        self.changed.notify_one();
    }

    /// The namespaces to serve, by their files, and the endpoints that their containers are. Notes which have ended.
    fn wanted(&self, member: &Member) -> BTreeMap<String, BTreeSet<EndpointId>> {
        // Asked first: an endpoint is forgotten there once the state has it no more.
        let ending = member.attachments.ending();
        let view = member.view();
        let ended = in_use(ending, &view);
        let mut wanted: BTreeMap<String, BTreeSet<EndpointId>> = BTreeMap::new();
        for (netns, endpoints) in placed(&view, member.node()) {
            let here: BTreeSet<EndpointId> = endpoints.difference(&ended).copied().collect();
            if !here.is_empty() {
                wanted.insert(netns.to_owned(), here);
            }
        }
        // Without a majority the state has it where it was before.
        let is_known = |endpoint: &Endpoint, netns: &str| endpoint.is_up() && endpoint.sandbox.netns == netns;
        let mut joined = self.joined();
        joined.retain(|(cluster, id), netns| {
            let endpoint = view.endpoints.get(id).filter(|_| *cluster == member.cluster());
            endpoint.is_some_and(|endpoint| !is_known(endpoint, netns))
        });
        for ((_, id), netns) in joined.iter() {
            wanted.entry(netns.clone()).or_default().insert(*id);
        }
        drop(joined);
        // Whoever has this may wait for the state, so it is not waited for while the state is looked at.
        drop(view);
        *self.ended.write().unwrap_or_else(PoisonError::into_inner) = ended;
        wanted
    }
}

/// Serves this node's containers until the member is stopped.
pub(crate) async fn run(member: Arc<Member>, names: Arc<Names>, task: Task) {
    let mut served = Served {
        store: member.store().clone(),
        names: names.clone(),
        containers: BTreeMap::new(),
        missing: BTreeMap::new(),
    };
    let forever = async {
        // What this copy has may be of long ago, and its addresses others' by now. Docker's resolver answers meanwhile.
        is_recent(member.store()).await;
        let mut applied = member.store().applied();
        let mut look = look_after(Vec::new());
        loop {
            applied.borrow_and_update();
            task.begin();
            task.end(served.follow(names.wanted(&member)).await);
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                () = names.changed.notified() => {}
                () = sleep(served.pause()) => {}
                gone = &mut look => {
                    served.let_go(gone.unwrap_or_default());
                    look = look_after(served.doors());
                }
            }
        }
    };
    member.unless_stopped(forever).await;
}

/// Waits until this copy of the state is as new as the cluster's, or nobody can tell.
async fn is_recent(store: &Store) {
    let end = Instant::now() + RECOVERY;
    while Instant::now() < end && store.read_barrier(end.saturating_duration_since(Instant::now())).await.is_err() {
        sleep(AGAIN).await;
    }
}

/// Finds out, after a while, which containers are gone, or have their engine's resolver elsewhere since the engine was
/// started again. Until then it holds on to none of them: a door keeps its namespace.
fn look_after(doors: Vec<(String, Weak<Door>)>) -> JoinHandle<Vec<String>> {
    let is_gone = |door: &Weak<Door>| door.upgrade().is_some_and(|door| !door.is_there());
    tokio::spawn(async move {
        sleep(TICK).await;
        let look = move || doors.into_iter().filter(|(_, door)| is_gone(door)).map(|(netns, _)| netns).collect();
        spawn_blocking(look).await.unwrap_or_default()
    })
}

/// A container is not served.
#[derive(Debug, thiserror::Error)]
#[error("{why}; in {netns} only names of this host and outside are answered")]
struct Unserved {
    netns: String,
    why: String,
}

/// What is served, and what waits for Docker's resolver.
struct Served {
    store: Store,
    names: Arc<Names>,
    containers: BTreeMap<String, Container>,
    missing: BTreeMap<String, Missing>,
}

/// A namespace that is to be served and is not.
struct Missing {
    /// Since when.
    since: Instant,
    /// When to look next.
    due: Instant,
    /// Why not; none: Docker has no resolver there (yet).
    error: Option<KernelError>,
}

impl Served {
    /// How long until it is to be looked for a resolver although nothing has changed.
    fn pause(&self) -> Duration {
        let due = self.missing.values().map(|missing| missing.due.saturating_duration_since(Instant::now())).min();
        due.unwrap_or(TICK)
    }

    fn doors(&self) -> Vec<(String, Weak<Door>)> {
        self.containers.iter().map(|(netns, served)| (netns.clone(), served.door())).collect()
    }

    fn let_go(&mut self, gone: Vec<String>) {
        for netns in gone {
            debug!(netns, "Docker's resolver is not where it was");
            self.containers.remove(&netns);
        }
    }

    /// Serves what is to be served, and nothing else. The error is one of a container that cannot be.
    async fn follow(&mut self, wanted: BTreeMap<String, BTreeSet<EndpointId>>) -> Result<(), Unserved> {
        self.containers.retain(|netns, _| wanted.contains_key(netns));
        self.missing.retain(|netns, _| wanted.contains_key(netns));
        let now = Instant::now();
        for (netns, endpoints) in &wanted {
            match self.containers.get(netns) {
                Some(container) => container.is_now(endpoints),
                None if self.missing.contains_key(netns) => {}
                None => drop(self.missing.insert(netns.clone(), Missing { since: now, due: now, error: None })),
            }
        }
        let due = self.missing.iter().filter(|(_, missing)| missing.due <= now).map(|(netns, _)| netns.clone());
        for (netns, begun) in join_all(due.map(async |netns| (netns.clone(), begin(netns).await))).await {
            let endpoints = wanted.get(&netns).cloned().unwrap_or_default();
            self.begun(netns, endpoints, begun);
        }
        let problem = self.missing.iter().find_map(|(netns, missing)| Some((netns, missing.error.as_ref()?)));
        problem.map_or(Ok(()), |(netns, error)| Err(Unserved { netns: netns.clone(), why: error.to_string() }))
    }

    /// A namespace was looked into.
    fn begun(&mut self, netns: String, endpoints: BTreeSet<EndpointId>, begun: Result<Option<Steered>, KernelError>) {
        let served = begun.and_then(|steered| {
            let serve = |steered| Container::serve(self.store.clone(), self.names.clone(), endpoints, steered);
            steered.map(serve).transpose().map_err(|source| failed(&netns, source))
        });
        let error = match served {
            Ok(Some(container)) => {
                info!(netns, "names are answered");
                self.missing.remove(&netns);
                self.containers.insert(netns, container);
                return;
            }
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let Some(missing) = self.missing.get_mut(&netns) else { return };
        if let Some(error) = error.as_ref().filter(|_| missing.error.is_none()) {
            warn!(netns, %error, "names of other hosts are not answered");
        }
        let soon = if error.is_some() { AGAIN } else { STARTING };
        missing.due = Instant::now() + if missing.since.elapsed() < FRESH { soon } else { TICK };
        missing.error = error;
    }
}

/// Begins to steer; none: there is no resolver of Docker's (yet), or no namespace.
async fn begin(netns: String) -> Result<Option<Steered>, KernelError> {
    let path = netns.clone();
    let begun = spawn_blocking(move || {
        let path = Path::new(&path);
        // The file is there before it names a namespace.
        match Steered::begin(path) {
            Err(KernelError::NoNamespace { .. }) => Ok(None),
            Err(_) if !path.exists() => Ok(None),
            begun => begun,
        }
    });
    begun.await.unwrap_or_else(|error| Err(failed(&netns, io::Error::other(error))))
}

fn failed(netns: &str, source: io::Error) -> KernelError {
    KernelError::Steer { operation: "serve names in", path: netns.into(), source: source.into() }
}
