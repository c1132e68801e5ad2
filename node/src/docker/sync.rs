//! The loop that keeps an engine as the cluster wants it, and tells the cluster what the engine has.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::models::{EventMessage, EventMessageTypeEnum};
use futures::StreamExt;
use pontoon_store::model::command::{Command, PlaceEndpoint};
use pontoon_store::model::object::{Endpoint, Sandbox};
use pontoon_store::model::rejection::Reason;
use pontoon_store::on_behalf_of;
use pontoon_store::tasks::Task;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::engine::{Engine, EngineError, Look, is_name};
use super::network::by_engine;
use super::{Containers, rebind};
use crate::api::error::ApiError;
use crate::attach;
use crate::journal::JournalError;
use crate::kernel;
use crate::member::Member;
use crate::plan::desired::Names;
use crate::plan::engine::{EnginePlan, Seen, Step, Stray, gateway_subnet, gone, plan};

/// How often the engine is looked at although nothing has happened.
const TICK: Duration = Duration::from_secs(30);
/// How long to wait after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How long to wait for more of what happens at the same time.
const DEBOUNCE: Duration = Duration::from_millis(15);
/// How long something may be unknown to the engine before it is ended: it is busy making it, or has just ended it.
const GRACE: Duration = Duration::from_secs(20);
/// How many times a pass looks again at what it has brought about.
const ROUNDS: usize = 4;

/// What the loop works with.
pub(crate) struct Sync {
    /// The member that it works for.
    pub(crate) member: Arc<Member>,
    /// Socket of the engine's API.
    pub(crate) socket: PathBuf,
    /// Names in this host's kernel.
    pub(crate) names: Names,
    /// What is known of containers.
    pub(crate) containers: Arc<Containers>,
    /// How it is shown.
    pub(crate) task: Task,
}

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{0}")]
    Cluster(#[from] ApiError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the engine's events have ended")]
    Ended,
    /// It goes on with the rest; this is what is left.
    #[error("{0}")]
    Problems(String),
}

/// Runs until the member is stopped.
pub(crate) async fn run(sync: Sync) {
    let member = sync.member.clone();
    let forever = async {
        if only_votes(&sync).await {
            // Nothing of this host's engine is on a network.
            return std::future::pending().await;
        }
        loop {
            sync.task.begin();
            let Err(error) = session(&sync).await;
            sync.containers.set_engine("");
            sync.member.reconciler.wake();
            sync.task.end(Err(error));
            sleep(AGAIN).await;
        }
    };
    member.unless_stopped::<()>(forever).await;
}

/// Whether this node only votes, as the cluster says once this copy of its state knows the node.
async fn only_votes(sync: &Sync) -> bool {
    let mut applied = sync.member.store().applied();
    loop {
        applied.borrow_and_update();
        if let Some(node) = sync.member.store().state().nodes.get(&sync.member.node()) {
            return node.voter_only;
        }
        if applied.changed().await.is_err() {
            return false;
        }
    }
}

/// Works for as long as the engine answers.
async fn session(sync: &Sync) -> Result<std::convert::Infallible, SyncError> {
    let engine = Engine::connect(&sync.socket).await?;
    let happened = Arc::new(Happened::default());
    let mut events =
        AbortOnDropHandle::new(tokio::spawn(listen(engine.clone(), sync.containers.clone(), happened.clone())));
    let mut applied = sync.member.store().applied();
    let mut strays = BTreeMap::new();
    let version = format!("Docker {}", engine.version().await?.0);
    let mut seen = observe(sync, &engine, &Seen::default(), Look::Everything).await?;
    info!(socket = %sync.socket.display(), version, "working with Docker");
    sync.containers.set_engine(&version);
    // Its next pass reports the version.
    sync.member.reconciler.wake();
    ensure_bridge(sync, &engine, &seen).await?;
    loop {
        applied.borrow_and_update();
        sync.task.begin();
        let problems = settle(sync, &engine, &mut seen, &mut strays).await?;
        let failed = !problems.is_empty();
        sync.task.end(if failed { Err(SyncError::Problems(problems.join("; "))) } else { Ok(()) });
        let due = strays.values().map(|since| *since + GRACE).min().unwrap_or_else(|| Instant::now() + TICK);
        let due = if failed { Instant::now() + AGAIN } else { due.min(Instant::now() + TICK) };
        tokio::select! {
            _ = &mut events => return Err(SyncError::Ended),
            () = happened.something.notified() => {
                sleep(DEBOUNCE).await;
                seen = observe(sync, &engine, &seen, happened.look()).await?;
            }
            changed = applied.changed() => {
                changed.map_err(|_| SyncError::Ended)?;
                // What the cluster has changed may ask for something of the engine: that is looked at first.
                sleep(DEBOUNCE).await;
            }
            () = sleep_until(due) => seen = observe(sync, &engine, &seen, Look::Everything).await?,
        }
    }
}

