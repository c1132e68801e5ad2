//! Writing: on any member, passed to the leader, tried again under the same request id until it is answered.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use openraft::errors::{ClientWriteError, RaftError};
use pontoon_proto::v1;
use thiserror::Error;
use tonic::{Code, Status};

use super::{Level, Part, Store};
use crate::codec::{CodecError, encode_entry};
use crate::model::command::{Command, Outcome};
use crate::model::entry::{Entry, RequestId};
use crate::model::id::RaftId;
use crate::model::rejection::Rejection;
use crate::origin::asked_by;
use crate::raft::types::{Answer, EntryBytes};
use crate::rt::{now, sleep, timeout, timeout_at};
use crate::{MAX_COMMAND_BYTES, error_chain};

/// How long before the deadline it is given up, to find out who is missing.
const PROBE: Duration = Duration::from_millis(500);
/// How long to wait before looking for the leader again.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// A voter that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Raft id.
    pub raft_id: RaftId,
    /// Name of the node; none if the state does not know it.
    pub name: Option<String>,
    /// Where it was asked.
    pub address: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.address),
            None => write!(f, "member {} ({})", self.raft_id, self.address),
        }
    }
}

/// Why a command was not done, or may not have been.
#[derive(Debug, Error)]
pub enum ProposeError {
    /// It was refused; the state is as it was.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// There is no majority of voters, and nothing was written.
    #[error("there is no majority of voters, and nothing was written: {}", list(.missing))]
    NoQuorum {
        /// Voters that do not answer.
        missing: Vec<Missing>,
    },
    /// It was proposed and not answered: it may still be done, or not. The same request is never done twice.
    #[error("no answer in time, and it is unknown whether it was done: {}", list(.missing))]
    Unknown {
        /// Voters that do not answer.
        missing: Vec<Missing>,
    },
    /// The command is too large.
    #[error(
        "the command has {bytes} bytes, and {MAX_COMMAND_BYTES} are the most: use fewer or shorter labels, names and addresses"
    )]
    TooLarge {
        /// Bytes of its encoding.
        bytes: usize,
    },
    /// Some nodes do not know this kind of command yet.
    #[error("this needs feature level {level}, which {} does not know yet: upgrade pontoond there", .nodes.join(", "))]
    NotFeature {
        /// The level it needs.
        level: u32,
        /// Names of the nodes that have a lower one.
        nodes: Vec<String>,
    },
    /// The leader cannot read the command. Nothing was written.
    #[error("the leader cannot read this command: {reason}. Run the same version of pontoond on every node")]
    NotUnderstood {
        /// What it says.
        reason: String,
    },
    /// The leader's disk has no room. Nothing was written.
    #[error("the leader takes no writes: {reason}")]
    DiskFull {
        /// Whose disk it is, and how much room there is.
        reason: String,
    },
    /// This member does not apply entries any more.
    #[error("the store has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Who is missing, for people.
pub(super) fn list(missing: &[Missing]) -> String {
    if missing.is_empty() {
        return "every voter answers, but none leads that takes it: one is being elected, or this node was removed"
            .into();
    }
    let names: Vec<_> = missing.iter().map(ToString::to_string).collect();
    format!("no answer from {}", names.join(", "))
}

/// What a leader did with a command.
#[derive(Debug)]
pub(crate) enum Proposed {
    /// Applied there.
    Done {
        /// Index of the entry.
        index: u64,
        /// What apply answered.
        result: Box<Result<Outcome, Rejection>>,
    },
    /// It does not lead; nothing was written.
    NotLeader,
    /// It lost leadership meanwhile.
    Unknown,
    /// It cannot read the command; nothing was written.
    NotUnderstood(String),
    /// Its disk has no room; nothing was written.
    DiskFull(String),
    /// It has stopped.
    Stopped(String),
}

