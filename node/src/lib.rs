//! Pontoon's daemon.

pub mod kernel;
pub mod plan;
pub mod reconcile;
