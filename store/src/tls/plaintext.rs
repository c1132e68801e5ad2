//! In place of the handshake: both ends show their certificates and prove nothing, and what follows is not encrypted. Only a
//! daemon that is built for the benchmark of what TLS costs has it; it does not understand any other.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::NodeKey;

/// A connection that somebody made to this daemon.
pub(crate) type Accepted = BufReader<TcpStream>;
/// A connection that this daemon made.
pub(crate) type Made = BufReader<TcpStream>;

/// Shows this node's certificate to whoever connected, and tells what he has shown: his, and those of his issuers.
pub(super) async fn accept(key: &NodeKey, stream: TcpStream) -> io::Result<(Accepted, Vec<Vec<u8>>)> {
    make(key, stream).await
}

/// The same with whomever this daemon has connected to.
pub(super) async fn make(key: &NodeKey, stream: TcpStream) -> io::Result<(Made, Vec<Vec<u8>>)> {
    let mut stream = BufReader::new(stream);
    let own = Vec::from_iter(key.credentials.now().shown.cert.iter().map(|certificate| certificate.to_vec()));
    let mut said = vec![own.len() as u8];
    for certificate in &own {
        said.extend((certificate.len() as u32).to_be_bytes());
        said.extend(certificate);
    }
    stream.write_all(&said).await?;
    let mut shown = Vec::new();
    for _ in 0..stream.read_u8().await? {
        let mut certificate = vec![0; stream.read_u32().await? as usize];
        stream.read_exact(&mut certificate).await?;
        shown.push(certificate);
    }
    Ok((stream, shown))
}
