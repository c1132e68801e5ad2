//! A route netlink socket: requests, dumps and batches. Blocking, since the kernel carries out a request before
//! `send` returns; whoever calls it does so on a thread that may block.
//!
//! Not the crate rtnetlink: it sends one message per system call and waits for each answer, and 10,000 remote
//! endpoints are 30,000 messages.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::error::Refusal;

/// Messages sent at once. The kernel refuses nothing of this size, and the answers, one at most for each, fit into the
/// socket's receive buffer.
const BATCH: usize = 128;

/// Bytes that one answer can have: the kernel's dumps use up to 32 KiB per datagram.
const DATAGRAM: usize = 64 * 1024;

/// Bytes of a message's header (struct nlmsghdr).
const HEADER: usize = 16;

/// Bytes of an attribute's header (struct nlattr).
const NLA_HEADER: usize = 4;

/// How often a dump is begun again that changes overtook.
const DUMP_TRIES: usize = 5;

/// A message and its netlink flags, without `REQUEST` and `ACK`.
pub(super) type Request = (RouteNetlinkMessage, u16);

/// A socket. It stays in the namespace that it was opened in.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens one in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// The socket itself, to ask for its options.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    fn pack(&mut self, (message, flags): Request, bytes: &mut Vec<u8>) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let start = bytes.len();
        // Messages of a batch begin at multiples of four bytes.
        bytes.resize(start + packet.buffer_len().next_multiple_of(4), 0);
        packet.serialize(&mut bytes[start..]);
        self.sequence
    }

    fn receive(&mut self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        let mut messages = Vec::new();
        let mut rest = self.buffer.as_slice();
        while let [a, b, c, d, ..] = *rest {
            let length = u32::from_ne_bytes([a, b, c, d]) as usize;
            if length < HEADER || length > rest.len() {
                break;
            }
            match NetlinkMessage::deserialize(&rest[..length]) {
                Ok(message) => messages.push(message),
                // Some device of somebody else that these libraries do not know must not stop everything.
                Err(error) => tracing::debug!(%error, "skipping a netlink message"),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }

    /// Sends one request and waits for what the kernel says to it.
    pub(super) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Refusal> {
        self.batch(vec![(message, flags)]).pop().unwrap_or(Ok(()))
    }

    /// Sends requests, many at a time, and tells for each what the kernel said to it. Later ones are carried out also
    /// when earlier ones are refused.
    pub(super) fn batch(&mut self, requests: Vec<Request>) -> Vec<Result<(), Refusal>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let chunk: Vec<Request> = requests.by_ref().take(BATCH).collect();
            let count = chunk.len();
            match self.chunk(chunk) {
                Ok(answers) => results.extend(answers),
                Err(error) => results.extend((0..count).map(|_| Err(Refusal::of_io(&error)))),
            }
        }
        results
    }

    fn chunk(&mut self, chunk: Vec<Request>) -> io::Result<Vec<Result<(), Refusal>>> {
        let (count, mut bytes, mut first) = (chunk.len(), Vec::new(), 0);
        for (at, (message, flags)) in chunk.into_iter().enumerate() {
            // Refusals are answered always; that all were carried out, the last one's acknowledgement says.
            let ack = if at + 1 == count { NLM_F_ACK } else { 0 };
            let sequence = self.pack((message, flags | ack), &mut bytes);
            if at == 0 {
                first = sequence;
            }
        }
        self.socket.send(&bytes, 0)?;
        let mut results = vec![Ok(()); count];
        loop {
            for message in self.receive()? {
                let at = message.header.sequence_number.wrapping_sub(first) as usize;
                let (Some(result), NetlinkPayload::Error(answer)) = (results.get_mut(at), message.payload) else {
                    continue;
                };
                if let Some(code) = answer.code {
                    *result = Err(Refusal { errno: -code.get(), text: extended_text(&answer.header) });
                }
                if at + 1 == count {
                    return Ok(results);
                }
            }
        }
    }

    /// Asks for one thing.
    pub(super) fn get(&mut self, message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, Refusal> {
        let mut bytes = Vec::new();
        let sequence = self.pack((message, 0), &mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            for message in self.receive()? {
                match message.payload {
                    _ if message.header.sequence_number != sequence => {}
                    NetlinkPayload::InnerMessage(inner) => return Ok(inner),
                    NetlinkPayload::Error(answer) => {
                        let errno = answer.code.map_or(libc::ENOENT, |code| -code.get());
                        return Err(Refusal { errno, text: extended_text(&answer.header) });
                    }
                    _ => {}
                }
            }
        }
    }

    /// Asks for everything of a kind.
    pub(super) fn dump(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        for _ in 0..DUMP_TRIES {
            if let Some(messages) = self.try_dump(message.clone())? {
                return Ok(messages);
            }
        }
        Err(Refusal { errno: libc::EAGAIN, text: "changes kept overtaking the dump".into() })
    }

    /// None: something changed meanwhile, so that the dump may lack it.
    fn try_dump(&mut self, message: RouteNetlinkMessage) -> Result<Option<Vec<RouteNetlinkMessage>>, Refusal> {
        let mut bytes = Vec::new();
        let sequence = self.pack((message, NLM_F_DUMP), &mut bytes);
        self.socket.send(&bytes, 0)?;
        let (mut found, mut whole) = (Vec::new(), true);
        loop {
            for message in self.receive()? {
                if message.header.sequence_number != sequence {
                    continue;
                }
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(_) => return Ok(whole.then_some(found)),
                    NetlinkPayload::Error(answer) => {
                        let Some(code) = answer.code else { return Ok(whole.then_some(found)) };
                        return Err(Refusal { errno: -code.get(), text: extended_text(&answer.header) });
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The kernel's own words in a refusal: attribute 1 (`NLMSGERR_ATTR_MSG`) behind the header of the refused message.
fn extended_text(payload: &[u8]) -> String {
    let text = payload.get(HEADER..).and_then(|attributes| attribute(attributes, 1)).unwrap_or_default();
    String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()
}

/// The value of the first attribute of a kind; none: there is none before the end, or before what is no attribute.
pub(super) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let found = NlasIterator::new(attributes).map_while(Result::ok).find(|attribute| attribute.kind() == kind)?;
    Some(found.into_inner().get(NLA_HEADER..usize::from(found.length())).unwrap_or_default())
}
