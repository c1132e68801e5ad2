//! Pontoon's replicated store: what the cluster agrees on, kept by Raft on every member's
//! disk. It knows nothing of Linux networking.
//!
//! [`Store`] is one member. [`PeerServer`] serves the port that members reach each other at, also
//! while a daemon is in no cluster. [`hello`] and [`knock`] are what a newcomer asks.

mod accept;
pub mod codec;
mod disk;
mod entrance;
mod feed;
pub mod model;
mod origin;
mod peer;
mod raft;
mod refusals;
pub mod rt;
mod store;
pub mod tasks;
mod tls;
mod watch;

pub use entrance::{AdmitError, Admitted, Door, Identified, hello, knock};
pub use feed::{Changes, Compacted};
pub use origin::{asked_by, on_behalf_of};
pub use peer::{PeerServer, StoreSlot};
pub use raft::guard::StateGuard;
pub use raft::types::Peer;
pub use store::{
    CertifyError, ExpelError, Fatal, Level, MemberStatus, Missing, NeededError, OpenError, Outlook, ProposeError,
    ReachError, ReadError, Requests, Role, Room, Store, StoreOptions, StoreStatus, Timing, Watched,
};
#[cfg(feature = "sim")]
pub use store::{Logged, Probe};
pub use tls::{
    Authority, AuthorityError, Certificate, CertificateError, Certified, ClusterKey, Connection, HeldKey, KeyError,
    NodeKey, PublicKey, Shown, server_name, timestamp,
};
pub use watch::{WatchError, Watching};

/// Largest command, in bytes of its encoding. A request between members carries about 1 MiB of entries,
/// and a message is at most 8 MiB.
pub const MAX_COMMAND_BYTES: usize = 256 << 10;

/// An error and its causes in one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
