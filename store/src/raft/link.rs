//! How members reach each other: HTTP/2 over TLS over TCP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::Endpoint;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Request, Status};
use tower::service_fn;

use super::channel::Purpose;
use super::types::Peer;
use crate::tls::{NodeKey, PublicKey, public_key};

/// A connection that has been silent this long is asked whether it is alive.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How long the answer to that may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// Bytes that may be on their way in one answer, and in all that share a connection, where watchers share one: thousands that
/// take nothing must not hold up the one that does (RFC 9113, section 6.9.1).
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 30;

/// A connection.
pub(crate) use tonic::transport::Channel as Link;
/// An address that cannot be one.
pub(crate) use tonic::transport::Error as Unusable;

/// A connection that is made when first used, and again when it broke: only to the one that has the member's key.
pub(crate) fn lazy(key: &NodeKey, member: u64, peer: &Peer, purpose: Purpose) -> Result<Link, Unusable> {
    let (key, peer) = (key.clone(), peer.clone());
    let endpoint = match (endpoint(&peer.address)?, purpose) {
        (endpoint, Purpose::Watch) => {
            endpoint.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW)
        }
        (endpoint, _) => endpoint,
    };
    let connector = service_fn(move |_| {
        let (key, peer) = (key.clone(), peer.clone());
        async move {
            let (stream, shown) = key.connect(&peer.address).await?;
            if shown == peer.key {
                return Ok(TokioIo::new(stream));
            }
            Err(io::Error::other(format!(
                "whoever answers at {} has not the key of member {member}: another daemon has that address now",
                peer.address
            )))
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// Connects to an address, whoever answers there, and tells whose key it is.
pub(crate) async fn dial(key: &NodeKey, address: SocketAddr) -> Result<(Link, PublicKey), Status> {
    let unavailable = |error: &dyn std::error::Error| Status::unavailable(crate::error_chain(error));
    let endpoint = endpoint(&address.to_string()).map_err(|error| unavailable(&error))?;
    let (stream, shown) = key.connect(&address.to_string()).await.map_err(|error| unavailable(&error))?;
    let mut stream = Some(TokioIo::new(stream));
    // There is one connection: a second would be to somebody else.
    let once = service_fn(move |_| {
        std::future::ready(stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    let channel = endpoint.connect_with_connector(once).await.map_err(|error| unavailable(&error))?;
    Ok((channel, shown))
}

/// The key that a caller has shown and proven to have.
pub(crate) fn shown<T>(request: &Request<T>) -> Result<PublicKey, Status> {
    let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    let certificates = info.and_then(TlsConnectInfo::peer_certs);
    let key = certificates.and_then(|shown| public_key(shown.first()?).ok());
    key.ok_or_else(|| Status::unauthenticated("the caller has shown no key"))
}

/// The settings of a connection. Its URI names no scheme that tonic would act on: who is there is checked in tls.rs.
fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}
