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
use pontoon_proto::{JoinToken, MAX_MESSAGE_BYTES, metadata, v1};
use prost::Message;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
#[cfg(feature = "sim")]
use tonic::body::Body;
#[cfg(feature = "sim")]
use tonic::codegen::{Service as _, http};
use tonic::metadata::{AsciiMetadataValue, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Code, Request, Status};

use crate::accept::{Doors, HANDSHAKES, accept};
use crate::model::command::AdmitNode;
use crate::model::id::{ClusterId, NodeId, RaftId};
use crate::model::rejection::Rejection;
use crate::raft::channel::{Caller, EntranceClient, dial, shown};
use crate::raft::convert::{Malformed, peer_in};
use crate::raft::service::Service;
use crate::raft::types::Peer;
use crate::refusals::Refusals;
#[cfg(feature = "sim")]
use crate::rt::sim::link;
use crate::rt::{now, timeout, timeout_at, wall_ms};
use crate::store::{ProposeError, Store};
use crate::tls::{CertificateError, Certified, ClusterKey, Connection, NodeKey, PublicKey, Shown, public_key, timestamp};
use crate::watch::Watching;

/// Carries an encoded `Rejection` (store.proto) with a status.
pub(crate) const REJECTION: &str = "pontoon-rejection-bin";

/// How often a connection is asked whether anybody is there still, and how long it may take to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests, and watchers of an observer, on one connection at a time; more wait.
const MAX_STREAMS: u32 = 4_096;
/// Largest message that is taken from whoever comes, in bytes.
const STRANGERS_BYTES: usize = 64 << 10;
/// Requests of somebody who is no node on one connection at a time, bytes of them under way, and bytes of their headers.
const STRANGERS_STREAMS: u32 = 8;
const STRANGERS_WINDOW: u32 = 128 << 10;
const STRANGERS_HEADERS: u32 = 8 << 10;
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
    refusals: Refusals,
}

