use std::collections::BTreeSet;

use crate::model::id::RaftId;
use crate::model::voters::MembershipStep::{AddLearner, Promote, Remove};
use crate::model::voters::{Members, MembershipStep, next_step, quorum, target, tolerated_losses};

fn ids(ids: &[u64]) -> BTreeSet<RaftId> {
    ids.iter().map(|id| RaftId(*id)).collect()
}

fn promote(voters: &[u64]) -> Option<MembershipStep> {
    Some(Promote { voters: ids(voters) })
}

#[test]
fn each_step_is_the_right_one() {
    type Case = (&'static str, [&'static [u64]; 4], u64, Option<MembershipStep>);
    // nodes, voters, learners, alive; leader
    let cases: [Case; 20] = [
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
        ("a leader that was removed", [&[2], &[1], &[2], &[1, 2]], 1, promote(&[2])),
        ("a leader that was removed, heir dead", [&[2], &[1], &[2], &[1]], 1, None),
        ("a stranger goes first", [&[1, 2], &[1], &[9], &[1, 2]], 1, Some(Remove(RaftId(9)))),
        ("no nodes at all", [&[], &[1], &[], &[1]], 1, None),
    ];
    for (what, [nodes, voters, learners, alive], leader, expected) in cases {
        let (nodes, voters, learners, alive) = (ids(nodes), ids(voters), ids(learners), ids(alive));
        let leader = RaftId(leader);
        let members = Members { nodes: &nodes, voters: &voters, learners: &learners, alive: &alive, leader };
        assert_eq!(next_step(&members), expected, "{what}");
    }
}

#[test]
fn steps_come_to_an_end() {
    for bits in 0..1_u64 << 12 {
        let part = |shift: u64| -> BTreeSet<RaftId> {
            (1..=4).filter(|id| bits >> (shift + id - 1) & 1 == 1).map(RaftId).collect()
        };
        let (nodes, mut voters, alive) = (part(0), part(4), part(8));
        let Some(leader) = voters.first().copied() else { continue };
        let mut learners = BTreeSet::new();
        let mut steps = 0;
        loop {
            let members = Members { nodes: &nodes, voters: &voters, learners: &learners, alive: &alive, leader };
            match next_step(&members) {
                None => break,
                Some(AddLearner(id)) => assert!(learners.insert(id) && nodes.contains(&id)),
                Some(Remove(id)) => assert!(learners.remove(&id) && !nodes.contains(&id)),
                Some(Promote { voters: new }) => {
                    assert!(new.iter().all(|id| voters.contains(id) || learners.contains(id) && alive.contains(id)));
                    learners.extend(voters.difference(&new));
                    learners.retain(|id| !new.contains(id));
                    voters = new;
                }
            }
            steps += 1;
            assert!(steps < 20, "nodes {nodes:?} voters {voters:?} learners {learners:?} alive {alive:?}");
        }
        assert!(voters.len() <= target(nodes.len()).max(1) || voters.is_disjoint(&nodes));
    }
}

#[test]
fn majorities() {
    let table: Vec<_> = (1..=5).map(|n| (quorum(n), tolerated_losses(n, 0))).collect();
    assert_eq!(table, [(1, 0), (2, 0), (2, 1), (3, 1), (3, 2)]);
    assert_eq!([(0, 0), (3, 1), (5, 1), (5, 4)].map(|(n, down)| tolerated_losses(n, down)), [0, 0, 1, 0]);
}
