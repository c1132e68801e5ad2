//! Who votes in Raft. The leader asks for the next step until there is none.
//!
//! Voters are not exchanged for the sake of it: where they are (a label, [`ZONE`]) counts when one has to be chosen
//! anyway, and a voter that does not answer stays one until it has been gone for longer than a setting.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::id::RaftId;
use super::object::{Node, NodeState, Voting};

/// Most nodes that a cluster can have.
pub const MAX_NODES: usize = 1_000;
/// Most nodes in the Raft membership: the voters, and two learners that can take their places at once.
pub const MAX_MEMBERS: usize = 7;
/// Most nodes that vote.
pub const MAX_VOTERS: usize = 5;
/// The label that tells which nodes are lost together.
pub const ZONE: &str = "zone";

/// How many nodes a cluster of a feature level can have: an entry means the same to all of them, whatever their version.
pub fn most_nodes(feature_level: u32) -> usize {
    match feature_level {
        0..=2 => 5,
        3 => 7,
        _ => MAX_NODES,
    }
}

/// What counts when voters are chosen among the nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traits {
    /// Whether it is to vote.
    pub voting: Voting,
    /// It does nothing else.
    pub voter_only: bool,
    /// What its label [`ZONE`] says.
    pub zone: Option<String>,
    /// The cluster has not heard from it.
    pub down: bool,
}

impl Traits {
    /// Those of a node.
    pub fn of(node: &Node) -> Self {
        Self {
            voting: node.voting,
            voter_only: node.voter_only,
            zone: node.labels.get(ZONE).cloned(),
            down: node.state == NodeState::Down,
        }
    }

    /// The greater, the rather it votes.
    fn rank(&self) -> u8 {
        match (self.voting, self.voter_only) {
            (Voting::Demoted, _) => 0,
            (Voting::Auto, false) => 1,
            (Voting::Auto, true) => 2,
            (Voting::Promoted, _) => 3,
        }
    }
}

/// What the leader knows of the membership.
#[derive(Debug, Clone)]
pub struct Members {
    /// The nodes of the cluster.
    pub nodes: BTreeMap<RaftId, Traits>,
    /// Who votes now.
    pub voters: BTreeSet<RaftId>,
    /// Who gets the log and does not vote.
    pub learners: BTreeSet<RaftId>,
    /// Who answers; a learner, only if it is near the end of the log.
    pub alive: BTreeSet<RaftId>,
    /// Voters that have not answered for so long that others are to take their places.
    pub gone: BTreeSet<RaftId>,
    /// Who asks.
    pub leader: RaftId,
    /// How many vote at most; none: by the number of nodes.
    pub limit: Option<u8>,
    /// Whether there may be nodes outside the membership: every node knows how to be one.
    pub observers: bool,
}

/// One change of the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipStep {
    /// A node gets the log from now on.
    AddLearner(RaftId),
    /// One of these, which are voters that answer, leads from now on: the leader is to vote no more.
    HandOver {
        /// Who may lead.
        heirs: BTreeSet<RaftId>,
    },
    /// Exactly these vote. Each is a voter or a learner already; a voter that is left out
    /// becomes a learner.
    Promote {
        /// Who votes.
        voters: BTreeSet<RaftId>,
    },
    /// A learner is to be an observer.
    Retire(RaftId),
    /// A learner that is no node of the cluster, or not under this id any more, goes.
    Remove(RaftId),
}