impl StoreSlot {
    /// An empty slot of the daemon with this name and this key. The clock gives milliseconds since the Unix epoch.
    pub fn new(name: String, key: NodeKey, clock: fn() -> u64) -> Self {
        Self { store: Arc::default(), name, key, clock, watching: Watching::default(), refusals: Refusals::default() }
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

    /// The store, if another member of its cluster asks that was not removed: one that is still in the Raft membership then
    /// has a say in that alone.
    pub(crate) async fn current_member<T>(&self, request: &Request<T>) -> Result<Store, Status> {
        let (store, caller) = self.meant(request)?;
        let shown = shown(request)?.clone();
        let store = identified(store, caller, &shown).await?;
        if store.has_node(caller.from, &shown.key) { Ok(store) } else { Err(no_member(&store, caller, &shown.key)) }
    }

    /// The store, if another member of its cluster asks, over a connection made with that member's certificate. One that came
    /// later than what is known here is believed if a member that is known vouches for it.
    pub(crate) async fn member<T>(&self, request: &Request<T>) -> Result<Store, Status> {
        let (store, caller) = self.meant(request)?;
        identified(store, caller, &shown(request)?.clone()).await
    }

    /// The same for what any member can answer: an observer that was away may know this one under a Raft id that it has had.
    pub(crate) async fn any_member<T>(&self, request: &Request<T>) -> Result<Store, Status> {
        let (store, caller) = self.of_cluster(request)?;
        identified(store, caller, &shown(request)?.clone()).await
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

/// The store for a caller that has shown a certificate, who may be one that came later than what is known here.
async fn identified(store: Store, caller: Caller, shown: &Shown) -> Result<Store, Status> {
    let known = match store.key_of(caller.from) {
        Some(known) => Some(known),
        None if store.may_be_newer(caller.from) => store.vouched_key_of(caller.from).await,
        None => None,
    };
    admit_call(store, caller, shown, known)
}

/// Whether whoever has shown a certificate may call as the member that he says he is.
fn admit_call(store: Store, caller: Caller, shown: &Shown, known: Option<PublicKey>) -> Result<Store, Status> {
    match known {
        Some(known) if known == shown.key => {
            let certified = shown.certified().map_err(|error| disbelieved(shown, &error, None))?;
            is_of(&store, caller, &certified)?;
            Ok(store)
        }
        Some(_) => {
            let message = format!("the caller has not the key of member {}", caller.from);
            Err(Status::permission_denied(message))
        }
        None => {
            Err(no_member(&store, caller, &shown.key))
        }
    }
}

/// What somebody is told who is no member, or no longer.
fn no_member(store: &Store, caller: Caller, key: &PublicKey) -> Status {
    let message = format!("member {} is not, or no longer, a member of cluster {}", caller.from, caller.cluster);
    let mut status = Status::permission_denied(message);
    // That nobody vouches for one that may be newer says nothing about it.
    let current = store.state().node_with_key(key).map(|node| node.raft_id);
    if let Some(current) = current.filter(|id| *id > caller.from) {
        status.metadata_mut().insert(metadata::RAFT_ID, current.0.into());
    } else if !store.may_be_newer(caller.from) {
        status.metadata_mut().insert(metadata::REMOVED, AsciiMetadataValue::from_static("true"));
    }
    status
}

/// Whether a certificate is that of the node that a caller says he is.
fn is_of(store: &Store, caller: Caller, certified: &Certified) -> Result<(), Status> {
    let wrong = |what: String| {
        let message = format!("the certificate of whoever calls as member {} is {what}", caller.from);
        Err(Status::permission_denied(message))
    };
    if certified.cluster != store.cluster() {
        return wrong(format!("one of cluster {}, and this is a member of cluster {}", certified.cluster, store.cluster()));
    }
    let node = store.state().node_with_raft_id(caller.from).map(|node| node.id);
    if let Some(node) = node.filter(|node| *node != certified.node) {
        return wrong(format!("node {}'s, and the member is node {node}", certified.node));
    }
    Ok(())
}

/// What somebody is told whose certificate is not believed, with both clocks.
fn disbelieved(shown: &Shown, error: &CertificateError, theirs_ms: Option<u64>) -> Status {
    let address = shown.address;
    let theirs = theirs_ms.map_or("unknown".to_owned(), |ms| timestamp(ms).to_string());
    let now = timestamp(wall_ms());
    let message = format!("the certificate of {address} is not believed: {error}; the clocks: {now} here, {theirs} there");
    Status::unauthenticated(message)
}

/// Lets those go on to what members say to each other whose certificate is believed, before anything that they send is read.
#[derive(Debug, Clone)]
struct Check(Refusals);

impl Interceptor for Check {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let shown = shown(&request)?;
        let Err(error) = shown.certified() else { return Ok(request) };
        let theirs = request.metadata().get(metadata::TIME).and_then(|ms| ms.to_str().ok()?.parse().ok());
        let status = disbelieved(shown, &error, theirs);
        self.0.note(shown.address.ip(), &status.message());
        Err(status)
    }
}

type RaftServer = InterceptedService<v1::raft_server::RaftServer<Service>, Check>;
type MembersServer = InterceptedService<v1::peer_server::PeerServer<Service>, Check>;
type EntranceServer = v1::entrance_server::EntranceServer<Service>;

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
        let ((nodes, of_nodes), (strangers, of_strangers)) = (mpsc::channel(HANDSHAKES), mpsc::channel(HANDSHAKES));
        let accepting =
            accept(listener, self.slot.key().clone(), Doors { nodes, strangers }, self.slot.refusals.clone());
        let (raft, peer, entrance) = self.services();
        let for_nodes = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(Some(MAX_STREAMS));
        // What they send is kept within 64 connections of a MiB or so.
        let for_strangers = Server::builder()
            .max_concurrent_streams(Some(STRANGERS_STREAMS))
            .initial_stream_window_size(Some(STRANGERS_WINDOW))
            .initial_connection_window_size(Some(STRANGERS_WINDOW))
            .http2_max_header_list_size(Some(STRANGERS_HEADERS));
        let stop = CancellationToken::new();
        let serve = |mut server: Server, incoming: mpsc::Receiver<Connection>| {
            let incoming = ReceiverStream::new(incoming).map(Ok::<_, io::Error>);
            let (raft, peer, entrance) = (raft.clone(), peer.clone(), entrance.clone());
            let server = server.add_service(raft).add_service(peer).add_service(entrance);
            server.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned())
        };
        let served = futures::future::try_join(serve(for_nodes, of_nodes), serve(for_strangers, of_strangers));
        let late = async {
            until.await;
            stop.cancel();
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            served = served => served.map(drop).map_err(io::Error::other),
            () = late => Ok(()),
            never = accepting => match never {},
        }
    }

    /// Serves an address of a simulated host, as long as that runs.
    #[cfg(feature = "sim")]
    pub fn listen(self, address: SocketAddr) {
        let key = self.slot.key().clone();
        let (raft, peer, entrance) = self.services();
        let serve = move |request: http::Request<Body>| {
            let (mut raft, mut peer, mut entrance) = (raft.clone(), peer.clone(), entrance.clone());
            let answer = async move {
                let answered = match request.uri().path() {
                    path if path.starts_with("/pontoon.v1.Raft/") => raft.call(request).await.map(|answer| answer.map(Body::new)),
                    path if path.starts_with("/pontoon.v1.Peer/") => peer.call(request).await.map(|answer| answer.map(Body::new)),
                    _ => entrance.call(request).await,
                };
                answered.unwrap_or_else(|never| match never {})
            };
            answer.boxed()
        };
        link::listen(address, &key, Arc::new(serve));
    }

    fn services(self) -> (RaftServer, MembersServer, EntranceServer) {
        let check = Check(self.slot.refusals.clone());
        let service = Service::new(self.slot);
        let raft = v1::raft_server::RaftServer::new(service.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let peer = v1::peer_server::PeerServer::new(service.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let entrance =
            v1::entrance_server::EntranceServer::new(service).max_decoding_message_size(STRANGERS_BYTES);
        (InterceptedService::new(raft, check.clone()), InterceptedService::new(peer, check), entrance)
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
    /// Its certificate, and what to believe others from.
    pub certificate: Certificate,
    /// The key that the authority's is encrypted with, if the one that was asked has it.
    pub cluster_key: Option<ClusterKey>,
}

/// A node's certificate, and what to believe others from (X.509, DER).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The node's own.
    pub own: Vec<u8>,
    /// Those of the cluster's authorities.
    pub authorities: Vec<Vec<u8>>,
}

impl From<Certificate> for v1::Certificate {
    fn from(certificate: Certificate) -> Self {
        Self { own: certificate.own, authorities: certificate.authorities }
    }
}

impl From<v1::Certificate> for Certificate {
    fn from(certificate: v1::Certificate) -> Self {
        Self { own: certificate.own, authorities: certificate.authorities }
    }
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
    /// It is not what the token is for.
    #[error(
        "whoever answers at {address} is not of the cluster that the join token is for: another cluster has that address now, \
         or somebody stands between"
    )]
    OtherCluster {
        /// Who.
        address: SocketAddr,
    },
    /// It is in no cluster, so that nobody can join through it.
    #[error("{address} is in no cluster yet")]
    NoCluster {
        /// Who.
        address: SocketAddr,
        /// Its key.
        key: PublicKey,
    },
    /// Its certificate is not good.
    #[error("the certificate of {address} is not believed: {problem}; the clocks: {ours} here, {theirs} there")]
    Certificate {
        /// Who.
        address: SocketAddr,
        /// Why not.
        problem: CertificateError,
        /// The clock here.
        ours: String,
        /// Its clock.
        theirs: String,
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
    identified_as(address, response, public_key)
}

