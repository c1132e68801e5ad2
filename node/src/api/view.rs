//! What the API shows of the state: objects with the names that their ids stand for.

use pontoon_proto::v1;
use pontoon_store::codec::lease_view;
use pontoon_store::model::object::{Endpoint, Lease, Network, Node};
use pontoon_store::model::rejection::Reason;
use pontoon_store::model::state::State;
use tonic::Code;

use super::error::ApiError;

/// The node that a user names by name or by id.
pub(crate) fn find_node<'a>(state: &'a State, wanted: &str) -> Result<&'a Node, ApiError> {
    state.find_node(wanted).ok_or_else(|| {
        let message = format!("there is no node {wanted:?}");
        ApiError::new(Code::NotFound, Reason::NodeNotFound.as_str(), message, "pontoon node ls lists the nodes")
    })
}

/// The network that a user names by name or by id.
pub(crate) fn find_network<'a>(state: &'a State, wanted: &str) -> Result<&'a Network, ApiError> {
    state.find_network(wanted).ok_or_else(|| {
        let message = format!("there is no network {wanted:?}");
        let hint = "pontoon network ls lists the networks";
        ApiError::new(Code::NotFound, Reason::NetworkNotFound.as_str(), message, hint)
    })
}

/// An endpoint, with names.
pub(crate) fn endpoint(state: &State, endpoint: &Endpoint) -> v1::EndpointView {
    let node = state.nodes.get(&endpoint.node);
    let network = state.networks.get(&endpoint.network);
    v1::EndpointView {
        endpoint: Some(endpoint.into()),
        network_name: network.map(|network| network.name.clone()).unwrap_or_default(),
        node_name: node.map(|node| node.name.clone()).unwrap_or_default(),
        vtep: node.map(|node| node.data_addr.to_string()).unwrap_or_default(),
    }
}

/// A network, and how much it is used.
pub(crate) fn network(state: &State, network: &Network) -> v1::NetworkView {
    let endpoints = state.endpoints_of_network(network.id).count() as u64;
    v1::NetworkView { network: Some(network.into()), endpoints }
}

/// A lease, with names.
pub(crate) fn lease(state: &State, lease: &Lease) -> v1::LeaseView {
    let network = state.networks.get(&lease.network);
    let node = lease.node.and_then(|id| state.nodes.get(&id));
    let endpoint = lease.endpoint.and_then(|id| state.endpoints.get(&id));
    let name_of = |id| state.nodes.get(&id).map(|node| node.name.clone());
    v1::LeaseView {
        lease: Some(lease_view(lease, state.clock_ms)),
        network_name: network.map(|network| network.name.clone()).unwrap_or_default(),
        node_name: node.map(|node| node.name.clone()).unwrap_or_default(),
        mac: endpoint.map(|endpoint| endpoint.mac.to_string()).unwrap_or_default(),
        previous_nodes: lease.previous.iter().filter_map(|past| Some((past.node.0, name_of(past.node)?))).collect(),
    }
}
