//! The one place where failures become gRPC statuses.

use std::collections::HashMap;
use std::fmt::Display;

use crate::journal::JournalError;
use crate::kernel::KernelError;
use crate::reconcile::PassError;
use pontoon_store::model::rejection::{Reason, Rejection};
use pontoon_store::{AdmitError, ExpelError, OpenError, ProposeError, ReadError, WatchError, error_chain};
use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Domain of every reason.
const DOMAIN: &str = "pontoon";

/// A request failed: what the caller is told.
#[derive(Debug, Clone, Error)]
#[error("{message}")]
pub struct ApiError {
    /// Kind, for gRPC.
    pub code: Code,
    /// Machine-readable; docs/api.md lists them.
    pub reason: &'static str,
    /// What was tried, on what, and why it failed.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl ApiError {
    /// A failure.
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), hint: hint.into() }
    }

    /// A field of the request cannot be understood.
    pub fn invalid(reason: Reason, message: impl Display, hint: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, reason.as_str(), message.to_string(), hint)
    }

    /// Whether the cluster did not answer: there is no majority, or it is unknown whether there was one.
    pub fn is_unanswered(&self) -> bool {
        ["NO_QUORUM", "UNKNOWN_OUTCOME"].contains(&self.reason)
    }

    /// Whether the endpoint that it is about was ended, or taken into use anew: whoever wanted to end it has nothing to do.
    pub fn is_over(&self) -> bool {
        [Reason::EndpointNotFound, Reason::EpochMismatch].iter().any(|reason| reason.as_str() == self.reason)
    }

    /// Something that cannot be: a bug, said plainly.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, "INTERNAL", message, "please report this")
    }

    /// The store does not go on.
    fn stopped(message: String) -> Self {
        Self::new(Code::Internal, "STOPPED", message, "the log of pontoond says more; containers keep their network")
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        Self::new(code_of(rejection.reason), rejection.reason.as_str(), rejection.message, rejection.hint)
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut metadata = HashMap::new();
        if !error.hint.is_empty() {
            metadata.insert("hint".to_owned(), error.hint);
        }
        Self::with_error_details(
            error.code,
            error.message,
            ErrorDetails::with_error_info(error.reason, DOMAIN, metadata),
        )
    }
}

/// What somebody who lacks a majority can do.
const NO_QUORUM_HINT: &str = "bring the missing nodes back; containers keep their network meanwhile, and ls, inspect and \
                              status answer from the local copy";

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        let message = error.to_string();
        match error {
            ProposeError::Rejected(rejection) => rejection.into(),
            ProposeError::NoQuorum { .. } => Self::new(Code::Unavailable, "NO_QUORUM", message, NO_QUORUM_HINT),
            ProposeError::Unknown { .. } => {
                let hint = "look whether it was done before you try again (ls or inspect)";
                Self::new(Code::Unknown, "UNKNOWN_OUTCOME", message, hint)
            }
            ProposeError::TooLarge { .. } => Self::invalid(Reason::TooLarge, message, "make it smaller"),
            ProposeError::NotFeature { .. } => Self::new(
                Code::FailedPrecondition,
                "FEATURE_LEVEL",
                message,
                "pontoon node ls shows every node's version",
            ),
            ProposeError::NotUnderstood { .. } => Self::new(
                Code::FailedPrecondition,
                "FEATURE_LEVEL",
                message,
                "pontoon node ls shows every node's version",
            ),
            ProposeError::DiskFull { .. } => {
                let hint =
                    "free space there; containers keep their network meanwhile, and ls, inspect and status answer";
                Self::new(Code::ResourceExhausted, "DISK_FULL", message, hint)
            }
            ProposeError::Stopped { .. } => Self::stopped(message),
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        let message = error.to_string();
        match error {
            ReadError::NoQuorum { .. } => Self::new(Code::Unavailable, "NO_QUORUM", message, NO_QUORUM_HINT),
            ReadError::Stopped { .. } => Self::stopped(message),
        }
    }
}

