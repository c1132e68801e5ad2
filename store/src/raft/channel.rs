//! Connections to other members, and what every call to them carries.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_proto::{MAX_MESSAGE_BYTES, metadata, v1};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Request, Status};

use crate::model::id::{ClusterId, RaftId};
use crate::rt::{self, Instant};
use crate::tls::{NodeKey, Shown};

#[cfg(not(feature = "sim"))]
use super::link;
use super::types::Peer;
#[cfg(feature = "sim")]
use crate::rt::sim::link;

/// What a connection is for. Each has its own, so that entries do not hold up heartbeats, and a snapshot neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Entries.
    Append,
    /// Heartbeats, votes and requests.
    Control,
    /// Snapshots.
    Snapshot,
    /// What an observer follows.
    Follow,
    /// What the watchers of an observer are sent.
    Watch,
}

/// Connections to the other members, made when first used.
#[derive(Debug, Clone)]
pub(crate) struct Channels {
    cluster: ClusterId,
    me: RaftId,
    key: NodeKey,
    open: Arc<Mutex<BTreeMap<(u64, Purpose), Open>>>,
    /// Where the members are reached, as the latest membership says: they can move.
    book: Arc<Mutex<BTreeMap<u64, Peer>>>,
    standing: Arc<Mutex<Standing>>,
}

/// What the others think of this member.
#[derive(Debug, Default)]
struct Standing {
    /// What the latest member that answered said, if that this one is no member any more.
    removed: Option<String>,
    /// As of which change of what this node shows the latest member that answered did not believe it.
    disbelieved: Option<u64>,
    /// The Raft id that this node has now, as a member said that knows this one no more.
    renewed: Option<RaftId>,
    /// When a leader last sent something.
    heard: Option<Instant>,
}

pub(crate) use link::{Link, Unusable};

/// Whom a connection is to, as of which change of what this node shows it was made, and the connection.
type Open = (Peer, u64, Link);

impl Channels {
    pub(crate) fn new(cluster: ClusterId, me: RaftId, key: NodeKey) -> Self {
        Self { cluster, me, key, open: Arc::default(), book: Arc::default(), standing: Arc::default() }
    }

    /// The connection to a member for a purpose.
    ///
    /// # Errors
    ///
    /// An address that cannot be one.
    pub(crate) fn to(&self, member: u64, peer: &Peer, purpose: Purpose) -> Result<Link, Unusable> {
        let shown = self.key.generation();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was made with another certificate would end with that.
        if let Some((known, made, link)) = open.get(&(member, purpose))
            && (known, *made) == (peer, shown)
        {
            return Ok(link.clone());
        }
        let link = link::lazy(&self.key, member, peer, purpose)?;
        open.insert((member, purpose), (peer.clone(), shown, link.clone()));
        Ok(link)
    }

