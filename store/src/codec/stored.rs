//! Snapshots, and single objects as the disk keeps them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use pontoon_proto::v1::{self, answered};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::model::admin::{Admin, Audited};
use crate::model::apply::Change;
use crate::model::id::{AdminId, EndpointId, NetworkId, NodeId, TokenId};
use crate::model::object::{Claim, Cluster, Endpoint, EngineNetwork, Lease, Network, Node, Token};
use crate::model::state::{Kept, Session, State};

use super::command::{response, result};
use super::error::{CodecError, required};

/// The format of snapshots that this version writes, and the latest that it reads.
pub const SNAPSHOT_FORMAT: u32 = 1;

/// First byte of an object's key.
mod tag {
    pub(super) const CLUSTER: u8 = 1;
    pub(super) const NODE: u8 = 2;
    pub(super) const NETWORK: u8 = 3;
    pub(super) const ENDPOINT: u8 = 4;
    pub(super) const LEASE: u8 = 5;
    pub(super) const ANSWER: u8 = 6;
    pub(super) const CLAIM: u8 = 7;
    pub(super) const ENGINE_NETWORK: u8 = 8;
    pub(super) const TOKEN: u8 = 9;
    pub(super) const SEALED_KEY: u8 = 10;
    pub(super) const ADMIN: u8 = 11;
    pub(super) const AUDITED: u8 = 12;
}

/// The bytes of the whole state: the same on every node that applied the same entries.
pub fn encode_snapshot(state: &State) -> Vec<u8> {
    let session = |(node, session): (&NodeId, &Session)| session_message(*node, session);
    let snapshot = v1::Snapshot {
        format: SNAPSHOT_FORMAT,
        applied_index: state.applied_index,
        clock_ms: state.clock_ms,
        cluster: state.cluster.as_ref().map(Into::into),
        nodes: state.nodes.values().map(Into::into).collect(),
        networks: state.networks.values().map(Into::into).collect(),
        endpoints: state.endpoints.values().map(Into::into).collect(),
        leases: state.leases.values().map(Into::into).collect(),
        sessions: state.sessions.iter().map(session).collect(),
        claims: state.claims.values().map(Into::into).collect(),
        engine_networks: state.engine_networks.values().map(Into::into).collect(),
        sealed_key: state.sealed_key.clone(),
        tokens: state.tokens.values().map(Into::into).collect(),
        admins: state.admins.values().map(Into::into).collect(),
        audit: state.audit.values().map(Into::into).collect(),
    };
    snapshot.encode_to_vec()
}

/// The state from a snapshot's bytes.
///
/// # Errors
///
/// [`CodecError::NewerFormat`] for a snapshot of a later version; others for bytes that no
/// version wrote.
pub fn decode_snapshot(bytes: &[u8]) -> Result<State, CodecError> {
    let decoded = v1::Snapshot::decode(bytes);
    let snapshot = decoded.map_err(|source| CodecError::Bytes { what: "snapshot", source })?;
    if snapshot.format > SNAPSHOT_FORMAT {
        return Err(CodecError::NewerFormat { found: snapshot.format, known: SNAPSHOT_FORMAT });
    }
    if snapshot.format == 0 {
        return Err(CodecError::Missing { what: "snapshot", field: "format" });
    }
    let mut state = State::empty();
    state.applied_index = snapshot.applied_index;
    state.clock_ms = snapshot.clock_ms;
    state.cluster = snapshot.cluster.map(Cluster::try_from).transpose()?;
    for node in snapshot.nodes {
        put_node(&mut state, node)?;
    }
    for network in snapshot.networks {
        put_network(&mut state, network)?;
    }
    for endpoint in snapshot.endpoints {
        put_endpoint(&mut state, endpoint)?;
    }
    for lease in snapshot.leases {
        put_lease(&mut state, lease)?;
    }
    for session in snapshot.sessions {
        put_session(&mut state, session)?;
    }
    for claim in snapshot.claims {
        put_claim(&mut state, claim)?;
    }
    for known in snapshot.engine_networks {
        put_engine_network(&mut state, known);
    }
    state.sealed_key = snapshot.sealed_key;
    for token in snapshot.tokens {
        put_token(&mut state, token)?;
    }
    for admin in snapshot.admins {
        put_admin(&mut state, admin)?;
    }
    for audited in snapshot.audit {
        put_audited(&mut state, audited)?;
    }
    state.reindex();
    Ok(state)
}

