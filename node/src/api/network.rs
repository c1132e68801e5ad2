//! Networks and leases.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use pontoon_proto::v1;
use pontoon_proto::v1::network_service_server::NetworkService;
use pontoon_store::model::command::{Command, CreateNetwork, Outcome, WantedSubnet};
use pontoon_store::model::id::{NetworkId, Vni};
use pontoon_store::model::object::{Family, Lease, LeaseState, Network, NodeState};
use pontoon_store::model::rejection::Reason;
use pontoon_store::model::state::State;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status};

use super::error::ApiError;
use super::view;
use crate::daemon::Daemon;
use crate::member::Member;

/// The service, answered by this daemon.
#[derive(Debug)]
pub struct Networks(pub Arc<Daemon>);

#[tonic::async_trait]
impl NetworkService for Networks {
    async fn create_network(
        &self,
        request: Request<v1::CreateNetworkRequest>,
    ) -> Result<Response<v1::CreateNetworkResponse>, Status> {
        let (request, member) = (request.into_inner(), self.0.member()?);
        let wait = request.wait;
        match member.propose(Command::CreateNetwork(parse_create(request)?)).await? {
            Outcome::Network(network) => {
                if wait {
                    wait_everywhere(&member, &network).await?;
                }
                Ok(Response::new(v1::CreateNetworkResponse { network: Some((&network).into()) }))
            }
            other => Err(super::unexpected(&other).into()),
        }
    }

    async fn list_networks(
        &self,
        request: Request<v1::ListNetworksRequest>,
    ) -> Result<Response<v1::ListNetworksResponse>, Status> {
        let member = self.0.member()?;
        let freshness = member.read(request.into_inner().read).await;
        let state = freshness.look(&member);
        let networks = state.networks.values().map(|network| view::network(&state, network));
        Ok(Response::new(v1::ListNetworksResponse {
            networks: networks.collect(),
            freshness: Some(freshness.of(&state)),
        }))
    }

    async fn inspect_network(
        &self,
        request: Request<v1::InspectNetworkRequest>,
    ) -> Result<Response<v1::InspectNetworkResponse>, Status> {
        let request = request.into_inner();
        let member = self.0.member()?;
        let freshness = member.read(request.read).await;
        let state = freshness.look(&member);
        let network = view::find_network(&state, &request.network)?;
        let endpoints = state.endpoints_of_network(network.id).map(|endpoint| view::endpoint(&state, endpoint));
        let leases = state.leases_of_network(network.id);
        let reserved = leases.filter(|lease| lease.state == LeaseState::Reserved);
        Ok(Response::new(v1::InspectNetworkResponse {
            network: Some(network.into()),
            endpoints: endpoints.collect(),
            reserved: reserved.map(|lease| view::lease(&state, lease)).filter_map(|view| view.lease).collect(),
            freshness: Some(freshness.of(&state)),
        }))
    }

    async fn remove_network(
        &self,
        request: Request<v1::RemoveNetworkRequest>,
    ) -> Result<Response<v1::RemoveNetworkResponse>, Status> {
        let (member, wanted) = (self.0.member()?, request.into_inner().network);
        let write = async |end| {
            let network = view::find_network(&member.store().state(), &wanted)?.id;
            member.propose_by(Command::RemoveNetwork { network }, end).await
        };
        match member.write_named(&wanted, write).await? {
            Outcome::Network(network) => {
                Ok(Response::new(v1::RemoveNetworkResponse { network: Some((&network).into()) }))
            }
            other => Err(super::unexpected(&other).into()),
        }
    }

    async fn list_leases(
        &self,
        request: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesResponse>, Status> {
        let request = request.into_inner();
        let member = self.0.member()?;
        let freshness = member.read(request.read).await;
        let state = freshness.look(&member);
        let leases = select_leases(&state, &request)?;
        Ok(Response::new(v1::ListLeasesResponse { leases, freshness: Some(freshness.of(&state)) }))
    }

    async fn inspect_lease(
        &self,
        request: Request<v1::InspectLeaseRequest>,
    ) -> Result<Response<v1::InspectLeaseResponse>, Status> {
        let request = request.into_inner();
        let address: IpAddr = parse("address", Reason::InvalidAddress, &request.address)?;
        let member = self.0.member()?;
        let freshness = member.read(request.read).await;
        let state = freshness.look(&member);
        let lease = find_lease(&state, address)?;
        Ok(Response::new(v1::InspectLeaseResponse {
            lease: Some(view::lease(&state, lease)),
            freshness: Some(freshness.of(&state)),
        }))
    }
}

/// Subnets of networks do not overlap, so an address belongs to one network at most.
fn find_lease(state: &State, address: IpAddr) -> Result<&Lease, ApiError> {
    let holds = |cidr: IpNet| cidr.contains(&address);
    let network = state.networks.values().find(|network| network.subnets.iter().any(|subnet| holds(subnet.cidr)));
    let not_found = |message| {
        let hint = "pontoon lease ls lists the leases, pontoon network ls the subnets";
        ApiError::new(Code::NotFound, "LEASE_NOT_FOUND", message, hint)
    };
    let Some(network) = network else { return Err(not_found(format!("no network has a subnet with {address}"))) };
    state.leases.get(&(network.id, address)).ok_or_else(|| {
        not_found(format!("nobody has {address} of network {:?}, and nobody had it before", network.name))
    })
}

/// Leases as the request filters them, by network and address.
pub(crate) fn select_leases(state: &State, request: &v1::ListLeasesRequest) -> Result<Vec<v1::LeaseView>, ApiError> {
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let network = optional(&request.network).map(|name| view::find_network(state, &name).map(|n| n.id)).transpose()?;
    let node = optional(&request.node).map(|name| view::find_node(state, &name).map(|n| n.id)).transpose()?;
    let wanted = v1::LeaseState::try_from(request.state).unwrap_or(v1::LeaseState::Unspecified);
    let has_state = |lease: &v1::Lease| match wanted {
        v1::LeaseState::Unspecified => lease.state() != v1::LeaseState::Free,
        wanted => lease.state() == wanted,
    };
    let leases = state.leases.values();
    let leases = leases.filter(|lease| network.is_none_or(|id| lease.network == id));
    let leases = leases.filter(|lease| node.is_none_or(|id| lease.node == Some(id)));
    let views = leases.map(|lease| view::lease(state, lease));
    Ok(views.filter(|view| view.lease.as_ref().is_some_and(has_state)).collect())
}

/// Parses a field of a request; the error names the field, the value and how one looks.
fn parse<T: FromStr>(what: &str, reason: Reason, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| {
        let example = match reason {
            Reason::InvalidSubnet | Reason::InvalidRange => "such as 10.0.0.0/24",
            _ => "such as 10.0.0.2 or fd00::2",
        };
        ApiError::invalid(reason, format!("{text:?} is not a {what}"), format!("give one {example}"))
    })
}

