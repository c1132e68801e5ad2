//! The `pontoon` command.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Netns;

/// Where cargo puts the programs: beside the `deps` folder that this test binary is in, unless `PONTOON_BIN_DIR`
/// says otherwise. `cargo nextest` builds them first (`.config/nextest.toml`).
///
/// # Errors
///
/// It is not there.
pub fn program(name: &str) -> Result<PathBuf> {
    let dir = match env::var_os("PONTOON_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let test = env::current_exe().context("where is this test?")?;
            test.ancestors().nth(2).context("the test is not in target/*/deps")?.to_owned()
        }
    };
    let path = dir.join(name);
    ensure!(path.exists(), "{} is not there: run `cargo build --workspace --bins` first", path.display());
    Ok(path)
}

/// A failed command, as `-o json` prints it.
#[derive(Debug, Clone)]
pub struct CliError {
    /// Exit code: 1 refused or unreachable, 2 wrong usage.
    pub code: i32,
    /// The machine-readable reason, such as `SUBNET_OVERLAP`; empty for wrong usage.
    pub reason: String,
    /// What was tried, on what and why it failed.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl CliError {
    fn new(code: i32, stderr: &str) -> Self {
        let json = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("error").cloned();
        let Some(error) = stderr.lines().find_map(json) else {
            return Self { code, reason: String::new(), message: stderr.trim().to_owned(), hint: String::new() };
        };
        let field = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        Self { code, reason: field("reason"), message: field("message"), hint: field("hint") }
    }

    /// Message and hint together.
    pub fn text(&self) -> String {
        format!("{} {}", self.message, self.hint)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}: {}: {} ({})", self.code, self.reason, self.message, self.hint)
    }
}

impl std::error::Error for CliError {}

/// The `pontoon` command, speaking to one daemon.
#[derive(Debug, Clone)]
pub struct Cli {
    place: Place,
}

/// Whom it speaks to.
#[derive(Debug, Clone)]
enum Place {
    /// The daemon at a socket.
    Host(String),
    /// Whomever the user's configuration names, from a namespace.
    Elsewhere { netns: Netns, configuration: PathBuf },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => f.write_str(host),
            Self::Elsewhere { netns, configuration } => write!(f, "{} as {}", netns.name(), configuration.display()),
        }
    }
}

impl Cli {
    /// Speaks to the daemon at this socket.
    pub fn new(socket: &Path) -> Self {
        Self { place: Place::Host(format!("unix://{}", socket.display())) }
    }

    /// Speaks to whomever the configuration in this folder names, from a namespace.
    pub fn elsewhere(netns: &Netns, configuration: &Path) -> Self {
        Self { place: Place::Elsewhere { netns: netns.clone(), configuration: configuration.to_owned() } }
    }

    /// The command, with a line of arguments that hold no blanks.
    ///
    /// # Errors
    ///
    /// The program is not built.
    pub fn command(&self, line: &str) -> Result<Command> {
        let program = program("pontoon")?;
        let mut command = match &self.place {
            Place::Host(host) => {
                let mut command = Command::new(program);
                command.args(["--host", host]);
                command
            }
            Place::Elsewhere { netns, configuration } => {
                let mut command = netns.command(&program.display().to_string());
                command.env("XDG_CONFIG_HOME", configuration);
                command
            }
        };
        command.env_remove("PONTOON_HOST").env_remove("PONTOON_CONTEXT");
        command.args(["-o", "json"]).args(line.split_whitespace());
        Ok(command)
    }

    /// Runs it and returns its answer, or what it says of its failure.
    ///
    /// # Errors
    ///
    /// The command could not be run, or printed something else than JSON.
    pub fn ask(&self, line: &str) -> Result<Result<Value, CliError>> {
        self.finish(line, self.command(line)?)
    }

    /// Runs a command that was made with [`Cli::command`].
    ///
    /// # Errors
    ///
    /// As [`Cli::ask`].
    pub fn finish(&self, line: &str, mut command: Command) -> Result<Result<Value, CliError>> {
        let Output { status, stdout, stderr } = command.output().context("cannot run pontoon")?;
        let code = status.code().with_context(|| format!("`pontoon {line}` was killed: {status}"))?;
        if code != 0 {
            return Ok(Err(CliError::new(code, &String::from_utf8_lossy(&stderr))));
        }
        let value = serde_json::from_slice(&stdout);
        value.map(Ok).with_context(|| format!("`pontoon {line}` printed {:?}", String::from_utf8_lossy(&stdout)))
    }

    /// Runs it and returns its answer.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn run(&self, line: &str) -> Result<Value> {
        self.ask(line)?.with_context(|| format!("`pontoon {line}` at {}", self.place))
    }

    /// Runs it and returns why it was refused.
    ///
    /// # Errors
    ///
    /// It was not refused.
    pub fn refused(&self, line: &str) -> Result<CliError> {
        match self.ask(line)? {
            Err(error) => Ok(error),
            Ok(answer) => bail!("`pontoon {line}` at {} was not refused: {answer}", self.place),
        }
    }

    /// Runs it and checks why it was refused: the reason, and words of its message or hint.
    ///
    /// # Errors
    ///
    /// It was not refused, or for another reason, or without these words.
    pub fn refuses(&self, line: &str, reason: &str, words: &[&str]) -> Result<CliError> {
        let error = self.refused(line)?;
        ensure!(error.reason == reason, "`pontoon {line}`: not {reason}: {error}");
        ensure!(!error.hint.is_empty(), "`pontoon {line}`: does not say what to do: {error}");
        for word in words {
            ensure!(error.text().contains(word), "`pontoon {line}`: does not say {word:?}: {error}");
        }
        Ok(error)
    }
}
