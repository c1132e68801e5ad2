//! Connections to other members, and what every call to them carries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_proto::{MAX_MESSAGE_BYTES, metadata, v1};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::model::id::{ClusterId, RaftId};

/// How long setting up a connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// A connection that has been silent this long is asked whether it is alive.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How long the answer to that may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// What a connection is for. Each has its own, so that entries do not hold up heartbeats, and a snapshot neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// Entries.
    Append,
    /// Heartbeats, votes and requests.
    Control,
    /// Snapshots.
    Snapshot,
}

/// Connections to the other members, made when first used.
#[derive(Debug, Clone)]
pub(crate) struct Channels {
    cluster: ClusterId,
    me: RaftId,
    open: Arc<Mutex<HashMap<(u64, Purpose), Open>>>,
}

/// The address of a connection, and the connection.
type Open = (String, Channel);

impl Channels {
    pub(crate) fn new(cluster: ClusterId, me: RaftId) -> Self {
        Self { cluster, me, open: Arc::default() }
    }

    /// The connection to a member for a purpose.
    ///
    /// # Errors
    ///
    /// An address that cannot be one.
    pub(crate) fn to(&self, member: u64, address: &str, purpose: Purpose) -> Result<Channel, tonic::transport::Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, channel)) = open.get(&(member, purpose))
            && known == address
        {
            return Ok(channel.clone());
        }
        let channel = endpoint(address)?.connect_lazy();
        open.insert((member, purpose), (address.to_owned(), channel.clone()));
        Ok(channel)
    }

    /// A Raft client over the connection to a member.
    pub(crate) fn raft(
        &self,
        member: u64,
        address: &str,
        purpose: Purpose,
    ) -> Result<RaftClient, tonic::transport::Error> {
        let client = v1::raft_client::RaftClient::new(self.to(member, address, purpose)?);
        Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// A client of the peer service of a member.
    pub(crate) fn peer(&self, member: u64, address: &str) -> Result<PeerClient, tonic::transport::Error> {
        Ok(peer_client(self.to(member, address, Purpose::Control)?))
    }

    /// A request that says from whom it is and for whom.
    pub(crate) fn request<T>(&self, to: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let map = request.metadata_mut();
        put(map, metadata::CLUSTER, &self.cluster.to_string());
        put(map, metadata::FROM, &self.me.to_string());
        put(map, metadata::TO, &to.to_string());
        request
    }
}

pub(crate) type RaftClient = v1::raft_client::RaftClient<Channel>;
pub(crate) type PeerClient = v1::peer_client::PeerClient<Channel>;

/// How an address is reached. Encryption between members goes here.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

pub(crate) fn peer_client(channel: Channel) -> PeerClient {
    v1::peer_client::PeerClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Who calls whom, as the metadata of a call says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) cluster: ClusterId,
    pub(crate) from: RaftId,
    pub(crate) to: RaftId,
}

impl Caller {
    /// Reads a call's metadata.
    ///
    /// # Errors
    ///
    /// `PERMISSION_DENIED` when something is missing: whoever calls is no member.
    pub(crate) fn of(map: &MetadataMap) -> Result<Self, Status> {
        Ok(Self {
            cluster: get(map, metadata::CLUSTER)?,
            from: RaftId(get(map, metadata::FROM)?),
            to: RaftId(get(map, metadata::TO)?),
        })
    }
}

fn put(map: &mut MetadataMap, key: &'static str, value: &str) {
    // Digits are ASCII.
    if let Ok(value) = AsciiMetadataValue::try_from(value) {
        map.insert(key, value);
    }
}

fn get<T: std::str::FromStr>(map: &MetadataMap, key: &str) -> Result<T, Status> {
    let value = map.get(key).and_then(|value| value.to_str().ok()).and_then(|value| value.parse().ok());
    value.ok_or_else(|| Status::permission_denied(format!("the call has no valid {key}: only members may make it")))
}
