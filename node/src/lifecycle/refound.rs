//! A new cluster that goes on with what another had: from a backup, or from what a survivor has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::{JoinToken, v1};
use pontoon_store::model::apply::{FirstNode, Refounding};
use pontoon_store::model::object::Node;
use pontoon_store::model::state::State;
use pontoon_store::{Certificate, ReadError, Requests, Store, StoreOptions, asked_by};
use tonic::Code;
use tracing::{info, warn};

use super::init::{New, kept_if_begun, welcome};
use super::{
    Entrant, admission, enter, entrant, exclusive, listening_port, open_store, options, outside_any_cluster,
    parse_address, resume_as,
};
use crate::api::error::ApiError;
use crate::backup;
use crate::clock;
use crate::daemon::Daemon;
use crate::host;
use crate::identity::DataDir;
use crate::member::Member;

/// How long it is looked whether the others answer.
const ASKING: Duration = Duration::from_secs(3);

impl New {
    fn refound(&self, state: State, first: FirstNode, what: &'static str) -> Result<(State, Node), ApiError> {
        let (authority, sealed_key) = (self.authority.certificate().to_vec(), self.sealed_key());
        let asked = asked_by().map(|origin| (origin, what));
        let now_ms = host::now_ms();
        Ok(state.refound(Refounding { cluster: self.id, authority, sealed_key, first, asked, now_ms })?)
    }
}

/// Makes a new cluster of a backup, with this node as its first member.
pub async fn restore(
    daemon: &Arc<Daemon>,
    request: v1::InitRequest,
    file: &[u8],
) -> Result<v1::RestoreResponse, ApiError> {
    let mut data = outside_any_cluster(daemon).await?;
    let old = backup::read(file)?;
    let advertise = parse_address(&request.advertise, listening_port(daemon))?;
    let entrant = Entrant { voter_only: request.voter_only, ..entrant(&request.name, advertise, &request.data_addr)? };
    let mut response = v1::RestoreResponse {
        old_cluster_id: old.cluster.as_ref().map(|cluster| cluster.id.to_string()).unwrap_or_default(),
        index: old.applied_index,
        time_ms: old.clock_ms,
        networks: count(old.networks.len()),
        nodes: count(old.nodes.len()),
        ..v1::RestoreResponse::default()
    };
    let new = New::random()?;
    let first = FirstNode::Enters(admission(&data, &entrant, None, 0).into());
    let (state, node) = new.refound(old, first, "made this cluster of a backup")?;
    let (membership, token) = (new.membership(&node), new.token(advertise));
    data.remove_store()?;
    data.set_cluster_key(new.cluster_key.clone());
    let store = open_store(daemon, &data, membership).await?;
    let begun = begin(&store, &state, &node, &token, request.token_uses).await;
    let (store, certificate) = kept_if_begun(store, &data, begun).await?;
    info!(cluster = %new.id, node = %node.id, of = response.old_cluster_id, "made a cluster of a backup");
    data.enter(membership, BTreeMap::new(), new.credentials(certificate))?;
    enter(daemon, &mut data, store)?;
    (response.cluster_id, response.node) = (membership.cluster.to_string(), Some((&node).into()));
    response.join_token = token.to_string();
    Ok(response)
}

async fn begin(
    store: &Store,
    state: &State,
    node: &Node,
    token: &JoinToken,
    uses: u32,
) -> Result<Certificate, ApiError> {
    store.begin_with(state, node.advertise).await?;
    welcome(store, node, token, uses).await
}

