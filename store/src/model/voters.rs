//! Who votes in Raft. The leader asks for the next step until there is none.

use std::collections::BTreeSet;

use super::id::RaftId;

/// Most nodes that a cluster can have: each is a voter or a learner.
pub const MAX_NODES: usize = 5;

/// What the leader knows of the membership.
#[derive(Debug, Clone, Copy)]
pub struct Members<'a> {
    /// The nodes of the cluster.
    pub nodes: &'a BTreeSet<RaftId>,
    /// Who votes now.
    pub voters: &'a BTreeSet<RaftId>,
    /// Who gets the log and does not vote.
    pub learners: &'a BTreeSet<RaftId>,
    /// Who answers.
    pub alive: &'a BTreeSet<RaftId>,
    /// Who asks.
    pub leader: RaftId,
}

/// One change of the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipStep {
    /// A node gets the log from now on.
    AddLearner(RaftId),
    /// Exactly these vote. Each is a voter or a learner already; a voter that is left out
    /// becomes a learner.
    Promote {
        /// Who votes.
        voters: BTreeSet<RaftId>,
    },
    /// A learner that is no node of the cluster goes.
    Remove(RaftId),
}

/// How many of so many nodes vote: 1 of 1 or 2, 3 of 3 or 4, 5 of 5 or more.
pub fn target(nodes: usize) -> usize {
    match nodes {
        0 => 0,
        1 | 2 => 1,
        3 | 4 => 3,
        _ => 5,
    }
}

/// How many of so many voters must agree.
pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// How many of so many voters may go, beyond those that are down already, while the rest can write.
pub fn tolerated_losses(voters: usize, down: usize) -> usize {
    voters.saturating_sub(down).saturating_sub(quorum(voters))
}

/// The next step towards the membership that the cluster should have; none when it is there.
///
/// Nodes that do not answer are never promoted. Voters stay voters where possible, also when
/// they do not answer: a node that restarts must not change the membership. An even number
/// of voters stands no more losses than one less, so it is never aimed at.
pub fn next_step(members: &Members<'_>) -> Option<MembershipStep> {
    let Members { nodes, voters, learners, alive, .. } = *members;
    if let Some(stranger) = learners.difference(nodes).find(|id| !voters.contains(id)) {
        return Some(MembershipStep::Remove(*stranger));
    }
    let outside = |id: &&RaftId| !voters.contains(id) && !learners.contains(id);
    let alive_first = nodes.intersection(alive).chain(nodes.difference(alive));
    if let Some(new) = alive_first.copied().find(|id| outside(&id)) {
        return Some(MembershipStep::AddLearner(new));
    }
    let wanted = wanted_voters(members);
    (!wanted.is_empty() && wanted != *voters).then_some(MembershipStep::Promote { voters: wanted })
}

fn wanted_voters(members: &Members<'_>) -> BTreeSet<RaftId> {
    let Members { nodes, voters, alive, leader, .. } = *members;
    let target = target(nodes.len());
    // The leader first, then those that answer.
    let mut staying: Vec<RaftId> = voters.intersection(nodes).copied().collect();
    staying.sort_by_key(|id| (*id != leader, !alive.contains(id), *id));
    let fresh: Vec<RaftId> = nodes.difference(voters).filter(|id| alive.contains(id)).copied().collect();
    let possible = target.min(staying.len() + fresh.len());
    let odd = possible - usize::from(possible > 0 && possible.is_multiple_of(2));
    let count = odd.max(staying.len().min(target));
    staying.into_iter().chain(fresh).take(count).collect()
}
