//! The Pontoon daemon: it keeps a copy of the replicated store, makes its host's kernel look
//! the way the store says, and answers the administrator.

pub mod config;
pub mod identity;
