//! What a command does to the state: all or nothing, the same on every node.

mod address;
mod admin;
mod authority;
mod cluster;
mod endpoint;
mod engine;
mod interface;
mod network;
mod node;
mod observed;
mod refound;
mod stopped;
mod subnets;
mod token;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::command::{Command, Outcome};
use super::entry::{Entry, RequestId};
use super::id::{AdminId, EndpointId, NetworkId, NodeId, TokenId};
use super::object::{Claim, Cluster, Endpoint, EngineNetwork, Lease, Network, Node, Token};
use super::rejection::{Reason, Rejection};
use super::state::{Kept, Session, State};

pub use observed::Observed;
pub use refound::{FirstNode, Refounding};

/// What applying an entry came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The answer to whoever asked.
    pub result: Result<Outcome, Rejection>,
    /// What was put or deleted, each once, in order. A command that was refused changes its
    /// kept answers only; the clock and the index change with every entry.
    pub changes: Vec<Change>,
}

/// The key of an object that was put or deleted; the state says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// The settings.
    Cluster,
    /// A node.
    Node(NodeId),
    /// A network.
    Network(NetworkId),
    /// An endpoint.
    Endpoint(EndpointId),
    /// A lease.
    Lease(NetworkId, IpAddr),
    /// A claimed subnet.
    Claim(IpNet),
    /// A network as a node's engine has it.
    EngineNetwork(NetworkId, NodeId),
    /// A token.
    Token(TokenId),
    /// An admin.
    Admin(AdminId),
    /// What somebody has done, by its index.
    Audited(u64),
    /// The authority's key, encrypted.
    SealedKey,
    /// A kept answer: of which node's session, to which request.
    Answer(NodeId, u64),
}

impl State {
    /// Applies the log entry at `index`. Never fails and never looks at anything but the state
    /// and the entry: the time is the later of the state's and the entry's.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Applied {
        self.applied_index = index;
        self.clock_ms = self.clock_ms.max(entry.time_ms);
        self.index.expire(self.clock_ms);
        if let Some(result) = self.kept_answer(entry.request) {
            return Applied { result, changes: Vec::new() };
        }
        let mut change = Changing { state: self, entry_index: index, changes: BTreeSet::new() };
        let result = change.command(&entry.command);
        // Nobody needs to know of what has changed nothing; and whoever repeats that for ever would push out what he has done.
        if let Ok(outcome) = &result
            && !change.changes.is_empty()
        {
            change.audit(entry.request, entry.origin.as_ref(), &entry.command, outcome);
        }
        change.keep_answer(entry.request, &result);
        Applied { result, changes: change.changes.into_iter().collect() }
    }

    /// The answer that the request got before, or why that cannot be told.
    fn kept_answer(&self, request: RequestId) -> Option<Result<Outcome, Rejection>> {
        let session = self.sessions.get(&request.node).filter(|session| session.run == request.run)?;
        if let Some(kept) = session.answers.get(&request.seq) {
            return Some(self.answer_again(kept));
        }
        let (oldest, _) = session.answers.first_key_value()?;
        let too_old = session.answers.len() >= Session::MAX_ANSWERS && request.seq < *oldest;
        too_old.then(|| {
            Err(Rejection::new(
                Reason::RequestTooOld,
                format!(
                    "request {} of node {} is older than the {} latest, whose answers are kept",
                    request.seq,
                    request.node,
                    Session::MAX_ANSWERS
                ),
                "look whether it was done, and ask again if not",
            ))
        })
    }
}

impl State {
    /// What is kept of an answer.
    fn kept(&self, result: &Result<Outcome, Rejection>) -> Kept {
        match result {
            Ok(Outcome::Node(node)) if self.nodes.contains_key(&node.id) => Kept::Node(node.id),
            Ok(Outcome::Network(network)) if self.networks.contains_key(&network.id) => Kept::Network(network.id),
            Ok(Outcome::Endpoint(endpoint)) if self.endpoints.contains_key(&endpoint.id) => Kept::Endpoint(endpoint.id),
            whole => Kept::Whole(Box::new(whole.clone())),
        }
    }

    /// The answer to somebody who asks again: an object as it is now, or that it is gone again.
    fn answer_again(&self, kept: &Kept) -> Result<Outcome, Rejection> {
        let gone = |reason: Reason, what: &str, id: u64| {
            Rejection::new(
                reason,
                format!("this was done, and {what} {id} has been removed since"),
                "do it again if it is still wanted",
            )
        };
        match kept {
            Kept::Node(id) => {
                let node = self.nodes.get(id).cloned().map(Outcome::Node);
                node.ok_or_else(|| gone(Reason::NodeNotFound, "node", id.0))
            }
            Kept::Network(id) => {
                let network = self.networks.get(id).cloned().map(Outcome::Network);
                network.ok_or_else(|| gone(Reason::NetworkNotFound, "network", id.0))
            }
            Kept::Endpoint(id) => {
                let endpoint = self.endpoints.get(id).cloned().map(Outcome::Endpoint);
                endpoint.ok_or_else(|| gone(Reason::EndpointNotFound, "endpoint", id.0))
            }
            Kept::Whole(result) => (**result).clone(),
        }
    }
}

