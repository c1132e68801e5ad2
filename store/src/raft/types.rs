//! openraft's types as this store uses them.

use std::fmt;

use bytes::Bytes;

use crate::model::command::Outcome;
use crate::model::rejection::Rejection;
use crate::tls::PublicKey;

/// An encoded `Entry` (store.proto). It stays encoded until it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryBytes(pub(crate) Bytes);

impl fmt::Display for EntryBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What apply answered; none for the entries that Raft makes itself.
pub(crate) type Answer = Option<Result<Outcome, Rejection>>;

/// A member as the Raft membership has it: where it is reached, and whose key it has. So every member can tell another
/// from somebody who says he were it, without anything else than its log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Address and port of its daemon.
    pub address: String,
    /// Its node's public key.
    pub key: PublicKey,
}

openraft::declare_raft_types!(
    /// The types.
    pub(crate) Types:
        D = EntryBytes,
        R = Answer,
        Node = Peer,
        AsyncRuntime = crate::rt::Runtime,
);

pub(crate) type LeaderId = openraft::alias::LeaderIdOf<Types>;
pub(crate) type LogId = openraft::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::alias::VoteOf<Types>;
pub(crate) type LogEntry = openraft::alias::EntryOf<Types>;
pub(crate) type Payload = openraft::alias::EntryPayloadOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, Peer>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
