//! The commands: arguments become a request, the answer is printed.

mod admin;
mod backup;
mod cluster;
mod dns;
mod doctor;
mod endpoint;
mod lease;
mod network;
mod node;
mod token;
mod watch;

use pontoon_proto::v1::ReadOptions;

use crate::args::{Command, ReadArgs, UpgradeCommand};
use crate::failure::Failure;
use crate::output::Output;
use crate::session::Session;

pub(crate) use admin::context;

/// Carries out a command.
///
/// # Errors
///
/// What ended it. Failures that did not end it are printed already.
pub(crate) async fn run(command: &Command, session: &Session, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Init(args) => cluster::init(args, session, output).await,
        Command::Join(args) => cluster::join(args, session, output).await,
        Command::Leave(args) => cluster::leave(args, session, output).await,
        Command::Backup(args) => backup::backup(args, session, output).await,
        Command::Restore(args) => backup::restore(args, session, output).await,
        Command::Recover(args) => backup::recover(args, session, output).await,
        Command::Status => cluster::status(session, output).await,
        Command::Upgrade(UpgradeCommand::Check) => cluster::check_upgrade(session, output).await,
        Command::Doctor => doctor::run(session, output).await,
        Command::Watch(args) => watch::run(args, session, output).await,
        Command::Cluster(command) => cluster::run(command, session, output).await,
        Command::Admin(command) => admin::run(command, session, output).await,
        Command::Audit(args) => admin::audit(args, session, output).await,
        Command::Token(command) => token::run(command, session, output).await,
        Command::Node(command) => node::run(command, session, output).await,
        Command::Network(command) => network::run(command, session, output).await,
        Command::Lease(command) => lease::run(command, session, output).await,
        Command::Dns(command) => dns::run(command, session, output).await,
        Command::Attach(args) => endpoint::attach(args, session, output).await,
        Command::Detach(args) => endpoint::detach(args, session, output).await,
        // They need no daemon: main has carried them out.
        Command::Context(_) | Command::Completion { .. } | Command::Man { .. } => Ok(()),
    }
}

/// Does one thing for each name. A failure is printed and the others go on.
async fn each(names: &[String], output: &Output, mut one: impl AsyncFnMut(&str) -> Result<(), Failure>) {
    for name in names {
        if let Err(failure) = one(name).await {
            output.failure(&failure);
        }
    }
}

/// A name on a line of its own, as a list's `--quiet` and `rm` print it.
fn line(name: &str) -> String {
    format!("{name}\n")
}

impl From<ReadArgs> for ReadOptions {
    fn from(args: ReadArgs) -> Self {
        Self { stale: args.stale }
    }
}