/// How many of so many nodes vote: 1 of 1 or 2, 3 of 3 or 4, 5 of 5 or more; no more than the limit.
pub fn seats(limit: Option<u8>, nodes: usize) -> usize {
    let by_number = match nodes {
        0 => 0,
        1 | 2 => 1,
        3 | 4 => 3,
        _ => MAX_VOTERS,
    };
    by_number.min(limit.map_or(MAX_VOTERS, usize::from))
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
/// of voters stands no more losses than one less, so it is never aimed at. There are fewer voters only once there are
/// fewer nodes, or the setting says so.
pub fn next_step(members: &Members) -> Option<MembershipStep> {
    let Members { nodes, voters, learners, alive, leader, .. } = members;
    if let Some(stranger) = learners.iter().find(|id| !nodes.contains_key(id) && !voters.contains(id)) {
        return Some(MembershipStep::Remove(*stranger));
    }
    let standby = standby(members);
    if let Some(surplus) = learners.iter().find(|id| !standby.contains(id) && !voters.contains(id)) {
        return Some(MembershipStep::Retire(*surplus));
    }
    let outside = || standby.iter().filter(|id| !learners.contains(id));
    if let Some(new) = outside().find(|id| alive.contains(id)).or_else(|| outside().next()) {
        return Some(MembershipStep::AddLearner(*new));
    }
    let wanted = wanted_voters(members);
    if wanted.is_empty() || wanted == *voters {
        return None;
    }
    let heirs: BTreeSet<RaftId> =
        wanted.iter().filter(|id| voters.contains(id) && alive.contains(id)).copied().collect();
    if !wanted.contains(leader) && !heirs.is_empty() {
        return Some(MembershipStep::HandOver { heirs });
    }
    Some(MembershipStep::Promote { voters: wanted })
}

/// Who is to have the log without a vote, so that it can take a voter's place at once: every other node as long as there are
/// few, and of many some that answer and, of these, rather those that have it already.
fn standby(members: &Members) -> BTreeSet<RaftId> {
    let Members { nodes, voters, learners, observers, .. } = members;
    let others: Vec<RaftId> = nodes.keys().filter(|id| !voters.contains(id)).copied().collect();
    if !observers {
        return others.into_iter().collect();
    }
    let able: Vec<RaftId> = others.into_iter().filter(|id| rank(members, *id) > 0).collect();
    let is = |id: RaftId, trait_of: fn(&Traits) -> bool| nodes.get(&id).is_some_and(trait_of);
    let worse = |id: RaftId| {
        let promoted = is(id, |traits| traits.voting == Voting::Promoted);
        (is(id, |traits| traits.down), !promoted, !learners.contains(&id), Reverse(rank(members, id)))
    };
    let chosen = spread(members, voters.clone(), &able, MAX_MEMBERS.max(voters.len()), worse);
    chosen.difference(voters).copied().collect()
}

/// Who takes a voter's place if it stays away: the first that would; none when nobody can.
pub fn heir(members: &Members, voter: RaftId) -> Option<RaftId> {
    let gone = Members { gone: BTreeSet::from([voter]), ..members.clone() };
    wanted_voters(&gone).difference(&members.voters).next().copied()
}

/// Whether the others go on without a voter that is removed or, if it stays a node, demoted: a majority of those that would
/// vote then answers, and they are as many as there should be, or stand a loss.
pub fn can_spare(members: &Members, voter: RaftId, stays: bool) -> bool {
    // The removal of one that does not answer takes nothing from the others.
    if !members.voters.contains(&voter) || !stays && !members.alive.contains(&voter) {
        return true;
    }
    let mut without = members.clone();
    without.leader =
        members.voters.iter().find(|id| **id != voter && members.alive.contains(id)).copied().unwrap_or(voter);
    if !stays {
        without.nodes.remove(&voter);
    } else if let Some(traits) = without.nodes.get_mut(&voter) {
        traits.voting = Voting::Demoted;
    }
    let wanted = choose(&without, |traits| traits.voting != Voting::Demoted);
    is_enough(&without, &wanted)
}

/// Whether these are enough to vote: a majority of them answers, and they are as many as of so many nodes should vote,
/// or stand one more loss.
fn is_enough(members: &Members, wanted: &BTreeSet<RaftId>) -> bool {
    let down = wanted.difference(&members.alive).count();
    let full = wanted.len() >= seats(members.limit, members.nodes.len());
    stands(members, wanted) && (full || tolerated_losses(wanted.len(), down) > 0)
}

/// Whether a majority of these answers.
fn stands(members: &Members, voters: &BTreeSet<RaftId>) -> bool {
    voters.intersection(&members.alive).count() >= quorum(voters.len())
}

fn wanted_voters(members: &Members) -> BTreeSet<RaftId> {
    let without_demoted = choose(members, |traits| traits.voting != Voting::Demoted);
    if is_enough(members, &without_demoted) {
        return without_demoted;
    }
    // Until others can take their places, those that were demoted go on.
    let wanted = choose(members, |_| true);
    if stands(members, &wanted) {
        return wanted;
    }
    if members.voters.iter().all(|id| members.nodes.contains_key(id)) {
        return members.voters.clone();
    }
    // A voter was removed although the rest could not go on as they are: those that answer do.
    let mut alive: Vec<RaftId> = wanted.intersection(&members.alive).copied().collect();
    alive.sort_by_key(|id| (*id != members.leader, *id));
    let odd = alive.len() - usize::from(alive.len().is_multiple_of(2) && !alive.is_empty());
    alive.into_iter().take(odd).collect()
}

/// The voters that there should be next, of the nodes that may.
fn choose(members: &Members, may_vote: impl Fn(&Traits) -> bool) -> BTreeSet<RaftId> {
    let Members { nodes, voters, alive, gone, leader, limit, .. } = members;
    let able: BTreeSet<RaftId> = nodes.iter().filter(|(_, traits)| may_vote(traits)).map(|(id, _)| *id).collect();
    let staying: Vec<RaftId> = voters.intersection(&able).copied().collect();
    let may_come = |id: &&RaftId| rank(members, **id) > 0 && alive.contains(id) && members.learners.contains(id);
    let fresh: Vec<RaftId> = able.difference(voters).filter(may_come).copied().collect();

    let seats = seats(*limit, able.len());
    let possible = seats.min(staying.len() + fresh.len());
    let odd = possible - usize::from(possible > 0 && possible.is_multiple_of(2));
    let count = odd.max(staying.len().min(seats));
    let worse = |id: RaftId| (gone.contains(&id), !alive.contains(&id), Reverse(rank(members, id)), id != *leader);
    let kept = spread(members, BTreeSet::new(), &staying, count, worse);
    let filled = spread(members, kept, &fresh, count, |id| Reverse(rank(members, id)));
    if filled != *voters || !stands(members, voters) {
        return filled;
    }
    exchange(members, &fresh).unwrap_or(filled)
}

/// Adds the best of some nodes until there are so many; of equals, those of a zone that has fewest.
fn spread<K: Ord>(
    members: &Members,
    mut chosen: BTreeSet<RaftId>,
    from: &[RaftId],
    count: usize,
    worse: impl Fn(RaftId) -> K,
) -> BTreeSet<RaftId> {
    while chosen.len() < count {
        let left = from.iter().copied().filter(|id| !chosen.contains(id));
        let Some(best) = left.min_by_key(|id| (worse(*id), crowd(members, &chosen, *id), *id)) else { break };
        chosen.insert(best);
    }
    chosen
}

/// The voters with one exchanged: one that is gone for another, or one for another that is to vote rather.
fn exchange(members: &Members, fresh: &[RaftId]) -> Option<BTreeSet<RaftId>> {
    let Members { voters, alive, gone, leader, .. } = members;
    let without = |id: RaftId| voters.iter().copied().filter(|voter| *voter != id).collect::<BTreeSet<_>>();
    let out = voters.iter().copied().find(|id| gone.contains(id) && !alive.contains(id));
    let out = out.or_else(|| {
        let best = fresh.iter().map(|id| rank(members, *id)).max()?;
        let lesser = voters.iter().copied().filter(|id| rank(members, *id) < best);
        lesser.min_by_key(|id| {
            let crowd = crowd(members, &without(*id), *id);
            (alive.contains(id), rank(members, *id), id == leader, Reverse(crowd), *id)
        })
    })?;
    let exchanged = spread(members, without(out), fresh, voters.len(), |id| Reverse(rank(members, id)));
    (exchanged.len() == voters.len()).then_some(exchanged)
}

fn rank(members: &Members, id: RaftId) -> u8 {
    members.nodes.get(&id).map_or(0, Traits::rank)
}

/// How many of these are in a node's zone. Nodes without a label are in one together.
fn crowd(members: &Members, chosen: &BTreeSet<RaftId>, id: RaftId) -> usize {
    let zone = |id: &RaftId| members.nodes.get(id).and_then(|traits| traits.zone.as_ref());
    chosen.iter().filter(|other| zone(other) == zone(&id)).count()
}
