//! Attaching a network namespace of this host: a lease from the cluster, interfaces from the
//! reconcile loop, and nothing left if either fails.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use pontoon_proto::v1;
use pontoon_store::model::command::{Command, CreateEndpoint, Outcome};
use pontoon_store::model::id::{EndpointId, Mac, NetworkId};
use pontoon_store::model::object::{Endpoint, EndpointState, Sandbox};
use pontoon_store::model::rejection::Reason;
use pontoon_store::model::state::State;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Code;
use tracing::warn;

use crate::api::error::ApiError;
use crate::api::{endpoint_view, find_network};
use crate::journal::View;
use crate::kernel;
use crate::member::{Member, WRITE_DEADLINE, is_in_use};
use crate::plan::desired::host_of;
use crate::reconcile::PassReport;

/// What to attach.
#[derive(Debug)]
pub struct Attachment {
    /// Name or id of the network.
    pub network: String,
    /// File that names the namespace.
    pub netns: String,
    /// Name of the container.
    pub name: String,
    /// Addresses asked for.
    pub addresses: Vec<IpAddr>,
    /// MAC asked for.
    pub mac: Option<Mac>,
    /// Name of the interface.
    pub ifname: Option<String>,
    /// Other names.
    pub aliases: Vec<String>,
}

/// What to detach.
#[derive(Debug)]
pub struct Selection {
    /// Only from this network.
    pub network: Option<String>,
    /// File that names the namespace.
    pub netns: Option<String>,
    /// Name of the container on this node.
    pub name: Option<String>,
}

/// The attaches of this daemon that are not over.
#[derive(Debug, Default)]
pub struct InFlight {
    /// Namespaces that are being attached now, by their keys. A pending endpoint of this node that is not among them was
    /// left by a daemon that died, or by a write whose answer was lost.
    entered: Mutex<BTreeSet<(NetworkId, String)>>,
    /// Endpoints that are to be ended, until they are known to be: of detaches, and of attaches that failed. The loop
    /// does without their interfaces.
    ending: Mutex<BTreeMap<EndpointId, Ending>>,
    /// An attach or an ending is over: there may be something to collect.
    left: Notify,
}

/// An endpoint that is to be ended.
#[derive(Debug, Clone, Copy)]
struct Ending {
    epoch: u64,
    /// Whoever began it has given up, or is gone: the collector goes on.
    left: bool,
}

impl InFlight {
    fn enter(&self, network: NetworkId, sandbox: &Sandbox) -> Result<Attaching<'_>, ApiError> {
        let key = (network, sandbox.key.clone());
        if !lock(&self.entered).insert(key.clone()) {
            let message = format!("{} is being attached to this network by another request", sandbox.netns);
            return Err(ApiError::new(Code::Aborted, Reason::AlreadyAttached.as_str(), message, "wait for that one"));
        }
        Ok(Attaching { all: self, key })
    }

    /// Whether somebody is at work on this endpoint.
    pub fn holds(&self, endpoint: &Endpoint) -> bool {
        lock(&self.entered).contains(&(endpoint.network, endpoint.sandbox.key.clone()))
            || lock(&self.ending).contains_key(&endpoint.id)
    }

    /// Endpoints whose interfaces go before their leases end, with their epochs.
    pub(crate) fn ending(&self) -> BTreeMap<EndpointId, u64> {
        lock(&self.ending).iter().map(|(id, ending)| (*id, ending.epoch)).collect()
    }

    /// Whether an ending is left to the collector: its interface is to go, and somebody goes on with the rest.
    pub(crate) fn is_left(&self, endpoint: EndpointId, epoch: u64) -> bool {
        lock(&self.ending).get(&endpoint).is_some_and(|ending| ending.left && ending.epoch == epoch)
    }

    fn begin_ending<'a>(&'a self, endpoints: &'a [(EndpointId, u64)]) -> EndingGuard<'a> {
        lock(&self.ending).extend(endpoints.iter().map(|(id, epoch)| (*id, Ending { epoch: *epoch, left: false })));
        EndingGuard { all: self, endpoints }
    }

    /// What the collector has to go on with, with epochs; forgets what is done.
    fn left_over(&self, view: &View<'_>) -> Vec<(EndpointId, u64)> {
        let mut ending = lock(&self.ending);
        ending.retain(|id, ending| !ending.left || is_in_use(view, *id, ending.epoch));
        ending.iter().filter(|(_, ending)| ending.left).map(|(id, ending)| (*id, ending.epoch)).collect()
    }

    /// Waits until an attach or an ending is over, or returns at once if one is since the last call.
    pub(crate) async fn left(&self) {
        self.left.notified().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Insertions and removals leave what is in there whole even if a holder panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Attaching<'a> {
    all: &'a InFlight,
    key: (NetworkId, String),
}

