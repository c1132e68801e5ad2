//! What this node's kernel should hold, what it holds, and the difference. Pure: no async,
//! clock, random numbers or I/O, so that every decision can be tested with values only.
//!
//! - [`object`]: the things that a node keeps in its kernel
//! - [`desired`]: which of them the cluster's state asks for
//! - [`observed`]: which of them the kernel holds
//! - [`diff`]: the steps from one to the other
//! - [`drift`]: which of the steps repair what somebody else changed
//! - [`egress`]: which subnets the gateway bridge gets
//! - [`engine`]: what a container engine should have of the cluster's networks
//! - [`names`]: what containers are called, and who may ask
//! - [`doctor`]: what is wrong, and what to do about it

mod describe;
pub mod desired;
pub mod diff;
pub mod doctor;
pub mod drift;
pub mod egress;
pub mod engine;
pub mod names;
pub mod object;
pub mod observed;
#[cfg(test)]
pub(crate) mod tests;
