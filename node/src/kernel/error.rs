//! What can go wrong with the kernel.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// The kernel's answer to a netlink request that it refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}{}{text}", io::Error::from_raw_os_error(*errno), if text.is_empty() { "" } else { ": " })]
pub struct Refusal {
    /// Error number.
    pub errno: i32,
    /// The kernel's own words (extended acknowledgement); empty when it has none.
    pub text: String,
}

impl Refusal {
    /// From the operating system's error.
    pub fn of_io(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self { errno, text: String::new() },
            None => Self { errno: libc::EIO, text: error.to_string() },
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::of_io(&error)
    }
}

/// Something could not be done in the kernel.
#[derive(Debug, Error)]
pub enum KernelError {
    /// A netlink request was refused.
    #[error("cannot {operation}: {source}")]
    Netlink {
        /// What was tried, on what.
        operation: String,
        /// The kernel's answer.
        source: Refusal,
    },
    /// A VNI is in use by somebody else.
    #[error(
        "cannot create VXLAN device {device}: VNI {vni} on UDP port {port} is in use by another program of this host \
         (find it with `ip -d link show type vxlan`, also in other namespaces); remove that device, or make the network \
         with another VNI (pontoon network create --vni)"
    )]
    VniTaken {
        /// Our device.
        device: String,
        /// VNI.
        vni: u32,
        /// Port.
        port: u16,
    },
    /// The UDP port of VXLAN is in use by somebody else.
    #[error(
        "cannot start VXLAN device {device}: UDP port {port} is in use by another program of this host (find it with \
         `ss -ulpn`); stop that program"
    )]
    PortTaken {
        /// Our device.
        device: String,
        /// Port.
        port: u16,
    },
    /// An interface of that name is there already.
    #[error(
        "cannot create interface {ifname} in {netns}: it has an interface of that name already; remove it, or \
         attach with another --ifname"
    )]
    NameTaken {
        /// Name.
        ifname: String,
        /// The sandbox's file.
        netns: String,
    },
    /// An interface that is not ours has the name of the gateway bridge.
    #[error(
        "interface {ifname} of the host is not ours and stays as it is: containers get no way out; remove or rename it, or \
         start pontoond with another --gateway-bridge"
    )]
    GatewayTaken {
        /// Name.
        ifname: String,
    },
    /// An interface in a sandbox is not the one that we made.
    #[error("interface {ifname} {place} is not ours and stays as it is; remove it, or attach with another --ifname")]
    NotOurs {
        /// Name.
        ifname: String,
        /// Where it is.
        place: String,
    },
    /// A namespace's file could not be used.
    #[error("cannot {operation} {path}: {source}")]
    Namespace {
        /// What was tried.
        operation: &'static str,
        /// File.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file does not name the namespace that it should.
    #[error("{path} is not the network namespace it was: expected {expected}, found {found}")]
    OtherNamespace {
        /// File.
        path: PathBuf,
        /// Key of the namespace that was attached.
        expected: String,
        /// Key of what is there.
        found: String,
    },
    /// A file is no network namespace.
    #[error("{path} is not a network namespace; give a file such as /run/netns/NAME or /proc/PID/ns/net")]
    NoNamespace {
        /// File.
        path: PathBuf,
    },
    /// Our own namespace is missing although a step needs it.
    #[error("our network namespace {0} is not there; it could not be made")]
    NoOverlay(String),
    /// An interface that a step needs is missing.
    #[error("interface {ifname} is not there {place}")]
    NoInterface {
        /// Name.
        ifname: String,
        /// Where it was looked for.
        place: String,
    },
    /// nft could not be run.
    #[error("cannot run nft: {0}; install the package nftables")]
    NoNft(#[source] io::Error),
    /// nft failed.
    #[error("nft cannot {operation}: {stderr}")]
    Nft {
        /// What was tried.
        operation: String,
        /// What it said.
        stderr: String,
    },
    /// A sysctl could not be read or written.
    #[error("cannot {operation} {path}: {source}")]
    Sysctl {
        /// read or write.
        operation: &'static str,
        /// File.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Names cannot be answered in a container's namespace.
    #[error("cannot {operation} {path}: {source}")]
    Steer {
        /// What was tried.
        operation: &'static str,
        /// The namespace's file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon may not do its work.
    #[error("pontoond needs CAP_NET_ADMIN and CAP_SYS_ADMIN and lacks {0}; run it as root or with its systemd unit")]
    Privileges(String),
    /// The object cannot be made as it is.
    #[error("{0}")]
    Impossible(String),
}

impl KernelError {
    pub(super) fn netlink(operation: impl Into<String>) -> impl FnOnce(Refusal) -> Self {
        let operation = operation.into();
        move |source| Self::Netlink { operation, source }
    }
}
