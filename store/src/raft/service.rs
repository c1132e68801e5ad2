//! The called side of what members say to each other.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{BoxStream, StreamExt};
use openraft::Snapshot;
use pontoon_proto::{Secret, v1};
use tonic::{Request, Response, Status, Streaming};
use tracing::info;
use zeroize::Zeroizing;

use super::channel::{Caller, shown};
use super::convert;
use crate::entrance::{greet, rejected, unproposed, unreachable};
use crate::model::admin::Origin;
use crate::model::command::{AdmitNode, Command, Outcome};
use crate::model::entry::{Entry, RequestId};
use crate::model::id::{NodeId, RaftId, TokenId};
use crate::model::object::Voting;
use crate::model::rejection::{Reason, Rejection};
use crate::origin::on_behalf_of;
use crate::peer::StoreSlot;
use crate::refusals::What;
use crate::rt;
use crate::store::{CertifyError, Level, ProposeError, Proposed, ReadError, Store, hash_out};
use crate::tls::{NodeKey, PublicKey, Shown};
use crate::watch::{Concern, Following, Watcher};

/// How long writing an admission may take. With looking whether it may, the call back and the certificate it stays below 10 s.
const ADMIT: Duration = Duration::from_secs(3);
/// How long a newcomer that is called back may take to answer.
const CALL_BACK: Duration = Duration::from_millis(1500);

/// The services of the port.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    slot: StoreSlot,
}

impl Service {
    pub(crate) fn new(slot: StoreSlot) -> Self {
        Self { slot }
    }
}

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    /// The store, for an observer: a member that knows what the cluster knows.
    async fn serving<T>(&self, request: &Request<T>) -> Result<Store, Status> {
        let store = self.slot.any_member(request).await?;
        if store.observes() {
            return Err(observer());
        }
        if !store.is_connected() {
            return Err(Status::unavailable("this member is cut off from the others"));
        }
        Ok(store)
    }
}

#[tonic::async_trait]
impl v1::raft_server::Raft for Service {
    type AppendStream = BoxStream<'static, Result<v1::AppendResponse, Status>>;

    async fn append(&self, request: Request<Streaming<v1::AppendRequest>>) -> Answer<Self::AppendStream> {
        let store = self.slot.member(&request).await?;
        // Not the store: a stream may outlive it, and would keep its folder open.
        let (channels, room) = (store.channels().clone(), store.room_watch().clone());
        let requests = request.into_inner().map(move |message| {
            let message = message.map_err(|status| status.to_string())?;
            channels.note_leader();
            let room = room.get();
            if !message.entries.is_empty() && room.level == Level::Full {
                return Err(room.text());
            }
            convert::append_in(message).map_err(|error| error.to_string())
        });
        // The first that cannot be read ends the stream; the leader opens another.
        let requests = requests.scan((), |(), request| async { request.ok() });
        let answers = store.in_raft()?.raft.stream_append(requests).map(|answer| match answer {
            Ok(result) => Ok(convert::appended_out(&result)),
            Err(fatal) => Err(stopped(&fatal)),
        });
        // Otherwise the stream would go on for as long as the leader has nothing to send.
        Ok(Response::new(answers.take_until(store.ended()).boxed()))
    }

    async fn vote(&self, request: Request<v1::VoteRequest>) -> Answer<v1::VoteResponse> {
        let store = self.slot.member(&request).await?;
        let vote = convert::vote_request_in(request.get_ref())?;
        let answer = store.in_raft()?.raft.vote(vote).await.map_err(|error| stopped(&error))?;
        Ok(Response::new(convert::vote_response_out(&answer)))
    }

    async fn pre_vote(&self, request: Request<v1::VoteRequest>) -> Answer<v1::VoteResponse> {
        let store = self.slot.member(&request).await?;
        let vote = convert::vote_request_in(request.get_ref())?;
        let answer = store.in_raft()?.raft.pre_vote(vote).await.map_err(|error| stopped(&error))?;
        Ok(Response::new(convert::vote_response_out(&answer)))
    }

    async fn snapshot_progress(&self, request: Request<v1::SnapshotHeader>) -> Answer<v1::SnapshotProgressResponse> {
        let store = self.slot.member(&request).await?;
        let bytes = store.in_raft()?.arrival.bytes_of(request.into_inner()).await;
        Ok(Response::new(v1::SnapshotProgressResponse { bytes }))
    }

