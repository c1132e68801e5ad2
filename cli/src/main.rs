//! `pontoon`: asks a Pontoon daemon, over its admin socket, and prints the answer.
//!
//! Exit codes: 0 done, 1 the daemon refused or could not be reached, 2 wrong usage.

mod args;
mod command;
mod context;
mod failure;
mod host;
mod output;
mod render;
mod session;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use failure::Failure;
use output::Output;
use session::Session;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = cli.check() {
        error.exit();
    }
    let output = Output::new(cli.global.output);
    if let Command::Completion { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "pontoon", &mut script);
        return finish(&output, output.bytes(&script));
    }
    if let Command::Context(command) = &cli.command {
        return finish(&output, command::context(command, &output));
    }
    if let Command::Man { folder } = &cli.command {
        return finish(&output, manual(folder));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::local("LOCAL", format!("cannot start: {error}"), "");
            return finish(&output, Err(failure));
        }
    };
    finish(&output, runtime.block_on(run(&cli, &output)))
}

/// Writes the manual pages, a file for each command.
fn manual(folder: &Path) -> Result<(), Failure> {
    let written = fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    written.map_err(|error| {
        let message = format!("cannot write the manual pages into {}: {error}", folder.display());
        Failure::local("LOCAL", message, "name a folder that you may write to")
    })
}

async fn run(cli: &Cli, output: &Output) -> Result<(), Failure> {
    let session = Session::open(&cli.global).await?;
    command::run(&cli.command, &session, output).await
}

/// Reports a failure, if any, and tells the exit code.
fn finish(output: &Output, result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) if output.failed() => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::FAILURE
        }
    }
}
