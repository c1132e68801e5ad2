//! Pontoon's tests on real parts: [`lab`] makes hosts out of network namespaces and runs real
//! daemons on them; the scenarios in `scenarios/` and the benchmarks are written against it.
//!
//! Everything here needs root, and fails without it.

pub mod lab;
mod wait;

pub use wait::{elapse, wait_for};
