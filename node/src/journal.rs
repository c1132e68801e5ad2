//! What this node does with its own endpoints while the cluster cannot be told, or before it is told: written and synced
//! before it counts.
//!
//! - *Given up*: before the cluster is asked to end an endpoint whose container is stopped. From then on somebody else may
//!   get its address, whether this node hears of it or not, so it is not taken into use again.
//! - *Rebound*: an endpoint that the engine took into use again while there was no majority. The cluster is told later.
//!
//! One JSON value a line, appended and synced. A line that a crash has cut off was never acted upon.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_store::model::id::EndpointId;
use pontoon_store::model::object::{Endpoint, EndpointState};
use pontoon_store::model::state::State;
use pontoon_store::{StateGuard, StoreOptions};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::identity::write_durably;
use crate::plan::engine::{GivenUp, is_given_up};

/// How many given-up endpoints are remembered. The state here can be as old as the latest snapshot when a daemon starts
/// without a majority, and the end of each endpoint has taken an entry of the log since.
const REMEMBERED: usize = 2 * (StoreOptions::SNAPSHOT_EVERY + StoreOptions::KEEP_ENTRIES) as usize;

/// The journal cannot be used.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Reading or writing failed.
    #[error(
        "cannot {operation} the journal {path}: {source}; the data folder must be writable by pontoond (--data-dir)"
    )]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A line makes no sense.
    #[error(
        "line {line} of the journal {path} cannot be understood: {why}; remove the file, once a majority of the cluster's \
         voters is in reach, and then start again the containers that started while it was not"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// Why.
        why: String,
    },
    /// A container runs on it, or is about to.
    #[error("a container starts on endpoint {endpoint} already, and the cluster does not know it yet")]
    InUse {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// The cluster may have been told that it is not needed any more.
    #[error(
        "endpoint {endpoint} may be ended: without a majority nobody can tell whether its addresses are others' by now"
    )]
    GivenUp {
        /// The endpoint.
        endpoint: EndpointId,
    },
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// An endpoint, of this epoch, may be ended from now on.
    GivenUp(u64, u64),
    /// An endpoint is another one of the engine from now on.
    Rebound { endpoint: u64, engine_id: String },
    /// The cluster knows it, or the container has stopped again.
    Settled(u64),
}

/// What the lines come to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Content {
    /// In the order in which they were given up, with the epochs up to which that holds.
    given_up: VecDeque<(EndpointId, u64)>,
    /// The same by endpoint, each with its latest epoch. Whoever asks gets all of it, for every container that starts.
    latest: Arc<GivenUp>,
    /// The engine's ids of endpoints.
    rebound: BTreeMap<EndpointId, String>,
}

impl Content {
    fn add(&mut self, line: Line) {
        match line {
            Line::GivenUp(id, epoch) => {
                let latest = Arc::make_mut(&mut self.latest);
                self.given_up.push_back((EndpointId(id), epoch));
                let known = latest.entry(EndpointId(id)).or_insert(epoch);
                *known = epoch.max(*known);
                if self.given_up.len() > REMEMBERED
                    && let Some((oldest, epoch)) = self.given_up.pop_front()
                    && latest.get(&oldest) == Some(&epoch)
                {
                    latest.remove(&oldest);
                }
            }
            Line::Rebound { endpoint, engine_id } => drop(self.rebound.insert(EndpointId(endpoint), engine_id)),
            Line::Settled(id) => drop(self.rebound.remove(&EndpointId(id))),
        }
    }

    fn lines(&self) -> impl Iterator<Item = Line> {
        let given_up = self.given_up.iter().map(|(id, epoch)| Line::GivenUp(id.0, *epoch));
        let rebound =
            |(id, engine_id): (&EndpointId, &String)| Line::Rebound { endpoint: id.0, engine_id: engine_id.clone() };
        given_up.chain(self.rebound.iter().map(rebound))
    }
}

