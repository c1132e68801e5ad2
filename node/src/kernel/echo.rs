//! Echo requests of chosen sizes that nobody on the way may cut up: `ping -M do -s SIZE ADDRESS`.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, SockaddrStorage, bind, recvfrom, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::plan::doctor::Sizes;

/// How many times a request is sent that is not answered: one that is lost says nothing of its size.
const TRIES: u32 = 3;
/// How long each of them is waited for. All of it takes no longer than a second.
const WAIT: Duration = Duration::from_millis(330);
/// Identifier, sequence number and what is before them.
const HEADER: usize = 8;

/// Sends packets of these sizes, all at once, and returns those that were answered. `from`: this host's address.
///
/// # Errors
/// When no such packets can be sent at all.
pub fn answered(from: IpAddr, sizes: &Sizes) -> io::Result<Sizes> {
    let fd = open(from)?;
    let identifier: u16 = rand::random();
    let asked: Vec<(IpAddr, u32)> = sizes.iter().flat_map(|(to, sizes)| sizes.iter().map(|s| (*to, *s))).collect();
    let mut missing: BTreeSet<u16> = (0..u16::try_from(asked.len()).unwrap_or(u16::MAX)).collect();
    for _ in 0..TRIES {
        for sequence in &missing {
            let (to, size) = asked[usize::from(*sequence)];
            send(&fd, to, &request(to, identifier, *sequence, size))?;
        }
        let end = Instant::now() + WAIT;
        while !missing.is_empty()
            && let Some((source, answer)) = receive(&fd, end)?
        {
            let sequence = reply(source, identifier, &answer);
            missing.retain(|one| Some(*one) != sequence || asked[usize::from(*one)].0 != source);
        }
    }
    let mut found: Sizes = sizes.keys().map(|to| (*to, BTreeSet::new())).collect();
    for (sequence, (to, size)) in (0..).zip(asked) {
        if !missing.contains(&sequence) {
            found.entry(to).or_default().insert(size);
        }
    }
    Ok(found)
}

fn open(from: IpAddr) -> io::Result<OwnedFd> {
    let (family, protocol, level, option) = match from {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    // The same number for both families.
    probe(&fd, level, option, libc::IP_PMTUDISC_PROBE)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    Ok(fd)
}

/// Lets nobody cut up what is sent, whatever is believed of the way: only what does not fit through the interface is
/// refused.
#[allow(unsafe_code, reason = "no crate in use wraps IP_MTU_DISCOVER")]
fn probe(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).expect("an int has a few bytes");
    // SAFETY: the descriptor is open, and the value is there for as long as the call takes, with its length.
    let set = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An echo request that makes an IP packet of this size (RFC 792, RFC 4443).
fn request(to: IpAddr, identifier: u16, sequence: u16, size: u32) -> Vec<u8> {
    let (kind, before) = if to.is_ipv4() { (8, 20) } else { (128, 40) };
    let length = usize::try_from(size).unwrap_or_default().saturating_sub(before).max(HEADER);
    let mut message = vec![0; length];
    message[0] = kind;
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    // The kernel writes that of ICMPv6, which the addresses are part of. The rest is zero.
    if to.is_ipv4() {
        let sum = [u32::from(kind) << 8, u32::from(identifier), u32::from(sequence)].iter().sum::<u32>();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX);
        message[2..4].copy_from_slice(&(!folded).to_be_bytes());
    }
    message
}

/// Sends; what the interface is too small for, or nobody can be asked about now, is not answered.
fn send(fd: &OwnedFd, to: IpAddr, message: &[u8]) -> io::Result<()> {
    let sent = sendto(fd.as_raw_fd(), message, &SockaddrStorage::from(SocketAddr::new(to, 0)), MsgFlags::empty());
    match sent {
        Err(Errno::EACCES | Errno::EBADF | Errno::EINVAL | Errno::EAFNOSUPPORT) => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// What has arrived; none when the time is over.
fn receive(fd: &OwnedFd, end: Instant) -> io::Result<Option<(IpAddr, Vec<u8>)>> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // No time at all would mean to wait for ever.
        let Ok(left @ 1..) = i64::try_from(left.as_micros()) else { return Ok(None) };
        setsockopt(fd, sockopt::ReceiveTimeout, &TimeVal::new(left / 1_000_000, left % 1_000_000))?;
        match recvfrom::<SockaddrStorage>(fd.as_raw_fd(), &mut buffer) {
            Ok((length, source)) => {
                let source = source.and_then(|source| address(&source));
                let Some(source) = source else { continue };
                return Ok(Some((source, buffer[..length].to_vec())));
            }
            // Of an earlier packet: somebody on the way has refused it.
            Err(Errno::EINTR | Errno::EMSGSIZE | Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

fn address(source: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = || source.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    let v6 = || source.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
    if source.family() == Some(AddressFamily::Inet) { v4() } else { v6() }
}

/// The sequence number of an answer to us.
fn reply(source: IpAddr, identifier: u16, packet: &[u8]) -> Option<u16> {
    // Of IPv4, the packet's own header comes first; its length is in words.
    let (kind, before) = if source.is_ipv4() { (0, usize::from(packet.first()? & 0xf) * 4) } else { (129, 0) };
    let message = packet.get(before..before + HEADER)?;
    let number = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    (message[0] == kind && number(4) == identifier).then(|| number(6))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::kernel::link::{self, Settings};
    use crate::kernel::netns::{self, Namespace};

    #[test]
    fn this_host_answers_what_fits_through_its_loopback() {
        for own in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let sizes = BTreeSet::from([64, 576, 1500, 65_000, 70_000]);
            let found = answered(own, &Sizes::from([(own, sizes)])).unwrap();
            assert_eq!(found[&own], BTreeSet::from([64, 576, 1500, 65_000]), "{own}");
        }
    }

    /// Not even where this host could cut it up itself.
    #[test]
    fn nothing_is_cut_up() {
        let mut host = Namespace::unnamed().unwrap();
        let settings = Settings { mtu: Some(1500), up: Some(true), ..Settings::default() };
        link::set(&mut host.netlink, 1, settings).unwrap();
        let own = IpAddr::from(Ipv4Addr::LOCALHOST);
        let sizes = Sizes::from([(own, BTreeSet::from([1500, 1501]))]);
        let found = netns::run_in(&host.file, || answered(own, &sizes)).unwrap().unwrap();
        assert_eq!(found[&own], BTreeSet::from([1500]));
    }

    #[test]
    fn a_message_has_its_sum() {
        let message = request(IpAddr::from(Ipv4Addr::LOCALHOST), 0xfff0, 0x0102, 64);
        assert_eq!(message.len(), 44);
        let sum: u32 = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(request(IpAddr::from(Ipv6Addr::LOCALHOST), 1, 2, 64).len(), 24);
    }

    #[test]
    fn only_answers_to_us_count() {
        let (own, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
        let answer = |kind: u8| [kind, 0, 0, 0, 0, 7, 0, 9];
        let packet = |kind| [&[0x45_u8; 20][..], &answer(kind)].concat();
        assert_eq!(reply(own, 7, &packet(0)), Some(9));
        assert_eq!((reply(own, 8, &packet(0)), reply(own, 7, &packet(8))), (None, None));
        assert_eq!((reply(v6, 7, &answer(129)), reply(v6, 7, &answer(128))), (Some(9), None));
        assert_eq!(
            (reply(own, 7, &[]), reply(own, 7, &[0x45; 24]), reply(v6, 7, &answer(129)[..7])),
            (None, None, None)
        );
    }
}
