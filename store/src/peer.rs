//! The port that members reach each other at: who is served.

use std::future::Future;
use std::io;
#[cfg(feature = "sim")]
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

#[cfg(feature = "sim")]
use futures::FutureExt;
use futures::stream::StreamExt;
use pontoon_proto::{MAX_MESSAGE_BYTES, metadata, v1};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
#[cfg(feature = "sim")]
use tonic::body::Body;
#[cfg(feature = "sim")]
use tonic::codegen::{Service as _, http};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Code, Request, Status};

use crate::accept::{Doors, HANDSHAKES, accept};
use crate::raft::channel::{Caller, shown};
use crate::raft::service::Service;
use crate::refusals::{Refusals, What};
#[cfg(feature = "sim")]
use crate::rt::sim::link;
use crate::rt::wall_ms;
use crate::store::Store;
use crate::tls::{CertificateError, Certified, Connection, NodeKey, PublicKey, Shown, timestamp};
use crate::watch::Watching;

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

    /// Who was refused lately.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Whether somebody with this key may be a node of the cluster, as far as is known here.
    pub(crate) fn may_be_node(&self, key: &PublicKey) -> bool {
        self.get().is_none_or(|store| store.knows(key))
    }

    /// Waits until somebody with this key may not administer the cluster from elsewhere any more; none: he may not now.
    pub(crate) fn without_admin(&self, key: PublicKey) -> Option<impl Future<Output = ()> + Send + use<>> {
        self.get().and_then(|store| store.without_admin(key))
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
        let store = self.identified(store, caller, &shown).await?;
        if store.has_node(caller.from, &shown.key) {
            Ok(store)
        } else {
            Err(self.refused(&shown, no_member(&store, caller, &shown.key)))
        }
    }

    /// The store, if another member of its cluster asks, over a connection made with that member's certificate. One that came
    /// later than what is known here is believed if a member that is known vouches for it.
    pub(crate) async fn member<T>(&self, request: &Request<T>) -> Result<Store, Status> {
        let (store, caller) = self.meant(request)?;
        self.identified(store, caller, &shown(request)?.clone()).await
    }

    /// The same for what any member can answer: an observer that was away may know this one under a Raft id that it has had.
    pub(crate) async fn any_member<T>(&self, request: &Request<T>) -> Result<Store, Status> {
        let (store, caller) = self.of_cluster(request)?;
        self.identified(store, caller, &shown(request)?.clone()).await
    }

    /// The same, for those only that are known here: whoever vouches asks nobody else.
    pub(crate) fn known_member<T>(&self, request: &Request<T>) -> Result<Store, Status> {
        let (store, caller) = self.meant(request)?;
        let (known, shown) = (store.key_of(caller.from), shown(request)?);
        admit_call(store, caller, shown, known).map_err(|status| self.refused(shown, status))
    }

    /// The store for a caller that has shown a certificate, who may be one that came later than what is known here.
    async fn identified(&self, store: Store, caller: Caller, shown: &Shown) -> Result<Store, Status> {
        let known = match store.key_of(caller.from) {
            Some(known) => Some(known),
            None if store.may_be_newer(caller.from) => store.vouched_key_of(caller.from).await,
            None => None,
        };
        admit_call(store, caller, shown, known).map_err(|status| self.refused(shown, status))
    }

    /// A refusal that the log tells.
    fn refused(&self, shown: &Shown, status: Status) -> Status {
        let what = if status.code() == Code::Unauthenticated { What::Certificate } else { What::Caller };
        self.refusals.note(shown.address.ip(), what, &status.message());
        status
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

/// Whether whoever has shown a certificate may call as the member that he says he is.
fn admit_call(store: Store, caller: Caller, shown: &Shown, known: Option<PublicKey>) -> Result<Store, Status> {
    match known {
        Some(known) if known == shown.key => {
            let certified = shown.certified().map_err(|error| disbelieved(shown, &error, None))?;
            is_of(&store, caller, &certified)?;
            Ok(store)
        }
        Some(_) => {
            // A Raft id is one key's for ever: whoever calls was that node, or never.
            let message = format!("the caller has not the key of member {}", caller.from);
            let mut status = Status::permission_denied(message);
            status.metadata_mut().insert(metadata::REMOVED, AsciiMetadataValue::from_static("true"));
            Err(status)
        }
        None => Err(no_member(&store, caller, &shown.key)),
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
    } else if !store.may_be_newer(caller.from) && !store.needs_vote_of(caller.from) {
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
        return wrong(format!(
            "one of cluster {}, and this is a member of cluster {}",
            certified.cluster,
            store.cluster()
        ));
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
    let message =
        format!("the certificate of {address} is not believed: {error}; the clocks: {now} here, {theirs} there");
    Status::unauthenticated(message)
}

/// Lets those go on to what members say to each other whose certificate is believed, and who were not removed, before anything
/// that they send is read.
#[derive(Debug, Clone)]
struct Check(StoreSlot);

impl Interceptor for Check {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let shown = shown(&request)?;
        if let Err(error) = shown.certified() {
            let theirs = request.metadata().get(metadata::TIME).and_then(|ms| ms.to_str().ok()?.parse().ok());
            return Err(self.0.refused(shown, disbelieved(shown, &error, theirs)));
        }
        let (store, caller) = self.0.of_cluster(&request)?;
        let known = store.key_of(caller.from);
        if store.knows(&shown.key) || known.is_none() && store.may_be_newer(caller.from) {
            return Ok(request);
        }
        match admit_call(store, caller, shown, known) {
            Ok(_) => Ok(request),
            Err(status) => Err(self.0.refused(shown, status)),
        }
    }
}

type RaftServer = InterceptedService<v1::raft_server::RaftServer<Service>, Check>;
type MembersServer = InterceptedService<v1::peer_server::PeerServer<Service>, Check>;
type EntranceServer = v1::entrance_server::EntranceServer<Service>;

/// Serves the port.
#[derive(Debug, Clone)]
pub struct PeerServer {
    slot: StoreSlot,
    admins: Option<mpsc::Sender<Connection>>,
}

impl PeerServer {
    /// A server for what is, or will be, in the slot.
    pub fn new(slot: StoreSlot) -> Self {
        Self { slot, admins: None }
    }

    /// The same; connections of those who administer the cluster from elsewhere go somewhere else.
    pub fn with_admins(slot: StoreSlot, admins: mpsc::Sender<Connection>) -> Self {
        Self { slot, admins: Some(admins) }
    }

    /// Serves a listener until the future ends. Calls that are under way have two seconds to end.
    ///
    /// # Errors
    ///
    /// When the server ends by itself.
    pub async fn serve(self, listener: TcpListener, until: impl Future<Output = ()>) -> io::Result<()> {
        let ((nodes, of_nodes), (strangers, of_strangers)) = (mpsc::channel(HANDSHAKES), mpsc::channel(HANDSHAKES));
        let accepting = accept(listener, self.slot.clone(), Doors { nodes, admins: self.admins.clone(), strangers });
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
                    path if path.starts_with("/pontoon.v1.Raft/") => {
                        raft.call(request).await.map(|answer| answer.map(Body::new))
                    }
                    path if path.starts_with("/pontoon.v1.Peer/") => {
                        peer.call(request).await.map(|answer| answer.map(Body::new))
                    }
                    _ => entrance.call(request).await,
                };
                answered.unwrap_or_else(|never| match never {})
            };
            answer.boxed()
        };
        link::listen(address, &key, Arc::new(serve));
    }

    fn services(self) -> (RaftServer, MembersServer, EntranceServer) {
        let check = Check(self.slot.clone());
        let service = Service::new(self.slot);
        let raft = v1::raft_server::RaftServer::new(service.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let peer = v1::peer_server::PeerServer::new(service.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let entrance = v1::entrance_server::EntranceServer::new(service).max_decoding_message_size(STRANGERS_BYTES);
        (InterceptedService::new(raft, check.clone()), InterceptedService::new(peer, check), entrance)
    }
}
