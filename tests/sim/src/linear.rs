//! Whether a history of reads and writes is linearizable: Wing and Gong's search (1993) with Lowe's memory (2017).

use std::collections::{BTreeSet, HashSet};

/// One operation on a register. Moments are numbers of which no two are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation {
    /// What it wrote, or read; none: the register was empty.
    pub(crate) value: Option<u64>,
    /// It wrote.
    pub(crate) writes: bool,
    /// When it began.
    pub(crate) called: u64,
    /// When it was answered; none: a write of which nobody knows whether it was done. It may be done at any later time.
    pub(crate) answered: Option<u64>,
}

/// Most states that are looked at before the search is given up.
const MOST: usize = 2_000_000;

/// Why a history is not known to be linearizable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There is no order in which it could have happened.
    Impossible,
    /// The search took too long.
    Unfinished,
}

/// Looks for an order in which it all could have happened one by one, each between its call and its answer.
pub(crate) fn check(history: &[Operation]) -> Result<(), Failure> {
    let read: BTreeSet<Option<u64>> = history.iter().filter(|op| !op.writes).map(|op| op.value).collect();
    // A write of an unknown end that nobody has read can be the last of all.
    let mut ops: Vec<Operation> =
        history.iter().copied().filter(|op| op.answered.is_some() || read.contains(&op.value)).collect();
    ops.sort_by_key(|op| op.called);
    let mut seen = HashSet::new();
    let mut open = vec![(BTreeSet::from_iter(0..ops.len()), None)];
    while let Some((left, value)) = open.pop() {
        if left.iter().all(|&at| ops[at].answered.is_none()) {
            return Ok(());
        }
        if seen.len() > MOST {
            return Err(Failure::Unfinished);
        }
        // Whatever comes next was called before any of the rest was answered.
        let end = left.iter().filter_map(|&at| ops[at].answered).min().unwrap_or(u64::MAX);
        let next = left.iter().copied().take_while(|&at| ops[at].called < end);
        for at in next.filter(|&at| ops[at].writes || ops[at].value == value) {
            let mut rest = left.clone();
            rest.remove(&at);
            let after = if ops[at].writes { ops[at].value } else { value };
            if seen.insert((rest.clone(), after)) {
                open.push((rest, after));
            }
        }
    }
    Err(Failure::Impossible)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, called: u64, answered: Option<u64>) -> Operation {
        Operation { value: Some(value), writes: true, called, answered }
    }

    fn read(value: Option<u64>, called: u64, answered: u64) -> Operation {
        Operation { value, writes: false, called, answered: Some(answered) }
    }

    #[test]
    fn what_could_have_happened_is_accepted() {
        let histories: [&[Operation]; 5] = [
            &[],
            &[read(None, 1, 2), write(7, 3, Some(4)), read(Some(7), 5, 6)],
            // At the same time: in either order.
            &[write(7, 1, Some(4)), write(8, 2, Some(3)), read(Some(7), 5, 6)],
            // Done late, or never.
            &[write(7, 1, None), read(None, 2, 3), read(Some(7), 4, 5)],
            &[write(7, 1, None), read(None, 2, 3)],
        ];
        for history in histories {
            assert_eq!(check(history), Ok(()), "{history:?}");
        }
    }

    #[test]
    fn what_could_not_have_happened_is_found() {
        let histories: [&[Operation]; 5] = [
            // Stale.
            &[write(7, 1, Some(2)), read(None, 3, 4)],
            &[write(7, 1, Some(2)), write(8, 3, Some(4)), read(Some(7), 5, 6)],
            // Read before it was written.
            &[read(Some(7), 1, 2), write(7, 3, Some(4))],
            // Seen, and then not.
            &[write(7, 1, None), read(Some(7), 2, 3), read(None, 4, 5)],
            // Done twice.
            &[write(7, 1, Some(2)), write(8, 3, Some(4)), read(Some(8), 5, 6), read(Some(7), 7, 8)],
        ];
        for history in histories {
            assert_eq!(check(history), Err(Failure::Impossible), "{history:?}");
        }
    }
}
