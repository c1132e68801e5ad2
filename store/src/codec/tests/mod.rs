//! Round trips, and random logs.

mod messages;
mod random;
