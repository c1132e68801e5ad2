//! A named network namespace.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use super::Room;

/// A named network namespace. The lab's guard removes it, with whatever runs in it.
#[derive(Debug, Clone)]
pub struct Netns {
    name: String,
    path: PathBuf,
    // Where the path is one.
    room: Option<Room>,
}

impl Netns {
    /// Makes a namespace, with its loopback up. The name begins with the lab's prefix, so that the guard finds it.
    ///
    /// # Errors
    ///
    /// It exists, or cannot be made.
    pub fn create(name: &str) -> Result<Self> {
        execute(Command::new("ip").args(["netns", "add", name]))?;
        let netns = Self::named(name);
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// A namespace that somebody else makes, such as a daemon.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), path: Path::new("/run/netns").join(name), room: None }
    }

    /// One that something in a host's room makes: a daemon there, or an engine.
    pub(super) fn in_room(room: Room, name: &str, path: impl Into<PathBuf>) -> Self {
        Self { name: name.to_owned(), path: path.into(), room: Some(room) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that names it, where it was made.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// The file that names it, as the test sees it.
    pub(super) fn seen(&self) -> PathBuf {
        // A link out of the room's root would lead into the machine's.
        let in_room = |room: Room| match self.path.strip_prefix("/var/run") {
            Ok(rest) => room.path(Path::new("/run").join(rest)),
            Err(_) => room.path(&self.path),
        };
        self.room.map_or_else(|| self.path(), in_room)
    }

    /// A command that runs in it.
    ///
    /// Not `ip netns exec`: that gives the program a mount namespace of its own, in which a daemon's
    /// `/run/netns/…` would be seen by nobody else and end with it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.outside("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// A command that runs where its file is seen.
    fn outside(&self, program: &str) -> Command {
        self.room.map_or_else(|| Command::new(program), |room| room.command(program))
    }

    /// Runs a program in it and returns what it prints.
    ///
    /// # Errors
    ///
    /// It cannot be run, or fails: with what it printed.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        execute(self.command(program).args(args))
    }

    /// Runs `ip` in it, with arguments that hold no blanks.
    ///
    /// # Errors
    ///
    /// As [`Netns::run`].
    pub fn ip(&self, arguments: &str) -> Result<()> {
        self.run("ip", &arguments.split_whitespace().collect::<Vec<_>>()).map(drop)
    }

    /// Removes it, as a container engine does when a container ends.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn remove(&self) -> Result<()> {
        execute(self.outside("ip").args(["netns", "del", &self.name])).map(drop)
    }
}

/// Runs a command to its end and returns what it prints.
pub(super) fn execute(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("cannot run {command:?}: is it installed?"))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr);
        bail!("{command:?} ended with {status}: {}{stdout}", stderr.trim());
    }
    Ok(stdout)
}
