//! The command line.

mod admin;
mod cluster;
mod node;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use jiff::SignedDuration;
use pontoon_proto::v1::{LeaseState, ObjectKind};

use crate::host::Host;

pub(crate) use admin::{AdminCommand, AuditArgs, CertCommand, ContextCommand};
pub(crate) use cluster::{
    BackupArgs, ClusterCommand, FirstNodeArgs, InitArgs, JoinArgs, JoinWith, LeaveArgs, RecoverArgs, RestoreArgs,
    Setting,
};
pub(crate) use node::{LabelChange, NodeCommand};
pub(crate) use token::TokenCommand;

/// One network for the containers of many hosts.
#[derive(Debug, Parser)]
#[command(name = "pontoon", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Checks what clap cannot: that no key is given twice.
    ///
    /// # Errors
    ///
    /// A usage error that names the key.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        let twice = match &self.command {
            Command::Network(NetworkCommand::Create(create)) => {
                twice(create.labels.iter().map(|pair| &pair.key)).map(|key| format!("--label sets {key:?} twice"))
            }
            Command::Node(NodeCommand::Label { changes, rm, .. }) => {
                let changed = changes.iter().map(LabelChange::key);
                twice(changed.chain(rm)).map(|key| format!("label {key:?} is changed twice"))
            }
            Command::Cluster(ClusterCommand::Set { settings }) => {
                let keys: Vec<String> = settings.iter().map(|setting| setting.key().to_owned()).collect();
                twice(keys.iter()).map(|key| format!("{key} is set twice"))
            }
            _ => None,
        };
        twice.map_or(Ok(()), |message| Err(Self::command().error(ErrorKind::ValueValidation, message)))
    }
}

