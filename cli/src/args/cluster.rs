//! `pontoon init`, `join`, `leave` and `cluster`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use pontoon_proto::{JoinToken, TokenError};

use super::{duration, not_empty};

/// The first node of a new cluster.
#[derive(Debug, Args)]
pub(crate) struct FirstNodeArgs {
    /// Address, or address and port, that other nodes reach this daemon at
    #[arg(long, value_name = "ADDR")]
    pub(crate) advertise: String,
    /// Address that carries the containers' traffic (VTEP) [default: the advertise address]
    #[arg(long, value_name = "ADDR")]
    pub(crate) data_addr: Option<String>,
    /// Name of this node [default: the host name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// This node is only to vote: it has no containers, and no network reaches it
    #[arg(long)]
    pub(crate) voter_only: bool,
    /// How many hosts may join with the token that is printed [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) token_uses: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pub(crate) first: FirstNodeArgs,
    /// Range that subnets are cut from; may be repeated [default: 10.0.0.0/8]
    #[arg(long = "pool", value_name = "CIDR")]
    pub(crate) pools: Vec<String>,
    /// Prefix length of the subnets cut from the pools
    #[arg(long, value_name = "N", requires = "pools", default_value_t = 24)]
    pub(crate) pool_prefix: u32,
    /// Hosts that may have a cluster already; if one has, no other is made. May be repeated
    #[arg(long = "seed", value_delimiter = ',', value_name = "ADDR", value_parser = not_empty)]
    pub(crate) seeds: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// What pontoon init or pontoon token create printed; - reads it from the standard input
    pub(crate) token: JoinWith,
    /// Addresses of nodes of the cluster, tried in order before those that the token names
    #[arg(value_delimiter = ',', value_name = "ADDR", value_parser = not_empty)]
    pub(crate) peers: Vec<String>,
    /// Take the place of this node, which is down, and whose containers run here: this host was wiped
    #[arg(long, value_name = "NODE", value_parser = not_empty)]
    pub(crate) replace: Option<String>,
    /// Address that other nodes reach this daemon at [default: the one that routes to the node that answers]
    #[arg(long, value_name = "ADDR")]
    pub(crate) advertise: Option<String>,
    /// Address that carries the containers' traffic (VTEP) [default: the advertise address]
    #[arg(long, value_name = "ADDR")]
    pub(crate) data_addr: Option<String>,
    /// Name of this node [default: the host name, or that of the node that it replaces]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// This node is only to vote: it has no containers, and no network reaches it
    #[arg(long)]
    pub(crate) voter_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Where to write it; - is the standard output
    pub(crate) file: PathBuf,
    /// From this node's own copy, without asking the leader
    #[arg(long)]
    pub(crate) stale: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// What pontoon backup has written; - is the standard input
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) first: FirstNodeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// Do it. Without this it is only told what would come of it
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// Where a token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JoinWith {
    /// The command line.
    Token(JoinToken),
    /// The standard input.
    Stdin,
}

impl FromStr for JoinWith {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text == "-" { Ok(Self::Stdin) } else { text.parse().map(Self::Token) }
    }
}

#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// Also with running containers, which lose their network, or when the cluster cannot be told
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Change settings of the cluster; pontoon status shows them
    Set {
        /// voters=auto|1|3|5: how many nodes vote at most.
        /// replace-after=DURATION|default: how long a voter may not answer before another node takes its place
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<Setting>,
    },
    /// Keep the key that the authority's is encrypted with off the disks, and print it; tokens are revoked
    Lock {
        /// Have it on the disks again
        #[arg(long)]
        off: bool,
    },
    /// Tell this host's daemon, after a restart, the key that pontoon cluster lock has printed, on the standard input
    Unlock,
    /// Put another authority in the place of the one that issues the nodes' certificates; tokens are revoked
    RotateAuthority,
}

/// A setting of the cluster and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting {
    /// How many nodes vote at most; 0: by the number of nodes.
    Voters(u32),
    /// How long a voter may not answer before another takes its place, in milliseconds; 0: as long as by default.
    ReplaceAfter(u64),
}

impl Setting {
    /// Its name.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Voters(_) => "voters",
            Self::ReplaceAfter(_) => "replace-after",
        }
    }
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("no =")?;
        match (key, value) {
            ("voters", "auto") => Ok(Self::Voters(0)),
            ("voters", "1" | "3" | "5") => Ok(Self::Voters(value.parse().map_err(|_| "no number")?)),
            ("voters", _) => Err("voters must be auto, 1, 3 or 5".to_owned()),
            ("replace-after", "default") => Ok(Self::ReplaceAfter(0)),
            ("replace-after", _) => {
                let millis = duration(value).map_err(|error| format!("replace-after: {error}"))?.as_millis();
                Ok(Self::ReplaceAfter(u64::try_from(millis).unwrap_or(u64::MAX)))
            }
            _ => Err("there are only voters and replace-after".to_owned()),
        }
    }
}
