//! The write-ahead log: Raft's votes and entries, in preallocated segment files.
//!
//! One thread writes. It takes everything that is queued, writes it with one call, calls
//! `fdatasync` once, and only then says that it is done, in order. Votes and entries share the
//! queue: Raft is not safe when they are reordered. A write or a sync that fails is fatal and is
//! never tried again, because nobody knows then what the pages hold.
//!
//! Contents are opaque here; `raft/log_store.rs` says what they mean. [`mod@format`] describes the bytes,
//! [`recover`] what is accepted when a log is opened.

mod format;
mod recover;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use thiserror::Error;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{self, UnboundedSender};

use crate::model::id::{ClusterId, RaftId};
use crate::rt;

/// Size of a segment. 64 MiB are for logs that keep 100,000 entries; this one keeps about 11,000 of
/// a few hundred bytes, so 16 MiB hold several snapshots' worth and a node's folder stays small.
pub(crate) const SEGMENT_BYTES: u64 = 16 << 20;

/// Whose log it is. It is in every segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Cluster.
    pub(crate) cluster: ClusterId,
    /// Member.
    pub(crate) raft_id: RaftId,
}

/// Where a log is and how it is kept.
#[derive(Debug, Clone)]
pub(crate) struct WalOptions {
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// Whose it is.
    pub(crate) identity: Identity,
    /// Bytes that are allocated for a segment.
    pub(crate) segment_bytes: u64,
}

/// Something to write.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    /// The vote.
    Vote(Bytes),
    /// An entry with its index, which is one more than the last one's.
    Entry(u64, Bytes),
    /// Drops the entries from this index on.
    Truncate(u64),
    /// Drops the entries up to this index; the bytes name the last of them.
    Purge(u64, Bytes),
    /// What is known to be committed. A hint: it waits for the next sync.
    Committed(Bytes),
}

/// Called when what was submitted is on disk, or cannot be.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Called once when the log cannot be written any more. It should end the process.
pub(crate) type Fatal = Arc<dyn Fn(&str) + Send + Sync>;

/// What a log held when it was opened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// The last vote.
    pub(crate) vote: Option<Bytes>,
    /// The last known committed entry.
    pub(crate) committed: Option<Bytes>,
    /// Up to where the log is purged.
    pub(crate) purged: Option<(u64, Bytes)>,
    /// Entries, from the one after the purged ones, without a hole.
    pub(crate) entries: BTreeMap<u64, Bytes>,
    /// Whether the last write had not been finished, and was cut off.
    pub(crate) torn: bool,
}

/// Counts what the log did since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct WalCounts {
    /// Groups that were acknowledged.
    pub(crate) groups: u64,
    /// Calls of `fdatasync` on a segment.
    pub(crate) syncs: u64,
    /// Segments that were begun.
    pub(crate) segments: u64,
    /// Entries that were written.
    pub(crate) entries: u64,
}

#[derive(Debug)]
struct Counters {
    groups: AtomicU64,
    syncs: AtomicU64,
    segments: AtomicU64,
    entries: AtomicU64,
    /// How long the syncs took, in seconds.
    sync_seconds: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        let count = AtomicU64::default;
        // From 100 µs, which few disks are faster than, to 3.3 s: an election takes less.
        let sync_seconds = Histogram::new(exponential_buckets(0.0001, 2.0, 16));
        Self { groups: count(), syncs: count(), segments: count(), entries: count(), sync_seconds }
    }
}

/// An open log. Dropping it writes what is queued and ends its thread.
#[derive(Debug)]
pub(crate) struct Wal {
    queue: Option<UnboundedSender<writer::Request>>,
    thread: Option<rt::Thread>,
    counters: Arc<Counters>,
}

impl Wal {
    /// Opens the log in the folder, or begins one.
    ///
    /// # Errors
    ///
    /// A log of another cluster, another member or a newer format; a log that is damaged in its
    /// middle; an I/O error.
    pub(crate) fn open(options: WalOptions, fatal: Fatal) -> Result<(Self, Recovered), WalError> {
        let counters = Arc::new(Counters::default());
        let (writer, recovered) = recover::open(options, Arc::clone(&counters))?;
        let (queue, requests) = mpsc::unbounded_channel();
        let thread = rt::thread("wal", writer.run(requests, fatal))
            .map_err(|source| WalError::io("start the thread of", Path::new("the write-ahead log"), source))?;
        Ok((Self { queue: Some(queue), thread: Some(thread), counters }, recovered))
    }

    /// Queues writes. `done` is called when they are on disk; without it they wait for a later sync.
    pub(crate) fn submit(&self, writes: Vec<Write>, done: Option<Done>) {
        let Some(queue) = &self.queue else { return };
        if let Err(SendError(request)) = queue.send(writer::Request { writes, done })
            && let Some(done) = request.done
        {
            done(Err(io::Error::other("the write-ahead log is closed")));
        }
    }

    /// What it did so far.
    pub(crate) fn counts(&self) -> WalCounts {
        WalCounts {
            groups: self.counters.groups.load(Ordering::Relaxed),
            syncs: self.counters.syncs.load(Ordering::Relaxed),
            segments: self.counters.segments.load(Ordering::Relaxed),
            entries: self.counters.entries.load(Ordering::Relaxed),
        }
    }

    /// How long its calls of `fdatasync` take, in seconds; it goes on counting.
    pub(crate) fn sync_seconds(&self) -> Histogram {
        self.counters.sync_seconds.clone()
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so; there is nothing to hand on.
            let _ = thread.join();
        }
    }
}

/// Why a log cannot be opened or written.
#[derive(Debug, Error)]
pub(crate) enum WalError {
    /// An I/O error.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Another cluster's or another member's log.
    #[error(
        "{} belongs to member {} of cluster {}, and this is member {} of cluster {}: use the data folder that belongs to it",
        path.display(), theirs.raft_id, theirs.cluster, ours.raft_id, ours.cluster
    )]
    Foreign {
        /// Segment.
        path: PathBuf,
        /// Who opens it.
        ours: Identity,
        /// Whose it is.
        theirs: Identity,
    },
    /// Another process has it open.
    #[error("the log in {} is in use: another pontoond runs with this data folder; stop it first", path.display())]
    InUse {
        /// Folder.
        path: PathBuf,
    },
    /// Written by a later version.
    #[error("{} has format {found}, and this version knows formats up to {known}: install a version that knows it", path.display())]
    Newer {
        /// Segment.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The latest known.
        known: u32,
    },
    /// Damaged in the middle.
    #[error(
        "{} is damaged at byte {offset} ({detail}), and acknowledged writes may be lost: this node must not vote with it. \
         Remove the node from the cluster, clear its data folder and join again",
        path.display()
    )]
    Corrupt {
        /// Segment.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        detail: &'static str,
    },
}

impl WalError {
    fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { operation, path: path.to_owned(), source }
    }

    fn corrupt(path: &Path, offset: u64, detail: &'static str) -> Self {
        Self::Corrupt { path: path.to_owned(), offset, detail }
    }
}
