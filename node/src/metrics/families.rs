//! From what is known to text: a pure function, but for what goes on counting meanwhile. docs/pontoond.md lists the
//! metrics.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use pontoon_proto::v1;
use pontoon_store::Watching;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::usage::{ByNetwork, Usage, by_state};
use crate::names::Counts;
use crate::plan::object::Kind;

/// What the metrics tell.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// This daemon and its cluster.
    pub(super) status: v1::StatusResponse,
    /// Watchers of this daemon.
    pub(super) watching: Watching,
    /// What containers have asked for; none without Docker.
    pub(super) names: Option<Counts>,
    /// As a member; none in no cluster.
    pub(super) member: Option<InCluster>,
}

/// What only a member knows.
#[derive(Debug)]
pub(super) struct InCluster {
    /// What the reconcile loop does.
    pub(super) data_plane: v1::DataPlane,
    /// Last entry of the latest snapshot; 0: none.
    pub(super) snapshot_index: u64,
    /// Entries that were written to the log.
    pub(super) log_entries: u64,
    /// Voters that were gone and that this node has replaced, as the leader.
    pub(super) replaced_voters: u64,
    /// How long the log's syncs take, in seconds.
    pub(super) log_sync_seconds: Option<Histogram>,
    /// What the state holds.
    pub(super) usage: Usage,
    /// Whether Docker's engine is reached; none without Docker.
    pub(super) engine: Option<bool>,
}

