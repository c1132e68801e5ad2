//! Who has a UDP port of the host.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::plan::doctor::Holder;

/// The sockets on a UDP port in the host's namespace, and the processes that have them: `ss -ulnp sport = :PORT`.
///
/// # Errors
/// When the kernel's tables cannot be read.
pub(super) fn holders(port: u16) -> io::Result<Vec<Holder>> {
    let mut sockets = Vec::new();
    for table in ["udp", "udp6"] {
        match fs::read_to_string(Path::new("/proc/self/net").join(table)) {
            Ok(text) => sockets.extend(parse(&text, port)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut processes = if sockets.is_empty() { BTreeMap::new() } else { processes(&sockets) };
    Ok(sockets.into_iter().map(|(address, inode)| Holder { address, process: processes.remove(&inode) }).collect())
}

/// Address and inode of each socket on a port, of a table as the kernel shows it (`/proc/net/udp`, `/proc/net/udp6`).
fn parse(table: &str, port: u16) -> Vec<(IpAddr, u64)> {
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, at) = fields.get(1)?.split_once(':')?;
        let inode = fields.get(9)?.parse().ok()?;
        (u16::from_str_radix(at, 16).ok()? == port).then_some(())?;
        Some((parse_address(address)?, inode))
    };
    table.lines().skip(1).filter_map(socket).collect()
}

/// The kernel shows an address as 32-bit words of its own byte order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for at in (0..text.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => Some(Ipv4Addr::from(v4).into()),
        Err(_) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
    }
}

/// Which processes have these sockets, by inode. Processes that end meanwhile are left out.
fn processes(sockets: &[(IpAddr, u64)]) -> BTreeMap<u64, (u32, String)> {
    let mut found = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        for file in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Some(inode) = fs::read_link(file.path()).ok().and_then(|target| inode_of(target.to_str()?)) else {
                continue;
            };
            if sockets.iter().any(|(_, socket)| *socket == inode) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                found.insert(inode, (pid, name.trim().to_owned()));
            }
        }
    }
    found
}

/// The inode of a socket, of what its link in `/proc/PID/fd` says.
fn inode_of(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_socket_of_this_process_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(address).unwrap();
            let local = socket.local_addr().unwrap();
            let found = holders(local.port()).unwrap();
            let mine = found.iter().find(|holder| holder.address == local.ip());
            let (pid, name) = mine.and_then(|holder| holder.process.clone()).unwrap();
            assert_eq!(pid, std::process::id(), "{found:?}");
            assert!(!name.is_empty());
            drop(socket);
            assert!(!holders(local.port()).unwrap().iter().any(|holder| holder.address == local.ip()));
        }
    }

    #[test]
    fn only_sockets_have_inodes_here() {
        assert_eq!(inode_of("socket:[4711]"), Some(4711));
        for other in ["pipe:[4711]", "socket:[]", "/dev/null", "socket:[4711"] {
            assert_eq!(inode_of(other), None, "{other}");
        }
    }
}