/// What has happened in the engine since it was looked at.
#[derive(Debug, Default)]
struct Happened {
    something: Notify,
    /// Networks have come or gone.
    networks: AtomicBool,
}

impl Happened {
    fn note(&self, event: &EventMessage, containers: &Containers) {
        let Some(look) = look_for(event, |container| containers.is_fresh(container)) else { return };
        if look == Look::Everything {
            self.networks.store(true, Ordering::Release);
        }
        self.something.notify_one();
    }

    /// What the next look has to be at; forgets it.
    fn look(&self) -> Look {
        if self.networks.swap(false, Ordering::AcqRel) { Look::Everything } else { Look::Containers }
    }
}

/// What has to be looked at after an event, if anything. Most events change nothing that is looked at: health checks alone
/// make three each time, for each container. One that is about to start for the first time is looked at when it has.
fn look_for(event: &EventMessage, is_fresh: impl Fn(&str) -> bool) -> Option<Look> {
    let action = event.action.as_deref().unwrap_or_default();
    if event.typ == Some(EventMessageTypeEnum::CONTAINER) {
        return matches!(action, "create" | "start" | "die" | "destroy" | "rename").then_some(Look::Containers);
    }
    if !matches!(action, "connect" | "disconnect") {
        return Some(Look::Everything);
    }
    let attributes = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref());
    let container = attributes.and_then(|attributes| attributes.get("container"));
    let starts = action == "connect" && container.is_some_and(|container| is_fresh(container));
    (!starts).then_some(Look::Containers)
}

/// Takes note of what happens in the engine, also while the loop is at work. Ends with the connection.
async fn listen(engine: Engine, containers: Arc<Containers>, happened: Arc<Happened>) {
    let events = engine.events();
    tokio::pin!(events);
    while let Some(Ok(event)) = events.next().await {
        note(&containers, &event);
        happened.note(&event, &containers);
    }
}

/// Does what is to be done until nothing is; tells what is in the way.
async fn settle(
    sync: &Sync,
    engine: &Engine,
    seen: &mut Seen,
    strays: &mut BTreeMap<Stray, Instant>,
) -> Result<Vec<String>, SyncError> {
    let mut problems = Vec::new();
    for _ in 0..ROUNDS {
        // A look can be older than what the engine has said since.
        seen.networks.retain(|net| !sync.containers.is_removed(&net.id));
        let told = rebind::tell(&sync.member).await;
        let planned = current_plan(sync, seen);
        let unended = end_strays(sync, &planned, strays).await;
        problems = planned.problems;
        problems.extend(unended);
        // The steps are about containers as the cluster knows them.
        if let Err(error) = told {
            problems.push(format!("cannot tell the cluster who runs here: {error}"));
            break;
        }
        if planned.steps.is_empty() {
            break;
        }
        let look = if planned.steps.iter().any(Step::changes_networks) { Look::Everything } else { Look::Containers };
        for step in planned.steps {
            if let Err(error) = execute(sync, engine, &step).await {
                warn!(%step, %error, "failed");
                problems.push(format!("cannot {step}: {error}"));
            }
        }
        *seen = observe(sync, engine, seen, look).await?;
    }
    Ok(problems)
}

fn current_plan(sync: &Sync, seen: &Seen) -> EnginePlan {
    let state = sync.member.view();
    if sync.member.store().is_known_in(&state) { plan(&state, sync.member.node(), seen) } else { EnginePlan::default() }
}

/// Looks at the engine, after an earlier look.
async fn observe(sync: &Sync, engine: &Engine, before: &Seen, look: Look) -> Result<Seen, SyncError> {
    let me = sync.member.node();
    let known = {
        let state = sync.member.store().state();
        state.engine_networks.values().filter(|known| known.node == me).map(|known| known.id.clone()).collect()
    };
    Ok(engine.observe_after(before, look).await?.after(before, known))
}

