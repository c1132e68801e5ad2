//! Entering a cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::{DEFAULT_PEER_PORT, JoinToken, v1};
use pontoon_store::model::command::AdmitNode;
use pontoon_store::model::object::Node;
use pontoon_store::model::rejection::Reason;
use pontoon_store::{AdmitError, Admitted, Door, NodeKey, knock};
use tokio::time::{Instant, sleep};
use tonic::Code;
use tracing::info;

use super::{Entrant, admission, enter, entrant, listening_port, open_store, outside_any_cluster, parse_address};
use crate::api::error::ApiError;
use crate::clock;
use crate::daemon::Daemon;
use crate::host;
use crate::identity::{Credentials, Membership};
use crate::member::Member;

/// How long one member is waited for before the next address is tried.
const HELLO_DEADLINE: Duration = Duration::from_secs(3);
/// How long an admission may take.
const ADMIT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a node that is to be replaced is waited for to be down, and how often it is looked.
const DOWN_DEADLINE: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_secs(1);
/// How far the clocks of two hosts may be apart, in milliseconds: half of what certificates are backdated by, so that a third
/// may be as far from either.
const MAX_SKEW_MS: u64 = 12 * 3_600_000;
/// How long the first log entries of a newcomer may take.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(30);

/// Puts this node into a cluster, through any of its nodes.
pub async fn join(daemon: &Arc<Daemon>, request: v1::JoinRequest) -> Result<v1::JoinResponse, ApiError> {
    let mut data = outside_any_cluster(daemon).await?;
    let token: JoinToken = request.token.parse().map_err(|error| {
        let hint = "pontoon token create on a node of the cluster makes one";
        ApiError::new(Code::InvalidArgument, "MALFORMED_TOKEN", format!("{error}"), hint)
    })?;
    let peers = request.peers.iter().map(|peer| parse_address(peer, DEFAULT_PEER_PORT));
    let mut peers = peers.collect::<Result<Vec<_>, _>>()?;
    peers.extend(&token.addresses);
    let (mut door, peer) = first_door(&peers, data.key(), &token).await?;
    let warning = compare_clocks(&door, peer)?;
    let port = listening_port(daemon);
    let advertise = match request.advertise.as_str() {
        "" => SocketAddr::new(host::source_address(peer)?, port),
        given => parse_address(given, port)?,
    };
    let mut entrant = entrant(&request.name, advertise, &request.data_addr)?;
    if request.name.is_empty() && !request.replaces.is_empty() {
        // It has the name of the node whose place it takes.
        entrant.name = String::new();
    }
    let entrant = Entrant { voter_only: request.voter_only, replaces: request.replaces, ..entrant };
    let attempt = data.attempt()?;
    let node = admission(&data, &entrant, None, attempt);
    let admitted = admitted(&mut door, &node, &token).await?;
    let Admitted { cluster, node, raft_id, members, observer, certificate, cluster_key } = admitted;
    let membership = Membership { cluster, node, raft_id, observer };
    data.remove_store()?;
    data.enter(membership, members, Credentials { certificate, cluster_key })?;
    info!(%cluster, %node, through = %peer, "admitted to a cluster");
    let store = open_store(daemon, &data, membership).await?;
    let member = enter(daemon, &mut data, store)?;
    let node = caught_up(&member).await?;
    let warnings = warning.into_iter().collect();
    Ok(v1::JoinResponse { cluster_id: cluster.to_string(), node: Some((&node).into()), warnings })
}

/// Asks for admission. A node that was wiped a moment ago is taken to be there for a few more seconds.
async fn admitted(door: &mut Door, node: &AdmitNode, token: &JoinToken) -> Result<Admitted, AdmitError> {
    let end = Instant::now() + DOWN_DEADLINE;
    loop {
        match door.enter(node, token, ADMIT_DEADLINE).await {
            Err(AdmitError::Rejected(rejection)) if rejection.reason == Reason::NodeAlive && Instant::now() < end => {
                sleep(AGAIN).await;
            }
            answer => return answer,
        }
    }
}

/// The first address that a node of the token's cluster answers at.
async fn first_door(peers: &[SocketAddr], me: &NodeKey, token: &JoinToken) -> Result<(Door, SocketAddr), ApiError> {
    let mut errors = Vec::new();
    for peer in peers {
        match knock(me, *peer, token, HELLO_DEADLINE).await {
            Ok(door) => return Ok((door, *peer)),
            Err(error) => errors.push(error),
        }
    }
    let reasons: Vec<String> = errors.iter().map(|error| reason(error, me)).collect();
    let message = match reasons.len() {
        0 => "the token names no node, and no address was given".to_owned(),
        _ => format!("cannot join: {}", reasons.join("; ")),
    };
    // What is wrong with one that answers says more than that others do not.
    let telling = |wanted: fn(&AdmitError) -> bool| errors.iter().any(wanted);
    if telling(|error| matches!(error, AdmitError::Certificate { .. })) {
        let hint = "set the clocks of both hosts right (timedatectl set-ntp true), then join again";
        return Err(ApiError::new(Code::FailedPrecondition, "CERTIFICATE", message, hint));
    }
    if telling(|error| matches!(error, AdmitError::OtherCluster { .. })) {
        let hint = "nothing was told to it; use a token of that cluster, or an address of the token's";
        return Err(ApiError::new(Code::PermissionDenied, "TOKEN_OTHER_CLUSTER", message, hint));
    }
    let hint = "name a node of the cluster after the token: its advertise address, as pontoon node ls shows it there";
    Err(ApiError::new(Code::Unavailable, "NO_MEMBER", message, hint))
}

fn reason(error: &AdmitError, me: &NodeKey) -> String {
    match error {
        AdmitError::NoCluster { address, key } if *key == me.public() => format!("{address} is this node itself"),
        error => error.to_string(),
    }
}

/// Compares this host's clock with that of the node that it joins through. What somebody should know of it; an error where
/// certificates would be good on one of the two hosts only.
fn compare_clocks(door: &Door, peer: SocketAddr) -> Result<Option<String>, ApiError> {
    let (theirs, ours) = (door.host.time_ms, host::now_ms());
    let ahead_ms = i64::try_from(theirs).unwrap_or(i64::MAX) - i64::try_from(ours).unwrap_or(i64::MAX);
    if ahead_ms.unsigned_abs() < MAX_SKEW_MS {
        return Ok(clock::warning(&door.host.name, ahead_ms));
    }
    let message = format!(
        "cannot join: the clock of {} at {peer} says {}, and this host's says {}: certificates would be good on one of \
         them only",
        door.host.name,
        clock::text(theirs),
        clock::text(ours)
    );
    let hint = "set the wrong one right (timedatectl set-ntp true), then join again";
    Err(ApiError::new(Code::FailedPrecondition, "CLOCK_SKEW", message, hint))
}

/// Waits until the log has brought this node's own admission.
async fn caught_up(member: &Member) -> Result<Node, ApiError> {
    let mut applied = member.store().applied();
    let own = async {
        loop {
            {
                let state = member.store().state();
                if let Some(node) = state.nodes.get(&member.node()).filter(|_| member.store().is_known_in(&state)) {
                    return node.clone();
                }
            }
            if applied.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::time::timeout(CATCH_UP_DEADLINE, own).await.map_err(|_| {
        ApiError::new(
            Code::DeadlineExceeded,
            "NOT_CAUGHT_UP",
            format!("this node is node {} now, but the leader has sent it nothing yet", member.node()),
            "it goes on trying: look at pontoon status here, and whether the leader can reach the advertise address",
        )
    })
}
