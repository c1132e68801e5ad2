//! What happened in a run, and what must not have.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_store::rt::now;

/// What happened. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// Print each note at once.
    aloud: bool,
    events: Vec<String>,
    violations: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

impl Notes {
    /// Nothing has happened yet. With `aloud`, what happens is printed.
    pub(crate) fn new(aloud: bool) -> Self {
        let notes = Self::default();
        notes.inner().aloud = aloud;
        notes
    }

    /// Something has happened.
    pub(crate) fn event(&self, what: impl Into<String>) {
        let line = format!("{:>10.6} {}", now().elapsed_since_start().as_secs_f64(), what.into());
        let mut inner = self.inner();
        if inner.aloud {
            println!("{line}");
        }
        inner.events.push(line);
    }

    /// Something has happened that must not.
    pub(crate) fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        self.event(format!("VIOLATION: {what}"));
        self.inner().violations.push(what);
    }

    /// Counts something.
    pub(crate) fn count(&self, what: &'static str) {
        *self.inner().counts.entry(what).or_default() += 1;
    }

    /// Whether something has happened that must not.
    pub(crate) fn is_bad(&self) -> bool {
        !self.inner().violations.is_empty()
    }

    /// What has happened that must not.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.inner().violations.clone()
    }

    /// How often what was counted has happened.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.inner().counts.clone()
    }

    /// Everything that has happened, in order.
    #[cfg(test)]
    pub(crate) fn events(&self) -> Vec<String> {
        self.inner().events.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
