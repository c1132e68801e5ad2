//! What a member knows of the voters: for the leader's next step, for whoever asks, and before one of them goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use openraft::RaftMetrics;
use openraft::async_runtime::watch::WatchReceiver;
use thiserror::Error;

use super::{Part, Store};
use crate::model::id::RaftId;
use crate::model::object::{Cluster, NodeState, Voting};
use crate::model::state::State;
use crate::model::voters::{self, Members, Traits};
use crate::raft::types::Types;
use crate::rt::{Instant, now, timeout};

/// A learner that lacks more entries than this does not count as answering: it would not help as a voter.
const NEAR: u64 = 1_000;
/// What one look adds to a silence at most: a leader that was stopped itself has heard of nobody meanwhile.
const ONE_LOOK: Duration = Duration::from_secs(1);

/// How long the others have not answered, as this member has seen it since it leads. It is the sum of the times between
/// its looks, and says nothing of when it did not look.
#[derive(Debug, Default)]
pub(super) struct Silence {
    term: u64,
    looked: Option<Instant>,
    of: BTreeMap<u64, Duration>,
}

impl Silence {
    /// Takes note of how long ago each member was heard from; of those that are missing there, nothing was heard yet.
    fn look(&mut self, now: Instant, term: u64, members: impl Iterator<Item = u64>, heard: &BTreeMap<u64, Duration>) {
        if self.term != term {
            // Another leader has heard of them since.
            *self = Self { term, ..Self::default() };
        }
        let passed = self.looked.map_or(Duration::ZERO, |looked| now - looked);
        self.looked = Some(now);
        let before = std::mem::take(&mut self.of);
        let silent = members.filter(|id| heard.get(id).is_none_or(|age| *age > passed));
        let longer = |id: u64| (id, before.get(&id).copied().unwrap_or_default() + passed.min(ONE_LOOK));
        self.of = silent.map(longer).collect();
    }
}

/// What becomes of a voter that does not answer, or that is to vote no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// The voter.
    pub voter: RaftId,
    /// It answers, and votes although it was demoted.
    pub demoted: bool,
    /// How long it has not answered; none: that is for the leader to know.
    pub silent: Option<Duration>,
    /// Who takes its place, if anybody can.
    pub heir: Option<RaftId>,
}

/// A voter cannot be spared. The message names the voters, and who of them does not answer.
#[derive(Debug, Error)]
pub struct NeededError {
    voters: Vec<String>,
    /// Voters that do not answer.
    pub down: Vec<String>,
}

impl fmt::Display for NeededError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.voters.join(", ");
        match (self.voters.as_slice(), self.down.as_slice()) {
            ([only], _) => write!(f, "{only} is the only voter")?,
            (_, []) => write!(f, "the voters are {names}")?,
            (_, [one]) => write!(f, "of the voters {names}, {one} does not answer")?,
            (_, down) => write!(f, "of the voters {names}, {} do not answer", down.join(", "))?,
        }
        write!(f, ", and no other node can take its place")
    }
}

impl Store {
    /// What the leader knows. Counts how long the others have been silent.
    pub(super) fn known(&self, metrics: &RaftMetrics<Types>) -> Members {
        let heard = self.heard(metrics);
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = |id: u64| metrics.replication.as_ref()?.get(&id)?.map(|id| id.index);
        let near = |id: u64| matched(id).is_some_and(|index| index + NEAR >= last);
        let written = self.as_written(metrics);
        let answers = |id: &u64| {
            let age = heard.get(id);
            age.is_some_and(|age| *age < self.0.options.timing.down_after)
                && (!written.learners.contains(&RaftId(*id)) || near(*id))
        };
        let mut alive: BTreeSet<RaftId> = heard.keys().filter(|id| answers(id)).copied().map(RaftId).collect();
        alive.insert(self.id());
        let Some(mut silence) = self.silence() else { return written };
        let others = metrics.membership_config.nodes().map(|(id, _)| *id).filter(|id| *id != self.id().0);
        silence.look(now(), metrics.current_term, others, &heard);
        let after = self.state().cluster.as_ref().map(|cluster| cluster.replace_after());
        let is_gone = |id: &&RaftId| silence.of.get(&id.0).zip(after).is_some_and(|(silent, after)| *silent >= after);
        let gone = written.voters.iter().filter(is_gone).copied().collect();
        Members { alive, gone, leader: self.id(), ..written }
    }

    /// What every member knows: of who answers, what the leader has written.
    fn as_written(&self, metrics: &RaftMetrics<Types>) -> Members {
        let state = self.state();
        let up = state.nodes.values().filter(|node| node.state != NodeState::Down);
        let voters: BTreeSet<RaftId> = metrics.membership_config.voter_ids().map(RaftId).collect();
        let learners = metrics.membership_config.nodes().map(|(id, _)| RaftId(*id)).filter(|id| !voters.contains(id));
        Members {
            nodes: state.nodes.values().map(|node| (node.raft_id, Traits::of(node))).collect(),
            learners: learners.collect(),
            voters,
            alive: up.map(|node| node.raft_id).collect(),
            gone: BTreeSet::new(),
            leader: metrics.current_leader.map_or(self.id(), RaftId),
            limit: state.cluster.as_ref().and_then(|cluster| cluster.voters),
            observers: state.cluster.as_ref().is_some_and(Cluster::has_observers),
        }
    }

