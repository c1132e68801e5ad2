//! The port that members reach each other at: who is served, and what a newcomer asks.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

#[cfg(feature = "sim")]
use futures::FutureExt;
use futures::stream::StreamExt;
use pontoon_proto::{MAX_MESSAGE_BYTES, metadata, v1};
use prost::Message;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
#[cfg(feature = "sim")]
use tonic::codegen::{Service as _, http};
use tonic::metadata::{AsciiMetadataValue, MetadataValue};
use tonic::transport::Server;
use tonic::{Code, Request, Status};

use crate::accept::{HANDSHAKES, accept};
use crate::model::command::AdmitNode;
use crate::model::id::{ClusterId, NodeId, RaftId};
use crate::model::rejection::Rejection;
use crate::raft::channel::{Caller, dial, shown};
use crate::raft::convert::{Malformed, peer_in};
use crate::raft::service::Service;
use crate::raft::types::Peer;
#[cfg(feature = "sim")]
use crate::rt::sim::link;
use crate::rt::{now, timeout, timeout_at};
use crate::store::{ProposeError, Store};
use crate::tls::{NodeKey, PublicKey};
use crate::watch::Watching;

/// Carries an encoded `Rejection` (store.proto) with a status.
pub(crate) const REJECTION: &str = "pontoon-rejection-bin";

/// How often a connection is asked whether anybody is there still, and how long it may take to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests, and watchers of an observer, on one connection at a time; more wait.
const MAX_STREAMS: u32 = 4_096;
/// How long calls that are under way may take once the port is to be closed.
const GRACE: Duration = Duration::from_secs(2);

/// Holds the store once there is one, so that the port can be served before. Clones share it.
#[derive(Debug, Clone)]
pub struct StoreSlot {
    store: Arc<RwLock<Option<Store>>>,
    name: String,
    key: NodeKey,
    clock: fn() -> u64,
    watching: Watching,
}

impl StoreSlot {
    /// An empty slot of the daemon with this name and this key. The clock gives milliseconds since the Unix epoch.
    pub fn new(name: String, key: NodeKey, clock: fn() -> u64) -> Self {
        Self { store: Arc::default(), name, key, clock, watching: Watching::default() }
    }

