//! Names of containers.

use std::net::IpAddr;
use std::sync::Arc;

use pontoon_proto::v1;
use pontoon_proto::v1::name_service_server::NameService;
use pontoon_store::codec::lease_view;
use pontoon_store::model::object::{Endpoint, Network};
use pontoon_store::model::state::State;
use tonic::{Code, Request, Response, Status};

use super::error::ApiError;
use super::view;
use crate::daemon::Daemon;
use crate::names::TTL;
use crate::plan::names::Directory;

/// The service, answered by this daemon.
#[derive(Debug)]
pub struct Names(pub Arc<Daemon>);

#[tonic::async_trait]
impl NameService for Names {
    async fn query_name(
        &self,
        request: Request<v1::QueryNameRequest>,
    ) -> Result<Response<v1::QueryNameResponse>, Status> {
        let v1::QueryNameRequest { name, network } = request.into_inner();
        let member = self.0.member()?;
        let own = member.read_own(Some(v1::ReadOptions { stale: true })).await;
        let ended = self.0.names.ended();
        let state = own.look(&member);
        let network = view::find_network(&state, &network)?;
        let asked = name.trim_end_matches('.').to_ascii_lowercase();
        let directory = Directory::of_network(&state, network, &ended);
        let meant = match asked.parse::<IpAddr>() {
            Ok(address) => directory.holder(address).map(|(endpoint, _)| endpoint).into_iter().collect(),
            Err(_) => directory.called(&asked),
        };
        if meant.is_empty() {
            let is_in_part = member.store().observes() && state.endpoints_of_network(network.id).next().is_none();
            return Err(
                unknown(&state, network, &name, directory.ever_called(&asked).first().copied(), is_in_part).into()
            );
        }
        Ok(Response::new(v1::QueryNameResponse {
            network_name: network.name.clone(),
            matches: meant.into_iter().map(|endpoint| name_match(&state, endpoint)).collect(),
            ttl_s: TTL,
            freshness: Some(own.of(&state)),
        }))
    }
}

fn name_match(state: &State, endpoint: &Endpoint) -> v1::NameMatch {
    let leases = endpoint.addresses.iter().filter_map(|address| state.leases.get(&(endpoint.network, *address)));
    v1::NameMatch {
        endpoint: Some(view::endpoint(state, endpoint)),
        leases: leases.map(|lease| lease_view(lease, state.clock_ms)).collect(),
    }
}

/// Nobody who runs is called so. One who does not run may be; and an observer may not know.
fn unknown(state: &State, network: &Network, name: &str, stopped: Option<&Endpoint>, is_in_part: bool) -> ApiError {
    let node = stopped.and_then(|endpoint| state.nodes.get(&endpoint.node));
    let (message, hint) = match (stopped, node) {
        (Some(endpoint), Some(node)) => (
            format!("container {} of node {} is called {name:?} and is stopped", endpoint.name, node.name),
            format!("start it: docker start {}", endpoint.name),
        ),
        _ if is_in_part => (
            format!("this node knows of no container on network {}, and none of its containers is on it", network.name),
            "ask a node that has a container on the network, or a member".to_owned(),
        ),
        _ => (
            format!("no container on network {} is called {name:?}", network.name),
            format!(
                "pontoon network inspect {} lists the containers; what Pontoon does not know, Docker's resolver is asked for",
                network.name
            ),
        ),
    };
    ApiError::new(Code::NotFound, "NAME_NOT_FOUND", message, hint)
}
