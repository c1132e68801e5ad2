//! Entering and leaving a cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use pontoon_proto::{DEFAULT_PEER_PORT, v1};
use pontoon_store::model::command::{AdmitNode, Command, FEATURE_LEVEL, Outcome};
use pontoon_store::model::id::{ClusterId, FOUNDER, NodeId, RaftId};
use pontoon_store::model::object::{Cluster, Family, Node, Pool};
use pontoon_store::model::rejection::Reason;
use pontoon_store::{NodeKey, Peer, Requests, Store, StoreOptions, Timing};
use tokio::sync::MutexGuard;
use tonic::Code;
use tracing::{info, warn};

use crate::api::error::ApiError;
use crate::daemon::Daemon;
use crate::docker;
use crate::host;
use crate::identity::{DataDir, DataDirError, Membership};
use crate::journal::Journal;
use crate::kernel::Linux;
use crate::member::{AtWork, Member};
use crate::role;
use crate::voting::Going;

/// How long founding may take: one node's election and one write.
const FOUND_DEADLINE: Duration = Duration::from_secs(10);
/// How long one member is waited for before the next address is tried.
const HELLO_DEADLINE: Duration = Duration::from_secs(3);
/// How long an admission may take.
const ADMIT_DEADLINE: Duration = Duration::from_secs(10);
/// How long the first log entries of a newcomer may take.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(30);

/// What a user says of a node when it enters a cluster.
struct Entrant {
    name: String,
    advertise: SocketAddr,
    data_addr: IpAddr,
    voter_only: bool,
}

/// Makes a new cluster with this node as its first member.
pub async fn init(daemon: &Arc<Daemon>, request: v1::InitRequest) -> Result<v1::InitResponse, ApiError> {
    let mut data = outside_any_cluster(daemon)?;
    let advertise = parse_address(&request.advertise, listening_port(daemon))?;
    let entrant = Entrant { voter_only: request.voter_only, ..entrant(&request.name, advertise, &request.data_addr)? };
    let cluster = Cluster {
        id: ClusterId(rand::random()),
        created_ms: 0,
        pools: parse_pools(&request.pools)?,
        pool6: random_ula(),
        vxlan_port: daemon.config.vxlan_port,
        feature_level: FEATURE_LEVEL,
        underlay: Family::of(entrant.data_addr),
        voters: None,
        replace_after_ms: None,
    };
    data.remove_store()?;
    let id = cluster.id;
    let store =
        open_store(daemon, &data, Membership { cluster: id, node: NodeId(0), raft_id: FOUNDER, observer: false })
            .await?;
    let founded = found(&store, &data, cluster, &entrant).await;
    let node = match founded {
        Ok(node) => node,
        Err(error) => {
            store.shutdown().await;
            data.remove_store()?;
            return Err(error);
        }
    };
    data.enter(Membership { cluster: id, node: node.id, raft_id: FOUNDER, observer: false }, BTreeMap::new())?;
    info!(cluster = %id, node = %node.id, name = node.name, "founded a cluster");
    enter(daemon, &mut data, store)?;
    Ok(v1::InitResponse { cluster_id: id.to_string(), node: Some((&node).into()) })
}

async fn found(store: &Store, data: &DataDir, cluster: Cluster, entrant: &Entrant) -> Result<Node, ApiError> {
    store.initialize(entrant.advertise).await?;
    let node = admission(data, entrant, Some(FOUNDER), 0);
    let outcome = store.propose(Command::FoundCluster { cluster, node }, FOUND_DEADLINE).await?;
    match outcome {
        Outcome::Node(node) => Ok(node),
        other => Err(crate::api::unexpected(&other)),
    }
}

