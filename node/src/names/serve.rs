//! One container: what it asks comes here, by UDP and TCP, and is answered or passed on to Docker's resolver.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use pontoon_store::Store;
use pontoon_store::model::id::EndpointId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Names;
use super::answer::{Said, Transport, Turns, answer, failure, find, read};
use super::counts::Kind;
use super::onward::{Onward, PATIENCE, Unasked, Waiting};
use crate::kernel::{Door, Program, Steered, answer_from_docker};
use crate::plan::names::Directory;

/// Bytes of a message, at most (RFC 1035, section 4.2.2; also what a datagram can have).
const LARGEST: usize = u16::MAX as usize;
/// Connections of one container at once.
const CONNECTIONS: usize = 64;
/// How long a connection may stand still (RFC 7766, section 6.2.3, leaves it to the server), and how long Docker's resolver
/// may take.
const IDLE: Duration = Duration::from_secs(15);
/// How long to wait when no connection can be taken, as when there are too many open files.
const AGAIN: Duration = Duration::from_millis(100);

/// A container that is served until this is dropped.
#[derive(Debug)]
pub(super) struct Container {
    asker: Arc<Asker>,
    _program: Program,
    _tasks: [AbortOnDropHandle<()>; 3],
}

/// Who asks, and what it takes to answer.
#[derive(Debug)]
struct Asker {
    store: Store,
    /// What the container is on the cluster's networks.
    endpoints: RwLock<BTreeSet<EndpointId>>,
    turns: Turns,
    /// Whoever has it looks for an answer: one container does not keep more than one core busy.
    looking: Semaphore,
    names: Arc<Names>,
    udp: UdpSocket,
    onward: Onward,
    door: Arc<Door>,
}

impl Container {
    /// Serves a container that is these endpoints.
    pub(super) fn serve(
        store: Store,
        names: Arc<Names>,
        endpoints: BTreeSet<EndpointId>,
        steered: Steered,
    ) -> io::Result<Self> {
        let Steered { udp, tcp, onward, door, program } = steered;
        let tcp = TcpListener::from_std(tcp)?;
        let asker = Arc::new(Asker {
            store,
            endpoints: RwLock::new(endpoints),
            turns: Turns::default(),
            looking: Semaphore::new(1),
            names,
            udp: UdpSocket::from_std(udp)?,
            onward: Onward::new(UdpSocket::from_std(onward)?),
            door: Arc::new(door),
        });
        let tasks = [
            tokio::spawn(datagrams(asker.clone())),
            tokio::spawn(answers(asker.clone())),
            tokio::spawn(connections(asker.clone(), tcp)),
        ];
        Ok(Self { asker, _program: program, _tasks: tasks.map(AbortOnDropHandle::new) })
    }

    /// It is these endpoints from now on.
    pub(super) fn is_now(&self, endpoints: &BTreeSet<EndpointId>) {
        if *self.asker.endpoints.read().unwrap_or_else(PoisonError::into_inner) != *endpoints {
            self.asker.endpoints.write().unwrap_or_else(PoisonError::into_inner).clone_from(endpoints);
        }
    }

    /// How to see whether it is there still.
    pub(super) fn door(&self) -> Weak<Door> {
        Arc::downgrade(&self.asker.door)
    }
}

impl Asker {
    /// What is said to a message; none: it is nothing of ours.
    async fn say(&self, message: &[u8], by: Transport) -> Option<Said> {
        let _permit = self.looking.acquire().await.ok()?;
        let asked = match read(message) {
            Ok(asked) => asked,
            Err(said) => return Some(said),
        };
        let found = {
            let endpoints = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);
            let ended = self.names.ended();
            find(&asked, &Directory::of_container(&self.store.state(), &endpoints, &ended), &self.turns)
        };
        found.map(|found| answer(&asked, by, found))
    }

    /// Sends an answer by UDP. What the kernel does not take is lost, as any datagram can be.
    fn send(&self, bytes: &[u8], to: SocketAddrV4, kind: Kind, since: Instant) {
        let _ = answer_from_docker(&self.udp, bytes, to);
        self.names.counts.answered(kind, since.elapsed());
    }

    /// Says that a question has no answer (now).
    fn fail(&self, waiting: &Waiting, kind: Kind) {
        if let Some(bytes) = failure(&waiting.asked) {
            self.send(&bytes, waiting.from, kind, waiting.since);
        }
    }

    /// What Docker's resolver says. It ends connections that stand still, so one from before may be of no use any more.
    async fn pass_on(&self, docker: &mut Option<TcpStream>, message: &[u8]) -> io::Result<Vec<u8>> {
        if let Some(mut before) = docker.take()
            && let Ok(bytes) = exchange(&mut before, message).await
        {
            *docker = Some(before);
            return Ok(bytes);
        }
        let mut stream = timeout(IDLE, self.connect()).await??;
        let bytes = exchange(&mut stream, message).await?;
        *docker = Some(stream);
        Ok(bytes)
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let door = self.door.clone();
        let opened = tokio::task::spawn_blocking(move || door.open()).await;
        let (socket, address) = opened.map_err(io::Error::other)??;
        TcpSocket::from_std_stream(socket).connect(address.into()).await
    }
}

