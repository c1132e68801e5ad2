//! What a member tells about itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::{Instant, RaftMetrics};
use prometheus_client::metrics::histogram::Histogram;

use super::{Room, Store};
use crate::model::id::RaftId;
use crate::raft::types::Types;

/// What a member knows of itself and of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// This member.
    pub raft_id: RaftId,
    /// Term.
    pub term: u64,
    /// Who leads, if anybody is known to.
    pub leader: Option<RaftId>,
    /// Whether this member leads.
    pub is_leader: bool,
    /// Last entry of its log.
    pub last_index: u64,
    /// Last entry that it knows to be committed.
    pub committed_index: u64,
    /// Last entry that it has applied.
    pub applied_index: u64,
    /// Hash of the state: the same on every member that has applied the same entries. An observer has none.
    pub state_hash: Option<u128>,
    /// Last entry of its latest snapshot; 0: none.
    pub snapshot_index: u64,
    /// Up to where its log is purged.
    pub purged_index: u64,
    /// Who votes. While the voters change, those who vote before and after,
    /// for none of the others can be relied on yet; if nobody does, those who vote before.
    pub voters: BTreeSet<RaftId>,
    /// Every member, voter or learner.
    pub members: BTreeMap<RaftId, MemberStatus>,
    /// Observers that were heard of: how long ago, in milliseconds, and how far they had followed the log. On members only:
    /// the leader knows of all of them.
    pub observers: BTreeMap<RaftId, (u64, u64)>,
    /// How much room there is on the disk of its folder.
    pub room: Room,
    /// Why it does not apply entries any more.
    pub stopped: Option<String>,
    /// Groups of writes that its log acknowledged since it was opened.
    pub log_groups: u64,
    /// How often its log called `fdatasync`.
    pub log_syncs: u64,
    /// Entries that were written to its log since it was opened.
    pub log_entries: u64,
    /// Voters that were gone and that it has replaced, as the leader, since it was opened.
    pub replaced_voters: u64,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Where it is reached.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
    /// Last entry that it has, as the leader knows; none on other members.
    pub matched_index: Option<u64>,
    /// How long ago the leader heard from it, in milliseconds; none on other members and when it never did.
    pub heard_ms: Option<u64>,
}

impl Store {
    /// How long its log's calls of `fdatasync` take, in seconds; it goes on counting. An observer has no log.
    pub fn log_sync_seconds(&self) -> Option<Histogram> {
        self.consensus().map(|consensus| consensus.wal.sync_seconds())
    }

    /// What this member knows of itself and of the others.
    pub fn status(&self) -> StoreStatus {
        let metrics = self.metrics();
        let (applied_index, state_hash, snapshot) = {
            let view = self.0.shared.view();
            (view.index, view.hash, view.snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id))
        };
        let counts = self.consensus().map(|consensus| consensus.wal.counts()).unwrap_or_default();
        let replaced = self.consensus().map_or(0, |consensus| consensus.replaced.load(Ordering::Relaxed));
        let index = |id: &Option<crate::raft::types::LogId>| id.map_or(0, |id| id.index);
        let voters = lasting_voters(metrics.membership_config.membership().get_joint_config());
        let heard = heard(&metrics);
        let member = |(id, node): (&u64, &crate::raft::types::Peer)| {
            let matched = metrics.replication.as_ref().and_then(|matched| matched.get(id).copied().flatten());
            let status = MemberStatus {
                address: node.address.clone(),
                voter: voters.contains(&RaftId(*id)),
                matched_index: matched.map(|id| id.index),
                heard_ms: heard.get(id).copied().map(millis),
            };
            (RaftId(*id), status)
        };
        StoreStatus {
            raft_id: self.id(),
            term: metrics.current_term,
            leader: metrics.current_leader.map(RaftId),
            is_leader: metrics.current_leader == Some(self.id().0),
            last_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(&metrics.cluster_committed.max(metrics.local_committed)),
            // Together with the hash, which would otherwise be that of another index while entries come in.
            applied_index,
            state_hash: self.consensus().map(|_| state_hash),
            snapshot_index: index(&snapshot),
            purged_index: index(&metrics.purged),
            members: metrics.membership_config.nodes().map(member).collect(),
            observers: self.observers_heard(&metrics),
            voters,
            room: self.room(),
            stopped: self.stopped(),
            log_groups: counts.groups,
            log_syncs: counts.syncs,
            log_entries: counts.entries,
            replaced_voters: replaced,
        }
    }
}

/// Those who vote in every set of a configuration. While two hold, a majority of each is needed, so a voter of only one
/// of them makes up for nobody. If none votes in all of them, those who vote now.
fn lasting_voters(configs: &[BTreeSet<u64>]) -> BTreeSet<RaftId> {
    let (first, rest) = configs.split_first().map_or((None, configs), |(first, rest)| (Some(first), rest));
    let lasting = |id: &&u64| rest.iter().all(|config| config.contains(id));
    let voting = || first.into_iter().flatten();
    let lasts = voting().any(|id| lasting(&id));
    voting().filter(|id| !lasts || lasting(id)).copied().map(RaftId).collect()
}

pub(super) fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

/// How long ago a leader heard from each other member.
pub(super) fn heard(metrics: &RaftMetrics<Types>) -> BTreeMap<u64, Duration> {
    let heartbeats = metrics.heartbeat.iter().flatten();
    heartbeats.filter_map(|(id, last)| Some((*id, last.as_ref()?.elapsed()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three voters were shown while the first of them was still needed for everything.
    #[test]
    fn a_voter_that_is_only_coming_is_not_counted() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        let cases: [(&[BTreeSet<u64>], &[u64]); 5] = [
            (&[], &[]),
            (&[set(&[1, 4, 6])], &[1, 4, 6]),
            (&[set(&[1]), set(&[1, 4, 6])], &[1]),
            (&[set(&[1, 4, 6]), set(&[4])], &[4]),
            (&[set(&[1, 2]), set(&[4])], &[1, 2]),
        ];
        for (configs, expected) in cases {
            let expected: BTreeSet<RaftId> = expected.iter().copied().map(RaftId).collect();
            assert_eq!(lasting_voters(configs), expected, "{configs:?}");
        }
    }
}