type Labels = Vec<(&'static str, String)>;

/// All metrics, in the text format of OpenMetrics.
pub(super) fn text(known: &Known) -> String {
    let mut board = Board(Registry::default());
    board.daemon(known);
    if let Some(counts) = &known.names {
        board.names(counts);
    }
    if let Some(member) = &known.member {
        board.raft(&known.status, member);
        board.replication(&known.status);
        board.log(member);
        board.reconcile(&member.data_plane);
        board.objects(&known.status, member);
    }
    let mut text = String::new();
    encode(&mut text, &board.0).expect("a string takes all that is written");
    text
}

/// Metrics that are to be shown. Names do not have the `_total` that counters get, nor help its full stop.
struct Board(Registry);

impl Board {
    fn gauge(&mut self, name: &str, help: &str, value: impl Into<u64>) {
        self.0.register(name, help, ConstGauge::<u64>::new(value.into()));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstCounter::<u64>::new(value));
    }

    fn gauges(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Gauge<u64, AtomicU64>>::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn counters(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }

    fn by_state(&mut self, name: &str, help: &str, counts: BTreeMap<String, u64>) {
        self.gauges(name, help, counts.into_iter().map(|(state, count)| (vec![("state", state)], count)));
    }

    fn by_network(&mut self, name: &str, help: &str, counts: &ByNetwork) {
        let labels = |(network, state): &(String, String)| vec![("network", network.clone()), ("state", state.clone())];
        self.gauges(name, help, counts.iter().map(|(key, count)| (labels(key), *count)));
    }

    /// What is known in no cluster, too.
    fn daemon(&mut self, Known { status, watching, member, .. }: &Known) {
        let version = Info::new(vec![("version", status.version.clone())]);
        self.0.register("pontoon_build", "The daemon", version);
        self.gauge("pontoon_member", "Whether this node is in a cluster", member.is_some());
        let tasks = by_state::<v1::TaskState>(status.tasks.iter().map(|task| task.state));
        self.by_state("pontoon_tasks", "Background tasks of the daemon", tasks);
        self.gauge("pontoon_warnings", "Warnings that pontoon status shows", status.warnings.len() as u64);
        self.0.register("pontoon_watchers", "Watchers at this moment", watching.now.clone());
        let help = "Messages that watchers were sent: what there is, what has changed, and that nothing has";
        self.0.register("pontoon_watch_events", help, watching.sent.clone());
        let help = "Watchers that were told to begin anew, for what they had missed is not kept any more";
        self.0.register("pontoon_watch_compacted", help, watching.compacted.clone());
    }

    fn names(&mut self, counts: &Counts) {
        let help =
            "Questions that containers of this node have asked Docker's resolver and that have come to this daemon";
        self.0.register("pontoon_dns_queries", help, counts.queries.clone());
        let help = "What has become of them";
        self.0.register("pontoon_dns_answers", help, counts.answers.clone());
        let help = "How long an answer took, by who has given it";
        self.0.register("pontoon_dns_seconds", help, counts.seconds.clone());
    }

    fn raft(&mut self, status: &v1::StatusResponse, member: &InCluster) {
        let own = status.members.iter().find(|member| id_of(member) == status.node_id);
        self.gauge("pontoon_leader", "Whether this node leads", status.leader == status.node_id);
        self.gauge("pontoon_voter", "Whether this node votes", own.is_some_and(|own| own.voter));
        self.gauge("pontoon_leader_known", "Whether this node knows of a leader", status.leader != 0);
        self.gauge("pontoon_raft_term", "Term of Raft: it grows with each election", status.term);
        self.gauge("pontoon_raft_last_index", "Last entry of this node's log", status.last_index);
        let help = "Last entry that this node knows to be committed";
        self.gauge("pontoon_raft_committed_index", help, status.committed_index);
        self.gauge("pontoon_raft_applied_index", "Last entry that this node has applied", status.applied_index);
        let help = "Last entry of this node's latest snapshot; 0: there is none";
        self.gauge("pontoon_raft_snapshot_index", help, member.snapshot_index);
        let voters = status.members.iter().filter(|member| member.voter).count();
        self.gauge("pontoon_raft_voters", "Voters", voters as u64);
        self.gauge("pontoon_raft_quorum_voters", "Voters that must agree for a write", status.quorum);
        let help = "Voters that may still fail before nothing can be written";
        self.gauge("pontoon_raft_tolerated_voters", help, status.tolerates);
        let help = "Voters that did not answer and whose places this node has given to others, while it led";
        self.counter("pontoon_raft_replaced_voters", help, member.replaced_voters);
    }

    /// What the leader knows of the others' logs; nothing on other nodes.
    fn replication(&mut self, status: &v1::StatusResponse) {
        if status.leader != status.node_id {
            return;
        }
        let matched = |member: &v1::Member| match id_of(member) {
            own if own == status.node_id => status.last_index,
            _ => member.matched_index,
        };
        let of_each = |value: &dyn Fn(u64) -> u64| {
            let sample = |member: &v1::Member| {
                let name = member.node.as_ref().map(|node| node.name.clone()).unwrap_or_default();
                (vec![("node", name)], value(matched(member)))
            };
            status.members.iter().map(sample).collect::<Vec<_>>()
        };
        let help = "Last entry that a node has, as the leader knows; 0: it has heard of none since it leads";
        self.gauges("pontoon_raft_matched_index", help, of_each(&|matched| matched));
        let help = "Entries of the leader's log that a node does not have yet, as the leader knows";
        self.gauges("pontoon_raft_lag_entries", help, of_each(&|matched| status.last_index.saturating_sub(matched)));
    }

    fn log(&mut self, member: &InCluster) {
        let help = "How long fdatasync of the write-ahead log takes";
        if let Some(seconds) = &member.log_sync_seconds {
            self.0.register("pontoon_wal_sync_seconds", help, seconds.clone());
        }
        self.counter("pontoon_wal_entries", "Entries written to the write-ahead log", member.log_entries);
    }

    fn reconcile(&mut self, data_plane: &v1::DataPlane) {
        self.counter(
            "pontoon_reconcile_passes",
            "Passes of the loop that keeps the kernel in order",
            data_plane.passes,
        );
        self.gauge("pontoon_reconcile_steps", "Steps that the latest pass planned", data_plane.last_pass_steps);
        let help = "Steps that failed in the latest pass, 20 at most, or 1 if there was no pass";
        self.gauge("pontoon_reconcile_failures", help, data_plane.failures.len() as u64);
        let help = "Index of the state that the kernel is in order with";
        self.gauge("pontoon_reconcile_index", help, data_plane.reconciled_index);
        let mut drift: BTreeMap<&str, u64> = Kind::ALL.iter().map(|kind| (kind.as_str(), 0)).collect();
        drift.extend(data_plane.drift.iter().map(|(kind, count)| (kind.as_str(), *count)));
        let drift = drift.into_iter().map(|(kind, count)| (vec![("kind", kind.to_owned())], count));
        self.counters("pontoon_drift", "Repairs of what somebody else changed", drift);
        let help = "Endpoints of this node that were ended because their namespace was gone or nobody finished them";
        self.counter("pontoon_reclaimed", help, data_plane.reclaimed);
    }

    fn objects(&mut self, status: &v1::StatusResponse, member: &InCluster) {
        let states = status.members.iter().filter_map(|member| Some(member.node.as_ref()?.state));
        self.by_state("pontoon_nodes", "Nodes of the cluster", by_state::<v1::NodeState>(states));
        self.gauge("pontoon_networks", "Networks of the cluster", member.usage.networks as u64);
        self.by_network("pontoon_endpoints", "Endpoints of a network", &member.usage.endpoints);
        self.by_network("pontoon_leases", "Leases of a network", &member.usage.leases);
        if let Some(connected) = member.engine {
            self.gauge("pontoon_engine_connected", "Whether this daemon reaches Docker's engine", connected);
        }
    }
}

fn id_of(member: &v1::Member) -> u64 {
    member.node.as_ref().map_or(0, |node| node.id)
}
