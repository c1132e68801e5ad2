//! The `docker` command.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};

use super::netns::execute;
use super::{Netns, Room};

/// A `docker` command that failed.
#[derive(Debug, Clone)]
pub struct DockerError {
    /// Exit code: 1 for most, 125 when `docker run` was refused; that of the program for `docker exec`.
    pub code: i32,
    /// What it printed to standard error, without blanks around it.
    pub stderr: String,
    /// What it printed to standard output, without blanks around it.
    pub stdout: String,
}

impl fmt::Display for DockerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}: {} {}", self.code, self.stderr, self.stdout)
    }
}

impl std::error::Error for DockerError {}

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
/// The `docker` command of one engine. Clones speak to the same engine, also while it is killed and started.
#[derive(Debug, Clone)]
pub struct Docker {
    pub(super) room: Room,
    pub(super) dir: PathBuf,
    /// Process whose mounts the engine has, when they are not the room's.
    pub(super) root: Option<u32>,
}

impl Docker {
    /// Its socket, as the test sees it.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    /// The room of its host.
    pub fn room(&self) -> Room {
        self.room
    }

    /// Its address for `docker --host`, good inside and outside of the host's room.
    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A command that runs where the engine does, as on a terminal of the host: `/run/docker.sock` is the engine's.
    pub fn command(&self, program: &str) -> Command {
        let mut command = match self.root {
            Some(root) => {
                let mut command = self.room.command("nsenter");
                command.args(["--target", &root.to_string(), "--mount", "--", program]);
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

    /// The engine's own `docker` command, speaking to it. It runs on the engine's host.
    pub fn docker_command(&self, args: &[&str]) -> Command {
        let mut command = self.command("docker");
        command.args(["--host", &self.host()]).args(args);
        command
    }

    /// Runs `docker` and returns what it prints, without blanks around it, or how it failed.
    ///
    /// # Errors
    ///
    /// It could not be run, or was killed.
    pub fn ask_args(&self, args: &[&str]) -> Result<Result<String, DockerError>> {
        let Output { status, stdout, stderr } = self.docker_command(args).output().context("cannot run docker")?;
        let code = status.code().with_context(|| format!("`docker {}` was killed: {status}", args.join(" ")))?;
        let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).trim().to_owned());
        Ok(if code == 0 { Ok(stdout) } else { Err(DockerError { code, stderr, stdout }) })
    }

    /// [`Docker::ask_args`], with a line of arguments that hold no blanks.
    ///
    /// # Errors
    ///
    /// As [`Docker::ask_args`].
    pub fn ask(&self, line: &str) -> Result<Result<String, DockerError>> {
        self.ask_args(&words(line))
    }

    /// Runs `docker` and returns what it prints, without blanks around it.
    ///
    /// # Errors
    ///
    /// It failed: with what it printed.
    pub fn docker_args(&self, args: &[&str]) -> Result<String> {
        self.ask_args(args)?.with_context(|| format!("`docker {}` at {}", args.join(" "), self.host()))
    }

    /// [`Docker::docker_args`], with a line of arguments that hold no blanks.
    ///
    /// # Errors
    ///
    /// As [`Docker::docker_args`].
    pub fn docker(&self, line: &str) -> Result<String> {
        self.docker_args(&words(line))
    }

    /// Runs `docker` and returns how it failed: with all these words in what it says.
    ///
    /// # Errors
    ///
    /// It did not fail, or did not say so.
    pub fn refuses(&self, line: &str, said: &[&str]) -> Result<DockerError> {
        let error = match self.ask(line)? {
            Err(error) => error,
            Ok(answer) => bail!("`docker {line}` at {} did not fail: {answer}", self.host()),
        };
        for word in said {
            ensure!(error.stderr.contains(word), "`docker {line}`: does not say {word:?}: {error}");
        }
        Ok(error)
    }

    /// `docker exec`: runs a program in a container, with arguments that hold no blanks.
    ///
    /// # Errors
    ///
    /// It failed: with what it printed.
    pub fn exec(&self, container: &str, line: &str) -> Result<String> {
        self.docker(&format!("exec {container} {line}"))
    }

    /// The engine's version, such as `20.10.24+dfsg1`.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn version(&self) -> Result<String> {
        self.docker("version --format {{.Server.Version}}")
    }

    /// Has the host ask these name servers from now on, for containers that are started then.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn ask_name_servers(&self, servers: &[IpAddr]) -> Result<()> {
        let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        // In a room, the file in /etc is that of /run.
        let file = if self.root.is_some() { "/etc/resolv.conf" } else { "/run/lab/resolv.conf" };
        execute(self.command("sh").args(["-c", &format!("printf '%s' '{lines}' >{file}")])).map(drop)
    }

    /// The network namespace of a container that runs, for the host's own `ip` and `ping`.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn netns(&self, container: &str) -> Result<Netns> {
        let path = self.docker(&format!("inspect --format {{{{.NetworkSettings.SandboxKey}}}} {container}"))?;
        ensure!(!path.is_empty(), "the container {container} does not run");
        Ok(Netns::in_room(self.room(), container, path))
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}
