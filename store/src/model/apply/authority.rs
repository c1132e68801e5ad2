//! Exchanging the authority that issues the nodes' certificates.

use crate::model::command::{Outcome, RotateAuthority};
use crate::model::id::NodeId;
use crate::model::object::{Cluster, Node, NodeState};
use crate::model::rejection::{Reason, Rejection};

use super::{Change, Changing, list};

impl Changing<'_> {
    pub(super) fn rotate_authority(&mut self, new: &RotateAuthority) -> Result<Outcome, Rejection> {
        let cluster = self.cluster()?.clone();
        let Some(issuing) = cluster.authorities.last().cloned() else {
            let message = "this cluster has no authority: it was founded by a version before there were any";
            return Err(Rejection::new(Reason::AuthorityInUse, message, "make the cluster anew"));
        };
        if cluster.authorities.len() > 1 {
            return Err(self.in_use("the authority cannot be exchanged: it was a moment ago"));
        }
        self.state.sealed_key = new.sealed_key.clone();
        self.changes.insert(Change::SealedKey);
        // They name the one before.
        let live: Vec<_> = self.state.tokens.values().filter(|token| token.revoked_ms.is_none()).cloned().collect();
        for mut token in live {
            token.revoked_ms = Some(self.state.clock_ms);
            self.put_token(token);
        }
        let cluster = Cluster {
            authorities: vec![issuing, new.certificate.clone()],
            crossed: new.crossed.clone(),
            authority: cluster.authority + 1,
            locked: cluster.locked || new.locks,
            ..cluster
        };
        self.put_cluster(cluster.clone());
        Ok(Outcome::Cluster(cluster))
    }

    pub(super) fn drop_authorities(&mut self) -> Result<Outcome, Rejection> {
        let cluster = self.cluster()?.clone();
        if self.behind().next().is_some() {
            return Err(self.in_use("the authority before is needed still"));
        }
        let cluster = Cluster { authorities: cluster.authorities.last().cloned().into_iter().collect(), ..cluster };
        if self.state.cluster.as_ref() != Some(&cluster) {
            self.put_cluster(cluster.clone());
        }
        Ok(Outcome::Cluster(cluster))
    }

    pub(super) fn report_certificate(
        &mut self,
        id: NodeId,
        authority: u32,
        until_ms: u64,
    ) -> Result<Outcome, Rejection> {
        let old = self.node(id)?;
        let node = Node { authority, certificate_until_ms: until_ms, ..old.clone() };
        if node != *old {
            self.put_node(node);
        }
        Ok(Outcome::Done)
    }

    fn cluster(&self) -> Result<&Cluster, Rejection> {
        let missing = || Rejection::new(Reason::NotFounded, "there is no cluster yet", "use `pontoon init`");
        self.state.cluster.as_ref().ok_or_else(missing)
    }

    fn behind(&self) -> impl Iterator<Item = &Node> {
        self.state.without_new_certificate()
    }

    fn in_use(&self, what: &str) -> Rejection {
        let waited_for = list(self.behind().map(|node| node.name.clone()));
        let message = match waited_for.as_str() {
            "" => format!("{what}, and the one before is believed still"),
            names => format!("{what}, and {names} have certificates of the one before"),
        };
        Rejection::new(Reason::AuthorityInUse, message, "they renew themselves in a moment: see `pontoon status`")
    }
}

impl super::State {
    /// The nodes that answer and have not said that they have a certificate of the authority that issues now. One that is
    /// down gets it when it is back.
    pub fn without_new_certificate(&self) -> impl Iterator<Item = &Node> {
        let number = self.cluster.as_ref().map_or(0, |cluster| cluster.authority);
        self.nodes.values().filter(move |node| node.state != NodeState::Down && node.authority != number)
    }
}
