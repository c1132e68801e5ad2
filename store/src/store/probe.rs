//! What a simulation looks at to see whether Raft keeps its promises.

use bytes::Bytes;
use openraft::ServerState;
use prost::Message;

use super::Store;
use crate::raft::convert;
use crate::raft::types::{LogEntry, Payload};

/// An entry of a log: who made it, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Term of the leader that made it.
    pub term: u64,
    /// That leader.
    pub leader: u64,
    /// What it says, encoded.
    pub bytes: Bytes,
}

/// A member at one moment.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Its term.
    pub term: u64,
    /// Whether it takes itself for the leader of that term.
    pub leads: bool,
    /// Up to where its own log is committed.
    pub committed: u64,
    /// Entries of its log, by index.
    pub log: Vec<(u64, Logged)>,
}

impl Store {
    /// This member at this moment, with the last so many entries of its log.
    pub fn probe(&self, entries: u64) -> Probe {
        let metrics = self.metrics();
        let from = metrics.last_log_index.unwrap_or(0).saturating_sub(entries);
        let bytes = |entry: &LogEntry| match &entry.payload {
            Payload::Normal(data) => data.0.clone(),
            Payload::Blank | Payload::Membership(_) => convert::entry_out(entry).encode_to_vec().into(),
        };
        let logged = |entry: &LogEntry| Logged {
            term: entry.log_id.leader_id.term,
            leader: entry.log_id.leader_id.node_id,
            bytes: bytes(entry),
        };
        let log = self.consensus().map(|consensus| consensus.log.entries_from(from)).unwrap_or_default();
        Probe {
            term: metrics.current_term,
            leads: metrics.state == ServerState::Leader,
            committed: metrics.local_committed.map_or(0, |id| id.index),
            log: log.iter().map(|(index, entry)| (*index, logged(entry))).collect(),
        }
    }
}
