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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLockReadGuard};

use pontoon_store::StoreOptions;
use pontoon_store::model::id::EndpointId;
use pontoon_store::model::object::{Endpoint, EndpointState, Sandbox};
use pontoon_store::model::state::State;
use serde::{Deserialize, Serialize};
use thiserror::Error;

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
        "line {line} of the journal {path} cannot be understood: {why}; with a majority of the cluster's voters in reach it \
         is safe to remove the file"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// Why.
        why: String,
    },
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// An endpoint may be ended from now on.
    GivenUp(u64),
    /// An endpoint is another one of the engine from now on.
    Rebound { endpoint: u64, engine_id: String },
    /// The cluster knows it, or the container has stopped again.
    Settled(u64),
}

/// What the lines come to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Content {
    /// In the order in which they were given up.
    given_up: VecDeque<EndpointId>,
    /// The engine's ids of endpoints.
    rebound: BTreeMap<EndpointId, String>,
}

impl Content {
    fn add(&mut self, line: Line) {
        match line {
            Line::GivenUp(id) => {
                self.given_up.push_back(EndpointId(id));
                if self.given_up.len() > REMEMBERED {
                    self.given_up.pop_front();
                }
            }
            Line::Rebound { endpoint, engine_id } => drop(self.rebound.insert(EndpointId(endpoint), engine_id)),
            Line::Settled(id) => drop(self.rebound.remove(&EndpointId(id))),
        }
    }

    fn lines(&self) -> impl Iterator<Item = Line> {
        let given_up = self.given_up.iter().map(|id| Line::GivenUp(id.0));
        let rebound =
            |(id, engine_id): (&EndpointId, &String)| Line::Rebound { endpoint: id.0, engine_id: engine_id.clone() };
        given_up.chain(self.rebound.iter().map(rebound))
    }
}

/// The journal, open.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// The file and how many lines it has. Held while the disk is waited for, which the content never is.
    file: Mutex<(File, usize)>,
    content: Mutex<Content>,
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
        let file = rewrite(path, &content).map_err(io_error("write", path))?;
        let lines = content.lines().count();
        Ok(Self { path: path.to_owned(), file: Mutex::new((file, lines)), content: Mutex::new(content) })
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // Each line leaves it whole even if a holder panicked.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append_now(&self, new: Vec<Line>) -> io::Result<()> {
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, lines) = &mut *guard;
        file.write_all(new.iter().map(text).collect::<String>().as_bytes())?;
        file.sync_data()?;
        *lines += new.len();
        new.into_iter().for_each(|line| self.content().add(line));
        if *lines > 2 * REMEMBERED {
            let content = self.content().clone();
            (*file, *lines) = (rewrite(&self.path, &content)?, content.lines().count());
        }
        Ok(())
    }

    /// Appends lines and waits until they are on the disk.
    async fn append(self: &Arc<Self>, lines: Vec<Line>) -> Result<(), JournalError> {
        if lines.is_empty() {
            return Ok(());
        }
        let journal = self.clone();
        let written =
            tokio::task::spawn_blocking(move || journal.append_now(lines).map_err(io_error("write", &journal.path)));
        written.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Notes that endpoints may be ended from now on.
    ///
    /// # Errors
    ///
    /// When that is not on the disk: then the cluster must not be asked to end them.
    pub async fn give_up(self: &Arc<Self>, endpoints: &[(EndpointId, u64)]) -> Result<(), JournalError> {
        let known = self.given_up();
        let new = endpoints.iter().filter(|(id, _)| !known.contains(id));
        self.append(new.map(|(id, _)| Line::GivenUp(id.0)).collect()).await
    }

    /// Notes that an endpoint is another one of the engine from now on.
    ///
    /// # Errors
    ///
    /// When that is not on the disk: then the engine must not be told so.
    pub async fn rebind(self: &Arc<Self>, endpoint: EndpointId, engine_id: &str) -> Result<(), JournalError> {
        self.append(vec![Line::Rebound { endpoint: endpoint.0, engine_id: engine_id.to_owned() }]).await
    }

    /// Forgets a rebound endpoint: the cluster knows it, or its container has stopped again.
    ///
    /// # Errors
    ///
    /// When that is not on the disk.
    pub async fn settle(self: &Arc<Self>, endpoint: EndpointId) -> Result<(), JournalError> {
        let known = self.content().rebound.contains_key(&endpoint);
        self.append(if known { vec![Line::Settled(endpoint.0)] } else { Vec::new() }).await
    }

    /// Endpoints that somebody else may have by now.
    pub fn given_up(&self) -> BTreeSet<EndpointId> {
        self.content().given_up.iter().copied().collect()
    }

    /// Endpoints that the cluster has to be told of, with the engine's ids of them.
    pub fn rebound(&self) -> BTreeMap<EndpointId, String> {
        self.content().rebound.clone()
    }

    /// The state as this node sees it: with what it has rebound.
    pub(crate) fn view<'a>(&self, state: RwLockReadGuard<'a, State>) -> View<'a> {
        let rebound = self.rebound();
        if rebound.is_empty() {
            return View::Shared(state);
        }
        let mut own = state.clone();
        let mut known = BTreeSet::new();
        for (id, engine_id) in rebound {
            if let Some(endpoint) = own.endpoints.get_mut(&id).filter(|endpoint| !has_id(endpoint, &engine_id)) {
                (endpoint.state, endpoint.engine_id) = (EndpointState::Pending, engine_id);
                (endpoint.sandbox, endpoint.ifname) = (Sandbox::default(), String::new());
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
    Shared(RwLockReadGuard<'a, State>),
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
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(content.lines().map(|line| text(&line)).collect::<String>().as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
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

    #[tokio::test]
    async fn what_was_noted_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journal = Arc::new(Journal::open(&path).unwrap());
        journal.give_up(&[(EndpointId(7), 1), (EndpointId(8), 2)]).await.unwrap();
        journal.rebind(EndpointId(9), "abc").await.unwrap();
        journal.rebind(EndpointId(9), "def").await.unwrap();
        journal.rebind(EndpointId(10), "ghi").await.unwrap();
        journal.settle(EndpointId(10)).await.unwrap();
        let length = fs::metadata(&path).unwrap().len();
        journal.settle(EndpointId(10)).await.unwrap();
        journal.give_up(&[(EndpointId(7), 1)]).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), length, "nothing new was written");
        let content = reopened(&path);
        assert_eq!(content.given_up, [7, 8].map(EndpointId));
        assert_eq!(content.rebound, [(EndpointId(9), "def".to_owned())].into());
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3, "only what counts is kept");
        // A crash has cut off the last line.
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"given_up\":11");
        fs::write(&path, text).unwrap();
        assert_eq!(reopened(&path), content);
    }

    #[test]
    fn a_journal_that_makes_no_sense_is_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        fs::write(&path, "{\"given_up\":1}\nx\n").unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("journal") && error.contains("safe to remove"), "{error}");
        let error = Journal::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("writable"), "{error}");
    }

    #[test]
    fn the_oldest_given_up_are_forgotten() {
        let mut content = Content::default();
        (0..=REMEMBERED as u64).for_each(|id| content.add(Line::GivenUp(id)));
        assert_eq!((content.given_up.len(), content.given_up.front()), (REMEMBERED, Some(&EndpointId(1))));
    }
}
