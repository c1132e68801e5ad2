//! Connections to other members, and what every call to them carries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_proto::{MAX_MESSAGE_BYTES, metadata, v1};
use tokio::time::Instant;
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
    standing: Arc<Mutex<Standing>>,
}

/// What the others think of this member.
#[derive(Debug, Default)]
struct Standing {
    /// What the latest member that answered said, if that this one is no member any more.
    removed: Option<String>,
    /// When a leader last sent something.
    heard: Option<Instant>,
}

/// The address of a connection, and the connection.
type Open = (String, Channel);

impl Channels {
    pub(crate) fn new(cluster: ClusterId, me: RaftId) -> Self {
        Self { cluster, me, open: Arc::default(), standing: Arc::default() }
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

    /// Takes note of how a member answered: one that was removed learns of it in no other way. Any other refusal says
    /// nothing about this member: the one that answered may be the one that changed.
    pub(crate) fn note<T>(&self, answer: &Result<T, Status>) {
        let removed = match answer {
            Ok(_) => None,
            Err(status) if status.metadata().contains_key(metadata::REMOVED) => Some(status.message().to_owned()),
            Err(_) => return,
        };
        self.standing().removed = removed;
    }

    /// Takes note that a leader sent something: it counts this member in.
    pub(crate) fn note_leader(&self) {
        *self.standing() = Standing { removed: None, heard: Some(Instant::now()) };
    }

    /// Why the others do not deal with this member any more, as the latest that answered said.
    pub(crate) fn removed(&self) -> Option<String> {
        self.standing().removed.clone()
    }

    /// The same, unless a leader was heard of within that time.
    pub(crate) fn removed_and_alone_for(&self, time: Duration) -> Option<String> {
        self.removed().filter(|_| self.alone_for(time))
    }

    /// Whether no leader was heard of within that time.
    pub(crate) fn alone_for(&self, time: Duration) -> bool {
        self.standing().heard.is_none_or(|heard| heard.elapsed() > time)
    }

    /// Closes the connections to those that are no members.
    pub(crate) fn keep(&self, is_member: impl Fn(u64) -> bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(member, _), _| is_member(*member));
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
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
