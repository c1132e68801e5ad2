//! The network half of the driver: networks and endpoints.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_store::model::admin::Origin;
use pontoon_store::model::command::{Command, CreateEndpoint, CreateNetwork, EngineRef, Outcome, WantedSubnet};
use pontoon_store::model::id::{Mac, NetworkId, Vni};
use pontoon_store::model::object::{Endpoint, EngineNetwork, Network, Sandbox};
use pontoon_store::model::rejection::Reason;
use pontoon_store::on_behalf_of;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};
use tonic::Code;
use tracing::{info, warn};

use super::ipam::network_of_option;
use super::rebind::{PATIENCE, rebind, waiting};
use super::wire::{self, Interface, InterfaceName, IpamData};
use super::{CLUSTER_OPTION, DRIVER, NETWORK_OPTION, check_cluster, parse_address, parse_cidr};
use crate::api::error::ApiError;
use crate::api::unexpected;
use crate::attach;
use crate::daemon::Daemon;
use crate::member::Member;
use crate::plan::engine::gone;
use crate::reconcile::PassReport;

/// How long it takes to tell the cluster that a container was removed, at most.
const TIDYING: Duration = Duration::from_millis(500);
/// Holds the user's `-o` options.
const GENERIC: &str = "com.docker.network.generic";
/// The user's `--internal`.
const INTERNAL: &str = "com.docker.network.internal";
/// Another name of the option `mtu`, which other drivers use.
const DRIVER_MTU: &str = "com.docker.network.driver.mtu";

/// Makes a network, or lets the engine have one that the cluster has.
pub(super) async fn create_network(daemon: &Daemon, request: wire::CreateNetwork) -> Result<(), ApiError> {
    let member = daemon.member()?;
    check_ipam(&request)?;
    let empty = Map::new();
    let options = request.options.get(GENERIC).and_then(Value::as_object).unwrap_or(&empty);
    if let Some(id) = options.get(NETWORK_OPTION) {
        check_cluster(&member, options.get(CLUSTER_OPTION).map(option_text).as_deref())?;
        let network = network_of_option(&member, &option_text(id)).await?;
        check_same(&request, &network)?;
        // Without an id the report would say that the engine has lost the network.
        if request.network_id.is_empty() {
            let message =
                format!("network {} cannot be made in an engine: the engine's id of it is empty", network.name);
            return Err(ApiError::invalid(Reason::InvalidName, message, "name its id in NetworkID"));
        }
        let known =
            EngineNetwork { network: network.id, node: member.node(), id: request.network_id, containers: Vec::new() };
        return member.propose(Command::ReportEngineNetwork(known)).await.map(drop);
    }
    let wanted = wanted_network(&member, &request, options)?;
    let made = member.propose(Command::CreateNetwork(wanted)).await?;
    info!(network = ?made, "an engine has made a network");
    Ok(())
}

/// The other half must be ours: another one would hand out addresses that the cluster knows nothing of.
fn check_ipam(request: &wire::CreateNetwork) -> Result<(), ApiError> {
    let mut data = request.ipv4_data.iter().chain(&request.ipv6_data);
    if !request.ipv4_data.is_empty() && data.all(|data| data.address_space == DRIVER) {
        return Ok(());
    }
    let v6 = if request.ipv6_data.is_empty() { "" } else { "--ipv6 " };
    let message = "the network driver pontoon needs the IPAM driver pontoon, and an IPv4 subnet";
    let hint = format!("docker network create -d {DRIVER} --ipam-driver {DRIVER} {v6}NAME");
    Err(ApiError::invalid(Reason::InvalidSubnet, message, hint))
}

fn check_same(request: &wire::CreateNetwork, network: &Network) -> Result<(), ApiError> {
    let data = request.ipv4_data.iter().chain(&request.ipv6_data);
    let asked = data.map(|data| parse_cidr(&data.pool)).collect::<Result<Vec<_>, _>>()?;
    let has: Vec<_> = network.subnets.iter().map(|subnet| subnet.cidr).collect();
    if asked == has {
        return Ok(());
    }
    let message = format!("network {} has the subnets {has:?}, not {asked:?}", network.name);
    Err(ApiError::invalid(Reason::InvalidSubnet, message, "leave the option out to make another network"))
}

