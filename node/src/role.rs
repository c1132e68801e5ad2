//! What this node is in its cluster: in the Raft membership, or an observer. The leader decides, and the node changes: its
//! store is opened anew, and what works on it begins again, as if the daemon had been started again. The kernel keeps what
//! it has meanwhile.

use std::sync::Arc;
use std::time::Duration;

use pontoon_store::{Role, Store};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::api::error::ApiError;
use crate::daemon::Daemon;
use crate::identity::{DataDir, Membership};
use crate::lifecycle;
use crate::member::Member;

/// How long it waits after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a new member may take to get as far as the observer was: it works with what that knew meanwhile.
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
            if !failed || member.unless_stopped(sleep(AGAIN)).await.is_none() {
                return;
            }
        }
    });
}

async fn change(daemon: &Arc<Daemon>, member: &Arc<Member>, role: Role) -> Result<(), ApiError> {
    // Whoever has it may be taking the node out of its cluster.
    let Some(mut data) = member.unless_stopped(daemon.data.lock()).await else { return Ok(()) };
    let Some(membership) = data.membership() else { return Ok(()) };
    let (membership, store) = match role {
        Role::Member => become_member(daemon, &mut data, member, membership).await?,
        Role::Observer { raft_id } => {
            let membership = Membership { raft_id, observer: true, ..membership };
            let store = become_observer(daemon, &mut data, member, membership).await?;
            (membership, store)
        }
    };
    let changed = Member::start(daemon, membership, store, member.at_work())?;
    daemon.set_member(Some(changed.clone()));
    follow(daemon, &changed);
    info!(raft_id = %membership.raft_id, observer = membership.observer, "this node is something else in its cluster now");
    Ok(())
}

/// Opens a log, gets it from the leader, and ends the observer.
async fn become_member(
    daemon: &Daemon,
    data: &mut DataDir,
    member: &Member,
    membership: Membership,
) -> Result<(Membership, Store), ApiError> {
    let membership = Membership { observer: false, ..membership };
    if data.membership() != Some(membership) {
        let members = data.members().clone();
        data.enter(membership, members)?;
    }
    let store = lifecycle::open_store(daemon, data, membership).await?;
    data.begin()?;
    daemon.slot.set(Some(store.clone()));
    let known = *member.store().applied().borrow();
    if timeout(CATCH_UP, store.applied().wait_for(|applied| *applied >= known)).await.is_err() {
        warn!("the leader sends the log slowly: this node goes on with an older state");
    }
    member.stop().await;
    data.remove_copy()?;
    Ok((membership, store))
}

/// Ends the member, and removes its log for good: under its old id this node must not vote again.
async fn become_observer(
    daemon: &Daemon,
    data: &mut DataDir,
    member: &Member,
    membership: Membership,
) -> Result<Store, ApiError> {
    let (members, seed) = (member.store().peers(), member.store().state().clone());
    data.enter(membership, members)?;
    member.stop().await;
    data.remove_log()?;
    Ok(Store::observe(lifecycle::options(daemon, data, membership), Some(seed)).await?)
}
