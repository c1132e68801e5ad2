//! An observer's copy of the objects: in memory, and in sled for its next start, which may be without anybody in reach.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLockWriteGuard};

use pontoon_proto::v1;
use pontoon_proto::v1::watch_response::Event;
use thiserror::Error;

use crate::codec::CodecError;
use crate::disk::state::{StateDb, StateError, StateMeta};
use crate::model::id::NodeId;
use crate::model::state::State;
use crate::raft::state_machine::Shared;

/// The copy.
#[derive(Debug)]
pub(super) struct Copy {
    shared: Arc<Shared>,
    kept: Mutex<Kept>,
}

/// What is on disk.
#[derive(Debug)]
struct Kept {
    db: StateDb,
    meta: StateMeta,
    /// It lacks something: there was no room, or writing failed.
    is_behind: bool,
}

/// Why what was sent is not taken over.
#[derive(Debug, Error)]
pub(super) enum CopyError {
    /// A later version made it.
    #[error("an object cannot be understood: upgrade pontoond on this node")]
    Object(#[from] CodecError),
    /// It is in memory only.
    #[error("the copy of the state cannot be written")]
    Disk(#[from] StateError),
    /// There is no room. It is in memory only.
    #[error("the copy of the state is kept in memory only: the disk of the data folder is full")]
    Full,
    /// A member that is behind sent what it has.
    #[error("what a member has ends at index {sent}, and {known} is known here")]
    Older {
        /// What it has.
        sent: u64,
        /// What is here.
        known: u64,
    },
}

/// A copy, its state, and the membership that it knew with the entry that this comes from.
pub(super) type Opened = (Arc<Copy>, Arc<Shared>, Option<(v1::Membership, Option<v1::LogId>)>);

impl Copy {
    /// What was on disk, or the seed if that is newer; and the members as they were then.
    pub(super) fn new(
        (db, state, mut meta): (StateDb, State, StateMeta),
        seed: Option<State>,
    ) -> Result<Opened, StateError> {
        let known = meta.applied.membership.clone().map(|known| (known, meta.applied.membership_log_id));
        let state = match seed.filter(|seed| seed.applied_index > state.applied_index) {
            Some(mut seed) => {
                // What no observer is sent: nobody asks it for answers again, and for who has done what it asks a member.
                seed.sessions.clear();
                seed.sealed_key.clear();
                seed.audit.clear();
                describe(&mut meta, &seed);
                db.replace(&seed, &mut meta)?;
                db.flush()?;
                seed
            }
            None => state,
        };
        let shared = Arc::new(Shared::new(state, 0, None));
        let kept = Mutex::new(Kept { db, meta, is_behind: false });
        Ok((Arc::new(Self { shared: Arc::clone(&shared), kept }), shared, known))
    }

    /// Takes over what was sent, with whole snapshots. On success it is on disk, too; not as safe from a power cut as a log
    /// is, for what was lost is sent again.
    pub(super) fn take(
        &self,
        batch: Vec<Event>,
        node: NodeId,
        header: v1::SnapshotHeader,
        full: bool,
    ) -> Result<(), CopyError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.meta.applied = header;
        let (before, was_behind) = (self.shared.state().applied_index, kept.is_behind);
        let mut taken = Ok(());
        for event in batch {
            taken = self.take_one(&mut kept, event, node, full);
            if matches!(taken, Err(CopyError::Object(_) | CopyError::Older { .. })) {
                break;
            }
        }
        if !kept.is_behind
            && taken.is_ok()
            && let Err(error) = kept.db.flush()
        {
            kept.is_behind = true;
            taken = Err(error.into());
        }
        let index = self.shared.state().applied_index;
        if index != before {
            self.shared.view().advance(index, 0);
            self.shared.tell_applied(index);
        }
        match taken {
            // It goes on in memory, and is written once it can be.
            Err(error @ (CopyError::Disk(_) | CopyError::Full)) => {
                if !was_behind {
                    tracing::warn!(error = crate::error_chain(&error), "going on in memory");
                }
                Ok(())
            }
            taken => taken,
        }
    }

    fn take_one(&self, kept: &mut Kept, event: Event, node: NodeId, full: bool) -> Result<(), CopyError> {
        let (state, changes) = match event {
            Event::Snapshot(whole) => {
                let known = self.shared.state().applied_index;
                if whole.index < known {
                    return Err(CopyError::Older { sent: whole.index, known });
                }
                let new = State::of_watched(whole.objects, whole.index, whole.time_ms)?;
                let mut state = self.shared.write();
                *state = new;
                self.shared.tell_anew(whole.index);
                (RwLockWriteGuard::downgrade(state), None)
            }
            Event::Changes(changes) => {
                let mut state = self.shared.write();
                let before = state.networks_of_node(node);
                let mut changed = state.take_watched(changes)?;
                let left = before.difference(&state.networks_of_node(node)).copied().collect();
                changed.extend(state.forget(node, &left));
                let state = RwLockWriteGuard::downgrade(state);
                self.shared.tell_changes(&state, &changed);
                (state, Some(changed))
            }
            Event::Progress(progress) => {
                let mut state = self.shared.write();
                state.pass(progress.index, progress.time_ms);
                let state = RwLockWriteGuard::downgrade(state);
                self.shared.feed().add(&state, &BTreeSet::new());
                // The next change brings it to the disk.
                return Ok(());
            }
        };
        describe(&mut kept.meta, &state);
        if full {
            kept.is_behind = true;
            return Err(CopyError::Full);
        }
        let written = match changes.filter(|_| !kept.is_behind) {
            Some(changes) => kept.db.apply(&state, changes, &mut kept.meta),
            None => kept.db.replace(&state, &mut kept.meta),
        };
        kept.is_behind = written.is_err();
        Ok(written?)
    }

    /// Hands what is in memory to the system.
    pub(super) fn flush(&self) -> Result<(), StateError> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).db.flush()
    }
}

fn describe(meta: &mut StateMeta, state: &State) {
    meta.clock_ms = state.clock_ms;
    meta.applied.last_log_id = Some(v1::LogId { leader: None, index: state.applied_index });
}
