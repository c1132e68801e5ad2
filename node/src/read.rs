//! What a read is made from: the node's own copy of the state, or, on an observer, what a member sends.

use std::ops::Deref;

use pontoon_proto::v1;
use pontoon_store::StateGuard;
use pontoon_store::model::state::State;

use crate::member::{Member, READ_DEADLINE};

/// What an observer's own copy lacks.
const IN_PART: &str = "this node observes, and knows only what is on networks that it has containers on";

/// What a read is made from, and can promise.
#[derive(Debug)]
pub struct ReadBasis {
    linearizable: bool,
    reason: String,
    /// Everything, on a node that has it not itself.
    whole: Option<Box<State>>,
}

/// The state that an answer is made from.
#[derive(Debug)]
pub enum Look<'a> {
    /// The node's own.
    Own(StateGuard<'a>),
    /// A member's.
    Whole(&'a State),
}

impl Deref for Look<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        match self {
            Self::Own(state) => state,
            Self::Whole(state) => state,
        }
    }
}

impl ReadBasis {
    /// The state to answer from.
    pub fn look<'a>(&'a self, member: &'a Member) -> Look<'a> {
        self.whole.as_deref().map_or_else(|| Look::Own(member.store().state()), Look::Whole)
    }

    /// The promise, as of the state that the answer is made from.
    pub fn of(&self, state: &State) -> v1::Freshness {
        v1::Freshness {
            linearizable: self.linearizable,
            applied_index: state.applied_index,
            applied_ms: state.clock_ms,
            reason: self.reason.clone(),
        }
    }
}

impl Member {
    /// Prepares a read. Without a leader the local copy answers, and says so.
    pub async fn read(&self, options: Option<v1::ReadOptions>) -> ReadBasis {
        let basis = self.read_own(options).await;
        if !self.store().observes() {
            return basis;
        }
        let whole = if basis.linearizable { self.store().whole(READ_DEADLINE).await.map(Box::new) } else { None };
        if whole.is_some() {
            return ReadBasis { whole, ..basis };
        }
        let why = match basis.linearizable {
            true => "no member sends what is not known here".to_owned(),
            false => basis.reason,
        };
        let reason = if why.is_empty() { IN_PART.to_owned() } else { format!("{why}; {IN_PART}") };
        ReadBasis { linearizable: false, reason, whole: None }
    }

    /// The same for what every node has itself: settings, nodes and networks.
    pub async fn read_own(&self, options: Option<v1::ReadOptions>) -> ReadBasis {
        let local = |reason: String| ReadBasis { linearizable: false, reason, whole: None };
        if options.is_some_and(|options| options.stale) {
            return local(String::new());
        }
        match self.store().read_barrier(READ_DEADLINE).await {
            Ok(()) => ReadBasis { linearizable: true, ..local(String::new()) },
            Err(error) => local(error.to_string()),
        }
    }
}
