//! Pontoon's replicated store: what the cluster agrees on, kept by Raft on every member's
//! disk. It knows nothing of Linux networking.

pub mod codec;
pub mod model;
