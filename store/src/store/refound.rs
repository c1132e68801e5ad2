//! A new cluster that goes on with what another had.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use openraft::Snapshot;

use super::{OpenError, Store};
use crate::codec::{decode_entry, encode_snapshot};
use crate::model::state::State;
use crate::raft::convert;
use crate::raft::types::{LeaderId, LogId, Membership, Payload, Peer, SnapshotMeta, StoredMembership, Vote};
use crate::rt::{spawn_blocking, timeout};

/// How long a member may take to take over a state that is on its disk.
const APPLYING: Duration = Duration::from_secs(10);

impl Store {
    /// Everything that this member has: also the entries of its log that it does not know to be committed, which others may
    /// have acknowledged. Tells how many those are.
    ///
    /// # Errors
    ///
    /// An entry that this version does not know: what comes behind it cannot be told.
    pub fn latest(&self) -> Result<(State, u64), String> {
        let mut state = self.state().clone();
        let Some(consensus) = self.consensus() else {
            return Err("this node is an observer, which has a part of the state only".to_owned());
        };
        let entries = consensus.log.entries_from(state.applied_index + 1);
        let mut applied = 0;
        for (index, entry) in entries {
            if let Payload::Normal(data) = &entry.payload {
                let entry = decode_entry(&data.0).map_err(|error| format!("entry {index}: {error}"))?;
                state.apply(index, &entry);
                applied += 1;
            }
        }
        Ok((state, applied))
    }

    /// Makes this member, which was just opened in an empty folder, the only one of a cluster with this state.
    ///
    /// # Errors
    ///
    /// The disk refuses, or it does not take the state over in time.
    pub async fn begin_with(&self, state: &State, advertise: SocketAddr) -> Result<(), OpenError> {
        let Some(consensus) = self.consensus() else { return Ok(()) };
        let me = self.id().0;
        // The first term, in which nobody else can have led.
        let leader_id = LeaderId { term: 1, node_id: me };
        let last = LogId { leader_id, index: state.applied_index };
        let peer = Peer { address: advertise.to_string(), key: self.key().public() };
        let voters = vec![BTreeSet::from([me])];
        let membership =
            Membership::new(voters, BTreeMap::from([(me, peer)])).map_err(|error| OpenError::raft(&error))?;
        let last_membership = StoredMembership::new(Some(last), membership);
        let meta = SnapshotMeta { last_log_id: Some(last), last_membership };
        let vote = Vote { leader_id, committed: true };
        let (data, snapshots) = (encode_snapshot(state), consensus.snapshots.clone());
        let header = convert::snapshot_out(Some(&vote), &meta, data.len() as u64);
        let written = spawn_blocking(move || snapshots.write(&header, &data)).await;
        let written = written.map_err(|error| OpenError::raft(&error))?;
        let snapshot = written.map_err(|error| OpenError::disk("snapshot")(error.into()))?;
        let installed = consensus.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
        installed.map_err(|error| OpenError::raft(&error))?;
        consensus.raft.trigger().elect(false).await.map_err(|error| OpenError::raft(&error))?;
        let applied = timeout(APPLYING, self.wait_applied(state.applied_index)).await;
        applied.map_err(|_| OpenError::Raft { reason: "it does not take over the state".to_owned() })
    }
}
