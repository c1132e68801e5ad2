//! The demo shows what it promises, and leaves nothing behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pontoon_tests::lab::program;
use pontoon_tests::wait_for;

/// It takes under a minute.
const DEADLINE: Duration = Duration::from_secs(60);

/// A demo that runs. Its end, also by a failed test, has it clean up.
struct Demo {
    process: Child,
    output: PathBuf,
}

impl Demo {
    fn start(output: &Path) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo.sh");
        let bin = program("pontoond")?.parent().context("no folder")?.to_owned();
        let file = File::create(output)?;
        let process = Command::new("bash")
            .arg(script)
            .env("PONTOON_BIN_DIR", bin)
            .env_remove("KEEP")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        Ok(Self { process, output: output.to_owned() })
    }

    fn printed(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.output)?)
    }

    fn end(&mut self) -> Result<Option<i32>> {
        let ended = wait_for("the demo to end", DEADLINE, || self.process.try_wait()?.context("it still runs"));
        Ok(ended.with_context(|| self.printed().unwrap_or_default())?.code())
    }

    /// Of a run, all names begin alike.
    fn ensure_nothing_left(&self) -> Result<()> {
        let id = format!("pdemo{}", self.process.id());
        let all = fs::read_dir("/run/netns")?.collect::<Result<Vec<_>, _>>()?;
        let left: Vec<_> = all.iter().map(fs::DirEntry::file_name).collect();
        let left: Vec<_> =
            left.iter().filter_map(|name| name.to_str()?.starts_with(&format!("{id}-")).then_some(name)).collect();
        ensure!(left.is_empty(), "namespaces are left: {left:?}");
        let folder = format!("/tmp/pontoon-{id}");
        ensure!(!Path::new(&folder).exists(), "{folder} is left");
        for process in fs::read_dir("/proc")? {
            // Those of the machine come and go meanwhile.
            let Ok(words) = fs::read_to_string(process?.path().join("cmdline")) else { continue };
            ensure!(!words.contains(&folder), "a process is left: {words:?}");
        }
        Ok(())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM);
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
    let code = demo.end()?;
    let text = demo.printed()?;
    ensure!(code == Some(0), "it ended with {code:?}: {text}");
    let (_, summary) = text.split_once("== Summary").context("no summary")?;
    let ways: Vec<_> = summary.lines().filter(|line| line.contains(" -> ")).collect();
    ensure!(ways.len() >= 12 && ways.iter().all(|line| line.ends_with("0 % loss")), "{summary}");
    demo.ensure_nothing_left()
}

#[test]
fn an_interrupted_one_leaves_nothing() -> Result<()> {
    let (_dir, path) = output("demo")?;
    let mut demo = Demo::start(&path)?;
    wait_for("a container to be attached", DEADLINE, || {
        ensure!(demo.printed()?.contains("--name c2"), "not yet");
        Ok(())
    })?;
    kill(Pid::from_raw(demo.process.id().cast_signed()), Signal::SIGINT)?;
    let code = demo.end()?;
    ensure!(code == Some(130), "it ended with {code:?}: {}", demo.printed()?);
    demo.ensure_nothing_left()
}