async fn ensure_bridge(sync: &Sync, engine: &Engine, seen: &Seen) -> Result<(), SyncError> {
    let facts = sync.member.reconciler.status().borrow().facts.clone();
    let subnet = gateway_subnet(&sync.member.store().state(), &facts);
    Ok(engine.ensure_gateway_bridge(seen, subnet).await?)
}

/// Remembers containers that were created and have not started.
fn note(containers: &Containers, event: &EventMessage) {
    let Some(actor) = &event.actor else { return };
    let id = actor.id.as_deref().unwrap_or_default();
    match event.action.as_deref() {
        Some("create") if event.typ == Some(EventMessageTypeEnum::CONTAINER) => {
            let name = actor.attributes.as_ref().and_then(|attributes| attributes.get("name"));
            containers.created(id, name.filter(|name| is_name(name)).map_or("", String::as_str));
        }
        Some("start" | "die" | "destroy") => containers.started_or_gone(id),
        _ => {}
    }
}

/// Ends what the engine has not known for a while; tells what cannot be ended.
async fn end_strays(sync: &Sync, planned: &EnginePlan, strays: &mut BTreeMap<Stray, Instant>) -> Vec<String> {
    let mut problems = Vec::new();
    strays.retain(|stray, _| planned.strays.contains(stray));
    for stray in &planned.strays {
        let since = *strays.entry(stray.clone()).or_insert_with(Instant::now);
        if since.elapsed() < GRACE {
            continue;
        }
        info!(?stray, "the engine has not known this for a while: it is ended, or a network made there again");
        match end_stray(sync, stray).await {
            Ok(()) => count(sync, stray),
            Err(error) => problems.push(format!("cannot end what the engine does not know: {error}")),
        }
    }
    problems
}

/// A network is made in the engine again by the next pass, and nothing of the cluster's has ended.
fn count(sync: &Sync, ended: &Stray) {
    let Stray::Lost(network) = ended else { return sync.member.count_reclaimed(1) };
    let name = sync.member.store().state().networks.get(network).map(|network| network.name.clone());
    let name = name.unwrap_or_else(|| network.to_string());
    sync.member.count_repair("docker-network", format!("Docker has lost network {name}, and it is made there again"));
}

async fn end_stray(sync: &Sync, stray: &Stray) -> Result<(), SyncError> {
    match stray {
        Stray::Endpoint(id, epoch, engine_id) => {
            match sync.member.journal.rebound().get(id) {
                Some(known) if known == engine_id => sync.member.journal.settle(*id, engine_id).await?,
                // A container has started on it since it was looked at.
                Some(_) => return Ok(()),
                None => {}
            }
            Ok(attach::end(&sync.member, &[(*id, *epoch)]).await?)
        }
        Stray::Address(network, address, epoch) => {
            let (network, address, epoch) = (*network, *address, *epoch);
            Ok(propose(sync, Command::ReleaseAddress { network, address, epoch }).await?)
        }
        Stray::Network(network) => Ok(propose(sync, Command::RemoveNetwork { network: *network }).await?),
        Stray::Lost(network) => Ok(propose(sync, gone(*network, sync.member.node())).await?),
    }
}

async fn propose(sync: &Sync, command: Command) -> Result<(), ApiError> {
    sync.member.propose(command).await.map(drop)
}