    /// Puts a store in, or takes it out.
    pub fn set(&self, store: Option<Store>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    /// The store, if there is one.
    pub fn get(&self) -> Option<Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What watchers of the daemon do, observers among them.
    pub fn watching(&self) -> &Watching {
        &self.watching
    }

    pub(crate) fn key(&self) -> &NodeKey {
        &self.key
    }

    pub(crate) fn hello(&self) -> v1::HelloResponse {
        let store = self.get();
        v1::HelloResponse {
            cluster_id: store.as_ref().map(|store| store.cluster().to_string()).unwrap_or_default(),
            node_id: store.as_ref().map_or(0, |store| store.node().0),
            name: self.name.clone(),
            time_ms: (self.clock)(),
            raft_id: store.as_ref().map_or(0, |store| store.id().0),
        }
    }

    /// The store, whoever asks.
    pub(crate) fn any(&self) -> Result<Store, Status> {
        self.get().ok_or_else(|| Status::failed_precondition("this daemon is in no cluster"))
    }

    /// The store, if another member of its cluster asks, over a connection made with that member's key. One that came
    /// later than what is known here is believed if a member that is known vouches for it.
    pub(crate) async fn member<T>(&self, request: &Request<T>) -> Result<Store, Status> {
        let (store, caller) = self.meant(request)?;
        identified(store, caller, shown(request)?).await
    }

    /// The same for what any member can answer: an observer that was away may know this one under a Raft id that it has had.
    pub(crate) async fn any_member<T>(&self, request: &Request<T>) -> Result<Store, Status> {
        let (store, caller) = self.of_cluster(request)?;
        identified(store, caller, shown(request)?).await
    }

    /// The same, for those only that are known here: whoever vouches asks nobody else.
    pub(crate) fn known_member<T>(&self, request: &Request<T>) -> Result<Store, Status> {
        let (store, caller) = self.meant(request)?;
        let known = store.key_of(caller.from);
        admit_call(store, caller, shown(request)?, known)
    }

    /// The store, if the call is meant for its cluster, whoever makes it.
    fn of_cluster<T>(&self, request: &Request<T>) -> Result<(Store, Caller), Status> {
        let store = self.any()?;
        let caller = Caller::of(request.metadata())?;
        let us = store.cluster();
        if caller.cluster != us {
            let message = format!("the caller is in cluster {}, and this is a member of cluster {us}", caller.cluster);
            return Err(Status::permission_denied(message));
        }
        Ok((store, caller))
    }

    /// The store, if the call is meant for it, whoever makes it.
    fn meant<T>(&self, request: &Request<T>) -> Result<(Store, Caller), Status> {
        let (store, caller) = self.of_cluster(request)?;
        let me = store.id();
        if caller.to != me {
            let message = format!("the call is for member {}, and this is member {me}", caller.to);
            return Err(Status::permission_denied(message));
        }
        Ok((store, caller))
    }
}

/// The store for a caller that has shown a key, who may be one that came later than what is known here.
async fn identified(store: Store, caller: Caller, key: PublicKey) -> Result<Store, Status> {
    let known = match store.key_of(caller.from) {
        Some(known) => Some(known),
        None if store.may_be_newer(caller.from) => store.vouched_key_of(caller.from).await,
        None => None,
    };
    admit_call(store, caller, key, known)
}

/// Whether whoever has shown a key may call as the member that he says he is.
fn admit_call(store: Store, caller: Caller, shown: PublicKey, known: Option<PublicKey>) -> Result<Store, Status> {
    match known {
        Some(known) if known == shown => Ok(store),
        Some(_) => {
            let message = format!("the caller has not the key of member {}", caller.from);
            Err(Status::permission_denied(message))
        }
        None => {
            let message =
                format!("member {} is not, or no longer, a member of cluster {}", caller.from, caller.cluster);
            let mut status = Status::permission_denied(message);
            // That nobody vouches for one that may be newer says nothing about it.
            let current = store.state().node_with_key(&shown).map(|node| node.raft_id);
            if let Some(current) = current.filter(|id| *id > caller.from) {
                status.metadata_mut().insert(metadata::RAFT_ID, current.0.into());
            } else if !store.may_be_newer(caller.from) {
                status.metadata_mut().insert(metadata::REMOVED, AsciiMetadataValue::from_static("true"));
            }
            Err(status)
        }
    }
}

/// Serves the port.
#[derive(Debug, Clone)]
pub struct PeerServer {
    slot: StoreSlot,
}

impl PeerServer {
    /// A server for what is, or will be, in the slot.
    pub fn new(slot: StoreSlot) -> Self {
        Self { slot }
    }

    /// Serves a listener until the future ends. Calls that are under way have two seconds to end.
    ///
    /// # Errors
    ///
    /// When the server ends by itself.
    pub async fn serve(self, listener: TcpListener, until: impl Future<Output = ()>) -> io::Result<()> {
        let (ready, incoming) = mpsc::channel(HANDSHAKES);
        let accepting = accept(listener, self.slot.key().clone(), ready);
        let incoming = ReceiverStream::new(incoming).map(Ok::<_, io::Error>);
        let (raft, peer) = self.services();
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(Some(MAX_STREAMS))
            .add_service(raft)
            .add_service(peer);
        let (stop, stopped) = oneshot::channel::<()>();
        let served = server.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) });
        let late = async {
            until.await;
            drop(stop);
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            served = served => served.map_err(io::Error::other),
            () = late => Ok(()),
            never = accepting => match never {},
        }
    }

    /// Serves an address of a simulated host, as long as that runs.
    #[cfg(feature = "sim")]
    pub fn listen(self, address: SocketAddr) {
        let key = self.slot.key().clone();
        let (raft, peer) = self.services();
        let serve = move |request: http::Request<tonic::body::Body>| {
            let (mut raft, mut peer) = (raft.clone(), peer.clone());
            let answer = async move {
                let answered = match request.uri().path().starts_with("/pontoon.v1.Raft/") {
                    true => raft.call(request).await,
                    false => peer.call(request).await,
                };
                answered.unwrap_or_else(|never| match never {})
            };
            answer.boxed()
        };
        link::listen(address, &key, Arc::new(serve));
    }

    fn services(self) -> (v1::raft_server::RaftServer<Service>, v1::peer_server::PeerServer<Service>) {
        let service = Service::new(self.slot);
        let raft = v1::raft_server::RaftServer::new(service.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let peer = v1::peer_server::PeerServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        (raft, peer)
    }
}

