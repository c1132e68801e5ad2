//! What this node is in its cluster: in the Raft membership, or an observer. The leader decides, and the node changes: its
//! store is opened anew, and what works on it begins again, as if the daemon had been started again. The kernel keeps what
//! it has meanwhile.

use std::sync::Arc;
use std::time::Duration;

use pontoon_store::{Role, Store};
use tokio::time::{sleep, timeout};
use tonic::Code;
use tracing::{info, warn};

use crate::api::error::ApiError;
use crate::daemon::Daemon;
use crate::identity::{DataDir, Membership};
use crate::lifecycle;
use crate::member::{Member, WRITE_DEADLINE};

/// How long it waits after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a request that was under way may take: as long as a write.
const LAST_REQUESTS: Duration = WRITE_DEADLINE;
/// How long a new member may take to get as far as the observer was, which goes on meanwhile.
const CATCH_UP: Duration = Duration::from_secs(30);

/// Changes what the node is, each time the leader wants it to.
pub(crate) fn follow(daemon: &Arc<Daemon>, member: &Arc<Member>) {
    let (daemon, member) = (Arc::clone(daemon), Arc::clone(member));
    tokio::spawn(async move {
        let Some(role) = member.unless_stopped(member.store().other_role()).await else { return };
        let task = daemon.tasks.task("role");
        loop {
            task.begin();
            let changed = change(&daemon, &member, role).await;
            let failed = changed.is_err();
            task.end(changed);
            if !failed || daemon.stop.run_until_cancelled(sleep(AGAIN)).await.is_none() {
                return;
            }
        }
    });
}

async fn change(daemon: &Arc<Daemon>, member: &Arc<Member>, role: Role) -> Result<(), ApiError> {
    // Whoever has it may be taking the node out of its cluster.
    let Some(mut data) = daemon.stop.run_until_cancelled(daemon.data.lock()).await else { return Ok(()) };
    let Some(before) = data.membership().filter(|before| before.node == member.node()) else { return Ok(()) };
    let membership = match role {
        Role::Member => Membership { observer: false, ..before },
        Role::Observer { raft_id } => Membership { observer: true, raft_id, ..before },
    };
    let store = open(daemon, &mut data, member, membership).await?;
    member.end_work().await;
    let changed = Member::start(daemon, membership, store, member.at_work())?;
    daemon.set_member(Some(changed.clone()));
    follow(daemon, &changed);
    info!(raft_id = %membership.raft_id, observer = membership.observer, "this node is something else in its cluster now");
    // Requests that are under way may still be answered.
    let _ = timeout(LAST_REQUESTS, daemon.stop.cancelled()).await;
    member.store().clone().shutdown().await;
    let removed = if membership.observer { data.remove_log() } else { data.remove_copy() };
    if let Err(error) = removed {
        warn!(%error, "what this node had before stays until it is started again, or becomes something else");
    }
    Ok(())
}

/// Opens the store of what the node is to be, and waits until it can take over.
async fn open(daemon: &Daemon, data: &mut DataDir, member: &Member, membership: Membership) -> Result<Store, ApiError> {
    let reached = *member.store().applied().borrow();
    if data.membership() != Some(membership) {
        if !membership.observer {
            // What is left of a log has another id, and is not to be taken for its own.
            data.remove_log()?;
        }
        data.become_other(membership, member.store().peers(), reached)?;
    }
    let options = lifecycle::options(daemon, data, membership, member.store().requests());
    if membership.observer {
        // Its log is removed in the end, at the latest when the daemon is started again: it must not vote by it any more. A copy
        // that is not to be used is not gone on with.
        let sound = member.store().status().stopped.is_none();
        let seed = sound.then(|| member.store().state().clone());
        return Ok(Store::observe(options, seed).await?);
    }
    let store = Store::open(options).await?;
    data.begin()?;
    daemon.slot.set(Some(store.clone()));
    if timeout(CATCH_UP, store.applied().wait_for(|applied| *applied >= reached)).await.is_ok() {
        return Ok(store);
    }
    // It goes on as what it is, and tries again.
    daemon.slot.set(Some(member.store().clone()));
    store.shutdown().await;
    let message = format!("the leader has not sent the log up to index {reached} within {CATCH_UP:?}");
    Err(ApiError::new(Code::DeadlineExceeded, "NOT_CAUGHT_UP", message, "it is tried again"))
}
