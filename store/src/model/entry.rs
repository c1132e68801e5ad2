//! What the log holds.

use super::admin::Origin;
use super::command::Command;
use super::id::NodeId;

/// What a log entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The leader's time when it was proposed, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Who asked.
    pub request: RequestId,
    /// What to do.
    pub command: Command,
    /// Whose wish that was; none: nobody's.
    pub origin: Option<Origin>,
}

/// Names a request, the same for every retry of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// Node whose daemon asked; 0 while a cluster is founded.
    pub node: NodeId,
    /// Random number of that daemon's run.
    pub run: u64,
    /// Counts the run's requests, from 1.
    pub seq: u64,
}
