//! Numbers requests, and keeps them close together.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::state::Session;

/// How far the latest request may be ahead of the oldest that is under way. The state keeps that many answers and more, so
/// an answer is there for as long as somebody may ask for it again.
const AHEAD: u64 = Session::MAX_ANSWERS as u64 * 3 / 4;

/// The requests of one run of a daemon. Clones number the same: a store that takes over from another goes on with its
/// requests, or the cluster would take it for another run, and forget what it has answered.
#[derive(Debug, Clone)]
pub struct Requests(Arc<Window>);

impl Requests {
    /// Those of a run, which a random number names.
    pub fn of_run(run: u64) -> Self {
        Self(Arc::new(Window { run, ..Window::default() }))
    }

    /// The run.
    pub(super) fn run(&self) -> u64 {
        self.0.run
    }

    /// Begins a request, once it is not too far ahead of the oldest.
    pub(super) async fn begin(&self) -> Numbered<'_> {
        self.0.begin().await
    }
}

#[derive(Debug, Default)]
struct Window {
    run: u64,
    numbers: Mutex<Numbers>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct Numbers {
    latest: u64,
    open: BTreeSet<u64>,
}

/// A request that is under way until this is dropped.
#[derive(Debug)]
pub(super) struct Numbered<'a> {
    window: &'a Window,
    /// Its number, from 1.
    pub(super) number: u64,
}

impl Window {
    async fn begin(&self) -> Numbered<'_> {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // From now on no news is missed.
            moved.as_mut().enable();
            if let Some(number) = self.lock().next() {
                return Numbered { window: self, number };
            }
            moved.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbers {
    fn next(&mut self) -> Option<u64> {
        let next = self.latest + 1;
        if self.open.first().is_some_and(|oldest| oldest + AHEAD <= next) {
            return None;
        }
        self.latest = next;
        self.open.insert(next);
        Some(next)
    }
}

impl Drop for Numbered<'_> {
    fn drop(&mut self) {
        self.window.lock().open.remove(&self.number);
        self.window.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_latest_waits_for_the_oldest() {
        let window = Window::default();
        let oldest = window.begin().await;
        let mut others = Vec::new();
        for _ in 1..AHEAD {
            others.push(window.begin().await);
        }
        drop(others);
        let waits = tokio::time::timeout(Duration::from_millis(20), window.begin());
        assert!(waits.await.is_err());
        let (next, ()) = tokio::join!(window.begin(), async { drop(oldest) });
        assert_eq!(next.number, AHEAD + 1);
    }
}