impl Change {
    /// The object's key on disk. Keys sort by kind, then by id.
    pub fn key(&self) -> Vec<u8> {
        let ids = |tag: u8, ids: &[u64]| {
            let mut key = vec![tag];
            ids.iter().for_each(|id| key.extend(id.to_be_bytes()));
            key
        };
        match self {
            Self::Cluster => ids(tag::CLUSTER, &[]),
            Self::Node(id) => ids(tag::NODE, &[id.0]),
            Self::Network(id) => ids(tag::NETWORK, &[id.0]),
            Self::Endpoint(id) => ids(tag::ENDPOINT, &[id.0]),
            Self::Answer(node, seq) => ids(tag::ANSWER, &[node.0, *seq]),
            Self::EngineNetwork(network, node) => ids(tag::ENGINE_NETWORK, &[network.0, node.0]),
            Self::Token(id) => ids(tag::TOKEN, &[id.0]),
            Self::Admin(id) => ids(tag::ADMIN, &[id.0]),
            Self::Audited(index) => ids(tag::AUDITED, &[*index]),
            Self::SealedKey => ids(tag::SEALED_KEY, &[]),
            Self::Claim(cidr) => {
                let mut key = vec![tag::CLAIM, cidr.prefix_len()];
                key.extend(address_bytes(cidr.addr()));
                key
            }
            Self::Lease(network, address) => {
                let mut key = ids(tag::LEASE, &[network.0]);
                key.extend(address_bytes(*address));
                key
            }
        }
    }

    /// The object that a key on disk names.
    ///
    /// # Errors
    ///
    /// When it is none that [`Change::key`] makes.
    pub fn from_key(key: &[u8]) -> Result<Self, CodecError> {
        let wrong = || CodecError::Key { key: key.iter().take(32).copied().collect() };
        let (&kind, rest) = key.split_first().ok_or_else(wrong)?;
        if let (tag::CLAIM, Some((&prefix, address))) = (kind, rest.split_first()) {
            let cidr = address_of(address).and_then(|address| IpNet::new(address, prefix).ok());
            return Ok(Self::Claim(cidr.ok_or_else(wrong)?));
        }
        let (first, rest) = rest.split_at_checked(8).unwrap_or((&[], rest));
        let id = <[u8; 8]>::try_from(first).map(u64::from_be_bytes);
        match (kind, id, rest) {
            (tag::CLUSTER, Err(_), []) => Ok(Self::Cluster),
            (tag::SEALED_KEY, Err(_), []) => Ok(Self::SealedKey),
            (tag::TOKEN, Ok(id), []) => Ok(Self::Token(TokenId(id))),
            (tag::ADMIN, Ok(id), []) => Ok(Self::Admin(AdminId(id))),
            (tag::AUDITED, Ok(index), []) => Ok(Self::Audited(index)),
            (tag::NODE, Ok(id), []) => Ok(Self::Node(NodeId(id))),
            (tag::NETWORK, Ok(id), []) => Ok(Self::Network(NetworkId(id))),
            (tag::ENDPOINT, Ok(id), []) => Ok(Self::Endpoint(EndpointId(id))),
            (tag::LEASE, Ok(id), address) => Ok(Self::Lease(NetworkId(id), address_of(address).ok_or_else(wrong)?)),
            (tag::ANSWER, Ok(id), seq) => {
                let seq = <[u8; 8]>::try_from(seq).map_err(|_| wrong())?;
                Ok(Self::Answer(NodeId(id), u64::from_be_bytes(seq)))
            }
            (tag::ENGINE_NETWORK, Ok(id), node) => {
                let node = <[u8; 8]>::try_from(node).map_err(|_| wrong())?;
                Ok(Self::EngineNetwork(NetworkId(id), NodeId(u64::from_be_bytes(node))))
            }
            _ => Err(wrong()),
        }
    }
}