/// The journal, open.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// Held while the disk is waited for, which the content never is.
    log: Mutex<Log>,
    content: Mutex<Content>,
}

/// The file.
#[derive(Debug)]
struct Log {
    file: File,
    lines: usize,
    /// A write has failed: half a line may be at its end.
    is_torn: bool,
}

impl Log {
    /// Replaces the file by one with this content.
    fn of(path: &Path, content: &Content) -> io::Result<Self> {
        Ok(Self { file: rewrite(path, content)?, lines: content.lines().count(), is_torn: false })
    }

    fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        self.is_torn = true;
        self.file.write_all(lines.iter().map(text).collect::<String>().as_bytes())?;
        self.file.sync_data()?;
        self.is_torn = false;
        self.lines += lines.len();
        Ok(())
    }
}

impl Journal {
    /// Opens or makes it, and leaves out what counts no more.
    ///
    /// # Errors
    ///
    /// When it cannot be read, written or understood.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(io_error("read", path))?,
        };
        let mut content = Content::default();
        // What follows the last end of a line was cut off.
        for (number, line) in text.split_inclusive('\n').enumerate().filter(|(_, line)| line.ends_with('\n')) {
            let line = serde_json::from_str(line).map_err(|error| JournalError::Corrupt {
                path: path.to_owned(),
                line: number + 1,
                why: error.to_string(),
            })?;
            content.add(line);
        }
        let log = Log::of(path, &content).map_err(io_error("write", path))?;
        Ok(Self { path: path.to_owned(), log: Mutex::new(log), content: Mutex::new(content) })
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // Each line leaves it whole even if a holder panicked.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides on the latest content what to append, and waits until that is on the disk.
    async fn append(
        self: &Arc<Self>,
        decide: impl FnOnce(&Content) -> Result<Vec<Line>, JournalError> + Send + 'static,
    ) -> Result<(), JournalError> {
        let journal = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut log = journal.log.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody else appends meanwhile.
            let lines = decide(&journal.content())?;
            if lines.is_empty() {
                return Ok(());
            }
            if log.is_torn || log.lines > 2 * REMEMBERED {
                let content = journal.content().clone();
                *log = Log::of(&journal.path, &content).map_err(io_error("write", &journal.path))?;
            }
            log.append(&lines).map_err(io_error("write", &journal.path))?;
            lines.into_iter().for_each(|line| journal.content().add(line));
            Ok(())
        });
        written.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Notes that an endpoint, of this epoch, may be ended from now on.
    ///
    /// # Errors
    ///
    /// When it is in use here again, or when that is not on the disk: then the cluster must not be asked to end it.
    pub async fn give_up(self: &Arc<Self>, endpoint: EndpointId, epoch: u64) -> Result<(), JournalError> {
        let decide = move |content: &Content| match content.rebound.get(&endpoint) {
            Some(_) => Err(JournalError::InUse { endpoint }),
            None if is_given_up(&content.latest, endpoint, epoch) => Ok(Vec::new()),
            None => Ok(vec![Line::GivenUp(endpoint.0, epoch)]),
        };
        self.append(decide).await
    }

    /// Notes that an endpoint, of this epoch, is another one of the engine from now on.
    ///
    /// # Errors
    ///
    /// When it may have been given up or is in use already, or when that is not on the disk: then the engine must not be
    /// told so.
    pub async fn rebind(
        self: &Arc<Self>,
        endpoint: EndpointId,
        epoch: u64,
        engine_id: &str,
    ) -> Result<(), JournalError> {
        let engine_id = engine_id.to_owned();
        let decide = move |content: &Content| match content.rebound.get(&endpoint) {
            Some(known) if *known == engine_id => Ok(Vec::new()),
            Some(_) => Err(JournalError::InUse { endpoint }),
            None if is_given_up(&content.latest, endpoint, epoch) => Err(JournalError::GivenUp { endpoint }),
            None => Ok(vec![Line::Rebound { endpoint: endpoint.0, engine_id }]),
        };
        self.append(decide).await
    }

    /// Forgets that an endpoint is this one of the engine: the cluster knows it, or its container has stopped again.
    ///
    /// # Errors
    ///
    /// When that is not on the disk.
    pub async fn settle(self: &Arc<Self>, endpoint: EndpointId, engine_id: &str) -> Result<(), JournalError> {
        let engine_id = engine_id.to_owned();
        let decide = move |content: &Content| {
            let is_it = content.rebound.get(&endpoint) == Some(&engine_id);
            Ok(if is_it { vec![Line::Settled(endpoint.0)] } else { Vec::new() })
        };
        self.append(decide).await
    }

    /// Endpoints, with the epochs up to which somebody else may have them by now.
    pub fn given_up(&self) -> Arc<GivenUp> {
        self.content().latest.clone()
    }

    /// Endpoints that the cluster has to be told of, with the engine's ids of them.
    pub fn rebound(&self) -> BTreeMap<EndpointId, String> {
        self.content().rebound.clone()
    }

    /// The state as this node sees it: with what it has rebound.
    pub(crate) fn view<'a>(&self, state: StateGuard<'a>) -> View<'a> {
        let rebound = self.rebound();
        if rebound.is_empty() {
            return View::Shared(state);
        }
        let mut own = state.clone();
        let mut known = BTreeSet::new();
        for (id, engine_id) in rebound {
            if let Some(endpoint) = own.endpoints.get_mut(&id).filter(|endpoint| !has_id(endpoint, &engine_id)) {
                *endpoint = Endpoint { state: EndpointState::Pending, engine_id, ..endpoint.clone().unplaced() };
                known.insert(id);
            }
        }
        own.reindex();
        View::Own(Box::new(own), known)
    }
}

