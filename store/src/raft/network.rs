//! openraft's network over gRPC: the calling side.

use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom};
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{self, BoxStream, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use pontoon_proto::v1;
use pontoon_proto::v1::snapshot_chunk::Part;
use tonic::{Code, Status};

use super::channel::{Channels, Purpose, RaftClient};
use super::convert;
use super::types::{Peer, Types, Vote};
use crate::disk::snapshot::SnapshotFile;
use crate::rt::{self, fs::File};

/// How long a member that cannot be reached, or does not take entries yet, is left alone. openraft takes the next step of its
/// delays for each stream that fails, but waits only before it sends on one: a member that refuses streams at once was
/// asked without a pause, and got nothing for the longest delay once it took them.
const AGAIN: Duration = Duration::from_millis(100);

/// How long a follower may take to answer what it was sent. openraft would give it three quarters of a
/// heartbeat, which is less than a slow disk's sync.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a snapshot may make no progress.
const SNAPSHOT_IDLE: Duration = Duration::from_secs(30);
/// Bytes of a snapshot in one message.
const SNAPSHOT_CHUNK: usize = if cfg!(test) { 8 << 10 } else { 1 << 20 };

type Rpc = RPCError<Types>;
type AppendResults<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, Rpc>>;

/// Makes the clients.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    channels: Channels,
}

impl Network {
    pub(crate) fn new(channels: Channels) -> Self {
        Self { channels }
    }

    fn client(&self, target: u64, peer: &Peer, purpose: Purpose) -> Member {
        Member { channels: self.channels.clone(), target, peer: peer.clone(), purpose }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Member;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> Member {
        self.client(target, peer, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, peer: &Peer) -> Member {
        self.client(target, peer, Purpose::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, peer: &Peer) -> Member {
        self.client(target, peer, Purpose::Snapshot)
    }
}

/// Another member.
#[derive(Debug)]
pub(crate) struct Member {
    channels: Channels,
    target: u64,
    peer: Peer,
    /// What entries and heartbeats go by.
    purpose: Purpose,
}

impl Member {
    fn raft(&self, purpose: Purpose) -> Result<RaftClient, Unreachable<Types>> {
        self.channels.raft(self.target, &self.peer, purpose).map_err(|error| Unreachable::new(&error))
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        self.channels.raft_request(self.target, message)
    }

    async fn ask<T>(
        &self,
        option: &RPCOption,
        answer: impl Future<Output = Result<tonic::Response<T>, Status>> + Send,
    ) -> Result<T, Rpc> {
        match rt::timeout(option.soft_ttl(), answer).await {
            Ok(result) => {
                self.channels.note(&result);
                Ok(result.map_err(failure)?.into_inner())
            }
            Err(_) => Err(silent(&self.peer.address)),
        }
    }
}

impl NetBackoff<Types> for Member {
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(iter::repeat(AGAIN)))
    }
}

impl NetVote<Types> for Member {
    async fn vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> Result<VoteResponse<Types>, Rpc> {
        let mut client = self.raft(Purpose::Control)?;
        let request = self.request(convert::vote_request_out(&rpc));
        let response = self.ask(&option, client.vote(request)).await?;
        convert::vote_response_in(&response).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> Result<VoteResponse<Types>, Rpc> {
        let mut client = self.raft(Purpose::Control)?;
        let request = self.request(convert::vote_request_out(&rpc));
        let response = self.ask(&option, client.pre_vote(request)).await?;
        convert::vote_response_in(&response).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }
}

impl NetTransferLeader<Types> for Member {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, Rpc> {
        let mut client = self.raft(Purpose::Control)?;
        let request = self.request(convert::transfer_out(&req));
        self.ask(&option, client.transfer_leader(request)).await?;
        Ok(Ok(()))
    }
}

impl NetStreamAppend<Types> for Member {
    fn stream_append<'s, S>(&'s mut self, input: S, _option: RPCOption) -> BoxFuture<'s, Result<AppendResults<'s>, Rpc>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let mut client = self.raft(self.purpose)?;
            let sent = Arc::new(AtomicU64::new(0));
            let count = Arc::clone(&sent);
            let requests = input.map(move |request| {
                count.fetch_add(1, Ordering::Relaxed);
                convert::append_out(&request)
            });
            let opened = rt::timeout(ANSWER, client.append(self.request(requests))).await;
            match opened.map_err(|_| silent(&self.peer.address)).and_then(|opened| opened.map_err(failure)) {
                Ok(opened) => Ok(answers(opened.into_inner(), sent, self.peer.address.clone())),
                Err(error) => {
                    rt::sleep(AGAIN).await;
                    Err(error)
                }
            }
        })
    }
}