impl Store {
    /// Writes a command, on whichever member. When this returns, the command is on a majority's disks and, on
    /// success, applied on this member too.
    ///
    /// # Errors
    ///
    /// See [`ProposeError`]. Returns by the deadline.
    pub async fn propose(&self, command: Command, deadline: Duration) -> Result<Outcome, ProposeError> {
        self.check_feature_level(&command)?;
        let end = now() + deadline;
        let give_up = end - PROBE.min(deadline / 2);
        let Ok(numbered) = timeout_at(give_up, self.0.options.requests.begin()).await else {
            return Err(ProposeError::NoQuorum { missing: self.missing().await });
        };
        let request = self.request_id(numbered.number);
        let entry = Entry { time_ms: u64::MAX, request, command, origin: asked_by() };
        let bytes = encode_entry(&entry).len();
        if bytes > MAX_COMMAND_BYTES {
            return Err(ProposeError::TooLarge { bytes });
        }
        let (open, mut full, mut missing) = (AtomicBool::new(false), None, None);
        loop {
            let mut attempt = pin!(self.attempt(&entry, &open));
            let mut answer = timeout_at(give_up, &mut attempt).await;
            if answer.is_err() {
                // While it is found out who is missing, it may be answered, or come to light that it was never sent.
                let (found, last) = tokio::join!(self.missing(), timeout_at(end, attempt));
                (missing, answer) = (Some(found), last);
            }
            match answer {
                Ok(Proposed::Done { index, result }) => {
                    // The write is done either way; reads here only lag when this takes too long, or when this is not the
                    // store that reads are about to be made from.
                    tokio::select! {
                        _ = timeout_at(end, self.wait_applied(index)) => {}
                        _ = self.other_role() => {}
                    }
                    return Ok((*result)?);
                }
                Ok(Proposed::Stopped(reason)) => return Err(ProposeError::Stopped { reason }),
                Ok(Proposed::NotUnderstood(reason)) if !open.load(Ordering::Relaxed) => {
                    return Err(ProposeError::NotUnderstood { reason });
                }
                // An earlier leader may have taken it.
                Ok(Proposed::NotUnderstood(_)) => break,
                // It lets another lead, if there is one.
                Ok(Proposed::DiskFull(reason)) => full = Some(reason),
                Ok(Proposed::NotLeader | Proposed::Unknown) => self.doubt_leader(),
                Err(_) => break,
            }
            let alone = full.is_some() && self.metrics().membership_config.voter_ids().count() == 1;
            if alone || now() + LOOK_AGAIN >= give_up {
                break;
            }
            sleep(LOOK_AGAIN).await;
        }
        let missing = match missing {
            Some(missing) => missing,
            None => self.missing().await,
        };
        match (open.load(Ordering::Relaxed), full) {
            (false, Some(reason)) => Err(ProposeError::DiskFull { reason }),
            (false, None) => Err(ProposeError::NoQuorum { missing }),
            (true, _) => Err(ProposeError::Unknown { missing }),
        }
    }

    pub(super) fn request_id(&self, seq: u64) -> RequestId {
        RequestId { node: self.node(), run: self.0.options.requests.run(), seq }
    }

    /// Proposes once, where the leader is thought to be. `open` is set while the outcome cannot be known.
    async fn attempt(&self, entry: &Entry, open: &AtomicBool) -> Proposed {
        if let Some(reason) = self.stopped() {
            return Proposed::Stopped(reason);
        }
        let metrics = self.metrics();
        let Some(leader) = metrics.current_leader else { return Proposed::NotLeader };
        if leader == self.id().0 {
            return self.propose_here(entry.clone(), open).await;
        }
        let Some(node) = metrics.membership_config.get_node(&leader) else { return Proposed::NotLeader };
        let Ok(mut client) = self.0.channels.peer(leader, node) else { return Proposed::NotLeader };
        let message = v1::ProposeRequest {
            request: Some(entry.request.into()),
            command: Some((&entry.command).into()),
            origin: entry.origin.as_ref().map(Into::into),
        };
        let before = open.swap(true, Ordering::Relaxed);
        let asked = client.propose(self.0.channels.request(leader, message));
        let answered = tokio::select! {
            biased;
            answered = asked => answered,
            // Another leader: the old one may never answer.
            () = self.other_leader(leader) => return Proposed::Unknown,
        };
        self.0.channels.note(&answered);
        match answered {
            Ok(response) => decode_proposed(response.into_inner()).unwrap_or(Proposed::Unknown),
            Err(status) => {
                if was_not_sent(&status) {
                    open.store(before, Ordering::Relaxed);
                }
                match status.code() {
                    Code::InvalidArgument => Proposed::NotUnderstood(status.message().to_owned()),
                    Code::ResourceExhausted => Proposed::DiskFull(status.message().to_owned()),
                    _ => Proposed::Unknown,
                }
            }
        }
    }

