use std::collections::BTreeSet;

use crate::model::id::RaftId;
use crate::model::object::Voting;
use crate::model::voters::MembershipStep::{AddLearner, HandOver, Promote, Remove, Retire};
use crate::model::voters::{
    MAX_NODES, Members, MembershipStep, Traits, can_spare, heir, most_nodes, next_step, quorum, seats, tolerated_losses,
};

fn ids(numbers: &[u64]) -> BTreeSet<RaftId> {
    numbers.iter().copied().map(RaftId).collect()
}

fn promote(voters: &[u64]) -> Option<MembershipStep> {
    Some(Promote { voters: ids(voters) })
}

fn hand_over(heirs: &[u64]) -> Option<MembershipStep> {
    Some(HandOver { heirs: ids(heirs) })
}

/// Nodes, voters, learners and those that answer; nobody is gone, and all nodes are alike.
fn members([nodes, voters, learners, alive]: [&[u64]; 4], leader: u64) -> Members {
    Members {
        nodes: nodes.iter().map(|id| (RaftId(*id), Traits::default())).collect(),
        voters: ids(voters),
        learners: ids(learners),
        alive: ids(alive),
        gone: BTreeSet::new(),
        leader: RaftId(leader),
        limit: None,
        observers: false,
    }
}

impl Members {
    fn gone(self, gone: &[u64]) -> Self {
        Self { gone: ids(gone), ..self }
    }

    fn observers(self) -> Self {
        Self { observers: true, ..self }
    }

    fn limit(self, limit: u8) -> Self {
        Self { limit: Some(limit), ..self }
    }

    fn with(mut self, ids: &[u64], change: impl Fn(&mut Traits)) -> Self {
        for id in ids {
            change(self.nodes.get_mut(&RaftId(*id)).expect("a node"));
        }
        self
    }

    fn voting(self, ids: &[u64], voting: Voting) -> Self {
        self.with(ids, |traits| traits.voting = voting)
    }

    fn zone(self, zone: &str, ids: &[u64]) -> Self {
        self.with(ids, |traits| traits.zone = Some(zone.to_owned()))
    }

    /// What the step makes of them. The heir is the first that may be.
    fn after(mut self, step: &MembershipStep) -> Self {
        match step {
            AddLearner(id) => drop(self.learners.insert(*id)),
            Remove(id) => drop(self.learners.remove(id)),
            Retire(id) => {
                let traits = self.nodes.remove(id).expect("a node");
                self.nodes.insert(RaftId(id.0 + 100), traits);
                if self.alive.contains(id) {
                    self.alive.insert(RaftId(id.0 + 100));
                }
            }
            HandOver { heirs } => self.leader = *heirs.first().expect("an heir"),
            Promote { voters } => {
                self.learners.extend(self.voters.difference(voters));
                self.learners.retain(|id| !voters.contains(id));
                self.voters.clone_from(voters);
                if !voters.contains(&self.leader) {
                    // Who votes and answers is elected.
                    self.leader = *voters.intersection(&self.alive).next().expect("one that can lead");
                }
                self.gone.retain(|id| voters.contains(id));
            }
        }
        self
    }
}

