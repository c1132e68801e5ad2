//! Whether members have made the same of the same entries.

use std::collections::{BTreeMap, BTreeSet};

use super::id::RaftId;

/// The state after an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateHash {
    /// Index of the entry.
    pub index: u64,
    /// [`super::state::State::hash`].
    pub hash: u128,
}

/// Others agree with each other, and not with this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Index of the entry that the states are of.
    pub index: u64,
    /// Those others.
    pub others: BTreeSet<RaftId>,
}

/// Whether a member is the odd one out of `members`, at the newest entry that it and others have hashes of. More than half
/// of them are right against it; of as many on each side, once all are known, those are that the leader is among. Anything
/// else tells nothing: whoever is right must go on.
pub fn odd_one_out(
    own: &[StateHash],
    others: &BTreeMap<RaftId, Vec<StateHash>>,
    members: usize,
    leader: Option<RaftId>,
) -> Option<Difference> {
    let at = |hashes: &[StateHash], index| hashes.iter().find(|known| known.index == index).map(|known| known.hash);
    let mut newest_first = own.to_vec();
    newest_first.sort_by_key(|known| std::cmp::Reverse(known.index));
    for StateHash { index, hash } in newest_first {
        let mut groups: BTreeMap<u128, BTreeSet<RaftId>> = BTreeMap::new();
        for (id, hashes) in others {
            if let Some(hash) = at(hashes, index) {
                groups.entry(hash).or_default().insert(*id);
            }
        }
        if groups.is_empty() {
            continue;
        }
        let with_me = 1 + groups.remove(&hash).map_or(0, |ids| ids.len());
        let (_, against) = groups.into_iter().max_by_key(|(_, ids)| ids.len())?;
        let half_each = against.len() == with_me && against.len() + with_me == members;
        let leads = leader.is_some_and(|leader| against.contains(&leader));
        let odd = against.len() * 2 > members || half_each && leads;
        return odd.then_some(Difference { index, others: against });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(pairs: &[(u64, u128)]) -> Vec<StateHash> {
        pairs.iter().map(|&(index, hash)| StateHash { index, hash }).collect()
    }

    #[test]
    fn more_than_half_are_right_and_the_leader_is_when_it_is_even() {
        type Case<'a> =
            (&'a [(u64, u128)], &'a [(u64, &'a [(u64, u128)])], usize, Option<u64>, Option<(u64, &'a [u64])>);
        let cases: [Case<'_>; 12] = [
            // Nobody else, nobody at the same entry, all the same.
            (&[(5, 1)], &[], 1, None, None),
            (&[(5, 1)], &[(2, &[(4, 9)]), (3, &[(6, 9)])], 3, Some(2), None),
            (&[(5, 1)], &[(2, &[(5, 1)]), (3, &[(5, 1)])], 3, Some(2), None),
            // Two against one, also against a leader.
            (&[(5, 1)], &[(2, &[(5, 9)]), (3, &[(5, 9)])], 3, Some(1), Some((5, &[2, 3]))),
            // Another one is the odd one.
            (&[(5, 1)], &[(2, &[(5, 1)]), (3, &[(5, 9)])], 3, Some(3), None),
            // One of three has not answered: it may be of either mind.
            (&[(5, 1)], &[(2, &[(5, 9)])], 3, Some(2), None),
            // Two of two: the leader.
            (&[(5, 1)], &[(2, &[(5, 9)])], 2, Some(2), Some((5, &[2]))),
            (&[(5, 1)], &[(2, &[(5, 9)])], 2, Some(1), None),
            (&[(5, 1)], &[(2, &[(5, 9)])], 2, None, None),
            // All three differ: nobody knows.
            (&[(5, 1)], &[(2, &[(5, 8)]), (3, &[(5, 9)])], 3, Some(2), None),
            // The newest entry counts that somebody else has too.
            (&[(4, 1), (5, 1), (6, 7)], &[(2, &[(4, 9), (5, 1)]), (3, &[(4, 9)])], 3, Some(2), None),
            (&[(6, 7), (4, 1)], &[(2, &[(4, 9)]), (3, &[(4, 9), (5, 3)])], 3, None, Some((4, &[2, 3]))),
        ];
        for (own, others, members, leader, expected) in cases {
            let known = others.iter().map(|(id, pairs)| (RaftId(*id), hashes(pairs))).collect();
            let found = odd_one_out(&hashes(own), &known, members, leader.map(RaftId));
            let expected =
                expected.map(|(index, ids)| Difference { index, others: ids.iter().copied().map(RaftId).collect() });
            assert_eq!(found, expected, "{own:?} {others:?} {leader:?}");
        }
    }
}
