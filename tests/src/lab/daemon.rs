//! A running `pontoond`.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Pid;
use pontoon_store::{Certificate, NodeKey};
use serde_json::Value;

use super::cli::{Cli, program};
use super::{Host, Lab, Netns, Plugin, Room};
use crate::wait_for;

/// How long a daemon may take until it answers: its data folder is checked and the log read.
const START: Duration = Duration::from_secs(20);
/// How long it may take to end: 10 s are promised.
const STOP: Duration = Duration::from_secs(10);

/// Name of a daemon's configuration file.
const CONFIG: &str = "pontoon.toml";

/// How a daemon is started, beyond its folders.
#[derive(Debug, Default, Clone)]
pub struct DaemonOptions {
    /// Data folder; none: one of its own.
    pub data_dir: Option<PathBuf>,
    /// More arguments.
    pub args: Vec<String>,
    /// Whether it opens its plugin socket, in its folder, although there is no engine: the scenario speaks for one.
    pub plugin: bool,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Name of the program; none: `pontoond`.
    pub program: Option<&'static str>,
}

/// A `pontoond` on one host of the lab.
#[derive(Debug)]
pub struct Daemon {
    host: Netns,
    room: Option<Room>,
    dir: PathBuf,
    overlay: Netns,
    options: DaemonOptions,
    process: Option<Child>,
    through: Vec<String>,
}

impl Daemon {
    /// A daemon for this host, not started. It runs in the host's room, if it has one by now.
    ///
    /// # Errors
    ///
    /// Its folder cannot be made.
    pub fn new(lab: &Lab, host: &Host, options: DaemonOptions) -> Result<Self> {
        Self::named(lab, host, &host.name, options)
    }

    /// A daemon for this host beside another, with this name for its folder and its namespace.
    ///
    /// # Errors
    ///
    /// Its folder cannot be made.
    pub fn named(lab: &Lab, host: &Host, name: &str, options: DaemonOptions) -> Result<Self> {
        let dir = lab.dir().join(name);
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // The machine's own /etc/pontoon/pontoon.toml must not count.
        fs::write(dir.join(CONFIG), "")?;
        let room = host.room();
        let mut overlay = Netns::named(&format!("{}-{name}-pontoon", lab.prefix()));
        if let Some(room) = room {
            overlay = Netns::in_room(room, overlay.name(), overlay.path());
        }
        Ok(Self { host: host.netns.clone(), room, dir, overlay, options, process: None, through: Vec::new() })
    }

