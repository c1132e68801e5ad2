//! Ids and small values that cannot be wrong once they exist.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;

macro_rules! index_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

index_id! {
    /// A node: the log index of its admission, never used again.
    NodeId
}
index_id! {
    /// A member of the Raft membership. An id that comes back with an empty log could split
    /// the cluster, so a wiped node is admitted anew and gets a new one.
    RaftId
}
index_id! {
    /// A network: the log index of its creation.
    NetworkId
}
index_id! {
    /// An endpoint: the log index of its creation.
    EndpointId
}

index_id! {
    /// Somebody who may administer the cluster from elsewhere: the log index of the entry that let him in.
    AdminId
}

/// Raft id of the node that founds a cluster. Later ids are log indexes of admissions, which
/// come after the founding entry and are greater.
pub const FOUNDER: RaftId = RaftId(1);

/// A token that hosts join with: the first 8 bytes of what recognises it, shown as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u64);

impl TokenId {
    /// The token that this hash recognises.
    pub fn of(hash: &[u8; 32]) -> Self {
        Self(hash.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte)))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for TokenId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(Self).ok_or_else(|| ParseError::new(text, "token id", "16 hexadecimal digits"))
    }
}

/// A text that is not a value of the type asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not a {what}: {expected}")]
pub struct ParseError {
    /// The text.
    pub text: String,
    /// What it should have been.
    pub what: &'static str,
    /// How one looks.
    pub expected: &'static str,
}

impl ParseError {
    pub(crate) fn new(text: &str, what: &'static str, expected: &'static str) -> Self {
        let text = text.chars().take(80).collect();
        Self { text, what, expected }
    }
}

/// Identifies a cluster: 128 random bits, shown as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(text, "cluster id", "32 hexadecimal digits");
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| wrong())
    }
}

/// VXLAN network identifier (RFC 7348, section 5: 24 bits). 0 is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The largest VNI.
    pub const MAX: u32 = (1 << 24) - 1;
    /// The first one that is given without being asked for; Swarm's begin at 4096 on the same port.
    pub const FIRST_FREE: u32 = 65_536;

    /// Checks the range.
    pub fn new(number: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A unicast MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// Checks that it is one station's: not a group address, not all zeros.
    pub fn new(bytes: [u8; 6]) -> Option<Self> {
        (bytes[0] & 1 == 0 && bytes != [0; 6]).then_some(Self(bytes))
    }

    /// The address that belongs to an IPv4 address: 02:42 and its four bytes, as Docker has it.
    pub fn of_ipv4(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// The bytes.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(text, "MAC address", "six bytes of one station, such as 02:42:0a:00:00:02");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Self::new(bytes).ok_or_else(wrong)
    }
}
