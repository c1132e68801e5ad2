//! What has changed lately, for watchers: kept in memory, within bounds. A watcher holds nothing but an index, so a slow one
//! costs nothing; one that is too slow finds that what it would read next is gone, and begins anew.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use pontoon_proto::v1;
use prost::Message;
use thiserror::Error;

use crate::model::apply::Change;
use crate::model::state::State;

/// Most bytes of objects that are kept, encoded. The latest change is kept whatever its size.
const MAX_BYTES: usize = 16 << 20;
/// What a change takes besides its object, in bytes, roughly.
const CHANGE_BYTES: usize = 64;

/// What one step of applying the log has changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// Index of its latest entry.
    pub index: u64,
    /// Time of that entry, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Objects, each once, as they are at that index; none: it is gone.
    pub objects: Vec<(Change, Option<v1::Object>)>,
}

/// What a watcher wants to go on from is not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("what changed after index {wanted} is not kept any more: the oldest that is kept follows index {oldest}")]
pub struct Compacted {
    /// Index that was asked for.
    pub wanted: u64,
    /// Index that can be gone on from.
    pub oldest: u64,
}

/// The latest changes.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Index that the oldest of them follows.
    oldest: u64,
    /// Index of the latest applied entry.
    latest: u64,
    kept: VecDeque<Arc<Changes>>,
    bytes: usize,
    max_bytes: usize,
}

impl Feed {
    /// Nothing has changed since this index.
    pub(crate) fn new(index: u64) -> Self {
        Self::bounded(index, MAX_BYTES)
    }

    fn bounded(index: u64, max_bytes: usize) -> Self {
        Self { oldest: index, latest: index, kept: VecDeque::new(), bytes: 0, max_bytes }
    }

    /// Adds what changed up to the state's index.
    pub(crate) fn add(&mut self, state: &State, changes: &BTreeSet<Change>) {
        self.latest = state.applied_index;
        let watched = changes.iter().filter(|change| !matches!(change, Change::Answer(..)));
        let objects: Vec<_> = watched.map(|change| (*change, state.watched(change))).collect();
        if objects.is_empty() {
            return;
        }
        let changes = Arc::new(Changes { index: self.latest, time_ms: state.clock_ms, objects });
        self.bytes += size(&changes);
        self.kept.push_back(changes);
        while self.bytes > self.max_bytes && self.kept.len() > 1 {
            let Some(oldest) = self.kept.pop_front() else { return };
            self.bytes -= size(&oldest);
            self.oldest = oldest.index;
        }
    }

    /// Forgets everything: the state was replaced.
    pub(crate) fn restart(&mut self, index: u64) {
        *self = Self::bounded(index, self.max_bytes);
    }

    /// The first few changes after an index, and the index that they lead to.
    pub(crate) fn after(&self, index: u64, most: usize) -> Result<(Vec<Arc<Changes>>, u64), Compacted> {
        if index < self.oldest {
            return Err(Compacted { wanted: index, oldest: self.oldest });
        }
        let first = self.kept.partition_point(|changes| changes.index <= index);
        let next: Vec<_> = self.kept.iter().skip(first).take(most).cloned().collect();
        let is_all = first + next.len() == self.kept.len();
        let reached = if is_all { self.latest } else { next.last().map_or(index, |changes| changes.index) };
        Ok((next, reached.max(index)))
    }
}

fn size(changes: &Changes) -> usize {
    let object = |object: &Option<v1::Object>| CHANGE_BYTES + object.as_ref().map_or(0, Message::encoded_len);
    changes.objects.iter().map(|(_, changed)| object(changed)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{EndpointId, NodeId};

    /// An empty state.
    fn at(index: u64) -> State {
        let mut state = State::empty();
        state.applied_index = index;
        state
    }

    /// A feed to which these entries were applied, each of which ends one endpoint.
    fn feed(max_bytes: usize, indexes: std::ops::RangeInclusive<u64>) -> Feed {
        let mut feed = Feed::bounded(indexes.start() - 1, max_bytes);
        for index in indexes {
            feed.add(
                &at(index),
                &BTreeSet::from([Change::Endpoint(EndpointId(index)), Change::Answer(NodeId(1), index)]),
            );
        }
        feed
    }

    fn indexes(feed: &Feed, after: u64, most: usize) -> Result<(Vec<u64>, u64), Compacted> {
        let (changes, reached) = feed.after(after, most)?;
        assert!(changes.iter().all(|changes| changes.objects.len() == 1), "an answer is nobody's business");
        Ok((changes.iter().map(|changes| changes.index).collect(), reached))
    }

    #[test]
    fn changes_come_in_order_and_without_a_gap() {
        let feed = feed(MAX_BYTES, 11..=15);
        assert_eq!(indexes(&feed, 10, 9), Ok((vec![11, 12, 13, 14, 15], 15)));
        assert_eq!(indexes(&feed, 12, 2), Ok((vec![13, 14], 14)));
        assert_eq!(indexes(&feed, 15, 9), Ok((vec![], 15)));
        assert_eq!(indexes(&feed, 99, 9), Ok((vec![], 99)), "this copy lags behind");
        assert_eq!(indexes(&feed, 9, 9), Err(Compacted { wanted: 9, oldest: 10 }));
    }

    #[test]
    fn entries_that_change_nothing_are_progress() {
        let mut feed = feed(MAX_BYTES, 1..=2);
        feed.add(&at(7), &BTreeSet::from([Change::Answer(NodeId(1), 1)]));
        assert_eq!(indexes(&feed, 1, 9), Ok((vec![2], 7)));
        assert_eq!(indexes(&feed, 0, 1), Ok((vec![1], 1)), "there is more");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let feed = feed(3 * CHANGE_BYTES, 1..=10);
        assert_eq!(indexes(&feed, 7, 9), Ok((vec![8, 9, 10], 10)));
        assert_eq!(indexes(&feed, 6, 9), Err(Compacted { wanted: 6, oldest: 7 }));
        let feed = self::feed(1, 1..=3);
        assert_eq!(indexes(&feed, 2, 9), Ok((vec![3], 3)), "the latest is kept whatever its size");
    }

    #[test]
    fn a_state_that_was_replaced_has_no_past() {
        let mut feed = feed(MAX_BYTES, 1..=3);
        feed.restart(50);
        assert_eq!(indexes(&feed, 3, 9), Err(Compacted { wanted: 3, oldest: 50 }));
        assert_eq!(indexes(&feed, 50, 9), Ok((vec![], 50)));
    }
}
