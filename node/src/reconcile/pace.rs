//! How long the loop waits.

use std::time::Duration;

use pontoon_store::rt::{Instant, now};

/// How often the loop looks although nothing has woken it.
const TICK: Duration = Duration::from_secs(30);

/// How long it waits for more events after one, at least and at most: they come in swarms while an engine makes networks and
/// starts containers, also those of others, which it would do more slowly beside a look at the kernel for each. In between it
/// is four times what the latest pass took, so that events of others cannot keep a processor busy.
pub(super) const DEBOUNCE: (Duration, Duration) = (Duration::from_millis(150), Duration::from_millis(400));

/// How long rules of networks that nobody is on here may wait: whoever comes asks for a pass, and networks come in swarms.
const AHEAD: Duration = Duration::from_millis(400);

/// How long it waits after a pass that failed, at first; twice as long each further time, up to a tick.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// When the loop makes its next pass although nobody asks for one.
#[derive(Debug)]
pub(super) struct Pace {
    /// At the latest; whatever is asked for comes earlier.
    pub(super) due: Instant,
    /// How long to wait for more events after one.
    debounce: Duration,
    /// How long to wait after the next failure.
    retry: Duration,
}

impl Pace {
    /// The first is made at once.
    pub(super) fn new() -> Self {
        Self { due: now(), debounce: DEBOUNCE.0, retry: FIRST_RETRY }
    }

    /// After a pass that took `took`.
    pub(super) fn after(&mut self, took: Duration, failed: bool) {
        self.debounce = (took * 4).clamp(DEBOUNCE.0, DEBOUNCE.1);
        self.due = now() + if failed { self.retry } else { TICK };
        self.retry = if failed { (self.retry * 2).min(TICK) } else { FIRST_RETRY };
    }

    /// Something may be amiss.
    pub(super) fn hurry(&mut self) {
        self.within(self.debounce);
    }

    /// Rules of networks that nobody is on here are to be changed.
    pub(super) fn ahead(&mut self) {
        self.within(AHEAD);
    }

    fn within(&mut self, wait: Duration) {
        self.due = self.due.min(now() + wait);
    }
}