impl Drop for Attaching<'_> {
    fn drop(&mut self) {
        lock(&self.all.entered).remove(&self.key);
        self.all.left.notify_one();
    }
}

/// Holds endpoints that are being ended. Those that are not done when it goes are left to the collector.
struct EndingGuard<'a> {
    all: &'a InFlight,
    endpoints: &'a [(EndpointId, u64)],
}

impl Drop for EndingGuard<'_> {
    fn drop(&mut self) {
        let mut ending = lock(&self.all.ending);
        for (id, _) in self.endpoints {
            if let Some(ending) = ending.get_mut(id) {
                ending.left = true;
                self.all.left.notify_one();
            }
        }
    }
}

/// Gives a namespace its interfaces.
pub async fn attach(member: &Member, wanted: Attachment) -> Result<v1::AttachResponse, ApiError> {
    let sandbox = kernel::sandbox(&wanted.netns).map_err(|error| netns_error(&wanted.netns, &error))?;
    let create = async |by| {
        let network = find_network(&member.store().state(), &wanted.network)?.id;
        let guard = member.attachments.enter(network, &sandbox)?;
        finish(member, network, &sandbox).await?;
        let command = Command::CreateEndpoint(CreateEndpoint {
            network,
            node: member.node(),
            name: wanted.name.clone(),
            container_id: String::new(),
            aliases: wanted.aliases.clone(),
            mac: wanted.mac,
            addresses: wanted.addresses.clone(),
            sandbox: sandbox.clone(),
            ifname: wanted.ifname.clone(),
            engine_id: String::new(),
        });
        let mut created = member.propose_by(command.clone(), by).await;
        // A daemon that has just started may have looked at an older state than the one that refuses.
        let refused = matches!(&created, Err(error) if error.reason == Reason::AlreadyAttached.as_str());
        if refused && finish(member, network, &sandbox).await? {
            created = member.propose_by(command, by).await;
        }
        Ok((expect_endpoint(created?)?, guard))
    };
    let (endpoint, _guard) = member.write_named(&wanted.network, create).await?;
    match carry_out(member, &endpoint).await {
        Ok(endpoint) => Ok(response(&member.store().state(), &endpoint)),
        Err(error) => {
            undo(member, &endpoint, &error).await;
            Err(error)
        }
    }
}

/// Ends what an earlier attach or detach of a namespace has left; tells whether there was something.
async fn finish(member: &Member, network: NetworkId, sandbox: &Sandbox) -> Result<bool, ApiError> {
    let unfinished = unfinished(member, network, sandbox);
    if !unfinished.is_empty() {
        end(member, &unfinished).await?;
    }
    Ok(!unfinished.is_empty())
}

/// What an earlier attach or detach of a namespace that this one has entered has left: the collector has not come to it
/// yet. Nobody may be told that this is an attachment.
fn unfinished(member: &Member, network: NetworkId, sandbox: &Sandbox) -> Vec<(EndpointId, u64)> {
    let state = member.store().state();
    let ending = member.attachments.ending();
    let endpoints = state.endpoints_of_sandbox(member.node(), &sandbox.key).filter(|e| e.network == network);
    let unfinished = endpoints.filter(|e| e.state == EndpointState::Pending || ending.contains_key(&e.id));
    unfinished.map(|endpoint| (endpoint.id, endpoint.epoch)).collect()
}

async fn carry_out(member: &Member, endpoint: &Endpoint) -> Result<Endpoint, ApiError> {
    made(member, endpoint, &*member.reconciler.pass_now().await?)?;
    expect_endpoint(member.propose(Command::ActivateEndpoint { endpoint: endpoint.id, epoch: endpoint.epoch }).await?)
}

