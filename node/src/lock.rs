//! Keeping the key that the authority's is encrypted with off the disks: whoever has a disk then cannot issue certificates.

use pontoon_proto::v1;
use pontoon_store::model::command::{Command, ConfigureCluster, Outcome};
use pontoon_store::model::state::State;
use pontoon_store::{CertifyError, ClusterKey, error_chain};
use tonic::Code;
use tracing::info;
use zeroize::Zeroizing;

use crate::api::error::ApiError;
use crate::api::unexpected;
use crate::daemon::Daemon;
use crate::identity::DataDirError;
use crate::member::Member;

/// Exchanges the authority for one whose key is encrypted with a key that is on no disk: what the disks have of the one before is
/// worth nothing then. An empty key takes that back.
pub(crate) async fn lock(daemon: &Daemon, key: Zeroizing<Vec<u8>>) -> Result<v1::LockResponse, ApiError> {
    let member = daemon.member()?;
    let command = if key.is_empty() {
        if member.store().is_locked(&member.store().state()) {
            return Err(no_key(&CertifyError::NoKey));
        }
        Command::ConfigureCluster(ConfigureCluster { lock_off: true, ..ConfigureCluster::default() })
    } else {
        let key = cluster_key(&key)?;
        let next = member.store().next_authority(Some(&key)).map_err(|error| no_key(&error))?;
        // Until it is written the one before is needed; from then on nobody else has the new one, and it must not be forgotten.
        let data = daemon.data.lock().await;
        let written = member.propose(Command::RotateAuthority(next)).await;
        if member.store().opens(&key) {
            data.cluster_key().set(Some(key));
        }
        return Ok(v1::LockResponse { cluster: Some(settings(written?)?) });
    };
    Ok(v1::LockResponse { cluster: Some(settings(member.propose(command).await?)?) })
}

fn settings(outcome: Outcome) -> Result<v1::Cluster, ApiError> {
    match outcome {
        Outcome::Cluster(cluster) => Ok((&cluster).into()),
        other => Err(unexpected(&other)),
    }
}

/// Tells this daemon the key.
pub(crate) async fn unlock(daemon: &Daemon, key: Zeroizing<Vec<u8>>) -> Result<(), ApiError> {
    let member = daemon.member()?;
    if member.store().observes() {
        return Err(no_key(&CertifyError::Observer));
    }
    let key = cluster_key(&key)?;
    member.refresh().await.or_else(|error| if error.reason == "NO_QUORUM" { Ok(()) } else { Err(error) })?;
    if !member.store().opens(&key) {
        let message = "the key of the cluster's authority is not encrypted with this key";
        let hint = "use the one that pontoon cluster lock has printed when the cluster was locked last";
        return Err(ApiError::new(Code::PermissionDenied, "WRONG_KEY", message, hint));
    }
    let data = daemon.data.lock().await;
    data.cluster_key().set(Some(key));
    if is_locked(&member) == Some(false) {
        data.keep_cluster_key(true)?;
    }
    info!("this daemon was told the key that the authority's is encrypted with");
    Ok(())
}

/// Has the key on the disk, or on none, as the cluster is to have it. One that was exchanged is forgotten.
pub(crate) async fn keep(daemon: &Daemon, member: &Member, locked: bool) -> Result<(), DataDirError> {
    let data = daemon.data.lock().await;
    let Some(known) = data.membership().filter(|known| known.cluster == member.cluster()) else { return Ok(()) };
    // An observer has nothing that it could try the key on.
    let is_good = |key: &ClusterKey| if known.observer { !locked } else { member.store().opens(key) };
    let held = data.cluster_key();
    if held.get().is_some_and(|key| !is_good(&key)) {
        held.set(None);
    }
    data.keep_cluster_key(!locked)
}

/// Whether the key is to be on no disk; none: that has not come here yet, and the key that a newcomer was given opens nothing
/// that is here.
pub(crate) fn is_locked(member: &Member) -> Option<bool> {
    let state = member.store().state();
    let known = member.store().is_known_in(&state).then_some(state.cluster.as_ref()).flatten();
    known.map(|cluster| cluster.locked)
}

/// What somebody should know of a daemon that was not told the key.
pub(crate) fn warning(member: &Member, state: &State) -> Option<String> {
    member.store().is_locked(state).then(|| {
        "this cluster is locked, and this daemon was not told the key since it was started: it issues no certificates \
         (pontoon cluster unlock)"
            .to_owned()
    })
}

fn cluster_key(bytes: &[u8]) -> Result<ClusterKey, ApiError> {
    let wrong = |_| {
        let message = format!("a key has 32 bytes, and this has {}", bytes.len());
        ApiError::new(Code::InvalidArgument, "WRONG_KEY", message, "use what pontoon cluster lock has printed")
    };
    bytes.try_into().map(ClusterKey::new).map_err(wrong)
}

/// Why somebody else has to be asked.
pub(crate) fn no_key(error: &CertifyError) -> ApiError {
    let message = format!("this node has no say about certificates: {}", error_chain(error));
    ApiError::new(Code::FailedPrecondition, "NO_AUTHORITY_KEY", message, "ask a node that is a voter or a learner")
}
