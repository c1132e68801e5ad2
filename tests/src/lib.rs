//! Pontoon's tests on real parts: [`lab`] makes hosts out of network namespaces and runs real
//! daemons on them; the scenarios in `scenarios/`, the benchmarks and the soak are written against it.
//!
//! Everything here needs root, and fails without it.

pub mod lab;
mod process;
mod section;
pub mod socket;
mod wait;

pub use process::resident;
pub use section::Section;
pub use wait::{elapse, wait_for};
