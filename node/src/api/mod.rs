//! The admin API: requests become reads of the state or commands, answers become messages.

pub mod admin;
pub mod cluster;
pub mod diagnosis;
pub mod endpoint;
pub mod error;
pub mod name;
pub mod network;
pub mod node;
pub mod token;
mod view;
pub mod watch;

use pontoon_proto::v1;
use pontoon_store::model::command::Outcome;
use pontoon_store::model::object::Node;
use pontoon_store::{StoreStatus, asked_by, on_behalf_of};
use tonic::Code;

use error::ApiError;

pub(crate) use network::select_leases;
pub(crate) use view::{endpoint as endpoint_view, find_network, find_node, network as network_view};

/// A node and its part in the Raft membership.
pub(crate) fn member(node: &Node, status: &StoreStatus) -> v1::Member {
    let peer = status.members.get(&node.raft_id);
    let observer = status.observers.get(&node.raft_id);
    v1::Member {
        node: Some(node.into()),
        voter: status.voters.contains(&node.raft_id),
        leader: status.leader == Some(node.raft_id),
        matched_index: peer.and_then(|p| p.matched_index).or(observer.map(|(_, index)| *index)).unwrap_or_default(),
        heard_ms: peer.and_then(|peer| peer.heard_ms).or(observer.map(|(age, _)| *age)),
        observer: peer.is_none(),
    }
}

/// `apply` answered with another kind of object than the command makes: a bug, said plainly.
pub(crate) fn unexpected(outcome: &Outcome) -> ApiError {
    ApiError::bug(format!("the store answered with something else than was asked for: {outcome:?}"))
}

/// Runs a request in a task of its own: a caller that goes away must not leave it half done.
async fn to_the_end<T: Send + 'static>(
    request: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(on_behalf_of(asked_by(), request)).await.unwrap_or_else(|error| {
        let message = format!("the request was cut off: {error}");
        Err(ApiError::new(Code::Internal, "INTERNAL", message, "the log of pontoond says more"))
    })
}
