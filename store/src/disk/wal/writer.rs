//! The thread that writes the log.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedReceiver as Receiver;

use super::format::{self, Checkpoint, Place};
use super::segment::{self, Segment};
use super::{Counters, Done, Fatal, WalError, WalOptions, Write};
use crate::rt::{self, fs::File};

/// How much is taken from the queue for one group, so that the first in it does not wait long.
const GROUP_BYTES: u64 = 4 << 20;

/// Writes that belong together.
pub(super) struct Request {
    pub(super) writes: Vec<Write>,
    pub(super) done: Option<Done>,
}

/// A segment that is still needed.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) number: u64,
    /// Last index of an entry that was written into it.
    pub(super) last_index: Option<u64>,
}

/// Where an opened log goes on.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) segment: Segment,
    /// Where the next record goes.
    pub(super) end: u64,
    /// The next batch.
    pub(super) batch: u64,
    pub(super) kept: Vec<Kept>,
    /// Keeps other processes out.
    pub(super) lock: File,
}

/// Where the log is being written.
#[derive(Debug)]
pub(super) struct Writer {
    options: WalOptions,
    segment: Segment,
    /// Where the next record goes.
    end: u64,
    batch: u64,
    /// Where the open batch began.
    batch_start: u64,
    /// What the next segment begins with, but for `previous_end`.
    checkpoint: Checkpoint,
    kept: VecDeque<Kept>,
    counters: Arc<Counters>,
    /// Keeps other processes out as long as it is open.
    _lock: File,
}

impl Writer {
    pub(super) fn new(options: WalOptions, opened: Opened, checkpoint: Checkpoint, counters: Arc<Counters>) -> Self {
        let Opened { segment, end, batch, kept, lock } = opened;
        Self { options, segment, end, batch, batch_start: end, checkpoint, kept: kept.into(), counters, _lock: lock }
    }

    /// Serves requests until nobody can send any more, or until a write fails.
    pub(super) async fn run(mut self, mut requests: Receiver<Request>, fatal: Fatal) {
        while let Some(first) = requests.recv().await {
            let mut bytes = bytes_of(&first);
            let mut group = vec![first];
            while bytes < GROUP_BYTES
                && let Ok(next) = requests.try_recv()
            {
                bytes += bytes_of(&next);
                group.push(next);
            }
            let written = self.write_group(&group, bytes);
            rt::settle().await;
            if let Err(error) = written {
                let message = crate::error_chain(&error);
                fatal(&message);
                fail_all(group, requests, &message).await;
                return;
            }
            for done in group.into_iter().filter_map(|request| request.done) {
                done(Ok(()));
            }
        }
    }

    fn write_group(&mut self, group: &[Request], bytes: u64) -> Result<(), WalError> {
        if self.end + bytes > self.options.segment_bytes && bytes > 0 {
            self.begin_segment(bytes)?;
        }
        let place =
            Place { segment: self.segment.number, batch: self.batch, batch_start: self.batch_start, base: self.end };
        let mut buffer = Vec::with_capacity(bytes as usize);
        let mut purged = None;
        for write in group.iter().flat_map(|request| &request.writes) {
            format::encode_write(&mut buffer, place, write);
            self.note(write);
            if let Write::Purge(index, _) = write {
                purged = Some(*index);
            }
        }
        self.segment.write(&buffer, self.end)?;
        self.end += buffer.len() as u64;
        // A segment must not go before the purge that allows it is on disk.
        if purged.is_some() || group.iter().any(|request| request.done.is_some()) {
            self.sync()?;
            self.counters.groups.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(index) = purged {
            self.remove_purged(index)?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), WalError> {
        let begun = Instant::now();
        self.segment.sync()?;
        self.counters.sync_seconds.observe(begun.elapsed().as_secs_f64());
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.batch += 1;
        self.batch_start = self.end;
        Ok(())
    }

    fn begin_segment(&mut self, bytes: u64) -> Result<(), WalError> {
        if self.batch_start < self.end {
            self.sync()?;
        }
        self.checkpoint.previous_end = self.end;
        let number = self.segment.number + 1;
        // One group may be larger than a segment.
        let size = self.options.segment_bytes.max(bytes + (64 << 10));
        let dir = &self.options.dir;
        let created = Segment::create(dir, self.options.identity, number, size, self.batch, &self.checkpoint)?;
        (self.segment, self.end) = created;
        self.batch += 1;
        self.batch_start = self.end;
        self.kept.push_back(Kept { number, last_index: None });
        self.counters.segments.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn note(&mut self, write: &Write) {
        match write {
            Write::Vote(bytes) => self.checkpoint.vote = Some(bytes.clone()),
            Write::Committed(bytes) => self.checkpoint.committed = Some(bytes.clone()),
            Write::Purge(index, bytes) => self.checkpoint.purged = Some((*index, bytes.clone())),
            Write::Truncate(_) => {}
            Write::Entry(index, _) => {
                self.counters.entries.fetch_add(1, Ordering::Relaxed);
                if let Some(kept) = self.kept.back_mut() {
                    kept.last_index = kept.last_index.max(Some(*index));
                }
            }
        }
    }

    /// Removes the oldest segments, as long as all of their entries are purged.
    fn remove_purged(&mut self, purged: u64) -> Result<(), WalError> {
        let mut removed = false;
        while self.kept.len() > 1
            && let Some(oldest) = self.kept.front()
            && oldest.last_index.is_none_or(|last| last <= purged)
        {
            segment::remove(&self.options.dir, oldest.number)?;
            self.kept.pop_front();
            removed = true;
        }
        if removed { segment::sync_dir(&self.options.dir) } else { Ok(()) }
    }
}

fn bytes_of(request: &Request) -> u64 {
    request.writes.iter().map(format::record_bytes).sum()
}

/// Tells everybody who waits, now and later, that nothing is written any more.
async fn fail_all(group: Vec<Request>, mut requests: Receiver<Request>, message: &str) {
    let failed = |request: Request| {
        if let Some(done) = request.done {
            done(Err(io::Error::other(message.to_owned())));
        }
    };
    group.into_iter().for_each(failed);
    while let Some(request) = requests.recv().await {
        failed(request);
    }
}
