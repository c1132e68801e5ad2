//! What the store takes from the world around it: tasks, time, threads and files. There are two worlds. In the real one
//! these are tokio and the system. With the feature `sim`, they are a simulated host with a clock, a disk and links of its
//! own, on which everything else here runs unchanged (store/src/rt/sim.rs).

#[cfg(not(feature = "sim"))]
mod real;
#[cfg(feature = "sim")]
pub mod sim;

#[cfg(not(feature = "sim"))]
pub use real::{
    Elapsed, Instant, JoinHandle, Runtime, Thread, fs, now, settle, sleep, sleep_until, spawn, spawn_blocking, thread,
    timeout, timeout_at, wall_ms, watch,
};
#[cfg(feature = "sim")]
pub use sim::{
    Elapsed, Instant, JoinHandle, Runtime, Thread, fs, now, settle, sleep, sleep_until, spawn, spawn_blocking, thread,
    timeout, timeout_at, wall_ms, watch,
};
