//! What is on disk: the write-ahead log, which is the authority, snapshots, and the
//! materialised state, which can be built again from the two. The only module that names sled.

pub(crate) mod snapshot;
pub(crate) mod state;
#[cfg(feature = "sim")]
mod twin;
pub(crate) mod wal;