fn wanted_network(
    member: &Member,
    request: &wire::CreateNetwork,
    options: &Map<String, Value>,
) -> Result<CreateNetwork, ApiError> {
    let known = [DRIVER_MTU, "mtu", "vni"];
    if let Some((unknown, _)) = options.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        let message = format!("the network driver {DRIVER} has no option {unknown:?}");
        return Err(ApiError::invalid(Reason::InvalidName, message, "use -o mtu=N, -o vni=N"));
    }
    let number = |name: &str| options.get(name).map(|value| number_of(name, value)).transpose();
    let vni = number("vni")?.map(|vni| {
        let message = format!("vni cannot be {vni}");
        Vni::new(vni).ok_or_else(|| ApiError::invalid(Reason::InvalidName, message, "use 1 to 16777215"))
    });
    let data = || request.ipv4_data.iter().chain(&request.ipv6_data);
    let reservations = data().flat_map(|data| &data.aux_addresses);
    let reservations = reservations.map(|(name, at)| Ok((name.clone(), parse_address(&option_text(at))?)));
    Ok(CreateNetwork {
        name: Endpoint::short_id(&request.network_id),
        subnets: data().map(wanted_subnet).collect::<Result<_, _>>()?,
        mtu: number("mtu")?.map_or_else(|| number(DRIVER_MTU), |mtu| Ok(Some(mtu)))?,
        vni: vni.transpose()?,
        internal: request.options.get(INTERNAL).and_then(Value::as_bool).unwrap_or(false),
        ipv6: !request.ipv6_data.is_empty(),
        reservations: reservations.collect::<Result<_, ApiError>>()?,
        engine: Some(EngineRef { node: member.node(), id: request.network_id.clone() }),
        ..CreateNetwork::default()
    })
}

fn wanted_subnet(data: &IpamData) -> Result<WantedSubnet, ApiError> {
    let gateway = (!data.gateway.is_empty()).then(|| parse_address(&data.gateway)).transpose()?;
    Ok(WantedSubnet { cidr: parse_cidr(&data.pool)?, gateway, ip_range: None })
}

/// An option as text: engines write what they have parsed as numbers, too.
fn option_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn number_of(name: &str, value: &Value) -> Result<u32, ApiError> {
    let text = option_text(value);
    let wrong = || ApiError::invalid(Reason::InvalidName, format!("{name} cannot be {text:?}"), "give a number");
    text.parse().map_err(|_| wrong())
}

/// The engine has removed a network, which nobody can refuse. If it made the network, the network is removed from the
/// cluster unless it is used somewhere; otherwise, and if it was not made by an engine, the engine gets it again.
pub(super) async fn delete_network(daemon: &Daemon, request: wire::NetworkRef) -> Result<(), ApiError> {
    let Some(member) = daemon.try_member() else { return Ok(()) };
    daemon.containers.removes(&request.network_id);
    let known = member.store().state().network_of_engine(member.node(), &request.network_id).cloned();
    let Some(network) = known else { return Ok(()) };
    if network.engine.is_some() {
        match remove_network(&member, network.id).await {
            Ok(()) => return Ok(()),
            Err(error) if error.reason == Reason::NetworkNotFound.as_str() => return Ok(()),
            Err(error) if error.reason == Reason::NetworkInUse.as_str() => {
                warn!(network = network.name, error = %error.message, "the engine removed a network that is used, and gets it again");
            }
            Err(error) => return Err(error),
        }
    } else {
        info!(
            network = network.name,
            "the engine removed a network that pontoon network create made, and gets it again; \
              pontoon network rm removes it everywhere"
        );
    }
    member.propose(gone(network.id, member.node())).await?;
    let latest = format!("network {} was removed from Docker, and is made there again", network.name);
    member.count_repair("docker-network", latest);
    Ok(())
}

/// Removes a network from the cluster. That this engine's last containers on it were removed a moment ago, the loop may
/// still be about to tell.
async fn remove_network(member: &Member, network: NetworkId) -> Result<(), ApiError> {
    let command = Command::RemoveNetwork { network };
    let remove = async || on_behalf_of(Some(by_engine()), member.propose(command.clone())).await.map(drop);
    match remove().await {
        Err(error) if error.reason == Reason::NetworkInUse.as_str() => {
            let mut applied = member.store().applied();
            let unused = applied.wait_for(|_| is_unused(member, network));
            let is_unused = is_left_over(member, network) && matches!(timeout(TIDYING, unused).await, Ok(Ok(_)));
            if is_unused { remove().await } else { Err(error) }
        }
        result => result,
    }
}

