//! The model's types as the messages of `pontoon.v1`, and as bytes on disk.
//!
//! - `object`, `voting`: objects, also for the API
//! - `command`, `engine`: entries and what is answered
//! - `stored`: snapshots, single objects and their hash

mod admin;
mod command;
mod engine;
mod error;
mod object;
mod stored;
mod token;
mod voting;
mod watched;

#[cfg(test)]
mod tests;

pub use command::{decode_entry, encode_entry, response, result};
pub use error::CodecError;
pub use object::{lease_state, lease_view};
pub use stored::{SNAPSHOT_FORMAT, decode_snapshot, encode_snapshot, object_hash};
