//! Endpoints that an engine takes into use again: the node's own, so that it needs nobody's leave. The cluster is told
//! at once, or, without a majority, later.

use std::collections::BTreeSet;
use std::time::Duration;

use pontoon_store::model::command::{Command, Outcome, RebindEndpoint};
use pontoon_store::model::id::{EndpointId, Mac};
use pontoon_store::model::object::Endpoint;
use pontoon_store::model::state::State;
use tokio::time::Instant;
use tracing::{error, info};

use super::Containers;
use crate::api::error::ApiError;
use crate::api::unexpected;
use crate::journal::has_id;
use crate::member::Member;
use crate::plan::engine::Waiting;

/// How long the cluster may take to answer: an engine's user waits for it, and an election takes about a second.
pub(super) const PATIENCE: Duration = Duration::from_millis(2500);

/// Looks at the endpoints of this node that wait for their containers.
pub(super) fn waiting<R>(member: &Member, containers: &Containers, look: impl FnOnce(Waiting<'_>) -> R) -> R {
    let (given_up, handed) = (member.journal.given_up(), containers.handed());
    let mut ended: BTreeSet<EndpointId> = member.attachments.ending().into_keys().collect();
    // Those that ran when the host went down.
    ended.extend(member.reconciler.status().borrow().vanished.iter());
    let view = member.view();
    ended.retain(|id| !view.is_rebound(*id));
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
    let rebound = RebindEndpoint { mac, ..rebinding(endpoint, engine_id) };
    match member.propose_by(Command::RebindEndpoint(rebound), Instant::now() + PATIENCE).await {
        Ok(Outcome::Endpoint(endpoint)) => {
            // What was noted of it without a majority is overtaken.
            member.journal.settle(endpoint.id).await?;
            Ok(endpoint)
        }
        Ok(other) => Err(unexpected(&other)),
        // Without a majority nobody can say that another MAC is free.
        Err(error) if error.is_unanswered() && mac.is_none() => {
            info!(
                name = endpoint.name,
                addresses = ?endpoint.addresses,
                error = error.message,
                "a container starts on the address that it had, and the cluster is told later"
            );
            member.journal.rebind(endpoint.id, engine_id).await?;
            let known = member.view().endpoints.get(&endpoint.id).cloned();
            known.ok_or(error)
        }
        Err(error) => Err(error),
    }
}

fn rebinding(endpoint: &Endpoint, engine_id: &str) -> RebindEndpoint {
    RebindEndpoint { endpoint: endpoint.id, epoch: endpoint.epoch, engine_id: engine_id.to_owned(), mac: None }
}

/// Tells the cluster of what was taken into use again without a majority.
pub(super) async fn tell(member: &Member) -> Result<(), ApiError> {
    let rebound = member.journal.rebound();
    if rebound.is_empty() {
        return Ok(());
    }
    // The state here may be older than the end of the log.
    member.refresh().await?;
    for (id, engine_id) in rebound {
        let known = member.store().state().endpoints.get(&id).cloned();
        let Some(endpoint) = known else {
            error!(endpoint = %id, "the cluster has ended an endpoint whose container runs here: the container has no network");
            member.journal.settle(id).await?;
            continue;
        };
        if !has_id(&endpoint, &engine_id) {
            match member.propose(Command::RebindEndpoint(rebinding(&endpoint, &engine_id))).await {
                Err(error) if error.is_unanswered() => return Err(error),
                Err(error) => {
                    error!(
                        name = endpoint.name,
                        error = error.message,
                        "a container that runs here has no network any more"
                    );
                }
                Ok(_) => {
                    info!(name = endpoint.name, addresses = ?endpoint.addresses, "told the cluster that a container runs again")
                }
            }
        }
        member.journal.settle(id).await?;
    }
    Ok(())
}
