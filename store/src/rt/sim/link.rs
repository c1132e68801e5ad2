//! Simulated links: calls go from one host's gRPC client to another's gRPC server with all that they carry, encoded as
//! everywhere, and each part takes its time, or does not arrive. A link can be cut in one direction.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{AddrParseError, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as _, Frame};
use tokio::sync::{mpsc, oneshot};
use tonic::body::Body;
use tonic::codegen::{Service, StdError, http};
use tonic::{ConnectError, Status};

use super::chance::Chance;
use super::{Run, now, sleep, spawn};
use crate::raft::channel::Purpose;
use crate::raft::types::Peer;
use crate::tls::{CONNECT, NodeKey, PublicKey, Shown};

/// How long what was sent may stay under way before a connection counts as broken.
const BREAK: Duration = Duration::from_secs(4);
/// How often it is looked whether a cut link is whole again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// An address that cannot be one.
pub(crate) type Unusable = AddrParseError;

type Request = http::Request<Body>;
type Response = http::Response<Body>;
type Serve = Arc<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>;

/// Every link between hosts. Clones are the same.
#[derive(Clone)]
pub struct Net(Arc<Mutex<State>>);

struct State {
    listeners: BTreeMap<SocketAddr, Listener>,
    cut: BTreeSet<(u64, u64)>,
    latency: (Duration, Duration),
    chance: Chance,
}

#[derive(Clone)]
struct Listener {
    run: Run,
    key: NodeKey,
    serve: Serve,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").finish_non_exhaustive()
    }
}

