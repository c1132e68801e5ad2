//! What a container asks Docker's resolver, steered to sockets of ours in its network namespace by a program that the
//! kernel runs when it looks for a packet's socket (`node/bpf/steer.c`, docs/decisions/names.md).

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use aya::maps::{Array, SockMap};
use aya::programs::SkLookup;
use aya::{Ebpf, EbpfLoader};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrIn, bind, sendmsg, socket,
};

use super::error::KernelError;
use super::netns::{self, run_in};

/// Where Docker's resolver is in every namespace that has one.
const DOCKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// From where it is asked what we do not know: the program leaves that alone.
const ONWARD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 12);
/// Where our sockets are.
const OURS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 13);

/// The program, as `make bpf` compiles it. Aligned, because it is read as the structures of an ELF file.
static PROGRAM: &[u8] = aya::include_bytes_aligned!("../../bpf/steer.o");

/// Keys of the program's maps.
const UDP: u32 = 0;
const TCP: u32 = 1;

/// Ports of Docker's resolver in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    udp: u16,
    tcp: u16,
}

/// A namespace in which what is asked of Docker's resolver comes to these sockets, until this is dropped.
#[derive(Debug)]
pub struct Steered {
    /// What comes by UDP. Answers leave by [`answer_from_docker`].
    pub udp: UdpSocket,
    /// What comes by TCP.
    pub tcp: TcpListener,
    /// Connected with Docker's resolver, for what is passed on.
    pub onward: UdpSocket,
    /// How to reach that resolver by TCP.
    pub door: Door,
    /// What steers.
    pub program: Program,
}

/// The program, attached to a namespace until this is dropped.
#[derive(Debug)]
pub struct Program(#[expect(dead_code, reason = "it is there to be dropped")] Ebpf);

/// A way to Docker's resolver in a namespace.
#[derive(Debug)]
pub struct Door {
    path: PathBuf,
    namespace: File,
    ports: Ports,
}

impl Steered {
    /// Begins to steer in the namespace that a file names; none: Docker has no resolver there (yet).
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered, or the kernel refuses the sockets or the program.
    pub fn begin(path: &Path) -> Result<Option<Self>, KernelError> {
        let namespace = netns::open(path)?;
        let made = run_in(&namespace, open).and_then(|made| made).map_err(failed("open sockets in", path))?;
        let Some((ports, udp, tcp, onward)) = made else { return Ok(None) };
        let program = load(&namespace, ports, &udp, &tcp).map_err(failed("steer names in", path))?;
        let door = Door { path: path.to_owned(), namespace, ports };
        Ok(Some(Self { udp, tcp, onward, door, program: Program(program) }))
    }
}

impl Door {
    /// Whether the file still names this namespace, and Docker's resolver is where it was. Only its UDP socket is looked for: the
    /// kernel lists TCP sockets by going through those of all namespaces.
    pub fn is_there(&self) -> bool {
        let listens = || listening("udp", BOUND).is_ok_and(|found| found.contains(&self.ports.udp));
        netns::is_at(&self.namespace, &self.path) && run_in(&self.namespace, listens).unwrap_or(false)
    }

    /// A socket from which Docker's resolver can be asked by TCP, not connected yet, and that resolver's address.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered.
    pub fn open(&self) -> io::Result<(TcpStream, SocketAddrV4)> {
        let opened = run_in(&self.namespace, || -> io::Result<TcpStream> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
            bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(ONWARD, 0)))?;
            Ok(TcpStream::from(fd))
        });
        Ok((opened??, SocketAddrV4::new(DOCKER, self.ports.tcp)))
    }
}

/// Sends an answer as Docker's resolver would: from its address, so that Docker's rules in the namespace turn it into what
/// the container has asked.
///
/// # Errors
///
/// The kernel does not take it (now).
pub fn answer_from_docker(socket: &impl AsRawFd, bytes: &[u8], to: SocketAddrV4) -> io::Result<()> {
    let source = libc::in_addr { s_addr: u32::from_ne_bytes(DOCKER.octets()) };
    let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: libc::in_addr { s_addr: 0 } };
    let (bytes, from) = ([io::IoSlice::new(bytes)], [ControlMessage::Ipv4PacketInfo(&info)]);
    sendmsg(socket.as_raw_fd(), &bytes, &from, MsgFlags::MSG_DONTWAIT, Some(&SockaddrIn::from(to)))?;
    Ok(())
}

