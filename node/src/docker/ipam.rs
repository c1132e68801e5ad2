//! The IPAM half of the driver: subnets and addresses.
//!
//! A pool's id is its subnet: it is one network's in the whole cluster, and an engine gives it to both halves.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use pontoon_store::model::command::{ClaimSubnet, Command, HoldAddress, Outcome};
use pontoon_store::model::id::NetworkId;
use pontoon_store::model::object::{Endpoint, Family, LeaseState, Network};
use pontoon_store::model::rejection::Reason;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tracing::debug;

use super::engine::is_name;
use super::rebind::waiting;
use super::wire::{PoolAddress, ReleasePool, RequestPool};
use super::{CLUSTER_OPTION, NETWORK_OPTION, check_cluster, parse_address, parse_cidr};
use crate::api::error::ApiError;
use crate::api::unexpected;
use crate::daemon::Daemon;
use crate::kernel;
use crate::member::Member;
use crate::plan::engine::likeliest;
use crate::plan::observed::HostFacts;
use crate::report;

/// Says what an address is asked for.
const ADDRESS_TYPE: &str = "RequestAddressType";
/// The address is the gateway.
const GATEWAY: &str = "com.docker.network.gateway";
/// Name of the container, from engines of version 29 on.
const CONTAINER_NAME: &str = "com.docker.network.endpoint.name";
/// How long an endpoint waits for its network's name: an engine tells it some 20 ms after it has made the network.
const NAMED: Duration = Duration::from_secs(4);

/// Gives an engine a subnet: that of a network that it has, or a claim.
pub(super) async fn request_pool(daemon: &Daemon, request: RequestPool) -> Result<Value, ApiError> {
    let member = daemon.member()?;
    let cidr = (!request.pool.is_empty()).then(|| parse_cidr(&request.pool)).transpose()?;
    let ip_range = (!request.sub_pool.is_empty()).then(|| parse_cidr(&request.sub_pool)).transpose()?;
    let family = if request.v6 { Family::V6 } else { Family::V4 };
    check_cluster(&member, request.options.get(CLUSTER_OPTION).map(String::as_str))?;
    if let Some(id) = request.options.get(NETWORK_OPTION) {
        return known_pool(&member, id, family, cidr).await;
    }
    // An engine that was restarted asks again for what it has.
    if let Some(cidr) = cidr.filter(|cidr| member.store().state().network_with_subnet(*cidr).is_some()) {
        return Ok(pool(cidr));
    }
    // The routes of this host as they are now: a subnet that meets one of them the engine would refuse, and ask again.
    let facts = facts_now(daemon, &member).await?;
    report::report(&member, &facts, &daemon.containers.engine(), daemon.config.egress_subnet).await?;
    let wanted = ClaimSubnet { node: member.node(), family, cidr, ip_range };
    match member.propose(Command::ClaimSubnet(wanted)).await? {
        Outcome::Claim(claim) => Ok(pool(claim.cidr)),
        other => Err(unexpected(&other)),
    }
}

/// The host as it is now: as the loop has seen it last, unless something has changed since.
async fn facts_now(daemon: &Daemon, member: &Member) -> Result<HostFacts, ApiError> {
    let known = || member.reconciler.status().borrow().facts.clone();
    let (names, before) = (daemon.config.names(), known());
    let vtep = member.store().state().nodes.get(&member.node()).map(|node| node.data_addr);
    let look = tokio::task::spawn_blocking(move || Ok(kernel::facts_now(&names, &before, vtep)? == before));
    let looked = look.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    let is_known = looked.map_err(|error: kernel::KernelError| {
        let message = format!("cannot tell which subnets this host can reach: {error}");
        ApiError::new(Code::Internal, "KERNEL", message, "pontoon doctor examines the host")
    })?;
    if !is_known {
        member.reconciler.pass_now().await?;
    }
    Ok(known())
}

fn pool(cidr: IpNet) -> Value {
    json!({ "PoolID": cidr.to_string(), "Pool": cidr.to_string(), "Data": {} })
}

/// The subnet of a network that the cluster has, named by its id.
async fn known_pool(member: &Member, id: &str, family: Family, cidr: Option<IpNet>) -> Result<Value, ApiError> {
    let network = network_of_option(member, id).await?;
    let subnet = network.subnets.iter().find(|subnet| Family::of(subnet.cidr.addr()) == family);
    match subnet.filter(|subnet| cidr.is_none_or(|cidr| subnet.cidr == cidr)) {
        Some(subnet) => Ok(pool(subnet.cidr)),
        None => {
            let has: Vec<String> = network.subnets.iter().map(|subnet| subnet.cidr.to_string()).collect();
            let asked = cidr.map_or_else(|| format!("{family:?} subnet"), |cidr| format!("subnet {cidr}"));
            let message = format!("network {} has no {asked}: it has {}", network.name, has.join(", "));
            Err(ApiError::invalid(Reason::InvalidSubnet, message, "leave the subnet out, or the option"))
        }
    }
}

