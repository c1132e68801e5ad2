//! Hosts on one LAN, as network namespaces of this machine, with a router and an outside behind it.
//!
//! ```text
//!  h1 ens33 192.168.140.200, fd00:140::200 ──┐
//!  h2 ens33 192.168.140.201, fd00:140::201 ──┤ lan (bridge) ── router 192.168.140.1, fd00:140::1
//!  h3 ens33 192.168.140.202, fd00:140::202 ──┘                    └─ 203.0.113.1 ── outside 203.0.113.10
//! ```
//!
//! Every namespace and folder of a lab carries a prefix of its own, so that any number of labs run side by side. The
//! machine's own network namespace is never touched: links are made between the lab's namespaces.
//!
//! Hosts share the machine's file system and process ids. Each daemon therefore has its own data folder, socket
//! and name for its overlay namespace. A host with a Docker Engine has a `/run`, a host name and a cgroup of its own:
//! a [`Room`].

mod cli;
mod cluster;
mod container;
mod daemon;
pub mod dns;
mod docker;
mod engine;
mod guard;
mod journal;
mod netns;
mod ping;
mod plugin;
mod room;

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

pub use cli::{Cli, CliError, program};
pub use cluster::{Cluster, EnginesStart, Options, run, run_with};
pub use container::{Attached, Container};
pub use daemon::{Daemon, DaemonOptions};
pub use docker::{Docker, DockerError};
pub use engine::{Engine, EngineKind, IMAGE};
pub use journal::{Journal, while_writing};
pub use netns::Netns;
pub use ping::{PingReport, Pinger};
pub use plugin::{Answer, Plugin};
pub use room::Room;

use guard::Guard;
use room::Holder;

/// Interface of every host on the LAN.
pub const LAN_INTERFACE: &str = "ens33";
/// The router's address on the LAN: something of the hosts' LAN that is not a Pontoon host.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 140, 1);
/// The router's IPv6 address on the LAN.
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x140, 0, 0, 0, 0, 0, 1);
/// A host behind the router (RFC 5737).
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Its IPv6 address (RFC 3849).
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10);

/// Labs made by this process so far.
static LABS: AtomicU32 = AtomicU32::new(0);

/// Hosts on one LAN. Dropping it ends every process in its namespaces and removes them.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    dir: PathBuf,
    lan: Netns,
    router: Netns,
    outside: Netns,
    hosts: Vec<Host>,
    // Cleans up when it is dropped, so it comes last.
    _guard: Guard,
}

/// A host.
#[derive(Debug)]
pub struct Host {
    /// Its name: h1, h2, …
    pub name: String,
    /// Its network.
    pub netns: Netns,
    /// Address on the LAN.
    pub address: Ipv4Addr,
    /// IPv6 address on the LAN.
    pub address6: Ipv6Addr,
    /// Its end on the LAN's side, in the LAN's namespace.
    port: String,
    /// What keeps its room open, once it has one.
    holder: OnceLock<Holder>,
}

impl Host {
    /// Its address of this family.
    pub fn address_of(&self, v6: bool) -> IpAddr {
        if v6 { self.address6.into() } else { self.address.into() }
    }

    /// Its room, if it has one.
    pub fn room(&self) -> Option<Room> {
        self.holder.get().map(Holder::room)
    }

    /// Gives it a room, unless it has one. Daemons that are made from then on run in it.
    ///
    /// # Errors
    ///
    /// A mount or the cgroup cannot be made.
    pub fn hold(&self) -> Result<Room> {
        if let Some(room) = self.room() {
            return Ok(room);
        }
        let holder = Holder::of_room(&self.name, &self.netns)?;
        Ok(self.holder.get_or_init(|| holder).room())
    }
}