    /// Proposes as the leader, whose time counts.
    pub(crate) async fn propose_here(&self, entry: Entry, open: &AtomicBool) -> Proposed {
        let room = self.room();
        if room.level != Level::Ample {
            let name = self.state().node_with_raft_id(self.id()).map_or_else(String::new, |node| node.name.clone());
            return Proposed::DiskFull(format!("node {name}: {}", room.text()));
        }
        let Some(consensus) = self.consensus() else { return Proposed::NotLeader };
        let entry = Entry { time_ms: (self.0.options.clock)(), ..entry };
        let before = open.swap(true, Ordering::Relaxed);
        let written = consensus.raft.client_write(EntryBytes(encode_entry(&entry).into())).await;
        match written {
            Ok(response) => match (response.data as Answer, response.log_id.index) {
                (Some(result), index) => Proposed::Done { index, result: Box::new(result) },
                (None, _) => Proposed::Unknown,
            },
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => Proposed::Unknown,
            Err(RaftError::APIError(_)) => {
                open.store(before, Ordering::Relaxed);
                Proposed::NotLeader
            }
            Err(RaftError::Fatal(error)) => Proposed::Stopped(self.stopped().unwrap_or_else(|| error_chain(&error))),
        }
    }

    /// Ends when this member knows another leader than that one.
    pub(super) async fn other_leader(&self, leader: u64) {
        use openraft::async_runtime::watch::WatchReceiver;
        let consensus = match &self.0.part {
            Part::Member(consensus) => consensus,
            Part::Observer(observing) => return observing.other_leader(leader).await,
        };
        // Not all of the metrics: they change with each entry, and every write that is under way would look at each of them.
        let mut metrics = consensus.raft.server_metrics();
        while metrics.borrow_watched().current_leader == Some(leader) {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Asks every other voter whether it is there.
    pub(super) async fn missing(&self) -> Vec<Missing> {
        let metrics = self.metrics();
        let membership = &metrics.membership_config;
        let voters: BTreeSet<u64> = membership.voter_ids().filter(|id| *id != self.id().0).collect();
        let (cluster, key) = (&self.cluster().to_string(), self.key());
        // Another daemon may have the address by now.
        let ask = |id: u64| async move {
            let peer = membership.get_node(&id).cloned().unwrap_or_default();
            let there = match peer.address.parse::<SocketAddr>() {
                Ok(address) => match timeout(PROBE * 4 / 5, crate::entrance::greet(key, address)).await {
                    Ok(Ok((hello, shown))) => hello.cluster_id == *cluster && hello.raft_id == id && shown == peer.key,
                    Ok(Err(_)) | Err(_) => false,
                },
                Err(_) => false,
            };
            (!there).then_some((id, peer.address))
        };
        let missing = join_all(voters.into_iter().map(ask)).await;
        let state = self.state();
        let described = |(id, address): (u64, String)| {
            let name = state.node_with_raft_id(RaftId(id)).map(|node| node.name.clone());
            Missing { raft_id: RaftId(id), name, address }
        };
        missing.into_iter().flatten().map(described).collect()
    }

    fn check_feature_level(&self, command: &Command) -> Result<(), ProposeError> {
        let level = command.feature_level();
        let state = self.state();
        let known = state.cluster.as_ref().map_or(level, |cluster| cluster.feature_level);
        if level <= known {
            return Ok(());
        }
        let behind = state.nodes.values().filter(|node| node.feature_level < level);
        Err(ProposeError::NotFeature { level, nodes: behind.map(|node| node.name.clone()).collect() })
    }
}

fn decode_proposed(response: v1::ProposeResponse) -> Result<Proposed, CodecError> {
    let result = crate::codec::result(response.response.unwrap_or_default())?;
    Ok(Proposed::Done { index: response.index, result: Box::new(result) })
}

/// Whether a call certainly had no effect: it was refused before anything was written, or nobody could be reached.
pub(super) fn was_not_sent(status: &Status) -> bool {
    use Code::{
        Aborted, FailedPrecondition, InvalidArgument, PermissionDenied, ResourceExhausted, Unauthenticated,
        Unimplemented,
    };
    if matches!(
        status.code(),
        Aborted
            | FailedPrecondition
            | InvalidArgument
            | PermissionDenied
            | ResourceExhausted
            | Unauthenticated
            | Unimplemented
    ) {
        return true;
    }
    let mut source = status.source();
    while let Some(error) = source {
        // A request is sent once there is a connection: this has none, refused or not made in time.
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
            return matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable);
        }
        source = error.source();
    }
    false
}