    async fn install_snapshot(&self, request: Request<Streaming<v1::SnapshotChunk>>) -> Answer<v1::SnapshotResponse> {
        let store = self.slot.member(&request).await?;
        let mut chunks = request.into_inner();
        let Some(v1::SnapshotChunk { part: Some(v1::snapshot_chunk::Part::Header(header)), .. }) =
            chunks.message().await?
        else {
            return Err(Status::invalid_argument("a snapshot begins with its description"));
        };
        let vote = convert::vote_in(header.vote.as_ref())?;
        let meta = convert::snapshot_in(&header)?;
        let snapshot = store.in_raft()?.arrival.receive(&store.in_raft()?.snapshots, header, chunks).await?;
        let path = snapshot.path.clone();
        let installed = store.in_raft()?.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
        // One that was not wanted is still there.
        let _ = rt::spawn_blocking(move || rt::fs::remove_file(path)).await;
        let answer = installed.map_err(|error| stopped(&error))?;
        Ok(Response::new(v1::SnapshotResponse { vote: Some(convert::vote_out(&answer.vote)) }))
    }

    async fn transfer_leader(&self, request: Request<v1::TransferLeaderRequest>) -> Answer<v1::TransferLeaderResponse> {
        let store = self.slot.member(&request).await?;
        let transfer = convert::transfer_in(request.get_ref())?;
        let answer = store.in_raft()?.raft.handle_transfer_leader(transfer).await.map_err(|error| stopped(&error))?;
        answer.map_err(|error| Status::aborted(error.to_string()))?;
        Ok(Response::new(v1::TransferLeaderResponse {}))
    }
}

#[tonic::async_trait]
impl v1::peer_server::Peer for Service {
    async fn propose(&self, request: Request<v1::ProposeRequest>) -> Answer<v1::ProposeResponse> {
        let store = self.slot.current_member(&request).await?;
        let message = request.into_inner();
        let id = message.request.ok_or_else(|| Status::invalid_argument("a request without id"))?;
        let request = RequestId { node: NodeId(id.node), run: id.run, seq: id.seq };
        let command = message.command.ok_or_else(|| Status::invalid_argument("a request without command"))?;
        let command = Command::try_from(command).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let entry = Entry { time_ms: 0, request, command, origin: message.origin.map(Into::into) };
        match store.propose_here(entry, &AtomicBool::new(false)).await {
            Proposed::Done { index, result } => {
                let result = match &*result {
                    Ok(outcome) => v1::response::Result::Outcome(outcome.into()),
                    Err(rejection) => v1::response::Result::Rejection(rejection.into()),
                };
                let response = Some(v1::Response { result: Some(result) });
                Ok(Response::new(v1::ProposeResponse { index, response }))
            }
            Proposed::NotLeader => Err(not_leader()),
            Proposed::DiskFull(reason) => Err(Status::resource_exhausted(reason)),
            Proposed::Unknown => Err(Status::unknown("leadership was lost before the command was committed")),
            Proposed::NotUnderstood(reason) => Err(Status::invalid_argument(reason)),
            Proposed::Stopped(reason) => Err(Status::unavailable(reason)),
        }
    }

    type FollowStream = BoxStream<'static, Result<v1::WatchResponse, Status>>;

    async fn follow(&self, request: Request<v1::FollowRequest>) -> Answer<Self::FollowStream> {
        let store = self.serving(&request).await?;
        let caller = Caller::of(request.metadata())?.from;
        let node = store.state().node_with_raft_id(caller).map(|node| node.id);
        let node = node.ok_or_else(|| Status::unavailable("this member does not know the caller's node yet"))?;
        let removed = store.without_node(caller, shown(&request)?.key);
        let following = Concern::follow(store, self.slot.watching().clone(), node, request.into_inner()).await;
        let following = following.map_err(|error| error.status())?;
        let told = following.stream().map(|event| event.map_err(|error| error.status()));
        Ok(Response::new(told.take_until(removed.boxed()).boxed()))
    }

