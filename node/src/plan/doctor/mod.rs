//! What `pontoon doctor` says: from what was seen of this host and its cluster to findings. Each check is a function of
//! its own; whoever looks gives it what there is to judge.

mod cluster;
mod engine;
mod host;
mod loops;
mod network;
mod path;
#[cfg(test)]
mod tests;

pub use cluster::{CLOCK_TOLERATED_MS, Greeting, Place, clock, cluster, peers, quorum};
pub use engine::{EngineLook, PluginLook, driver, engine};
pub use host::{
    Chain, DOCKER_GATEWAY, Feature, Holder, HostLook, Trial, VxlanDevice, forwarding, kernel, peer_port, vxlan_port,
};
pub use loops::reconcile;
pub use network::{mtu, routes};
pub use path::{Sizes, path_sizes, paths};

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// This daemon is in a cluster.
    Cluster,
    /// A majority answers.
    Quorum,
    /// Docker answers.
    Engine,
    /// Docker finds our drivers and has the cluster's networks.
    Driver,
    /// The kernel has what is needed.
    Kernel,
    /// The ports are ours.
    Ports,
    /// The other nodes answer.
    Peers,
    /// Packets fit through the underlay.
    Mtu,
    /// Containers have a way out.
    Forwarding,
    /// No route overlaps a network.
    Routes,
    /// The clocks agree.
    Clock,
    /// The kernel is as the cluster wants it.
    Reconcile,
}

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works less well than it could, or may stop working.
    Warning,
    /// Does not work.
    Failure,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The check.
    pub check: Check,
    /// How it is to be taken.
    pub level: Level,
    /// Name of what it is about; empty: this host or its cluster.
    pub subject: String,
    /// What was looked at and found.
    pub evidence: String,
    /// What to do; empty when there is nothing to do.
    pub cure: String,
}

impl Finding {
    /// All is well.
    pub fn ok(check: Check, evidence: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, subject: String::new(), evidence: evidence.into(), cure: String::new() }
    }

    /// Somebody should look at it.
    pub fn warning(check: Check, evidence: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { level: Level::Warning, cure: cure.into(), ..Self::ok(check, evidence) }
    }

    /// Something does not work.
    pub fn failure(check: Check, evidence: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { level: Level::Failure, cure: cure.into(), ..Self::ok(check, evidence) }
    }

    /// The same, about something that has a name.
    pub fn about(self, subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), ..self }
    }
}

/// `1 node`, `2 nodes`.
fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
