//! Compares this host's clock with those of the other nodes. Nothing is decided by comparing clocks, but the time of
//! the cluster is its leader's, so one that is wrong is worth a warning.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pontoon_store::AdmitError;
use pontoon_store::model::id::{ClusterId, NodeId};
use pontoon_store::model::state::State;

use crate::host;
use crate::member::Member;
use crate::plan::doctor::{CLOCK_TOLERATED_MS, Greeting};

/// How long a node has to tell its time.
const DEADLINE: Duration = Duration::from_secs(1);

/// Most nodes that are asked: a wrong clock shows itself to the nodes around it, however many there are.
const MOST: usize = 6;

/// The nodes that this one compares its clock with, and where they answer: those that come after it, and after the last the
/// first, so that each is asked by as many.
pub(crate) fn others(member: &Member) -> BTreeMap<NodeId, SocketAddr> {
    following(&member.store().state(), member.node())
}

fn following(state: &State, me: NodeId) -> BTreeMap<NodeId, SocketAddr> {
    let after = state.nodes.range(me..).chain(state.nodes.range(..me)).map(|(_, node)| node);
    after.filter(|node| node.id != me).take(MOST).map(|node| (node.id, node.advertise)).collect()
}

/// What other nodes have said of themselves.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Compared {
    /// By how many milliseconds the clock of each is at least ahead of this host's (negative: behind).
    pub(crate) ahead_ms: BTreeMap<NodeId, i64>,
    /// Those at whose address a node of another cluster answers.
    pub(crate) elsewhere: BTreeMap<NodeId, ClusterId>,
}

/// Asks nodes for their time, all at once. Those that do not answer are left out: that they are down, others tell.
pub(crate) async fn compare(member: &Member, nodes: &BTreeMap<NodeId, SocketAddr>) -> Compared {
    let ask = async |node: NodeId, address: SocketAddr| Some((node, greet(member, address, DEADLINE).await.ok()?));
    let answers = nodes.iter().map(|(node, address)| ask(*node, *address));
    let mut compared = Compared::default();
    for (node, greeting) in futures::future::join_all(answers).await.into_iter().flatten() {
        match greeting.cluster {
            Some(cluster) if cluster != member.cluster() => drop(compared.elsewhere.insert(node, cluster)),
            Some(_) if greeting.node == node => drop(compared.ahead_ms.insert(node, greeting.ahead_ms)),
            _ => {}
        }
    }
    compared
}

/// What somebody should do about a node that is in another cluster now.
pub(crate) fn elsewhere(node: &str, cluster: ClusterId) -> String {
    format!(
        "node {node} is in another cluster, {cluster}: it was recovered, or made anew. If this node is to be in that one: pontoon \
         leave --force here, pontoon token create there, then pontoon join"
    )
}

/// Asks who is at an address, and what time it is there.
pub(crate) async fn greet(member: &Member, address: SocketAddr, deadline: Duration) -> Result<Greeting, AdmitError> {
    let (before, start) = (host::now_ms(), Instant::now());
    let hello = pontoon_store::hello(member.store().key(), address, deadline).await?;
    let ahead_ms = ahead(before, hello.time_ms, host::now_ms());
    let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Greeting { cluster: hello.cluster, node: hello.node, took_ms, ahead_ms })
}

/// By how much a clock that showed `theirs` between two moments is ahead at least, in milliseconds; negative: behind.
fn ahead(before: u64, theirs: u64, after: u64) -> i64 {
    let distance = |from: u64, to: u64| i64::try_from(to.saturating_sub(from)).unwrap_or(i64::MAX);
    if theirs > after { distance(after, theirs) } else { -distance(theirs, before) }
}

/// A time as messages show it.
pub(crate) fn text(ms: u64) -> String {
    pontoon_store::timestamp(ms).to_string()
}

/// What the administrator should know of a node's clock; none when it is right enough.
pub(crate) fn warning(node: &str, ahead_ms: i64) -> Option<String> {
    if ahead_ms.abs() <= CLOCK_TOLERATED_MS {
        return None;
    }
    let direction = if ahead_ms > 0 { "ahead of" } else { "behind" };
    let seconds = Duration::from_millis(ahead_ms.unsigned_abs());
    Some(format!(
        "the clock of node {node} is {:.1} s {direction} this host's: containers do not mind, but released addresses may \
         be handed out again too early or too late, and times are shown wrong; set the wrong one right, and keep both \
         right with NTP (timedatectl set-ntp true)",
        seconds.as_secs_f64()
    ))
}

#[cfg(test)]
mod tests {
    use pontoon_store::model::object::Node;

    use super::*;

    #[test]
    fn a_difference_is_what_the_round_trip_cannot_explain() {
        let cases = [
            // before, theirs, after, ahead
            (1000, 1000, 1000, 0),
            (1000, 1700, 1900, 0),
            (1000, 2500, 1900, 600),
            (1000, 300, 1900, -700),
            (3_600_000, 7_200_001, 3_600_001, 3_600_000),
            (3_600_000, 0, 3_600_001, -3_600_000),
            (0, u64::MAX, 0, i64::MAX),
            (u64::MAX, 0, u64::MAX, -i64::MAX),
            // This host's clock was set back meanwhile.
            (2000, 1500, 1000, 500),
        ];
        for (before, theirs, after, expected) in cases {
            assert_eq!(ahead(before, theirs, after), expected, "{before} {theirs} {after}");
        }
    }

    #[test]
    fn each_node_asks_and_is_asked_by_the_same_number() {
        let mut state = crate::plan::tests::small_state();
        let node = state.nodes.values().next().unwrap().clone();
        state.nodes = (1..=9).map(|id| (NodeId(id), Node { id: NodeId(id), ..node.clone() })).collect();
        let ids = |me| following(&state, NodeId(me)).into_keys().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(ids(1), [2, 3, 4, 5, 6, 7]);
        assert_eq!(ids(7), [1, 2, 3, 4, 8, 9]);
        let asked: Vec<u64> = (1..=9).flat_map(ids).collect();
        assert!((1..=9).all(|id| asked.iter().filter(|other| **other == id).count() == MOST), "{asked:?}");
        state.nodes.retain(|id, _| id.0 < 3);
        assert_eq!(following(&state, NodeId(1)).len(), 1);
    }

    #[test]
    fn only_large_differences_are_told() {
        for small in [0, 500, -500] {
            assert_eq!(warning("h2", small), None);
        }
        let ahead = warning("h2", 3_600_000).unwrap();
        assert!(ahead.starts_with("the clock of node h2 is 3600.0 s ahead of this host's") && ahead.contains("NTP"));
        assert!(warning("h2", -501).unwrap().contains("0.5 s behind this host's"));
    }
}
