//! `pontoon status`: everything about this daemon in one answer, from what it has at hand.

use pontoon_proto::v1;
use pontoon_store::model::id::NodeId;
use pontoon_store::model::object::NodeState;
use pontoon_store::model::state::State;
use pontoon_store::model::voters;
use pontoon_store::tasks::{TaskReport, TaskState};
use pontoon_store::{Level, StoreStatus};

use crate::api;
use crate::clock;
use crate::daemon::Daemon;
use crate::host;
use crate::lock;
use crate::member::Member;
use crate::reconcile::DataPlaneStatus;
use crate::renewal;
use crate::report;
use crate::voting;

/// Things on this host that the warnings name; what they have in common, the first ones show.
const MAX_NOTES: usize = 20;

/// How this daemon and its cluster are.
pub fn status(daemon: &Daemon) -> v1::StatusResponse {
    let mut response = v1::StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tasks: daemon.tasks.reports().into_iter().map(task).collect(),
        ..v1::StatusResponse::default()
    };
    if let Some(member) = daemon.try_member() {
        describe_member(&member, &mut response);
    }
    response
}

fn describe_member(member: &Member, response: &mut v1::StatusResponse) {
    let status = member.store().status();
    let outlook = member.store().outlook();
    let state = member.store().state();
    response.cluster_id = member.cluster().to_string();
    response.node_id = member.node().0;
    response.term = status.term;
    response.leader = state.nodes.values().find(|n| Some(n.raft_id) == status.leader).map_or(0, |n| n.id.0);
    response.last_index = status.last_index;
    response.committed_index = status.committed_index;
    // The index that belongs to the hash below.
    response.applied_index = status.applied_index;
    response.applied_ms = state.clock_ms;
    response.members = state.nodes.values().map(|node| api::member(node, &status)).collect();
    response.quorum = count(voters::quorum(status.voters.len()));
    response.tolerates = tolerated(&state, &status);
    response.data_plane = Some(data_plane(member));
    response.cluster = state.cluster.as_ref().map(Into::into);
    response.state_hash = status.state_hash.map(|hash| format!("{hash:032x}")).unwrap_or_default();
    let own = member.store().key().certified();
    response.certificate_until_ms = own.as_ref().map_or(0, |own| own.until_ms);
    response.warnings = warnings(&state, &status);
    response.warnings.extend(renewal::warning(own.as_ref(), host::now_ms()));
    response.warnings.extend(lock::warning(member, &state));
    response.warnings.extend(room(&status, member.store().observes()));
    if status.leader.is_some() && status.stopped.is_none() {
        response.warnings.extend(voting::warnings(&state, &outlook));
    }
    let named = |id: &NodeId| state.nodes.get(id).map(|node| node.name.as_str());
    let compared = member.clocks();
    let clocks = compared.ahead_ms.into_iter().filter_map(|(id, ahead)| clock::warning(named(&id)?, ahead));
    response.warnings.extend(clocks);
    let elsewhere = compared.elsewhere.into_iter().filter_map(|(id, it)| Some(clock::elsewhere(named(&id)?, it)));
    response.warnings.extend(elsewhere);
    response.warnings.extend(of_this_host(&state, &member.reconciler.status().borrow()));
}

fn task(report: TaskReport) -> v1::TaskStatus {
    let state = match report.state {
        TaskState::Idle => v1::TaskState::Idle,
        TaskState::Running => v1::TaskState::Running,
        TaskState::Failing => v1::TaskState::Failing,
        TaskState::Stopped => v1::TaskState::Stopped,
    };
    v1::TaskStatus {
        name: report.name,
        state: state.into(),
        runs: report.runs,
        failures: report.failures,
        last_error: report.last_error.unwrap_or_default(),
        last_run_ms: report.last_run_ms,
    }
}

