//! Network namespaces: opening, entering, making and naming them.

use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::fstatfs;
use pontoon_store::model::object::Sandbox;

use super::error::KernelError;
use super::socket::Netlink;

/// Where `ip netns` keeps the files that name namespaces.
pub(super) const DIRECTORY: &str = "/run/netns";

/// Magic number of the file system that namespaces' files are on (linux/magic.h: NSFS_MAGIC).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Socket option that tells a namespace's cookie (asm-generic/socket.h: SO_NETNS_COOKIE).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// An open network namespace and a netlink socket in it.
pub(super) struct Namespace {
    /// Keeps it alive.
    pub(super) file: File,
    /// Socket in it.
    pub(super) netlink: Netlink,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KernelError {
    let path = path.to_owned();
    move |source| KernelError::Namespace { operation, path, source }
}

/// The namespace that a file names. Errors of kind `NotFound` mean that the file is not there.
pub(super) fn open(path: &Path) -> Result<File, KernelError> {
    let file = File::open(path).map_err(failed("open network namespace", path))?;
    if is_namespace(&file) { Ok(file) } else { Err(KernelError::NoNamespace { path: path.to_owned() }) }
}

/// The namespace that the calling thread is in.
pub(super) fn current() -> Result<File, KernelError> {
    let path = Path::new("/proc/thread-self/ns/net");
    File::open(path).map_err(failed("open network namespace", path))
}

/// Runs a function on a thread of its own in a namespace.
pub(super) fn run_in<T: Send>(file: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let enter = || -> io::Result<T> {
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    };
    std::thread::scope(|scope| scope.spawn(enter).join())
        .unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))
}

impl Namespace {
    /// Opens the namespace that a file names. Errors of kind `NotFound` mean that the file is not there.
    pub(super) fn open(path: &Path) -> Result<Self, KernelError> {
        Self::of_file(open(path)?).map_err(failed("enter network namespace", path))
    }

    fn of_file(file: File) -> io::Result<Self> {
        let netlink = run_in(&file, Netlink::open)??;
        Ok(Self { file, netlink })
    }

    /// Makes a namespace and gives it a file: `ip netns add NAME`.
    pub(super) fn create(path: &Path) -> Result<Self, KernelError> {
        let namespace = Self::unnamed().map_err(failed("make network namespace", path))?;
        namespace.mount(path)?;
        Ok(namespace)
    }

    /// Makes a namespace that has no file, and is gone with its last user.
    pub(super) fn unnamed() -> io::Result<Self> {
        let make = || -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        };
        let made = std::thread::scope(|scope| scope.spawn(make).join());
        Self::of_file(made.unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))?)
    }

    /// Whether the file names this namespace.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        is_at(&self.file, path)
    }

    /// Gives the namespace its file: `mount --bind /proc/self/fd/N PATH`. Whatever namespace has the file loses it.
    pub(super) fn mount(&self, path: &Path) -> Result<(), KernelError> {
        share_directory().map_err(failed("prepare", Path::new(DIRECTORY)))?;
        unmount(path);
        File::create(path).map_err(failed("make", path))?;
        let source = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        mount(Some(&source), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|errno| failed("mount network namespace on", path)(errno.into()))
    }

    /// Key of the namespace: the host's boot id and the kernel's cookie, which no other namespace gets before a reboot.
    pub(super) fn key(&self) -> Result<String, KernelError> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(path).map_err(failed("read", path))?;
        let cookie =
            cookie(&self.netlink).map_err(failed("ask for the cookie of", Path::new("the network namespace")))?;
        Ok(format!("{}:{cookie}", boot.trim()))
    }
}

/// Takes the file away from the namespace that it names: `ip netns del NAME`.
pub(super) fn remove(path: &Path) -> Result<(), KernelError> {
    unmount(path);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn unmount(path: &Path) {
    // Several may lie on top of each other; the last error says that none is left.
    while umount2(path, MntFlags::MNT_DETACH).is_ok() {}
}

/// Whether a path names the namespace that this file is of.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let of = |m: fs::Metadata| (m.dev(), m.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(mine), Ok(there)) => of(mine) == of(there),
        _ => false,
    }
}

/// Whether a file is one of a namespace.
pub(super) fn is_namespace(file: &File) -> bool {
    #[allow(clippy::unnecessary_cast, reason = "the type differs between C libraries")]
    fstatfs(file).is_ok_and(|s| s.filesystem_type().0 as i64 == NSFS_MAGIC)
}

/// Makes the directory a shared mount, as `ip netns` does: else a namespace's file would stay mounted in every mount
/// namespace that was made meanwhile, and could not be removed.
fn share_directory() -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
    let share = || mount(None::<&str>, DIRECTORY, None::<&str>, shared, None::<&str>);
    if share().is_err() {
        mount(Some(DIRECTORY), DIRECTORY, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
        share()?;
    }
    Ok(())
}

#[allow(unsafe_code, reason = "no crate in use wraps SO_NETNS_COOKIE")]
fn cookie(netlink: &Netlink) -> io::Result<u64> {
    let (mut value, mut length) = (0_u64, mem::size_of::<u64>() as libc::socklen_t);
    let fd = netlink.socket().as_raw_fd();
    // SAFETY: the descriptor is open for as long as `netlink` lives; the value and its length are
    // valid for writing, and the length says how large the value is.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut value).cast(), &raw mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Identifies the network namespace that a file names.
///
/// # Errors
/// When the file is not there, is no network namespace, or may not be entered.
pub fn sandbox(netns: &str) -> Result<Sandbox, KernelError> {
    let namespace = Namespace::open(Path::new(netns))?;
    Ok(Sandbox { netns: netns.to_owned(), key: namespace.key()? })
}

/// Opens a sandbox, if its file still names the namespace that it named.
pub(super) fn open_sandbox(sandbox: &Sandbox) -> Result<Namespace, KernelError> {
    let path = Path::new(&sandbox.netns);
    let namespace = Namespace::open(path)?;
    let found = namespace.key()?;
    if found == sandbox.key {
        return Ok(namespace);
    }
    Err(KernelError::OtherNamespace { path: path.to_owned(), expected: sandbox.key.clone(), found })
}
