//! The bytes of a segment. Numbers are little-endian.
//!
//! Header, 64 bytes: magic (8), format (4), CRC-32C of the rest (4), cluster (16), Raft id (8), number of
//! the segment (8), zeros (16).
//!
//! Then records, each at a multiple of 8: length of the contents (4), CRC-32C (4), kind (1), zeros (7),
//! batch (8), place where the batch begins (8), contents, zeros up to the next multiple of 8. The CRC also covers the
//! segment's number and the record's place, so that a copy of a record elsewhere is not one.
//!
//! Everything between two syncs is a batch, and a batch is only written once the one before is synced. So
//! a record whose batch begins behind a damaged place proves that the damaged place was on disk once.

use bytes::Bytes;

use super::{Identity, Write};
use crate::model::id::{ClusterId, RaftId};

pub(super) const FORMAT: u32 = 1;
pub(super) const HEADER_BYTES: usize = 64;
pub(super) const FRAME_BYTES: usize = 32;

const MAGIC: [u8; 8] = *b"PONTWAL\0";
const VOTE: u8 = 1;
const ENTRY: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;
const COMMITTED: u8 = 5;
const CHECKPOINT: u8 = 6;

/// What a new segment begins with, so that the ones before it are only needed for their entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// Where the segment before ends; 0 for the first.
    pub(super) previous_end: u64,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<(u64, Bytes)>,
}

/// What a record holds.
#[derive(Debug, Clone)]
pub(super) enum Contents {
    Write(Write),
    Checkpoint(Checkpoint),
}

/// A record that was read.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) batch: u64,
    pub(super) batch_start: u64,
    pub(super) contents: Contents,
    /// Where the next one begins.
    pub(super) next: usize,
}

/// What is wrong with a header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged,
    Newer(u32),
}

