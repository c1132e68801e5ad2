//! From a question to what is said, by what its asker may know.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

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
pub(super) const HEADER: usize = 12;
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
    /// Nothing: it is no question.
    Nothing,
}

/// A question that makes sense.
#[derive(Debug)]
pub(super) struct Asked {
    message: Message,
    /// Whom it is about; none: nobody that we can know.
    subject: Option<Subject>,
}

/// Reads a message, or says at once what there is to say.
pub(super) fn read(message: &[u8]) -> Result<Asked, Said> {
    let Some(&[id0, id1, flags, _, _, questions, ..]) = message.get(..HEADER) else { return Err(Said::Nothing) };
    if flags & 0x80 != 0 {
        return Err(Said::Nothing);
    }
    let op_code = OpCode::from_u8((flags >> 3) & 0xf);
    let refuse = |code, kind| {
        let mut refusal = Message::error_msg(u16::from_be_bytes([id0, id1]), op_code, code);
        refusal.metadata.recursion_desired = flags & 1 != 0;
        say(&refusal, SMALLEST, kind)
    };
    if op_code != OpCode::Query {
        return Err(refuse(ResponseCode::NotImp, Kind::Refused));
    }
    // Before it is read: a header can say that there are 65,535.
    if (message[4], questions) != (0, 1) {
        return Err(refuse(ResponseCode::FormErr, Kind::Malformed));
    }
    let Ok(message) = Message::from_vec(message) else {
        return Err(refuse(ResponseCode::FormErr, Kind::Malformed));
    };
    // Whole zones, and meta-types that are no questions.
    if let RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG = message.queries[0].query_type() {
        let mut reply = reply_to(&message);
        reply.metadata.response_code = ResponseCode::Refused;
        return Err(say(&reply, SMALLEST, Kind::Refused));
    }
    let is_internet = message.queries[0].query_class() == DNSClass::IN;
    let subject = subject(message.queries[0].name()).filter(|_| is_internet);
    Ok(Asked { message, subject })
}

/// What is found to a question; none: nothing of ours, so whoever would have been asked is to say.
pub(super) fn find(asked: &Asked, directory: &Directory<'_>, turns: &Turns) -> Option<Vec<RData>> {
    let wanted = asked.message.queries[0].query_type();
    match asked.subject.as_ref()? {
        Subject::Address(address) => directory.name_at(*address).map(|name| pointer(&name, wanted)),
        Subject::Name(name) => match directory.called(name).as_slice() {
            [] => None,
            endpoints => Some(records(endpoints, wanted, turns)),
        },
    }
}

/// What is said when this was found.
pub(super) fn answer(asked: &Asked, by: Transport, found: Vec<RData>) -> Said {
    let mut reply = reply_to(&asked.message);
    let limit = match (by, &asked.message.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(SMALLEST, LARGEST),
        (Transport::Udp, None) => SMALLEST,
    };
    if asked.message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        reply.metadata.response_code = ResponseCode::BADVERS;
        return say(&reply, limit, Kind::Refused);
    }
    let kind = match &asked.subject {
        _ if found.is_empty() => Kind::NoData,
        Some(Subject::Address(_)) => Kind::Name,
        _ => Kind::Address,
    };
    let name = asked.message.queries[0].name();
    reply.add_answers(found.into_iter().map(|data| Record::from_rdata(name.clone(), TTL, data)));
    say(&reply, limit, kind)
}

/// That nobody could be asked (now): the answer to a message of which at least header and question are given.
pub(super) fn failure(message: &[u8]) -> Option<Vec<u8>> {
    let question = question(message)?;
    let (recursion_desired, recursion_available, server_failure) = (message[2] & 1, 0x80, 2);
    let header = [message[0], message[1], 0x80 | recursion_desired, recursion_available | server_failure];
    Some([&header[..], &[0, 1, 0, 0, 0, 0, 0, 0], question].concat())
}

/// The question of a message, which has one: name, type and class.
pub(super) fn question(message: &[u8]) -> Option<&[u8]> {
    let mut end = HEADER;
    while *message.get(end)? != 0 {
        end += 1 + usize::from(*message.get(end)?);
    }
    message.get(HEADER..end + 5)
}

/// An empty answer.
fn reply_to(asked: &Message) -> Message {
    let mut reply = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata = Metadata::response_from_request(&asked.metadata);
    reply.metadata.recursion_available = true;
    reply.add_queries(asked.queries.iter().cloned());
    if let Some(asked) = &asked.edns {
        let mut edns = Edns::new();
        // That DNSSEC is understood is repeated (RFC 3225, section 3).
        edns.set_max_payload(LARGEST).set_dnssec_ok(asked.flags().dnssec_ok);
        reply.set_edns(edns);
    }
    reply
}

fn say(message: &Message, limit: u16, kind: Kind) -> Said {
    emit(message, limit).map_or(Said::Nothing, |bytes| Said::Answer(bytes, kind))
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

fn records(endpoints: &[&Endpoint], wanted: RecordType, turns: &Turns) -> Vec<RData> {
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
    families.iter().flat_map(|family| turns.next(addresses(endpoints, *family))).map(data).collect()
}

/// How many answers with several addresses were given, so that each begins with another one: by family, because programs
/// ask for both in turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    v4: AtomicUsize,
    v6: AtomicUsize,
}

impl Turns {
    fn next(&self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let turns = if addresses.first().is_some_and(IpAddr::is_ipv6) { &self.v6 } else { &self.v4 };
        if addresses.len() > 1 {
            let turn = turns.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(turn);
        }
        addresses
    }
}

#[cfg(test)]
mod tests;
