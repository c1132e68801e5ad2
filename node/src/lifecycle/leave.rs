//! Leaving a cluster.

use std::sync::Arc;

use pontoon_proto::v1;
use pontoon_store::model::command::Command;
use pontoon_store::model::rejection::Reason;
use tonic::Code;
use tracing::info;

use super::{clean_up, exclusive};
use crate::api::error::ApiError;
use crate::daemon::Daemon;
use crate::docker;
use crate::member::Member;
use crate::voting::Going;

/// Takes this node out of its cluster and its kernel state off its host.
pub async fn leave(daemon: &Arc<Daemon>, force: bool) -> Result<v1::LeaveResponse, ApiError> {
    let mut data = exclusive(daemon).await?;
    let member = daemon.member()?;
    if !force && is_alone(&member) {
        let message = "this is the last node: the cluster, its networks and its leases end with it";
        return Err(ApiError::new(Code::FailedPrecondition, "LAST_NODE", message, "--force ends the cluster"));
    }
    if !force {
        member.spare(member.node(), Going::Leaves).await?;
    }
    // Once the cluster has removed this node, it knows nothing of its engine.
    let networks = engine_networks(&member);
    let mut warnings = Vec::new();
    match tell_the_cluster(&member, force).await {
        Ok(warning) => warnings.extend(warning),
        Err(error) => {
            if !force || error.reason == Reason::NodeInUse.as_str() {
                return Err(error);
            }
            let name = member
                .store()
                .state()
                .nodes
                .get(&member.node())
                .map_or_else(|| member.node().to_string(), |n| n.name.clone());
            warnings.push(format!(
                "the cluster does not know ({}): run pontoon node rm {name} --force on a member",
                error.message
            ));
        }
    }
    daemon.set_member(None);
    let left = match member.stop().await {
        Some(linux) => clean_up(linux).await,
        None => vec!["the bridges and interfaces of this node are still there".to_owned()],
    };
    // The engine asks this daemon meanwhile, and is answered as by one that is in no cluster: nothing that it removes is
    // removed from the cluster, and no loop makes it again. Before the data folder says that this node has left, so that
    // leaving again goes on with it if it is cut off.
    if let Some(docker) = &daemon.config.docker {
        warnings.extend(docker::clean_up(&docker.socket, &networks).await);
    }
    data.leave(!left.is_empty())?;
    if !left.is_empty() {
        warnings.extend(left);
        warnings.push("pontoond tries again to remove what is left when it is started the next time".to_owned());
    }
    info!(cluster = %member.cluster(), node = %member.node(), "left the cluster");
    Ok(v1::LeaveResponse { warnings })
}

/// Names of the networks that the cluster knows to be in this node's engine.
fn engine_networks(member: &Member) -> Vec<String> {
    let state = member.store().state();
    let here = state.engine_networks.keys().filter(|(_, node)| *node == member.node());
    here.filter_map(|(network, _)| Some(state.networks.get(network)?.name.clone())).collect()
}

/// Whether a member is the only node of its cluster. One that was removed may know of a single node, too: another.
fn is_alone(member: &Member) -> bool {
    member.store().state().nodes.keys().eq([&member.node()])
}

/// Whether the cluster of a member has ended with its last node: this one, which was killed before it had left.
fn has_ended(member: &Member) -> bool {
    let state = member.store().state();
    state.cluster.is_some() && state.nodes.is_empty()
}

/// Has this node removed; a warning if something of that is not done yet.
async fn tell_the_cluster(member: &Member, force: bool) -> Result<Option<String>, ApiError> {
    let last = is_alone(member);
    // One that was killed while it left goes on with what is not done yet.
    if !is_removed(member) {
        match member.propose(Command::RemoveNode { node: member.node(), force }).await {
            // It has nobody to tell any more, nor has one that others have removed. Containers that it still has lose
            // their network only by force.
            Err(_) if member.store().removed().is_some() && (force || !has_endpoints(member)) => return Ok(None),
            Err(error) if error.reason != Reason::NodeNotFound.as_str() && !is_removed(member) => return Err(error),
            _ => {}
        }
    }
    if last || has_ended(member) {
        return Ok(None);
    }
    match member.expel(member.raft_id()).await {
        Ok(()) => Ok(None),
        Err(error) if force => Ok(Some(still_voting(&error))),
        // A voter that goes away before its vote is taken can leave the others without quorum.
        Err(error) => Err(ApiError {
            message: still_voting(&error),
            hint: "run pontoon leave again once the others answer; --force leaves now".to_owned(),
            ..error
        }),
    }
}

/// Whether a member knows itself that it was removed. It counts in Raft until it is taken out there as well.
fn is_removed(member: &Member) -> bool {
    let state = member.store().state();
    state.applied_index >= member.raft_id().0 && !state.nodes.contains_key(&member.node())
}

fn has_endpoints(member: &Member) -> bool {
    member.store().state().endpoints_of_node(member.node()).next().is_some()
}

/// What to say when a node is removed for certain, and only its part in the Raft membership is not over yet.
pub(crate) fn still_voting(error: &ApiError) -> String {
    format!(
        "the node is removed, but still counts as a voter: {}; the leader takes its vote as soon as it can, pontoon status \
         on a member shows the quorum",
        error.message
    )
}
