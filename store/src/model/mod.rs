//! What the cluster agrees on, and every decision about it. Pure: no async, clock, random
//! numbers or I/O, so that the same log gives the same state on every node.
//!
//! - [`id`]: ids and small checked values
//! - [`object`]: the objects
//! - [`command`]: everything that can be written, and what is answered
//! - [`rejection`]: why something was refused
//! - [`state`]: the objects together

pub mod command;
pub mod id;
pub mod object;
pub mod rejection;
pub mod state;