    /// A Raft client over the connection to a member.
    pub(crate) fn raft(&self, member: u64, peer: &Peer, purpose: Purpose) -> Result<RaftClient, Unusable> {
        // Raft goes on with what it knew when it began to send to a member.
        let now = self.book.lock().unwrap_or_else(PoisonError::into_inner).get(&member).cloned();
        let client = v1::raft_client::RaftClient::new(self.to(member, now.as_ref().unwrap_or(peer), purpose)?);
        Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// A client of the peer service of a member.
    pub(crate) fn peer(&self, member: u64, peer: &Peer) -> Result<PeerClient, Unusable> {
        Ok(peer_client(self.to(member, peer, Purpose::Control)?))
    }

    /// A client of what a member serves to everybody.
    pub(crate) fn entrance(&self, member: u64, peer: &Peer) -> Result<EntranceClient, Unusable> {
        Ok(v1::entrance_client::EntranceClient::new(self.to(member, peer, Purpose::Control)?))
    }

    /// A client of the peer service of a member, for following it.
    pub(crate) fn follow(&self, member: u64, peer: &Peer) -> Result<PeerClient, Unusable> {
        Ok(peer_client(self.to(member, peer, Purpose::Follow)?))
    }

    /// A client of the peer service of a member, for passing on what it sends.
    pub(crate) fn watch(&self, member: u64, peer: &Peer) -> Result<PeerClient, Unusable> {
        Ok(peer_client(self.to(member, peer, Purpose::Watch)?))
    }

    /// Takes note of how a member answered: one that was removed learns of it in no other way. Any other refusal says
    /// nothing about this member: the one that answered may be the one that changed.
    pub(crate) fn note<T>(&self, answer: &Result<T, Status>) {
        let status = match answer {
            Ok(_) => {
                let mut standing = self.standing();
                return (standing.removed, standing.disbelieved) = (None, None);
            }
            Err(status) => status,
        };
        if status.code() == Code::Unauthenticated {
            self.standing().disbelieved = Some(self.key.generation());
        }
        let id = status.metadata().get(metadata::RAFT_ID).and_then(|id| id.to_str().ok()?.parse().ok());
        let mut standing = self.standing();
        if let Some(id) = id {
            standing.renewed = Some(RaftId(id));
        } else if status.metadata().contains_key(metadata::REMOVED) {
            standing.removed = Some(status.message().to_owned());
        }
    }

    /// Whether the latest member that answered did not believe this node's certificate.
    pub(crate) fn is_disbelieved(&self) -> bool {
        self.standing().disbelieved == Some(self.key.generation())
    }

    /// The Raft id that this node has now, if it is known to be another.
    pub(crate) fn renewed(&self) -> Option<RaftId> {
        self.standing().renewed
    }

    /// Takes note of it. What this node asks from now on, it asks as the node that it is.
    pub(crate) fn renew(&self, id: RaftId) {
        self.standing().renewed = Some(id);
    }

    /// Takes note that a leader sent something: it counts this member in.
    pub(crate) fn note_leader(&self) {
        let mut standing = self.standing();
        *standing = Standing { removed: None, heard: Some(rt::now()), ..*standing };
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
        self.standing().heard.is_none_or(|heard| rt::now() - heard > time)
    }

    /// Takes note of where the members are, and closes the connections to those that are none.
    pub(crate) fn keep(&self, members: BTreeMap<u64, Peer>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(member, _), _| members.contains_key(member));
        *self.book.lock().unwrap_or_else(PoisonError::into_inner) = members;
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request that says from whom it is and for whom.
    pub(crate) fn request<T>(&self, to: u64, message: T) -> Request<T> {
        self.request_from(self.renewed().unwrap_or(self.me), to, message)
    }

    /// The same, of Raft: a node that was retired is what it was to Raft, and nobody listens to that.
    pub(crate) fn raft_request<T>(&self, to: u64, message: T) -> Request<T> {
        self.request_from(self.me, to, message)
    }

    fn request_from<T>(&self, from: RaftId, to: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let map = request.metadata_mut();
        put(map, metadata::CLUSTER, &self.cluster.to_string());
        put(map, metadata::FROM, &from.to_string());
        put(map, metadata::TO, &to.to_string());
        put(map, metadata::TIME, &rt::wall_ms().to_string());
        request
    }
}

pub(crate) type RaftClient = v1::raft_client::RaftClient<Link>;
pub(crate) type PeerClient = v1::peer_client::PeerClient<Link>;

pub(crate) type EntranceClient = v1::entrance_client::EntranceClient<Link>;

/// Connects to an address, once whoever answers there has passed a check of the certificates that he has shown: his own, and
/// his issuer's. Before that nothing is sent.
pub(crate) async fn dial<T, E: From<Status>>(
    key: &NodeKey,
    address: SocketAddr,
    check: impl FnOnce(&[Vec<u8>]) -> Result<T, E>,
) -> Result<(EntranceClient, T), E> {
    let (link, checked) = link::dial(key, address, check).await?;
    Ok((v1::entrance_client::EntranceClient::new(link), checked))
}

/// What a caller has shown.
pub(crate) fn shown<T>(request: &Request<T>) -> Result<&Shown, Status> {
    let shown = request.extensions().get::<Shown>();
    shown.ok_or_else(|| Status::unauthenticated("the caller has shown no certificate"))
}

fn peer_client(link: Link) -> PeerClient {
    v1::peer_client::PeerClient::new(link)
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