/// The sockets of the calling thread's namespace.
type Sockets = (Ports, UdpSocket, TcpListener, UdpSocket);

fn open() -> io::Result<Option<Sockets>> {
    let Some(ports) = ports()? else { return Ok(None) };
    let udp = UdpSocket::bind((OURS, ports.udp))?;
    let tcp = TcpListener::bind((OURS, ports.tcp))?;
    let onward = UdpSocket::bind((ONWARD, 0))?;
    onward.connect((DOCKER, ports.udp))?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    onward.set_nonblocking(true)?;
    Ok(Some((ports, udp, tcp, onward)))
}

/// State of a socket that waits for datagrams, and of one that waits for connections, as the kernel's tables have them
/// (TCP_CLOSE and TCP_LISTEN of net/tcp_states.h).
const BOUND: &str = "07";
const LISTENS: &str = "0A";

/// The ports of Docker's resolver in the calling thread's namespace, if it listens there. The first ones: a container's own
/// program can open a socket at that address, but the engine has opened its own before it started one.
fn ports() -> io::Result<Option<Ports>> {
    let Some(&udp) = listening("udp", BOUND)?.first() else { return Ok(None) };
    Ok(listening("tcp", LISTENS)?.first().map(|&tcp| Ports { udp, tcp }))
}

/// Ports at Docker's address in a table of the calling thread's namespace (proc(5)), of sockets in this state.
fn listening(table: &str, state: &str) -> io::Result<Vec<u16>> {
    let address = format!("{:08X}:", u32::from_ne_bytes(DOCKER.octets()));
    let of = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words.get(1)?.strip_prefix(&address)?;
        (words.get(3) == Some(&state)).then(|| u16::from_str_radix(port, 16).ok()).flatten()
    };
    Ok(fs::read_to_string(format!("/proc/thread-self/net/{table}"))?.lines().filter_map(of).collect())
}

/// Loads programs. One for all: making it reads what the kernel tells of its types, some 7 ms of work, which this program
/// does not need.
static LOADER: LazyLock<Mutex<EbpfLoader<'_>>> = LazyLock::new(|| {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    Mutex::new(loader)
});

fn load(namespace: &File, ports: Ports, udp: &UdpSocket, tcp: &TcpListener) -> Result<Ebpf, aya::EbpfError> {
    // A loader is only read when it loads.
    let mut program = LOADER.lock().unwrap_or_else(PoisonError::into_inner).load(PROGRAM)?;
    let known = program.map_mut("PORTS").expect("the program has this map");
    let mut known = Array::try_from(known)?;
    known.set(UDP, u32::from(ports.udp), 0)?;
    known.set(TCP, u32::from(ports.tcp), 0)?;
    let sockets = program.map_mut("SOCKETS").expect("the program has this map");
    let mut sockets = SockMap::try_from(sockets)?;
    sockets.set(UDP, udp, 0)?;
    sockets.set(TCP, tcp, 0)?;
    let steer = program.program_mut("steer").expect("the program has this function");
    let steer: &mut SkLookup = steer.try_into()?;
    steer.load()?;
    steer.attach(namespace)?;
    Ok(program)
}

/// Steers nothing in a namespace, for a moment: it shows whether this kernel can.
///
/// # Errors
///
/// It cannot.
pub(super) fn try_in(namespace: &File) -> Result<(), KernelError> {
    let path = Path::new("a network namespace");
    let sockets = || Ok((UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?, TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?));
    let (udp, tcp) = run_in(namespace, sockets).and_then(|made| made).map_err(failed("open sockets in", path))?;
    load(namespace, Ports { udp: 0, tcp: 0 }, &udp, &tcp).map(drop).map_err(failed("steer names in", path))
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> KernelError {
    let path = path.to_owned();
    move |source| KernelError::Steer { operation, path, source: source.into() }
}
