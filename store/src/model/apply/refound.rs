//! A new cluster that goes on with what another had: after a disaster, or from a backup.

use crate::model::admin::{Audited, Origin};
use crate::model::command::{AdmitNode, Command};
use crate::model::entry::{Entry, RequestId};
use crate::model::id::{ClusterId, NodeId, RaftId};
use crate::model::object::Node;
use crate::model::rejection::{Reason, Rejection};
use crate::model::state::State;

/// What is new of the new cluster.
#[derive(Debug, Clone)]
pub struct Refounding {
    /// Its id.
    pub cluster: ClusterId,
    /// Certificate of its authority (X.509, DER).
    pub authority: Vec<u8>,
    /// The authority's key, encrypted.
    pub sealed_key: Vec<u8>,
    /// Its only node.
    pub first: FirstNode,
    /// Who wants it, and what that is.
    pub asked: Option<(Origin, &'static str)>,
    /// When it begins, in milliseconds since the Unix epoch: addresses cool from then on.
    pub now_ms: u64,
}

/// The node that a cluster begins with.
#[derive(Debug, Clone)]
pub enum FirstNode {
    /// One that was in the old cluster: it keeps its endpoints.
    Stays(NodeId),
    /// One that was in none.
    Enters(Box<AdmitNode>),
}

impl State {
    /// The state of the new cluster, and its first node, which has a Raft id that the old cluster never gave. All other nodes
    /// are removed, as by force: their endpoints end, and their addresses cool.
    ///
    /// # Errors
    ///
    /// The first node is not there, or cannot be admitted.
    pub fn refound(mut self, new: Refounding) -> Result<(Self, Node), Rejection> {
        self.sessions.clear();
        self.tokens.clear();
        self.admins.clear();
        let stays = match new.first {
            FirstNode::Stays(node) => Some(node),
            FirstNode::Enters(_) => None,
        };
        // What is done here is nobody's request.
        let mut seq = 0;
        let mut entry = |command| {
            seq += 1;
            Entry { time_ms: new.now_ms, request: RequestId { node: NodeId(0), run: 0, seq }, command, origin: None }
        };
        let gone: Vec<NodeId> = self.nodes.keys().copied().filter(|node| Some(*node) != stays).collect();
        for node in gone {
            let removal = entry(Command::RemoveNode { node, force: true });
            self.apply(self.applied_index + 1, &removal).result?;
        }
        let missing = || Rejection::new(Reason::NotFounded, "there is no cluster in this state", "use another backup");
        self.cluster.as_mut().ok_or_else(missing)?.authorities.clear();
        let first = match new.first {
            FirstNode::Stays(node) => node,
            FirstNode::Enters(admit) => {
                let key = admit.public_key;
                let admission = entry(Command::AdmitNode(AdmitNode { raft_id: None, ..*admit }));
                self.apply(self.applied_index + 1, &admission).result?;
                self.node_with_key(&key).map(|node| node.id).unwrap_or(NodeId(0))
            }
        };
        self.applied_index += 1;
        let cluster = self.cluster.as_mut().ok_or_else(missing)?;
        (cluster.id, cluster.authorities) = (new.cluster, vec![new.authority]);
        (cluster.crossed, cluster.authority, cluster.locked) = (Vec::new(), 1, false);
        self.sealed_key = new.sealed_key;
        self.sessions.clear();
        if let Some((origin, what)) = new.asked {
            let (index, time_ms) = (self.applied_index, self.clock_ms);
            self.audit.insert(index, Audited { index, time_ms, node: first, origin, what: what.to_owned() });
        }
        let raft_id = RaftId(self.applied_index);
        let lost = || Rejection::new(Reason::NodeNotFound, format!("there is no node {first}"), "use another backup");
        let node = self.nodes.get_mut(&first).ok_or_else(lost)?;
        node.raft_id = raft_id;
        (node.authority, node.certificate_until_ms) = (0, 0);
        let node = node.clone();
        self.reindex();
        Ok((self, node))
    }
}
