//! What a host has to itself, besides its network, when a Docker Engine is to run on it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Netns, OUTSIDE};

/// Makes a room and holds it open until the test ends. `$1` is the name of its cgroup, `$2` that of the host, `$3` the
/// address of a name server.
///
/// - A cgroup namespace begins where its first process is, and containers are made beside that process: hence the
///   cgroup `host` for everything else.
/// - `/run` is shared with what is bound to it: an engine in a root folder of its own mounts namespaces there, which a
///   daemon beside it is to see.
/// - An engine finds nothing in `/etc/docker`, and what its containerd makes in `/opt` does not stay.
/// - A file that names name servers may be a link into `/run`.
const SCRIPT: &str = r#"
set -e
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$1"
echo $$ >"/sys/fs/cgroup/$1/cgroup.procs"
exec unshare --cgroup -- sh -ec '
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/host
echo $$ >/sys/fs/cgroup/host/cgroup.procs
echo "$1" >/proc/sys/kernel/hostname
mount -t tmpfs -o mode=755 tmpfs /run
mount --make-shared /run
mkdir -p /run/docker/plugins /run/lock /run/netns
mkdir -p /run/lab/upper /run/lab/work
mount -t overlay -o lowerdir=/opt,upperdir=/run/lab/upper,workdir=/run/lab/work overlay /opt
[ ! -d /etc/docker ] || mount -t tmpfs -o mode=755 tmpfs /etc/docker
resolv=$(readlink -m /etc/resolv.conf)
case $resolv in /run/*) mkdir -p "${resolv%/*}"; touch "$resolv" ;; esac
echo "nameserver $2" >/run/lab/resolv.conf
[ ! -e "$resolv" ] || mount --bind /run/lab/resolv.conf "$resolv"
echo ready
exec cat >/dev/null' sh "$2" "$3"
"#;

/// Enters the room's cgroup, then its cgroup namespace: from inside, nothing can be moved into it. `$1` is the process
/// that holds the room; the rest is a command, and becomes this process.
const ENTER: &str = r#"
echo $$ >/sys/fs/cgroup/host/cgroup.procs || exit
holder=$1
shift
exec nsenter --target "$holder" --cgroup -- "$@"
"#;

/// A host's own mounts (among them `/run`, `/etc/docker` and `/sys`), host name and cgroup, beside its network
/// namespace. Its name server is the host outside, which refuses to be one. The guard ends whatever runs in it.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    holder: u32,
}

impl Room {
    /// A command that runs in it. Each program on the way becomes the next, so its process id is the command's own.
    pub fn command(&self, program: &str) -> Command {
        let holder = self.holder.to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &holder, "--net", "--mount", "--uts", "--", "sh", "-c", ENTER, "sh", &holder]);
        command.arg(program);
        command
    }

    /// Where the test finds a file of the room, such as one in its `/run`.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let root = PathBuf::from(format!("/proc/{}/root", self.holder));
        root.join(inside.strip_prefix("/").unwrap_or(inside))
    }
}

/// A process that keeps namespaces open.
#[derive(Debug)]
pub(super) struct Holder {
    process: Child,
}

impl Holder {
    /// Makes a room for a host with this name, in its network namespace. Its cgroup has the namespace's name, so that
    /// the guard finds it.
    pub(super) fn of_room(host: &str, netns: &Netns) -> Result<Self> {
        let mut command = netns.command("unshare");
        command.args(["--mount", "--uts", "--", "sh", "-c", SCRIPT, "sh", netns.name(), host, &OUTSIDE.to_string()]);
        Self::start(command).with_context(|| format!("cannot make the mounts and the cgroup of {host}"))
    }

    /// Runs a command that makes namespaces, says `ready`, and stays there until its standard input ends.
    pub(super) fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = Self { process: command.spawn().with_context(|| format!("cannot run {command:?}"))? };
        let mut line = String::new();
        BufReader::new(holder.process.stdout.take().context("no output")?).read_line(&mut line)?;
        if line.trim() != "ready" {
            let mut errors = String::new();
            holder.process.stderr.take().context("no errors")?.read_to_string(&mut errors)?;
            bail!("its mounts were not made: {}", errors.trim());
        }
        Ok(holder)
    }

    /// The room that it keeps.
    pub(super) fn room(&self) -> Room {
        Room { holder: self.process.id() }
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended already. The namespaces stay while another process is in them, which the guard ends.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