    type WatchStream = BoxStream<'static, Result<v1::WatchResponse, Status>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let store = self.serving(&request).await?;
        let removed = store.without_node(Caller::of(request.metadata())?.from, shown(&request)?.key);
        let (end, watching) = (store.ending(), self.slot.watching().clone());
        let watcher = Watcher::follow(store, end, watching, request.into_inner()).await;
        let watcher = watcher.map_err(|error| error.status())?;
        let told = watcher.stream().map(|event| event.map_err(|error| error.status()));
        Ok(Response::new(told.take_until(removed.boxed()).boxed()))
    }

    async fn attend(&self, request: Request<v1::AttendRequest>) -> Answer<v1::AttendResponse> {
        let store = self.serving(&request).await?;
        Ok(Response::new(store.attend(request.get_ref())))
    }

    async fn hashes(&self, request: Request<v1::HashesRequest>) -> Answer<v1::HashesResponse> {
        let store = self.slot.current_member(&request).await?;
        if store.observes() {
            return Err(observer());
        }
        Ok(Response::new(v1::HashesResponse { hashes: store.hashes().iter().map(hash_out).collect() }))
    }

    async fn read_index(&self, request: Request<v1::ReadIndexRequest>) -> Answer<v1::ReadIndexResponse> {
        let store = self.slot.current_member(&request).await?;
        let index = store.read_index_here().await.ok_or_else(not_leader)?;
        Ok(Response::new(v1::ReadIndexResponse { index }))
    }

    async fn expel(&self, request: Request<v1::ExpelRequest>) -> Answer<v1::ExpelResponse> {
        let store = self.slot.member(&request).await?;
        if store.expel_here(RaftId(request.get_ref().raft_id)).await {
            Ok(Response::new(v1::ExpelResponse {}))
        } else {
            Err(not_leader())
        }
    }

    async fn call_back(&self, request: Request<v1::CallBackRequest>) -> Answer<v1::CallBackResponse> {
        self.slot.current_member(&request).await?;
        let (address, key) = (&request.get_ref().address, shown(&request)?.key);
        let address = address.parse().map_err(|_| Status::invalid_argument(format!("{address:?} is no address")))?;
        answers_at(self.slot.key(), address, &key).await.map_err(unreachable)?;
        Ok(Response::new(v1::CallBackResponse {}))
    }

    async fn key_of(&self, request: Request<v1::KeyOfRequest>) -> Answer<v1::KeyOfResponse> {
        let store = self.slot.known_member(&request)?;
        let member = RaftId(request.get_ref().raft_id);
        let key = store.key_of(member).ok_or_else(|| Status::not_found(format!("there is no member {member} here")))?;
        Ok(Response::new(v1::KeyOfResponse { public_key: key.to_vec() }))
    }
}

#[tonic::async_trait]
impl v1::entrance_server::Entrance for Service {
    async fn hello(&self, _request: Request<v1::HelloRequest>) -> Answer<v1::HelloResponse> {
        Ok(Response::new(self.slot.hello()))
    }

    async fn admit(&self, request: Request<v1::AdmitRequest>) -> Answer<v1::AdmitResponse> {
        let store = self.slot.any()?;
        let Shown { key, address, .. } = *shown(&request)?;
        let v1::AdmitRequest { node, secret } = request.into_inner();
        let token = (!secret.is_empty()).then(|| Secret::try_from(Zeroizing::new(secret).as_slice()));
        let token = token.transpose().map_err(|error| Status::invalid_argument(error.to_string()))?;
        let node = node.ok_or_else(|| Status::invalid_argument("no node to admit"))?;
        let node = AdmitNode::try_from(node).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if node.public_key != key {
            return Err(Status::unauthenticated("whoever asks has not the key of the node to be admitted"));
        }
        // Which Raft id it gets is not for the newcomer to say.
        let token = token.map(|secret| secret.hash());
        let node = AdmitNode { raft_id: None, token, ..node };
        // Nobody who cannot join makes this node call somewhere.
        self.may_admit(&store, &node).await.map_err(|refused| self.tell(address, refused))?;
        reachable(self.slot.key(), &node).await?;
        // A member proposes on the leader, so this needs no forwarding of its own.
        let who = token.map(|hash| format!("token {}", TokenId::of(&hash)));
        let origin = who.map(|who| Origin { who, from: address.ip().to_canonical().to_string() });
        let proposed = on_behalf_of(origin, store.propose(Command::AdmitNode(node.clone()), ADMIT)).await;
        let admitted = match proposed {
            Ok(Outcome::Node(node)) => node,
            Ok(_) => return Err(Status::internal("an admission made no node")),
            Err(ProposeError::Rejected(rejection)) => return Err(self.tell(address, Refused::Rejected(rejection))),
            Err(error) => return Err(unproposed(&error)),
        };
        let certificate = store.certificate_of(admitted.id).await?;
        info!(node = %admitted.id, name = admitted.name, %address, "admitted a node");
        Ok(Response::new(v1::AdmitResponse {
            cluster_id: store.cluster().to_string(),
            node_id: admitted.id.0,
            raft_id: admitted.raft_id.0,
            members: store.members(),
            observer: store.is_full() || admitted.voting == Voting::Demoted,
            certificate: Some(certificate.into()),
            cluster_key: store.cluster_key_of_newcomers().map(|key| key.bytes().to_vec()).unwrap_or_default(),
        }))
    }