pub(super) fn encode_header(identity: Identity, segment: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[16..32].copy_from_slice(&identity.cluster.0.to_le_bytes());
    header[32..40].copy_from_slice(&identity.raft_id.0.to_le_bytes());
    header[40..48].copy_from_slice(&segment.to_le_bytes());
    let crc = header_crc(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Reads a header: whose segment it is, and its number.
pub(super) fn decode_header(data: &[u8]) -> Result<(Identity, u64), HeaderError> {
    let header = data.get(..HEADER_BYTES).ok_or(HeaderError::Damaged)?;
    if header[..8] != MAGIC {
        return Err(HeaderError::Damaged);
    }
    let format = u32_at(header, 8);
    if format > FORMAT {
        return Err(HeaderError::Newer(format));
    }
    if u32_at(header, 12) != header_crc(header) {
        return Err(HeaderError::Damaged);
    }
    let cluster = u128::from(u64_at(header, 16)) | u128::from(u64_at(header, 24)) << 64;
    let identity = Identity { cluster: ClusterId(cluster), raft_id: RaftId(u64_at(header, 32)) };
    Ok((identity, u64_at(header, 40)))
}

/// Bytes that a write takes in a segment.
pub(super) fn record_bytes(write: &Write) -> u64 {
    let contents = match write {
        Write::Vote(bytes) | Write::Committed(bytes) => bytes.len(),
        Write::Entry(_, bytes) | Write::Purge(_, bytes) => 8 + bytes.len(),
        Write::Truncate(_) => 8,
    };
    (FRAME_BYTES + contents).next_multiple_of(8) as u64
}

/// Where records are appended to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) batch: u64,
    pub(super) batch_start: u64,
    /// Place of the first byte of the buffer in the segment.
    pub(super) base: u64,
}

pub(super) fn encode_write(buffer: &mut Vec<u8>, place: Place, write: &Write) {
    match write {
        Write::Vote(bytes) => encode(buffer, place, VOTE, &[bytes]),
        Write::Entry(index, bytes) => encode(buffer, place, ENTRY, &[&index.to_le_bytes(), bytes]),
        Write::Truncate(from) => encode(buffer, place, TRUNCATE, &[&from.to_le_bytes()]),
        Write::Purge(index, bytes) => encode(buffer, place, PURGE, &[&index.to_le_bytes(), bytes]),
        Write::Committed(bytes) => encode(buffer, place, COMMITTED, &[bytes]),
    }
}

pub(super) fn encode_checkpoint(buffer: &mut Vec<u8>, place: Place, checkpoint: &Checkpoint) {
    let mut contents = checkpoint.previous_end.to_le_bytes().to_vec();
    for bytes in [&checkpoint.vote, &checkpoint.committed] {
        put_optional(&mut contents, bytes.as_deref());
    }
    let purged = checkpoint.purged.as_ref();
    contents.extend_from_slice(&purged.map_or(0, |(index, _)| *index).to_le_bytes());
    put_optional(&mut contents, purged.map(|(_, bytes)| bytes.as_ref()));
    encode(buffer, place, CHECKPOINT, &[&contents]);
}

/// Reads the record at a place. None: there is no whole and undamaged one.
pub(super) fn decode(data: &[u8], segment: u64, offset: usize) -> Option<Record> {
    let frame = data.get(offset..offset.checked_add(FRAME_BYTES)?)?;
    let length = u32_at(frame, 0) as usize;
    let kind = frame[8];
    if !(VOTE..=CHECKPOINT).contains(&kind) || frame[9..16] != [0; 7] {
        return None;
    }
    let end = (offset + FRAME_BYTES).checked_add(length)?;
    let contents = data.get(offset + FRAME_BYTES..end)?;
    if u32_at(frame, 4) != record_crc(segment, offset as u64, frame, contents) {
        return None;
    }
    let contents = match kind {
        VOTE => Contents::Write(Write::Vote(copy(contents))),
        ENTRY => Contents::Write(Write::Entry(index_of(contents)?, copy(&contents[8..]))),
        TRUNCATE => Contents::Write(Write::Truncate(index_of(contents)?)),
        PURGE => Contents::Write(Write::Purge(index_of(contents)?, copy(&contents[8..]))),
        COMMITTED => Contents::Write(Write::Committed(copy(contents))),
        _ => Contents::Checkpoint(decode_checkpoint(contents)?),
    };
    let next = end.next_multiple_of(8);
    Some(Record { batch: u64_at(frame, 16), batch_start: u64_at(frame, 24), contents, next })
}

fn encode(buffer: &mut Vec<u8>, place: Place, kind: u8, parts: &[&[u8]]) {
    let offset = place.base + buffer.len() as u64;
    let start = buffer.len();
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = [0; FRAME_BYTES];
    // Entries are at most 256 KiB, votes and log ids a few bytes.
    frame[..4].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    frame[8] = kind;
    frame[16..24].copy_from_slice(&place.batch.to_le_bytes());
    frame[24..32].copy_from_slice(&place.batch_start.to_le_bytes());
    buffer.extend_from_slice(&frame);
    for part in parts {
        buffer.extend_from_slice(part);
    }
    let crc = record_crc(place.segment, offset, &frame, &buffer[start + FRAME_BYTES..]);
    buffer[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    buffer.resize(buffer.len().next_multiple_of(8), 0);
}

fn record_crc(segment: u64, offset: u64, frame: &[u8], contents: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&segment.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &frame[..4]);
    let crc = crc32c::crc32c_append(crc, &frame[8..]);
    crc32c::crc32c_append(crc, contents)
}

fn header_crc(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..])
}

fn decode_checkpoint(contents: &[u8]) -> Option<Checkpoint> {
    let previous_end = index_of(contents)?;
    let mut rest = &contents[8..];
    let vote = take_optional(&mut rest)?;
    let committed = take_optional(&mut rest)?;
    let index = index_of(rest)?;
    rest = &rest[8..];
    let purged = take_optional(&mut rest)?.map(|bytes| (index, bytes));
    Some(Checkpoint { previous_end, vote, committed, purged })
}

fn put_optional(buffer: &mut Vec<u8>, bytes: Option<&[u8]>) {
    let length = bytes.map_or(0, |bytes| bytes.len() as u64 + 1);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(bytes.unwrap_or_default());
}

/// Reads what [`put_optional`] wrote. The outer option: whether there is enough of it.
#[expect(clippy::option_option, reason = "one for whether it can be read, one for whether it is there")]
fn take_optional(rest: &mut &[u8]) -> Option<Option<Bytes>> {
    let length = usize::try_from(index_of(rest)?).ok()?;
    *rest = &rest[8..];
    let Some(length) = length.checked_sub(1) else { return Some(None) };
    let bytes = rest.get(..length)?;
    *rest = &rest[length..];
    Some(Some(copy(bytes)))
}

fn index_of(contents: &[u8]) -> Option<u64> {
    (contents.len() >= 8).then(|| u64_at(contents, 0))
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&data[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&data[at..at + 8]);
    u64::from_le_bytes(bytes)
}
