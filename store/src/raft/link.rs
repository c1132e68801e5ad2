//! How members reach each other: HTTP/2 over TLS over TCP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::Status;
use tonic::transport::Endpoint;
use tower::service_fn;

use super::channel::Purpose;
use super::types::Peer;
use crate::rt::wall_ms;
use crate::tls::{NodeKey, public_key, timestamp};

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

/// A connection that is made when first used, and again when it broke: only to the one that has the member's key, and a
/// certificate that is good.
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
            let own = shown.first().map_or(&[][..], Vec::as_slice);
            if !public_key(own).is_ok_and(|shown| shown == peer.key) {
                return Err(io::Error::other(format!(
                    "whoever answers at {} has not the key of member {member}: another daemon has that address now",
                    peer.address
                )));
            }
            key.verify(&shown).map_err(|error| {
                let (address, now) = (&peer.address, timestamp(wall_ms()));
                io::Error::other(format!(
                    "the certificate of member {member} at {address} is not believed: {error}, and the clock here says {now}"
                ))
            })?;
            Ok(TokioIo::new(stream))
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// Connects to an address, once whoever answers there has passed a check of the certificates that he has shown: his own, and
/// his issuer's. Before that nothing is sent.
pub(crate) async fn dial<T, E: From<Status>>(
    key: &NodeKey,
    address: SocketAddr,
    check: impl FnOnce(&[Vec<u8>]) -> Result<T, E>,
) -> Result<(Link, T), E> {
    let unavailable = |error: &dyn std::error::Error| Status::unavailable(crate::error_chain(error));
    let endpoint = endpoint(&address.to_string()).map_err(|error| unavailable(&error))?;
    let (stream, shown) = key.connect(&address.to_string()).await.map_err(|error| unavailable(&error))?;
    let checked = check(&shown)?;
    let mut stream = Some(TokioIo::new(stream));
    // There is one connection: a second would be to somebody else.
    let once = service_fn(move |_| {
        std::future::ready(stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    let channel = endpoint.connect_with_connector(once).await.map_err(|error| unavailable(&error))?;
    Ok((channel, checked))
}

/// The settings of a connection. Its URI names no scheme that tonic would act on: who is there is checked in the folder tls.
fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}