/// Puts this node into a cluster, through any member.
pub async fn join(daemon: &Arc<Daemon>, request: v1::JoinRequest) -> Result<v1::JoinResponse, ApiError> {
    let mut data = outside_any_cluster(daemon)?;
    let peers = request.peers.iter().map(|peer| parse_address(peer, DEFAULT_PEER_PORT));
    let peers = peers.collect::<Result<Vec<_>, _>>()?;
    let peer = first_member(&peers, data.key()).await?;
    let port = listening_port(daemon);
    let advertise = match request.advertise.as_str() {
        "" => SocketAddr::new(host::source_address(peer)?, port),
        given => parse_address(given, port)?,
    };
    let entrant = Entrant { voter_only: request.voter_only, ..entrant(&request.name, advertise, &request.data_addr)? };
    let (membership, members) = admit(&mut data, peer, &entrant).await?;
    data.remove_store()?;
    data.enter(membership, members)?;
    info!(cluster = %membership.cluster, node = %membership.node, through = %peer, "admitted to a cluster");
    let store = open_store(daemon, &data, membership).await?;
    let member = enter(daemon, &mut data, store)?;
    let node = caught_up(&member).await?;
    Ok(v1::JoinResponse { cluster_id: membership.cluster.to_string(), node: Some((&node).into()) })
}

