//! Taking connections for the page and the metrics from whoever comes: few at once, and each for a short time, so that
//! they leave the daemon its file descriptors; and not for web pages from elsewhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use crate::daemon::Daemon;

/// Connections at once. Who comes then waits.
const PLACES: usize = 64;
/// How long a connection may take: one request and its answer.
const STAY: Duration = Duration::from_secs(10);

/// A port that takes connections as said above.
#[derive(Debug)]
pub(crate) struct Visits {
    listener: TcpListener,
    places: Arc<Semaphore>,
    stay: Duration,
}

impl Visits {
    /// Takes the connections of this port.
    pub(crate) fn of(listener: TcpListener) -> Self {
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
pub(crate) struct Visit {
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

/// Refuses requests for another name than this host's. A page from elsewhere can make its own name lead here
/// (DNS rebinding); the browser then takes the answer for a part of that page, and gives it away.
pub(crate) async fn only_for_this_host(State(daemon): State<Arc<Daemon>>, request: Request, next: Next) -> Response {
    let asked = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = daemon.name();
    if is_ours(asked, &name) {
        return next.run(request).await;
    }
    let text = format!(
        "nothing is shown as {asked:?}: ask by an IP address, as localhost or by the name of this node, {name}\n"
    );
    (StatusCode::FORBIDDEN, text).into_response()
}

/// Whether a Host header, with or without a port, is an address, localhost or the name of this node.
fn is_ours(asked: &str, name: &str) -> bool {
    let Ok(authority) = asked.parse::<Authority>() else { return false };
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost") || host.eq_ignore_ascii_case(name)
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

    #[test]
    fn it_is_shown_under_names_of_this_host_only() {
        let ours = ["127.0.0.1", "127.0.0.1:7301", "192.168.140.200:80", "[::1]:7301", "[fd00::1]", "localhost:7301"];
        for host in ours.into_iter().chain(["LocalHost", "host1", "Host1:7301"]) {
            assert!(is_ours(host, "host1"), "{host}");
        }
        let foreign = ["", "evil.example", "evil.example:7301", "localhost.evil.example", "127.0.0.1.evil.example"];
        for host in
            foreign.into_iter().chain(["host1.evil.example", "host2", ":7301", "::1", "[localhost]", "a b", "@"])
        {
            assert!(!is_ours(host, "host1"), "{host}");
        }
        assert!(!is_ours("", ""));
    }
}
