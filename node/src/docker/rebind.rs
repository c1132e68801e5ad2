//! Endpoints that an engine takes into use again: the node's own, so that it needs nobody's leave. The cluster is told
//! at once, or, without a majority, later.

use std::time::Duration;

use pontoon_store::model::command::{Command, Outcome, RebindEndpoint};
use pontoon_store::model::id::{EndpointId, Mac};
use pontoon_store::model::object::Endpoint;
use pontoon_store::model::rejection::Reason;
use pontoon_store::model::state::State;
use tokio::time::Instant;
use tonic::Code;
use tracing::{error, info};

use super::Containers;
use crate::api::error::ApiError;
use crate::api::unexpected;
use crate::attach;
use crate::journal::has_id;
use crate::member::{Member, WRITE_DEADLINE, in_use};
use crate::plan::engine::Waiting;

/// How long the cluster may take to answer: an engine's user waits for it, and an election takes about a second.
pub(super) const PATIENCE: Duration = Duration::from_millis(2500);

/// Looks at the endpoints of this node that wait for their containers.
pub(super) fn waiting<R>(member: &Member, containers: &Containers, look: impl FnOnce(Waiting<'_>) -> R) -> R {
    let (given_up, handed) = (member.journal.given_up(), containers.handed());
    let ending = member.attachments.ending();
    let vanished = member.reconciler.status().borrow().vanished.clone();
    let view = member.view();
    // Each of them as it was then: it may have been taken into use again.
    let mut ended = in_use(ending, &view);
    // Those that ran when the host went down.
    let is_placed = |(id, key): &(EndpointId, String)| view.endpoints.get(id).is_some_and(|e| e.sandbox.key == *key);
    ended.extend(vanished.into_iter().filter(is_placed).map(|(id, _)| id));
    let state: &State = &view;
    look(Waiting { state, me: member.node(), ended: &ended, given_up: &given_up, handed: &handed })
}

/// Takes an endpoint whose container does not run into use again, as this one of the engine.
pub(super) async fn rebind(
    member: &Member,
    endpoint: &Endpoint,
    engine_id: &str,
    mac: Option<Mac>,
) -> Result<Endpoint, ApiError> {
    let mac = mac.filter(|mac| *mac != endpoint.mac);
    let end = Instant::now() + PATIENCE;
    let mut endpoint = endpoint.clone();
    let mut answer = propose(member, &endpoint, engine_id, mac, end).await;
    // It may have been taken into use before without this copy of the state having heard of it.
    if matches!(&answer, Err(error) if error.reason == Reason::EpochMismatch.as_str()) && member.refresh().await.is_ok()
    {
        let newer = member.store().state().endpoints.get(&endpoint.id).cloned();
        if let Some(newer) = newer.filter(|newer| !newer.is_up()) {
            endpoint = newer;
            answer = propose(member, &endpoint, engine_id, mac, end).await;
        }
    }
    match answer {
        // Without a majority nobody can say that another MAC is free.
        Err(error) if error.is_unanswered() && mac.is_none() => {
            member.journal.rebind(endpoint.id, endpoint.epoch, engine_id).await?;
            info!(
                name = endpoint.name,
                addresses = ?endpoint.addresses,
                error = error.message,
                "a container starts on the address that it had, and the cluster is told later"
            );
            let known = member.view().endpoints.get(&endpoint.id).cloned();
            known.ok_or(error)
        }
        answer => answer,
    }
}

async fn propose(
    member: &Member,
    endpoint: &Endpoint,
    engine_id: &str,
    mac: Option<Mac>,
    end: Instant,
) -> Result<Endpoint, ApiError> {
    let (engine_id, epoch) = (engine_id.to_owned(), endpoint.epoch);
    let rebound = RebindEndpoint { endpoint: endpoint.id, epoch, engine_id, mac };
    match member.propose_by(Command::RebindEndpoint(rebound), end).await? {
        Outcome::Endpoint(endpoint) => Ok(endpoint),
        other => Err(unexpected(&other)),
    }
}

/// Tells the cluster of what was taken into use again without a majority.
pub(super) async fn tell(member: &Member) -> Result<(), ApiError> {
    if member.journal.rebound().is_empty() {
        return Ok(());
    }
    // The state here may be older than the end of the log.
    member.refresh().await?;
    // What has stopped meanwhile is none of it any more.
    for (id, engine_id) in member.journal.rebound() {
        let known = member.store().state().endpoints.get(&id).cloned();
        let told = match &known {
            Some(endpoint) if has_id(endpoint, &engine_id) => Ok(endpoint.clone()),
            Some(endpoint) => propose(member, endpoint, &engine_id, None, Instant::now() + WRITE_DEADLINE).await,
            None => Err(ended()),
        };
        match told {
            // This copy of the state may not have it yet: then the next round settles it.
            Ok(endpoint) => settle_told(member, &endpoint, &engine_id).await?,
            Err(error) if is_lost(&error) => {
                let name = known.map(|endpoint| endpoint.name).unwrap_or_default();
                error!(endpoint = %id, name, error = error.message, "a container that runs here has no network any more: restart it");
                member.journal.settle(id, &engine_id).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The cluster knows that an endpoint is this one of the engine.
async fn settle_told(member: &Member, endpoint: &Endpoint, engine_id: &str) -> Result<(), ApiError> {
    if !member.journal.rebound().contains_key(&endpoint.id) {
        // Its container has stopped meanwhile, which the cluster was told of as it was before.
        return attach::end(member, &[(endpoint.id, endpoint.epoch)]).await;
    }
    let is_known = member.store().state().endpoints.get(&endpoint.id).is_some_and(|known| has_id(known, engine_id));
    if is_known {
        info!(name = endpoint.name, addresses = ?endpoint.addresses, "the cluster knows that a container runs again");
        member.journal.settle(endpoint.id, engine_id).await?;
    }
    Ok(())
}

fn ended() -> ApiError {
    ApiError::new(Code::NotFound, Reason::EndpointNotFound.as_str(), "the cluster has ended it", "")
}

/// Whether the cluster will never take an endpoint for this one of the engine.
fn is_lost(error: &ApiError) -> bool {
    [Reason::EndpointNotFound, Reason::AlreadyAttached].iter().any(|reason| reason.as_str() == error.reason)
}
