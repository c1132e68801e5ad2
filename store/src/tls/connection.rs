//! A connection of whoever came to the port, and what he has shown.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::server::Connected;

use crate::rt::wall_ms;

use super::stream::Accepted;
use super::{CertificateError, Certified, NodeKey, PublicKey, no_key, public_key};

/// What a caller has shown, and proven in the handshake to have the key of.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Where he calls from.
    pub address: SocketAddr,
    /// His key.
    pub key: PublicKey,
    chain: Arc<[Vec<u8>]>,
    me: NodeKey,
    /// What it says, and as of which change of what is believed here.
    believed: Arc<Mutex<Option<(u64, Certified)>>>,
}

impl Shown {
    pub(crate) fn new(chain: Vec<Vec<u8>>, address: SocketAddr, me: &NodeKey) -> io::Result<Self> {
        let key = public_key(chain.first().ok_or_else(no_key)?).map_err(io::Error::other)?;
        Ok(Self { address, key, chain: chain.into(), me: me.clone(), believed: Arc::default() })
    }

    /// What his certificate says, if it is to be believed now. What is believed can change while he is connected.
    pub(crate) fn certified(&self) -> Result<Certified, CertificateError> {
        let generation = self.me.generation();
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, certified)) = &*believed
            && *known == generation
        {
            return certified.check_time(wall_ms()).map(|()| certified.clone());
        }
        let certified = self.me.verify(&self.chain)?;
        *believed = Some((generation, certified.clone()));
        Ok(certified)
    }
}

/// How long a connection of somebody lasts who is no node of the cluster.
const STRANGER: Duration = Duration::from_secs(30);

/// A connection on which the handshake is over.
pub struct Connection {
    stream: Accepted,
    shown: Shown,
    /// Ends when it is to be closed.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Tells that it is closed.
    _closed: Option<DropGuard>,
}

impl Connection {
    pub(crate) fn new(stream: Accepted, chain: Vec<Vec<u8>>, address: SocketAddr, me: &NodeKey) -> io::Result<Self> {
        let shown = Shown::new(chain, address, me)?;
        Ok(Self { stream, shown, end: None, _closed: None })
    }

    /// What the certificate says that its other end has shown, if it is to be believed now.
    pub(crate) fn certified(&self) -> Result<Certified, CertificateError> {
        self.shown.certified()
    }

    /// Closes it when this is over, or when somebody else wants it closed. The token is cancelled once it is closed.
    pub(crate) fn end_with(self, now: CancellationToken, over: impl Future<Output = ()> + Send + 'static) -> Self {
        let _closed = Some(now.clone().drop_guard());
        let end = async move {
            tokio::select! {
                () = now.cancelled() => {}
                () = over => {}
            }
        };
        Self { end: Some(Box::pin(end)), _closed, ..self }
    }

    /// His key, who is at the other end.
    pub(crate) fn key(&self) -> PublicKey {
        self.shown.key
    }

    /// Closes it after a while, when somebody else wants it closed, or when this daemon changes what it believes: then whoever
    /// it is calls again. The token is cancelled once it is closed.
    pub(crate) fn end_soon(self, now: CancellationToken) -> Self {
        let _closed = Some(now.clone().drop_guard());
        let mut changes = self.shown.me.changes();
        changes.mark_unchanged();
        let end = async move {
            tokio::select! {
                () = now.cancelled() => {}
                () = tokio::time::sleep(STRANGER) => {}
                _ = changes.changed() => {}
            }
        };
        Self { end: Some(Box::pin(end)), _closed, ..self }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("shown", &self.shown).finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = Shown;

    fn connect_info(&self) -> Shown {
        self.shown.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(context).is_ready()) {
            self.end = None;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
