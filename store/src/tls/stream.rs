//! The handshake on a connection: TLS 1.3 with certificates at both ends.

use std::io;

use rustls::CommonState;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use super::NodeKey;

/// A connection that somebody made to this daemon.
pub(crate) type Accepted = server::TlsStream<TcpStream>;
/// A connection that this daemon made.
pub(crate) type Made = client::TlsStream<TcpStream>;

/// Shakes hands with whoever connected. Tells what he has shown: his certificate, and those of his issuers.
pub(super) async fn accept(key: &NodeKey, stream: TcpStream) -> io::Result<(Accepted, Vec<Vec<u8>>)> {
    let stream = key.acceptor.accept(stream).await?;
    let shown = shown(stream.get_ref().1);
    Ok((stream, shown))
}

/// The same with whomever this daemon has connected to.
pub(super) async fn make(key: &NodeKey, stream: TcpStream) -> io::Result<(Made, Vec<Vec<u8>>)> {
    let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
    let stream = key.connector.connect(name, stream).await?;
    let shown = shown(stream.get_ref().1);
    Ok((stream, shown))
}

fn shown(connection: &CommonState) -> Vec<Vec<u8>> {
    connection.peer_certificates().unwrap_or_default().iter().map(|certificate| certificate.to_vec()).collect()
}
