//! The kernel's events. They only wake: what happened, the next pass sees for itself.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use pontoon_store::tasks::Task;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::netns::{self, DIRECTORY};
use crate::plan::desired::Names;

// Multicast groups (linux/rtnetlink.h: RTNLGRP_*; linux/netfilter/nfnetlink.h: NFNLGRP_NFTABLES).
const LINK: u32 = 1;
const NEIGH: u32 = 3;
const IPV4_IFADDR: u32 = 5;
const IPV4_ROUTE: u32 = 7;
const IPV6_IFADDR: u32 = 9;
const IPV6_ROUTE: u32 = 11;
const NFTABLES: u32 = 7;

/// In the host's namespace. Not neighbours: none of ours are there, and the host's change all the time.
const HOST: [u32; 5] = [LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE];
/// In our own namespace.
const OVERLAY: [u32; 2] = [LINK, NEIGH];
/// In the sandboxes, which our namespace hears of since it has a peer in each.
const SANDBOXES: [u32; 5] = HOST;

/// Bytes of a datagram that are read; the rest is of no interest either.
const DATAGRAM: usize = 64 * 1024;

/// How often, and in what intervals, a namespace's file is looked at until it is mounted on.
const MOUNT_TRIES: u32 = 100;
const MOUNT_WAIT: std::time::Duration = std::time::Duration::from_millis(10);

/// How long to wait before a socket that failed is opened again.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Wakes `wake` for everything that happens to links, addresses, routes, neighbours and rules on this host, in our
/// namespace and in the sandboxes, until `stop`. Has to run on threads in the host's network namespace.
///
/// Events can be lost; the loop looks every 30 s as well. When a socket fails, it is opened again: each time is a run of
/// `task`.
pub async fn watch(names: Names, wake: Arc<Notify>, task: Task, stop: CancellationToken) {
    while !stop.is_cancelled() {
        task.begin();
        let once = watch_once(&names, &wake);
        let ended = tokio::select! {
            ended = once => ended,
            () = stop.cancelled() => return,
        };
        let failed = ended.is_err();
        if let Err(error) = &ended {
            tracing::warn!(%error, "cannot listen to the kernel's events, trying again");
        }
        task.end(ended);
        if failed {
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = stop.cancelled() => return,
            }
        }
        // Whatever was missed while nobody listened.
        wake.notify_one();
    }
}

/// Listens until something fails, or the file of our namespace changes: then the sockets in it are opened anew.
async fn watch_once(names: &Names, wake: &Notify) -> io::Result<()> {
    let directory = Directory::open()?;
    let overlay = PathBuf::from(DIRECTORY).join(&names.netns);
    // Before the first pass there may be no namespace yet; its file is watched.
    let overlay = named(&overlay).await;
    let opening = tokio::task::spawn_blocking(move || open_all(overlay.as_ref()));
    let mut sockets = opening.await.map_err(io::Error::other)??;
    // Opened: what happened before is seen by the pass that this wakes.
    wake.notify_one();
    let listening = sockets.iter_mut().map(|socket| Box::pin(listen(socket, wake)));
    tokio::select! {
        (ended, ..) = futures::future::select_all(listening) => ended,
        changed = directory.changed(&names.netns) => changed,
    }
}

async fn listen(socket: &mut TokioSocket, wake: &Notify) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(DATAGRAM);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer).await {
            Ok(_) => wake.notify_one(),
            // More happened than the socket could hold: enough to know.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => wake.notify_one(),
            Err(error) => return Err(error),
        }
    }
}

/// The namespace that a file names. A file that names none is about to: it was seen between being made and being mounted on.
async fn named(path: &Path) -> Option<File> {
    for _ in 0..MOUNT_TRIES {
        let file = File::open(path).ok()?;
        if netns::is_namespace(&file) {
            return Some(file);
        }
        tokio::time::sleep(MOUNT_WAIT).await;
    }
    None
}

fn open_all(overlay: Option<&File>) -> io::Result<Vec<TokioSocket>> {
    let mut sockets = vec![open(NETLINK_ROUTE, &HOST, false)?, open(NETLINK_NETFILTER, &[NFTABLES], false)?];
    if let Some(file) = overlay {
        let runtime = tokio::runtime::Handle::current();
        let inside = || {
            let _entered = runtime.enter();
            Ok::<_, io::Error>([open(NETLINK_ROUTE, &OVERLAY, false)?, open(NETLINK_ROUTE, &SANDBOXES, true)?])
        };
        if let Ok(inside) = netns::run_in(file, inside) {
            sockets.extend(inside?);
        }
    }
    Ok(sockets)
}

fn open(protocol: isize, groups: &[u32], all_namespaces: bool) -> io::Result<TokioSocket> {
    let mut opened = TokioSocket::new(protocol)?;
    let socket = opened.socket_mut();
    socket.bind(&SocketAddr::new(0, 0))?;
    if all_namespaces {
        socket.set_listen_all_namespaces(true)?;
    }
    for group in groups {
        socket.add_membership(*group)?;
    }
    Ok(opened)
}

/// The directory with the namespaces' files.
struct Directory {
    inotify: Inotify,
    /// Tells when there is something to read from it.
    ready: AsyncFd<OwnedFd>,
}

impl Directory {
    #[allow(unsafe_code, reason = "tokio has no safe way to register a descriptor of a kind that it does not know")]
    fn open() -> io::Result<Self> {
        fs::create_dir_all(DIRECTORY)?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let what = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
        inotify.add_watch(DIRECTORY, what)?;
        // SAFETY: the descriptor is owned by the value that is registered, which does not give it away, so it stays
        // open and the same for as long as it is registered.
        let ready = unsafe { AsyncFd::register(inotify.as_fd().try_clone_to_owned()?) }?;
        Ok(Self { inotify, ready })
    }

    /// Waits until a file of this name comes or goes.
    async fn changed(&self, name: &str) -> io::Result<()> {
        loop {
            let mut ready = self.ready.readable().await?;
            match ready.try_io(|_| self.inotify.read_events().map_err(io::Error::from)) {
                Ok(events) => {
                    if events?.iter().any(|e| e.name.as_deref().is_some_and(|n| n == name)) {
                        return Ok(());
                    }
                }
                Err(_would_block) => {}
            }
        }
    }
}
