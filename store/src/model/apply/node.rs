//! Nodes: admission, reports, labels, removal.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::model::command::{AdmitNode, MoveNode, OBSERVERS, Outcome, ReportNode};
use crate::model::id::{NodeId, RaftId};
use crate::model::name;
use crate::model::object::{Cluster, Endpoint, Family, Labels, Node, NodeState, Route, Token, TokenRole, Voting};
use crate::model::rejection::{Reason, Rejection};
use crate::model::state::State;
use crate::model::voters::{self, MAX_NODES};

use super::{Change, Changing, list};

/// Longest version text, in bytes.
const MAX_VERSION: usize = 64;
/// How many routes a node may report: hosts of a routed fabric have thousands.
const MAX_ROUTES: usize = 4096;
/// Longest name of a route's interface, in bytes (`IFNAMSIZ` of linux/if.h).
const MAX_DEVICE: usize = 16;

impl State {
    /// Whether a node can be admitted as far as its key and its token go.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn may_admit(&self, admit: &AdmitNode) -> Result<(), Rejection> {
        if !(admit.name.is_empty() && is_replacement(admit)) {
            name::check("node", &admit.name, name::MAX_NAME)?;
        }
        if self.retried(admit)?.is_none() {
            self.token_of(admit)?;
            self.replaced(admit)?;
        }
        Ok(())
    }

    /// The node whose place a newcomer takes: one that is not there, or was never there.
    fn replaced(&self, admit: &AdmitNode) -> Result<Option<&Node>, Rejection> {
        let wanted = &admit.replaces;
        if wanted.is_empty() {
            return Ok(None);
        }
        let node = self.find_node(wanted).ok_or_else(|| {
            let message = format!("this host cannot take the place of node {wanted}: there is no such node");
            Rejection::new(
                Reason::NodeNotFound,
                message,
                "see `pontoon node ls`; without --replace it joins as a new one",
            )
        })?;
        if node.state != NodeState::Down {
            let message = format!("this host cannot take the place of node {}: that one is there", node.name);
            let hint = "stop its daemon, and wait until `pontoon node ls` shows it as down; or join as a new node";
            return Err(Rejection::new(Reason::NodeAlive, message, hint));
        }
        Ok(Some(node))
    }

    /// The member that was admitted by the attempt that is made once more.
    fn retried(&self, admit: &AdmitNode) -> Result<Option<&Node>, Rejection> {
        match self.node_with_key(&admit.public_key) {
            Some(member) if is_retry(admit, member) => Ok(Some(member)),
            // Its own place it may take, once nobody hears of it any more.
            Some(member) if self.replaced(admit)?.is_none_or(|old| old.id != member.id) => {
                Err(key_taken(admit, member))
            }
            _ => Ok(None),
        }
    }
}

