//! `pontoon token`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{ReadArgs, duration};

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token, and print how to join with it
    Create {
        /// How many hosts may join with it
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        uses: u32,
        /// How long it lasts: 10m, 24h, 168h
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
        expires: Duration,
        /// What hosts may become that join with it
        #[arg(long, value_enum, default_value_t = RoleArg::Voter)]
        role: RoleArg,
        #[command(flatten)]
        print: TokenPrint,
    },
    /// List tokens, without their secrets
    #[command(visible_alias = "list")]
    Ls {
        /// Only ids
        #[arg(short, long)]
        quiet: bool,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Revoke tokens: nobody joins with them any more
    #[command(visible_alias = "remove")]
    Rm {
        /// Ids, or their beginnings
        #[arg(required = true, value_name = "TOKEN")]
        tokens: Vec<String>,
    },
    /// Revoke a token, and make one like it in its place
    Rotate {
        /// Id, or its beginning
        token: String,
        #[command(flatten)]
        print: TokenPrint,
    },
}

/// How a new token is printed.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct TokenPrint {
    /// Only the token
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// It names no nodes to ask: the command that joins has to
    #[arg(long)]
    pub(crate) no_addresses: bool,
}

/// What a host may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Any node, also one that votes
    Voter,
    /// A node that does not vote, unless somebody promotes it
    Observer,
}

impl From<RoleArg> for pontoon_proto::v1::TokenRole {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Voter => Self::Voter,
            RoleArg::Observer => Self::Observer,
        }
    }
}
