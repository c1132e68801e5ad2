//! `pontoon node`.

use std::str::FromStr;

use clap::Subcommand;

use super::{Pair, ReadArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls {
        /// Only names
        #[arg(short, long)]
        quiet: bool,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Show nodes and their containers
    Inspect {
        /// Names or ids
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Remove nodes that do not come back
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or ids
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        /// Also with containers: their addresses are handed out again, although they may still run
        #[arg(short, long)]
        force: bool,
    },
    /// Set (KEY=VALUE) and remove (KEY-) labels of a node
    Label {
        /// Name or id
        node: String,
        /// KEY=VALUE sets a label, KEY- removes it
        #[arg(required_unless_present = "rm", value_name = "KEY=VALUE|KEY-")]
        changes: Vec<LabelChange>,
        /// Remove a label; may be repeated
        #[arg(long, value_name = "KEY")]
        rm: Vec<String>,
    },
    /// Let nodes vote rather than others
    Promote {
        /// Names or ids
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Let nodes not vote any more, as long as others can
    Demote {
        /// Names or ids
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Move leadership and votes away from nodes, before their hosts are stopped; node auto takes it back
    Drain {
        /// Names or ids
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Tell the cluster that this node is reached at other addresses
    Move {
        /// Address that other nodes reach this one at, with or without port
        #[arg(long, value_name = "ADDR", required_unless_present = "data_addr")]
        advertise: Option<String>,
        /// Address that packets between containers come from and go to, if it is another
        #[arg(long, value_name = "ADDR")]
        data_addr: Option<String>,
    },
    /// Take promote, demote and drain back: the leader chooses
    Auto {
        /// Names or ids
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
}

/// What to do with one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelChange {
    /// `KEY=VALUE`.
    Set(Pair),
    /// `KEY-`.
    Remove(String),
}

impl LabelChange {
    /// The label's key.
    pub(super) fn key(&self) -> &String {
        match self {
            Self::Set(pair) => &pair.key,
            Self::Remove(key) => key,
        }
    }
}

impl FromStr for LabelChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('=') {
            return text.parse().map(Self::Set);
        }
        match text.strip_suffix('-') {
            Some(key) if !key.is_empty() => Ok(Self::Remove(key.to_owned())),
            _ => Err("neither KEY=VALUE nor KEY-".to_owned()),
        }
    }
}