/// The first key that was there before.
fn twice<'a>(keys: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = BTreeSet::new();
    keys.into_iter().find(|key| !seen.insert(*key))
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Admin socket of the daemon: unix:///PATH [default: unix:///run/pontoon/pontoon.sock]
    /// [env: PONTOON_HOST]
    #[arg(short = 'H', long, global = true)]
    pub(crate) host: Option<Host>,
    /// Which cluster, from elsewhere: a name of pontoon context ls [env: PONTOON_CONTEXT]
    #[arg(short, long, global = true, value_name = "NAME", conflicts_with = "host")]
    pub(crate) context: Option<String>,
    /// How to print what was asked for
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// How long to wait for the daemon's answer: 500ms, 30s, 2m [default: 10s; 60s for what takes long]
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// The API's messages.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new cluster with this host's daemon as its first node
    Init(InitArgs),
    /// Put this host's daemon into a cluster
    Join(JoinArgs),
    /// Take this host's daemon out of its cluster
    Leave(LeaveArgs),
    /// Write everything that the cluster agrees on into a file
    Backup(BackupArgs),
    /// Make a new cluster of a backup, with this host's daemon as its first node
    Restore(RestoreArgs),
    /// Make a new cluster of what this host's daemon has, when most voters are gone for good
    Recover(RecoverArgs),
    /// Show how this daemon and its cluster are
    Status,
    /// Look whether nodes can be upgraded one after the other
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
    /// Look for what is wrong with this host and its cluster, and say what to do about it
    Doctor,
    /// Show what changes in the cluster, as it changes
    Watch(WatchArgs),
    /// Change settings of the cluster
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Make, show and revoke what hosts join with
    #[command(subcommand)]
    Token(TokenCommand),
    /// Say who may administer the cluster from elsewhere
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Show who has changed what
    Audit(AuditArgs),
    /// Administer clusters from elsewhere
    #[command(subcommand)]
    Context(ContextCommand),
    /// Show, remove and label nodes, and say which are to vote
    #[command(subcommand)]
    Node(NodeCommand),
    /// Create, show and remove networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Show who has which address
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Show what containers are told about names
    #[command(subcommand)]
    Dns(DnsCommand),
    /// Give a network namespace of this host an interface on a network
    Attach(AttachArgs),
    /// Take a network namespace of this host off its networks
    Detach(DetachArgs),
    /// Print the completion script of a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages of all commands into a folder
    Man {
        /// The folder, such as /usr/local/share/man/man1
        folder: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeCommand {
    /// Show every node's version, what is in the way, and which node is next
    Check,
}

/// How to read.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ReadArgs {
    /// From this node's own copy, without asking the leader
    #[arg(long)]
    pub(crate) stale: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Create a network
    Create(Box<CreateArgs>),
    /// List networks
    #[command(visible_alias = "list")]
    Ls {
        /// Only names
        #[arg(short, long)]
        quiet: bool,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Show networks and their containers on every host
    Inspect {
        /// Names or ids
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Remove networks that nothing uses
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or ids
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name: 1 to 63 of a-z A-Z 0-9 . _ -, beginning with a letter or digit
    pub(crate) name: String,
    /// Subnet; once per address family [default: a free one of the cluster's pools]
    #[arg(long = "subnet", value_name = "CIDR")]
    pub(crate) subnets: Vec<String>,
    /// Gateway; once per address family [default: the subnet's first address]
    #[arg(long = "gateway", value_name = "IP")]
    pub(crate) gateways: Vec<String>,
    /// Part of the subnet to hand out; once per address family [default: all of it]
    #[arg(long = "ip-range", value_name = "CIDR")]
    pub(crate) ip_ranges: Vec<String>,
    /// Keep an address for a container of this name; may be repeated
    #[arg(long = "reserve", value_name = "NAME=IP")]
    pub(crate) reservations: Vec<Pair>,
    /// MTU of the containers' interfaces [default: from the nodes' underlay]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) mtu: Option<u32>,
    /// VXLAN network identifier [default: the lowest free one from 65536]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) vni: Option<u32>,
    /// No way out: containers reach only each other
    #[arg(long)]
    pub(crate) internal: bool,
    /// Label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<Pair>,
    /// Also an IPv6 subnet
    #[arg(long)]
    pub(crate) ipv6: bool,
    /// Although a subnet overlaps a route of a node
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Return once the container engine of every ready node has it
    #[arg(short, long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// List leases: all but free ones, unless --state free
    #[command(visible_alias = "list")]
    Ls {
        /// Only of this network: name or id
        #[arg(long)]
        network: Option<String>,
        /// Only of this node: name or id
        #[arg(long)]
        node: Option<String>,
        /// Only in this state
        #[arg(long, value_enum)]
        state: Option<StateArg>,
        /// Only addresses
        #[arg(short, long)]
        quiet: bool,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Show who has an address, since when, and who had it before
    Inspect {
        /// Addresses
        #[arg(required = true, value_name = "IP")]
        addresses: Vec<String>,
        #[command(flatten)]
        read: ReadArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DnsCommand {
    /// Show which container a name stands for on this host, on which node and since when
    Query {
        /// Name, other name or id of a container, or an address
        #[arg(value_parser = not_empty)]
        name: String,
        /// Network that the asker is on: name or id
        #[arg(long)]
        network: String,
    },
}

/// State of a lease, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateArg {
    /// Kept for a name
    Reserved,
    /// Held by a container that is being attached
    Pending,
    /// Held by a container
    Active,
    /// Held by a container that is stopped
    Kept,
    /// Released a short time ago
    Cooling,
    /// Released and free for anyone
    Free,
}

impl From<StateArg> for LeaseState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Reserved => Self::Reserved,
            StateArg::Pending => Self::Pending,
            StateArg::Active => Self::Active,
            StateArg::Kept => Self::Kept,
            StateArg::Cooling => Self::Cooling,
            StateArg::Free => Self::Free,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Only what belongs to this network; may be repeated
    #[arg(long = "network", value_name = "NETWORK")]
    pub(crate) networks: Vec<String>,
    /// Only objects of this kind; may be repeated
    #[arg(long = "kind", value_enum, value_name = "KIND")]
    pub(crate) kinds: Vec<KindArg>,
    /// Go on after this index, instead of beginning with all that there is
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    pub(crate) from: u64,
}

/// Kind of an object, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArg {
    /// The cluster's settings
    Cluster,
    /// Nodes
    Node,
    /// Networks
    Network,
    /// Containers on networks
    Endpoint,
    /// Addresses
    Lease,
    /// Subnets of networks that are about to be made
    Claim,
    /// Networks as the container engines have them
    EngineNetwork,
    /// Tokens that hosts join with
    Token,
    /// Those who may administer the cluster from elsewhere
    Admin,
    /// What somebody has changed
    Audited,
}

impl From<KindArg> for ObjectKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Cluster => Self::Cluster,
            KindArg::Node => Self::Node,
            KindArg::Network => Self::Network,
            KindArg::Endpoint => Self::Endpoint,
            KindArg::Lease => Self::Lease,
            KindArg::Claim => Self::Claim,
            KindArg::EngineNetwork => Self::EngineNetwork,
            KindArg::Token => Self::Token,
            KindArg::Admin => Self::Admin,
            KindArg::Audited => Self::Audited,
        }
    }
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("namespace").required(true))]
pub(crate) struct AttachArgs {
    /// Name or id of the network
    #[arg(long)]
    pub(crate) network: String,
    /// File that names the namespace, such as /run/netns/c1
    #[arg(long, group = "namespace", value_name = "PATH", value_parser = not_empty)]
    pub(crate) netns: Option<String>,
    /// A process in the namespace
    #[arg(long, group = "namespace", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pid: Option<u32>,
    /// Name of the container [default: the last part of PATH, or pid-PID]
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) name: Option<String>,
    /// Address; once per address family [default: the lowest free one]
    #[arg(long = "ip", value_name = "IP")]
    pub(crate) addresses: Vec<String>,
    /// MAC address [default: 02:42 and the address]
    #[arg(long)]
    pub(crate) mac: Option<String>,
    /// Name of the interface [default: the first free one of eth0, eth1, ...]
    #[arg(long)]
    pub(crate) ifname: Option<String>,
    /// Another name of the container; may be repeated
    #[arg(long = "alias", value_name = "NAME")]
    pub(crate) aliases: Vec<String>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("container").required(true))]
