//! Entering and leaving a cluster.

mod init;
mod join;
mod leave;
mod moving;
mod refound;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::DEFAULT_PEER_PORT;
use pontoon_store::model::command::{AdmitNode, FEATURE_LEVEL};
use pontoon_store::model::id::RaftId;
use pontoon_store::model::rejection::Reason;
use pontoon_store::{Requests, Store, StoreOptions, Timing};
use tokio::sync::MutexGuard;
use tokio::time::timeout;
use tonic::Code;
use tracing::{info, warn};

use crate::api::error::ApiError;
use crate::daemon::Daemon;
use crate::host;
use crate::identity::{DataDir, DataDirError, Membership};
use crate::journal::Journal;
use crate::kernel::Linux;
use crate::member::{AtWork, Member};
use crate::renewal;
use crate::role;

pub use init::init;
pub use join::join;
pub use leave::leave;
pub(crate) use leave::still_voting;
pub use moving::move_to;
pub use refound::{recover, restore};

/// How long the data folder is waited for: a certificate may just be written into it.
const MOMENT: Duration = Duration::from_secs(1);

/// What a user says of a node when it enters a cluster.
struct Entrant {
    name: String,
    advertise: SocketAddr,
    data_addr: IpAddr,
    voter_only: bool,
    /// Name or id of the node whose place it takes; empty: it is a new one.
    replaces: String,
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
        token: None,
        replaces: entrant.replaces.clone(),
    }
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

/// Goes on as the member that the data folder says this daemon is.
pub async fn resume(daemon: &Arc<Daemon>) -> Result<(), ApiError> {
    let mut data = exclusive(daemon).await?;
    data.finish_recovery()?;
    let Some(membership) = data.membership() else {
        data.remove_store()?;
        if data.unclean() {
            clean_up_later(daemon, &mut data).await?;
        }
        return Ok(());
    };
    resume_as(daemon, &mut data, membership).await
}

async fn resume_as(daemon: &Arc<Daemon>, data: &mut DataDir, membership: Membership) -> Result<(), ApiError> {
    if membership.observer {
        data.remove_log()?;
    }
    let store = open_store(daemon, data, membership).await?;
    enter(daemon, data, store)?;
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
    let membership = data.membership().ok_or_else(|| ApiError::bug("the data folder names no cluster"))?;
    if !membership.observer {
        // Its log is there by now, and nobody has been able to ask it for its vote.
        data.begin()?;
    }
    let journal = Arc::new(Journal::open(&data.journal_path())?);
    let at_work = AtWork { attachments: Arc::default(), journal, reached: data.reached() };
    let member = Member::start(daemon, membership, store, at_work)?;
    daemon.set_member(Some(member.clone()));
    role::follow(daemon, &member);
    renewal::follow(daemon, member.cluster(), member.node());
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
        cluster_key: data.cluster_key().clone(),
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

async fn exclusive(daemon: &Daemon) -> Result<MutexGuard<'_, DataDir>, ApiError> {
    timeout(MOMENT, daemon.data.lock()).await.map_err(|_| {
        let message = "another init, join, leave, restore or recovery is under way on this node, or it is becoming something else";
        ApiError::new(Code::Unavailable, "BUSY", message, "wait for it to end; pontoon status shows what came of it")
    })
}

async fn outside_any_cluster(daemon: &Daemon) -> Result<MutexGuard<'_, DataDir>, ApiError> {
    let data = exclusive(daemon).await?;
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
    let data_addr = if data_addr.is_empty() { advertise.ip() } else { parse_data_address(data_addr)? };
    host::require_local(data_addr)?;
    let name = if name.is_empty() { host::name()? } else { name.to_owned() };
    Ok(Entrant { name, advertise, data_addr, voter_only: false, replaces: String::new() })
}

fn parse_data_address(text: &str) -> Result<IpAddr, ApiError> {
    text.parse().map_err(|_| {
        let hint = "give an address of this host, without port, such as 192.168.140.200";
        ApiError::invalid(Reason::InvalidNodeAddress, format!("{text:?} is not an address"), hint)
    })
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
}