impl Lab {
    /// Makes a lab of `hosts` hosts, 1 to 50.
    ///
    /// # Errors
    ///
    /// Not root, or a namespace or link could not be made.
    pub fn new(hosts: usize) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "the lab makes network namespaces: run the tests as root");
        ensure!((1..=50).contains(&hosts), "a lab has 1 to 50 hosts, not {hosts}");
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("pt{:x}-{number}", process::id());
        let dir = env::temp_dir().join(format!("pontoon-{prefix}"));
        std::fs::create_dir(&dir).with_context(|| format!("cannot make the lab's folder {}", dir.display()))?;
        let guard = Guard::new(&prefix, &dir)?;
        let netns = |name: &str| Netns::create(&format!("{prefix}-{name}"));
        let mut lab = Self {
            lan: netns("lan")?,
            router: netns("router")?,
            outside: netns("outside")?,
            hosts: Vec::new(),
            _guard: guard,
            prefix,
            dir,
        };
        lab.make_underlay()?;
        for index in 0..hosts {
            let host = lab.make_host(index)?;
            lab.hosts.push(host);
        }
        Ok(lab)
    }

    /// What the names of everything in this lab begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The lab's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The router between the LAN and the outside.
    pub fn router(&self) -> &Netns {
        &self.router
    }

    /// The host outside.
    pub fn outside(&self) -> &Netns {
        &self.outside
    }

    /// Makes another namespace of the lab.
    ///
    /// # Errors
    ///
    /// It exists, or cannot be made.
    pub fn netns(&self, name: &str) -> Result<Netns> {
        Netns::create(&format!("{}-{name}", self.prefix))
    }

    /// Takes a host off the LAN.
    ///
    /// # Errors
    ///
    /// The link cannot be set.
    pub fn cut(&self, host: usize) -> Result<()> {
        self.lan.run("ip", &["link", "set", &self.hosts[host].port, "down"]).map(drop)
    }

    /// Puts it back.
    ///
    /// # Errors
    ///
    /// The link cannot be set.
    pub fn heal(&self, host: usize) -> Result<()> {
        self.lan.run("ip", &["link", "set", &self.hosts[host].port, "up"]).map(drop)
    }

    /// Lets nothing larger through to a host and from it than this many bytes, and tells nobody: 1500 is usual.
    ///
    /// # Errors
    ///
    /// The link cannot be set.
    pub fn narrow(&self, host: usize, mtu: u32) -> Result<()> {
        self.lan.run("ip", &["link", "set", &self.hosts[host].port, "mtu", &mtu.to_string()]).map(drop)
    }

    fn make_underlay(&self) -> Result<()> {
        self.lan.ip("link add br0 type bridge")?;
        self.lan.ip("link set br0 up")?;
        self.plug("prouter", &self.router)?;
        self.router.ip(&format!("addr add {ROUTER}/24 dev {LAN_INTERFACE}"))?;
        self.router.ip(&format!("addr add {ROUTER6}/64 dev {LAN_INTERFACE} nodad"))?;
        let outside = &self.outside;
        self.router.ip(&format!("link add out0 type veth peer name eth0 netns {}", outside.name()))?;
        self.router.ip("addr add 203.0.113.1/24 dev out0")?;
        self.router.ip("addr add 2001:db8:113::1/64 dev out0 nodad")?;
        self.router.ip("link set out0 up")?;
        self.router.run("sysctl", &["-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
        outside.ip(&format!("addr add {OUTSIDE}/24 dev eth0"))?;
        outside.ip(&format!("addr add {OUTSIDE6}/64 dev eth0 nodad"))?;
        outside.ip("link set eth0 up")?;
        outside.ip("route add default via 203.0.113.1")?;
        outside.ip("-6 route add default via 2001:db8:113::1")
    }

    fn make_host(&self, index: usize) -> Result<Host> {
        let last = 200 + u8::try_from(index)?;
        let address = Ipv4Addr::new(192, 168, 140, last);
        // Written alike: 192.168.140.200 is also fd00:140::200.
        let address6 = format!("fd00:140::{last}").parse()?;
        let name = format!("h{}", index + 1);
        let netns = self.netns(&name)?;
        let port = format!("p{}", index + 1);
        self.plug(&port, &netns)?;
        // A namespace inherits the machine's setting. A host without containers does not forward.
        netns.run("sysctl", &["-qw", "net.ipv4.ip_forward=0"])?;
        netns.ip(&format!("addr add {address}/24 dev {LAN_INTERFACE}"))?;
        netns.ip(&format!("addr add {address6}/64 dev {LAN_INTERFACE} nodad"))?;
        netns.ip(&format!("route add default via {ROUTER}"))?;
        netns.ip(&format!("-6 route add default via {ROUTER6}"))?;
        Ok(Host { name, netns, address, address6, port, holder: OnceLock::new() })
    }

    /// Gives a namespace an interface on the LAN.
    fn plug(&self, port: &str, netns: &Netns) -> Result<()> {
        let name = netns.name();
        self.lan.ip(&format!("link add {port} type veth peer name {LAN_INTERFACE} netns {name}"))?;
        self.lan.ip(&format!("link set {port} master br0 up"))?;
        netns.ip(&format!("link set {LAN_INTERFACE} up"))
    }
}