    async fn certify(&self, request: Request<v1::CertifyRequest>) -> Answer<v1::CertifyResponse> {
        let store = self.slot.any()?;
        let (shown, node) = (shown(&request)?, NodeId(request.get_ref().node_id));
        let own = || store.state().node_with_key(&shown.key).is_some_and(|known| known.id == node);
        if shown.certified().is_err() && !own() {
            return Err(Status::permission_denied(format!("node {node} has another key than whoever asks")));
        }
        let mut certificate = store.certify(node);
        if matches!(certificate, Err(CertifyError::NoNode(_))) {
            // One that was admitted a moment ago, through a node that cannot issue certificates.
            let _ = store.read_barrier(CALL_BACK / 2).await;
            certificate = store.certify(node);
        }
        let certificate = certificate.map_err(|error| Status::failed_precondition(crate::error_chain(&error)))?;
        Ok(Response::new(v1::CertifyResponse { certificate: Some(certificate.into()) }))
    }
}

/// Why a newcomer is not admitted.
enum Refused {
    Rejected(Rejection),
    Unknown(ProposeError),
}

impl Service {
    /// Whether a node can be admitted as far as its key and its token go. What this node does not know may only be new.
    async fn may_admit(&self, store: &Store, node: &AdmitNode) -> Result<(), Refused> {
        let rejection = match store.state().may_admit(node) {
            Ok(()) => return Ok(()),
            Err(rejection) => rejection,
        };
        if ![Reason::TokenUnknown, Reason::NodeKeyTaken, Reason::NotFounded].contains(&rejection.reason) {
            return Err(Refused::Rejected(rejection));
        }
        match store.read_barrier(ADMIT / 2).await {
            Ok(()) => store.state().may_admit(node).map_err(Refused::Rejected),
            Err(ReadError::NoQuorum { missing }) => Err(Refused::Unknown(ProposeError::NoQuorum { missing })),
            Err(ReadError::Stopped { reason }) => Err(Refused::Unknown(ProposeError::Stopped { reason })),
        }
    }

    /// Tells a newcomer why it is not admitted, and the log who that was.
    fn tell(&self, address: SocketAddr, refused: Refused) -> Status {
        match refused {
            Refused::Unknown(error) => unproposed(&error),
            Refused::Rejected(rejection) => {
                let reason = rejection.reason.as_str();
                self.slot.refusals().note(
                    address.ip(),
                    What::Admission,
                    &format!("it may not join, {reason}: {rejection}"),
                );
                rejected(&rejection)
            }
        }
    }
}

/// Calls a newcomer back: one that the others cannot reach would be a member in name only.
async fn reachable(key: &NodeKey, node: &AdmitNode) -> Result<(), Status> {
    let (name, address) = (&node.name, node.advertise);
    answers_at(key, address, &node.public_key)
        .await
        .map_err(|why| unreachable(format!("{name} cannot be reached at its advertise address {address}: {why}")))
}

/// Whether the one that has a key answers at an address; why not.
pub(crate) async fn answers_at(me: &NodeKey, address: SocketAddr, key: &PublicKey) -> Result<(), String> {
    let answer = rt::timeout(CALL_BACK, greet(me, address)).await;
    let greeted = answer.map_err(|_| format!("no answer within {CALL_BACK:?}"))?;
    let (_, shown) = greeted.map_err(|status| status.message().to_owned())?;
    if shown == *key { Ok(()) } else { Err("another daemon answers there".to_owned()) }
}

fn observer() -> Status {
    Status::failed_precondition("this node is an observer: ask a member of the Raft membership")
}

fn not_leader() -> Status {
    Status::aborted("this member does not lead now: look again who does")
}

fn stopped(error: &dyn std::error::Error) -> Status {
    Status::unavailable(crate::error_chain(error))
}
