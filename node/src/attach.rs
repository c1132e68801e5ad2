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
use tonic::Code;
use tracing::warn;

use crate::api::error::ApiError;
use crate::api::{endpoint_view, find_network};
use crate::kernel;
use crate::member::Member;
use crate::plan::desired::host_of;

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
    /// Namespaces that are being attached now. A pending endpoint of this node that is not among them was left by a
    /// daemon that died, or by a write whose answer was lost.
    entered: Mutex<BTreeSet<(NetworkId, Sandbox)>>,
    /// Endpoints of attaches that failed, with their epochs, until they are known to be ended. They are not found by
    /// looking: an activation whose answer was lost may have made them active.
    failed: Mutex<BTreeMap<EndpointId, u64>>,
    /// An attach is over: there may be something to collect.
    left: Notify,
}

impl InFlight {
    fn enter(&self, network: NetworkId, sandbox: &Sandbox) -> Result<Attaching<'_>, ApiError> {
        let key = (network, sandbox.clone());
        if !lock(&self.entered).insert(key.clone()) {
            let message = format!("{} is being attached to this network by another request", sandbox.netns);
            return Err(ApiError::new(Code::Aborted, Reason::AlreadyAttached.as_str(), message, "wait for that one"));
        }
        Ok(Attaching { all: self, key })
    }

    /// Whether somebody is at work on this endpoint.
    pub fn holds(&self, endpoint: &Endpoint) -> bool {
        lock(&self.entered).contains(&(endpoint.network, endpoint.sandbox.clone()))
    }

    /// Waits until an attach is over, or returns at once if one is since the last call.
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
    key: (NetworkId, Sandbox),
}

impl Drop for Attaching<'_> {
    fn drop(&mut self) {
        lock(&self.all.entered).remove(&self.key);
        self.all.left.notify_one();
    }
}

/// Gives a namespace its interfaces.
pub async fn attach(member: &Member, wanted: Attachment) -> Result<v1::AttachResponse, ApiError> {
    let sandbox = kernel::sandbox(&wanted.netns).map_err(|error| netns_error(&wanted.netns, &error))?;
    let create = async || {
        let network = find_network(&member.store().state(), &wanted.network)?.id;
        let guard = member.attachments.enter(network, &sandbox)?;
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
        });
        Ok((expect_endpoint(member.propose(command).await?)?, guard))
    };
    let (endpoint, _guard) = member.write_named(&wanted.network, create).await?;
    match carry_out(member, &endpoint).await {
        Ok(endpoint) => Ok(response(&member.store().state(), &endpoint)),
        Err(error) => {
            undo(member, &endpoint).await;
            Err(error)
        }
    }
}

async fn carry_out(member: &Member, endpoint: &Endpoint) -> Result<Endpoint, ApiError> {
    let report = member.reconciler.pass_now().await?;
    let vni = member.store().state().networks.get(&endpoint.network).map(|network| network.vni);
    let problem = vni.and_then(|vni| report.problem_of(endpoint.id, vni, endpoint.egress.is_some()));
    if let Some(problem) = problem {
        let message =
            format!("cannot make the interfaces of {:?} in {}: {problem}", endpoint.name, endpoint.sandbox.netns);
        return Err(ApiError::new(
            Code::Internal,
            "KERNEL",
            message,
            "nothing was left behind; pontoon status says more",
        ));
    }
    expect_endpoint(member.propose(Command::ActivateEndpoint { endpoint: endpoint.id, epoch: endpoint.epoch }).await?)
}

/// Takes back what a failed attach made. What cannot be taken back now, the collector will.
async fn undo(member: &Member, endpoint: &Endpoint) {
    lock(&member.attachments.failed).insert(endpoint.id, endpoint.epoch);
    match end(member, endpoint.id, endpoint.epoch).await {
        Ok(()) => {
            lock(&member.attachments.failed).remove(&endpoint.id);
        }
        Err(error) => warn!(endpoint = %endpoint.id, %error, "the lease of a failed attach is released later"),
    }
    if let Err(error) = member.reconciler.pass_now().await {
        warn!(endpoint = %endpoint.id, %error, "the interfaces of a failed attach are removed later");
    }
}

/// Takes interfaces away and releases their leases.
pub async fn detach(member: &Member, selection: Selection) -> Result<Vec<v1::EndpointView>, ApiError> {
    // It is about all that match, and an older state may have some of them only.
    member.refresh().await?;
    let selected = select(member, &selection)?;
    let mut views = Vec::new();
    for endpoint in selected {
        views.push(endpoint_view(&member.store().state(), &endpoint));
        end(member, endpoint.id, endpoint.epoch).await?;
    }
    member.reconciler.pass_now().await?;
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

/// Ends an endpoint. One that somebody else has ended in the meantime is as good.
async fn end(member: &Member, endpoint: EndpointId, epoch: u64) -> Result<(), ApiError> {
    let gone = [Reason::EndpointNotFound.as_str(), Reason::EpochMismatch.as_str()];
    match member.propose(Command::RemoveEndpoint { endpoint, epoch }).await {
        Err(error) if !gone.contains(&error.reason) => Err(error),
        _ => Ok(()),
    }
}

/// Ends endpoints of this node whose namespace is gone, pending ones that nobody works on, and those of failed attaches.
/// Returns how many.
pub(crate) async fn collect(member: &Member, vanished: &BTreeSet<EndpointId>) -> Result<u64, ApiError> {
    let mut count = 0;
    let failed = lock(&member.attachments.failed).clone();
    for (endpoint, epoch) in failed {
        tracing::info!(%endpoint, "releasing the lease of an attach that failed");
        end(member, endpoint, epoch).await?;
        lock(&member.attachments.failed).remove(&endpoint);
        count += 1;
    }
    let suspects: BTreeSet<EndpointId> = garbage(member, vanished).iter().map(|endpoint| endpoint.id).collect();
    if suspects.is_empty() {
        return Ok(count);
    }
    // The state here can be older than an attach that was acknowledged: after a start it goes on from what was known
    // to be committed, and a follower lags behind. So only those may go that are garbage in the newest state, too; and
    // none that were not before, whose attach may have come and ended since the state was refreshed.
    member.refresh().await?;
    for endpoint in garbage(member, vanished).into_iter().filter(|endpoint| suspects.contains(&endpoint.id)) {
        tracing::info!(endpoint = %endpoint.id, name = endpoint.name, netns = endpoint.sandbox.netns,
            state = ?endpoint.state, "releasing the lease of an endpoint whose namespace is gone or that was never finished");
        end(member, endpoint.id, endpoint.epoch).await?;
        count += 1;
    }
    Ok(count)
}

fn garbage(member: &Member, vanished: &BTreeSet<EndpointId>) -> Vec<Endpoint> {
    let state = member.store().state();
    let unused = |e: &&Endpoint| e.state == EndpointState::Pending || vanished.contains(&e.id);
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
