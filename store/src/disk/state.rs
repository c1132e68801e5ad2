//! The materialised state in sled: one tree, one batch for each apply, with the log id, the membership and the hash of
//! the state in the same batch. It is never synced: after a power cut it may be older, or damaged, and is then brought up to
//! date from the log, or built again from a snapshot and the log.

use std::io;
use std::path::{Path, PathBuf};

use pontoon_proto::v1;
use prost::Message;
use thiserror::Error;

#[cfg(feature = "sim")]
use super::twin as sled;
use crate::codec::{CodecError, object_hash};
use crate::model::apply::Change;
use crate::model::state::State;
use crate::rt::fs;

/// Key of what is kept beside the objects, whose keys begin with 1 or more.
const META: &[u8] = &[0];
/// sled's cache. The state is in memory as well, so little is read from here.
const CACHE_BYTES: u64 = 16 << 20;

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
    /// A folder that is in use, that the system does not let it open, such as for lack of space or rights, or that is
    /// damaged and cannot be moved.
    pub(crate) fn open(dir: &Path) -> Result<(Self, State, StateMeta), StateError> {
        let reason = match open_sled(dir) {
            Ok(db) => match Self::load(db) {
                Ok(loaded) => return Ok(loaded),
                Err(reason) => reason,
            },
            Err(source) if is_locked(&source) => return Err(StateError::InUse { path: dir.to_owned() }),
            Err(source) => Unusable::Sled(source),
        };
        let reason = match reason {
            Unusable::Sled(source) if !is_damage(&source) => {
                return Err(StateError::Sled { operation: "open", path: dir.to_owned(), source });
            }
            reason => reason,
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
    sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .mode(sled::Mode::HighThroughput)
        .open()
}

/// How sled's message begins when it cannot lock its file (sled 0.34, `Config::try_lock`). The cause is in it as text only.
const LOCK_FAILED: &str = "could not acquire lock on ";

fn is_locked(error: &sled::Error) -> bool {
    let sled::Error::Io(error) = error else { return false };
    let text = error.to_string();
    // EWOULDBLOCK is what flock gives when another has the lock.
    error.kind() == io::ErrorKind::Other && text.starts_with(LOCK_FAILED) && text.contains("kind: WouldBlock")
}

/// Whether sled cannot go on because of what is in its files, and not because the system refused something.
fn is_damage(error: &sled::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotFound};
    let sled::Error::Io(error) = error else { return true };
    if error.raw_os_error().is_none() {
        return !error.to_string().starts_with(LOCK_FAILED);
    }
    // A place or a file that damaged data points to.
    matches!(error.kind(), InvalidInput | NotFound)
}

/// Renames a folder to `….bad-1`. Only the latest is kept: a daemon that finds damage at each start must not fill the disk.
fn move_aside(dir: &Path) -> io::Result<PathBuf> {
    let aside = dir.with_extension("bad-1");
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(dir, &aside)?;
    Ok(aside)
}

/// Takes the first network out of a stored state: behind its hash's back, or as if an apply had.
#[cfg(test)]
pub(crate) fn lose_an_object(dir: &Path, hashed: bool) {
    // Whoever had it open may still be closing it.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let db = loop {
        match open_sled(dir) {
            Err(error) if is_locked(&error) && std::time::Instant::now() < end => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    let tree = db.open_tree("state").unwrap();
    let (key, value) = tree.range(vec![3_u8]..).next().unwrap().unwrap();
    if hashed {
        let mut meta = StateMeta::decode(&tree.get(META).unwrap().unwrap()).unwrap();
        meta.hash = meta.hash.wrapping_sub(object_hash(&key, &value));
        tree.insert(META, meta.encode()).unwrap();
    }
    tree.remove(key).unwrap();
    db.flush().unwrap();
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn one_that_is_open_is_in_use_and_stays() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("state");
        let opened = StateDb::open(&path).unwrap();
        assert!(matches!(StateDb::open(&path), Err(StateError::InUse { .. })));
        drop(opened);
        assert!(!dir.path().join("state.bad-1").exists());
    }

    /// What the system refuses may be allowed later, and the state is whole then.
    #[test]
    fn only_damage_moves_it_aside() {
        for code in [13, 24, 28, 5, 30, 12] {
            let error = sled::Error::Io(io::Error::from_raw_os_error(code));
            assert!(!is_damage(&error) && !is_locked(&error), "{error}");
        }
        let other = |text: &str| sled::Error::Io(io::Error::other(text));
        let denied = other("could not acquire lock on \"/blocked\": Os { code: 37, kind: Other, message: \"\" }");
        assert!(!is_damage(&denied) && !is_locked(&denied));
        assert!(!is_locked(&other("a block is missing")));
        for damage in [
            sled::Error::Corruption { at: None, bt: () },
            sled::Error::Unsupported("a format".to_owned()),
            sled::Error::Io(ErrorKind::UnexpectedEof.into()),
            other("encountered torn segment"),
        ] {
            assert!(is_damage(&damage), "{damage}");
        }
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("state");
        fs::write(&path, "a file where a folder should be").unwrap();
        assert!(matches!(StateDb::open(&path), Err(StateError::Sled { .. })));
        assert!(path.exists() && !dir.path().join("state.bad-1").exists());
    }

    #[test]
    fn only_the_latest_damaged_one_is_kept() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("state");
        for round in ["first", "second"] {
            fs::create_dir(&path).unwrap();
            fs::write(path.join(round), "").unwrap();
            move_aside(&path).unwrap();
        }
        let names = |path: &Path| -> Vec<_> { fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect() };
        assert_eq!(names(dir.path()), ["state.bad-1"]);
        assert_eq!(names(&dir.path().join("state.bad-1")), ["second"]);
    }
}
