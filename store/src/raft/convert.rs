//! Between openraft's types and the messages of peer.proto.

use std::collections::{BTreeMap, BTreeSet};

use openraft::StoredMembership;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use pontoon_proto::v1;
use thiserror::Error;

use super::types::{EntryBytes, LeaderId, LogEntry, LogId, Membership, Payload, Peer, SnapshotMeta, Types, Vote};

/// A message lacks something that every version sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a message without {0}")]
pub(crate) struct Malformed(&'static str);

impl From<Malformed> for tonic::Status {
    fn from(error: Malformed) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

pub(crate) fn log_id_out(id: &LogId) -> v1::LogId {
    v1::LogId { leader: Some(leader_out(&id.leader_id)), index: id.index }
}

pub(crate) fn log_id_in(id: &v1::LogId) -> Result<LogId, Malformed> {
    let leader = id.leader.as_ref().ok_or(Malformed("the leader of a log id"))?;
    Ok(LogId { leader_id: leader_in(leader), index: id.index })
}

pub(crate) fn vote_out(vote: &Vote) -> v1::Vote {
    v1::Vote { leader: Some(leader_out(&vote.leader_id)), committed: vote.committed }
}

pub(crate) fn vote_in(vote: Option<&v1::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed("a vote"))?;
    let leader = vote.leader.as_ref().ok_or(Malformed("the leader of a vote"))?;
    Ok(Vote { leader_id: leader_in(leader), committed: vote.committed })
}

pub(crate) fn entry_out(entry: &LogEntry) -> v1::LogEntry {
    let payload = match &entry.payload {
        Payload::Blank => None,
        Payload::Normal(data) => Some(v1::log_entry::Payload::Normal(data.0.to_vec())),
        Payload::Membership(membership) => Some(v1::log_entry::Payload::Membership(membership_out(membership))),
    };
    v1::LogEntry { log_id: Some(log_id_out(&entry.log_id)), payload }
}

pub(crate) fn entry_in(entry: v1::LogEntry) -> Result<LogEntry, Malformed> {
    let log_id = log_id_in(entry.log_id.as_ref().ok_or(Malformed("the log id of an entry"))?)?;
    let payload = match entry.payload {
        None => Payload::Blank,
        Some(v1::log_entry::Payload::Normal(data)) => Payload::Normal(EntryBytes(data.into())),
        Some(v1::log_entry::Payload::Membership(membership)) => Payload::Membership(membership_in(&membership)?),
    };
    Ok(LogEntry { log_id, payload })
}

pub(crate) fn membership_out(membership: &Membership) -> v1::Membership {
    let configs = membership.get_joint_config().iter();
    v1::Membership {
        configs: configs.map(|voters| v1::VoterSet { voters: voters.iter().copied().collect() }).collect(),
        members: membership.nodes().map(|(id, node)| (*id, peer_out(node))).collect(),
    }
}

pub(crate) fn membership_in(membership: &v1::Membership) -> Result<Membership, Malformed> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.iter().map(|set| set.voters.iter().copied().collect()).collect();
    if configs.is_empty() && membership.members.is_empty() {
        return Ok(Membership::default());
    }
    let members = membership.members.iter().map(|(id, member)| Ok((*id, peer_in(member)?)));
    let members = members.collect::<Result<BTreeMap<_, _>, _>>()?;
    Membership::new(configs, members).map_err(|_| Malformed("a voter's address"))
}

pub(crate) fn peer_out(peer: &Peer) -> v1::RaftMember {
    v1::RaftMember { address: peer.address.clone(), public_key: peer.key.to_vec() }
}

pub(crate) fn peer_in(member: &v1::RaftMember) -> Result<Peer, Malformed> {
    let key = member.public_key.as_slice().try_into().map_err(|_| Malformed("a member's key"))?;
    Ok(Peer { address: member.address.clone(), key })
}