/// The answers of a follower, until the first that is an error.
fn answers<'s>(
    responses: tonic::Streaming<v1::AppendResponse>,
    sent: Arc<AtomicU64>,
    address: String,
) -> AppendResults<'s> {
    let open = Some((responses, 0));
    let answers = stream::unfold(open, move |open| {
        let (sent, address) = (Arc::clone(&sent), address.clone());
        async move {
            let (mut responses, answered) = open?;
            loop {
                let owed = sent.load(Ordering::Relaxed) > answered;
                let message = match rt::timeout(ANSWER, responses.message()).await {
                    Ok(message) => message,
                    // Nothing was sent, so nothing is owed.
                    Err(_) if !owed => continue,
                    Err(_) => return Some((Err(silent(&address)), None)),
                };
                let result = match message {
                    Ok(None) => return None,
                    Ok(Some(response)) => {
                        convert::appended_in(&response).map_err(|error| RPCError::Network(NetworkError::new(&error)))
                    }
                    Err(status) => Err(failure(status)),
                };
                let next = matches!(result, Ok(Ok(_))).then_some((responses, answered + 1));
                return Some((result, next));
            }
        }
    });
    answers.boxed()
}

impl NetSnapshot<Types> for Member {
    type SnapshotData = SnapshotFile;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<Types, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let mut client = self.raft(Purpose::Snapshot)?;
        let file = &snapshot.snapshot;
        let header = convert::snapshot_out(Some(&vote), &snapshot.meta, file.data_bytes);
        let asked = client.snapshot_progress(self.request(header.clone()));
        let arrived = rt::timeout(ANSWER, asked).await.map_err(|_| silent(&self.peer.address))?;
        let arrived = arrived.map_err(failure)?.into_inner().bytes.min(file.data_bytes);
        let progress = Arc::new(AtomicU64::new(0));
        let chunks = chunks(header, file, arrived, Arc::clone(&progress));
        let answer = client.install_snapshot(self.request(chunks));
        let response = tokio::select! {
            biased;
            answer = answer => answer.map_err(failure)?.into_inner(),
            closed = cancel => return Err(closed.into()),
            () = stalled(&progress) => return Err(StreamingError::from(silent(&self.peer.address))),
        };
        let vote = convert::vote_in(response.vote.as_ref()).map_err(|error| NetworkError::new(&error))?;
        Ok(SnapshotResponse::new(vote))
    }
}

/// The messages that carry a snapshot from a byte on. A file that cannot be read ends them early, and the receiver notices.
fn chunks(
    header: v1::SnapshotHeader,
    snapshot: &SnapshotFile,
    arrived: u64,
    progress: Arc<AtomicU64>,
) -> impl Stream<Item = v1::SnapshotChunk> + Send + use<> {
    let first = v1::SnapshotChunk { part: Some(Part::Header(header)), offset: 0 };
    let (path, begin) = (snapshot.path.clone(), snapshot.data_offset + arrived);
    let data = stream::unfold((None, arrived), move |(file, offset)| {
        let (path, progress) = (path.clone(), Arc::clone(&progress));
        async move {
            match next_chunk(file, &path, begin).await {
                Ok(None) => None,
                Ok(Some((data, file))) => {
                    progress.fetch_add(1, Ordering::Relaxed);
                    let next = offset + data.len() as u64;
                    Some((v1::SnapshotChunk { part: Some(Part::Data(data)), offset }, (Some(file), next)))
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot read a snapshot that is being sent");
                    None
                }
            }
        }
    });
    stream::iter([first]).chain(data)
}

/// The file stays open from one part to the next: a newer snapshot may take its name away.
async fn next_chunk(file: Option<File>, path: &std::path::Path, offset: u64) -> io::Result<Option<(Vec<u8>, File)>> {
    let path = path.to_owned();
    let read = move || {
        let mut file = match file {
            Some(file) => file,
            None => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(offset))?;
                file
            }
        };
        let mut chunk = Vec::with_capacity(SNAPSHOT_CHUNK);
        (&mut file).take(SNAPSHOT_CHUNK as u64).read_to_end(&mut chunk)?;
        Ok((!chunk.is_empty()).then_some((chunk, file)))
    };
    rt::spawn_blocking(read).await.map_err(io::Error::other)?
}

/// Ends when there was no progress for too long.
async fn stalled(progress: &AtomicU64) {
    loop {
        let before = progress.load(Ordering::Relaxed);
        rt::sleep(SNAPSHOT_IDLE).await;
        if progress.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

fn silent(address: &str) -> Rpc {
    RPCError::Network(NetworkError::from_string(format!("{address} does not answer in time")))
}

/// openraft backs off from a member that is unreachable, and asks one again at once that failed otherwise.
fn failure(status: Status) -> Rpc {
    match status.code() {
        Code::Unavailable | Code::PermissionDenied | Code::FailedPrecondition | Code::Unimplemented => {
            RPCError::Unreachable(Unreachable::new(&status))
        }
        _ => RPCError::Network(NetworkError::new(&status)),
    }
}
