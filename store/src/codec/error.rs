//! Messages that are not what they should be.

use std::str::FromStr;

use thiserror::Error;

/// A message or bytes that cannot be made into the model's types.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodecError {
    /// A command of a kind that this version does not know. Whoever applies the log stops here.
    #[error("the log has a command that this version of pontoond does not know: upgrade it")]
    UnknownCommand,
    /// A snapshot that a later version wrote.
    #[error("the snapshot has format {found}, and this version of pontoond knows {known}: upgrade it")]
    NewerFormat {
        /// The snapshot's format.
        found: u32,
        /// The latest format that this version knows.
        known: u32,
    },
    /// A field that must be there is not.
    #[error("{what} has no {field}")]
    Missing {
        /// Which message.
        what: &'static str,
        /// Which field of it.
        field: &'static str,
    },
    /// A field has a value that is none of its kind.
    #[error("{what} has {value:?} as {field}, which is not {expected}")]
    Invalid {
        /// Which message.
        what: &'static str,
        /// Which field of it.
        field: &'static str,
        /// Its value, shortened.
        value: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// Bytes that are no such message.
    #[error("{what} cannot be decoded")]
    Bytes {
        /// Which message.
        what: &'static str,
        /// Why.
        #[source]
        source: prost::DecodeError,
    },
    /// The key of a stored object that is none.
    #[error("stored object with key {key:02x?} is of no kind that this version of pontoond knows")]
    Key {
        /// The key.
        key: Vec<u8>,
    },
}

/// A field that must be there.
pub(super) fn required<T>(what: &'static str, field: &'static str, value: Option<T>) -> Result<T, CodecError> {
    value.ok_or(CodecError::Missing { what, field })
}

/// A field with a wrong value.
pub(super) fn invalid(what: &'static str, field: &'static str, value: &str, expected: &'static str) -> CodecError {
    CodecError::Invalid { what, field, value: value.chars().take(80).collect(), expected }
}

/// A field that is the text form of a value.
pub(super) fn parse<T: FromStr>(
    what: &'static str,
    field: &'static str,
    text: &str,
    expected: &'static str,
) -> Result<T, CodecError> {
    text.parse().map_err(|_| invalid(what, field, text, expected))
}

/// The same, where an empty text stands for none.
pub(super) fn parse_optional<T: FromStr>(
    what: &'static str,
    field: &'static str,
    text: &str,
    expected: &'static str,
) -> Result<Option<T>, CodecError> {
    (!text.is_empty()).then(|| parse(what, field, text, expected)).transpose()
}

pub(super) const ADDRESS: &str = "an IP address";
pub(super) const PREFIX: &str = "a prefix such as 10.0.0.0/24";
pub(super) const ENDPOINT_ADDRESS: &str = "an address and port such as 192.168.140.200:7300";
pub(super) const MAC: &str = "a MAC address";
