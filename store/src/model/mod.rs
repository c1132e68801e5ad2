//! What the cluster agrees on, and every decision about it. Pure: no async, clock, random
//! numbers or I/O, so that the same log gives the same state on every node.
//!
//! - [`id`]: ids and small checked values
//! - [`object`]: the objects
//! - [`command`]: everything that can be written, and what is answered
//! - [`rejection`]: why something was refused
//! - [`state`]: the objects together
//! - [`apply`]: what a command does to them
//! - [`check`]: what holds at all times
//! - [`interest`]: what of them concerns one node
//! - [`voters`]: who votes in Raft
//! - [`agreement`]: whether members have made the same of the log

pub mod admin;
pub mod agreement;
mod alloc;
pub mod apply;
pub mod check;
pub mod command;
pub mod entry;
pub mod id;
mod index;
pub mod interest;
mod name;
pub mod object;
pub mod rejection;
pub mod state;
mod subnet;
pub mod voters;

#[cfg(test)]
pub(crate) mod tests;