async fn execute(sync: &Sync, engine: &Engine, step: &Step) -> Result<(), SyncError> {
    match step {
        Step::Name { network, id, name, labels } => {
            let named = Command::NameNetwork { network: *network, name: name.clone(), labels: labels.clone() };
            match on_behalf_of(Some(by_engine()), propose(sync, named)).await {
                Err(error) if is_lost(&error) => {
                    warn!(name, error = %error.message, "removing the network that the engine has made: it cannot have this name");
                    Ok(engine.remove(id, name).await?)
                }
                result => Ok(result?),
            }
        }
        Step::Create(network) => {
            let request = {
                let state = sync.member.store().state();
                super::engine::request(&state, network)
            };
            info!(network = network.name, "making a network of the cluster in the engine");
            Ok(engine.create(request).await?)
        }
        Step::Remove { id, name, .. } => {
            // The cluster may know it by now, and this copy of the state not.
            sync.member.refresh().await?;
            let known = sync.member.store().state().network_of_engine(sync.member.node(), id).is_some();
            if known {
                return Ok(());
            }
            info!(%step, "the engine has a network of our driver that the cluster does not have");
            Ok(engine.remove(id, name).await?)
        }
        Step::Reconnect { name, container_id, container } => {
            info!(container, network = name, "putting a container on its network, which was removed under it, again");
            engine.reconnect(container_id, name).await?;
            let latest = format!("container {container} was put on network {name} again");
            sync.member.count_repair("docker-container", latest);
            Ok(())
        }
        Step::Report(known) => Ok(propose(sync, Command::ReportEngineNetwork(known.clone())).await?),
        Step::Forget { endpoint, epoch, .. } => {
            let (endpoint, epoch) = (*endpoint, *epoch);
            // From here on somebody else may get its address.
            sync.member.journal.give_up(endpoint, epoch).await?;
            match propose(sync, Command::RemoveEndpoint { endpoint, epoch }).await {
                Err(error) if !error.is_over() => Err(error.into()),
                _ => Ok(()),
            }
        }
        // The cluster has to know first that it is in use.
        Step::Place { endpoint, .. } if sync.member.view().is_rebound(endpoint.id) => Ok(()),
        Step::Place { endpoint, name, container_id, aliases, ports } => {
            let Some((sandbox, ifname)) = placement(sync, engine, endpoint, container_id).await? else {
                // The engine has not moved it yet; an event tells when the container has started.
                return Ok(());
            };
            let placed = PlaceEndpoint {
                endpoint: endpoint.id,
                epoch: endpoint.epoch,
                name: name.clone(),
                container_id: container_id.clone(),
                aliases: aliases.clone(),
                sandbox,
                ifname,
                ports: ports.clone(),
            };
            Ok(propose(sync, Command::PlaceEndpoint(placed)).await?)
        }
    }
}

/// Whether a network cannot have its name: another one has it, or no network can.
fn is_lost(error: &ApiError) -> bool {
    [Reason::NetworkNameTaken, Reason::InvalidName, Reason::InvalidLabel].iter().any(|r| r.as_str() == error.reason)
}

/// Where an endpoint's interface is, and its name there; none when the engine has not moved it.
async fn placement(
    sync: &Sync,
    engine: &Engine,
    endpoint: &Endpoint,
    container_id: &str,
) -> Result<Option<(Sandbox, String)>, SyncError> {
    if endpoint.is_placed() {
        return Ok(Some((endpoint.sandbox.clone(), endpoint.ifname.clone())));
    }
    let Some(netns) = engine.sandbox(container_id).await? else { return Ok(None) };
    let (names, id) = (sync.names.clone(), endpoint.id);
    let looked = tokio::task::spawn_blocking(move || kernel::placed(&names, id, &netns)).await;
    let looked = looked.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    looked.map_err(|error| SyncError::Problems(error.to_string()))
}

#[cfg(test)]
mod tests {
    use bollard::models::EventActor;

    use super::*;

    #[test]
    fn what_changes_nothing_asks_for_no_look() {
        use EventMessageTypeEnum::{CONTAINER, NETWORK};
        let (containers, everything) = (Some(Look::Containers), Some(Look::Everything));
        for (typ, action, container, look) in [
            (CONTAINER, "create", "", containers),
            (CONTAINER, "start", "", containers),
            (CONTAINER, "die", "", containers),
            (CONTAINER, "destroy", "", containers),
            (CONTAINER, "rename", "", containers),
            (CONTAINER, "exec_create: /bin/true", "", None),
            (CONTAINER, "exec_start: /bin/true", "", None),
            (CONTAINER, "exec_die", "", None),
            (CONTAINER, "health_status: healthy", "", None),
            (CONTAINER, "attach", "", None),
            (NETWORK, "connect", "fresh", None),
            (NETWORK, "connect", "running", containers),
            (NETWORK, "disconnect", "fresh", containers),
            (NETWORK, "disconnect", "running", containers),
            // An engine that does not say which container it is.
            (NETWORK, "connect", "", containers),
            (NETWORK, "create", "", everything),
            (NETWORK, "destroy", "", everything),
            (NETWORK, "prune", "", everything),
        ] {
            let attributes = (!container.is_empty()).then(|| [("container".to_owned(), container.to_owned())].into());
            let actor = Some(EventActor { id: None, attributes });
            let event =
                EventMessage { typ: Some(typ), action: Some(action.to_owned()), actor, ..EventMessage::default() };
            assert_eq!(look_for(&event, |container| container == "fresh"), look, "{action} {container}");
        }
    }
}