fn identified_as(
    address: SocketAddr,
    response: v1::HelloResponse,
    public_key: PublicKey,
) -> Result<Identified, AdmitError> {
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

/// Somebody who has proven to be of the cluster that a token is for.
#[derive(Debug)]
pub struct Door {
    client: EntranceClient,
    address: SocketAddr,
    /// Who it is.
    pub host: Identified,
}

/// Connects to a node of the cluster that a token is for. Nothing is sent to anybody else but a question who that is, and
/// that only to one whose certificate the token's authority has issued.
///
/// # Errors
///
/// When nobody answers by the deadline, or somebody who is not of that cluster, or a clock is wrong.
pub async fn knock(
    key: &NodeKey,
    address: SocketAddr,
    token: &JoinToken,
    deadline: Duration,
) -> Result<Door, AdmitError> {
    let end = now() + deadline;
    let dialled = timeout_at(end, dial(key, address, |shown| issued(shown, token, address))).await;
    let (mut client, certified) = match dialled.map_err(|_| late(address, deadline))? {
        Ok(dialled) => dialled,
        Err(Unfit::Unreachable(status)) => return Err(failed(address, &status)),
        Err(Unfit::Other(error)) => return Err(error),
    };
    let answer = timeout_at(end, client.hello(v1::HelloRequest {})).await.map_err(|_| late(address, deadline))?;
    let response = answer.map_err(|status| failed(address, &status))?.into_inner();
    let host = identified_as(address, response, certified.key)?;
    match certified.check_time(wall_ms()) {
        Ok(()) => Ok(Door { client, address, host }),
        Err(problem) => {
            let (ours, theirs) = (timestamp(wall_ms()).to_string(), timestamp(host.time_ms).to_string());
            Err(AdmitError::Certificate { address, problem, ours, theirs })
        }
    }
}

/// Why nobody is asked at an address.
enum Unfit {
    Unreachable(Status),
    Other(AdmitError),
}

impl From<Status> for Unfit {
    fn from(status: Status) -> Self {
        Self::Unreachable(status)
    }
}

impl From<AdmitError> for Unfit {
    fn from(error: AdmitError) -> Self {
        Self::Other(error)
    }
}

/// What the certificate that somebody has shown says, if the authority that a token names has issued it, now or ever.
fn issued(shown: &[Vec<u8>], token: &JoinToken, address: SocketAddr) -> Result<Certified, Unfit> {
    let other = || AdmitError::OtherCluster { address };
    let own = shown.first().ok_or_else(other)?;
    let certified = match Certified::read(own) {
        Err(CertificateError::NoNode) => {
            let key = public_key(own).map_err(|_| other())?;
            return Err(AdmitError::NoCluster { address, key }.into());
        }
        read => read.map_err(|_| other())?,
    };
    let authority = shown.iter().find(|certificate| JoinToken::digest_of(certificate) == token.digest);
    let authority = authority.ok_or_else(other)?;
    Ok(Certified::verify(own, std::slice::from_ref(authority), certified.from_ms).map_err(|_| other())?)
}

impl Door {
    /// Asks for admission of the node that has this key. Asking again with the same attempt gives the same answer until the
    /// node has reported itself.
    ///
    /// # Errors
    ///
    /// When the cluster does not answer by the deadline, or refuses.
    pub async fn enter(
        mut self,
        node: &AdmitNode,
        token: &JoinToken,
        deadline: Duration,
    ) -> Result<Admitted, AdmitError> {
        let address = self.address;
        let secret = token.secret.bytes().to_vec();
        let mut request = Request::new(v1::AdmitRequest { node: Some(node.into()), secret });
        request.set_timeout(deadline);
        let answer = timeout(deadline, self.client.admit(request)).await;
        let answer =
            answer.map_err(|_| AdmitError::Unknown { address, message: format!("no answer within {deadline:?}") })?;
        let response = answer.map_err(|status| not_admitted(address, &status))?.into_inner();
        let malformed = |what| AdmitError::Malformed { address, what };
        let cluster = response.cluster_id.parse().map_err(|_| malformed("cluster id"))?;
        let member = |(id, member): (&u64, &v1::RaftMember)| Ok((RaftId(*id), peer_in(member)?));
        let members = response.members.iter().map(member).collect::<Result<_, Malformed>>();
        let cluster_key = match response.cluster_key.len() {
            0 => None,
            _ => Some(response.cluster_key.as_slice().try_into().map_err(|_| malformed("cluster's key"))?),
        };
        Ok(Admitted {
            cluster,
            node: NodeId(response.node_id),
            raft_id: RaftId(response.raft_id),
            members: members.map_err(|_| malformed("member's key"))?,
            observer: response.observer,
            certificate: response.certificate.ok_or(malformed("certificate"))?.into(),
            cluster_key: cluster_key.map(ClusterKey::new),
        })
    }
}

pub(crate) async fn greet(key: &NodeKey, address: SocketAddr) -> Result<(v1::HelloResponse, PublicKey), Status> {
    let key_of = |shown: &[Vec<u8>]| {
        let shown = shown.first().and_then(|certificate| public_key(certificate).ok());
        shown.ok_or_else(|| Status::unavailable("whoever answers has shown no certificate"))
    };
    let (mut client, shown) = dial(key, address, key_of).await?;
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