impl Net {
    /// Whole links, whose luck follows from the seed.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            listeners: BTreeMap::new(),
            cut: BTreeSet::new(),
            latency: (Duration::from_micros(100), Duration::from_millis(1)),
            chance: Chance::new(seed),
        })))
    }

    /// Nothing goes from one host to another any more.
    pub fn cut(&self, from: u64, to: u64) {
        self.state().cut.insert((from, to));
    }

    /// Everything goes from one host to another again.
    pub fn mend(&self, from: u64, to: u64) {
        self.state().cut.remove(&(from, to));
    }

    /// Everything goes everywhere again.
    pub fn heal(&self) {
        self.state().cut.clear();
    }

    /// How long a message takes from now on, at least and at most.
    pub fn set_latency(&self, least: Duration, most: Duration) {
        self.state().latency = (least, most);
    }

    fn listen(&self, address: SocketAddr, listener: Listener) {
        self.state().listeners.insert(address, listener);
    }

    fn listener(&self, address: SocketAddr) -> Option<Listener> {
        self.state().listeners.get(&address).filter(|listener| !listener.run.is_over()).cloned()
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.state().cut.contains(&(from, to))
    }

    /// Waits until a message has arrived, or says that it will not.
    async fn pass(&self, from: u64, to: u64) -> Result<(), io::Error> {
        let sent = now();
        while self.is_cut(from, to) {
            if now() - sent >= BREAK {
                return Err(ErrorKind::ConnectionReset.into());
            }
            sleep(LOOK_AGAIN).await;
        }
        let latency = {
            let mut state = self.state();
            let (least, most) = state.latency;
            least + Duration::from_micros(state.chance.below((most - least).as_micros() as u64 + 1))
        };
        sleep(latency).await;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves calls to an address, as the present run.
pub(crate) fn listen(address: SocketAddr, key: &NodeKey, serve: Serve) {
    let Some(run) = Run::current() else { return };
    run.host().net.listen(address, Listener { run: run.clone(), key: key.clone(), serve });
}

/// A connection.
#[derive(Clone)]
pub(crate) struct Link {
    key: NodeKey,
    address: SocketAddr,
    /// Whose key must be there.
    expected: Option<PublicKey>,
    /// Whom it is connected to, and what it has shown there.
    open: Arc<Mutex<Option<(Run, Shown)>>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A connection that is made when first used, and again when it broke: only to the one that has the member's key.
pub(crate) fn lazy(key: &NodeKey, _member: u64, peer: &Peer, _purpose: Purpose) -> Result<Link, Unusable> {
    let address = peer.address.parse()?;
    Ok(Link { key: key.clone(), address, expected: Some(peer.key), open: Arc::default() })
}

/// Connects to an address, once whoever answers there has passed a check of the certificates that he has shown.
pub(crate) async fn dial<T, E: From<Status>>(
    key: &NodeKey,
    address: SocketAddr,
    check: impl FnOnce(&[Vec<u8>]) -> Result<T, E>,
) -> Result<(Link, T), E> {
    let link = Link { key: key.clone(), address, expected: None, open: Arc::default() };
    let here = here().map_err(|error| Status::unavailable(error.to_string()))?;
    let connected = link.connect(&here).await;
    let (there, _) = connected.map_err(|error| Status::unavailable(crate::error_chain(&error)))?;
    let checked = check(&there.key.chain())?;
    Ok((link, checked))
}

fn here() -> io::Result<Run> {
    Run::current().ok_or_else(|| io::Error::other("the host is off"))
}

impl Link {
    /// Who listens there and what he was shown, once there is a connection.
    async fn connect(&self, here: &Run) -> Result<(Listener, Shown), ConnectError> {
        let failed = |error: io::Error| ConnectError(error.into());
        let net = &here.host().net;
        let there = net.listener(self.address);
        let open = self.open().clone();
        if let (Some(there), Some((open, shown))) = (&there, open)
            && there.run.is(&open)
        {
            return Ok((there.clone(), shown));
        }
        let there = there.ok_or_else(|| failed(ErrorKind::ConnectionRefused.into()))?;
        let (from, to) = (here.host().number, there.run.host().number);
        let begun = now();
        while net.is_cut(from, to) || net.is_cut(to, from) {
            if now() - begun >= CONNECT {
                return Err(failed(ErrorKind::TimedOut.into()));
            }
            sleep(LOOK_AGAIN).await;
        }
        net.pass(from, to).await.map_err(failed)?;
        let there = net.listener(self.address).ok_or_else(|| failed(ErrorKind::ConnectionRefused.into()))?;
        if let Some(expected) = self.expected {
            if expected != there.key.public() {
                return Err(failed(io::Error::other("another daemon has that address now")));
            }
            self.key.verify(&there.key.chain()).map_err(|error| failed(io::Error::other(error)))?;
        }
        let shown = Shown::new(self.key.chain(), self.address, &there.key).map_err(failed)?;
        *self.open() = Some((there.run.clone(), shown.clone()));
        Ok((there, shown))
    }

    async fn exchange(self, request: Request) -> Result<Response, StdError> {
        let here = here()?;
        let (there, shown) = match self.connect(&here).await {
            Ok(connected) => connected,
            // A refusal takes as long as an answer.
            Err(error) => {
                sleep(LOOK_AGAIN / 10).await;
                return Err(error.into());
            }
        };
        let net = here.host().net.clone();
        let (from, to) = (here.host().number, there.run.host().number);
        let (head, body) = request.into_parts();
        let (sender, arriving) = mpsc::unbounded_channel();
        drop(spawn(pump(body, sender, net.clone(), from, to)));
        let mut request = http::Request::from_parts(head, Body::new(Arriving(arriving)));
        request.extensions_mut().insert(shown);
        let (answer, answered) = oneshot::channel();
        let serve = there.serve.clone();
        let serving = async move {
            let (head, body) = serve(request).await.into_parts();
            if net.pass(to, from).await.is_err() {
                return;
            }
            let (sender, arriving) = mpsc::unbounded_channel();
            if answer.send(http::Response::from_parts(head, Body::new(Arriving(arriving)))).is_ok() {
                pump(body, sender, net, to, from).await;
            }
        };
        there.run.within(|| drop(spawn(serving)));
        answered.await.map_err(|_| {
            *self.open() = None;
            io::Error::from(ErrorKind::ConnectionReset).into()
        })
    }

    fn open(&self) -> MutexGuard<'_, Option<(Run, Shown)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service<Request> for Link {
    type Response = Response;
    type Error = StdError;
    type Future = BoxFuture<'static, Result<Response, StdError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        Box::pin(self.clone().exchange(request))
    }
}

/// What arrives of a body: a part, or that there is no more. Without the latter the connection broke.
type Part = Option<Frame<Bytes>>;

/// Sends a body part for part.
async fn pump(mut body: Body, sender: mpsc::UnboundedSender<Part>, net: Net, from: u64, to: u64) {
    loop {
        let part = tokio::select! {
            biased;
            part = poll_fn(|context| Pin::new(&mut body).poll_frame(context)) => part,
            () = sender.closed() => return,
        };
        // A sender that fails breaks the connection.
        let Ok(part) = part.transpose() else { return };
        let last = part.is_none();
        if net.pass(from, to).await.is_err() || sender.send(part).is_err() || last {
            return;
        }
    }
}

/// A body of which parts arrive.
struct Arriving(mpsc::UnboundedReceiver<Part>);

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|part| match part {
            Some(Some(frame)) => Some(Ok(frame)),
            Some(None) => None,
            None => Some(Err(ErrorKind::ConnectionReset.into())),
        })
    }
}
