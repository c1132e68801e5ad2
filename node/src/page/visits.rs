//! Taking connections for the page from whoever comes: few at once, and each for a short time, so that they leave the
//! daemon its file descriptors.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Connections at once. Who comes then waits.
const PLACES: usize = 64;
/// How long a connection may take: one request and its answer.
const STAY: Duration = Duration::from_secs(10);

/// A port that takes connections as said above.
#[derive(Debug)]
pub(super) struct Visits {
    listener: TcpListener,
    places: Arc<Semaphore>,
    stay: Duration,
}

impl Visits {
    /// Takes the connections of this port.
    pub(super) fn of(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(PLACES)), stay: STAY }
    }
}

impl Listener for Visits {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.expect("nobody closes the semaphore");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Visit { stream, end: Box::pin(sleep(self.stay)), _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that has a place, and breaks when its time is over.
#[derive(Debug)]
pub(super) struct Visit {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Visit {
    /// What came of reading or writing, or the end of it.
    fn unless_over<T>(&mut self, context: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            return done;
        }
        ready!(self.end.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Visit {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_read(context, into);
        self.unless_over(context, done)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, from);
        self.unless_over(context, done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::Router;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    /// Far more than the connections of these tests take.
    const DEADLINE: Duration = Duration::from_secs(20);

    async fn serving(stay: Duration) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let visits = Visits { stay, ..Visits::of(listener) };
        tokio::spawn(async { axum::serve(visits, Router::new().fallback(async || "here")).await });
        address
    }

    #[tokio::test]
    async fn those_who_say_nothing_make_room() {
        let address = serving(Duration::from_millis(300)).await;
        let mut silent = Vec::new();
        for _ in 0..PLACES {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        timeout(DEADLINE, late.read_to_string(&mut answer)).await.expect("a place is free").unwrap();
        assert!(answer.ends_with("here"), "{answer}");
        let ended = timeout(DEADLINE, silent[0].read(&mut [0])).await.expect("its time is over");
        assert_eq!(ended.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn one_that_does_not_read_ends() {
        let (mut other, mut visit) = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut visits = Visits { stay: Duration::from_millis(300), ..Visits::of(listener) };
            let other = TcpStream::connect(address).await.unwrap();
            (other, visits.accept().await.0)
        };
        let much = vec![0; 64 << 20];
        let written = timeout(DEADLINE, visit.write_all(&much)).await.expect("its time is over");
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        other.read_exact(&mut [0]).await.unwrap();
    }
}
