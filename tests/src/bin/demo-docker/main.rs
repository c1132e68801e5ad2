//! Two hosts with a Docker Engine and a `pontoond` each: what their administrator types to give containers one network,
//! and what he sees. `make demo-docker` builds and runs it; with `KEEP=1` the hosts stay until it is interrupted.
//!
//! The hosts are those of the tests' lab, so whatever becomes of this program, nothing of them stays.

mod around;
mod screen;
mod steps;

use std::env;
use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pontoon_tests::lab::{EngineKind, Options, run_with};
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use screen::Screen;

/// The signal that has interrupted the demo, once there is one.
type Interrupted = watch::Receiver<Option<Signal>>;

fn main() -> ExitCode {
    let keep = env::var_os("KEEP").is_some_and(|keep| !keep.is_empty());
    match supervise(keep) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo, and tells it of signals.
fn supervise(keep: bool) -> Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot wait for signals")?;
    let ended = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (tell, interrupted) = watch::channel(None);
        let mut demo = tokio::task::spawn_blocking(move || demo(keep, &interrupted));
        loop {
            let signal = tokio::select! {
                ended = &mut demo => return ended.context("the demo broke off")?,
                _ = interrupt.recv() => Signal::SIGINT,
                _ = terminate.recv() => Signal::SIGTERM,
                _ = hangup.recv() => Signal::SIGHUP,
            };
            if tell.send_replace(Some(signal)).is_some() {
                // Once more: at once. The lab's guard cleans up all the same.
                return Ok(code_of(signal));
            }
            eprintln!("\ndemo: {signal}: cleaning up");
        }
    });
    runtime.shutdown_background();
    ended
}

/// The exit code of what a signal has ended, as shells have it.
fn code_of(signal: Signal) -> ExitCode {
    ExitCode::from(128 + signal as u8)
}

/// Makes the hosts, shows them, and removes them.
fn demo(keep: bool, interrupted: &Interrupted) -> Result<ExitCode> {
    let mut screen = Screen::new(interrupted.clone());
    let mut broken_off = None;
    steps::introduce(&screen)?;
    let options = Options { hosts: 2, engines: vec![EngineKind::Debian; 2], ..Options::default() };
    let ended = run_with(options, |cluster| {
        let shown = steps::show(&mut screen, cluster).and_then(|()| screen.summary(keep));
        if keep && interrupted.borrow().is_none() {
            around::show(&screen, cluster)?;
            let mut interrupted = interrupted.clone();
            return Handle::current()
                .block_on(interrupted.wait_for(Option::is_some))
                .map(drop)
                .map_err(Into::into)
                .and(shown);
        }
        let Err(error) = shown else { return Ok(()) };
        // What fails after a signal is no failure: everything that this terminal runs gets it.
        broken_off = interrupted.borrow().or_else(|| is_unread(&error).then_some(Signal::SIGPIPE));
        if broken_off.is_some() { Ok(()) } else { Err(error) }
    });
    if let Some(signal) = broken_off.or(ended.as_ref().err().and(*interrupted.borrow())) {
        return Ok(code_of(signal));
    }
    ended?;
    ensure!(screen.lost_nothing(), "packets were lost: the summary shows where");
    Ok(ExitCode::SUCCESS)
}

/// Whether something failed because nobody reads what is printed any more.
fn is_unread(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