fn parse_create(request: v1::CreateNetworkRequest) -> Result<CreateNetwork, ApiError> {
    let vni = (request.vni != 0).then(|| {
        Vni::new(request.vni).ok_or_else(|| {
            let message = format!("VNI {} is out of range", request.vni);
            ApiError::new(Code::InvalidArgument, "INVALID_VNI", message, format!("give 1 to {}", Vni::MAX))
        })
    });
    let reservations = request.reservations.iter().map(|kept| {
        parse("address", Reason::InvalidAddress, &kept.address).map(|address| (kept.name.clone(), address))
    });
    Ok(CreateNetwork {
        subnets: parse_subnets(&request)?,
        reservations: reservations.collect::<Result<_, _>>()?,
        name: request.name,
        mtu: (request.mtu != 0).then_some(request.mtu),
        vni: vni.transpose()?,
        internal: request.internal,
        labels: request.labels,
        ipv6: request.ipv6,
        force: request.force,
        engine: None,
    })
}

/// How long the engines may take to have a network.
const EVERYWHERE: Duration = Duration::from_secs(30);

/// Waits until the engine of every ready node that has one has a network.
async fn wait_everywhere(member: &Member, network: &Network) -> Result<(), ApiError> {
    let (end, mut applied) = (Instant::now() + EVERYWHERE, member.store().applied());
    loop {
        let missing = without(&member.read(None).await.look(member), network.id);
        if missing.is_empty() {
            return Ok(());
        }
        if timeout_at(end, applied.changed()).await.is_err() {
            let message = format!(
                "network {} is made, and the engines of these nodes have not got it within {} s: {}",
                network.name,
                EVERYWHERE.as_secs(),
                missing.join(", ")
            );
            let hint = "pontoon status on these nodes says why; they go on trying";
            return Err(ApiError::new(Code::DeadlineExceeded, "NOT_EVERYWHERE", message, hint));
        }
    }
}

/// Names of the ready nodes whose engine does not have a network.
fn without(state: &State, network: NetworkId) -> Vec<String> {
    let with_engine = state.nodes.values().filter(|node| node.state == NodeState::Ready && !node.engine.is_empty());
    let missing = with_engine.filter(|node| !state.engine_networks.contains_key(&(network, node.id)));
    missing.map(|node| node.name.clone()).collect()
}

/// Gives each subnet the gateway and the range of its family.
fn parse_subnets(request: &v1::CreateNetworkRequest) -> Result<Vec<WantedSubnet>, ApiError> {
    let gateways: Vec<IpAddr> = parse_all("gateway", Reason::InvalidGateway, &request.gateways)?;
    let ranges: Vec<IpNet> = parse_all("range", Reason::InvalidRange, &request.ip_ranges)?;
    let cidrs: Vec<IpNet> = parse_all("subnet", Reason::InvalidSubnet, &request.subnets)?;
    let families: Vec<Family> = cidrs.iter().map(|cidr| Family::of(cidr.addr())).collect();
    one_per_family("gateway", Reason::InvalidGateway, &gateways, Family::of, &families)?;
    one_per_family("range", Reason::InvalidRange, &ranges, |range| Family::of(range.addr()), &families)?;
    let subnets = cidrs.iter().zip(&families).map(|(cidr, family)| WantedSubnet {
        cidr: *cidr,
        gateway: gateways.iter().copied().find(|gateway| Family::of(*gateway) == *family),
        ip_range: ranges.iter().copied().find(|range| Family::of(range.addr()) == *family),
    });
    Ok(subnets.collect())
}

fn parse_all<T: FromStr>(what: &str, reason: Reason, texts: &[String]) -> Result<Vec<T>, ApiError> {
    texts.iter().map(|text| parse(what, reason, text)).collect()
}

fn one_per_family<T: Copy + ToString>(
    what: &str,
    reason: Reason,
    values: &[T],
    family: impl Fn(T) -> Family,
    subnets: &[Family],
) -> Result<(), ApiError> {
    for (index, value) in values.iter().enumerate() {
        let text = value.to_string();
        if values[..index].iter().any(|earlier| family(*earlier) == family(*value)) {
            let hint = format!("give one {what} for each subnet");
            return Err(ApiError::invalid(reason, format!("{what} {text} is the second one of its family"), hint));
        }
        if !subnets.contains(&family(*value)) {
            let message = format!("{what} {text} has no subnet of its family to belong to");
            return Err(ApiError::invalid(reason, message, "give the subnet too, with --subnet"));
        }
    }
    Ok(())
}