impl State {
    /// The keys of everything that the state holds.
    pub fn objects(&self) -> impl Iterator<Item = Change> {
        let answers = |(node, session): (&NodeId, &Session)| {
            let node = *node;
            session.answers.keys().map(move |seq| Change::Answer(node, *seq)).collect::<Vec<_>>()
        };
        let cluster = self.cluster.iter().map(|_| Change::Cluster);
        cluster
            .chain(self.nodes.keys().map(|id| Change::Node(*id)))
            .chain(self.networks.keys().map(|id| Change::Network(*id)))
            .chain(self.endpoints.keys().map(|id| Change::Endpoint(*id)))
            .chain(self.leases.keys().map(|(network, address)| Change::Lease(*network, *address)))
            .chain(self.sessions.iter().flat_map(answers))
            .chain(self.claims.keys().map(|cidr| Change::Claim(*cidr)))
            .chain(self.engine_networks.keys().map(|(network, node)| Change::EngineNetwork(*network, *node)))
            .chain(self.tokens.keys().map(|id| Change::Token(*id)))
            .chain(self.admins.keys().map(|id| Change::Admin(*id)))
            .chain(self.audit.keys().map(|index| Change::Audited(*index)))
            .chain((!self.sealed_key.is_empty()).then_some(Change::SealedKey))
    }

    /// What the disk keeps under an object's key; none when there is no such object (any more).
    pub fn object_bytes(&self, object: &Change) -> Option<Vec<u8>> {
        match object {
            Change::Cluster => self.cluster.as_ref().map(|cluster| v1::Cluster::from(cluster).encode_to_vec()),
            Change::Node(id) => self.nodes.get(id).map(|node| v1::Node::from(node).encode_to_vec()),
            Change::Network(id) => self.networks.get(id).map(|network| v1::Network::from(network).encode_to_vec()),
            Change::Endpoint(id) => self.endpoints.get(id).map(|endpoint| v1::Endpoint::from(endpoint).encode_to_vec()),
            Change::Lease(network, address) => {
                self.leases.get(&(*network, *address)).map(|lease| v1::Lease::from(lease).encode_to_vec())
            }
            Change::Claim(cidr) => self.claims.get(cidr).map(|claim| v1::Claim::from(claim).encode_to_vec()),
            Change::EngineNetwork(network, node) => {
                let known = self.engine_networks.get(&(*network, *node));
                known.map(|known| v1::EngineNetwork::from(known).encode_to_vec())
            }
            Change::Token(id) => self.tokens.get(id).map(|token| v1::Token::from(token).encode_to_vec()),
            Change::Admin(id) => self.admins.get(id).map(|admin| v1::Admin::from(admin).encode_to_vec()),
            Change::Audited(index) => self.audit.get(index).map(|audited| v1::Audited::from(audited).encode_to_vec()),
            Change::SealedKey => (!self.sealed_key.is_empty()).then(|| self.sealed_key.clone()),
            Change::Answer(node, seq) => {
                let session = self.sessions.get(node)?;
                let answers = BTreeMap::from([(*seq, session.answers.get(seq)?.clone())]);
                Some(session_message(*node, &Session { run: session.run, answers }).encode_to_vec())
            }
        }
    }

    /// The state that was kept object by object, with the clock and index that were kept beside.
    ///
    /// # Errors
    ///
    /// When a key or a value is none that this version wrote.
    pub fn from_objects<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        objects: impl IntoIterator<Item = (K, V)>,
        applied_index: u64,
        clock_ms: u64,
    ) -> Result<Self, CodecError> {
        let mut state = Self::empty();
        (state.applied_index, state.clock_ms) = (applied_index, clock_ms);
        for (key, value) in objects {
            let value = value.as_ref();
            match Change::from_key(key.as_ref())? {
                Change::Cluster => state.cluster = Some(decode::<v1::Cluster>("cluster", value)?.try_into()?),
                Change::Node(_) => put_node(&mut state, decode("node", value)?)?,
                Change::Network(_) => put_network(&mut state, decode("network", value)?)?,
                Change::Endpoint(_) => put_endpoint(&mut state, decode("endpoint", value)?)?,
                Change::Lease(..) => put_lease(&mut state, decode("lease", value)?)?,
                Change::Answer(..) => put_session(&mut state, decode("session", value)?)?,
                Change::Claim(_) => put_claim(&mut state, decode("claim", value)?)?,
                Change::Token(_) => put_token(&mut state, decode("token", value)?)?,
                Change::Admin(_) => put_admin(&mut state, decode("admin", value)?)?,
                Change::Audited(_) => put_audited(&mut state, decode("audited", value)?)?,
                Change::SealedKey => state.sealed_key = value.to_vec(),
                Change::EngineNetwork(..) => put_engine_network(&mut state, decode("engine network", value)?),
            }
        }
        state.reindex();
        Ok(state)
    }

    /// The sum (modulo 2^128) of every object's [`object_hash`]. It does not depend on order, so whoever
    /// keeps it subtracts an object's old hash and adds the new one.
    pub fn hash(&self) -> u128 {
        let hash = |object: Change| Some(object_hash(&object.key(), &self.object_bytes(&object)?));
        self.objects().filter_map(hash).fold(0, u128::wrapping_add)
    }
}

