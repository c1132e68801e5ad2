//! Giving leadership to another.

use openraft::async_runtime::watch::WatchReceiver;

use super::{HAND_OVER, Store, status};
use crate::model::id::RaftId;
use crate::rt::{now, timeout};

impl Store {
    /// Hands leadership over, if this member leads and another voter answers: in milliseconds, and within a second at most.
    /// Without that the others notice after an election's timeout. It goes on as a follower.
    pub async fn resign(&self) {
        if timeout(HAND_OVER, self.hand_over(|_| true)).await.is_err() {
            tracing::warn!("leadership was not handed over in time");
        }
    }

    /// Gives leadership to the voter that has most of the log, of those that may have it, if this member leads and there is
    /// one. Ends once another one leads.
    pub(super) async fn hand_over(&self, may: impl Fn(RaftId) -> bool) {
        let Some(consensus) = self.consensus() else { return };
        let mut changes = consensus.raft.metrics();
        // One that has been elected a moment ago has heard of nobody yet.
        while self.leads() && self.has_heard_of_nobody() {
            if changes.changed().await.is_err() {
                return;
            }
        }
        let metrics = self.metrics();
        if metrics.current_leader != Some(self.id().0) {
            return;
        }
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        let heard = status::heard(&metrics);
        let near = |id: &u64| heard.get(id).is_some_and(|age| *age < self.0.options.timing.election_max);
        let matched = metrics.replication.unwrap_or_default();
        let others = voters.into_iter().filter(|id| *id != self.id().0 && may(RaftId(*id))).filter(near);
        let Some(to) = others.max_by_key(|id| matched.get(id).cloned().flatten()) else { return };
        let start = now();
        if consensus.raft.trigger().transfer_leader(to).await.is_err() {
            return;
        }
        let mut watch = consensus.raft.server_metrics();
        while watch.borrow_watched().current_leader.is_none_or(|leader| leader == self.id().0) {
            if watch.changed().await.is_err() {
                return;
            }
        }
        tracing::info!(member = to, took = ?(now() - start), "leadership was handed over");
    }

    /// Whether there are other voters, and none of them has answered yet since it leads.
    fn has_heard_of_nobody(&self) -> bool {
        let metrics = self.metrics();
        let heard = status::heard(&metrics);
        let mut others = metrics.membership_config.voter_ids().filter(|id| *id != self.id().0).peekable();
        others.peek().is_some() && others.all(|id| !heard.contains_key(&id))
    }
}
