//! The demos show what they promise, and leave nothing behind.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use pontoon_tests::lab::program;
use pontoon_tests::wait_for;

use crate::engine::{gone, leftovers};

/// Each takes under a minute.
const DEADLINE: Duration = Duration::from_secs(60);

/// A demo that runs. Its end, also by a failed test, has it clean up.
struct Demo {
    process: Child,
    output: PathBuf,
    /// What the names of everything in it begin with.
    id: String,
}

impl Demo {
    /// `make demo`.
    fn start(output: &Path) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo.sh");
        let mut command = Command::new("bash");
        Self::spawn(command.arg(script), output, |process| format!("pdemo{process}"))
    }

    /// `make demo-docker`.
    fn start_docker(output: &Path, keep: &str) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo-docker"));
        Self::spawn(command.env("KEEP", keep), output, |process| format!("pt{process:x}-0"))
    }

    /// Starts it in a process group of its own, as a shell does.
    fn spawn(command: &mut Command, output: &Path, id: impl FnOnce(u32) -> String) -> Result<Self> {
        let bin = program("pontoond")?.parent().context("no folder")?.to_owned();
        let file = File::create(output)?;
        if !command.get_envs().any(|(name, _)| name == "KEEP") {
            command.env_remove("KEEP");
        }
        command.env("PONTOON_BIN_DIR", bin).process_group(0);
        let process = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Self { id: id(process.id()), process, output: output.to_owned() })
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    fn printed(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.output)?)
    }

    fn wait_printed(&self, what: &str) -> Result<()> {
        wait_for(&format!("the demo to print {what:?}"), DEADLINE, || {
            let printed = self.printed()?;
            ensure!(printed.contains(what), "{printed}");
            Ok(())
        })
    }

    fn end(&mut self) -> Result<Option<i32>> {
        let ended = wait_for("the demo to end", DEADLINE, || self.process.try_wait()?.context("it still runs"));
        Ok(ended.with_context(|| self.printed().unwrap_or_default())?.code())
    }

    /// That it ends with this code, and that nothing is left once it has.
    fn ends_clean(&mut self, expected: i32) -> Result<()> {
        let code = self.end()?;
        ensure!(code == Some(expected), "it ended with {code:?}: {}", self.printed()?);
        // It goes last. Of processes that have ended, the machine's first one may still have to hear.
        ensure!(!self.folder().exists(), "{} is left", self.folder().display());
        gone(&self.id, &self.folder())
    }

    fn folder(&self) -> PathBuf {
        Path::new("/tmp").join(format!("pontoon-{}", self.id))
    }

    /// That the summary tells of this many ways or more, and of no loss.
    fn lost_nothing(&self, at_least: usize) -> Result<()> {
        let text = self.printed()?;
        let (_, summary) = text.split_once("== Summary").context("no summary")?;
        let ways: Vec<_> = summary.lines().filter(|line| line.contains(" -> ")).collect();
        ensure!(ways.len() >= at_least && ways.iter().all(|line| line.ends_with("0 % loss")), "{summary}");
        Ok(())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = kill(self.pid(), Signal::SIGTERM);
            let _ = self.process.wait();
        }
    }
}

fn output(name: &str) -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join(name);
    Ok((dir, path))
}

#[test]
fn it_loses_nothing() -> Result<()> {
    let (_dir, path) = output("demo")?;
    let mut demo = Demo::start(&path)?;
    demo.ends_clean(0)?;
    demo.lost_nothing(12)
}

#[test]
fn an_interrupted_one_leaves_nothing() -> Result<()> {
    let (_dir, path) = output("demo")?;
    let mut demo = Demo::start(&path)?;
    demo.wait_printed("--name c2")?;
    kill(demo.pid(), Signal::SIGINT)?;
    demo.ends_clean(130)
}

#[test]
fn with_docker_it_loses_nothing() -> Result<()> {
    let (_dir, path) = output("demo")?;
    let mut demo = Demo::start_docker(&path, "")?;
    demo.ends_clean(0)?;
    demo.lost_nothing(10)
}

#[test]
fn with_docker_an_interrupted_one_leaves_nothing() -> Result<()> {
    let (_dir, path) = output("demo")?;
    let mut demo = Demo::start_docker(&path, "")?;
    demo.wait_printed("--name centos2")?;
    ensure!(!leftovers(&demo.id, &demo.folder())?.is_empty(), "there is nothing that could be left");
    kill(demo.pid(), Signal::SIGINT)?;
    demo.ends_clean(130)
}

/// As Ctrl-C on a terminal does it: everything that the demo has started gets the signal too.
#[test]
fn with_docker_one_that_is_interrupted_at_its_terminal_leaves_nothing() -> Result<()> {
    let (_dir, path) = output("demo")?;
    let mut demo = Demo::start_docker(&path, "")?;
    let log = demo.folder().join("engine-h1/log");
    wait_for("an engine to start", DEADLINE, || {
        ensure!(log.exists(), "{} is not there", log.display());
        Ok(())
    })?;
    killpg(demo.pid(), Signal::SIGINT)?;
    demo.ends_clean(130)
}

#[test]
fn with_docker_one_that_is_kept_can_be_looked_at() -> Result<()> {
    let (_dir, path) = output("demo")?;
    let mut demo = Demo::start_docker(&path, "1")?;
    demo.wait_printed("The hosts stay until")?;
    demo.lost_nothing(10)?;
    for (host, container) in [("h1", "centos1"), ("h2", "centos2")] {
        let enter = demo.folder().join(format!("on-{host}"));
        ensure!(demo.printed()?.contains(&enter.display().to_string()), "{}", demo.printed()?);
        for line in ["docker ps", "pontoon node inspect"] {
            let words = line.split(' ').chain((line != "docker ps").then_some(host));
            let output = Command::new(&enter).args(words).stdin(Stdio::null()).output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.success() && text.contains(container), "{line} on {host}: {output:?}");
        }
    }
    kill(demo.pid(), Signal::SIGINT)?;
    demo.ends_clean(0)
}