#[test]
fn each_step_is_the_right_one() {
    type Case = (&'static str, [&'static [u64]; 4], u64, Option<MembershipStep>);
    // nodes, voters, learners, alive; leader
    let cases: [Case; 21] = [
        ("alone", [&[1], &[1], &[], &[1]], 1, None),
        ("a second node learns", [&[1, 2], &[1], &[], &[1]], 1, Some(AddLearner(RaftId(2)))),
        ("two nodes, one votes", [&[1, 2], &[1], &[2], &[1, 2]], 1, None),
        ("those alive learn first", [&[1, 2, 3], &[1], &[], &[1, 3]], 1, Some(AddLearner(RaftId(3)))),
        ("from one to three at once", [&[1, 2, 3], &[1], &[2, 3], &[1, 2, 3]], 1, promote(&[1, 2, 3])),
        ("never two", [&[1, 2, 3], &[1], &[2, 3], &[1, 3]], 1, None),
        ("the fourth learns", [&[1, 2, 3, 4], &[1, 2, 3], &[4], &[1, 2, 3, 4]], 1, None),
        ("five", [&[1, 2, 3, 4, 5], &[1, 2, 3], &[4, 5], &[1, 2, 3, 4, 5]], 1, promote(&[1, 2, 3, 4, 5])),
        ("five of which one is dead", [&[1, 2, 3, 4, 5], &[1, 2, 3], &[4, 5], &[1, 2, 3, 4]], 1, None),
        (
            "three of five while two are dead",
            [&[1, 2, 3, 4, 5], &[1], &[2, 3, 4, 5], &[1, 4, 5]],
            1,
            promote(&[1, 4, 5]),
        ),
        ("a dead voter stays", [&[1, 2, 3, 4], &[1, 2, 3], &[4], &[1, 2, 4]], 1, None),
        ("a removed voter is replaced", [&[1, 2, 4, 5], &[1, 2, 3], &[4, 5], &[1, 2, 5]], 1, promote(&[1, 2, 5])),
        ("a removed voter without heir", [&[1, 2, 4], &[1, 2, 3], &[4], &[1, 2]], 1, promote(&[1, 2])),
        ("three to two keeps the leader", [&[1, 3], &[1, 2, 3], &[], &[1, 3]], 3, promote(&[3])),
        ("then the removed one goes", [&[1, 3], &[3], &[1, 2], &[1, 3]], 3, Some(Remove(RaftId(2)))),
        ("five to four drops a dead one", [&[1, 2, 3, 4], &[1, 2, 3, 4, 5], &[], &[2, 3, 4]], 4, promote(&[2, 3, 4])),
        (
            "a leader that was removed hands over first",
            [&[2, 3, 4], &[1, 2, 3], &[4], &[1, 2, 3, 4]],
            1,
            hand_over(&[2, 3]),
        ),
        ("a leader that was removed", [&[2], &[1], &[2], &[1, 2]], 1, promote(&[2])),
        ("a leader that was removed, heir dead", [&[2], &[1], &[2], &[1]], 1, None),
        ("a stranger goes first", [&[1, 2], &[1], &[9], &[1, 2]], 1, Some(Remove(RaftId(9)))),
        ("no nodes at all", [&[], &[1], &[], &[1]], 1, None),
    ];
    for (what, sets, leader, expected) in cases {
        assert_eq!(next_step(&members(sets, leader)), expected, "{what}");
    }
}

const FIVE: &[u64] = &[1, 2, 3, 4, 5];
const SEVEN: &[u64] = &[1, 2, 3, 4, 5, 6, 7];

/// Five voters and two learners, of which these answer.
fn seven(alive: &[u64]) -> Members {
    members([SEVEN, FIVE, &[6, 7], alive], 1)
}

/// Three voters and learners, all of which answer.
fn three_of(nodes: &[u64]) -> Members {
    members([nodes, &[1, 2, 3], &nodes[3..], nodes], 1)
}

#[test]
fn voters_that_are_gone_are_replaced_one_by_one() {
    let cases = [
        ("one that is only down stays", seven(&[1, 2, 3, 6, 7]), None),
        ("the first of two", seven(&[1, 2, 3, 6, 7]).gone(&[4, 5]), promote(&[1, 2, 3, 5, 6])),
        ("the one that is gone longer", seven(&[1, 2, 3, 6, 7]).gone(&[5]), promote(&[1, 2, 3, 4, 6])),
        ("by one that answers", seven(&[1, 2, 3, 4, 7]).gone(&[5]), promote(&[1, 2, 3, 4, 7])),
        ("not without one", seven(&[1, 2, 3, 4]).gone(&[5]), None),
        ("not without a majority", seven(&[1, 2, 6, 7]).gone(&[3, 4, 5]), None),
        ("not one that answers again", seven(SEVEN).gone(&[4, 5]), None),
        ("not by one that was demoted", seven(&[1, 2, 3, 4, 6]).gone(&[5]).voting(&[6], Voting::Demoted), None),
        (
            "rather by one that was promoted",
            seven(&[1, 2, 3, 4, 6, 7]).gone(&[5]).voting(&[7], Voting::Promoted),
            promote(&[1, 2, 3, 4, 7]),
        ),
        (
            "a new node learns first",
            members([&[1, 2, 3, 4], &[1, 2, 3], &[], &[1, 2]], 1).gone(&[3]),
            Some(AddLearner(RaftId(4))),
        ),
    ];
    for (what, members, expected) in cases {
        assert_eq!(next_step(&members), expected, "{what}");
    }
    let down = seven(&[1, 2, 3, 4, 7]);
    assert_eq!(heir(&down, RaftId(5)), Some(RaftId(7)));
    assert_eq!(heir(&seven(&[1, 2, 3, 4]), RaftId(5)), None);
}

