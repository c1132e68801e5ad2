//! Why a command was refused.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::id::ParseError;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $text:literal),* $(,)?) => {
        /// Why, for programs. The text form is part of the API: docs/api.md lists them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name),*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its text, such as `SUBNET_OVERLAP`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

reasons! {
    /// There is a cluster already.
    AlreadyFounded "ALREADY_FOUNDED",
    /// There is no cluster yet.
    NotFounded "NOT_FOUNDED",
    /// A name that is empty, too long or has characters that names do not have.
    InvalidName "INVALID_NAME",
    /// Uses or a life that a token cannot have, or one that is there already.
    InvalidToken "INVALID_TOKEN",
    /// No such token.
    TokenNotFound "TOKEN_NOT_FOUND",
    /// Whoever joins has no token, or one that this cluster never made.
    TokenUnknown "TOKEN_UNKNOWN",
    /// The token has ended.
    TokenExpired "TOKEN_EXPIRED",
    /// As many hosts have joined with the token as may.
    TokenUsedUp "TOKEN_USED_UP",
    /// The token was revoked.
    TokenRevoked "TOKEN_REVOKED",
    /// The token makes nodes that do not vote, and this one is to do nothing else.
    TokenRole "TOKEN_ROLE",
    /// Another admin has this name.
    AdminNameTaken "ADMIN_NAME_TAKEN",
    /// No such admin.
    AdminNotFound "ADMIN_NOT_FOUND",
    /// A life or a key that an admin cannot have, or one too many.
    InvalidAdmin "INVALID_ADMIN",
    /// Another authority is being exchanged, or nodes have certificates of the one before.
    AuthorityInUse "AUTHORITY_IN_USE",
    /// A label without key, too long, or too many of them.
    InvalidLabel "INVALID_LABEL",
    /// A setting of the cluster that cannot be.
    InvalidCluster "INVALID_CLUSTER",
    /// Another node has this name.
    NodeNameTaken "NODE_NAME_TAKEN",
    /// This key is a member's already.
    NodeKeyTaken "NODE_KEY_TAKEN",
    /// Another node has this advertise or data address.
    NodeAddressTaken "NODE_ADDRESS_TAKEN",
    /// A data address of another family than the cluster's underlay, or one no packet can go to.
    InvalidNodeAddress "INVALID_NODE_ADDRESS",
    /// The cluster has as many nodes as it can have.
    TooManyNodes "TOO_MANY_NODES",
    /// The node's daemon does not know everything that the cluster's log may hold.
    FeatureLevelTooLow "FEATURE_LEVEL_TOO_LOW",
    /// No such node.
    NodeNotFound "NODE_NOT_FOUND",
    /// The node is there, and nobody can take its place.
    NodeAlive "NODE_ALIVE",
    /// The node has endpoints.
    NodeInUse "NODE_IN_USE",
    /// The node only votes.
    NodeVoterOnly "NODE_VOTER_ONLY",
    /// As many nodes are promoted as can vote.
    VotersFull "VOTERS_FULL",
    /// Another network has this name.
    NetworkNameTaken "NETWORK_NAME_TAKEN",
    /// No such network.
    NetworkNotFound "NETWORK_NOT_FOUND",
    /// The network has endpoints.
    NetworkInUse "NETWORK_IN_USE",
    /// The engine that makes the network has not told its name yet.
    NetworkProvisional "NETWORK_PROVISIONAL",
    /// A subnet that cannot be used: host bits, too small, two of one family, not unicast, IPv6 without asking,
    /// or one that holds a node's address.
    InvalidSubnet "INVALID_SUBNET",
    /// The subnet overlaps another network's.
    SubnetOverlap "SUBNET_OVERLAP",
    /// The subnet overlaps a route of a ready node.
    RouteOverlap "ROUTE_OVERLAP",
    /// No free subnet in the pools.
    PoolExhausted "POOL_EXHAUSTED",
    /// A gateway that is not a host address of its subnet.
    InvalidGateway "INVALID_GATEWAY",
    /// A range that is not part of its subnet.
    InvalidRange "INVALID_RANGE",
    /// An MTU that is too small or too large.
    InvalidMtu "INVALID_MTU",
    /// Another network has this VNI.
    VniTaken "VNI_TAKEN",
    /// No free VNI.
    VniExhausted "VNI_EXHAUSTED",
    /// An address that is not a host address of the network, or two of one family.
    InvalidAddress "INVALID_ADDRESS",
    /// Another endpoint has the address, or had it a moment ago.
    AddressTaken "ADDRESS_TAKEN",
    /// The address is kept for another name, or cannot be kept because it is.
    AddressReserved "ADDRESS_RESERVED",
    /// No free address in the network.
    NetworkFull "NETWORK_FULL",
    /// Another endpoint of the network has this MAC.
    MacTaken "MAC_TAKEN",
    /// An interface name that Linux does not allow.
    InvalidIfname "INVALID_IFNAME",
    /// Another interface of the sandbox has this name.
    IfnameTaken "IFNAME_TAKEN",
    /// A container of this name is on this network and node already.
    EndpointNameTaken "ENDPOINT_NAME_TAKEN",
    /// The sandbox is on this network already.
    AlreadyAttached "ALREADY_ATTACHED",
    /// No such endpoint.
    EndpointNotFound "ENDPOINT_NOT_FOUND",
    /// The endpoint has been ended and made again since.
    EpochMismatch "EPOCH_MISMATCH",
    /// The node's gateway bridge has no free address.
    EgressFull "EGRESS_FULL",
    /// The answer to this request is not kept any more, so it cannot be told whether it was applied.
    RequestTooOld "REQUEST_TOO_OLD",
    /// The object is too large to be kept.
    TooLarge "TOO_LARGE",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let known = Self::ALL.iter().find(|reason| reason.as_str() == text);
        known.copied().ok_or_else(|| ParseError::new(text, "reason", "one that docs/api.md lists"))
    }
}

/// A command was refused, and the state is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Rejection {
    /// Why, for programs.
    pub reason: Reason,
    /// What was refused and why: names the thing and what is in its way.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Rejection {
    /// A refusal.
    pub fn new(reason: Reason, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason, message: message.into(), hint: hint.into() }
    }
}
