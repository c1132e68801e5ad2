//! The metrics of clusters that are made up.

use std::collections::{BTreeMap, BTreeSet};

use pontoon_proto::v1;
use pontoon_store::model::object::{EndpointState, Lease, LeaseState};
use pontoon_store::model::state::State;
use prometheus_client::metrics::histogram::Histogram;

use super::families::{InCluster, Known, text};
use super::usage::Usage;
use crate::names::Counts;
use crate::plan::tests::small_state;

const DASHBOARD: &str = include_str!("../../../docs/grafana.json");
const DOCUMENT: &str = include_str!("../../../docs/pontoond.md");

fn member(id: u64, state: v1::NodeState, matched_index: u64) -> v1::Member {
    let node = v1::Node { id, name: format!("host{id}"), state: state.into(), ..Default::default() };
    v1::Member { node: Some(node), voter: id != 3, leader: id == 1, matched_index, ..Default::default() }
}

/// A network with three endpoints, and leases in each state that they can have been used in.
fn leased() -> State {
    let mut state = small_state();
    state.endpoints.values_mut().next().unwrap().state = EndpointState::Stopped;
    state.clock_ms = 1000;
    let network = *state.networks.keys().next().unwrap();
    let states = [LeaseState::Active, LeaseState::Cooling { until_ms: 1001 }, LeaseState::Cooling { until_ms: 1000 }];
    for (last, state_of) in (100u8..).zip(states) {
        let lease = Lease {
            network,
            address: [10, 0, 1, last].into(),
            epoch: 1,
            state: state_of,
            endpoint: None,
            node: None,
            name: String::new(),
            since_ms: 0,
            reserved_for: None,
            previous: vec![],
        };
        state.leases.insert((network, lease.address), lease);
    }
    state
}

/// Three nodes, of which the first leads; a network with three endpoints.
fn three_nodes() -> Known {
    let data_plane = v1::DataPlane {
        passes: 17,
        last_pass_steps: 2,
        reconciled_index: 117,
        drift: [("fdb".to_owned(), 5)].into(),
        failures: vec!["a step".into()],
        reclaimed: 3,
        ..Default::default()
    };
    let log_sync_seconds = Histogram::new([0.001, 0.01]);
    [0.0005, 0.002, 0.0045, 0.2].into_iter().for_each(|seconds| log_sync_seconds.observe(seconds));
    let task = |state: v1::TaskState| v1::TaskStatus { state: state.into(), ..Default::default() };
    let known = Known {
        names: Some(Counts::default()),
        status: v1::StatusResponse {
            version: "0.1.0".into(),
            cluster_id: "00ff".into(),
            node_id: 1,
            leader: 1,
            term: 4,
            last_index: 120,
            committed_index: 119,
            applied_index: 118,
            members: vec![
                member(1, v1::NodeState::Ready, 0),
                member(2, v1::NodeState::Ready, 120),
                member(3, v1::NodeState::Down, 50),
            ],
            quorum: 2,
            tolerates: 0,
            tasks: [v1::TaskState::Idle, v1::TaskState::Failing, v1::TaskState::Idle].map(task).into(),
            warnings: vec!["a warning".into()],
            ..Default::default()
        },
        member: Some(InCluster {
            data_plane,
            snapshot_index: 100,
            log_entries: 60,
            replaced_voters: 1,
            log_sync_seconds: Some(log_sync_seconds),
            usage: Usage::of(&leased()),
            engine: Some(true),
        }),
        ..Known::default()
    };
    known.watching.now.set(2);
    known.watching.sent.inc_by(9);
    known.watching.compacted.inc();
    known
}

/// Checks that there is a line for each of these.
fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|known| known == *line), "no {line:?} in {text}");
    }
}

/// Names of the samples, with what counters and histograms add to them.
fn names(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.split(['{', ' ']).next().unwrap()).collect()
}

/// What in a text begins as the names of metrics do.
fn mentioned(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("pontoon_")).collect()
}