#[test]
fn voters_are_spread_when_one_is_chosen_and_only_then() {
    let zones = |members: Members| members.zone("a", &[1, 2]).zone("b", &[3, 4]).zone("c", &[5]);
    let cases = [
        ("from one to three", members([FIVE, &[1], &[2, 3, 4, 5], FIVE], 1).limit(3), promote(&[1, 3, 5])),
        ("no change for the spread alone", members([FIVE, &[1, 2, 3], &[4, 5], FIVE], 1).limit(3), None),
        ("from five to three", members([FIVE, FIVE, &[], FIVE], 1).limit(3), promote(&[1, 3, 5])),
        (
            "from five to three while one is dead",
            members([FIVE, FIVE, &[], &[1, 2, 3, 4]], 1).limit(3),
            promote(&[1, 2, 3]),
        ),
        (
            "another zone takes the place",
            members([FIVE, &[1, 3, 4], &[2, 5], &[1, 2, 3, 5]], 1).limit(3).gone(&[4]),
            promote(&[1, 3, 5]),
        ),
    ];
    for (what, members, expected) in cases {
        assert_eq!(next_step(&zones(members)), expected, "{what}");
    }
    // Those without a label are in one zone together.
    let some = members([FIVE, &[1], &[2, 3, 4, 5], FIVE], 1).limit(3).zone("a", &[4]).zone("b", &[5]);
    assert_eq!(next_step(&some), promote(&[1, 4, 5]));
}

#[test]
fn who_is_to_vote_does() {
    let four = || three_of(&[1, 2, 3, 4]);
    let only = |traits: &mut Traits| traits.voter_only = true;
    let cases = [
        ("a promoted one takes a place", four().voting(&[4], Voting::Promoted), promote(&[1, 3, 4])),
        ("not the leader's", four().voting(&[3, 4], Voting::Promoted), promote(&[1, 3, 4])),
        ("nor a promoted one's", four().voting(&[1, 2, 3, 4], Voting::Promoted), None),
        (
            "rather that of one that is down",
            {
                let down = members([&[1, 2, 3, 4], &[1, 2, 3], &[4], &[1, 2, 4]], 1);
                down.voting(&[4], Voting::Promoted)
            },
            promote(&[1, 2, 4]),
        ),
        ("one that only votes too", four().with(&[4], only), promote(&[1, 3, 4])),
        ("unless it was demoted", four().with(&[4], only).voting(&[4], Voting::Demoted), None),
        ("a demoted one is replaced", four().voting(&[2], Voting::Demoted), promote(&[1, 3, 4])),
        ("a demoted leader hands over", four().voting(&[1], Voting::Demoted), hand_over(&[2, 3])),
        ("a demoted one goes on alone", three_of(&[1, 2, 3]).voting(&[2], Voting::Demoted), None),
        (
            "three go on without two",
            { members([FIVE, FIVE, &[], FIVE], 1).voting(&[3], Voting::Demoted) },
            promote(&[1, 2, 4]),
        ),
        (
            "one of two for the other",
            { members([&[1, 2], &[1], &[2], &[1, 2]], 1).voting(&[2], Voting::Promoted) },
            promote(&[2]),
        ),
        ("two of three are demoted", four().voting(&[2, 3], Voting::Demoted), promote(&[1, 3, 4])),
        ("a single voter is wanted", three_of(&[1, 2, 3]).limit(1), promote(&[1])),
        ("five are wanted of four", three_of(&[1, 2, 3, 4]).limit(5), None),
    ];
    for (what, members, expected) in cases {
        assert_eq!(next_step(&members), expected, "{what}");
    }
}