/// Whose wish it is what an engine's user does.
pub(super) fn by_engine() -> Origin {
    Origin { who: "docker".to_owned(), from: "this host's engine".to_owned() }
}

/// Whether nobody is on a network but containers of this node's engine that do not run.
fn is_left_over(member: &Member, network: NetworkId) -> bool {
    let (state, me) = (member.store().state(), member.node());
    let is_own = |endpoint: &Endpoint| endpoint.node == me && !endpoint.is_up();
    state.endpoints_of_network(network).all(is_own)
        && state.engines_of_network(network).all(|known| known.node == me || known.containers.is_empty())
}

fn is_unused(member: &Member, network: NetworkId) -> bool {
    let state = member.store().state();
    state.endpoints_of_network(network).next().is_none()
        && state.engines_of_network(network).all(|known| known.containers.is_empty())
}

/// Makes an endpoint on the addresses that the engine was given for it.
pub(super) async fn create_endpoint(daemon: &Daemon, request: wire::CreateEndpoint) -> Result<Value, ApiError> {
    let member = daemon.member()?;
    let wire::CreateEndpoint { network_id, endpoint_id, interface } = request;
    let network = member.store().state().network_of_engine(member.node(), &network_id).map(|network| network.id);
    let network = network.ok_or_else(|| unknown_network(&network_id))?;
    let addresses = [&interface.address, &interface.address_ipv6].into_iter().filter(|address| !address.is_empty());
    let asked = addresses.map(|address| parse_address(address)).collect::<Result<Vec<IpAddr>, _>>()?;
    let mac = (!interface.mac_address.is_empty()).then(|| parse_mac(&interface.mac_address)).transpose()?;
    let has_asked = |e: &Endpoint| e.network == network && asked.iter().all(|address| e.addresses.contains(address));
    let known = member.view().endpoint_of_engine(member.node(), &endpoint_id).cloned();
    let known = known.filter(|known| known.is_up() && has_asked(known));
    // A container of this node had these addresses and starts again.
    let find = || waiting(&member, &daemon.containers, |waiting| waiting.with_addresses(network, &asked).cloned());
    let had = if known.is_none() { find() } else { None };
    let had = match had {
        Some(had) => match rebind(&member, &had, &endpoint_id, mac).await {
            // It has been ended, and its addresses cool for this node.
            Err(error) if error.reason == Reason::EndpointNotFound.as_str() => None,
            rebound => Some(rebound?),
        },
        None => None,
    };
    let endpoint = match known.or(had) {
        Some(known) => known,
        None => {
            let wanted = CreateEndpoint {
                network,
                node: member.node(),
                name: Endpoint::short_id(&endpoint_id),
                container_id: String::new(),
                aliases: Vec::new(),
                mac,
                addresses: asked.clone(),
                sandbox: Sandbox::default(),
                ifname: None,
                engine_id: endpoint_id,
            };
            match member.propose(Command::CreateEndpoint(wanted)).await? {
                Outcome::Endpoint(endpoint) => endpoint,
                other => return Err(unexpected(&other)),
            }
        }
    };
    asked.iter().for_each(|address| daemon.containers.take_back(network, *address));
    // The engine writes the endpoint down before it asks for the interface, which is made meanwhile.
    if let Ok(pass) = member.reconciler.begin_pass().await {
        daemon.containers.makes_interface(endpoint.id, pass);
    }
    Ok(json!({ "Interface": chosen(&member, &endpoint, &asked, mac) }))
}

/// What the engine did not give, for it to use. What it gave must not be given back.
fn chosen(member: &Member, endpoint: &Endpoint, asked: &[IpAddr], mac: Option<Mac>) -> Interface {
    let state = member.store().state();
    let subnets = state.networks.get(&endpoint.network).map_or(&[][..], |network| &network.subnets);
    let address = |v6: bool| {
        let address = endpoint.addresses.iter().find(|address| address.is_ipv6() == v6 && !asked.contains(address))?;
        let subnet = subnets.iter().find(|subnet| subnet.cidr.contains(address))?;
        Some(format!("{address}/{}", subnet.cidr.prefix_len()))
    };
    Interface {
        address: address(false).unwrap_or_default(),
        address_ipv6: address(true).unwrap_or_default(),
        mac_address: if mac.is_none() { endpoint.mac.to_string() } else { String::new() },
    }
}

