//! Opening a log. The end of the last segment may be torn: it is cut off, because nothing behind the last
//! sync was acknowledged. Damage anywhere else means that acknowledged writes are gone, and the log is refused.

use std::path::Path;
use std::sync::Arc;

use super::format::{self, Checkpoint, Contents, HEADER_BYTES, HeaderError};
use super::segment::{self, Segment};
use super::writer::{Kept, Opened, Writer};
use super::{Counters, Recovered, WalError, WalOptions, Write};
use crate::rt::fs;

/// What reading the segments gathers.
#[derive(Default)]
struct Replay {
    recovered: Recovered,
    kept: Vec<Kept>,
    batch: u64,
    /// Where the latest segment ends.
    end: u64,
}

pub(super) fn open(options: WalOptions, counters: Arc<Counters>) -> Result<(Writer, Recovered), WalError> {
    let dir = &options.dir;
    fs::create_dir_all(dir).map_err(|source| WalError::io("create", dir, source))?;
    let lock = segment::lock(dir)?;
    let numbers = segment::list(dir)?;
    let mut replay = Replay::default();
    let mut damaged = false;
    for (position, &number) in numbers.iter().enumerate() {
        let last = position + 1 == numbers.len();
        if position > 0 && number != numbers[position - 1] + 1 {
            return Err(WalError::corrupt(&segment::path_of(dir, number), 0, "the segment before it is missing"));
        }
        damaged = replay.read(&options, number, position == 0, last)?;
    }
    replay.check_entries(dir)?;
    let (segment, end) = match numbers.last() {
        Some(&number) => (Segment::reopen(dir, number, options.segment_bytes, replay.end, damaged)?, replay.end),
        None => {
            replay.kept.push(Kept { number: 1, last_index: None });
            let checkpoint = Checkpoint::default();
            Segment::create(dir, options.identity, 1, options.segment_bytes, 0, &checkpoint)?
        }
    };
    replay.recovered.torn = damaged;
    let checkpoint = Checkpoint {
        previous_end: end,
        vote: replay.recovered.vote.clone(),
        committed: replay.recovered.committed.clone(),
        purged: replay.recovered.purged.clone(),
    };
    let place = Opened { segment, end, batch: replay.batch + 1, kept: replay.kept, lock };
    let writer = Writer::new(options, place, checkpoint, counters);
    Ok((writer, replay.recovered))
}

impl Replay {
    /// Reads one segment. Returns whether something unfinished follows its last record.
    fn read(&mut self, options: &WalOptions, number: u64, first: bool, last: bool) -> Result<bool, WalError> {
        let path = segment::path_of(&options.dir, number);
        let data = fs::read(&path).map_err(|source| WalError::io("read", &path, source))?;
        check_header(&data, &path, options, number)?;
        self.kept.push(Kept { number, last_index: None });
        let mut offset = HEADER_BYTES;
        while let Some(record) = format::decode(&data, number, offset) {
            match record.contents {
                Contents::Checkpoint(checkpoint) if offset == HEADER_BYTES => {
                    if !first && checkpoint.previous_end != self.end {
                        return Err(WalError::corrupt(&path, offset as u64, "the segment before it ends elsewhere"));
                    }
                    self.recovered.vote = checkpoint.vote;
                    self.recovered.committed = checkpoint.committed;
                    self.recovered.purged = checkpoint.purged;
                }
                Contents::Write(write) if offset > HEADER_BYTES => self.apply(write, &path, offset)?,
                _ => return Err(WalError::corrupt(&path, offset as u64, "a record where none of its kind can be")),
            }
            self.batch = record.batch;
            offset = record.next;
        }
        if offset == HEADER_BYTES {
            return Err(WalError::corrupt(&path, offset as u64, "its checkpoint cannot be read"));
        }
        self.end = offset as u64;
        let rest = data.get(offset..).unwrap_or_default();
        if rest.iter().all(|&byte| byte == 0) {
            return Ok(false);
        }
        if !last || later_batch(&data, number, offset) {
            return Err(WalError::corrupt(&path, offset as u64, "a record cannot be read, and later ones can"));
        }
        Ok(true)
    }

    fn apply(&mut self, write: Write, path: &Path, offset: usize) -> Result<(), WalError> {
        match write {
            Write::Vote(bytes) => self.recovered.vote = Some(bytes),
            Write::Committed(bytes) => self.recovered.committed = Some(bytes),
            Write::Truncate(from) => drop(self.recovered.entries.split_off(&from)),
            Write::Purge(index, bytes) => {
                self.recovered.entries = self.recovered.entries.split_off(&(index + 1));
                self.recovered.purged = Some((index, bytes));
            }
            Write::Entry(index, bytes) => {
                let expected = self.recovered.entries.last_key_value().map(|(last, _)| last + 1);
                if expected.is_some_and(|expected| expected != index) {
                    return Err(WalError::corrupt(path, offset as u64, "an entry does not follow the one before it"));
                }
                self.recovered.entries.insert(index, bytes);
                if let Some(kept) = self.kept.last_mut() {
                    kept.last_index = kept.last_index.max(Some(index));
                }
            }
        }
        Ok(())
    }

    /// Drops entries that are purged already, and checks that none is missing before the first that is left.
    fn check_entries(&mut self, dir: &Path) -> Result<(), WalError> {
        // A log of which nothing was purged begins with entry 0, the first membership.
        let next = self.recovered.purged.as_ref().map_or(0, |(index, _)| index + 1);
        self.recovered.entries = self.recovered.entries.split_off(&next);
        match self.recovered.entries.first_key_value() {
            Some((&first, _)) if first != next => Err(WalError::corrupt(dir, 0, "entries are missing")),
            _ => Ok(()),
        }
    }
}

fn check_header(data: &[u8], path: &Path, options: &WalOptions, number: u64) -> Result<(), WalError> {
    let (theirs, found) = format::decode_header(data).map_err(|error| match error {
        HeaderError::Damaged => WalError::corrupt(path, 0, "its header cannot be read"),
        HeaderError::Newer(found) => WalError::Newer { path: path.to_owned(), found, known: format::FORMAT },
    })?;
    if theirs != options.identity {
        return Err(WalError::Foreign { path: path.to_owned(), ours: options.identity, theirs });
    }
    if found != number {
        return Err(WalError::corrupt(path, 0, "its header has another segment's number"));
    }
    Ok(())
}

/// Whether a batch begins behind a damaged place. It would not have been written before the damaged one was synced.
fn later_batch(data: &[u8], number: u64, damaged: usize) -> bool {
    (damaged..data.len())
        .step_by(8)
        .filter_map(|offset| format::decode(data, number, offset))
        .any(|record| record.batch_start > damaged as u64)
}