pub(crate) struct DetachArgs {
    /// Name or id of the network [default: all that the container is on]
    #[arg(long)]
    pub(crate) network: Option<String>,
    /// File that names the namespace, such as /run/netns/c1
    #[arg(long, group = "container", value_name = "PATH", value_parser = not_empty)]
    pub(crate) netns: Option<String>,
    /// A process in the namespace
    #[arg(long, group = "container", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pid: Option<u32>,
    /// Name of the container on this host
    #[arg(long, group = "container", value_name = "CONTAINER", value_parser = not_empty)]
    pub(crate) name: Option<String>,
}

/// `KEY=VALUE`. The key is not empty; the value may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// Before the first `=`.
    pub(crate) key: String,
    /// After it.
    pub(crate) value: String,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self { key: key.to_owned(), value: value.to_owned() }),
            Some(_) => Err("nothing before the =".to_owned()),
            None => Err("no =".to_owned()),
        }
    }
}

/// The pairs as the API has them.
pub(crate) fn map(pairs: &[Pair]) -> BTreeMap<String, String> {
    pairs.iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect()
}

/// Parses `500ms`, `30s`, `2m`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<u32>() {
        Ok(seconds) => SignedDuration::from_secs(seconds.into()),
        Err(_) => text.parse().map_err(|_| "not a duration such as 500ms, 30s or 2m".to_owned())?,
    };
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be more than nothing".to_owned()),
    }
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("is empty".to_owned()) } else { Ok(text.trim().to_owned()) }
}

#[cfg(test)]
mod tests;
