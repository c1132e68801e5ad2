//! Waiting for conditions. The only place in the tests that sleeps.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Looks until `look` returns something.
///
/// # Errors
///
/// It has not within `deadline`: says what was waited for and the last reason.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let reason = match look() {
            Ok(found) => return Ok(found),
            Err(reason) => reason,
        };
        if start.elapsed() >= deadline {
            bail!("waited {deadline:?} for {what}: {reason:#}");
        }
        thread::sleep(POLL);
    }
}

/// Lets `duration` go by: for killing something *after a while*, never for hoping that something has happened.
pub fn elapse(duration: Duration) {
    thread::sleep(duration);
}