/// Tells why the interfaces of an endpoint could not be made by a pass, if they were not.
pub(crate) fn made(member: &Member, endpoint: &Endpoint, report: &PassReport) -> Result<(), ApiError> {
    let vni = member.store().state().networks.get(&endpoint.network).map(|network| network.vni);
    let Some(problem) = vni.and_then(|vni| report.problem_of(endpoint.id, vni, endpoint.egress.is_some())) else {
        return Ok(());
    };
    let message = format!("cannot make the interfaces of {:?} in {}: {problem}", endpoint.name, endpoint.sandbox.netns);
    let hint = "nothing was left behind; pontoon status says more";
    Err(ApiError::new(Code::Internal, "KERNEL", message, hint))
}

/// Takes back what a failed attach made. What cannot be taken back now, the collector will.
async fn undo(member: &Member, endpoint: &Endpoint, failure: &ApiError) {
    let endpoints = [(endpoint.id, endpoint.epoch)];
    let undone = if failure.is_unanswered() {
        // The release would wait for the cluster once more, and so would whoever asked.
        let _guard = member.attachments.begin_ending(&endpoints);
        member.reconciler.pass_now().await.map(drop).map_err(ApiError::from)
    } else {
        end(member, &endpoints).await
    };
    if let Err(error) = undone {
        warn!(endpoint = %endpoint.id, %error, "what a failed attach made is removed later");
    }
}

/// Takes interfaces away and releases their leases.
pub async fn detach(member: &Member, selection: Selection) -> Result<Vec<v1::EndpointView>, ApiError> {
    // It is about all that match, and an older state may have some of them only.
    member.refresh().await?;
    let selected = select(member, &selection)?;
    let views = {
        let state = member.store().state();
        selected.iter().map(|endpoint| endpoint_view(&state, endpoint)).collect()
    };
    let endpoints: Vec<_> = selected.iter().map(|endpoint| (endpoint.id, endpoint.epoch)).collect();
    end(member, &endpoints).await.map_err(|error| ApiError {
        message: format!("detaching has begun and is not done: {}", error.message),
        hint: "pontoond goes on with it; pontoon detach again says whether it is done".to_owned(),
        ..error
    })?;
    Ok(views)
}

fn select(member: &Member, selection: &Selection) -> Result<Vec<Endpoint>, ApiError> {
    // The file may be gone already; then its path still names the endpoints made through it.
    let sandbox = selection.netns.as_deref().map(|path| (path, kernel::sandbox(path).ok()));
    let state = member.store().state();
    let network = selection.network.as_deref().map(|name| find_network(&state, name)).transpose()?.map(|n| n.id);
    let in_sandbox = |endpoint: &Endpoint| match &sandbox {
        None => true,
        Some((_, Some(sandbox))) => endpoint.sandbox.key == sandbox.key,
        Some((path, None)) => endpoint.sandbox.netns == *path,
    };
    let endpoints = state.endpoints_of_node(member.node());
    let endpoints = endpoints.filter(|endpoint| network.is_none_or(|id| endpoint.network == id));
    let endpoints = endpoints.filter(|endpoint| selection.name.as_deref().is_none_or(|name| endpoint.name == name));
    let selected: Vec<Endpoint> = endpoints.filter(|endpoint| in_sandbox(endpoint)).cloned().collect();
    if let Some(endpoint) = selected.iter().find(|endpoint| !endpoint.engine_id.is_empty()) {
        let network = state.networks.get(&endpoint.network).map_or("NETWORK", |network| &network.name);
        let message = format!("container {} is Docker's: pontoon detaches only what it has attached", endpoint.name);
        let hint = format!("docker network disconnect {network} {}", endpoint.name);
        return Err(ApiError::new(Code::FailedPrecondition, "OF_ENGINE", message, hint));
    }
    if selected.is_empty() {
        let what = selection.name.as_deref().or(selection.netns.as_deref()).unwrap_or_default();
        let message = match &selection.network {
            Some(network) => format!("{what} is not attached to {network:?} on this node"),
            None => format!("{what} is attached to no network on this node"),
        };
        let hint = "pontoon node inspect lists the endpoints of a node";
        return Err(ApiError::new(Code::NotFound, Reason::EndpointNotFound.as_str(), message, hint));
    }
    Ok(selected)
}

