//! The cluster: membership, quorum, the other nodes and their clocks.

use std::collections::{BTreeMap, BTreeSet};

use pontoon_store::model::id::{ClusterId, NodeId, RaftId};
use pontoon_store::model::object::{Node, NodeState};
use pontoon_store::model::state::State;
use pontoon_store::model::voters;

use super::{Check, Finding, count};

/// Clocks that differ by more than this are told of, in milliseconds: much more than NTP leaves.
pub const CLOCK_TOLERATED_MS: i64 = 500;

/// This daemon's place in its cluster.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// What it knows.
    pub state: &'a State,
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub me: NodeId,
    /// Who votes.
    pub voters: &'a BTreeSet<RaftId>,
    /// Who leads.
    pub leader: Option<RaftId>,
    /// Why it takes no part any more.
    pub stopped: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// This node's name.
    pub(super) fn name(&self) -> String {
        self.state.nodes.get(&self.me).map_or_else(|| format!("id {}", self.me), |node| node.name.clone())
    }

    /// Whether a check is about something that this node has: one that only votes has no networks, nor an engine for them.
    pub fn concerns(&self, check: Check) -> bool {
        use Check::{Driver, Engine, Forwarding, Kernel, Mtu, Routes};
        let only_votes = self.state.nodes.get(&self.me).is_some_and(|node| node.voter_only);
        !only_votes || !matches!(check, Engine | Driver | Kernel | Mtu | Forwarding | Routes)
    }

    /// The other nodes.
    pub(super) fn others(&self) -> impl Iterator<Item = &'a Node> + use<'a> {
        let me = self.me;
        self.state.nodes.values().filter(move |node| node.id != me)
    }

    /// Whether it was a node of this cluster, with this id, that answered.
    pub(super) fn is(&self, greeting: &Greeting, node: NodeId) -> bool {
        greeting.cluster == Some(self.cluster) && greeting.node == node
    }
}

/// A daemon's answer when it was asked who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The cluster that it is in.
    pub cluster: Option<ClusterId>,
    /// Its id there.
    pub node: NodeId,
    /// How long the answer took, in milliseconds.
    pub took_ms: u64,
    /// By how many milliseconds its clock is at least ahead of this host's; negative: behind.
    pub ahead_ms: i64,
}

impl Greeting {
    /// Who it is.
    pub(super) fn who(&self) -> String {
        match self.cluster {
            Some(cluster) => format!("node id {} of cluster {cluster}", self.node),
            None => "a daemon that is in no cluster".to_owned(),
        }
    }
}

/// Whether this daemon is in a cluster and takes part in it.
pub fn cluster(place: Option<&Place<'_>>) -> Finding {
    let Some(place) = place else {
        let cure = "pontoon init --advertise ADDR makes a cluster, pontoon join TOKEN enters one";
        return Finding::warning(Check::Cluster, "this node is in no cluster", cure);
    };
    let (name, id, cluster) = (place.name(), place.me, place.cluster);
    if let Some(reason) = place.stopped {
        let evidence = format!("node {name} (id {id}) takes no part in cluster {cluster} any more: {reason}");
        let cure = "if it was removed, pontoon leave cleans up this host (--force: also if it has containers), and it can \
                    join again; otherwise the log of pontoond says more";
        return Finding::failure(Check::Cluster, evidence, cure);
    }
    let nodes = count(place.state.nodes.len(), "node");
    Finding::ok(Check::Cluster, format!("node {name} (id {id}) of cluster {cluster}, which has {nodes}"))
}