/// Takes what comes by UDP.
async fn datagrams(asker: Arc<Asker>) {
    let mut buffer = vec![0; LARGEST];
    while asker.onward.ready().await.is_err() {
        sleep(AGAIN).await;
    }
    loop {
        let Ok((length, SocketAddr::V4(from))) = asker.udp.recv_from(&mut buffer).await else {
            sleep(AGAIN).await;
            continue;
        };
        let (since, message) = (Instant::now(), &buffer[..length]);
        asker.names.counts.asked_by_udp();
        match asker.say(message, Transport::Udp).await {
            Some(Said::Answer(bytes, kind)) => asker.send(&bytes, from, kind, since),
            Some(Said::Nothing) => {}
            None => match asker.onward.ask(message, from) {
                Ok(()) => {}
                Err(Unasked::TooMany(waiting)) => asker.fail(&waiting, Kind::Busy),
                Err(Unasked::Unsent(waiting)) => asker.fail(&waiting, Kind::Failed),
            },
        }
    }
}

/// Gives back what Docker's resolver has answered, and says so of what it has not.
async fn answers(asker: Arc<Asker>) {
    let mut buffer = vec![0; LARGEST];
    let mut expiry = interval(PATIENCE / 15);
    loop {
        tokio::select! {
            answered = asker.onward.answer(&mut buffer) => match answered {
                Ok((length, waiting)) => asker.send(&buffer[..length], waiting.from, Kind::PassedOn, waiting.since),
                Err(unanswered) => unanswered.iter().for_each(|waiting| asker.fail(waiting, Kind::Failed)),
            },
            _ = expiry.tick() => asker.onward.expire(PATIENCE).iter().for_each(|waiting| asker.fail(waiting, Kind::Failed)),
        }
    }
}

/// Takes connections.
async fn connections(asker: Arc<Asker>, listener: TcpListener) {
    // Those that are under way end with this task.
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = under_way.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(_) if under_way.len() >= CONNECTIONS => asker.names.counts.answered(Kind::Busy, Duration::ZERO),
                Ok((stream, _)) => drop(under_way.spawn(connection(asker.clone(), stream))),
                Err(_) => sleep(AGAIN).await,
            },
        }
    }
}

/// Answers what comes on a connection, in its order, until it ends or stands still.
async fn connection(asker: Arc<Asker>, mut stream: TcpStream) {
    let mut docker = None;
    while let Ok(message) = receive(&mut stream).await {
        let since = Instant::now();
        asker.names.counts.asked_by_tcp();
        let (bytes, kind) = match asker.say(&message, Transport::Tcp).await {
            Some(Said::Answer(bytes, kind)) => (bytes, kind),
            Some(Said::Nothing) => return,
            None => match asker.pass_on(&mut docker, &message).await {
                Ok(bytes) => (bytes, Kind::PassedOn),
                Err(_) => {
                    let Some(bytes) = failure(&message) else { return };
                    (bytes, Kind::Failed)
                }
            },
        };
        asker.names.counts.answered(kind, since.elapsed());
        if write(&mut stream, &bytes).await.is_err() {
            return;
        }
    }
}

/// Asks on a connection.
async fn exchange(stream: &mut TcpStream, message: &[u8]) -> io::Result<Vec<u8>> {
    write(stream, message).await?;
    receive(stream).await
}

/// Reads a message behind its length (RFC 1035, section 4.2.2).
async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    timeout(IDLE, async {
        let mut message = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut message).await?;
        Ok(message)
    })
    .await?
}

async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let bytes = [&length.to_be_bytes()[..], message].concat();
    timeout(IDLE, stream.write_all(&bytes)).await?
}