impl Changing<'_> {
    pub(super) fn admit_node(&mut self, admit: &AdmitNode) -> Result<Outcome, Rejection> {
        if let Some(member) = self.state.retried(admit)? {
            return Ok(Outcome::Node(member.clone()));
        }
        let Some(cluster) = self.state.cluster.clone() else {
            return Err(Rejection::new(Reason::NotFounded, "there is no cluster yet", "use `pontoon init`"));
        };
        let token = self.state.token_of(admit)?.cloned();
        let old = self.state.replaced(admit)?.cloned();
        let named = old.as_ref().filter(|_| admit.name.is_empty()).map(|old| old.name.clone());
        let admit = &AdmitNode { name: named.unwrap_or_else(|| admit.name.clone()), ..admit.clone() };
        let mut node = self.checked_node(admit, &cluster, old.as_ref().map(|old| old.id))?;
        if let Some(old) = old {
            if old.voter_only && !admit.voter_only {
                let message = format!("this host cannot take the place of node {}: that one only votes", old.name);
                return Err(Rejection::new(Reason::NodeVoterOnly, message, "join with --voter-only as well"));
            }
            if admit.voter_only && self.state.endpoints_of_node(old.id).next().is_some() {
                let message = format!("this host cannot take the place of node {}: that one has containers", old.name);
                return Err(Rejection::new(Reason::NodeVoterOnly, message, "join without --voter-only"));
            }
            // Its endpoints and what its engine has stay its own. The one that had its key is nobody now.
            let Node { id, labels, voting, egress_subnets, .. } = old;
            node = Node { id, labels, voting, egress_subnets, ..node };
            self.drop_session(old.id);
        }
        if let Some(token) = token {
            if token.role == TokenRole::Observer {
                node.voting = Voting::Demoted;
            }
            self.put_token(Token { used: token.used + 1, ..token });
        }
        self.put_node(node.clone());
        self.raise_feature_level();
        Ok(Outcome::Node(node))
    }

    /// The node that an admission makes, in the place of another or as one more, if nothing is in its way.
    pub(super) fn checked_node(
        &self,
        admit: &AdmitNode,
        cluster: &Cluster,
        replaced: Option<NodeId>,
    ) -> Result<Node, Rejection> {
        name::check("node", &admit.name, name::MAX_NAME)?;
        name::check_text("version", &admit.version, MAX_VERSION)?;
        let raft_id = admit.raft_id.unwrap_or(RaftId(self.entry_index));
        let AdmitNode { advertise, data_addr, .. } = *admit;
        let place = Place { cannot: "be admitted", id: replaced, name: &admit.name, raft_id, advertise, data_addr };
        self.check_place(&place, cluster.underlay)?;
        let most = voters::most_nodes(cluster.feature_level);
        if replaced.is_none() && self.state.nodes.len() >= most {
            return Err(Rejection::new(
                Reason::TooManyNodes,
                format!("node {} cannot be admitted: the cluster has {most} nodes already", admit.name),
                format!(
                    "a cluster has {MAX_NODES} nodes at most, once all of them know feature level {OBSERVERS}; remove one \
                     with `pontoon node rm`"
                ),
            ));
        }
        if admit.feature_level < cluster.feature_level {
            return Err(Rejection::new(
                Reason::FeatureLevelTooLow,
                format!(
                    "node {} runs version {:?}, which knows feature level {}; the cluster uses {}",
                    admit.name, admit.version, admit.feature_level, cluster.feature_level
                ),
                "upgrade its daemon",
            ));
        }
        Ok(Node {
            id: NodeId(self.entry_index),
            raft_id,
            name: admit.name.clone(),
            advertise: admit.advertise,
            data_addr: admit.data_addr,
            public_key: admit.public_key,
            labels: Labels::new(),
            version: admit.version.clone(),
            feature_level: admit.feature_level,
            state: NodeState::Joining,
            joined_ms: self.state.clock_ms,
            routes: Vec::new(),
            underlay_mtu: 0,
            egress_subnets: Vec::new(),
            engine: String::new(),
            attempt: admit.attempt,
            voting: Voting::Auto,
            voter_only: admit.voter_only,
            authority: 0,
            certificate_until_ms: 0,
        })
    }

    /// A node's daemon is reached somewhere else, and its packets come from somewhere else.
    pub(super) fn move_node(&mut self, moved: MoveNode) -> Result<Outcome, Rejection> {
        let MoveNode { node: id, advertise, data_addr } = moved;
        let old = self.node(id)?.clone();
        let underlay = self.state.cluster.as_ref().map_or(Family::of(old.data_addr), |cluster| cluster.underlay);
        let (cannot, name, raft_id) = ("move", &old.name, old.raft_id);
        self.check_place(&Place { cannot, id: Some(id), name, raft_id, advertise, data_addr }, underlay)?;
        let node = Node { advertise, data_addr, ..old.clone() };
        if node != old {
            self.put_node(node.clone());
        }
        Ok(Outcome::Node(node))
    }

    fn check_place(&self, place: &Place<'_>, underlay: Family) -> Result<(), Rejection> {
        check_addresses(place, underlay)?;
        self.check_unique(place)?;
        self.check_outside_networks(place)
    }

    fn check_unique(&self, place: &Place<'_>) -> Result<(), Rejection> {
        let Place { cannot, name, raft_id, advertise, data_addr, .. } = *place;
        for other in self.state.nodes.values().filter(|other| Some(other.id) != place.id) {
            let taken = |what: String| {
                let message = format!("node {name} cannot {cannot}: {what} is node {}'s", other.name);
                let hint = format!(
                    "use another, or remove that node with `pontoon node rm {0}`; if this host was node {0}, and was wiped, \
                     join with `--replace {0}`",
                    other.name
                );
                (message, hint)
            };
            if other.name == name {
                let (message, hint) = taken(format!("the name {name}"));
                return Err(Rejection::new(Reason::NodeNameTaken, message, hint));
            }
            let what = if other.advertise == advertise {
                format!("the advertise address {advertise}")
            } else if other.data_addr == data_addr {
                format!("the data address {data_addr}")
            } else if other.raft_id == raft_id {
                format!("the Raft id {raft_id}")
            } else {
                continue;
            };
            let (message, hint) = taken(what);
            return Err(Rejection::new(Reason::NodeAddressTaken, message, hint));
        }
        Ok(())
    }

    /// Packets to a node inside an overlay subnet would go into the overlay that they carry.
    fn check_outside_networks(&self, place: &Place<'_>) -> Result<(), Rejection> {
        let addresses = [place.data_addr, place.advertise.ip()];
        for network in self.state.networks.values() {
            for cidr in network.subnets.iter().map(|subnet| subnet.cidr) {
                if let Some(address) = addresses.iter().find(|address| cidr.contains(*address)) {
                    return Err(Rejection::new(
                        Reason::InvalidNodeAddress,
                        format!(
                            "node {} cannot {}: its address {address} is in {cidr} of network {}",
                            place.name, place.cannot, network.name
                        ),
                        "use an address outside the networks, or remove that network",
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn report_node(&mut self, report: &ReportNode) -> Result<Outcome, Rejection> {
        let old = self.node(report.node)?;
        name::check_text("version", &report.version, MAX_VERSION)?;
        name::check_text("engine", &report.engine, MAX_VERSION)?;
        if report.routes.len() > MAX_ROUTES {
            let message = format!("node {} reports {} routes", old.name, report.routes.len());
            return Err(Rejection::new(Reason::TooLarge, message, format!("report {MAX_ROUTES} at most")));
        }
        for route in &report.routes {
            name::check_text("interface", &route.device, MAX_DEVICE)?;
        }
        let node = Node {
            version: report.version.clone(),
            feature_level: report.feature_level,
            routes: tidy_routes(&report.routes),
            underlay_mtu: report.underlay_mtu,
            egress_subnets: one_per_family(&report.egress_subnets),
            engine: report.engine.clone(),
            state: if old.state == NodeState::Joining { NodeState::Ready } else { old.state },
            ..old.clone()
        };
        if node != *old {
            self.put_node(node);
            self.raise_feature_level();
        }
        Ok(Outcome::Done)
    }

    /// The cluster's feature level is the lowest of its nodes', and is never lowered.
    fn raise_feature_level(&mut self) {
        let lowest = self.state.nodes.values().map(|node| node.feature_level).min();
        let (Some(cluster), Some(lowest)) = (&self.state.cluster, lowest) else { return };
        if lowest > cluster.feature_level {
            let cluster = Cluster { feature_level: lowest, ..cluster.clone() };
            self.put_cluster(cluster);
        }
    }

    /// A node that never reported itself stays `Joining` instead of becoming `Ready`, and no
    /// node goes back to `Joining`.
    pub(super) fn set_node_state(&mut self, id: NodeId, state: NodeState) -> Result<Outcome, Rejection> {
        let old = self.node(id)?;
        let reported = !old.routes.is_empty() || old.underlay_mtu != 0 || old.state == NodeState::Ready;
        let state = match state {
            NodeState::Ready if !reported => NodeState::Joining,
            NodeState::Joining => old.state,
            state => state,
        };
        if state != old.state {
            let node = Node { state, ..old.clone() };
            self.put_node(node);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn label_node(&mut self, id: NodeId, set: &Labels, remove: &[String]) -> Result<Outcome, Rejection> {
        let old = self.node(id)?;
        let mut node = old.clone();
        node.labels.retain(|key, _| !remove.contains(key));
        node.labels.extend(set.clone());
        name::check_labels(&format!("node {}", node.name), &node.labels)?;
        if node != *old {
            self.put_node(node.clone());
        }
        Ok(Outcome::Node(node))
    }

    /// Whether a node is to vote; who does follows from it, as soon as it can.
    pub(super) fn set_voting(&mut self, id: NodeId, voting: Voting) -> Result<Outcome, Rejection> {
        let node = Node { voting, ..self.node(id)?.clone() };
        let others = || self.state.nodes.values().filter(|other| other.id != id);
        let able = others().filter(|other| other.voting != Voting::Demoted).count() + 1;
        let limit = self.state.cluster.as_ref().and_then(|cluster| cluster.voters);
        let seats = voters::seats(limit, able);
        let promoted: Vec<String> =
            others().filter(|other| other.voting == Voting::Promoted).map(|other| other.name.clone()).collect();
        if voting == Voting::Promoted && promoted.len() >= seats {
            return Err(Rejection::new(
                Reason::VotersFull,
                format!(
                    "node {} cannot be promoted: {seats} of {able} nodes vote, and {} are promoted already",
                    node.name,
                    promoted.join(", ")
                ),
                "demote one of them with `pontoon node demote`, or let more nodes vote with `pontoon cluster set voters=`",
            ));
        }
        if self.state.nodes.get(&id) != Some(&node) {
            self.put_node(node.clone());
        }
        Ok(Outcome::Node(node))
    }

    /// A Raft id that had a log is used once: without that log, its next owner could vote twice.
    pub(super) fn retire_member(&mut self, id: NodeId) -> Result<Outcome, Rejection> {
        let node = Node { raft_id: RaftId(self.entry_index), ..self.node(id)?.clone() };
        self.put_node(node.clone());
        Ok(Outcome::Node(node))
    }

    pub(super) fn remove_node(&mut self, id: NodeId, force: bool) -> Result<Outcome, Rejection> {
        let node = self.node(id)?.clone();
        let endpoints: Vec<Endpoint> = self.state.endpoints_of_node(id).cloned().collect();
        if !force && !endpoints.is_empty() {
            let users = list(endpoints.iter().map(|endpoint| self.describe_on_network(endpoint)));
            return Err(Rejection::new(
                Reason::NodeInUse,
                format!("node {} cannot be removed: it has {} endpoints: {users}", node.name, endpoints.len()),
                "detach them, or remove the containers (docker rm), or use --force: if they still run, their addresses may be \
                 given to others",
            ));
        }
        if !force && self.state.nodes.len() == 1 {
            return Err(Rejection::new(
                Reason::NodeInUse,
                format!("node {} cannot be removed: it is the last one of the cluster", node.name),
                "use --force: the cluster and its networks are gone then",
            ));
        }
        for endpoint in &endpoints {
            self.end_endpoint(endpoint);
        }
        self.end_engine(id);
        self.state.nodes.remove(&id);
        self.changes.insert(Change::Node(id));
        self.drop_session(id);
        self.raise_feature_level();
        Ok(Outcome::Node(node))
    }

    fn describe_on_network(&self, endpoint: &Endpoint) -> String {
        let network = self.state.networks.get(&endpoint.network).map_or("?", |network| &network.name);
        let addresses: Vec<String> = endpoint.addresses.iter().map(IpAddr::to_string).collect();
        let stopped = if endpoint.is_up() { "" } else { ", not running" };
        format!("{} on network {network} ({}{stopped})", endpoint.name, addresses.join(", "))
    }
}

/// Whether somebody takes the place of a node, whose name he has unless he wants another.
fn is_replacement(admit: &AdmitNode) -> bool {
    !admit.replaces.is_empty()
}

/// Whether the attempt that the member was admitted by is made once more, because its answer was lost. The node then has
/// no log yet. Any other that has the member's key may have lost a log: with the old Raft id it could vote twice.
fn is_retry(admit: &AdmitNode, member: &Node) -> bool {
    let never_came = member.underlay_mtu == 0 && member.routes.is_empty() && !member.voter_only;
    (member.state == NodeState::Joining || member.state == NodeState::Down && never_came)
        && admit.attempt != 0
        && admit.attempt == member.attempt
        && (admit.name == member.name || admit.name.is_empty() && is_replacement(admit))
        && admit.advertise == member.advertise
        && admit.data_addr == member.data_addr
        && admit.voter_only == member.voter_only
}

fn key_taken(admit: &AdmitNode, member: &Node) -> Rejection {
    Rejection::new(
        Reason::NodeKeyTaken,
        format!("node {} cannot be admitted: the key of this host is node {}'s already", admit.name, member.name),
        format!("run `pontoon node rm {} --force` on a member first, then join", member.name),
    )
}

/// What a node is to have that no other has.
struct Place<'a> {
    /// What it cannot do without.
    cannot: &'static str,
    /// The node that has it already, if there is one.
    id: Option<NodeId>,
    name: &'a str,
    raft_id: RaftId,
    advertise: SocketAddr,
    data_addr: IpAddr,
}

fn check_addresses(place: &Place<'_>, underlay: Family) -> Result<(), Rejection> {
    let refuse = |message: String, hint: &str| Err(Rejection::new(Reason::InvalidNodeAddress, message, hint));
    let Place { name, advertise, data_addr, .. } = *place;
    if !is_destination(data_addr) {
        let message = format!("node {name} cannot have the data address {data_addr}: no packet can go to it");
        return refuse(message, "use an address of the host that the other hosts reach");
    }
    if Family::of(data_addr) != underlay {
        let message = format!(
            "node {name} cannot have the data address {data_addr}: the cluster's data addresses are {}",
            family_name(underlay)
        );
        return refuse(message, "use --data-addr with an address of that family");
    }
    if !is_destination(advertise.ip()) || advertise.port() == 0 {
        let message = format!("node {name} cannot be reached at {advertise}");
        return refuse(message, "use an address of the host that the other hosts reach, and the peer port");
    }
    Ok(())
}

/// Whether packets can be sent to the address from another host (or this one: loopback is for
/// several daemons on one machine). An IPv6 link-local address would need an interface.
fn is_destination(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast() && !v6.is_unicast_link_local(),
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Routes in order, each once, without host bits and default routes.
fn tidy_routes(routes: &[Route]) -> Vec<Route> {
    let tidy = |route: &Route| Route { destination: route.destination.trunc(), device: route.device.clone() };
    let mut tidied: Vec<Route> = routes.iter().filter(|r| r.destination.prefix_len() > 0).map(tidy).collect();
    tidied.sort();
    tidied.dedup();
    tidied
}

fn one_per_family(subnets: &[IpNet]) -> Vec<IpNet> {
    let first = |v4: bool| subnets.iter().find(|subnet| subnet.addr().is_ipv4() == v4).map(IpNet::trunc);
    [first(true), first(false)].into_iter().flatten().collect()
}