/// The first address that a member of a cluster answers at.
async fn first_member(peers: &[SocketAddr], me: &NodeKey) -> Result<SocketAddr, ApiError> {
    let mut reasons = Vec::new();
    for peer in peers {
        match pontoon_store::hello(me, *peer, HELLO_DEADLINE).await {
            Ok(hello) if hello.public_key == me.public() => reasons.push(format!("{peer} is this node itself")),
            Ok(hello) if hello.cluster.is_none() => reasons.push(format!("{peer} is in no cluster yet")),
            Ok(_) => return Ok(*peer),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    let message = match reasons.len() {
        0 => "no member was named".to_owned(),
        _ => format!("cannot join: {}", reasons.join("; ")),
    };
    let hint =
        "name a member: its advertise address, as pontoon node ls shows it there (the first node needs pontoon init)";
    Err(ApiError::new(Code::Unavailable, "NO_MEMBER", message, hint))
}

async fn admit(
    data: &mut DataDir,
    peer: SocketAddr,
    entrant: &Entrant,
) -> Result<(Membership, BTreeMap<RaftId, Peer>), ApiError> {
    let attempt = data.attempt()?;
    let node = admission(data, entrant, None, attempt);
    let admitted = pontoon_store::admit(data.key(), peer, &node, ADMIT_DEADLINE).await?;
    let pontoon_store::Admitted { cluster, node, raft_id, observer, .. } = admitted;
    let membership = Membership { cluster, node, raft_id, observer };
    Ok((membership, admitted.members))
}

fn admission(data: &DataDir, entrant: &Entrant, raft_id: Option<RaftId>, attempt: u64) -> AdmitNode {
    AdmitNode {
        name: entrant.name.clone(),
        advertise: entrant.advertise,
        data_addr: entrant.data_addr,
        public_key: data.public_key(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        feature_level: FEATURE_LEVEL,
        raft_id,
        attempt,
        voter_only: entrant.voter_only,
    }
}

/// Waits until the log has brought this node's own admission.
async fn caught_up(member: &Member) -> Result<Node, ApiError> {
    let mut applied = member.store().applied();
    let own = async {
        loop {
            if let Some(node) = member.store().state().nodes.get(&member.node()) {
                return node.clone();
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

/// Takes this node out of its cluster and its kernel state off its host.
pub async fn leave(daemon: &Arc<Daemon>, force: bool) -> Result<v1::LeaveResponse, ApiError> {
    let mut data = exclusive(daemon)?;
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

/// Removes all that is ours from this host; tells what could not be.
async fn clean_up(mut linux: Linux) -> Vec<String> {
    let removed = tokio::task::spawn_blocking(move || linux.remove_all()).await;
    let failures = match removed {
        Ok(Ok(failures)) => failures,
        Ok(Err(error)) => vec![error],
        Err(error) => return vec![format!("cleaning up this host was cut off: {error}")],
    };
    failures.iter().map(|error| format!("not everything could be removed from this host: {error}")).collect()
}

/// Has this node removed; a warning if something of that is not done yet.
async fn tell_the_cluster(member: &Member, force: bool) -> Result<Option<String>, ApiError> {
    let last = is_alone(member);
    match member.propose(Command::RemoveNode { node: member.node(), force }).await {
        // One that was killed while it left, or that others have removed, has nobody to tell any more. Containers that
        // it still has lose their network only by force.
        Err(_) if member.store().removed().is_some() && (force || !has_endpoints(member)) => return Ok(None),
        Err(error) if error.reason != Reason::NodeNotFound.as_str() => return Err(error),
        _ => {}
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

/// Goes on as the member that the data folder says this daemon is.
pub async fn resume(daemon: &Arc<Daemon>) -> Result<(), ApiError> {
    let mut data = exclusive(daemon)?;
    let Some(membership) = data.membership() else {
        data.remove_store()?;
        if data.unclean() {
            clean_up_later(daemon, &mut data).await?;
        }
        return Ok(());
    };
    if membership.observer {
        data.remove_log()?;
    }
    let store = open_store(daemon, &data, membership).await?;
    enter(daemon, &mut data, store)?;
    Ok(())
}

/// Removes what could not be removed when this node left its cluster.
async fn clean_up_later(daemon: &Daemon, data: &mut DataDir) -> Result<(), ApiError> {
    let left = clean_up(Linux::open(daemon.config.names())?).await;
    if left.is_empty() {
        info!("removed what was left on this host of a cluster that this node is in no more");
        return Ok(data.cleaned()?);
    }
    for what in left {
        warn!(what, "something of a cluster that this node is in no more is still on this host");
    }
    Ok(())
}

fn enter(daemon: &Arc<Daemon>, data: &mut DataDir, store: Store) -> Result<Arc<Member>, ApiError> {
    let membership = data.membership().ok_or_else(|| {
        ApiError::new(Code::Internal, "INTERNAL", "the data folder names no cluster", "please report this")
    })?;
    if !membership.observer {
        // Its log is there by now, and nobody has been able to ask it for its vote.
        data.begin()?;
    }
    let journal = Arc::new(Journal::open(&data.journal_path())?);
    let at_work = AtWork { attachments: Arc::default(), journal, reached: data.reached() };
    let member = Member::start(daemon, membership, store, at_work)?;
    daemon.set_member(Some(member.clone()));
    role::follow(daemon, &member);
    Ok(member)
}

async fn open_store(daemon: &Daemon, data: &DataDir, membership: Membership) -> Result<Store, ApiError> {
    let options = options(daemon, data, membership, Requests::of_run(rand::random()));
    Ok(if membership.observer { Store::observe(options, None).await? } else { Store::open(options).await? })
}

/// What the store of this node is opened with.
pub(crate) fn options(daemon: &Daemon, data: &DataDir, membership: Membership, requests: Requests) -> StoreOptions {
    StoreOptions {
        dir: data.store_path(),
        cluster: membership.cluster,
        raft_id: membership.raft_id,
        node: membership.node,
        key: data.key().clone(),
        members: data.members().clone(),
        begun: data.begun(),
        requests,
        timing: Timing::default(),
        clock: host::now_ms,
        fatal: Arc::new(end_process),
        snapshot_every: StoreOptions::SNAPSHOT_EVERY,
        keep_entries: StoreOptions::KEEP_ENTRIES,
        segment_bytes: StoreOptions::SEGMENT_BYTES,
        reserve: StoreOptions::RESERVE,
        tasks: daemon.tasks.clone(),
    }
}

/// Nobody knows what is on the disk after a write to the log failed: this member must not go on, and reads the log
/// anew when it is started again.
fn end_process(reason: &str) {
    tracing::error!(reason, "the log cannot be written: ending");
    std::process::abort();
}

fn exclusive(daemon: &Daemon) -> Result<MutexGuard<'_, DataDir>, ApiError> {
    daemon.data.try_lock().map_err(|_| {
        let message = "another init, join or leave is under way on this node";
        ApiError::new(Code::Unavailable, "BUSY", message, "wait for it to end; pontoon status shows what came of it")
    })
}

fn outside_any_cluster(daemon: &Daemon) -> Result<MutexGuard<'_, DataDir>, ApiError> {
    let data = exclusive(daemon)?;
    match data.membership() {
        None => Ok(data),
        Some(membership) => Err(ApiError::new(
            Code::FailedPrecondition,
            "ALREADY_IN_CLUSTER",
            format!("this node is node {} of cluster {} already", membership.node, membership.cluster),
            "pontoon status shows it; pontoon leave takes this node out of it first",
        )),
    }
}

fn listening_port(daemon: &Daemon) -> u16 {
    daemon.config.listen.port()
}

fn entrant(name: &str, advertise: SocketAddr, data_addr: &str) -> Result<Entrant, ApiError> {
    let data_addr = match data_addr {
        "" => advertise.ip(),
        text => text.parse().map_err(|_| {
            let hint = "give an address of this host, without port, such as 192.168.140.200";
            ApiError::invalid(Reason::InvalidNodeAddress, format!("{text:?} is not an address"), hint)
        })?,
    };
    host::require_local(data_addr)?;
    let name = if name.is_empty() { host::name()? } else { name.to_owned() };
    Ok(Entrant { name, advertise, data_addr, voter_only: false })
}

/// An address with or without port.
fn parse_address(text: &str, default_port: u16) -> Result<SocketAddr, ApiError> {
    let with_port = || text.parse::<SocketAddr>().ok();
    let without = || text.trim_matches(['[', ']']).parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, default_port));
    let address = with_port().or_else(without).filter(|address| !address.ip().is_unspecified() && address.port() != 0);
    address.ok_or_else(|| {
        let hint = format!(
            "give one such as 192.168.140.200, 192.168.140.200:{DEFAULT_PEER_PORT} or [fd00::1]:{DEFAULT_PEER_PORT}"
        );
        ApiError::invalid(
            Reason::InvalidNodeAddress,
            format!("{text:?} is not an address that a daemon can be reached at"),
            hint,
        )
    })
}

fn parse_pools(pools: &[v1::Pool]) -> Result<Vec<Pool>, ApiError> {
    if pools.is_empty() {
        let cidr = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8);
        return Ok(vec![Pool { cidr, prefix: 24 }]);
    }
    let parse = |pool: &v1::Pool| {
        let invalid = |what: String| {
            ApiError::invalid(Reason::InvalidCluster, what, "give one such as --pool 10.0.0.0/8 --pool-prefix 24")
        };
        let cidr = pool.cidr.parse().map_err(|_| invalid(format!("{:?} is not an IPv4 prefix", pool.cidr)))?;
        let prefix =
            u8::try_from(pool.prefix).map_err(|_| invalid(format!("{} is not a prefix length", pool.prefix)))?;
        Ok(Pool { cidr, prefix })
    };
    pools.iter().map(parse).collect()
}

/// A /48 of fd00::/8 with 40 random bits (RFC 4193, section 3.2).
fn random_ula() -> Ipv6Net {
    let [a, b, c, d, e] = rand::random::<[u8; 5]>();
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Net::new_assert(Ipv6Addr::new(pair(0xfd, a), pair(b, c), pair(d, e), 0, 0, 0, 0, 0), 48)
}

impl From<DataDirError> for ApiError {
    fn from(error: DataDirError) -> Self {
        Self::new(Code::Internal, "DATA_DIR", error.to_string(), "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_port() {
        let cases = [
            ("192.168.140.200", Some("192.168.140.200:7300")),
            ("192.168.140.200:17300", Some("192.168.140.200:17300")),
            ("fd00::1", Some("[fd00::1]:7300")),
            ("[fd00::1]", Some("[fd00::1]:7300")),
            ("[fd00::1]:17300", Some("[fd00::1]:17300")),
            ("0.0.0.0", None),
            ("192.168.140.200:0", None),
            ("host.example", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let parsed = parse_address(text, 7300).ok().map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_random_pool_is_a_unique_local_prefix() {
        let (first, second) = (random_ula(), random_ula());
        assert_eq!((first.addr().segments()[0] >> 8, first.prefix_len()), (0xfd, 48));
        assert_eq!(first.trunc(), first);
        assert_ne!(first, second);
    }
}