pub(crate) fn append_out(request: &AppendEntriesRequest<Types>) -> v1::AppendRequest {
    v1::AppendRequest {
        vote: Some(vote_out(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id_out),
        entries: request.entries.iter().map(entry_out).collect(),
        committed: request.leader_commit.as_ref().map(log_id_out),
    }
}

pub(crate) fn append_in(request: v1::AppendRequest) -> Result<AppendEntriesRequest<Types>, Malformed> {
    Ok(AppendEntriesRequest {
        vote: vote_in(request.vote.as_ref())?,
        prev_log_id: request.prev.as_ref().map(log_id_in).transpose()?,
        entries: request.entries.into_iter().map(entry_in).collect::<Result<_, _>>()?,
        leader_commit: request.committed.as_ref().map(log_id_in).transpose()?,
    })
}

pub(crate) fn appended_out(result: &StreamAppendResult<Types>) -> v1::AppendResponse {
    use v1::append_response::Result as Out;
    let result = match result {
        Ok(up_to) => Out::Success(v1::AppendSuccess { up_to: up_to.as_ref().map(log_id_out) }),
        Err(StreamAppendError::Conflict(expect)) => {
            Out::Conflict(v1::AppendConflict { expect: Some(log_id_out(expect)) })
        }
        Err(StreamAppendError::HigherVote(vote)) => Out::HigherVote(vote_out(vote)),
    };
    v1::AppendResponse { result: Some(result) }
}

pub(crate) fn appended_in(response: &v1::AppendResponse) -> Result<StreamAppendResult<Types>, Malformed> {
    use v1::append_response::Result as In;
    match response.result.as_ref().ok_or(Malformed("the result of an append"))? {
        In::Success(success) => Ok(Ok(success.up_to.as_ref().map(log_id_in).transpose()?)),
        In::Conflict(conflict) => {
            let expect = conflict.expect.as_ref().ok_or(Malformed("the place of a conflict"))?;
            Ok(Err(StreamAppendError::Conflict(log_id_in(expect)?)))
        }
        In::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote_in(Some(vote))?))),
    }
}

pub(crate) fn vote_request_out(request: &VoteRequest<Types>) -> v1::VoteRequest {
    v1::VoteRequest {
        vote: Some(vote_out(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_out),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_in(request: &v1::VoteRequest) -> Result<VoteRequest<Types>, Malformed> {
    let last_log_id = request.last_log_id.as_ref().map(log_id_in).transpose()?;
    let mut into = VoteRequest::new(vote_in(request.vote.as_ref())?, last_log_id);
    into.leadership_transfer = request.leadership_transfer;
    Ok(into)
}

pub(crate) fn vote_response_out(response: &VoteResponse<Types>) -> v1::VoteResponse {
    v1::VoteResponse {
        vote: Some(vote_out(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_out),
    }
}

pub(crate) fn vote_response_in(response: &v1::VoteResponse) -> Result<VoteResponse<Types>, Malformed> {
    let last_log_id = response.last_log_id.as_ref().map(log_id_in).transpose()?;
    Ok(VoteResponse::new(vote_in(response.vote.as_ref())?, last_log_id, response.granted))
}

pub(crate) fn transfer_out(request: &TransferLeaderRequest<Types>) -> v1::TransferLeaderRequest {
    v1::TransferLeaderRequest {
        from: Some(vote_out(request.from_leader())),
        to: *request.to_node_id(),
        last_log_id: request.last_log_id().map(log_id_out),
    }
}

pub(crate) fn transfer_in(request: &v1::TransferLeaderRequest) -> Result<TransferLeaderRequest<Types>, Malformed> {
    let last_log_id = request.last_log_id.as_ref().map(log_id_in).transpose()?;
    Ok(TransferLeaderRequest::new(vote_in(request.from.as_ref())?, request.to, last_log_id))
}

pub(crate) fn snapshot_out(vote: Option<&Vote>, meta: &SnapshotMeta, size: u64) -> v1::SnapshotHeader {
    v1::SnapshotHeader {
        vote: vote.map(vote_out),
        last_log_id: meta.last_log_id.as_ref().map(log_id_out),
        membership: Some(membership_out(meta.last_membership.membership())),
        membership_log_id: meta.last_membership.log_id().as_ref().map(log_id_out),
        size,
    }
}

pub(crate) fn snapshot_in(header: &v1::SnapshotHeader) -> Result<SnapshotMeta, Malformed> {
    let membership = header.membership.as_ref().ok_or(Malformed("the membership of a snapshot"))?;
    let log_id = header.membership_log_id.as_ref().map(log_id_in).transpose()?;
    Ok(SnapshotMeta {
        last_log_id: header.last_log_id.as_ref().map(log_id_in).transpose()?,
        last_membership: StoredMembership::new(log_id, membership_in(membership)?),
    })
}

fn leader_out(leader: &LeaderId) -> v1::LeaderId {
    v1::LeaderId { term: leader.term, raft_id: leader.node_id }
}

fn leader_in(leader: &v1::LeaderId) -> LeaderId {
    LeaderId { term: leader.term, node_id: leader.raft_id }
}
