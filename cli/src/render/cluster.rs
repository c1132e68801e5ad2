//! `init`, `join` and `status`.

use jiff::{SignedDuration, Timestamp};
use pontoon_proto::v1::{
    AddressFamily, Cluster, DataPlane, InitResponse, JoinResponse, Member, NodeState, StatusResponse, TaskState,
    TaskStatus,
};

use super::token::invite;
use super::{ago, block, list, name, or_none, section, since, table};

/// How long a voter may not answer before another takes its place, unless it is set.
const DEFAULT_REPLACE_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// The new cluster, and how others get into it.
pub(crate) fn init(answer: &InitResponse, uses: u32) -> String {
    let node = answer.node.clone().unwrap_or_default();
    format!(
        "Cluster {} is made, with node {} (id {}).\n\n{}\n\nThis is good for 24 hours. pontoon token create makes more.\n",
        answer.cluster_id,
        node.name,
        node.id,
        invite(&answer.join_token, uses)
    )
}

/// The joined cluster.
pub(crate) fn join(answer: &JoinResponse) -> String {
    let node = answer.node.clone().unwrap_or_default();
    format!("Node {} (id {}) is in cluster {}.\n", node.name, node.id, answer.cluster_id)
}

/// Who issues certificates, and who has one of another still.
fn authority(answer: &StatusResponse, cluster: &Cluster) -> String {
    let nodes = answer.members.iter().filter_map(|member| member.node.as_ref());
    let behind: Vec<String> =
        nodes.filter(|node| node.authority != cluster.authority).map(|node| node.name.clone()).collect();
    match (cluster.authorities.len(), behind.as_slice()) {
        (..=1, []) => format!("number {}", cluster.authority),
        (..=1, _) => format!("number {}; not told by {}", cluster.authority, list(&behind)),
        (_, _) => format!("number {}; the one before is believed, too, for {}", cluster.authority, list(&behind)),
    }
}

/// How the daemon and its cluster are.
pub(crate) fn status(answer: &StatusResponse, now: Timestamp) -> String {
    let mut text = if answer.cluster_id.is_empty() {
        block(&[
            ("Version", answer.version.clone()),
            ("Cluster", "none yet: `pontoon init` makes one, `pontoon join` enters one".to_owned()),
        ])
    } else {
        block(&summary(answer, now)) + &section("Members", &members(answer))
    };
    text += &section("Background tasks", &tasks(&answer.tasks, now));
    if let Some(plane) = &answer.data_plane {
        text += &section("Data plane", &data_plane(plane));
    }
    let warnings: String = answer.warnings.iter().map(|warning| format!("- {warning}\n")).collect();
    text + &section("Warnings", &warnings)
}

fn summary(answer: &StatusResponse, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("Version", answer.version.clone()),
        ("Cluster", answer.cluster_id.clone()),
        ("Node", member_name(answer, answer.node_id)),
        ("Leader", leader(answer)),
        ("Term", answer.term.to_string()),
        ("Applied", applied(answer, now)),
        ("State hash", or_none(&answer.state_hash)),
        ("Certificate", format!("renews itself, ends {}", since(answer.certificate_until_ms, now))),
        ("Quorum", quorum(answer)),
    ];
    if let Some(cluster) = &answer.cluster {
        let mut pools: Vec<_> = cluster.pools.iter().map(|pool| format!("{} in /{}", pool.cidr, pool.prefix)).collect();
        pools.extend((!cluster.pool6.is_empty()).then(|| cluster.pool6.clone()));
        lines.push(("Authority", authority(answer, cluster)));
        let underlay = name::<AddressFamily>(cluster.underlay);
        lines.extend([
            ("Voters", voters(cluster)),
            ("Pools", list(&pools)),
            ("Underlay", format!("{underlay}, VXLAN port {}", cluster.vxlan_port)),
            ("Feature level", cluster.feature_level.to_string()),
            ("Created", since(cluster.created_ms, now)),
        ]);
    }
    lines
}

/// What is set of the voters.
pub(crate) fn voters(cluster: &Cluster) -> String {
    let most = match cluster.voters {
        0 => "by the number of nodes".to_owned(),
        most => format!("{most} at most"),
    };
    let after = match cluster.replace_after_ms {
        0 => DEFAULT_REPLACE_AFTER,
        millis => SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX)),
    };
    format!("{most}; replaced after {after:#} without an answer")
}

