//! The one place where failures become gRPC statuses.

use std::collections::HashMap;
use std::fmt::Display;

use pontoon_store::model::rejection::{Reason, Rejection};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Domain of every reason.
const DOMAIN: &str = "pontoon";

/// A request failed: what the caller is told.
#[derive(Debug, Clone)]
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

fn code_of(reason: Reason) -> Code {
    use Reason::{
        AddressReserved, AddressTaken, AlreadyAttached, AlreadyFounded, EgressFull, EndpointNameTaken,
        EndpointNotFound, EpochMismatch, IfnameTaken, InvalidAddress, InvalidCluster, InvalidGateway, InvalidIfname,
        InvalidLabel, InvalidMtu, InvalidName, InvalidNodeAddress, InvalidRange, InvalidSubnet, MacTaken, NetworkFull,
        NetworkInUse, NetworkNameTaken, NetworkNotFound, NodeAddressTaken, NodeInUse, NodeNameTaken, NodeNotFound,
        NotFounded, PoolExhausted, RequestTooOld, RouteOverlap, SubnetOverlap, TooLarge, TooManyNodes, VniExhausted,
        VniTaken,
    };
    match reason {
        InvalidName | InvalidLabel | InvalidCluster | InvalidNodeAddress | InvalidSubnet | InvalidGateway
        | InvalidRange | InvalidMtu | InvalidAddress | InvalidIfname | TooLarge => Code::InvalidArgument,
        NodeNotFound | NetworkNotFound | EndpointNotFound => Code::NotFound,
        AlreadyFounded | NodeNameTaken | NodeAddressTaken | NetworkNameTaken | VniTaken | AddressTaken
        | AddressReserved | MacTaken | IfnameTaken | EndpointNameTaken | AlreadyAttached => Code::AlreadyExists,
        NotFounded | NodeInUse | NetworkInUse | SubnetOverlap | RouteOverlap => Code::FailedPrecondition,
        TooManyNodes | PoolExhausted | VniExhausted | NetworkFull | EgressFull => Code::ResourceExhausted,
        EpochMismatch | RequestTooOld => Code::Aborted,
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
