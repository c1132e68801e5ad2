//! Real daemons on real hosts: what an administrator does, and what happens to them on a bad day.
//!
//! The core scenarios (`reach`, `leader_kill`, `restart`) run in several [`environment`]s.

mod activation;
mod crash;
mod crowd;
mod daemon;
mod demo;
mod docker;
mod doctor;
mod drift;
mod durability;
mod endpoints;
mod engine;
mod environment;
mod joining;
mod lab;
mod lagging;
mod leader_kill;
mod members;
mod metrics;
mod observers;
mod page;
mod plugin;
mod quorum;
mod reach;
mod refusals;
mod restart;
mod room;
mod service;
mod voters;
mod watch;
