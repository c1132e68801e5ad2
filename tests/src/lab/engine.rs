//! A running Docker Engine.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Pid;

use super::daemon::tail;
use super::netns::execute;
use super::room::Holder;
use super::{Host, Lab, Room};
use crate::wait_for;

/// How long an engine may take until it answers: one whose network plugin is away waits 15 s for each of its networks.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end: it gives its containers 15 s.
const STOP: Duration = Duration::from_secs(30);
/// How long one look whether it answers may take.
const PING: Duration = Duration::from_millis(500);

/// Where Debian's packages put programs, and nothing else.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// What would make the command or the engine do something else than the scenario says.
const ENVIRONMENT: [&str; 7] = [
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_API_VERSION",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "DOCKER_DEFAULT_PLATFORM",
    "DOCKER_TMPDIR",
];
/// Where an engine says which containerd is its own.
const CONTAINERD: &str = "/run/docker/containerd/containerd.pid";

/// The only image: busybox, iperf3 and sockperf. Its containers are stopped with SIGKILL, which takes no time.
pub const IMAGE: &str = "pontoon-test";

/// Makes the root that an engine of a suite runs in, and stays there. `$1` is the suite's folder, which stays as it is,
/// `$2` a folder for the mounts, `$3` the lab's folder.
///
/// It is the root of a mount namespace: one that is made with chroot, `docker exec` would leave for the machine's own
/// files. What is mounted in `/run` is the same there and in the room.
const ROOT: &str = r#"
set -e
mkdir -p "$2"
mount -t tmpfs tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
for shared in /proc /sys /dev /run; do mount --rbind "$shared" "$2/root$shared"; done
cp /run/lab/resolv.conf "$2/root/etc"
mkdir -p "$2/root$3" "$2/root/old"
mount --bind "$3" "$2/root$3"
cd "$2/root"
pivot_root . old
mount --make-rprivate /old
umount --lazy /old
rmdir /old
echo ready
exec cat >/dev/null
"#;

/// Where an engine comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// The package `docker.io` of this machine: 20.10 on Debian 12.
    Debian,
    /// That of another Debian release, in a root folder that `tests/setup.sh` has made: 26.1 in `trixie`.
    Suite(&'static str),
}

impl EngineKind {
    /// Its root folder, if it has one of its own; checks that it is there.
    fn root(self) -> Result<Option<PathBuf>> {
        let (root, how) = match self {
            Self::Debian => (PathBuf::from("/"), "test"),
            Self::Suite("trixie") => (made("trixie"), "test"),
            Self::Suite(suite) => (made(suite), "engines"),
        };
        let dockerd = root.join("usr/sbin/dockerd");
        ensure!(dockerd.exists(), "{} is not there: run `tests/setup.sh {how}` first", dockerd.display());
        Ok((self != Self::Debian).then_some(root))
    }
}

/// What `tests/setup.sh` makes and keeps for engines.
fn made(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    tests.parent().unwrap_or(tests).join(target).join("engines").join(name)
}

/// A Docker Engine on one host of the lab. Its containers know no image but [`IMAGE`].
#[derive(Debug)]
pub struct Engine {
    room: Room,
    dir: PathBuf,
    root: Option<Holder>,
    args: Vec<String>,
    process: Option<Child>,
    has_image: bool,
}

impl Engine {
    /// An engine for this host, not started. A daemon that is to run beside it is made after it.
    ///
    /// # Errors
    ///
    /// The engine or the image is not installed, or its folder and its host's room cannot be made.
    pub fn new(lab: &Lab, host: &Host, kind: EngineKind) -> Result<Self> {
        let base = kind.root()?;
        image()?;
        let room = host.hold()?;
        let dir = lab.dir().join(format!("engine-{}", host.name));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // The machine's own /etc/docker/daemon.json must not count.
        fs::write(dir.join("daemon.json"), "{}")?;
        let enter = |base| {
            let mut command = room.command("unshare");
            command.args(["--mount", "--propagation", "unchanged", "--", "sh", "-c", ROOT, "sh"]);
            command.arg(base).arg(dir.join("mounts")).arg(lab.dir());
            Holder::start(command).context("cannot make the root that the engine runs in")
        };
        let root = base.map(enter).transpose()?;
        Ok(Self { room, dir, root, args: Vec::new(), process: None, has_image: false })
    }

    /// More arguments for `dockerd` when it is started next, such as `--live-restore`.
    pub fn args_mut(&mut self) -> &mut Vec<String> {
        &mut self.args
    }

