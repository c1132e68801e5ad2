//! Which generation of rules the kernel is at: the number that grows with each change of the nftables rules of a network
//! namespace, whoever makes it, iptables-nft too. Asking for it is one message; listing rules starts a program.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::socket::attribute;

/// NFNL_SUBSYS_NFTABLES (linux/netfilter/nfnetlink.h), the upper byte of a message's type.
const NFTABLES: u16 = 10 << 8;
/// NFT_MSG_NEWGEN and NFT_MSG_GETGEN (linux/netfilter/nf_tables.h).
const NEW_GENERATION: u16 = NFTABLES | 15;
const GET_GENERATION: u16 = NFTABLES | 16;
/// NLMSG_ERROR (linux/netlink.h).
const ERROR: u16 = 2;
/// NLM_F_REQUEST (linux/netlink.h).
const REQUEST: u16 = 1;
/// NFTA_GEN_ID: the number, 32 bits, most significant byte first.
const ID: u16 = 1;
/// Bytes before the attributes: struct nlmsghdr and struct nfgenmsg.
const HEADERS: usize = 16 + 4;
/// Bytes that an answer can have: it is about 60, with the name of the program that made the last change.
const ANSWER: usize = 1024;

/// Asks for the generation in the namespace that it was opened in.
pub(super) struct Ruleset {
    socket: Socket,
    sequence: u32,
}

impl Ruleset {
    /// Opens it in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The number of the rules that are in force. Two equal answers with no other between them say that nothing has changed.
    pub(super) fn generation(&mut self) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request(self.sequence), 0)?;
        let mut answer = Vec::with_capacity(ANSWER);
        loop {
            answer.clear();
            self.socket.recv(&mut answer, 0)?;
            if let Some(generation) = parse(&answer, self.sequence)? {
                return Ok(generation);
            }
        }
    }
}

fn request(sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADERS);
    bytes.extend((HEADERS as u32).to_ne_bytes());
    bytes.extend(GET_GENERATION.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // The sender, which the kernel knows, and a struct nfgenmsg: any family, version 0, no resource.
    bytes.resize(HEADERS, 0);
    bytes
}

/// The number in an answer; none when it answers another question.
fn parse(bytes: &[u8], sequence: u32) -> io::Result<Option<u32>> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut off");
    let (head, rest) = bytes.split_first_chunk::<16>().ok_or_else(short)?;
    let kind = u16::from_ne_bytes([head[4], head[5]]);
    if u32::from_ne_bytes([head[8], head[9], head[10], head[11]]) != sequence {
        return Ok(None);
    }
    let (first, attributes) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    match kind {
        ERROR => return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(*first))),
        NEW_GENERATION => {}
        _ => return Ok(None),
    }
    let id = attribute(attributes, ID).and_then(|id| <[u8; 4]>::try_from(id).ok());
    id.map(|id| Some(u32::from_be_bytes(id))).ok_or_else(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sequence: u32, kind: u16, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = request(sequence);
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn the_number_is_found_among_the_attributes() {
        let (id, other) = ([8, 0, 1, 0, 0, 0, 1, 2], [5, 0, 9, 0, 7, 0, 0, 0]);
        let attributes = [other, id].concat();
        assert_eq!(parse(&answer(3, NEW_GENERATION, &attributes), 3).unwrap(), Some(0x0102));
        assert_eq!(parse(&answer(3, NEW_GENERATION, &attributes), 4).unwrap(), None);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let refused = [&[0; 4][..], &(-1i32).to_ne_bytes()].concat();
        let mut refusal = answer(3, ERROR, &[]);
        refusal.truncate(16);
        refusal.extend(&refused[4..]);
        assert_eq!(parse(&refusal, 3).unwrap_err().raw_os_error(), Some(libc::EPERM));
        for attributes in [&[][..], &[8, 0, 1], &[8, 0, 1, 0, 0, 0], &[0, 0, 1, 0, 0, 0, 0, 0], &[4, 0, 9, 0]] {
            assert!(parse(&answer(3, NEW_GENERATION, attributes), 3).is_err(), "{attributes:?}");
        }
    }
}
