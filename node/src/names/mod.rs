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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_store::model::id::EndpointId;
use pontoon_store::model::object::Endpoint;
use pontoon_store::tasks::Task;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

pub(crate) use answer::TTL;
pub(crate) use counts::Counts;

use crate::kernel::{KernelError, Steered};
use crate::member::Member;
use crate::plan::names::placed;
use serve::Container;

/// How often it is looked whether containers are there still and Docker's resolver is where it was.
const TICK: Duration = Duration::from_secs(2);
/// How often it is looked for the resolver of a container that starts.
const STARTING: Duration = Duration::from_millis(5);
/// For how long it may be about to start: a busy engine takes a few seconds.
const FRESH: Duration = Duration::from_secs(10);

/// What is shared with those who tell of containers, and with the metrics.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// What was counted.
    pub(crate) counts: Counts,
    /// Endpoints that the engine is about to place, or has placed without the cluster knowing it, and in which namespaces.
    joined: Mutex<BTreeMap<EndpointId, String>>,
    changed: Notify,
}

impl Names {
    fn joined(&self) -> MutexGuard<'_, BTreeMap<EndpointId, String>> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine is about to put an endpoint into the namespace that this file names, or will.
    pub(crate) fn joins(&self, endpoint: EndpointId, netns: String) {
        if !netns.is_empty() {
            self.joined().insert(endpoint, netns);
            self.changed.notify_one();
        }
    }

    /// The engine has taken an endpoint out of its namespace.
    pub(crate) fn leaves(&self, endpoint: EndpointId) {
        if self.joined().remove(&endpoint).is_some() {
            self.changed.notify_one();
        }
    }

    /// The namespaces to serve, by their files, and the endpoints that their containers are.
    fn wanted(&self, member: &Member) -> BTreeMap<String, BTreeSet<EndpointId>> {
        let state = member.store().state();
        let placed = placed(&state, member.node());
        let mut wanted: BTreeMap<String, _> =
            placed.into_iter().map(|(netns, endpoints)| (netns.to_owned(), endpoints)).collect();
        // Without a majority the state has it where it was before.
        let is_known = |endpoint: &Endpoint, netns: &str| endpoint.is_up() && endpoint.sandbox.netns == netns;
        let mut joined = self.joined();
        joined.retain(|id, netns| state.endpoints.get(id).is_some_and(|endpoint| !is_known(endpoint, netns)));
        for (id, netns) in joined.iter() {
            wanted.entry(netns.clone()).or_default().insert(*id);
        }
        wanted
    }
}

/// What is served, and what waits for Docker's resolver.
#[derive(Default)]
struct Served {
    containers: BTreeMap<String, Container>,
    /// Namespaces that are to be served and are not.
    missing: BTreeMap<String, Missing>,
    looked: Option<Instant>,
}

/// A namespace in which Docker's resolver was not found.
struct Missing {
    /// Since when it is to be served.
    since: Instant,
    /// When to look next.
    due: Instant,
}

/// Serves this node's containers until the member is stopped.
pub(crate) async fn run(member: Arc<Member>, names: Arc<Names>, task: Task) {
    let (mut served, mut applied) = (Served::default(), member.store().applied());
    loop {
        applied.borrow_and_update();
        let wanted = names.wanted(&member);
        task.begin();
        let Some(result) = member.unless_stopped(served.follow(&member, &names.counts, wanted)).await else { return };
        task.end(result);
        let next = member.unless_stopped(async {
            tokio::select! {
                changed = applied.changed() => changed.is_ok(),
                () = names.changed.notified() => true,
                () = sleep(served.pause()) => true,
            }
        });
        if next.await != Some(true) {
            return;
        }
    }
}

impl Served {
    /// How long until it is to be looked again although nothing has changed.
    fn pause(&self) -> Duration {
        let due = self.missing.values().map(|missing| missing.due.saturating_duration_since(Instant::now())).min();
        due.unwrap_or(TICK).min(TICK)
    }

    /// Serves what is to be served, and nothing else; what has failed is the error.
    async fn follow(
        &mut self,
        member: &Member,
        counts: &Counts,
        wanted: BTreeMap<String, BTreeSet<EndpointId>>,
    ) -> Result<(), KernelError> {
        self.containers.retain(|netns, _| wanted.contains_key(netns));
        self.missing.retain(|netns, _| wanted.contains_key(netns));
        if self.looked.is_none_or(|looked| looked.elapsed() >= TICK) {
            self.drop_gone().await;
            self.looked = Some(Instant::now());
        }
        let mut result = Ok(());
        for (netns, endpoints) in wanted {
            if let Some(container) = self.containers.get(&netns) {
                container.is_now(&endpoints);
                continue;
            }
            let now = Instant::now();
            let missing = self.missing.entry(netns.clone()).or_insert(Missing { since: now, due: now });
            if missing.due > now {
                continue;
            }
            let begun = match begin(&netns).await {
                Ok(Some(steered)) => Container::serve(member.store().clone(), counts.clone(), endpoints, steered)
                    .map(Some)
                    .map_err(|source| failed(&netns, source)),
                other => other.map(|_| None),
            };
            missing.due =
                Instant::now() + if begun.is_ok() && missing.since.elapsed() < FRESH { STARTING } else { TICK };
            match begun {
                Ok(None) => {}
                Ok(Some(container)) => {
                    info!(netns, "names are answered");
                    self.missing.remove(&netns);
                    self.containers.insert(netns, container);
                }
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Lets go of containers that are gone, or whose engine's resolver is elsewhere since the engine was started again.
    async fn drop_gone(&mut self) {
        let doors: Vec<_> = self.containers.iter().map(|(netns, served)| (netns.clone(), served.door())).collect();
        let look = move || doors.into_iter().filter(|(_, door)| !door.is_there()).map(|(netns, _)| netns).collect();
        let gone: Vec<String> = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        for netns in gone {
            debug!(netns, "Docker's resolver is not where it was");
            self.containers.remove(&netns);
        }
    }
}

/// Begins to steer; none: there is no resolver of Docker's (yet), or no namespace.
async fn begin(netns: &str) -> Result<Option<Steered>, KernelError> {
    let path = netns.to_owned();
    let begun = tokio::task::spawn_blocking(move || {
        let path = Path::new(&path);
        // The file is there before it names a namespace.
        match Steered::begin(path) {
            Err(KernelError::NoNamespace { .. }) => Ok(None),
            Err(_) if !path.exists() => Ok(None),
            begun => begun,
        }
    });
    begun.await.unwrap_or_else(|error| Err(failed(netns, io::Error::other(error))))
}

fn failed(netns: &str, source: io::Error) -> KernelError {
    KernelError::Steer { operation: "serve names in", path: netns.into(), source: source.into() }
}
