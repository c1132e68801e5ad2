//! What a locked cluster is unlocked with.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use zeroize::Zeroizing;

use crate::checked::{self, Wrong};

/// What each begins with: the version of what follows.
const PREFIX: &str = "PTNK1-";
/// Bytes of the key.
const KEY: usize = 32;

/// The key that the key of a cluster's authority is encrypted with, for people to keep. Its text is `PTNK1-` and RFC 4648 base32
/// without padding, in either case. It is wiped from memory once it is not needed.
#[derive(Clone, PartialEq, Eq)]
pub struct UnlockKey(Zeroizing<[u8; KEY]>);

impl UnlockKey {
    /// A key of these random bytes.
    pub fn new(bytes: [u8; KEY]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes, for the daemon.
    pub fn bytes(&self) -> &[u8] {
        &*self.0
    }
}

impl fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnlockKey")
    }
}

impl fmt::Display for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&checked::encode(PREFIX, self.bytes()))
    }
}

/// A text that is no such key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnlockKeyError {
    /// It is something else.
    #[error("it does not begin with PTNK1-: an unlock key is what pontoon cluster lock prints")]
    NoKey,
    /// A character that such keys do not have.
    #[error("character {0} of the unlock key is none that such keys have: copy it once more")]
    Character(usize),
    /// The checksum or the length differs.
    #[error("the unlock key has a wrong character, or is cut off: copy it once more")]
    Mistyped,
}

impl From<Wrong> for UnlockKeyError {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Prefix => Self::NoKey,
            Wrong::Character(at) => Self::Character(at),
            Wrong::Mistyped => Self::Mistyped,
        }
    }
}

impl FromStr for UnlockKey {
    type Err = UnlockKeyError;

    fn from_str(text: &str) -> Result<Self, UnlockKeyError> {
        let bytes = checked::decode(PREFIX, text)?;
        bytes.as_slice().try_into().map(Self::new).map_err(|_| UnlockKeyError::Mistyped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let key = UnlockKey::new([9; KEY]);
        let text = key.to_string();
        for text in [text.clone(), text.to_lowercase(), format!(" {text}\n")] {
            assert_eq!(text.parse(), Ok(key.clone()));
        }
        assert_eq!(format!("{key:?}"), "UnlockKey");
        let other = if text.ends_with('A') { "B" } else { "A" };
        for (wrong, expected) in [
            (format!("{}{other}", &text[..text.len() - 1]), UnlockKeyError::Mistyped),
            (text.replacen("PTNK1-", "PTNK1-1", 1), UnlockKeyError::Character(7)),
            (text.replace("PTNK1-", "PTN1-"), UnlockKeyError::NoKey),
            (checked::encode(PREFIX, &[1; 31]).to_string(), UnlockKeyError::Mistyped),
            (String::new(), UnlockKeyError::NoKey),
        ] {
            assert_eq!(wrong.parse::<UnlockKey>(), Err(expected), "{wrong}");
        }
    }
}