/// The network that an option names by its id; asks the leader if this node has not heard of it.
pub(super) async fn network_of_option(member: &Member, id: &str) -> Result<Network, ApiError> {
    // Not by its name: another one may have the id for a name.
    let known = || Some(member.store().state().networks.get(&NetworkId(id.parse().ok()?))?.clone());
    if let Some(network) = known() {
        return Ok(network);
    }
    member.refresh().await?;
    known().ok_or_else(|| {
        let message = format!("there is no network with the id {id:?}, as the option {NETWORK_OPTION} says");
        let hint = "leave the option out to make another network; pontoon network ls lists those that there are";
        ApiError::new(Code::NotFound, Reason::NetworkNotFound.as_str(), message, hint)
    })
}

/// Gives a claim back. The subnet of a network stays the network's.
pub(super) async fn release_pool(daemon: &Daemon, request: ReleasePool) -> Result<(), ApiError> {
    let Some(member) = daemon.try_member() else { return Ok(()) };
    let cidr = parse_cidr(&request.pool_id)?;
    if member.store().state().network_with_subnet(cidr).is_some() {
        return Ok(());
    }
    member.propose(Command::ReleaseClaim { node: member.node(), cidr }).await.map(drop)
}

/// What has a pool.
enum Owner {
    Network(NetworkId),
    Claim,
}

fn owner(member: &Member, cidr: IpNet) -> Option<Owner> {
    let state = member.store().state();
    let network = state.network_with_subnet(cidr).map(|network| Owner::Network(network.id));
    network.or_else(|| state.claims.contains_key(&cidr).then_some(Owner::Claim))
}

/// Gives an engine an address: the gateway, one that is kept for a name, or one for an endpoint.
pub(super) async fn request_address(daemon: &Daemon, request: PoolAddress) -> Result<Value, ApiError> {
    let member = daemon.member()?;
    let cidr = parse_cidr(&request.pool_id)?;
    let wanted = (!request.address.is_empty()).then(|| parse_address(&request.address)).transpose()?;
    // The network may have a subnet of the other family, which has it.
    let wanted = wanted.map(|wanted| inside(cidr, wanted)).transpose()?;
    let is_gateway = request.options.get(ADDRESS_TYPE).is_some_and(|kind| kind == GATEWAY);
    if owner(&member, cidr).is_none() {
        member.refresh().await?;
    }
    let address = match owner(&member, cidr) {
        None => return Err(no_pool(cidr)),
        Some(Owner::Network(id)) if is_gateway => gateway(&member, id, cidr, wanted)?,
        Some(Owner::Network(id)) => {
            let name = request.options.get(CONTAINER_NAME).map(String::as_str).filter(|name| is_name(name));
            hold(daemon, &member, id, Family::of(cidr.addr()), wanted, name).await?
        }
        // Of a network that is about to be made: it keeps them when it is.
        Some(Owner::Claim) => wanted.map_or_else(|| first_host(cidr), Ok)?,
    };
    Ok(json!({ "Address": format!("{address}/{}", cidr.prefix_len()), "Data": {} }))
}

fn no_pool(cidr: IpNet) -> ApiError {
    let message = format!("{cidr} is no network's subnet: it was removed, or nobody has made it");
    ApiError::new(Code::NotFound, Reason::NetworkNotFound.as_str(), message, "see pontoon network ls")
}

fn first_host(cidr: IpNet) -> Result<IpAddr, ApiError> {
    cidr.hosts().find(|host| *host != cidr.network()).ok_or_else(|| no_pool(cidr))
}

fn inside(cidr: IpNet, wanted: IpAddr) -> Result<IpAddr, ApiError> {
    if cidr.contains(&wanted) {
        return Ok(wanted);
    }
    let message = format!("{wanted} is not in {cidr}");
    Err(ApiError::invalid(Reason::InvalidAddress, message, format!("use a host address of {cidr}")))
}

fn gateway(member: &Member, id: NetworkId, cidr: IpNet, wanted: Option<IpAddr>) -> Result<IpAddr, ApiError> {
    let state = member.store().state();
    let network = state.networks.get(&id).ok_or_else(|| no_pool(cidr))?;
    let subnet = network.subnets.iter().find(|subnet| subnet.cidr == cidr).ok_or_else(|| no_pool(cidr))?;
    match wanted {
        Some(wanted) if wanted != subnet.gateway => {
            let message = format!("the gateway of network {} is {}, not {wanted}", network.name, subnet.gateway);
            Err(ApiError::invalid(Reason::InvalidGateway, message, "leave it out, or give that one"))
        }
        _ => Ok(subnet.gateway),
    }
}

