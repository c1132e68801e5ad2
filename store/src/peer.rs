//! The port that members reach each other at: who is served, and what a newcomer asks.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pontoon_proto::{MAX_MESSAGE_BYTES, metadata, v1};
use prost::Message;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::metadata::{AsciiMetadataValue, MetadataMap, MetadataValue};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};

use crate::model::command::AdmitNode;
use crate::model::id::{ClusterId, NodeId, RaftId};
use crate::model::rejection::Rejection;
use crate::raft::channel::{Caller, endpoint, peer_client};
use crate::raft::service::Service;
use crate::store::Store;

/// Carries an encoded `Rejection` (store.proto) with a status.
pub(crate) const REJECTION: &str = "pontoon-rejection-bin";

/// How long calls that are under way may take once the port is to be closed.
const GRACE: Duration = Duration::from_secs(2);

/// What a daemon says of itself before it is in a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HelloInfo {
    /// Name of the node.
    pub name: String,
    /// Its public key.
    pub public_key: [u8; 32],
}

/// Holds the store once there is one, so that the port can be served before. Clones share it.
#[derive(Debug, Clone)]
pub struct StoreSlot {
    store: Arc<RwLock<Option<Store>>>,
    info: Arc<RwLock<HelloInfo>>,
    clock: fn() -> u64,
}

impl StoreSlot {
    /// An empty slot. The clock gives milliseconds since the Unix epoch.
    pub fn new(info: HelloInfo, clock: fn() -> u64) -> Self {
        Self { store: Arc::default(), info: Arc::new(RwLock::new(info)), clock }
    }

    /// Puts a store in, or takes it out.
    pub fn set(&self, store: Option<Store>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    /// The store, if there is one.
    pub fn get(&self) -> Option<Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is said.
    pub fn set_info(&self, info: HelloInfo) {
        *self.info.write().unwrap_or_else(PoisonError::into_inner) = info;
    }

    pub(crate) fn hello(&self) -> v1::HelloResponse {
        let info = self.info.read().unwrap_or_else(PoisonError::into_inner).clone();
        let store = self.get();
        v1::HelloResponse {
            cluster_id: store.as_ref().map(|store| store.cluster().to_string()).unwrap_or_default(),
            node_id: store.as_ref().map_or(0, |store| store.node().0),
            name: info.name,
            public_key: info.public_key.to_vec(),
            time_ms: (self.clock)(),
        }
    }

    /// The store, whoever asks.
    pub(crate) fn any(&self) -> Result<Store, Status> {
        self.get().ok_or_else(|| Status::failed_precondition("this daemon is in no cluster"))
    }

    /// The store, if another member of its cluster asks.
    pub(crate) fn member(&self, map: &MetadataMap) -> Result<Store, Status> {
        let store = self.any()?;
        let caller = Caller::of(map)?;
        let (us, me) = (store.cluster(), store.id());
        if caller.cluster != us {
            let message = format!("the caller is in cluster {}, and this is a member of cluster {us}", caller.cluster);
            return Err(Status::permission_denied(message));
        }
        if caller.to != me {
            let message = format!("the call is for member {}, and this is member {me}", caller.to);
            return Err(Status::permission_denied(message));
        }
        if !store.knows(caller.from) {
            let message = format!("member {} is not, or no longer, a member of cluster {us}", caller.from);
            let mut status = Status::permission_denied(message);
            status.metadata_mut().insert(metadata::REMOVED, AsciiMetadataValue::from_static("true"));
            return Err(status);
        }
        Ok(store)
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
    /// When connections cannot be accepted.
    pub async fn serve(self, listener: TcpListener, until: impl Future<Output = ()>) -> io::Result<()> {
        let service = Service::new(self.slot);
        let raft = v1::raft_server::RaftServer::new(service.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let peer = v1::peer_server::PeerServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder().add_service(raft).add_service(peer);
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
        }
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
    /// Its public key.
    pub public_key: Vec<u8>,
    /// Its clock, in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// What an admitted node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its node id.
    pub node: NodeId,
    /// Its Raft id.
    pub raft_id: RaftId,
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
pub async fn hello(address: SocketAddr, deadline: Duration) -> Result<Identified, AdmitError> {
    let answer = tokio::time::timeout(deadline, greet(address)).await;
    let response = answer.map_err(|_| late(address, deadline))?.map_err(|status| failed(address, &status))?;
    let cluster = match response.cluster_id.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| AdmitError::Malformed { address, what: "cluster id" })?),
    };
    Ok(Identified {
        cluster,
        node: NodeId(response.node_id),
        name: response.name,
        public_key: response.public_key,
        time_ms: response.time_ms,
    })
}

/// Asks a member to admit a node. `signature` is the node's Ed25519 signature over [`AdmitNode::signed_bytes`].
/// Asking again gives the same answer.
///
/// # Errors
///
/// When the member does not answer by the deadline, or the cluster refuses.
pub async fn admit(
    address: SocketAddr,
    node: &AdmitNode,
    signature: Vec<u8>,
    deadline: Duration,
) -> Result<Admitted, AdmitError> {
    let mut request = tonic::Request::new(v1::AdmitRequest { node: Some(node.into()), signature });
    request.set_timeout(deadline);
    let ask = async {
        let endpoint = endpoint(&address.to_string()).map_err(|error| Status::unavailable(error.to_string()))?;
        peer_client(endpoint.connect_lazy()).admit(request).await
    };
    let answer = tokio::time::timeout(deadline, ask).await.map_err(|_| late(address, deadline))?;
    let response = answer.map_err(|status| failed(address, &status))?.into_inner();
    let cluster = response.cluster_id.parse().map_err(|_| AdmitError::Malformed { address, what: "cluster id" })?;
    Ok(Admitted { cluster, node: NodeId(response.node_id), raft_id: RaftId(response.raft_id) })
}

impl AdmitNode {
    /// What the node signs with its key when it asks to be admitted.
    pub fn signed_bytes(&self) -> Vec<u8> {
        v1::AdmitNode::from(self).encode_to_vec()
    }
}

pub(crate) async fn greet(address: SocketAddr) -> Result<v1::HelloResponse, Status> {
    let endpoint = endpoint(&address.to_string()).map_err(|error| Status::unavailable(error.to_string()))?;
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(crate::error_chain(&error)))?;
    Ok(peer_client(channel).hello(v1::HelloRequest {}).await?.into_inner())
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
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown => AdmitError::Unreachable { address, reason },
        _ => AdmitError::Failed { address, reason },
    }
}

fn late(address: SocketAddr, deadline: Duration) -> AdmitError {
    AdmitError::Unreachable { address, reason: format!("no answer within {deadline:?}") }
}
