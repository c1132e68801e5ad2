//! What watchers are yet to be sent of whole states, of all watchers together. It is in memory until they take it: so there
//! is a bound, and who takes nothing makes room for those who come.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_proto::v1::watch_response::Event;
use prost::Message;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

use super::WatchError;
use crate::rt::{Instant, now, timeout, timeout_at};

/// How often somebody who waits for room looks who has stalled.
const LOOK: Duration = Duration::from_millis(250);

/// How much is kept, and for how long.
#[derive(Debug)]
struct Limits {
    /// With so many bytes of objects, encoded, no more is read from the state. Above it is at most one whole state.
    bytes: usize,
    /// Who takes nothing for so long may lose what is kept for him.
    stalled: Duration,
    /// How long somebody waits for room.
    patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 << 20, stalled: Duration::from_secs(5), patience: Duration::from_secs(10) }
    }
}

/// All that is kept. Clones are the same.
#[derive(Debug, Default, Clone)]
pub(crate) struct Backlog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    limits: Limits,
    /// Whoever reads the whole state: one at a time, as each of them may go beyond the bound.
    turn: Arc<Mutex<()>>,
    kept: std::sync::Mutex<Kept>,
    taken: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    bytes: usize,
    of: BTreeMap<u64, Queue>,
}

/// What is kept for one watcher.
#[derive(Debug)]
struct Queue {
    parts: VecDeque<Event>,
    bytes: usize,
    /// When he took something last.
    taken: Instant,
}

/// Leave to read the whole state.
#[derive(Debug)]
pub(crate) struct Turn {
    backlog: Backlog,
    _guard: OwnedMutexGuard<()>,
}

/// A watcher's share of what is kept.
#[derive(Debug)]
pub(crate) struct Whole {
    backlog: Backlog,
    number: u64,
}

impl Backlog {
    /// Waits until there is room for one more.
    ///
    /// # Errors
    ///
    /// There is none for ten seconds: everybody else takes something now and then, but too slowly.
    pub(crate) async fn turn(&self) -> Result<Turn, WatchError> {
        let end = now() + self.0.limits.patience;
        let guard = timeout_at(end, Arc::clone(&self.0.turn).lock_owned()).await.map_err(|_| WatchError::TooMany)?;
        while !self.kept().has_room(&self.0.limits) {
            if now() >= end {
                return Err(WatchError::TooMany);
            }
            // Whether it was taken or only looked at, it is looked again.
            let _ = timeout(LOOK, self.0.taken.notified()).await;
        }
        Ok(Turn { backlog: self.clone(), _guard: guard })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing in there is half done when something panics.
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Keeps the parts of a whole state for a watcher until he takes them.
    pub(crate) fn keep(self, parts: VecDeque<Event>) -> Whole {
        let mut kept = self.backlog.kept();
        let (number, bytes) = (kept.next, parts.iter().map(size).sum());
        kept.next += 1;
        kept.bytes += bytes;
        kept.of.insert(number, Queue { parts, bytes, taken: now() });
        drop(kept);
        Whole { backlog: self.backlog, number }
    }
}

impl Whole {
    /// The next part; none when all were taken.
    ///
    /// # Errors
    ///
    /// The rest was not kept for one who did not take it: he begins anew.
    pub(crate) fn take(&self) -> Result<Option<Event>, WatchError> {
        let mut kept = self.backlog.kept();
        let Some(queue) = kept.of.get_mut(&self.number) else {
            return Err(WatchError::CutOff { after: self.backlog.0.limits.stalled });
        };
        queue.taken = now();
        let Some(part) = queue.parts.pop_front() else { return Ok(None) };
        let bytes = size(&part);
        queue.bytes -= bytes;
        kept.bytes -= bytes;
        drop(kept);
        self.backlog.0.taken.notify_one();
        Ok(Some(part))
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.backlog.kept().forget(self.number);
        self.backlog.0.taken.notify_one();
    }
}

impl Kept {
    /// Whether there is room, if need be without what has stalled longest.
    fn has_room(&mut self, limits: &Limits) -> bool {
        while self.bytes >= limits.bytes {
            let stalled = |queue: &&Queue| now() - queue.taken >= limits.stalled && queue.bytes > 0;
            let oldest = self.of.iter().filter(|(_, queue)| stalled(queue)).min_by_key(|(_, queue)| queue.taken);
            let Some((&number, _)) = oldest else { return false };
            self.forget(number);
        }
        true
    }

    fn forget(&mut self, number: u64) {
        self.bytes -= self.of.remove(&number).map_or(0, |queue| queue.bytes);
    }
}

fn size(part: &Event) -> usize {
    match part {
        Event::Snapshot(part) => part.encoded_len(),
        Event::Changes(part) => part.encoded_len(),
        Event::Progress(part) => part.encoded_len(),
    }
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1;

    use super::*;

    const STALLED: Duration = Duration::from_millis(50);

    /// A part of so many bytes, about.
    fn part(bytes: usize) -> Event {
        let put = vec![v1::ObjectKey { address: "x".repeat(bytes), ..v1::ObjectKey::default() }];
        Event::Changes(v1::WatchChanges { deleted: put, ..v1::WatchChanges::default() })
    }

    fn backlog(stalled: Duration, patience: Duration) -> Backlog {
        Backlog(Arc::new(Shared { limits: Limits { bytes: 1_000, stalled, patience }, ..Shared::default() }))
    }

    async fn keep(backlog: &Backlog, parts: usize) -> Whole {
        backlog.turn().await.unwrap().keep((0..parts).map(|_| part(400)).collect())
    }

    #[tokio::test]
    async fn what_is_taken_makes_room() {
        let backlog = backlog(Duration::from_secs(60), Duration::from_secs(60));
        let whole = keep(&backlog, 3).await;
        let (second, waiting) = (backlog.clone(), Arc::new(Notify::new()));
        let told = waiting.clone();
        let second = tokio::spawn(async move {
            told.notify_one();
            keep(&second, 1).await
        });
        waiting.notified().await;
        assert!(whole.take().unwrap().is_some());
        let second = second.await.unwrap();
        assert!(second.take().unwrap().is_some() && second.take().unwrap().is_none());
        drop(whole);
        assert_eq!(backlog.kept().bytes, 0);
    }

    #[tokio::test]
    async fn who_takes_nothing_makes_room_for_who_comes() {
        let backlog = backlog(STALLED, Duration::from_secs(60));
        let (mut kept, mut most) = (Vec::new(), 0);
        for _ in 0..20 {
            kept.push(keep(&backlog, 2).await);
            most = most.max(backlog.kept().bytes);
        }
        assert!(most < 2_000, "{most} bytes were kept");
        let cut_off = kept.iter().filter(|whole| whole.take().is_err()).count();
        assert!((17..20).contains(&cut_off), "{cut_off} of 20 were cut off");
        let error = kept[0].take().unwrap_err();
        assert!(error.is_compacted() && error.to_string().contains("took nothing for 50ms"), "{error}");
    }

    #[tokio::test]
    async fn without_room_it_is_said() {
        let backlog = backlog(Duration::from_secs(60), STALLED);
        let whole = keep(&backlog, 3).await;
        let error = backlog.turn().await.unwrap_err();
        assert_eq!(error.reason(), "TOO_MANY_WATCHERS", "{error}");
        assert!(whole.take().unwrap().is_some(), "it is not cut off for that");
    }
}
