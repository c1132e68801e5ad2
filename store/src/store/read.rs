//! Linearizable reads.

use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::RaftError;
use pontoon_proto::v1;
use thiserror::Error;

use super::Store;
use super::propose::{Missing, list};
use crate::model::voters;
use crate::rt::{now, sleep, timeout_at};

/// How long before the deadline it is given up, to find out who is missing.
const PROBE: Duration = Duration::from_millis(500);
/// How long to wait before looking for the leader again.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// Why it is unknown whether the local state is the latest.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is no majority of voters.
    #[error("there is no majority of voters, so newer writes may exist than are known here: {}", list(.missing))]
    NoQuorum {
        /// Voters that do not answer.
        missing: Vec<Missing>,
    },
    /// This member does not apply entries any more.
    #[error("the store has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl Store {
    /// Waits until the state here has every write that was acknowledged before the call, on whichever member.
    ///
    /// # Errors
    ///
    /// See [`ReadError`]. Returns by the deadline.
    pub async fn read_barrier(&self, deadline: Duration) -> Result<(), ReadError> {
        let give_up = now() + deadline - PROBE.min(deadline / 2);
        let wait = async {
            loop {
                if let Some(reason) = self.stopped() {
                    return Err(ReadError::Stopped { reason });
                }
                if let Some(index) = self.read_index().await {
                    self.wait_applied(index).await;
                    return Ok(());
                }
                self.doubt_leader();
                sleep(LOOK_AGAIN).await;
            }
        };
        match timeout_at(give_up, wait).await {
            Ok(result) => result,
            Err(_) => Err(ReadError::NoQuorum { missing: self.missing().await }),
        }
    }

    /// Whether a majority of the voters answers, if these are the ones that do not.
    pub fn majority_answers(&self, missing: &[Missing]) -> bool {
        let voters = self.membership().voter_ids().count();
        voters.saturating_sub(missing.len()) >= voters::quorum(voters)
    }

    async fn read_index(&self) -> Option<u64> {
        let metrics = self.metrics();
        let leader = metrics.current_leader?;
        if leader == self.id().0 {
            return self.read_index_here().await;
        }
        let peer = metrics.membership_config.get_node(&leader)?;
        let mut client = self.0.channels.peer(leader, peer).ok()?;
        let asked = client.read_index(self.0.channels.request(leader, v1::ReadIndexRequest {}));
        let answered = tokio::select! {
            biased;
            answered = asked => answered,
            () = self.other_leader(leader) => return None,
        };
        self.0.channels.note(&answered);
        answered.ok().map(|response| response.into_inner().index)
    }

    /// The read index, as the leader. None: it does not lead, or has no majority.
    pub(crate) async fn read_index_here(&self) -> Option<u64> {
        match self.consensus()?.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Some(linearizer.read_log_id().index()),
            Err(RaftError::APIError(_) | RaftError::Fatal(_)) => None,
        }
    }
}