/// A state while one command changes it. Everything is checked before the first change.
struct Changing<'a> {
    state: &'a mut State,
    /// Index of the entry: the id of what it makes.
    entry_index: u64,
    changes: BTreeSet<Change>,
}

impl Changing<'_> {
    fn command(&mut self, command: &Command) -> Result<Outcome, Rejection> {
        if self.state.cluster.is_none() && !matches!(command, Command::FoundCluster { .. }) {
            return Err(Rejection::new(
                Reason::NotFounded,
                "there is no cluster yet",
                "make one with `pontoon init`, or join one with `pontoon join`",
            ));
        }
        match command {
            Command::FoundCluster { cluster, node, sealed_key } => self.found_cluster(cluster, node, sealed_key),
            Command::AdmitNode(admit) => self.admit_node(admit),
            Command::ReportNode(report) => self.report_node(report),
            Command::SetNodeState { node, state } => self.set_node_state(*node, *state),
            Command::LabelNode { node, set, remove } => self.label_node(*node, set, remove),
            Command::ConfigureCluster(wanted) => self.configure_cluster(*wanted),
            Command::SetVoting { node, voting } => self.set_voting(*node, *voting),
            Command::RetireMember { node } => self.retire_member(*node),
            Command::RemoveNode { node, force } => self.remove_node(*node, *force),
            Command::CreateNetwork(wanted) => self.create_network(wanted),
            Command::RemoveNetwork { network } => self.remove_network(*network),
            Command::CreateEndpoint(wanted) => self.create_endpoint(wanted),
            Command::ActivateEndpoint { endpoint, epoch } => self.activate_endpoint(*endpoint, *epoch),
            Command::RemoveEndpoint { endpoint, epoch } => self.remove_endpoint(*endpoint, *epoch),
            Command::ClaimSubnet(wanted) => self.claim_subnet(wanted),
            Command::ReleaseClaim { node, cidr } => Ok(self.release_claim(*node, *cidr)),
            Command::NameNetwork { network, name, labels } => self.name_network(*network, name, labels),
            Command::ReportEngineNetwork(known) => self.report_engine_network(known),
            Command::HoldAddress(wanted) => self.hold_address(wanted),
            Command::ReleaseAddress { network, address, epoch } => self.release_address(*network, *address, *epoch),
            Command::PlaceEndpoint(placed) => self.place_endpoint(placed),
            Command::StopEndpoint { endpoint, epoch } => self.stop_endpoint(*endpoint, *epoch),
            Command::RebindEndpoint(rebound) => self.rebind_endpoint(rebound),
            Command::CreateToken(wanted) => self.create_token(wanted),
            Command::RevokeToken { token } => self.revoke_token(*token),
            Command::RotateAuthority(new) => self.rotate_authority(new),
            Command::DropAuthorities => self.drop_authorities(),
            Command::ReportCertificate { node, authority, until_ms } => {
                self.report_certificate(*node, *authority, *until_ms)
            }
            Command::CreateAdmin(wanted) => self.create_admin(wanted),
            Command::RemoveAdmin(admin) => self.remove_admin(*admin),
            Command::MoveNode(moved) => self.move_node(*moved),
            Command::RotateToken { token, hash } => self.rotate_token(*token, *hash),
        }
    }

    fn keep_answer(&mut self, request: RequestId, result: &Result<Outcome, Rejection>) {
        let RequestId { node, run, seq } = request;
        if self.state.sessions.get(&node).is_some_and(|session| session.run != run) {
            self.drop_session(node);
        }
        let kept = self.state.kept(result);
        let new = || Session { run, answers: Default::default() };
        let session = self.state.sessions.entry(node).or_insert_with(new);
        session.answers.insert(seq, kept);
        self.changes.insert(Change::Answer(node, seq));
        if session.answers.len() > Session::MAX_ANSWERS
            && let Some((oldest, _)) = session.answers.pop_first()
        {
            self.changes.insert(Change::Answer(node, oldest));
        }
        let strangers = || self.state.sessions.keys().filter(|node| !self.state.nodes.contains_key(node));
        if strangers().count() > Session::MAX_STRANGERS
            && let Some(oldest) = strangers().find(|stranger| **stranger != node).copied()
        {
            self.drop_session(oldest);
        }
    }

    fn drop_session(&mut self, node: NodeId) {
        let session = self.state.sessions.remove(&node);
        let answers = session.into_iter().flat_map(|session| session.answers.into_keys());
        self.changes.extend(answers.map(|seq| Change::Answer(node, seq)));
    }

    fn node(&self, id: NodeId) -> Result<&Node, Rejection> {
        let missing =
            || Rejection::new(Reason::NodeNotFound, format!("there is no node {id}"), "see `pontoon node ls`");
        self.state.nodes.get(&id).ok_or_else(missing)
    }

    /// A node that containers can be on.
    fn working_node(&self, id: NodeId) -> Result<&Node, Rejection> {
        let node = self.node(id)?;
        if !node.voter_only {
            return Ok(node);
        }
        Err(Rejection::new(
            Reason::NodeVoterOnly,
            format!("node {} only votes: no network reaches it, and it has no containers", node.name),
            "use another host; or take this one out with `pontoon leave`, and let it join without --voter-only",
        ))
    }

    fn network(&self, id: NetworkId) -> Result<&Network, Rejection> {
        let hint = "see `pontoon network ls`";
        let missing = || Rejection::new(Reason::NetworkNotFound, format!("there is no network {id}"), hint);
        self.state.networks.get(&id).ok_or_else(missing)
    }

    fn endpoint(&self, id: EndpointId) -> Result<&Endpoint, Rejection> {
        let hint = "see `pontoon network inspect`";
        let missing = || Rejection::new(Reason::EndpointNotFound, format!("there is no endpoint {id}"), hint);
        self.state.endpoints.get(&id).ok_or_else(missing)
    }

    fn put_cluster(&mut self, cluster: Cluster) {
        self.state.cluster = Some(cluster);
        self.changes.insert(Change::Cluster);
    }

    fn put_node(&mut self, node: Node) {
        self.changes.insert(Change::Node(node.id));
        self.state.nodes.insert(node.id, node);
    }

    fn put_network(&mut self, network: Network) {
        self.changes.insert(Change::Network(network.id));
        self.state.networks.insert(network.id, network);
    }

    fn put_claim(&mut self, claim: Claim) {
        self.changes.insert(Change::Claim(claim.cidr));
        self.state.claims.insert(claim.cidr, claim);
    }

    fn drop_claims(&mut self, ended: impl Fn(&Claim) -> bool) {
        let gone = self.state.claims.values().filter(|claim| ended(claim)).map(|claim| claim.cidr);
        for cidr in gone.collect::<Vec<_>>() {
            self.state.claims.remove(&cidr);
            self.changes.insert(Change::Claim(cidr));
        }
    }

    fn put_engine_network(&mut self, known: EngineNetwork) {
        self.changes.insert(Change::EngineNetwork(known.network, known.node));
        self.state.engine_networks.insert((known.network, known.node), known);
    }

    fn drop_engine_networks(&mut self, gone: impl Fn(&EngineNetwork) -> bool) {
        let keys = self.state.engine_networks.values().filter(|known| gone(known)).map(|k| (k.network, k.node));
        for (network, node) in keys.collect::<Vec<_>>() {
            self.state.engine_networks.remove(&(network, node));
            self.changes.insert(Change::EngineNetwork(network, node));
        }
    }

    fn put_token(&mut self, token: Token) {
        self.changes.insert(Change::Token(token.id()));
        self.state.tokens.insert(token.id(), token);
    }

    fn put_endpoint(&mut self, endpoint: Endpoint) {
        if let Some(old) = self.state.endpoints.get(&endpoint.id) {
            self.state.index.remove_endpoint(old);
        }
        self.state.index.add_endpoint(&endpoint);
        self.changes.insert(Change::Endpoint(endpoint.id));
        self.state.endpoints.insert(endpoint.id, endpoint);
    }

    fn drop_endpoint(&mut self, endpoint: &Endpoint) {
        self.state.index.remove_endpoint(endpoint);
        self.state.endpoints.remove(&endpoint.id);
        self.changes.insert(Change::Endpoint(endpoint.id));
    }

    fn put_lease(&mut self, lease: Lease) {
        let key = (lease.network, lease.address);
        if let Some(old) = self.state.leases.get(&key) {
            self.state.index.remove_lease(old);
        }
        self.state.index.add_lease(&lease, self.state.clock_ms);
        self.changes.insert(Change::Lease(lease.network, lease.address));
        self.state.leases.insert(key, lease);
    }

    fn drop_lease(&mut self, network: NetworkId, address: IpAddr) {
        if let Some(old) = self.state.leases.remove(&(network, address)) {
            self.state.index.remove_lease(&old);
            self.changes.insert(Change::Lease(network, address));
        }
    }
}

/// The first few of a list and how many more there are.
fn list(items: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 10;
    let mut items: Vec<String> = items.collect();
    let more = items.len().saturating_sub(SHOWN);
    items.truncate(SHOWN);
    let text = items.join(", ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}