/// Makes a new cluster of what this node has, when most voters of the old one are gone for good.
pub async fn recover(daemon: &Arc<Daemon>, force: bool) -> Result<v1::RecoverResponse, ApiError> {
    let mut data = exclusive(daemon).await?;
    let member = daemon.member()?;
    check_lost(&member).await?;
    let (latest, unconfirmed) = member.store().latest().map_err(|reason| {
        let message = format!("this node cannot go on with what it has: {reason}");
        ApiError::new(Code::FailedPrecondition, "NOT_RECOVERABLE", message, "recover another node, or restore a backup")
    })?;
    let mut response = outlook(&member, &latest, unconfirmed);
    if !force {
        return Ok(response);
    }
    let new = New::random()?;
    let (state, node) = new.refound(latest, FirstNode::Stays(member.node()), "recovered this cluster")?;
    let (membership, token) = (new.membership(&node), new.token(node.advertise));
    let before = data.membership();
    daemon.set_member(None);
    // What it has in the kernel stays: containers go on.
    drop(member.stop().await);
    let cluster = new.id;
    let begun = match prepare(daemon, &data, &new, (&state, &node), &token).await {
        Ok(certificate) => data.begin_recovery(membership, new.credentials(certificate)).map_err(ApiError::from),
        Err(error) => Err(error),
    };
    if let Err(error) = begun {
        // It is what it was.
        if let Some(before) = before {
            resume_as(daemon, &mut data, before).await?;
        }
        return Err(error);
    }
    data.finish_recovery()?;
    warn!(%cluster, index = response.index, "went on in a new cluster with what this node had");
    resume_as(daemon, &mut data, membership).await?;
    response.done = true;
    (response.cluster_id, response.join_token) = (cluster.to_string(), token.to_string());
    Ok(response)
}

/// Makes the store of the new cluster, beside the old one.
async fn prepare(
    daemon: &Daemon,
    data: &DataDir,
    new: &New,
    (state, node): (&State, &Node),
    token: &JoinToken,
) -> Result<Certificate, ApiError> {
    data.remove_recovered()?;
    let options = StoreOptions {
        dir: data.recovered_path(),
        members: BTreeMap::new(),
        begun: false,
        cluster_key: Some(new.cluster_key.clone()).into(),
        ..options(daemon, data, new.membership(node), Requests::of_run(rand::random()))
    };
    let store = Store::open(options).await?;
    let begun = begin(&store, state, node, token, 1).await;
    store.shutdown().await;
    begun
}

/// Nothing is lost as long as a majority of the voters answers; and what an observer or a removed node has is not the cluster's.
async fn check_lost(member: &Member) -> Result<(), ApiError> {
    let refuse =
        |message: String, hint: &str| Err(ApiError::new(Code::FailedPrecondition, "NOT_RECOVERABLE", message, hint));
    if member.store().observes() {
        let message = "this node is an observer: it has a part of the state only";
        return refuse(message.to_owned(), "recover a node that was a voter or a learner, or restore a backup");
    }
    if let Some(reason) = member.store().removed() {
        let message = format!("this node was removed from its cluster: {reason}");
        return refuse(message, "pontoon leave --force, then join again");
    }
    match member.store().read_barrier(ASKING).await {
        Err(ReadError::NoQuorum { missing }) if !member.store().majority_answers(&missing) => Ok(()),
        Err(ReadError::NoQuorum { .. }) => {
            let message = "a majority of the voters answers, although none of them leads at the moment";
            refuse(message.to_owned(), "wait until one leads; pontoon status and pontoon doctor say what is in the way")
        }
        Err(ReadError::Stopped { reason }) => {
            refuse(format!("this node has stopped: {reason}"), "recover another node, or restore a backup")
        }
        Ok(()) => refuse(
            "a majority of the voters answers: nothing is to be recovered".to_owned(),
            "pontoon node rm --force removes nodes that do not come back",
        ),
    }
}

/// What comes of it.
fn outlook(member: &Member, latest: &State, unconfirmed: u64) -> v1::RecoverResponse {
    let removed = latest.nodes.values().filter(|node| node.id != member.node()).map(|node| node.name.clone());
    let warnings = vec![
        format!(
            "what the others acknowledged after {} (index {}) is lost: this node never got it",
            clock::text(latest.clock_ms),
            latest.applied_index
        ),
        "the others must not go on, with their disks or without: as long as enough of them run, they are the old cluster, and \
         hand out the same addresses. Stop pontoond there; pontoon leave --force and pontoon join bring a host into the new one"
            .to_owned(),
    ];
    v1::RecoverResponse {
        index: latest.applied_index,
        time_ms: latest.clock_ms,
        unconfirmed,
        networks: count(latest.networks.len()),
        endpoints: count(latest.endpoints_of_node(member.node()).count()),
        removed: removed.collect(),
        warnings,
        ..v1::RecoverResponse::default()
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