    /// Its socket, as the test sees it.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    /// What it logs.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The room of its host.
    pub fn room(&self) -> Room {
        self.room
    }

    /// Its process id, when it runs.
    pub fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(|process| Pid::from_raw(process.id().cast_signed()))
    }

    /// A command that runs where the engine does, as on a terminal of the host: `/run/docker.sock` is the engine's.
    pub fn command(&self, program: &str) -> Command {
        let mut command = match &self.root {
            Some(root) => {
                let mut command = self.room.command("nsenter");
                command.args(["--target", &root.pid().to_string(), "--mount", "--", program]);
                command
            }
            None => self.room.command(program),
        };
        for name in ENVIRONMENT {
            command.env_remove(name);
        }
        command.env("PATH", PATH).env("DOCKER_CONFIG", self.dir.join("cli"));
        command
    }

    /// Starts it and waits until it answers and has the image.
    ///
    /// # Errors
    ///
    /// As [`Engine::spawn`] and [`Engine::wait_ready`].
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts it. It may not answer yet.
    ///
    /// # Errors
    ///
    /// It runs already, or cannot be run.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the engine in {} runs already", self.dir.display());
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = self.command("dockerd");
        command.arg("--config-file").arg(self.dir.join("daemon.json")).arg("--data-root").arg(self.dir.join("data"));
        command.args(["--host", "unix:///run/docker.sock", "--host", &self.host()]).args(&self.args);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn().context("cannot start dockerd")?);
        Ok(())
    }

    /// Waits until it answers, and gives it the image unless it has it.
    ///
    /// # Errors
    ///
    /// It ended, or does not answer in time: with the end of its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let (socket, log) = (self.socket(), self.log());
        let process = self.process.as_mut().context("the engine was not started")?;
        let ready = wait_for("dockerd to answer", START, || match process.try_wait()? {
            Some(status) => Ok(Err(status)),
            None => ping(&socket, process.id()).map(Ok),
        });
        match ready {
            Ok(Ok(())) => self.load(),
            Ok(Err(status)) => bail!("dockerd ended with {status}; its log: {}", tail(&log)),
            Err(error) => Err(error.context(tail(&log))),
        }
    }

    fn load(&mut self) -> Result<()> {
        if !self.has_image {
            execute(self.docker_command(&["load", "--quiet"]).stdin(image()?)).context("cannot load the image")?;
            self.has_image = true;
        }
        Ok(())
    }

    /// Its address for `docker --host`, good inside and outside of the host's room.
    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Asks it to end (SIGTERM) and waits for it. Its containers end first, unless it runs with `--live-restore`.
    ///
    /// # Errors
    ///
    /// It does not run, or does not end in 30 s.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        kill(self.pid().context("the engine does not run")?, Signal::SIGTERM)?;
        let log = self.log();
        let process = self.process.as_mut().context("the engine does not run")?;
        let end = wait_for("dockerd to end", STOP, || process.try_wait()?.context("it still runs"));
        let status = end.with_context(|| tail(&log))?;
        self.process = None;
        Ok(status)
    }

    /// Kills it and its containerd (SIGKILL), as a crash does. Its containers go on.
    ///
    /// # Errors
    ///
    /// It does not run, or its containerd cannot be found.
    pub fn kill9(&mut self) -> Result<()> {
        let containerd = fs::read_to_string(self.room.path(CONTAINERD)).context("which containerd is its own?")?;
        let containerd = Pid::from_raw(containerd.trim().parse()?);
        // The engine first: it would start another containerd.
        let mut process = self.process.take().context("the engine does not run")?;
        process.kill()?;
        process.wait()?;
        kill(containerd, Signal::SIGKILL).context("cannot kill containerd")?;
        wait_for("containerd to end", STOP, || {
            // An engine takes a process for alive until somebody has waited for it.
            ensure!(kill(containerd, None).is_err(), "process {containerd} is still there");
            Ok(())
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // The guard kills what is left.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Whether the engine that is this process answers.
fn ping(socket: &Path, process: u32) -> Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    let listener = getsockopt(&stream, PeerCredentials)?.pid();
    ensure!(listener.cast_unsigned() == process, "process {listener} listens there");
    // It listens long before it answers.
    stream.set_read_timeout(Some(PING))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains(" 200 OK"), "it answers {answer:?}");
    Ok(())
}

/// The image, as `docker load` reads it.
fn image() -> Result<File> {
    let path = made("image.tar");
    File::open(&path).with_context(|| format!("{} is not there: run `tests/setup.sh test` first", path.display()))
}