/// Ends endpoints, given with their epochs: first their interfaces go, then their leases. A daemon that is killed in
/// between makes the interfaces again when it starts; the other way round, an address could be in use here that is leased
/// to another by then. What fails is not taken back, for a release that was not answered may come yet: the collector goes
/// on with it.
pub(crate) async fn end(member: &Member, endpoints: &[(EndpointId, u64)]) -> Result<(), ApiError> {
    end_by(member, endpoints, Instant::now() + WRITE_DEADLINE).await
}

/// The same, and what the cluster has not answered by then is left to the collector.
pub(crate) async fn end_by(member: &Member, endpoints: &[(EndpointId, u64)], by: Instant) -> Result<(), ApiError> {
    let _guard = member.attachments.begin_ending(endpoints);
    let report = member.reconciler.pass_now().await?;
    let mut result = Ok(());
    for (endpoint, epoch) in endpoints {
        if let Some(problem) = report.kept.get(endpoint) {
            let message = format!("cannot remove the interface of endpoint {endpoint}: {problem}");
            result = Err(ApiError::new(Code::Internal, "KERNEL", message, "pontoon status says more"));
        } else {
            release(member, *endpoint, *epoch, by).await?;
        }
    }
    // The way out and the bridge may be somebody else's now, or nobody's.
    member.reconciler.pass_now().await?;
    result
}

/// Releases an endpoint's leases, or keeps them for its container if that is an engine's. One that somebody else has ended
/// in the meantime is as good.
async fn release(member: &Member, endpoint: EndpointId, epoch: u64, by: Instant) -> Result<(), ApiError> {
    let known = member.store().state().endpoints.get(&endpoint).cloned().filter(|e| !e.engine_id.is_empty());
    let command = match known {
        Some(known) if !known.container_id.is_empty() => Command::StopEndpoint { endpoint, epoch },
        known => {
            if known.is_some() {
                member.journal.give_up(endpoint, epoch).await?;
            }
            Command::RemoveEndpoint { endpoint, epoch }
        }
    };
    match member.propose_by(command, by).await {
        Err(error) if !error.is_over() => return Err(error),
        _ => {}
    }
    // The state here can be older than the answer: then it still asks for the interface.
    let view = member.view();
    let mut ending = lock(&member.attachments.ending);
    if ending.get(&endpoint).is_some_and(|ending| !is_in_use(&view, endpoint, ending.epoch)) {
        ending.remove(&endpoint);
    }
    Ok(())
}

/// Ends endpoints of this node whose namespace is gone, pending ones that nobody works on, and those whose ending failed.
/// Returns how many.
pub(crate) async fn collect(member: &Member, vanished: &BTreeMap<EndpointId, String>) -> Result<u64, ApiError> {
    let mut endpoints = member.attachments.left_over(&member.view());
    if !endpoints.is_empty() {
        tracing::info!(?endpoints, "going on with what a detach or a failed attach has left");
    }
    // An engine may take an endpoint into use again meanwhile: its epoch is new then.
    let suspects: BTreeSet<_> =
        garbage(member, vanished).iter().map(|endpoint| (endpoint.id, endpoint.epoch)).collect();
    if !suspects.is_empty() {
        // The state here can be older than an attach that was acknowledged: after a start it goes on from what was
        // known to be committed, and a follower lags behind. So only those may go that are garbage in the newest state,
        // too; and none that were not before, whose attach may have come and ended since the state was refreshed.
        member.refresh().await?;
    }
    let is_suspect = |endpoint: &Endpoint| suspects.contains(&(endpoint.id, endpoint.epoch));
    for endpoint in garbage(member, vanished).into_iter().filter(is_suspect) {
        tracing::info!(endpoint = %endpoint.id, name = endpoint.name, netns = endpoint.sandbox.netns,
            state = ?endpoint.state, "releasing the lease of an endpoint whose namespace is gone or that was never finished");
        endpoints.push((endpoint.id, endpoint.epoch));
    }
    if !endpoints.is_empty() {
        end(member, &endpoints).await?;
    }
    Ok(endpoints.len() as u64)
}