#[test]
fn a_voter_is_spared_if_the_rest_go_on() {
    // Nodes, voters, who answers; limit; who goes; whether it can: removed, demoted.
    type Case = (&'static [u64], &'static [u64], &'static [u64], Option<u8>, u64, [bool; 2]);
    let cases: [Case; 13] = [
        (&[1], &[1], &[1], None, 1, [false, false]),
        (&[1, 2], &[1], &[1, 2], None, 1, [true, true]),
        (&[1, 2], &[1], &[1], None, 1, [false, false]),
        (&[1, 2, 3], &[1, 2, 3], &[1, 2, 3], None, 2, [true, false]),
        (&[1, 2, 3], &[1, 2, 3], &[1, 2, 3], Some(1), 2, [true, true]),
        (&[1, 2, 3], &[1, 2, 3], &[1, 2], None, 2, [true, false]),
        (&[1, 2, 3, 4], &[1, 2, 3], &[1, 2, 3, 4], None, 2, [true, true]),
        (&[1, 2, 3, 4], &[1, 2, 3], &[1, 2, 4], None, 2, [true, true]),
        (&[1, 2, 3, 4], &[1, 2, 3], &[1, 2], None, 2, [false, false]),
        (&[1, 2, 3, 4], &[1, 2, 3], &[1, 2, 3], None, 2, [false, false]),
        (&[1, 2, 3, 4], &[1, 2, 3], &[1, 2], None, 3, [true, false]),
        (FIVE, FIVE, FIVE, None, 2, [true, true]),
        (SEVEN, FIVE, &[1, 2, 3], None, 2, [false, false]),
    ];
    for (nodes, voters, alive, limit, id, expected) in cases {
        let learners: Vec<u64> = nodes.iter().copied().filter(|id| !voters.contains(id)).collect();
        let members = Members { limit, ..members([nodes, voters, &learners, alive], 1) };
        let found = [false, true].map(|stays| can_spare(&members, RaftId(id), stays));
        assert_eq!(found, expected, "{id} of {members:?}");
        assert!(can_spare(&members, RaftId(99), true), "one that does not vote");
    }
}

#[test]
fn those_who_do_not_vote_are_observers_once_there_are_many() {
    const NINE: &[u64] = &[1, 2, 3, 4, 5, 6, 7, 8, 9];
    let nine = |learners, alive| members([NINE, FIVE, learners, alive], 1).observers();
    let down = |traits: &mut Traits| traits.down = true;
    let cases = [
        ("the first two learn", nine(&[], NINE), Some(AddLearner(RaftId(6)))),
        ("the second", nine(&[6], NINE), Some(AddLearner(RaftId(7)))),
        ("no more", nine(&[6, 7], NINE), None),
        ("whoever learns already goes on", nine(&[8, 9], NINE), None),
        (
            "one that is down makes room",
            nine(&[6, 7], &[1, 2, 3, 4, 5, 7, 8, 9]).with(&[6], down),
            Some(Retire(RaftId(6))),
        ),
        (
            "then another one learns",
            nine(&[7], &[1, 2, 3, 4, 5, 7, 8, 9]).with(&[6], down),
            Some(AddLearner(RaftId(8))),
        ),
        ("one that was demoted too", nine(&[6, 7], NINE).voting(&[7], Voting::Demoted), Some(Retire(RaftId(7)))),
        ("one that was promoted comes in", nine(&[6, 7], NINE).voting(&[9], Voting::Promoted), Some(Retire(RaftId(7)))),
        ("of another zone rather", nine(&[], NINE).zone("a", &[1, 2, 3, 4, 5, 6, 7]), Some(AddLearner(RaftId(8)))),
        (
            "a voter that is gone is replaced by a learner",
            nine(&[6, 7], &[1, 2, 3, 4, 6, 7, 8, 9]).gone(&[5]),
            promote(&[1, 2, 3, 4, 6]),
        ),
        (
            "of few, one that was demoted observes",
            members([&[1, 2, 3, 4], &[1, 2, 3], &[4], &[1, 2, 3, 4]], 1).observers().voting(&[4], Voting::Demoted),
            Some(Retire(RaftId(4))),
        ),
        ("the others learn", members([&[1, 2], &[1], &[], &[1]], 1).observers(), Some(AddLearner(RaftId(2)))),
        ("too many from before", nine(&[6, 7, 8, 9], NINE), Some(Retire(RaftId(8)))),
    ];
    for (what, members, expected) in cases {
        assert_eq!(next_step(&members), expected, "{what}");
    }
}

/// Whether a change of the membership can be written.
fn writes(members: &Members) -> bool {
    members.voters.intersection(&members.alive).count() >= quorum(members.voters.len())
}

/// What must hold of every change, whatever the membership is.
fn check_step(before: &Members, step: &MembershipStep) {
    let Members { nodes, voters, learners, alive, gone, limit, .. } = before;
    let Promote { voters: new } = step else { return };
    let what = || format!("{before:?} to {new:?}");
    assert!(new.iter().all(|id| voters.contains(id) || learners.contains(id) && alive.contains(id)), "{}", what());
    assert!(new.iter().all(|id| nodes.contains_key(id)), "{}", what());
    assert!(new.intersection(alive).count() >= quorum(new.len()), "the rest does not stand: {}", what());
    let removed = voters.iter().any(|id| !nodes.contains_key(id));
    let demoted = voters.iter().any(|id| nodes.get(id).is_some_and(|traits| traits.voting == Voting::Demoted));
    if !removed && voters.len() <= seats(*limit, nodes.len()) {
        assert!(new.len() >= voters.len() || demoted && new.len() >= 3, "fewer: {}", what());
    }
    let replaced: Vec<_> = voters.difference(new).filter(|id| gone.contains(id) && nodes.contains_key(id)).collect();
    if new.len() == voters.len() && !removed && !demoted {
        assert!(voters.difference(new).count() <= 1, "more than one at a time: {}", what());
    }
    let down = voters.difference(new).filter(|id| !alive.contains(id) && nodes.contains_key(id));
    let rank = |id: &RaftId| nodes[id].voting == Voting::Promoted;
    let wanted = new.difference(voters).any(rank);
    if !removed && !demoted && !wanted && new.len() == voters.len() {
        assert_eq!(down.collect::<Vec<_>>(), replaced, "only one that is gone is replaced: {}", what());
    }
}

#[test]
fn steps_come_to_an_end() {
    // Nodes, voters, who answers, who is gone: of four; and of each, whether it is to vote.
    let of = |bits: u64, shift: u64| -> Vec<u64> { (1..=4).filter(|id| bits >> (shift + id - 1) & 1 == 1).collect() };
    for bits in 0..1_u64 << 16 {
        let [nodes, voters, alive, gone] = [0, 4, 8, 12].map(|shift| of(bits, shift));
        // The leader votes and answers.
        let Some(leader) = voters.iter().find(|id| alive.contains(id)) else { continue };
        for pattern in [0_u64, 0b01, 0b1000, 0b0110_0001, 0b1001_0010] {
            let mut members = members([&nodes, &voters, &[], &alive], *leader).gone(&gone);
            members.observers = pattern & 1 == 1;
            for (id, traits) in &mut members.nodes {
                traits.voting = [Voting::Auto, Voting::Demoted, Voting::Promoted, Voting::Auto]
                    [usize::try_from(pattern >> (2 * (id.0 - 1)) & 3).unwrap()];
            }
            let mut steps = 0;
            while let Some(step) = next_step(&members).filter(|_| writes(&members)) {
                check_step(&members, &step);
                members = members.after(&step);
                steps += 1;
                assert!(steps < 24, "{members:?}");
            }
            let most = seats(None, members.nodes.len()).max(1);
            let is_node = |id: &RaftId| members.nodes.contains_key(id);
            let settled = members.voters.len() <= most || !members.voters.iter().all(is_node);
            assert!(settled || !writes(&members), "{members:?}");
        }
    }
}

#[test]
fn majorities() {
    let table: Vec<_> = (1..=5).map(|n| (quorum(n), tolerated_losses(n, 0))).collect();
    assert_eq!(table, [(1, 0), (2, 0), (2, 1), (3, 1), (3, 2)]);
    assert_eq!([(0, 0), (3, 1), (5, 1), (5, 4)].map(|(n, down)| tolerated_losses(n, down)), [0, 0, 1, 0]);
}

#[test]
fn the_seats_follow_the_nodes_and_the_limit() {
    assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(|nodes| seats(None, nodes)), [0, 1, 1, 3, 3, 5, 5, 5]);
    assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(|nodes| seats(Some(3), nodes)), [0, 1, 1, 3, 3, 3, 3, 3]);
    assert_eq!(seats(Some(1), 7), 1);
    assert_eq!([1, 2, 3, 4, 9].map(most_nodes), [5, 5, 7, MAX_NODES, MAX_NODES]);
}
