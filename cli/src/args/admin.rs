//! `pontoon admin`, `audit` and `context`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{ReadArgs, duration};

#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Make, show and revoke the certificates of those who administer the cluster from elsewhere
    #[command(subcommand)]
    Cert(CertCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Let somebody administer the cluster from elsewhere, and write what he needs into a file
    Create {
        /// What he is called
        name: String,
        /// What he may do
        #[arg(long, value_enum)]
        role: RoleArg,
        /// How long: 8h, 2160h
        #[arg(long, value_name = "DURATION", default_value = "2160h", value_parser = duration)]
        ttl: Duration,
        /// The file, for him alone; - is the standard output [default: NAME.context]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List those who may
    #[command(visible_alias = "list")]
    Ls {
        /// Only names
        #[arg(short, long)]
        quiet: bool,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Lock them out at once
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or ids
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Look
    Viewer,
    /// Also work with networks, labels and votes
    Operator,
    /// Everything but what is about the host of a daemon
    Admin,
}

impl From<RoleArg> for pontoon_proto::v1::Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Operator => Self::Operator,
            RoleArg::Admin => Self::Admin,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// How many, the latest
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// Keep what pontoon admin cert create has written
    Add {
        /// What you call it
        name: String,
        /// The file; - is the standard input
        file: PathBuf,
    },
    /// List contexts
    #[command(visible_alias = "list")]
    Ls,
    /// Use a context from now on; "default" is this host's daemon
    Use {
        /// Its name
        name: String,
    },
    /// Forget contexts, and the keys in them
    #[command(visible_alias = "remove")]
    Rm {
        /// Names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}