/// Who answers at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// The cluster it is in; none: it is in no cluster.
    pub cluster: Option<ClusterId>,
    /// The node it is; 0: none.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its public key, which it has proven to have.
    pub public_key: PublicKey,
    /// Its clock, in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// What an admitted node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its node id.
    pub node: NodeId,
    /// Its Raft id.
    pub raft_id: RaftId,
    /// The members.
    pub members: BTreeMap<RaftId, Peer>,
    /// Whether it begins as an observer.
    pub observer: bool,
}

/// Why another daemon did not do what was asked.
#[derive(Debug, Error)]
pub enum AdmitError {
    /// Nobody answers.
    #[error("no pontoond answers at {address}: {reason}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The cluster refuses.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// There is no majority of voters, and nothing was written.
    #[error("{message}")]
    NoQuorum {
        /// Who is missing, as the asked member says.
        message: String,
    },
    /// It is unknown whether the node was admitted.
    #[error("it is unknown whether {address} admitted this node: {message}")]
    Unknown {
        /// Who was asked.
        address: SocketAddr,
        /// Why it is unknown.
        message: String,
    },
    /// The asked member cannot reach the node at its advertise address. Nothing was written.
    #[error("{message}")]
    AdvertiseUnreachable {
        /// Which address and why, as the asked member says.
        message: String,
    },
    /// It cannot do it now.
    #[error("{address} cannot do it: {reason}")]
    Failed {
        /// Who.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// It speaks something else.
    #[error("{address} answers with a {what} that cannot be understood: is it a pontoond of another version?")]
    Malformed {
        /// Who.
        address: SocketAddr,
        /// What is wrong.
        what: &'static str,
    },
}

/// Asks who is at an address.
///
/// # Errors
///
/// When nobody answers by the deadline, or somebody else.
pub async fn hello(key: &NodeKey, address: SocketAddr, deadline: Duration) -> Result<Identified, AdmitError> {
    let answer = timeout(deadline, greet(key, address)).await;
    let (response, public_key) =
        answer.map_err(|_| late(address, deadline))?.map_err(|status| failed(address, &status))?;
    let cluster = match response.cluster_id.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| AdmitError::Malformed { address, what: "cluster id" })?),
    };
    Ok(Identified {
        cluster,
        node: NodeId(response.node_id),
        name: response.name,
        public_key,
        time_ms: response.time_ms,
    })
}

/// Asks a member to admit the node that has this key. Asking again with the same attempt gives the same answer until
/// the node has reported itself.
///
/// # Errors
///
/// When the member does not answer by the deadline, or the cluster refuses.
pub async fn admit(
    key: &NodeKey,
    address: SocketAddr,
    node: &AdmitNode,
    deadline: Duration,
) -> Result<Admitted, AdmitError> {
    let mut request = Request::new(v1::AdmitRequest { node: Some(node.into()) });
    request.set_timeout(deadline);
    let end = now() + deadline;
    let dialled = timeout_at(end, dial(key, address)).await.map_err(|_| late(address, deadline))?;
    let (mut client, _) = dialled.map_err(|status| failed(address, &status))?;
    let answer = timeout_at(end, client.admit(request)).await;
    let answer =
        answer.map_err(|_| AdmitError::Unknown { address, message: format!("no answer within {deadline:?}") })?;
    let response = answer.map_err(|status| not_admitted(address, &status))?.into_inner();
    let cluster = response.cluster_id.parse().map_err(|_| AdmitError::Malformed { address, what: "cluster id" })?;
    let member = |(id, member): (&u64, &v1::RaftMember)| Ok((RaftId(*id), peer_in(member)?));
    let members = response.members.iter().map(member).collect::<Result<_, Malformed>>();
    let members = members.map_err(|_| AdmitError::Malformed { address, what: "member's key" })?;
    Ok(Admitted {
        cluster,
        node: NodeId(response.node_id),
        raft_id: RaftId(response.raft_id),
        members,
        observer: response.observer,
    })
}

