//! Bugs that are planted to see whether they are found. Each is a thing that the world around the store does wrong, just
//! as the store would if it had the bug: nothing of the store is changed.

use clap::ValueEnum;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bug {
    /// Disks say that something is synced before it is, and so the log acknowledges what a crash still takes away.
    AcknowledgedBeforeSync,
    /// A read does not ask the leader what there is to wait for.
    StaleRead,
    /// A node whose disk was wiped comes back as the same Raft member, with an empty log.
    IdReused,
    /// A watcher that goes on at another node begins with what that node has, and not with what it lacks.
    WatchGap,
    /// A daemon numbers its runs alike, so that a request is taken for an earlier one's retry and two containers are
    /// answered the same lease.
    LeaseGivenTwice,
}