impl From<WatchError> for ApiError {
    fn from(error: WatchError) -> Self {
        let message = error.to_string();
        match error.reason() {
            "OTHER_CLUSTER" => {
                let hint = "ask a node of that cluster, or leave the cluster out";
                Self::new(Code::FailedPrecondition, "OTHER_CLUSTER", message, hint)
            }
            "NETWORK_NOT_FOUND" => {
                let hint = "pontoon network ls lists the networks";
                Self::new(Code::NotFound, Reason::NetworkNotFound.as_str(), message, hint)
            }
            "INVALID_KIND" => {
                Self::new(Code::InvalidArgument, "INVALID_KIND", message, "see ObjectKind in docs/api.md")
            }
            "INDEX_OF_FUTURE" => {
                let hint = "begin with 0, or with an index that you were sent";
                Self::new(Code::OutOfRange, "INDEX_OF_FUTURE", message, hint)
            }
            "INDEX_COMPACTED" => Self::new(Code::OutOfRange, "INDEX_COMPACTED", message, "begin anew, with index 0"),
            "TOO_MANY_WATCHERS" => {
                let hint = "ask another node, or again in a moment";
                Self::new(Code::ResourceExhausted, "TOO_MANY_WATCHERS", message, hint)
            }
            "NO_QUORUM" => Self::new(Code::Unavailable, "NO_QUORUM", message, NO_QUORUM_HINT),
            _ => {
                let hint =
                    "go on at another node, or here once pontoond runs, from the latest index that you have seen";
                Self::new(Code::Unavailable, "SHUTTING_DOWN", message, hint)
            }
        }
    }
}

impl From<ExpelError> for ApiError {
    fn from(error: ExpelError) -> Self {
        let message = error.to_string();
        match error {
            ExpelError::NoQuorum { .. } => Self::new(Code::Unavailable, "NO_QUORUM", message, NO_QUORUM_HINT),
            ExpelError::OnlyVoter { .. } => Self::new(
                Code::FailedPrecondition,
                "LAST_NODE",
                message,
                "let another node catch up first: pontoon node ls",
            ),
            ExpelError::Stopped { .. } => Self::stopped(message),
        }
    }
}

impl From<OpenError> for ApiError {
    fn from(error: OpenError) -> Self {
        Self::new(Code::Internal, "STORE", error_chain(&error), "")
    }
}

impl From<AdmitError> for ApiError {
    fn from(error: AdmitError) -> Self {
        let message = error.to_string();
        match error {
            AdmitError::Rejected(rejection) => rejection.into(),
            AdmitError::Unreachable { .. } => Self::new(
                Code::Unavailable,
                "PEER_UNREACHABLE",
                message,
                "check the address, and that TCP port 7300 is open",
            ),
            AdmitError::NoQuorum { .. } => Self::new(Code::Unavailable, "NO_QUORUM", message, NO_QUORUM_HINT),
            AdmitError::Unknown { .. } => {
                let hint = "look for this node with pontoon node ls on a member; if it is there, remove it with \
                            pontoon node rm --force, then join again";
                Self::new(Code::Unknown, "UNKNOWN_OUTCOME", message, hint)
            }
            AdmitError::AdvertiseUnreachable { .. } => Self::new(
                Code::Unavailable,
                "ADVERTISE_UNREACHABLE",
                message,
                "check the address, and that its TCP port is open towards this host",
            ),
            AdmitError::NoCluster { .. } => {
                Self::new(Code::Unavailable, "NO_MEMBER", message, "the first node needs pontoon init")
            }
            AdmitError::OtherCluster { .. } => {
                Self::new(Code::PermissionDenied, "TOKEN_OTHER_CLUSTER", message, "use a token of that cluster")
            }
            AdmitError::Certificate { .. } => {
                Self::new(Code::FailedPrecondition, "CERTIFICATE", message, "set the clocks of both hosts right")
            }
            AdmitError::Failed { .. } => {
                Self::new(Code::Unavailable, "PEER_UNREACHABLE", message, "look at pontoon status there")
            }
            AdmitError::Malformed { .. } => {
                Self::new(Code::Internal, "PEER_UNREACHABLE", message, "compare the versions of both daemons")
            }
        }
    }
}