fn garbage(member: &Member, vanished: &BTreeMap<EndpointId, String>) -> Vec<Endpoint> {
    let state = member.view();
    // An endpoint that an engine has not placed is the engine's business: it is compared with what the engine has.
    let unfinished = |e: &Endpoint| e.state == EndpointState::Pending && e.engine_id.is_empty();
    let unused = |e: &&Endpoint| unfinished(e) || vanished.get(&e.id) == Some(&e.sandbox.key);
    let endpoints = state.endpoints_of_node(member.node()).filter(unused);
    endpoints.filter(|endpoint| !member.attachments.holds(endpoint)).cloned().collect()
}

fn expect_endpoint(outcome: Outcome) -> Result<Endpoint, ApiError> {
    match outcome {
        Outcome::Endpoint(endpoint) => Ok(endpoint),
        other => Err(crate::api::unexpected(&other)),
    }
}

fn response(state: &State, endpoint: &Endpoint) -> v1::AttachResponse {
    let subnets = state.nodes.get(&endpoint.node).map_or(&[][..], |node| &node.egress_subnets);
    let egress = endpoint.egress.iter().flat_map(|egress| {
        subnets.iter().filter_map(|subnet| IpNet::new(host_of(*subnet, egress.host)?, subnet.prefix_len()).ok())
    });
    v1::AttachResponse {
        endpoint: Some(endpoint_view(state, endpoint)),
        egress_addresses: egress.map(|address| address.to_string()).collect(),
    }
}

fn netns_error(path: &str, error: &kernel::KernelError) -> ApiError {
    let message = format!("cannot use the network namespace {path}: {error}");
    let hint = "give the file of a network namespace that exists on this host, such as /run/netns/NAME";
    ApiError::new(Code::NotFound, "NETNS_NOT_FOUND", message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_that_nobody_is_at_work_on_any_more_is_left_to_the_collector() {
        let all = InFlight::default();
        let mut state = State::default();
        let endpoint = crate::plan::tests::small_state().endpoints[&EndpointId(11)].clone();
        let both = [(endpoint.id, endpoint.epoch), (EndpointId(12), 12)];
        state.endpoints.insert(endpoint.id, endpoint.clone());
        let view = View::Own(Box::new(state.clone()), BTreeSet::new());
        let guard = all.begin_ending(&both);
        assert_eq!(all.ending(), both.into());
        assert!(all.holds(&endpoint) && all.left_over(&view).is_empty());
        drop(guard);
        // The state has the other one no more.
        assert_eq!(all.left_over(&view), both[..1]);
        assert_eq!(all.ending(), both[..1].iter().copied().collect());
        // Somebody asks again, and is told.
        let guard = all.begin_ending(&both[..1]);
        assert!(all.left_over(&view).is_empty());
        lock(&all.ending).remove(&endpoint.id);
        drop(guard);
        assert!(all.left_over(&view).is_empty() && !all.holds(&endpoint));
    }

    #[test]
    fn an_endpoint_that_was_taken_into_use_again_is_not_ended() {
        let all = InFlight::default();
        let mut state = State::default();
        let endpoint = crate::plan::tests::small_state().endpoints[&EndpointId(11)].clone();
        let ended = [(endpoint.id, endpoint.epoch)];
        let left = |endpoint: Option<Endpoint>, rebound: &[EndpointId]| {
            drop(all.begin_ending(&ended));
            state.endpoints = endpoint.into_iter().map(|endpoint| (endpoint.id, endpoint)).collect();
            let left = all.left_over(&View::Own(Box::new(state.clone()), rebound.iter().copied().collect()));
            assert_eq!(all.is_left(ended[0].0, ended[0].1), !left.is_empty());
            left
        };
        let mut left = left;
        assert_eq!(left(Some(endpoint.clone()), &[]), ended);
        assert_eq!(left(Some(endpoint.clone()), &[endpoint.id]), []);
        assert_eq!(left(Some(Endpoint { epoch: endpoint.epoch + 1, ..endpoint.clone() }), &[]), []);
        assert_eq!(left(Some(Endpoint { state: EndpointState::Stopped, ..endpoint }), &[]), []);
        assert_eq!(left(None, &[]), []);
    }
}