/// The first 16 bytes of SHA-256 over an object's key and value, as they are on disk.
pub fn object_hash(key: &[u8], value: &[u8]) -> u128 {
    let digest = Sha256::new().chain_update(key).chain_update(value).finalize();
    digest.iter().take(16).fold(0, |hash, byte| hash << 8 | u128::from(*byte))
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))).ok()
}

fn decode<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, CodecError> {
    M::decode(bytes).map_err(|source| CodecError::Bytes { what, source })
}

fn put_node(state: &mut State, node: v1::Node) -> Result<(), CodecError> {
    let node = Node::try_from(node)?;
    state.nodes.insert(node.id, node);
    Ok(())
}

fn put_network(state: &mut State, network: v1::Network) -> Result<(), CodecError> {
    let network = Network::try_from(network)?;
    state.networks.insert(network.id, network);
    Ok(())
}

fn put_endpoint(state: &mut State, endpoint: v1::Endpoint) -> Result<(), CodecError> {
    let endpoint = Endpoint::try_from(endpoint)?;
    state.endpoints.insert(endpoint.id, endpoint);
    Ok(())
}

fn put_lease(state: &mut State, lease: v1::Lease) -> Result<(), CodecError> {
    let lease = Lease::try_from(lease)?;
    state.leases.insert((lease.network, lease.address), lease);
    Ok(())
}

fn put_claim(state: &mut State, claim: v1::Claim) -> Result<(), CodecError> {
    let claim = Claim::try_from(claim)?;
    state.claims.insert(claim.cidr, claim);
    Ok(())
}

fn put_engine_network(state: &mut State, known: v1::EngineNetwork) {
    let known = EngineNetwork::from(known);
    state.engine_networks.insert((known.network, known.node), known);
}

fn put_token(state: &mut State, token: v1::Token) -> Result<(), CodecError> {
    let token = Token::try_from(token)?;
    state.tokens.insert(token.id(), token);
    Ok(())
}

fn put_admin(state: &mut State, admin: v1::Admin) -> Result<(), CodecError> {
    let admin = Admin::try_from(admin)?;
    state.admins.insert(admin.id, admin);
    Ok(())
}

fn put_audited(state: &mut State, audited: v1::Audited) -> Result<(), CodecError> {
    let audited = Audited::try_from(audited)?;
    state.audit.insert(audited.index, audited);
    Ok(())
}

/// Adds answers to a session.
fn put_session(state: &mut State, message: v1::Session) -> Result<(), CodecError> {
    let new = || Session { run: message.run, answers: BTreeMap::new() };
    let session = state.sessions.entry(NodeId(message.node)).or_insert_with(new);
    for answered in message.answers {
        let kept = match required("session", "kept", answered.kept)? {
            answered::Kept::Node(id) => Kept::Node(NodeId(id)),
            answered::Kept::Network(id) => Kept::Network(NetworkId(id)),
            answered::Kept::Endpoint(id) => Kept::Endpoint(EndpointId(id)),
            answered::Kept::Response(response) => Kept::Whole(Box::new(result(response)?)),
        };
        session.answers.insert(answered.seq, kept);
    }
    Ok(())
}

fn session_message(node: NodeId, session: &Session) -> v1::Session {
    let answered = |(seq, kept): (&u64, &Kept)| {
        let kept = match kept {
            Kept::Node(id) => answered::Kept::Node(id.0),
            Kept::Network(id) => answered::Kept::Network(id.0),
            Kept::Endpoint(id) => answered::Kept::Endpoint(id.0),
            Kept::Whole(result) => answered::Kept::Response(response(result)),
        };
        v1::Answered { seq: *seq, kept: Some(kept) }
    };
    v1::Session { node: node.0, run: session.run, answers: session.answers.iter().map(answered).collect() }
}
