//! Names: who asks, and who is asked in the end.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use nix::sched::{CloneFlags, setns};

use super::{Docker, Netns};

/// Where Docker's resolver is for every container.
const DOCKER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
/// The address of every name that a [`Resolver`] knows (RFC 5737).
pub const ANSWERED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// How long an answer is waited for: as long as the usual stub resolver does.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a message, at most.
const LARGEST: usize = u16::MAX as usize;

/// Opens something in a namespace.
fn open_in<T: Send>(netns: &Netns, open: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = netns.seen();
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let enter = || {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        open()
    };
    thread::scope(|scope| scope.spawn(enter).join()).unwrap_or_else(|_| Err(anyhow!("its thread panicked")))
}

/// A name server that knows all of `example.com`, and keeps what it was asked.
#[derive(Debug)]
pub struct Resolver {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Resolver {
    /// Starts one in a namespace. It is there until the test ends.
    ///
    /// # Errors
    ///
    /// Its port is in use.
    pub fn start(netns: &Netns, address: IpAddr) -> Result<Self> {
        let socket = open_in(netns, || Ok(UdpSocket::bind((address, 53))?))?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if let Some((name, bytes)) = reply(&buffer[..length]) {
                    log.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                    let _ = socket.send_to(&bytes, from);
                }
            }
        });
        Ok(Self { asked })
    }

    /// The names that it was asked for so far, in their order and without the dot at the end.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn reply(message: &[u8]) -> Option<(String, Vec<u8>)> {
    let mut reply = Message::from_vec(message).ok()?;
    let query = reply.queries.first()?.clone();
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    let name = query.name().to_ascii().trim_end_matches('.').to_owned();
    match query.query_type() {
        _ if !name.ends_with(".example.com") => reply.metadata.response_code = ResponseCode::NXDomain,
        RecordType::A => drop(reply.add_answer(Record::from_rdata(query.name().clone(), 60, RData::A(A(ANSWERED))))),
        _ => {}
    }
    Some((name, reply.to_vec().ok()?))
}

/// A container's program that asks for names.
#[derive(Debug)]
pub struct Asker {
    netns: Netns,
    socket: UdpSocket,
}

impl Asker {
    /// In a container.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn in_container(docker: &Docker, container: &str) -> Result<Self> {
        let netns = docker.netns(container)?;
        let socket = open_in(&netns, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(DOCKER)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        })?;
        Ok(Self { netns, socket })
    }

    /// Sends a datagram.
    ///
    /// # Errors
    ///
    /// It cannot be sent.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        ensure!(self.socket.send(bytes)? == bytes.len());
        Ok(())
    }

    /// The next datagram.
    ///
    /// # Errors
    ///
    /// None comes in 5 s.
    pub fn receive(&self) -> Result<Vec<u8>> {
        let mut buffer = vec![0; LARGEST];
        let length = self.socket.recv(&mut buffer).context("no answer")?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Asks a question.
    ///
    /// # Errors
    ///
    /// There is no answer in 5 s.
    pub fn ask(&self, name: &str, wanted: RecordType) -> Result<Message> {
        let question = question(name, wanted)?;
        self.send(&question.to_vec()?)?;
        loop {
            let answer = Message::from_vec(&self.receive().with_context(|| format!("asking for {name}"))?)?;
            // A late one, of a question before.
            if answer.metadata.id == question.metadata.id {
                return Ok(answer);
            }
        }
    }

    /// Asks for the IPv4 addresses that a name has, in the order in which they are told.
    ///
    /// # Errors
    ///
    /// There is no answer in 5 s.
    pub fn addresses(&self, name: &str) -> Result<Vec<IpAddr>> {
        let answer = self.ask(name, RecordType::A)?;
        Ok(answer.answers.iter().filter_map(|record| record.data.ip_addr()).collect())
    }

    /// Asks for what the host at an address is called.
    ///
    /// # Errors
    ///
    /// There is no answer in 5 s.
    pub fn name_of(&self, address: IpAddr) -> Result<Vec<String>> {
        let answer = self.ask(&Name::from(address).to_ascii(), RecordType::PTR)?;
        Ok(answer.answers.iter().map(|record| record.data.to_string()).collect())
    }

    /// Asks by TCP.
    ///
    /// # Errors
    ///
    /// There is no answer in 5 s.
    pub fn ask_by_tcp(&self, name: &str, wanted: RecordType) -> Result<Message> {
        let mut stream = self.connect()?;
        let question = question(name, wanted)?.to_vec()?;
        stream.write_all(&[&u16::try_from(question.len())?.to_be_bytes()[..], &question].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer)?;
        Ok(Message::from_vec(&answer)?)
    }

    /// A connection with the resolver.
    ///
    /// # Errors
    ///
    /// It takes none.
    pub fn connect(&self) -> Result<TcpStream> {
        let stream = open_in(&self.netns, || Ok(TcpStream::connect_timeout(&SocketAddr::from(DOCKER), PATIENCE)?))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// A question, as stub resolvers ask it.
///
/// # Errors
///
/// The name cannot be one.
pub fn question(name: &str, wanted: RecordType) -> Result<Message> {
    let mut question = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    question.add_query(Query::query(name, wanted));
    Ok(question)
}
