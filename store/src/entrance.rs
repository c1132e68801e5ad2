//! What a newcomer asks, and what it is answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pontoon_proto::{JoinToken, metadata, v1};
use prost::Message;
use thiserror::Error;
use tonic::metadata::{AsciiMetadataValue, MetadataValue};
use tonic::{Code, Request, Status};

use crate::model::command::AdmitNode;
use crate::model::id::{ClusterId, NodeId, RaftId};
use crate::model::rejection::Rejection;
use crate::raft::channel::{EntranceClient, dial};
use crate::raft::convert::{Malformed, peer_in};
use crate::raft::types::Peer;
use crate::rt::{now, timeout, timeout_at, wall_ms};
use crate::store::ProposeError;
use crate::tls::{Certificate, CertificateError, Certified, ClusterKey, NodeKey, PublicKey, public_key, timestamp};

/// Carries an encoded `Rejection` (store.proto) with a status.
const REJECTION: &str = "pontoon-rejection-bin";

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
    Ok(Certified::verify(std::slice::from_ref(own), std::slice::from_ref(authority), certified.from_ms)
        .map_err(|_| other())?)
}

impl Door {
    /// Asks for admission of the node that has this key. Asking again with the same attempt gives the same answer until the
    /// node has reported itself.
    ///
    /// # Errors
    ///
    /// When the cluster does not answer by the deadline, or refuses.
    pub async fn enter(
        &mut self,
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
