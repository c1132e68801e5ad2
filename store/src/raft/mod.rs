//! Raft: openraft's traits over the disk and over gRPC, and what members ask of each other.

pub(crate) mod arrival;
pub(crate) mod channel;
pub(crate) mod convert;
pub(crate) mod guard;
#[cfg(not(feature = "sim"))]
mod link;
pub(crate) mod log_store;
pub(crate) mod network;
pub(crate) mod service;
pub(crate) mod state_machine;
#[cfg(test)]
mod suite;
pub(crate) mod types;