fn data_plane(member: &Member) -> v1::DataPlane {
    let status = member.reconciler.status().borrow().clone();
    let repairs = member.repairs();
    let latest: Vec<&str> =
        [&status.last_drift, &repairs.latest].into_iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    v1::DataPlane {
        passes: status.passes,
        first_pass_steps: status.first_pass_steps,
        first_pass_done: status.first_pass_done,
        last_pass_steps: status.last_pass_steps,
        reconciled_index: status.reconciled_index,
        drift: status.drift.iter().chain(&repairs.counts).map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
        last_drift: latest.join("; "),
        failures: status.failures,
        reclaimed: member.reclaimed(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Voters that may fail beyond those that are down already.
fn tolerated(state: &State, status: &StoreStatus) -> u32 {
    let down = |node: &&pontoon_store::model::object::Node| {
        status.voters.contains(&node.raft_id) && node.state == NodeState::Down
    };
    count(voters::tolerated_losses(status.voters.len(), state.nodes.values().filter(down).count()))
}

fn warnings(state: &State, status: &StoreStatus) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(reason) = &status.stopped {
        warnings.push(format!("the store has stopped: {reason}; traffic goes on, nothing can be changed from here"));
        warnings.push(
            "if this node was removed, pontoon leave cleans up this host (--force: also if it has containers), and \
                   it can join again"
                .into(),
        );
    } else if status.leader.is_none() {
        warnings.push("no leader: nothing can be changed until a majority of the voters can talk to each other".into());
    }
    if state.nodes.len() > 1 && status.leader.is_some() && tolerated(state, status) == 0 {
        warnings.push("the loss of one more voter would stop writes (running containers keep their network)".into());
    }
    for node in state.nodes.values() {
        if node.state == NodeState::Down {
            warnings.push(format!(
                "node {} is down: its containers keep their leases; if it does not come back, pontoon node rm {0} --force",
                node.name
            ));
        }
        warnings.extend(small_mtu(node, state));
    }
    warnings
}

/// What follows from a disk that is full.
fn room(status: &StoreStatus, observes: bool) -> Option<String> {
    let what = match (status.room.level, observes) {
        (Level::Ample, _) | (Level::Low, true) => return None,
        (Level::Low | Level::Full, false) => "this node takes no writes until there is more room",
        (Level::Full, true) => {
            "until there is more room, what changes is lost here when pontoond is started again, and followed again"
        }
    };
    Some(format!("{}: {what}", status.room.text()))
}

/// What the reconcile loop has met on this host that is not its to put right.
fn of_this_host(state: &State, status: &DataPlaneStatus) -> Vec<String> {
    let hidden = status.hidden.iter().map(|(id, why)| {
        let endpoint = state.endpoints.get(id);
        let name = endpoint.map_or_else(|| format!("endpoint {id}"), |endpoint| format!("container {}", endpoint.name));
        format!("the network namespace of {name} cannot be worked on, so its interfaces stay as they are: {why}")
    });
    let found = status.notes.iter().cloned().chain(hidden).chain(report::omission(&status.facts));
    let mut warnings: Vec<String> = found.collect();
    if warnings.len() > MAX_NOTES {
        let more = warnings.len() - MAX_NOTES;
        warnings.truncate(MAX_NOTES);
        warnings.push(format!("and {more} more of this kind on this host"));
    }
    warnings
}

/// Networks whose MTU does not fit through a node's underlay.
fn small_mtu(node: &pontoon_store::model::object::Node, state: &State) -> Vec<String> {
    let Some(cluster) = &state.cluster else { return Vec::new() };
    let overhead = cluster.underlay.vxlan_overhead();
    let too_large = |mtu: u32| node.underlay_mtu != 0 && mtu + overhead > node.underlay_mtu;
    let networks = state.networks.values().filter(|network| too_large(network.mtu));
    let describe = |network: &pontoon_store::model::object::Network| {
        format!(
            "network {} has MTU {}, which does not fit through node {} (underlay MTU {}, {overhead} of it for VXLAN): \
             large packets are lost there; raise the MTU of its underlay",
            network.name, network.mtu, node.name, node.underlay_mtu
        )
    };
    networks.map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_store::model::id::EndpointId;

    #[test]
    fn what_the_loop_notes_is_told_up_to_a_bound() {
        let mut status = DataPlaneStatus { notes: vec!["a note".into()], ..DataPlaneStatus::default() };
        status.hidden.insert(EndpointId(7), "permission denied".into());
        let warnings = of_this_host(&State::default(), &status);
        assert_eq!(warnings[0], "a note");
        assert!(warnings[1].contains("endpoint 7") && warnings[1].ends_with("permission denied"), "{warnings:?}");
        status.notes = (0..MAX_NOTES + 4).map(|n| n.to_string()).collect();
        let warnings = of_this_host(&State::default(), &status);
        assert_eq!(
            (warnings.len(), warnings[MAX_NOTES].as_str()),
            (MAX_NOTES + 1, "and 5 more of this kind on this host")
        );
    }
}