fn unknown_network(id: &str) -> ApiError {
    let message = format!("this cluster has no network that the engine knows as {}", Endpoint::short_id(id));
    let hint = "see pontoon network ls; if the engine lists it, remove it there and make it again";
    ApiError::new(Code::NotFound, Reason::NetworkNotFound.as_str(), message, hint)
}

fn parse_mac(text: &str) -> Result<Mac, ApiError> {
    let wrong = |_| {
        ApiError::invalid(Reason::InvalidAddress, format!("{text:?} is no MAC"), "use one such as 02:42:0a:00:00:02")
    };
    text.parse().map_err(wrong)
}

/// Names the interface that the engine moves into the container; by then it is there.
pub(super) async fn join(daemon: &Daemon, request: wire::EndpointRef) -> Result<Value, ApiError> {
    let member = daemon.member()?;
    let endpoint = known_endpoint(&member, &request)?.filter(Endpoint::is_up).ok_or_else(|| {
        let message = format!("there is no endpoint {:?}", Endpoint::short_id(&request.endpoint_id));
        ApiError::new(Code::NotFound, Reason::EndpointNotFound.as_str(), message, "create the endpoint first")
    })?;
    let begun = match daemon.containers.making_interface(endpoint.id) {
        Some(pass) => pass.report().await.ok(),
        None => None,
    };
    // It may have begun before this copy of the state had the endpoint.
    let is_made =
        |report: &Arc<PassReport>| report.index >= endpoint.epoch && attach::made(&member, &endpoint, report).is_ok();
    if !begun.as_ref().is_some_and(is_made) {
        attach::made(&member, &endpoint, &*member.reconciler.pass_now().await?)?;
    }
    // A container may ask for names before the cluster is told where it is.
    daemon.names.joins(member.cluster(), endpoint.id, request.sandbox_key);
    let internal = member.store().state().networks.get(&endpoint.network).is_some_and(|network| network.internal);
    let name = InterfaceName { src_name: daemon.config.names().offer(endpoint.id), dst_prefix: "eth" };
    Ok(json!({ "InterfaceName": name, "Gateway": "", "StaticRoutes": [], "DisableGatewayService": internal }))
}

/// Takes an endpoint's interface away and ends its leases. The engine says so twice, when the container leaves and when
/// the endpoint is deleted: an interface that the engine has moved back must not be made again in between.
pub(super) async fn end_endpoint(daemon: &Daemon, request: wire::EndpointRef) -> Result<(), ApiError> {
    let Some(member) = daemon.try_member() else { return Ok(()) };
    let Some(endpoint) = known_endpoint(&member, &request)?.filter(Endpoint::is_up) else { return Ok(()) };
    daemon.names.leaves(member.cluster(), endpoint.id);
    // What was taken into use again without a majority is what it was before.
    member.journal.settle(endpoint.id, &request.endpoint_id).await?;
    if member.attachments.is_left(endpoint.id, endpoint.epoch) {
        return Ok(member.reconciler.pass_now().await.map(drop)?);
    }
    match attach::end_by(&member, &[(endpoint.id, endpoint.epoch)], Instant::now() + PATIENCE).await {
        // The interface is gone, and the collector goes on: the engine need not wait for a majority to end a container.
        Err(error) if error.is_unanswered() => Ok(()),
        result => result,
    }
}

/// The endpoint that a request is about; none: there is none (any more).
fn known_endpoint(member: &Member, request: &wire::EndpointRef) -> Result<Option<Endpoint>, ApiError> {
    let state = member.view();
    let endpoint = state.endpoint_of_engine(member.node(), &request.endpoint_id).cloned();
    let network = state.network_of_engine(member.node(), &request.network_id);
    match (&endpoint, network) {
        (Some(endpoint), Some(network)) if endpoint.network != network.id => {
            let message = format!("endpoint {} is not on network {}", endpoint.name, network.name);
            Err(ApiError::invalid(Reason::EndpointNotFound, message, "name the network that it is on"))
        }
        _ => Ok(endpoint),
    }
}