impl From<PassError> for ApiError {
    fn from(error: PassError) -> Self {
        let message = error.to_string();
        match error {
            PassError::Stopped => Self::new(Code::Unavailable, "SHUTTING_DOWN", message, "try again once it runs"),
            PassError::Kernel(_) => Self::new(Code::Internal, "KERNEL", message, "pontoon status says more"),
            PassError::NoMember => Self::new(Code::FailedPrecondition, "NOT_IN_CLUSTER", message, ""),
        }
    }
}

impl From<JournalError> for ApiError {
    fn from(error: JournalError) -> Self {
        let message = error.to_string();
        match error {
            JournalError::InUse { .. } => {
                Self::new(Code::AlreadyExists, Reason::AlreadyAttached.as_str(), message, "start another container")
            }
            JournalError::GivenUp { .. } => {
                let hint = "try again once a majority of the voters answers: pontoon status says who is missing";
                Self::new(Code::Unavailable, "NO_QUORUM", message, hint)
            }
            _ => Self::new(Code::Internal, "DATA_DIR", message, "see that the disk has room and works"),
        }
    }
}

impl From<KernelError> for ApiError {
    fn from(error: KernelError) -> Self {
        Self::new(Code::Internal, "KERNEL", error.to_string(), "the log of pontoond says more")
    }
}

fn code_of(reason: Reason) -> Code {
    use Reason::{
        AddressReserved, AddressTaken, AdminNameTaken, AdminNotFound, AlreadyAttached, AlreadyFounded, AuthorityInUse,
        EgressFull, EndpointNameTaken, EndpointNotFound, EpochMismatch, FeatureLevelTooLow, IfnameTaken,
        InvalidAddress, InvalidAdmin, InvalidCluster, InvalidGateway, InvalidIfname, InvalidLabel, InvalidMtu,
        InvalidName, InvalidNodeAddress, InvalidRange, InvalidSubnet, InvalidToken, MacTaken, NetworkFull,
        NetworkInUse, NetworkNameTaken, NetworkNotFound, NetworkProvisional, NodeAddressTaken, NodeAlive, NodeInUse,
        NodeKeyTaken, NodeNameTaken, NodeNotFound, NodeVoterOnly, NotFounded, PoolExhausted, RequestTooOld,
        RouteOverlap, SubnetOverlap, TokenExpired, TokenNotFound, TokenRevoked, TokenRole, TokenUnknown, TokenUsedUp,
        TooLarge, TooManyNodes, VniExhausted, VniTaken, VotersFull,
    };
    match reason {
        InvalidName | InvalidLabel | InvalidCluster | InvalidNodeAddress | InvalidSubnet | InvalidGateway
        | InvalidRange | InvalidMtu | InvalidAddress | InvalidIfname | InvalidAdmin | InvalidToken | TooLarge => {
            Code::InvalidArgument
        }
        NodeNotFound | NetworkNotFound | EndpointNotFound | TokenNotFound | AdminNotFound => Code::NotFound,
        TokenUnknown | TokenExpired | TokenUsedUp | TokenRevoked | TokenRole => Code::PermissionDenied,
        AlreadyFounded | AdminNameTaken | NodeNameTaken | NodeKeyTaken | NodeAddressTaken | NetworkNameTaken
        | VniTaken | AddressTaken | MacTaken | IfnameTaken | EndpointNameTaken | AlreadyAttached => Code::AlreadyExists,
        NotFounded | AddressReserved | AuthorityInUse | FeatureLevelTooLow | NodeAlive | NodeInUse | NetworkInUse
        | SubnetOverlap | RouteOverlap | NetworkProvisional | NodeVoterOnly | VotersFull => Code::FailedPrecondition,
        TooManyNodes | PoolExhausted | VniExhausted | NetworkFull | EgressFull => Code::ResourceExhausted,
        EpochMismatch => Code::Aborted,
        RequestTooOld => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_reason_domain_and_hint() {
        let rejection = Rejection::new(Reason::SubnetOverlap, "10.0.0.0/24 overlaps", "choose another");
        let status = Status::from(ApiError::from(rejection));
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "10.0.0.0/24 overlaps"));
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("SUBNET_OVERLAP", "pontoon"));
        assert_eq!(info.metadata["hint"], "choose another");
    }
}
