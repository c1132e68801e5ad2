//! What this host says of itself without netlink.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use nix::unistd::gethostname;
use pontoon_store::model::rejection::Reason;
use tonic::Code;

use crate::api::error::ApiError;

/// This host's clock, in milliseconds since the Unix epoch; 0 before it.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The host's name, up to its first dot.
pub fn name() -> Result<String, ApiError> {
    let failed = |why: String| {
        let message = format!("cannot tell this host's name: {why}");
        ApiError::new(Code::FailedPrecondition, Reason::InvalidName.as_str(), message, "give the node one with --name")
    };
    let name = gethostname().map_err(|error| failed(error.to_string()))?;
    let name = name.into_string().map_err(|name| failed(format!("{name:?} is not text")))?;
    Ok(name.split('.').next().unwrap_or_default().to_owned())
}

/// The address that packets from this host to `peer` carry.
pub fn source_address(peer: SocketAddr) -> Result<IpAddr, ApiError> {
    let unspecified: SocketAddr = if peer.is_ipv4() { ([0u8; 4], 0).into() } else { ([0u16; 8], 0).into() };
    // Connecting a UDP socket looks the route up and sends nothing.
    let address = UdpSocket::bind(unspecified).and_then(|socket| {
        socket.connect(peer)?;
        socket.local_addr()
    });
    address.map(|address| address.ip()).map_err(|error| {
        let message = format!("cannot tell which address of this host {peer} reaches it at: {error}");
        ApiError::new(
            Code::FailedPrecondition,
            Reason::InvalidNodeAddress.as_str(),
            message,
            "give it with --advertise",
        )
    })
}

/// VXLAN packets can leave from an address of this host only.
pub fn require_local(address: IpAddr) -> Result<(), ApiError> {
    let local = addresses()?;
    if local.contains(&address) {
        return Ok(());
    }
    let local: Vec<String> = local.iter().filter(|ip| !ip.is_loopback()).map(ToString::to_string).collect();
    let message = format!("{address} is not an address of this host, so it cannot be its data address");
    let hint = format!("give one of {} with --data-addr", local.join(", "));
    Err(ApiError::new(Code::InvalidArgument, Reason::InvalidNodeAddress.as_str(), message, hint))
}

fn addresses() -> Result<Vec<IpAddr>, ApiError> {
    let interfaces = getifaddrs().map_err(|error| {
        ApiError::new(Code::Internal, "KERNEL", format!("cannot list this host's addresses: {error}"), "")
    })?;
    let ip = |address: SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    Ok(interfaces.filter_map(|interface| interface.address).filter_map(ip).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_local_and_a_documentation_address_is_not() {
        assert!(require_local(IpAddr::from([127, 0, 0, 1])).is_ok());
        // 203.0.113.0/24 is for documentation (RFC 5737).
        let error = require_local(IpAddr::from([203, 0, 113, 9])).unwrap_err();
        assert!(error.message.contains("203.0.113.9") && error.hint.contains("--data-addr"), "{error:?}");
    }

    #[test]
    fn the_source_towards_loopback_is_loopback() {
        assert!(source_address(SocketAddr::from(([127, 0, 0, 1], 7300))).unwrap().is_loopback());
    }
}
