//! What a host joins a cluster with.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::checked::{self, Wrong};

/// What each token begins with: the version of what follows.
const PREFIX: &str = "PTN1-";
/// Bytes of the digest.
const DIGEST: usize = 32;
/// Bytes of the secret: it cannot be guessed.
const SECRET: usize = 16;

/// Lets a host join a cluster: says which cluster that is, proves that the host may, and may say where to ask. Its text is
/// `PTN1-` and RFC 4648 base32 without padding, in either case.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the certificate of the cluster's authority.
    pub digest: [u8; DIGEST],
    /// What proves that the host may join.
    pub secret: Secret,
    /// Nodes to ask.
    pub addresses: Vec<SocketAddr>,
}

/// The secret of a token. It is wiped from memory once it is not needed, and never shown but in the token itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; SECRET]>);

impl Secret {
    /// A secret of these random bytes.
    pub fn new(bytes: [u8; SECRET]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// What the cluster recognises it by: its SHA-256.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(*self.0).into()
    }

    /// Its bytes, for the connection that it is sent over.
    pub fn bytes(&self) -> &[u8] {
        &*self.0
    }
}

impl TryFrom<&[u8]> for Secret {
    type Error = TokenError;

    fn try_from(bytes: &[u8]) -> Result<Self, TokenError> {
        bytes.try_into().map(Self::new).map_err(|_| TokenError::Cut)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It is something else.
    #[error("it does not begin with PTN1-: a join token is what pontoon init or pontoon token create prints")]
    NoToken,
    /// A character that tokens do not have.
    #[error("character {0} of the join token is none that tokens have: copy it once more")]
    Character(usize),
    /// The checksum differs.
    #[error("the join token has a wrong character, or is cut off: copy it once more")]
    Mistyped,
    /// The checksum is right, and what it has cannot be.
    #[error("the join token was made by another version of pontoon, or is cut off")]
    Cut,
}

impl From<Wrong> for TokenError {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Prefix => Self::NoToken,
            Wrong::Character(at) => Self::Character(at),
            Wrong::Mistyped => Self::Mistyped,
        }
    }
}

impl JoinToken {
    /// SHA-256 of an authority's certificate, as a token carries it.
    pub fn digest_of(certificate: &[u8]) -> [u8; DIGEST] {
        Sha256::digest(certificate).into()
    }

    fn body(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(DIGEST + SECRET + 19 * self.addresses.len()));
        bytes.extend(self.digest);
        bytes.extend(self.secret.bytes());
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(v4) => {
                    bytes.push(4);
                    bytes.extend(v4.octets());
                }
                IpAddr::V6(v6) => {
                    bytes.push(6);
                    bytes.extend(v6.octets());
                }
            }
            bytes.extend(address.port().to_be_bytes());
        }
        bytes
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&checked::encode(PREFIX, &self.body()))
    }
}

/// Shows which cluster it is for only.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = &self.addresses;
        f.debug_struct("JoinToken").field("addresses", addresses).finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let bytes = checked::decode(PREFIX, text)?;
        let (digest, rest) = bytes.split_first_chunk().ok_or(TokenError::Cut)?;
        let (secret, mut rest) = rest.split_first_chunk().ok_or(TokenError::Cut)?;
        let mut addresses = Vec::new();
        while !rest.is_empty() {
            let (address, behind) = address(rest).ok_or(TokenError::Cut)?;
            addresses.push(address);
            rest = behind;
        }
        Ok(Self { digest: *digest, secret: Secret::new(*secret), addresses })
    }
}

/// The first address of what is left, and what comes behind it.
fn address(bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (&family, rest) = bytes.split_first()?;
    let (ip, rest) = match family {
        4 => rest.split_first_chunk::<4>().map(|(ip, rest)| (IpAddr::V4(Ipv4Addr::from(*ip)), rest))?,
        6 => rest.split_first_chunk::<16>().map(|(ip, rest)| (IpAddr::V6(Ipv6Addr::from(*ip)), rest))?,
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), rest))
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE32_NOPAD;
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        let addresses = ["192.168.140.200:7300", "[fd00::1]:17300"].map(|text| text.parse().unwrap()).to_vec();
        JoinToken { digest: [7; 32], secret: Secret::new([9; 16]), addresses }
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        for token in [token(), JoinToken { addresses: Vec::new(), ..token() }] {
            let text = token.to_string();
            assert!(text.starts_with("PTN1-"), "{text}");
            for text in [text.clone(), text.to_lowercase(), format!(" {text}\n")] {
                assert_eq!(text.parse(), Ok(token.clone()));
            }
        }
    }

    /// It costs no time-out.
    #[test]
    fn each_wrong_character_is_found() {
        let text = token().to_string();
        for at in PREFIX.len()..text.len() {
            for other in ('A'..='Z').chain('2'..='7').filter(|other| !text[at..].starts_with(*other)) {
                let mut wrong = text.clone();
                wrong.replace_range(at..=at, &other.to_string());
                assert_eq!(wrong.parse::<JoinToken>(), Err(TokenError::Mistyped), "{other} at {at}");
            }
        }
        for (wrong, expected) in [
            (text.replace("PTN1-", "PTN2-"), TokenError::NoToken),
            ("192.168.140.200".to_owned(), TokenError::NoToken),
            (text.replacen("PTN1-", "PTN1-0", 1), TokenError::Character(6)),
            (text[..text.len() - 1].to_owned(), TokenError::Mistyped),
            ("PTN1-".to_owned(), TokenError::Mistyped),
            (String::new(), TokenError::NoToken),
        ] {
            assert_eq!(wrong.parse::<JoinToken>(), Err(expected), "{wrong}");
        }
    }

    #[test]
    fn the_secret_is_not_shown() {
        let token = token();
        let shown = format!("{token:?} {:?}", token.secret);
        assert!(!shown.contains("9, 9") && !shown.contains(&token.to_string()), "{shown}");
    }

    proptest! {
        #[test]
        fn what_is_no_token_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in ".{0,200}") {
            let _ = text.parse::<JoinToken>();
            let mut whole = bytes.clone();
            whole.extend(crc32c::crc32c(&bytes).to_be_bytes());
            if let Ok(token) = format!("{PREFIX}{}", BASE32_NOPAD.encode(&whole)).parse::<JoinToken>() {
                prop_assert_eq!(token.body().to_vec(), bytes);
            }
        }
    }
}