/// Whether the cluster knows that an endpoint is this one of the engine.
pub(crate) fn has_id(endpoint: &Endpoint, engine_id: &str) -> bool {
    endpoint.engine_id == engine_id && endpoint.is_up()
}

/// The state as this node sees it.
pub(crate) enum View<'a> {
    /// As the cluster knows it.
    Shared(StateGuard<'a>),
    /// With endpoints that are rebound and that the cluster has not been told of.
    Own(Box<State>, BTreeSet<EndpointId>),
}

impl View<'_> {
    /// Whether an endpoint is rebound and the cluster does not know it.
    pub(crate) fn is_rebound(&self, endpoint: EndpointId) -> bool {
        matches!(self, Self::Own(_, rebound) if rebound.contains(&endpoint))
    }
}

impl Deref for View<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        match self {
            Self::Shared(state) => state,
            Self::Own(state, _) => state,
        }
    }
}

fn text(line: &Line) -> String {
    let text = serde_json::to_string(line).expect("numbers and strings always serialise");
    format!("{text}\n")
}

/// Replaces the file by what counts, and opens it to append.
fn rewrite(path: &Path, content: &Content) -> io::Result<File> {
    write_durably(path, content.lines().map(|line| text(&line)).collect::<String>().as_bytes(), 0o644)?;
    OpenOptions::new().append(true).open(path)
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(path: &Path) -> Content {
        Journal::open(path).unwrap().content().clone()
    }

    fn journal(dir: &tempfile::TempDir) -> (PathBuf, Arc<Journal>) {
        let path = dir.path().join("journal");
        let journal = Arc::new(Journal::open(&path).unwrap());
        (path, journal)
    }

    fn length(path: &Path) -> u64 {
        fs::metadata(path).unwrap().len()
    }

    #[tokio::test]
    async fn what_was_noted_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (path, journal) = journal(&dir);
        journal.give_up(EndpointId(7), 1).await.unwrap();
        journal.give_up(EndpointId(8), 2).await.unwrap();
        journal.rebind(EndpointId(9), 3, "abc").await.unwrap();
        journal.rebind(EndpointId(10), 4, "ghi").await.unwrap();
        journal.settle(EndpointId(10), "ghi").await.unwrap();
        let before = length(&path);
        journal.settle(EndpointId(10), "ghi").await.unwrap();
        journal.settle(EndpointId(9), "another").await.unwrap();
        journal.give_up(EndpointId(7), 1).await.unwrap();
        journal.rebind(EndpointId(9), 3, "abc").await.unwrap();
        assert_eq!(length(&path), before, "nothing new was written");
        let content = reopened(&path);
        assert_eq!(content.given_up, [(EndpointId(7), 1), (EndpointId(8), 2)]);
        assert_eq!(content.rebound, [(EndpointId(9), "abc".to_owned())].into());
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3, "only what counts is kept");
        // A crash has cut off the last line.
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"given_up\":[11");
        fs::write(&path, text).unwrap();
        assert_eq!(reopened(&path), content);
    }

    #[tokio::test]
    async fn an_endpoint_is_given_up_or_in_use_and_never_both() {
        let dir = tempfile::tempdir().unwrap();
        let (_, journal) = journal(&dir);
        journal.give_up(EndpointId(7), 1).await.unwrap();
        let error = journal.rebind(EndpointId(7), 1, "abc").await.unwrap_err().to_string();
        assert!(error.contains("endpoint 7 may be ended"), "{error}");
        // As a state knows it that is older than its end.
        assert!(matches!(journal.rebind(EndpointId(7), 0, "abc").await, Err(JournalError::GivenUp { .. })));
        // The cluster has let this node have it since.
        journal.rebind(EndpointId(7), 2, "abc").await.unwrap();
        let error = journal.rebind(EndpointId(7), 2, "def").await.unwrap_err().to_string();
        assert!(error.contains("starts on endpoint 7 already"), "{error}");
        assert!(matches!(journal.give_up(EndpointId(7), 2).await, Err(JournalError::InUse { .. })));
        journal.settle(EndpointId(7), "abc").await.unwrap();
        journal.give_up(EndpointId(7), 2).await.unwrap();
    }

    /// The disk was full: what is noted next must not be glued to half a line.
    #[tokio::test]
    async fn a_write_that_failed_spoils_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, journal) = journal(&dir);
        journal.give_up(EndpointId(7), 1).await.unwrap();
        let whole = length(&path);
        journal.log.lock().unwrap().file.write_all(b"{\"given_up\":[8").unwrap();
        journal.log.lock().unwrap().file = File::open(&path).unwrap();
        let error = journal.give_up(EndpointId(8), 1).await.unwrap_err().to_string();
        assert!(error.contains("cannot write the journal"), "{error}");
        assert!(length(&path) > whole && journal.given_up().len() == 1);
        journal.give_up(EndpointId(9), 1).await.unwrap();
        assert_eq!(reopened(&path).given_up, [(EndpointId(7), 1), (EndpointId(9), 1)]);
    }

    #[test]
    fn a_journal_that_makes_no_sense_is_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        fs::write(&path, "{\"given_up\":[1,1]}\nx\n").unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("journal") && error.contains("remove the file"), "{error}");
        let error = Journal::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("writable"), "{error}");
    }

    #[test]
    fn the_oldest_given_up_are_forgotten() {
        let mut content = Content::default();
        content.add(Line::GivenUp(0, 1));
        // Of one that was given up again, the later one counts.
        content.add(Line::GivenUp(1, 1));
        content.add(Line::GivenUp(1, 2));
        (2..REMEMBERED as u64).for_each(|id| content.add(Line::GivenUp(id, 1)));
        assert_eq!((content.given_up.len(), content.given_up.front()), (REMEMBERED, Some(&(EndpointId(1), 1))));
        content.add(Line::GivenUp(REMEMBERED as u64, 1));
        assert!(!is_given_up(&content.latest, EndpointId(0), 1) && is_given_up(&content.latest, EndpointId(1), 2));
        assert_eq!(content.latest.len(), REMEMBERED);
    }
}
