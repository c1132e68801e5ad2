//! Where this node is reached.

use std::net::SocketAddr;
use std::time::Duration;

use pontoon_proto::v1;
use thiserror::Error;
use tonic::Code;

use super::Store;
use crate::model::command::{Command, Outcome};
use crate::model::id::RaftId;
use crate::model::rejection::Rejection;
use crate::origin::asked_by;
use crate::raft::service::answers_at;
use crate::raft::types::Peer;
use crate::rt::timeout;

/// How long another member may take to look: it gives up after a second and a half.
const LOOK: Duration = Duration::from_secs(4);

/// Why an address is not taken for this node's.
#[derive(Debug, Error)]
pub enum ReachError {
    /// Another member does not reach this node there.
    #[error("{from} does not reach this node at {address}: {reason}")]
    Unreachable {
        /// Who has tried.
        from: String,
        /// Where.
        address: SocketAddr,
        /// Why not.
        reason: String,
    },
    /// The leader does not want it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// No leader has taken it.
    #[error("no leader has taken it, as far as is known here: {reason}")]
    NotTaken {
        /// Why not, the last of them.
        reason: String,
    },
    /// No other member could be asked.
    #[error("no other member could be asked whether it reaches this node at {address}: {reason}")]
    Nobody {
        /// Where.
        address: SocketAddr,
        /// Why not, the last of them.
        reason: String,
    },
}

impl Store {
    /// Has another member look whether this node answers at an address; looks itself where there is no other.
    ///
    /// # Errors
    ///
    /// It does not, or nobody else answers.
    pub async fn answers_at(&self, address: SocketAddr) -> Result<(), ReachError> {
        let others: Vec<(u64, Peer)> =
            self.peers().into_iter().filter(|(id, _)| *id != self.id()).map(|(id, peer)| (id.0, peer)).collect();
        if others.is_empty() {
            let key = self.key();
            let looked = answers_at(key, address, &key.public()).await;
            return looked.map_err(|reason| ReachError::Unreachable { from: "this host".to_owned(), address, reason });
        }
        let mut reason = String::new();
        for (id, peer) in others {
            match self.ask_to_call_back(id, &peer, address).await {
                Ok(()) => return Ok(()),
                Err(status) if status.code() == Code::FailedPrecondition => {
                    let from = self.state().node_with_raft_id(RaftId(id)).map(|node| node.name.clone());
                    let from = from.unwrap_or(peer.address);
                    return Err(ReachError::Unreachable { from, address, reason: status.message().to_owned() });
                }
                Err(status) => reason = format!("{}: {}", peer.address, status.message()),
            }
        }
        Err(ReachError::Nobody { address, reason })
    }

    /// Writes a command through the leader that another member knows, whom this one need not have heard of: to a node that has
    /// moved nobody sends anything.
    ///
    /// # Errors
    ///
    /// Nobody knows one, or it did not take it.
    pub async fn propose_through_others(&self, command: Command) -> Result<Outcome, ReachError> {
        let numbered = self.0.options.requests.begin().await;
        let message = v1::ProposeRequest {
            request: Some(self.request_id(numbered.number).into()),
            command: Some((&command).into()),
            origin: asked_by().as_ref().map(Into::into),
        };
        let mut reason = "there is no other".to_owned();
        for (id, peer) in self.peers().into_iter().filter(|(id, _)| *id != self.id()) {
            reason = format!("{} knows no leader, or does not answer", peer.address);
            let Some((leader, mut client, _)) = self.leader_known_by(id.0, &peer).await else { continue };
            let asked = timeout(LOOK, client.propose(self.0.channels.request(leader, message.clone()))).await;
            match asked.unwrap_or_else(|_| Err(tonic::Status::unavailable("no answer"))) {
                Ok(answer) => {
                    let result = crate::codec::result(answer.into_inner().response.unwrap_or_default());
                    return result
                        .map_err(|error| ReachError::NotTaken { reason: error.to_string() })?
                        .map_err(Into::into);
                }
                Err(status) => reason = format!("{}: {}", peer.address, status.message()),
            }
        }
        Err(ReachError::NotTaken { reason })
    }

    async fn ask_to_call_back(&self, id: u64, peer: &Peer, address: SocketAddr) -> Result<(), tonic::Status> {
        let unusable = |error: &dyn std::error::Error| tonic::Status::unavailable(crate::error_chain(error));
        let mut client = self.0.channels.peer(id, peer).map_err(|error| unusable(&error))?;
        let request = v1::CallBackRequest { address: address.to_string() };
        let asked = timeout(LOOK, client.call_back(self.0.channels.request(id, request))).await;
        let answer = asked.unwrap_or_else(|_| Err(tonic::Status::unavailable("no answer")));
        self.0.channels.note(&answer);
        answer.map(drop)
    }
}
