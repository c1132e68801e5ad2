//! gRPC over unix sockets, which are reached from any network namespace, and over TCP from inside one.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use nix::sched::{CloneFlags, setns};
use pontoon_store::NodeKey;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::spawn_blocking;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::lab::Netns;

/// A connection of its own to the server at `path`.
///
/// # Errors
///
/// Nobody listens there.
pub async fn connect(path: &Path) -> Result<Channel> {
    let path = path.to_owned();
    let shown = path.display().to_string();
    // The address is not used, but a gRPC request names a host.
    let endpoint = Endpoint::from_static("http://localhost");
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await.with_context(|| format!("cannot connect to {shown}"))
}

/// A connection to a member's address as a network namespace sees it, made with another member's key.
///
/// # Errors
///
/// Nobody listens there, or it does not know that key.
pub async fn connect_in(netns: &Netns, address: SocketAddr, key: NodeKey) -> Result<Channel> {
    let path = netns.path();
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let connector = service_fn(move |_: Uri| {
        let (path, key) = (path.clone(), key.clone());
        async move {
            let stream = spawn_blocking(move || connect_from(&path, address)).await??;
            let (stream, _) = key.connect_over(TcpStream::from_std(stream)?).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    endpoint.connect_with_connector(connector).await.with_context(|| format!("cannot connect to {address}"))
}

/// A socket stays in the namespace that it was made in. The thread that enters it ends here, so that no other work
/// finds itself there.
///
/// # Errors
///
/// Nobody listens there.
pub fn connect_from(netns: &Path, address: SocketAddr) -> io::Result<std::net::TcpStream> {
    let netns = File::open(netns)?;
    let connecting = thread::spawn(move || -> io::Result<std::net::TcpStream> {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    connecting.join().map_err(|_| io::Error::other("the thread that connects panicked"))?
}