    /// Voters that do not answer, or that are to vote no more, and what becomes of them.
    pub fn outlook(&self) -> Vec<Outlook> {
        let metrics = self.metrics();
        let members = self.as_written(&metrics);
        let silence = self.silence();
        // Only the leader counts.
        let silence = silence
            .filter(|silence| metrics.current_leader == Some(self.id().0) && silence.term == metrics.current_term);
        let nodes = members.voters.iter().filter_map(|id| Some((*id, members.nodes.get(id)?)));
        let outlook = nodes.filter_map(|(voter, traits)| {
            let down = !members.alive.contains(&voter);
            let demoted = !down && traits.voting == Voting::Demoted;
            let silent = silence.as_ref().and_then(|silence| silence.of.get(&voter.0).copied()).filter(|_| down);
            (down || demoted).then(|| Outlook { voter, demoted, silent, heir: voters::heir(&members, voter) })
        });
        outlook.collect()
    }

    /// Whether the cluster can spare a voter that is to be removed or, if it stays a node, demoted. One that does not vote,
    /// or whose cluster has no majority, can go as far as this is concerned.
    ///
    /// # Errors
    ///
    /// It is needed. Returns within a second.
    pub async fn spare(&self, voter: RaftId, stays: bool) -> Result<(), NeededError> {
        let metrics = self.metrics();
        let mut members = self.as_written(&metrics);
        if self.stopped().is_some() || !members.voters.contains(&voter) {
            return Ok(());
        }
        for missing in self.missing().await {
            members.alive.remove(&missing.raft_id);
        }
        let answering = members.voters.intersection(&members.alive).count();
        if answering < voters::quorum(members.voters.len()) || voters::can_spare(&members, voter, stays) {
            return Ok(());
        }
        let state = self.state();
        let names = |ids: &mut dyn Iterator<Item = &RaftId>| ids.map(|id| name(&state, *id)).collect();
        let voters = names(&mut members.voters.iter());
        Err(NeededError { voters, down: names(&mut members.voters.difference(&members.alive)) })
    }

    /// Waits until a member votes or does not, for everybody. Tells whether that is so.
    pub async fn wait_voting(&self, member: RaftId, votes: bool, deadline: Duration) -> bool {
        let is_so = |metrics: &RaftMetrics<Types>| {
            let configs = metrics.membership_config.get_joint_config();
            matches!(configs.as_slice(), [config] if config.contains(&member.0) == votes)
        };
        let changed = async {
            let consensus = match &self.0.part {
                Part::Member(consensus) => consensus,
                Part::Observer(observing) => return observing.is_told(is_so).await,
            };
            let mut watch = consensus.raft.metrics();
            while !is_so(&watch.borrow_watched().clone()) {
                if watch.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        timeout(deadline, changed).await.unwrap_or(false)
    }

    /// What the leader has counted; nothing on an observer.
    fn silence(&self) -> Option<MutexGuard<'_, Silence>> {
        // It is counted anew from whatever it says.
        self.consensus().map(|consensus| consensus.silence.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What people call a member.
pub(super) fn name(state: &State, id: RaftId) -> String {
    state.node_with_raft_id(id).map_or_else(|| format!("member {id}"), |node| node.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_by_looks_and_anew_by_each_leader() {
        let start = now();
        let mut silence = Silence::default();
        let mut look = |at_ms: u64, term: u64, ages: &[(u64, u64)]| {
            let heard = ages.iter().map(|(id, ms)| (*id, Duration::from_millis(*ms))).collect();
            silence.look(start + Duration::from_millis(at_ms), term, [2, 3].into_iter(), &heard);
            let of = |id| silence.of.get(&id).map(Duration::as_millis);
            (of(2), of(3))
        };
        assert_eq!(look(0, 1, &[(2, 0)]), (None, Some(0)), "never heard of");
        assert_eq!(look(250, 1, &[(2, 100)]), (None, Some(250)));
        assert_eq!(look(500, 1, &[(2, 350)]), (Some(250), Some(500)));
        assert_eq!(look(750, 1, &[(2, 600), (3, 10)]), (Some(500), None), "it is back");
        assert_eq!(look(60_000, 1, &[(2, 59_850), (3, 59_260)]), (Some(1500), Some(1000)), "this one was away itself");
        assert_eq!(look(60_250, 2, &[]), (Some(0), Some(0)), "a new leader");
    }

    #[test]
    fn a_voter_that_is_needed_is_explained() {
        let error = |voters: &[&str], down: &[&str]| {
            let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            NeededError { voters: names(voters), down: names(down) }.to_string()
        };
        let cases = [
            (error(&["h1"], &[]), "h1 is the only voter"),
            (error(&["h1", "h2", "h3"], &[]), "the voters are h1, h2, h3"),
            (error(&["h1", "h2", "h3"], &["h3"]), "of the voters h1, h2, h3, h3 does not answer"),
            (error(&["h1", "h2", "h3"], &["h2", "h3"]), "of the voters h1, h2, h3, h2, h3 do not answer"),
        ];
        for (told, expected) in cases {
            assert_eq!(told, format!("{expected}, and no other node can take its place"));
        }
    }
}
