//! From a question to what is said: a pure function of the message and of what its asker may know.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use pontoon_store::model::object::{Endpoint, Family};

use super::counts::Kind;
use crate::plan::names::{Directory, addresses};

/// How long an answer may be kept, in seconds: less than the 60 for which a released address goes to nobody else, so that a
/// kept name never leads to another container.
pub(crate) const TTL: u32 = 5;
/// Bytes of a message's header (RFC 1035, section 4.1.1).
const HEADER: usize = 12;
/// Bytes of an answer by UDP that everybody takes (RFC 1035, section 2.3.4).
const SMALLEST: u16 = 512;
/// Bytes of an answer by UDP at most, for those that take so much: it does not leave the host.
const LARGEST: u16 = 4096;

/// How a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// In a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// What is said to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// This.
    Answer(Vec<u8>, Kind),
    /// It is nothing of ours: whoever would have been asked is to say.
    PassOn,
    /// Nothing: it is no question.
    Nothing,
}

/// What is said to a message. `turn`: how many were answered before, so that each begins with another address.
pub(super) fn answer(message: &[u8], by: Transport, directory: &Directory<'_>, turn: usize) -> Said {
    let Some(&[id0, id1, flags, _, _, questions, ..]) = message.get(..HEADER) else { return Said::Nothing };
    if flags & 0x80 != 0 {
        return Said::Nothing;
    }
    let id = u16::from_be_bytes([id0, id1]);
    let refuse = |op_code, code, kind| {
        let mut refusal = Message::error_msg(id, op_code, code);
        refusal.metadata.recursion_desired = flags & 1 != 0;
        emit(&refusal, SMALLEST).map_or(Said::Nothing, |bytes| Said::Answer(bytes, kind))
    };
    let op_code = OpCode::from_u8((flags >> 3) & 0xf);
    if op_code != OpCode::Query {
        return refuse(op_code, ResponseCode::NotImp, Kind::Refused);
    }
    // Before it is read: a header can say that there are 65,535.
    if (message[4], questions) != (0, 1) {
        return refuse(op_code, ResponseCode::FormErr, Kind::Malformed);
    }
    let Ok(asked) = Message::from_vec(message) else {
        return refuse(op_code, ResponseCode::FormErr, Kind::Malformed);
    };
    match asked.queries[0].query_type() {
        // Whole zones, and meta-types that are no questions.
        RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG => {
            refuse(op_code, ResponseCode::Refused, Kind::Refused)
        }
        _ => known(&asked, by, directory, turn),
    }
}

/// What is said to a question that makes sense.
fn known(asked: &Message, by: Transport, directory: &Directory<'_>, turn: usize) -> Said {
    let (query, mut reply) = (&asked.queries[0], reply_to(asked));
    let (name, wanted) = (query.name(), query.query_type());
    if query.query_class() != DNSClass::IN {
        return Said::PassOn;
    }
    let found = match subject(name) {
        Some(Subject::Address(address)) => match directory.name_at(address) {
            Some(name) => pointer(&name, wanted),
            None => return Said::PassOn,
        },
        Some(Subject::Name(name)) => match directory.called(&name).as_slice() {
            [] => return Said::PassOn,
            endpoints => records(endpoints, wanted, turn),
        },
        None => return Said::PassOn,
    };
    let asks_too_much = asked.edns.as_ref().is_some_and(|edns| edns.version() > 0);
    let kind = match (asks_too_much, found.is_empty(), wanted) {
        (true, ..) => Kind::Refused,
        (_, true, _) => Kind::NoData,
        (.., RecordType::PTR) => Kind::Name,
        _ => Kind::Address,
    };
    if asks_too_much {
        reply.metadata.response_code = ResponseCode::BADVERS;
    } else {
        reply.add_answers(found.into_iter().map(|data| Record::from_rdata(name.clone(), TTL, data)));
    }
    let limit = match (by, &asked.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(SMALLEST, LARGEST),
        (Transport::Udp, None) => SMALLEST,
    };
    emit(&reply, limit).map_or(Said::Nothing, |bytes| Said::Answer(bytes, kind))
}

/// That nobody could be asked (now).
pub(super) fn failure(message: &[u8]) -> Option<Vec<u8>> {
    let mut reply = reply_to(&Message::from_vec(message).ok()?);
    reply.metadata.response_code = ResponseCode::ServFail;
    emit(&reply, SMALLEST)
}

/// An empty answer.
fn reply_to(asked: &Message) -> Message {
    let mut reply = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata = Metadata::response_from_request(&asked.metadata);
    reply.metadata.recursion_available = true;
    reply.add_query(asked.queries[0].clone());
    if asked.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST);
        reply.set_edns(edns);
    }
    reply
}

/// A message's bytes, with as many answers as fit, and marked when those are not all.
fn emit(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let bytes = encode(message, limit)?;
    let is_truncated = bytes[2] & 2 != 0;
    if !is_truncated || message.edns.is_none() {
        return Some(bytes);
    }
    // What comes behind the answers must be there in any case (RFC 6891, section 6.1.1). It is smaller than an answer.
    let fitted = u16::from_be_bytes([bytes[6], bytes[7]]);
    let mut shorter = message.clone();
    shorter.answers.truncate(usize::from(fitted).saturating_sub(1));
    shorter.metadata.truncation = true;
    encode(&shorter, limit)
}

fn encode(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(SMALLEST.into());
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    message.emit(&mut encoder).ok()?;
    // The record that did not fit may have begun.
    encoder.trim();
    Some(bytes)
}

/// What is asked about.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    /// What is at an address.
    Address(IpAddr),
    /// Who is called so, in lower case.
    Name(String),
}

/// None: a name that no container can have.
fn subject(name: &Name) -> Option<Subject> {
    if let Ok(net) = name.parse_arpa_name() {
        return (net.prefix_len() == net.max_prefix_len()).then_some(Subject::Address(net.addr()));
    }
    // A dot in a label is none between labels.
    let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let labels: Option<Vec<&str>> =
        name.iter().map(|label| std::str::from_utf8(label).ok().filter(|l| l.bytes().all(|b| is_usual(&b)))).collect();
    let joined = labels?.join(".");
    (!joined.is_empty()).then(|| Subject::Name(joined.to_ascii_lowercase()))
}

fn pointer(name: &str, wanted: RecordType) -> Vec<RData> {
    let name = Name::from_labels(name.split('.').map(str::as_bytes));
    let wants = matches!(wanted, RecordType::PTR | RecordType::ANY);
    // One that is too long for a label can be no name.
    name.ok().filter(|_| wants).map(|name| RData::PTR(PTR(name))).into_iter().collect()
}

fn records(endpoints: &[&Endpoint], wanted: RecordType, turn: usize) -> Vec<RData> {
    let families: &[Family] = match wanted {
        RecordType::A => &[Family::V4],
        RecordType::AAAA => &[Family::V6],
        RecordType::ANY => &[Family::V4, Family::V6],
        _ => &[],
    };
    let data = |address| match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    families.iter().flat_map(|family| addresses(endpoints, *family, turn)).map(data).collect()
}

#[cfg(test)]
mod tests;