async fn hold(
    daemon: &Daemon,
    member: &Member,
    network: NetworkId,
    family: Family,
    address: Option<IpAddr>,
    name: Option<&str>,
) -> Result<IpAddr, ApiError> {
    wait_named(member, network).await?;
    let fresh = daemon.containers.fresh();
    let had = waiting(member, &daemon.containers, |waiting| {
        let endpoint = match (address, name) {
            (Some(address), _) => waiting.with_addresses(network, &[address]),
            (None, Some(name)) => waiting.of_container(network, name),
            // Which container starts an engine does not say before version 29: one that has just been made, or likeliest
            // the one that stopped last.
            (None, None) if fresh.as_ref().is_some_and(|fresh| fresh.is_recent) => None,
            (None, None) => waiting.likeliest(network, family),
        };
        endpoint?.addresses.iter().find(|had| Family::of(**had) == family).copied()
    });
    if let Some(had) = had {
        daemon.containers.hand(network, had);
        return Ok(had);
    }
    let stopped = || address.is_none().then(|| likeliest(&member.store().state(), member.node(), network)).flatten();
    let fresh = fresh.map(|fresh| fresh.name);
    let name = name.map(str::to_owned).or(fresh).or_else(stopped).unwrap_or_default();
    if let Some(own) = address.filter(|address| is_own(member, network, *address, &name)) {
        return Ok(own);
    }
    debug!(%network, ?address, name, "an engine asks for an address");
    let wanted = HoldAddress { network, node: member.node(), family, address, name };
    match member.propose(Command::HoldAddress(wanted)).await? {
        Outcome::Lease(lease) => Ok(lease.address),
        other => Err(unexpected(&other)),
    }
}

/// Whether an address is one that an engine asks for again after a restart: of an endpoint of this node, or kept for a
/// name. That is known here also without a majority. Whether it can be an endpoint's is said when that is made.
fn is_own(member: &Member, network: NetworkId, address: IpAddr, name: &str) -> bool {
    let view = member.view();
    let kept = view.leases.get(&(network, address)).filter(|lease| lease.state == LeaseState::Reserved);
    let is_up = |e: &Endpoint| e.network == network && e.is_up() && e.addresses.contains(&address);
    kept.is_some_and(|lease| lease.reserved_for.as_deref() != Some(name))
        || view.endpoints_of_node(member.node()).any(is_up)
}

/// Waits until a network has its name. No endpoint gets an address before: another network may have got the name first.
async fn wait_named(member: &Member, network: NetworkId) -> Result<(), ApiError> {
    let (end, mut applied) = (Instant::now() + NAMED, member.store().applied());
    loop {
        match member.store().state().networks.get(&network) {
            Some(network) if network.provisional => {}
            Some(_) => return Ok(()),
            None => {
                let message = "the network was removed: another one has its name, or its engine did not finish it";
                let hint = "try again: the network of that name may be there now";
                return Err(ApiError::new(Code::NotFound, Reason::NetworkNotFound.as_str(), message, hint));
            }
        }
        if timeout_at(end, applied.changed()).await.is_err() {
            let message = format!("the engine has not told the name of network {network} within {} s", NAMED.as_secs());
            let hint = "see whether pontoond reaches the engine: pontoon status";
            return Err(ApiError::new(Code::Unavailable, Reason::NetworkProvisional.as_str(), message, hint));
        }
    }
}

/// Gives back an address that was held. One that an endpoint has stays the endpoint's: an engine releases it also when it
/// was refused because of that endpoint.
pub(super) async fn release_address(daemon: &Daemon, request: PoolAddress) -> Result<(), ApiError> {
    let Some(member) = daemon.try_member() else { return Ok(()) };
    let (cidr, address) = (parse_cidr(&request.pool_id)?, parse_address(&request.address)?);
    let held = {
        let state = member.store().state();
        let network = state.network_with_subnet(cidr).map(|network| network.id);
        network.inspect(|network| daemon.containers.take_back(*network, address));
        let lease = network.and_then(|network| state.leases.get(&(network, address)));
        let lease = lease.filter(|lease| lease.state == LeaseState::Pending && lease.held_for() == Some(member.node()));
        lease.map(|lease| (lease.network, lease.epoch))
    };
    let Some((network, epoch)) = held else { return Ok(()) };
    match member.propose(Command::ReleaseAddress { network, address, epoch }).await {
        Err(error) if error.reason != Reason::EpochMismatch.as_str() => Err(error),
        _ => Ok(()),
    }
}
