//! A look at the state, of which a thread has one at a time.

use std::ops::Deref;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::model::state::State;

/// The state for as long as it is looked at: nothing is applied meanwhile. A thread that looks a second time while it still
/// looks waits for itself as soon as anything is to be applied; a debug build panics there, whether something is or not.
#[derive(Debug)]
pub struct StateGuard<'a> {
    state: RwLockReadGuard<'a, State>,
    #[cfg(debug_assertions)]
    _only: once::Only,
}

/// Before a thread is to change a state: it does not look at it.
pub(super) fn check_not_looking(_state: &RwLock<State>) {
    #[cfg(debug_assertions)]
    drop(once::Only::begin(std::ptr::from_ref(_state).addr()));
}

impl<'a> StateGuard<'a> {
    pub(super) fn new(state: &'a RwLock<State>) -> Self {
        Self {
            #[cfg(debug_assertions)]
            _only: once::Only::begin(std::ptr::from_ref(state).addr()),
            state: state.read().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

#[cfg(debug_assertions)]
mod once {
    use std::cell::RefCell;

    thread_local! {
        /// Where the states are that this thread looks at: of several stores in one process, a thread may look at each.
        static LOOKS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    }

    /// This thread looks at the state that is there.
    #[derive(Debug)]
    pub(super) struct Only(usize);

    impl Only {
        pub(super) fn begin(state: usize) -> Self {
            let again = LOOKS.with_borrow(|looks| looks.contains(&state));
            assert!(!again, "this thread looks at the state already: it would wait for itself");
            LOOKS.with_borrow_mut(|looks| looks.push(state));
            Self(state)
        }
    }

    impl Drop for Only {
        fn drop(&mut self) {
            LOOKS.with_borrow_mut(|looks| looks.retain(|state| *state != self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The founder of a cluster did, each time it looked for its id, and stood still for good once that fell between the end
    /// of a write and the next one.
    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "it would wait for itself")]
    fn a_thread_that_looks_twice_is_stopped() {
        let state = RwLock::new(State::default());
        let first = StateGuard::new(&state);
        let second = StateGuard::new(&state);
        drop((first, second));
    }

    #[test]
    fn a_thread_may_look_again_and_at_another_state() {
        let (state, other) = (RwLock::new(State::default()), RwLock::new(State::default()));
        for _ in 0..2 {
            let (one, two) = (StateGuard::new(&state), StateGuard::new(&other));
            assert_eq!(*one, *two);
        }
    }
}
