//! Which observers are there. One tells a member so, members tell the leader, and it learns who votes and leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::RaftMetrics;
use pontoon_proto::v1;

use super::status::millis;
use super::{Store, status};
use crate::model::id::RaftId;
use crate::model::voters::quorum;
use crate::raft::channel::PeerClient;
use crate::raft::convert;
use crate::raft::types::{Peer, Types};
use crate::rt::{Instant, now, timeout};

/// How long telling may take.
const TELL: Duration = Duration::from_secs(1);

/// The observers that were heard of, by Raft id.
#[derive(Debug, Default)]
pub(super) struct Attendance(Mutex<BTreeMap<u64, Seen>>);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// How far it had followed the log.
    index: u64,
    /// When it was heard of.
    at: Instant,
    /// How long before it had said so.
    age: Duration,
}

impl Seen {
    fn age(&self) -> Duration {
        now() - self.at + self.age
    }
}

impl Attendance {
    fn note(&self, id: u64, index: u64, age: Duration) {
        let mut seen = self.lock();
        let latest = seen.entry(id).or_insert(Seen { index, at: now(), age });
        if age <= latest.age() {
            *latest = Seen { index, at: now(), age };
        }
    }

    /// Takes those for heard of that have become observers just now, and forgets all but these.
    pub(super) fn expect(&self, observers: &BTreeSet<u64>) {
        let mut seen = self.lock();
        seen.retain(|id, _| observers.contains(id));
        for id in observers {
            seen.entry(*id).or_insert(Seen { index: 0, at: now(), age: Duration::ZERO });
        }
    }

    /// How long ago each was heard of, and how far it was.
    pub(super) fn ages(&self) -> BTreeMap<u64, (Duration, u64)> {
        self.lock().iter().map(|(id, seen)| (*id, (seen.age(), seen.index))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Seen>> {
        // What is in there is put whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// How long ago this member heard from each other node, directly or not.
    pub(super) fn heard(&self, metrics: &RaftMetrics<Types>) -> BTreeMap<u64, Duration> {
        let mut heard = status::heard(metrics);
        for (id, (age, _)) in self.0.attendance.ages() {
            heard.entry(id).and_modify(|known| *known = age.min(*known)).or_insert(age);
        }
        heard
    }

    /// Whether what this member knows is what the cluster knows: a leader was heard of, or it leads and hears from a majority.
    pub fn is_connected(&self) -> bool {
        let metrics = self.metrics();
        let lately = self.0.options.timing.down_after;
        if metrics.current_leader != Some(self.id().0) {
            return !self.0.channels.alone_for(lately);
        }
        let heard = status::heard(&metrics);
        let answers = |id: &u64| *id == self.id().0 || heard.get(id).is_some_and(|age| *age < lately);
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        voters.iter().filter(|id| answers(id)).count() >= quorum(voters.len())
    }

    /// Observers: milliseconds since they were heard of, and how far they had followed the log.
    pub(super) fn observers_heard(&self, metrics: &RaftMetrics<Types>) -> BTreeMap<RaftId, (u64, u64)> {
        let outside = |(id, _): &(u64, _)| metrics.membership_config.get_node(id).is_none();
        let ages = self.0.attendance.ages().into_iter().filter(outside);
        ages.map(|(id, (age, index))| (RaftId(id), (millis(age), index))).collect()
    }

    /// Takes note of observers, and tells who votes and leads.
    pub(crate) fn attend(&self, request: &v1::AttendRequest) -> v1::AttendResponse {
        let known: BTreeSet<u64> = self.state().nodes.values().map(|node| node.raft_id.0).collect();
        for seen in request.observers.iter().filter(|seen| known.contains(&seen.raft_id)) {
            self.0.attendance.note(seen.raft_id, seen.index, Duration::from_millis(seen.age_ms));
        }
        let metrics = self.metrics();
        let committed = metrics.cluster_committed.max(metrics.local_committed);
        // One that is not certain to last could make a node drop its log that is a voter in the end.
        let lasts = *metrics.membership_config.log_id() <= committed;
        let membership = lasts.then(|| convert::membership_out(metrics.membership_config.membership()));
        v1::AttendResponse {
            term: metrics.current_term,
            leader: metrics.current_leader.unwrap_or(0),
            membership,
            membership_log_id: metrics.membership_config.log_id().as_ref().map(convert::log_id_out),
        }
    }

    /// Tells the leader of the observers that were heard of lately.
    pub(super) async fn pass_attendance_on(&self) {
        let metrics = self.metrics();
        let lately = |(_, (age, _)): &(u64, (Duration, u64))| *age < self.0.options.timing.down_after;
        let attendance =
            |(raft_id, (age, index)): (u64, (Duration, u64))| v1::Attendance { raft_id, index, age_ms: millis(age) };
        let observers: Vec<_> = self.0.attendance.ages().into_iter().filter(lately).map(attendance).collect();
        let Some(leader) = metrics.current_leader.filter(|_| !observers.is_empty()) else { return };
        let Some(peer) = metrics.membership_config.get_node(&leader) else { return };
        // It is told again soon.
        let _ = self.tell_attendance(leader, peer, observers).await;
    }

    /// The leader that another member knows, how to ask it, and the membership that it is of.
    pub(super) async fn leader_known_by(&self, member: u64, peer: &Peer) -> Option<(u64, PeerClient, v1::Membership)> {
        let told = self.tell_attendance(member, peer, Vec::new()).await?;
        let membership = told.membership?;
        let leader = convert::peer_in(membership.members.get(&told.leader)?).ok()?;
        Some((told.leader, self.0.channels.peer(told.leader, &leader).ok()?, membership))
    }

    /// Tells a member which observers are there.
    pub(super) async fn tell_attendance(
        &self,
        member: u64,
        peer: &Peer,
        observers: Vec<v1::Attendance>,
    ) -> Option<v1::AttendResponse> {
        let mut client = self.0.channels.peer(member, peer).ok()?;
        let asked = client.attend(self.0.channels.request(member, v1::AttendRequest { observers }));
        let answer = timeout(TELL, asked).await.ok()?;
        self.0.channels.note(&answer);
        answer.ok().map(tonic::Response::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_what_was_heard_counts_and_a_new_observer_has_time_to_come() {
        let attendance = Attendance::default();
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        attendance.note(7, 120, second);
        attendance.note(7, 110, minute);
        attendance.note(8, 90, second);
        attendance.expect(&BTreeSet::from([7, 9]));
        let ages = attendance.ages();
        assert_eq!(ages.keys().copied().collect::<Vec<_>>(), [7, 9], "8 is none any more");
        assert_eq!(ages[&7].1, 120);
        assert!(ages[&7].0 >= second && ages[&7].0 < minute && ages[&9].0 < second, "{ages:?}");
    }
}