/// Whether a majority of the voters answers, and what losses it stands. `answer`: none when it did, else why not.
pub fn quorum(place: &Place<'_>, answer: Option<&str>) -> Finding {
    let voters = place.voters.len();
    let needed = format!("{} of {}", voters::quorum(voters), count(voters, "voter"));
    if let Some(why) = answer {
        let cure = "bring the missing nodes back: nothing can be changed until a majority of the voters can talk to each \
                    other, and containers keep their network";
        return Finding::failure(Check::Quorum, format!("{needed} must agree, and do not: {why}"), cure);
    }
    let down = |node: &&Node| place.voters.contains(&node.raft_id) && node.state == NodeState::Down;
    let down: Vec<&str> = place.state.nodes.values().filter(down).map(|node| node.name.as_str()).collect();
    let tolerated = voters::tolerated_losses(voters, down.len());
    let more = if tolerated == 0 { "none".to_owned() } else { format!("{tolerated} more") };
    let evidence = format!("{needed} must agree, and do; {more} may fail");
    if tolerated > 0 || place.state.nodes.len() < 2 {
        return Finding::ok(Check::Quorum, evidence);
    }
    let cure = if down.is_empty() {
        "the loss of one more voter stops writes, while containers keep their network: three nodes that are ready stand the \
         loss of one (pontoon join on another host)"
            .to_owned()
    } else {
        format!("the loss of one more voter stops writes: bring back {}", down.join(", "))
    };
    Finding::warning(Check::Quorum, evidence, cure)
}

/// Whether each of the other nodes answers at its address.
pub fn peers(place: &Place<'_>, greetings: &BTreeMap<NodeId, Result<Greeting, String>>) -> Vec<Finding> {
    let of = |node: &'_ Node| Some(peer(place, node, greetings.get(&node.id)?));
    let found: Vec<Finding> = place.others().filter_map(of).collect();
    if found.is_empty() { vec![Finding::ok(Check::Peers, "there is no other node")] } else { found }
}

fn peer(place: &Place<'_>, node: &Node, greeting: &Result<Greeting, String>) -> Finding {
    let (name, address) = (&node.name, node.advertise);
    let finding = match greeting {
        Err(why) => {
            let cure = format!(
                "on {name}: start pontoond (systemctl status pontoond says how it is), and let TCP port {} through between \
                 the hosts; if {name} does not come back, pontoon node rm {name} --force",
                address.port()
            );
            Finding::failure(Check::Peers, format!("node {name}: {why}"), cure)
        }
        Ok(greeting) if !place.is(greeting, node.id) => {
            let evidence = format!("node {name}: at {address} answers {} instead", greeting.who());
            let cure = format!("give {name} its address back, or the other host another address");
            Finding::failure(Check::Peers, evidence, cure)
        }
        Ok(greeting) => {
            let evidence = format!("node {name} answers at {address} in {} ms", greeting.took_ms);
            if node.state == NodeState::Down && place.leader.is_some() {
                let cure = format!("run pontoon doctor on {name} and on the leader: those two do not reach each other");
                Finding::warning(Check::Peers, format!("{evidence}, but the leader does not hear from it"), cure)
            } else {
                Finding::ok(Check::Peers, evidence)
            }
        }
    };
    finding.about(name)
}

/// Whether the clocks of the nodes that answer agree with this host's.
pub fn clock(place: &Place<'_>, greetings: &BTreeMap<NodeId, Result<Greeting, String>>) -> Vec<Finding> {
    let (mut found, mut agree) = (Vec::new(), Vec::new());
    for node in place.others() {
        let Some(Ok(greeting)) = greetings.get(&node.id) else { continue };
        if !place.is(greeting, node.id) {
            continue;
        }
        if greeting.ahead_ms.abs() <= CLOCK_TOLERATED_MS {
            agree.push(node.name.as_str());
            continue;
        }
        let direction = if greeting.ahead_ms > 0 { "ahead of" } else { "behind" };
        let (whole, tenth) = (greeting.ahead_ms.unsigned_abs() / 1000, greeting.ahead_ms.unsigned_abs() % 1000 / 100);
        let evidence = format!("the clock of node {} is {whole}.{tenth} s {direction} this host's", node.name);
        let cure = "set the wrong one right, and keep both right with NTP (timedatectl set-ntp true)";
        found.push(Finding::warning(Check::Clock, evidence, cure).about(&node.name));
    }
    if found.is_empty() && !agree.is_empty() {
        let evidence = format!("within {CLOCK_TOLERATED_MS} ms of this host's: {}", agree.join(", "));
        found.push(Finding::ok(Check::Clock, evidence));
    }
    found
}