fn leader(answer: &StatusResponse) -> String {
    match answer.leader {
        0 => "none known: nothing can be written".to_owned(),
        id if id == answer.node_id => format!("{}, this node", member_name(answer, id)),
        id => member_name(answer, id),
    }
}

fn member_name(answer: &StatusResponse, id: u64) -> String {
    let node = answer.members.iter().filter_map(|member| member.node.as_ref()).find(|node| node.id == id);
    node.map_or_else(|| format!("id {id}"), |node| format!("{} (id {id})", node.name))
}

fn applied(answer: &StatusResponse, now: Timestamp) -> String {
    let mut text = format!("index {}, written {}", answer.applied_index, ago(answer.applied_ms, now));
    if answer.applied_index < answer.committed_index {
        text += &format!("; {} more to apply", answer.committed_index - answer.applied_index);
    }
    if answer.committed_index < answer.last_index {
        text += &format!("; {} not known to be committed", answer.last_index - answer.committed_index);
    }
    text
}

fn quorum(answer: &StatusResponse) -> String {
    let voters = answer.members.iter().filter(|member| member.voter).count();
    let voters = if voters == 1 { "1 voter".to_owned() } else { format!("{voters} voters") };
    let tolerates = match answer.tolerates {
        0 => "none".to_owned(),
        more => format!("{more} more"),
    };
    format!("{} of {voters}; {tolerates} may fail", answer.quorum)
}

fn members(answer: &StatusResponse) -> String {
    let rows = answer.members.iter().map(|member| {
        let Member { node, matched_index, heard_ms, .. } = member;
        let node = node.clone().unwrap_or_default();
        let stored = if *matched_index == 0 { String::new() } else { matched_index.to_string() };
        let heard = heard_ms.map_or_else(String::new, |ms| format!("{ms} ms ago"));
        let state = name::<NodeState>(node.state);
        let role = member.role().to_owned();
        [node.id.to_string(), node.name, role, state, node.advertise, node.data_addr, stored, heard]
    });
    table(&["ID", "NAME", "ROLE", "STATE", "ADDRESS", "VTEP", "STORED", "HEARD"], rows)
}

fn tasks(tasks: &[TaskStatus], now: Timestamp) -> String {
    if tasks.is_empty() {
        return String::new();
    }
    let rows = tasks.iter().map(|task| {
        let (runs, failures) = (task.runs.to_string(), task.failures.to_string());
        let (state, last_run) = (name::<TaskState>(task.state), ago(task.last_run_ms, now));
        [task.name.clone(), state, runs, failures, last_run, or_none(&task.last_error)]
    });
    table(&["NAME", "STATE", "RUNS", "FAILURES", "LAST RUN", "LAST ERROR"], rows)
}

fn data_plane(plane: &DataPlane) -> String {
    let first = if plane.first_pass_done {
        format!("planned {}", steps(plane.first_pass_steps))
    } else {
        "not over yet".to_owned()
    };
    let repairs: u64 = plane.drift.values().sum();
    let mut drift = repairs.to_string();
    if repairs > 0 {
        let kinds: Vec<_> = plane.drift.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        drift += &format!(" ({})", kinds.join(", "));
    }
    if !plane.last_drift.is_empty() {
        drift += &format!("; latest: {}", plane.last_drift);
    }
    let mut lines = vec![
        ("Passes", plane.passes.to_string()),
        ("First pass", first),
        ("Latest pass", format!("planned {}, state of index {}", steps(plane.last_pass_steps), plane.reconciled_index)),
        ("Repairs", drift),
        ("Reclaimed leases", plane.reclaimed.to_string()),
    ];
    if !plane.failures.is_empty() {
        lines.push(("Failed steps", plane.failures.join("\n")));
    }
    block(&lines)
}

fn steps(count: u64) -> String {
    if count == 1 { "1 step".to_owned() } else { format!("{count} steps") }
}
/// The key of a cluster that is about to be locked.
pub(crate) fn unlock_key(key: &str) -> String {
    format!(
        "Keep this key where no host of the cluster is; a daemon that was restarted needs it to issue certificates:\n\n    {key}\n\nOn \
         each voter, and after each restart of its daemon: pontoon cluster unlock\n"
    )
}