pub(crate) async fn greet(key: &NodeKey, address: SocketAddr) -> Result<(v1::HelloResponse, PublicKey), Status> {
    let (mut client, shown) = dial(key, address).await?;
    Ok((client.hello(v1::HelloRequest {}).await?.into_inner(), shown))
}

/// Values of [`metadata::REASON`].
const NO_QUORUM: &str = "NO_QUORUM";
const UNKNOWN_OUTCOME: &str = "UNKNOWN_OUTCOME";
const ADVERTISE_UNREACHABLE: &str = "ADVERTISE_UNREACHABLE";

/// What a newcomer is told whose admission was not written, or may not have been.
pub(crate) fn unproposed(error: &ProposeError) -> Status {
    let message = error.to_string();
    match error {
        ProposeError::Rejected(rejection) => rejected(rejection),
        ProposeError::NoQuorum { .. } => with_reason(Status::unavailable(message), NO_QUORUM),
        ProposeError::Unknown { .. } => with_reason(Status::unknown(message), UNKNOWN_OUTCOME),
        ProposeError::TooLarge { .. }
        | ProposeError::NotFeature { .. }
        | ProposeError::NotUnderstood { .. }
        | ProposeError::DiskFull { .. }
        | ProposeError::Stopped { .. } => Status::failed_precondition(message),
    }
}

/// What a newcomer is told that cannot be called back.
pub(crate) fn unreachable(message: String) -> Status {
    with_reason(Status::failed_precondition(message), ADVERTISE_UNREACHABLE)
}

/// A status that carries a reason for programs.
pub(crate) fn with_reason(mut status: Status, reason: &'static str) -> Status {
    status.metadata_mut().insert(metadata::REASON, AsciiMetadataValue::from_static(reason));
    status
}

/// The reason that a status carries.
pub(crate) fn reason_of(status: &Status) -> Option<&str> {
    status.metadata().get(metadata::REASON)?.to_str().ok()
}

/// Why an admission that was sent failed.
fn not_admitted(address: SocketAddr, status: &Status) -> AdmitError {
    let message = status.message().to_owned();
    match reason_of(status) {
        Some(NO_QUORUM) => return AdmitError::NoQuorum { message },
        Some(UNKNOWN_OUTCOME) => return AdmitError::Unknown { address, message },
        Some(ADVERTISE_UNREACHABLE) => return AdmitError::AdvertiseUnreachable { message },
        _ => {}
    }
    match failed(address, status) {
        // It was reached before: the answer is lost.
        AdmitError::Unreachable { address, reason } => AdmitError::Unknown { address, message: reason },
        error => error,
    }
}

/// A status that carries a rejection.
pub(crate) fn rejected(rejection: &Rejection) -> Status {
    let mut status = Status::failed_precondition(rejection.message.clone());
    let encoded = v1::Rejection::from(rejection).encode_to_vec();
    status.metadata_mut().insert_bin(REJECTION, MetadataValue::from_bytes(&encoded));
    status
}

fn rejection_of(status: &Status) -> Option<Rejection> {
    let bytes = status.metadata().get_bin(REJECTION)?.to_bytes().ok()?;
    v1::Rejection::decode(bytes).ok()?.try_into().ok()
}

fn failed(address: SocketAddr, status: &Status) -> AdmitError {
    if let Some(rejection) = rejection_of(status) {
        return AdmitError::Rejected(rejection);
    }
    let reason = match std::error::Error::source(status) {
        Some(source) => format!("{}: {}", status.message(), crate::error_chain(source)),
        None => status.message().to_owned(),
    };
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => {
            AdmitError::Unreachable { address, reason }
        }
        _ => AdmitError::Failed { address, reason },
    }
}

fn late(address: SocketAddr, deadline: Duration) -> AdmitError {
    AdmitError::Unreachable { address, reason: format!("no answer within {deadline:?}") }
}
