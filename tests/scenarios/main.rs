//! Real daemons on real hosts: what an administrator does, and what happens to them on a bad day.
//!
//! The core scenarios (`reach`, `leader_kill`, `restart`) run in several [`environment`]s.

mod activation;
mod admins;
mod certificates;
mod crash;
mod crowd;
mod daemon;
mod demo;
mod disaster;
mod docker;
mod doctor;
mod drift;
mod durability;
mod endpoints;
mod engine;
mod environment;
mod growth;
mod joining;
mod lab;
mod lagging;
mod leader_kill;
mod members;
mod metrics;
mod observers;
mod page;
mod places;
mod plugin;
mod quorum;
mod reach;
mod refusals;
mod restart;
mod rolling;
mod room;
mod service;
mod strangers;
mod tokens;
mod voters;
mod watch;

use anyhow::{Result, anyhow};

/// What gives a program another clock.
fn faketime() -> Result<String> {
    let library = ["x86_64", "aarch64"].map(|arch| format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketimeMT.so.1"));
    let library = library.into_iter().find(|path| std::path::Path::new(path).exists());
    library.ok_or_else(|| anyhow!("libfaketime is not installed: run tests/setup.sh"))
}

/// The environment of a program whose clock is so much ahead (`+1h`) or behind (`-2d`).
fn clock(library: &str, offset: &str) -> Vec<(String, String)> {
    let env = [("LD_PRELOAD", library), ("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}