    /// Its data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.options.data_dir.clone().unwrap_or_else(|| self.dir.join("data"))
    }

    /// Its key pair and certificate, as it keeps them: what somebody has who has stolen them.
    ///
    /// # Errors
    ///
    /// It is in no cluster.
    pub fn node_key(&self) -> Result<NodeKey> {
        let key = NodeKey::from_pkcs8(&fs::read(self.data_dir().join("node.key"))?)?;
        let identity: Value = serde_json::from_slice(&fs::read(self.data_dir().join("identity.json"))?)?;
        let bytes = |value: &Value| Ok::<_, anyhow::Error>(hex::decode(value.as_str().context("it is no text")?)?);
        let authorities = identity["authorities"].as_array().context("it has no authorities")?;
        let authorities = authorities.iter().map(bytes).collect::<Result<_>>()?;
        let (own, crossed) = (bytes(&identity["certificate"])?, bytes(&identity["crossed"])?);
        key.certify(Certificate { own, authorities, crossed, authority: 1 })?;
        Ok(key)
    }

    /// Its configuration file, empty at first.
    pub fn config(&self) -> PathBuf {
        self.dir.join(CONFIG)
    }

    /// Its admin socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("pontoon.sock")
    }

    /// Its plugin socket, if it opens one without an engine.
    pub fn plugin(&self) -> Plugin {
        Plugin::new(&self.dir.join("plugin.sock"))
    }

    /// What it logs.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The namespace that its overlay bridges are in.
    pub fn overlay(&self) -> &Netns {
        &self.overlay
    }

    /// The `pontoon` command on this host.
    pub fn cli(&self) -> Cli {
        Cli::new(&self.socket())
    }

    /// Its process id, when it runs.
    pub fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(|process| Pid::from_raw(process.id().cast_signed()))
    }

    /// Changes how it is started next.
    pub fn options_mut(&mut self) -> &mut DaemonOptions {
        &mut self.options
    }

    /// Starts it through another program from now on, such as one that takes privileges away. That program becomes the
    /// daemon.
    pub fn start_through(&mut self, words: &[&str]) {
        self.through = words.iter().map(|&word| word.to_owned()).collect();
    }

    /// Starts it. It may not answer yet.
    ///
    /// # Errors
    ///
    /// It runs already, or the program is not built.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the daemon in {} runs already", self.dir.display());
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        // Each of these programs becomes the next, so the process id that we have is the daemon's.
        let mut command = self.room.map_or_else(|| self.host.command("env"), |room| room.command("env"));
        let set = ["CONFIG", "DATA_DIR", "SOCKET", "LISTEN", "NETNS", "GATEWAY_BRIDGE", "VXLAN_PORT"];
        for name in set.into_iter().chain(["DOCKER", "DOCKER_PLUGIN", "PAGE", "METRICS"]) {
            command.env_remove(format!("PONTOON_{name}"));
        }
        command.args(self.options.env.iter().map(|(name, value)| format!("{name}={value}")));
        command.args(&self.through);
        command.arg(program(self.options.program.unwrap_or("pontoond"))?);
        command.arg("--config").arg(self.config());
        command.arg("--data-dir").arg(self.data_dir());
        command.arg("--socket").arg(self.socket());
        command.args(["--netns", self.overlay.name()]);
        if self.options.plugin {
            command.arg("--docker").arg(self.dir.join("no-engine.sock"));
            command.arg("--docker-plugin").arg(self.plugin().path());
        } else if self.room.is_none() {
            // The machine's own engine, if it has one, is none of the lab's.
            command.args(["--docker", "off"]);
        }
        command.args(&self.options.args);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn().context("cannot start pontoond")?);
        Ok(())
    }

    /// Waits until it answers on its admin socket.
    ///
    /// # Errors
    ///
    /// It ended, or does not in time: with the end of its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let (socket, log) = (self.socket(), self.log());
        let process = self.process.as_mut().context("the daemon was not started")?;
        let ready = wait_for("pontoond to answer", START, || {
            if let Some(status) = process.try_wait()? {
                return Ok(Err(status));
            }
            // One that was killed a moment ago can still seem to listen: a program that it was just starting has its
            // sockets until it runs. What connects to that is reset.
            let listener = getsockopt(&UnixStream::connect(&socket)?, PeerCredentials)?.pid();
            ensure!(listener.cast_unsigned() == process.id(), "process {listener} listens there");
            Ok(Ok(()))
        });
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("pontoond ended with {status}; its log: {}", tail(&log)),
            Err(error) => Err(error.context(tail(&log))),
        }
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    ///
    /// As [`Daemon::start`] and [`Daemon::wait_ready`].
    pub fn up(&mut self) -> Result<()> {
        self.start()?;
        self.wait_ready()
    }

    /// Starts it where it cannot run and returns what it says.
    ///
    /// # Errors
    ///
    /// It runs nevertheless, or ends as if nothing was wrong.
    pub fn fails_to_start(&mut self) -> Result<String> {
        self.start()?;
        let status = self.wait_end(START)?;
        let log = fs::read_to_string(self.log())?;
        ensure!(!status.success(), "pontoond ended without an error: {log}");
        Ok(log)
    }

    /// Kills it: SIGKILL.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn kill9(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Stops it as if its host had no time for it (SIGSTOP), until [`Daemon::resume`].
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn pause(&self) -> Result<()> {
        Ok(kill(self.pid().context("the daemon does not run")?, Signal::SIGSTOP)?)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn resume(&self) -> Result<()> {
        Ok(kill(self.pid().context("the daemon does not run")?, Signal::SIGCONT)?)
    }

    /// Asks it to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    ///
    /// It does not run, or does not end in 10 s.
    pub fn term(&mut self) -> Result<ExitStatus> {
        kill(self.pid().context("the daemon does not run")?, Signal::SIGTERM)?;
        self.wait_end(STOP)
    }

    fn wait_end(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let log = self.log();
        let process = self.process.as_mut().context("the daemon does not run")?;
        let end = wait_for("pontoond to end", deadline, || process.try_wait()?.context("it still runs"));
        let status = end.with_context(|| tail(&log))?;
        self.process = None;
        Ok(status)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some() {
            // The guard kills what is left.
            let _ = self.kill9();
        }
    }
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_else(|error| format!("no log: {error}"));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
