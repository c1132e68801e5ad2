//! Other addresses for this node.

use std::sync::Arc;

use pontoon_proto::v1;
use pontoon_store::ReachError;
use pontoon_store::model::command::{Command, MoveNode, Outcome};
use tonic::Code;
use tracing::info;

use super::{exclusive, listening_port, parse_address, parse_data_address};
use crate::api::error::ApiError;
use crate::api::{find_node, unexpected};
use crate::daemon::Daemon;
use crate::host;

/// Tells the cluster that this node is reached elsewhere, once another member has seen that it is.
pub async fn move_to(daemon: &Arc<Daemon>, request: v1::MoveRequest) -> Result<v1::MoveResponse, ApiError> {
    let _alone = exclusive(daemon).await?;
    let member = daemon.member()?;
    let own = find_node(&member.store().state(), &member.node().to_string())?.clone();
    let advertise = match request.advertise.as_str() {
        "" => own.advertise,
        text => parse_address(text, listening_port(daemon))?,
    };
    let data_addr = match request.data_addr.as_str() {
        // They were one, and stay one.
        "" if own.data_addr == own.advertise.ip() => advertise.ip(),
        "" => own.data_addr,
        text => parse_data_address(text)?,
    };
    host::require_local(data_addr)?;
    member.store().answers_at(advertise).await?;
    let command = Command::MoveNode(MoveNode { node: own.id, advertise, data_addr });
    let moved = match member.propose(command.clone()).await {
        // It may have heard of no leader since it has moved.
        Err(error) if error.reason == "NO_QUORUM" => member.store().propose_through_others(command).await?,
        answer => answer?,
    };
    match moved {
        Outcome::Node(node) => {
            info!(%advertise, %data_addr, was = %own.advertise, data_addr_was = %own.data_addr, "this node has other addresses");
            Ok(v1::MoveResponse { node: Some((&node).into()) })
        }
        other => Err(unexpected(&other)),
    }
}

impl From<ReachError> for ApiError {
    fn from(error: ReachError) -> Self {
        let hint = "it must be an address of this host that the other hosts reach, and let their connections in";
        match error {
            ReachError::Rejected(rejection) => rejection.into(),
            ReachError::NotTaken { .. } => {
                let hint = "look at pontoon status on another node whether this one has moved; bring a majority back, and try again";
                Self::new(Code::Unknown, "UNKNOWN_OUTCOME", error.to_string(), hint)
            }
            ReachError::Unreachable { .. } => {
                Self::new(Code::Unavailable, "ADVERTISE_UNREACHABLE", error.to_string(), hint)
            }
            ReachError::Nobody { .. } => Self::new(
                Code::Unavailable,
                "NO_MEMBER",
                error.to_string(),
                "move nodes one after the other, so that a majority always knows where the others are",
            ),
        }
    }
}
