//! gRPC over unix sockets. Files are not in a network namespace, so the clients need not enter the hosts'.

use std::path::Path;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// A connection of its own to the server at `path`.
pub(crate) async fn connect(path: &Path) -> Result<Channel> {
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
