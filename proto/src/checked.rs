//! Secrets as text that people copy: a prefix, and RFC 4648 base32 without padding of the bytes and a checksum over them, in either
//! case. The checksum, CRC-32C (RFC 3720, appendix B.4), finds each single wrong character.

use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

/// Bytes of the checksum.
pub(crate) const CHECKSUM: usize = 4;

/// What is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It begins otherwise.
    Prefix,
    /// A character that such texts do not have, counted from 1.
    Character(usize),
    /// The checksum differs.
    Mistyped,
}

/// The text of bytes.
pub(crate) fn encode(prefix: &str, bytes: &[u8]) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(bytes.to_vec());
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend(checksum.to_be_bytes());
    let encoded = Zeroizing::new(BASE32_NOPAD.encode(&bytes));
    Zeroizing::new(format!("{prefix}{}", *encoded))
}

/// The bytes of a text.
pub(crate) fn decode(prefix: &str, text: &str) -> Result<Zeroizing<Vec<u8>>, Wrong> {
    let text = Zeroizing::new(text.trim().to_ascii_uppercase());
    let encoded = text.strip_prefix(prefix).ok_or(Wrong::Prefix)?;
    let strange = |character: char| !matches!(character, 'A'..='Z' | '2'..='7');
    if let Some(at) = encoded.chars().position(strange) {
        return Err(Wrong::Character(prefix.len() + at + 1));
    }
    let mut bytes = Zeroizing::new(BASE32_NOPAD.decode(encoded.as_bytes()).map_err(|_| Wrong::Mistyped)?);
    let (body, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(Wrong::Mistyped)?;
    if crc32c::crc32c(body).to_be_bytes() != *checksum {
        return Err(Wrong::Mistyped);
    }
    let length = body.len();
    bytes.truncate(length);
    Ok(bytes)
}
