//! Pontoon's gRPC API and the messages of its log, generated from `pontoon/v1/*.proto`.

mod checked;
mod json;
mod token;
mod unlock;

pub use json::ShortName;
pub use token::{JoinToken, Secret, TokenError};
pub use unlock::{UnlockKey, UnlockKeyError};

/// Package `pontoon.v1`.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "generated code")]
#[allow(clippy::all, clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("pontoon.v1");
}

impl v1::Member {
    /// What it is to the log.
    pub fn role(&self) -> &'static str {
        match (self.leader, self.voter, self.observer) {
            (true, ..) => "leader",
            (false, true, _) => "voter",
            (false, false, false) => "learner",
            (false, false, true) => "observer",
        }
    }
}

/// Metadata keys that every call between members carries.
pub mod metadata {
    /// Id of the cluster that the caller is in.
    pub const CLUSTER: &str = "pontoon-cluster";
    /// Raft id of the caller.
    pub const FROM: &str = "pontoon-from";
    /// Raft id that the caller believes it speaks to.
    pub const TO: &str = "pontoon-to";
    /// What the caller's clock says, in milliseconds since the Unix epoch: a refusal can name both clocks.
    pub const TIME: &str = "pontoon-time";
    /// Comes with a refusal: the caller is not, or no longer, a node of the cluster, and its vote is not
    /// needed any more.
    pub const REMOVED: &str = "pontoon-removed";
    /// Comes with a refusal: the caller's node is no member under the id that it calls with, and has this one.
    pub const RAFT_ID: &str = "pontoon-raft-id";
    /// Comes with an admission that failed: one of the reasons that docs/api.md lists.
    pub const REASON: &str = "pontoon-reason";
}

/// Every service and message, as an encoded `FileDescriptorSet`: for programs that have not these files.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Largest message that a daemon accepts, in bytes. Entries and batches are bounded well below.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// Bytes of a part of a backup that is sent.
pub const BACKUP_PART_BYTES: usize = 512 << 10;

/// TCP port that members reach each other at, unless configured.
pub const DEFAULT_PEER_PORT: u16 = 7300;

/// UDP port of VXLAN (RFC 7348, section 5), unless configured.
pub const DEFAULT_VXLAN_PORT: u16 = 4789;
