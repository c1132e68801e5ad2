//! The materialised state in sled: one tree, one batch for each apply, with the log id, the membership and the hash of
//! the state in the same batch. It is never synced: after a power cut it may be older, or damaged, and is then brought up to
//! date from the log, or built again from a snapshot and the log.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pontoon_proto::v1;
use prost::Message;
use thiserror::Error;

use crate::codec::{CodecError, object_hash};
use crate::model::apply::Change;
use crate::model::state::State;

/// Key of what is kept beside the objects, whose keys begin with 1 or more.
const META: &[u8] = &[0];
/// sled's cache. The state is in memory as well, so little is read from here.
const CACHE_BYTES: u64 = 16 << 20;
/// How long a folder may be locked by a daemon that is ending.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// What is kept beside the objects.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct StateMeta {
    /// Last applied entry and the membership, as a snapshot describes them.
    pub(crate) applied: v1::SnapshotHeader,
    /// The state's clock.
    pub(crate) clock_ms: u64,
    /// [`State::hash`].
    pub(crate) hash: u128,
}

/// The open database.
#[derive(Debug)]
pub(crate) struct StateDb {
    tree: sled::Tree,
    db: sled::Db,
}

/// Why the state cannot be opened or written.
#[derive(Debug, Error)]
pub(crate) enum StateError {
    /// sled failed.
    #[error("cannot {operation} the state in {}", path.display())]
    Sled {
        /// What was tried.
        operation: &'static str,
        /// Folder.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: sled::Error,
    },
    /// A bad folder cannot be moved out of the way.
    #[error("cannot move the damaged state {} aside", path.display())]
    Aside {
        /// Folder.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Another process has it open.
    #[error("the state in {} is in use: another pontoond runs with this data folder; stop it first", path.display())]
    InUse {
        /// Folder.
        path: PathBuf,
    },
}

/// Why stored state is not used.
#[derive(Debug, Error)]
enum Unusable {
    #[error("sled cannot read it")]
    Sled(#[from] sled::Error),
    #[error("an object cannot be decoded")]
    Object(#[from] CodecError),
    #[error("what is kept beside the objects cannot be decoded")]
    Meta,
    #[error("its hash is {found:032x} and should be {expected:032x}")]
    Hash { found: u128, expected: u128 },
}

impl StateDb {
    /// Opens the state in a folder and checks it. A folder that is damaged is renamed, and an empty one is begun.
    ///
    /// # Errors
    ///
    /// A folder that cannot be opened at all, nor moved.
    pub(crate) fn open(dir: &Path) -> Result<(Self, State, StateMeta), StateError> {
        let reason = match open_sled(dir) {
            Ok(db) => match Self::load(db) {
                Ok(loaded) => return Ok(loaded),
                Err(reason) => reason,
            },
            Err(source) if is_locked(&source) => return Err(StateError::InUse { path: dir.to_owned() }),
            Err(source) => Unusable::Sled(source),
        };
        let aside = move_aside(dir).map_err(|source| StateError::Aside { path: dir.to_owned(), source })?;
        tracing::warn!(
            reason = &reason as &dyn std::error::Error,
            kept = %aside.display(),
            "the state on disk is damaged and is built again from the snapshot and the log"
        );
        let opened = open_sled(dir).map_err(Unusable::Sled).and_then(Self::load);
        opened.map_err(|error| {
            let source = sled::Error::Io(io::Error::other(error.to_string()));
            StateError::Sled { operation: "begin", path: dir.to_owned(), source }
        })
    }

    fn load(db: sled::Db) -> Result<(Self, State, StateMeta), Unusable> {
        let tree = db.open_tree("state")?;
        let meta = match tree.get(META)? {
            Some(bytes) => StateMeta::decode(&bytes).ok_or(Unusable::Meta)?,
            None => StateMeta::default(),
        };
        let objects = tree.range(vec![1_u8]..).collect::<Result<Vec<_>, _>>()?;
        let found = objects.iter().fold(0_u128, |sum, (key, value)| sum.wrapping_add(object_hash(key, value)));
        if found != meta.hash {
            return Err(Unusable::Hash { found, expected: meta.hash });
        }
        let index = meta.applied.last_log_id.as_ref().map_or(0, |id| id.index);
        let state = State::from_objects(objects, index, meta.clock_ms)?;
        Ok((Self { tree, db }, state, meta))
    }

    /// Writes what an apply changed. `meta.hash` is brought up to date.
    pub(crate) fn apply(
        &self,
        state: &State,
        changes: impl IntoIterator<Item = Change>,
        meta: &mut StateMeta,
    ) -> Result<(), StateError> {
        let mut batch = sled::Batch::default();
        for change in changes {
            let key = change.key();
            if let Some(old) = self.tree.get(&key).map_err(|source| self.error("read", source))? {
                meta.hash = meta.hash.wrapping_sub(object_hash(&key, &old));
            }
            match state.object_bytes(&change) {
                Some(value) => {
                    meta.hash = meta.hash.wrapping_add(object_hash(&key, &value));
                    batch.insert(key, value);
                }
                None => batch.remove(key),
            }
        }
        batch.insert(META, meta.encode());
        self.tree.apply_batch(batch).map_err(|source| self.error("write", source))
    }

    /// Replaces everything. `meta.hash` is brought up to date.
    pub(crate) fn replace(&self, state: &State, meta: &mut StateMeta) -> Result<(), StateError> {
        let mut batch = sled::Batch::default();
        for key in self.tree.iter().keys() {
            batch.remove(key.map_err(|source| self.error("read", source))?);
        }
        for change in state.objects() {
            if let Some(value) = state.object_bytes(&change) {
                batch.insert(change.key(), value);
            }
        }
        meta.hash = state.hash();
        batch.insert(META, meta.encode());
        self.tree.apply_batch(batch).map_err(|source| self.error("write", source))
    }

    /// Hands what is in memory to the system, so that the next start has less to apply again.
    pub(crate) fn flush(&self) -> Result<(), StateError> {
        self.db.flush().map(drop).map_err(|source| self.error("flush", source))
    }

    fn error(&self, operation: &'static str, source: sled::Error) -> StateError {
        StateError::Sled { operation, path: PathBuf::from("the data folder"), source }
    }
}

impl StateMeta {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.clock_ms.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.hash.to_le_bytes());
        bytes.extend_from_slice(&self.applied.encode_to_vec());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (clock, rest) = bytes.split_first_chunk::<8>()?;
        let (hash, rest) = rest.split_first_chunk::<16>()?;
        let applied = v1::SnapshotHeader::decode(rest).ok()?;
        Some(Self { applied, clock_ms: u64::from_le_bytes(*clock), hash: u128::from_le_bytes(*hash) })
    }
}

fn open_sled(dir: &Path) -> Result<sled::Db, sled::Error> {
    let config =
        sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None).mode(sled::Mode::HighThroughput);
    let begun = Instant::now();
    loop {
        match config.open() {
            Err(error) if is_locked(&error) && begun.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("lock"))
}

/// Renames a folder to the first `….bad-<n>` that is free.
fn move_aside(dir: &Path) -> io::Result<PathBuf> {
    let mut number = 1;
    loop {
        let aside = dir.with_extension(format!("bad-{number}"));
        if !aside.exists() {
            fs::rename(dir, &aside)?;
            return Ok(aside);
        }
        number += 1;
    }
}

/// Takes the first network out of a stored state, behind its hash's back.
#[cfg(test)]
pub(crate) fn lose_an_object(dir: &Path) {
    let db = open_sled(dir).unwrap();
    let tree = db.open_tree("state").unwrap();
    let (key, _) = tree.range(vec![3_u8]..).next().unwrap().unwrap();
    tree.remove(key).unwrap();
    db.flush().unwrap();
}
