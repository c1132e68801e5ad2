//! openraft's log over the write-ahead log. Every entry that is not purged is also in memory.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, RaftTypeConfig};
use pontoon_proto::v1;
use prost::Message;
use tokio::sync::oneshot;

use super::convert;
use super::types::{LogEntry, LogId, Payload, Types, Vote};
use crate::disk::wal::{Done, Recovered, Wal, Write};

/// About how many bytes of entries go into one request, well below the limit of a message.
const READ_BYTES: usize = 1 << 20;

/// The log. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    wal: Arc<Wal>,
    memory: Arc<RwLock<Memory>>,
}

#[derive(Debug, Default)]
struct Memory {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, LogEntry>,
}

impl LogStore {
    /// The log that was opened.
    ///
    /// # Errors
    ///
    /// Contents that cannot be decoded although their checksum holds: another version wrote them.
    pub(crate) fn new(wal: Arc<Wal>, recovered: Recovered) -> Result<Self, io::Error> {
        let mut memory = Memory {
            vote: recovered.vote.as_deref().map(decode_vote).transpose()?,
            committed: recovered.committed.as_deref().map(decode_log_id).transpose()?,
            purged: recovered.purged.map(|(_, bytes)| decode_log_id(&bytes)).transpose()?,
            entries: BTreeMap::new(),
        };
        for (index, bytes) in recovered.entries {
            let entry = v1::LogEntry::decode(bytes).map_err(io::Error::other)?;
            memory.entries.insert(index, convert::entry_in(entry).map_err(io::Error::other)?);
        }
        Ok(Self { wal, memory: Arc::new(RwLock::new(memory)) })
    }

    /// Its last entry, or the last that was purged.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.read().last()
    }

    /// Up to where the log is purged.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.read().purged
    }

    /// Entries from an index on.
    pub(crate) fn entries_from(&self, index: u64) -> BTreeMap<u64, LogEntry> {
        self.read().entries.range(index..).map(|(index, entry)| (*index, entry.clone())).collect()
    }

    /// Waits until everything that was queued is on disk.
    pub(crate) async fn drain(&self) {
        let (sender, receiver) = oneshot::channel();
        // Nobody waits any more, or the log is closed already: either way there is nothing to do.
        self.wal.submit(Vec::new(), Some(Box::new(move |_| sender.send(()).unwrap_or(()))));
        let _ = receiver.await;
    }

    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes and waits until it is on disk.
    async fn write(&self, write: Write) -> Result<(), io::Error> {
        let (sender, receiver) = oneshot::channel();
        let done: Done = Box::new(move |result| {
            // Whoever asked may have gone.
            let _ = sender.send(result);
        });
        self.wal.submit(vec![write], Some(done));
        receiver.await.map_err(|_| io::Error::other("the write-ahead log has ended"))?
    }
}

impl Memory {
    fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, entry)| entry.log_id).or(self.purged)
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<LogEntry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Ok(self.read().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.read().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        let mut bytes = 0;
        let within = |(_, entry): &(&u64, &LogEntry)| {
            let before = bytes;
            bytes += size_of(entry);
            before == 0 || bytes <= READ_BYTES
        };
        let memory = self.read();
        // A stream to a member that is given up may go on reading for a moment, while the log is purged. What it would
        // send without the entries that are gone would leave a hole in that member's log.
        if !memory.entries.contains_key(&start) {
            return Ok(Vec::new());
        }
        Ok(memory.entries.range(start..end).take_while(within).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let memory = self.read();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.write(Write::Vote(encode(&convert::vote_out(vote)))).await?;
        self.change().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        self.change().committed = Some(committed);
        self.wal.submit(vec![Write::Committed(encode(&convert::log_id_out(&committed)))], None);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.read().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = <Types as RaftTypeConfig>::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut writes = Vec::new();
        {
            let mut memory = self.change();
            for entry in entries {
                writes.push(Write::Entry(entry.log_id.index, encode(&convert::entry_out(&entry))));
                memory.entries.insert(entry.log_id.index, entry);
            }
        }
        self.wal.submit(writes, Some(Box::new(move |result| callback.io_completed(result))));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        self.change().entries.split_off(&from);
        self.write(Write::Truncate(from)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        {
            let mut memory = self.change();
            memory.entries = memory.entries.split_off(&(log_id.index + 1));
            memory.purged = Some(log_id);
        }
        self.write(Write::Purge(log_id.index, encode(&convert::log_id_out(&log_id)))).await
    }
}

fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

fn decode_vote(bytes: &[u8]) -> Result<Vote, io::Error> {
    let vote = v1::Vote::decode(bytes).map_err(io::Error::other)?;
    convert::vote_in(Some(&vote)).map_err(io::Error::other)
}

fn decode_log_id(bytes: &[u8]) -> Result<LogId, io::Error> {
    let id = v1::LogId::decode(bytes).map_err(io::Error::other)?;
    convert::log_id_in(&id).map_err(io::Error::other)
}

fn size_of(entry: &LogEntry) -> usize {
    match &entry.payload {
        Payload::Normal(data) => data.0.len() + 64,
        Payload::Blank => 64,
        Payload::Membership(membership) => 64 * (1 + membership.nodes().count()),
    }
}