#[test]
fn a_leader_tells_all() {
    let text = text(&three_nodes());
    has(&text, &["pontoon_build_info{version=\"0.1.0\"} 1", "pontoon_member 1", "pontoon_leader 1", "pontoon_voter 1"]);
    has(&text, &["pontoon_leader_known 1", "pontoon_raft_term 4", "pontoon_raft_last_index 120"]);
    has(&text, &["pontoon_raft_replaced_voters_total 1"]);
    has(&text, &["pontoon_raft_committed_index 119", "pontoon_raft_applied_index 118", "pontoon_raft_voters 2"]);
    has(&text, &["pontoon_raft_snapshot_index 100", "pontoon_raft_quorum_voters 2", "pontoon_raft_tolerated_voters 0"]);
    for (node, matched, lag) in [("host1", 120, 0), ("host2", 120, 0), ("host3", 50, 70)] {
        has(&text, &[&format!("pontoon_raft_matched_index{{node=\"{node}\"}} {matched}")]);
        has(&text, &[&format!("pontoon_raft_lag_entries{{node=\"{node}\"}} {lag}")]);
    }
    has(&text, &["# TYPE pontoon_wal_sync_seconds histogram", "pontoon_wal_sync_seconds_count 4"]);
    for (most, count) in [("0.001", 1), ("0.01", 3), ("+Inf", 4)] {
        has(&text, &[&format!("pontoon_wal_sync_seconds_bucket{{le=\"{most}\"}} {count}")]);
    }
    has(&text, &["pontoon_wal_entries_total 60", "pontoon_watchers 2", "pontoon_watch_events_total 9"]);
    has(&text, &["pontoon_watch_compacted_total 1", "pontoon_warnings 1", "pontoon_engine_connected 1"]);
    has(&text, &["pontoon_tasks{state=\"idle\"} 2", "pontoon_tasks{state=\"failing\"} 1"]);
    has(&text, &["pontoon_tasks{state=\"running\"} 0", "pontoon_tasks{state=\"stopped\"} 0"]);
    has(&text, &["pontoon_reconcile_passes_total 17", "pontoon_reconcile_steps 2", "pontoon_reconcile_failures 1"]);
    has(&text, &["pontoon_reconcile_index 117", "pontoon_reclaimed_total 3"]);
    has(&text, &["pontoon_drift_total{kind=\"fdb\"} 5", "pontoon_drift_total{kind=\"rule\"} 0"]);
    has(&text, &["pontoon_dns_queries_total{transport=\"udp\"} 0", "pontoon_dns_answers_total{kind=\"busy\"} 0"]);
    has(&text, &["pontoon_dns_seconds_count{by=\"docker\"} 0"]);
    has(&text, &["pontoon_nodes{state=\"ready\"} 2", "pontoon_nodes{state=\"down\"} 1", "pontoon_networks 1"]);
    for (state, count) in [("pending", 1), ("active", 1), ("stopped", 1)] {
        has(&text, &[&format!("pontoon_endpoints{{network=\"net1\",state=\"{state}\"}} {count}")]);
    }
    for (state, count) in [("reserved", 0), ("active", 1), ("cooling", 1), ("free", 1), ("kept", 0)] {
        has(&text, &[&format!("pontoon_leases{{network=\"net1\",state=\"{state}\"}} {count}")]);
    }
}

#[test]
fn each_family_is_there_once_and_says_what_it_is() {
    let text = text(&three_nodes());
    let mut families = BTreeMap::<&str, BTreeSet<&str>>::new();
    let mut family = "";
    let mut samples = BTreeSet::new();
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["#", "EOF"] => {}
            ["#", what, name, _, ..] => {
                assert!(families.entry(name).or_default().insert(what), "{what} of {name} twice in {text}");
                family = name;
            }
            _ => {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                assert!(sample.starts_with(family), "{line} is with {family}");
                assert!(value.parse::<f64>().is_ok() && samples.insert(sample), "{line}");
            }
        }
    }
    let whole = BTreeSet::from(["HELP", "TYPE"]);
    assert!(families.len() > 20 && families.values().all(|said| *said == whole), "{families:?}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn what_only_the_leader_knows_others_do_not_tell() {
    let mut known = three_nodes();
    known.status.node_id = 3;
    let text = text(&known);
    has(&text, &["pontoon_leader 0", "pontoon_voter 0", "pontoon_leader_known 1", "pontoon_raft_term 4"]);
    assert!(!text.contains("matched_index") && !text.contains("lag_entries"), "{text}");
}

#[test]
fn in_no_cluster_there_is_the_daemon() {
    let status = v1::StatusResponse { version: "0.1.0".into(), ..Default::default() };
    let text = text(&Known { status, ..Known::default() });
    has(&text, &["pontoon_build_info{version=\"0.1.0\"} 1", "pontoon_member 0", "pontoon_watchers 0"]);
    assert!(!text.contains("raft") && !text.contains("pontoon_leader"), "{text}");
}

#[test]
fn without_docker_nothing_is_said_of_it() {
    let mut known = three_nodes();
    known.member.as_mut().unwrap().engine = None;
    known.names = None;
    let text = text(&known);
    assert!(!text.contains("pontoon_engine") && !text.contains("pontoon_dns"), "{text}");
}

#[test]
fn what_users_write_stays_in_its_label() {
    let mut known = three_nodes();
    known.status.members[1].node.as_mut().unwrap().name = "a\"} 1\nb\\".into();
    has(&text(&known), &[r#"pontoon_raft_lag_entries{node="a\"} 1\nb\\"} 0"#]);
}

#[test]
fn the_dashboard_shows_what_is_served() {
    let text = text(&three_nodes());
    let shown = mentioned(DASHBOARD);
    assert!(shown.len() > 10, "{shown:?}");
    let missing: Vec<_> = shown.difference(&names(&text)).copied().collect();
    assert!(missing.is_empty(), "docs/grafana.json has {missing:?}, which are not served");
    serde_json::from_str::<serde_json::Value>(DASHBOARD).expect("the dashboard is JSON");
}

#[test]
fn the_document_lists_what_is_served() {
    let (_, section) = DOCUMENT.split_once("\n## Metrics\n").expect("docs/pontoond.md has a section on metrics");
    let listed = mentioned(section.split("\n## ").next().unwrap_or_default());
    let text = text(&three_nodes());
    let parts = ["_bucket", "_sum", "_count"];
    let whole = |name| parts.iter().find_map(|part| str::strip_suffix(name, part)).unwrap_or(name);
    let served: BTreeSet<_> = names(&text).into_iter().map(whole).collect();
    let wrong: Vec<_> = listed.symmetric_difference(&served).collect();
    assert!(wrong.is_empty(), "docs/pontoond.md lists {wrong:?} and they are not served, or the other way round");
}
