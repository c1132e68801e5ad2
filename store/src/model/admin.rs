//! Who may administer the cluster from elsewhere, and who has done what.

use std::fmt;
use std::ops::RangeInclusive;

use super::command::{Command, Outcome};
use super::id::{AdminId, NodeId};
use super::object::Voting;

/// What somebody may do. Each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Viewer,
    /// Work with networks, labels and votes.
    Operator,
    /// Everything.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// Somebody who may administer the cluster from elsewhere, as long as his key is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The log index of the entry that made it.
    pub id: AdminId,
    /// What he is called.
    pub name: String,
    /// What he may do.
    pub role: Role,
    /// His Ed25519 public key.
    pub public_key: [u8; 32],
    /// When he was let in.
    pub created_ms: u64,
    /// When that ends.
    pub until_ms: u64,
}

impl Admin {
    /// How long one may be let in, in milliseconds: a minute to ten years.
    pub const LIFE_MS: RangeInclusive<u64> = 60_000..=10 * 365 * 24 * 3_600_000;
    /// How long one is let in unless it is said, in milliseconds: 90 days.
    pub const DEFAULT_LIFE_MS: u64 = 90 * 24 * 3_600_000;
}

/// Lets somebody administer the cluster from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateAdmin {
    /// What he is called.
    pub name: String,
    /// What he may do.
    pub role: Role,
    /// His Ed25519 public key.
    pub public_key: [u8; 32],
    /// How long, in milliseconds.
    pub life_ms: u64,
}

/// Who has asked for a command, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Who: a user of a host, an [`Admin`], a host that joins.
    pub who: String,
    /// From where: an address, or a socket of the node that has proposed it.
    pub from: String,
}

/// Somebody has changed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// The log index of the change.
    pub index: u64,
    /// When.
    pub time_ms: u64,
    /// Node that he has asked; 0: the cluster was being founded.
    pub node: NodeId,
    /// Who, and from where.
    pub origin: Origin,
    /// What he has done.
    pub what: String,
}

impl Audited {
    /// How many are kept: the latest.
    pub const KEPT: usize = 10_000;
}

/// What somebody has done with a command that was carried out, for people. None: nothing that anybody would want to know of.
pub(super) fn describe(command: &Command, outcome: &Outcome) -> Option<String> {
    let node = |verb: &str| match outcome {
        Outcome::Node(node) => Some(format!("{verb} node {}", node.name)),
        _ => None,
    };
    let network = |verb: &str| match outcome {
        Outcome::Network(network) => Some(format!("{verb} network {}", network.name)),
        _ => None,
    };
    let endpoint = |verb: &str| match outcome {
        Outcome::Endpoint(endpoint) => {
            let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
            Some(format!("{verb} {} (network {}, {})", endpoint.name, endpoint.network, addresses.join(", ")))
        }
        _ => None,
    };
    let token = |verb: &str| match outcome {
        Outcome::Token(token) => Some(format!("{verb} token {}", token.id())),
        _ => None,
    };
    let admin = |verb: &str| match outcome {
        Outcome::Admin(admin) => Some(format!("{verb} {} as {}", admin.name, admin.role)),
        _ => None,
    };
    match command {
        Command::FoundCluster { .. } => node("made the cluster with"),
        Command::AdmitNode(admit) if admit.replaces.is_empty() => node("joined as"),
        Command::AdmitNode(_) => node("took the place of"),
        Command::LabelNode { .. } => node("labelled"),
        Command::SetVoting { voting, .. } => node(match voting {
            Voting::Auto => "let the leader choose about",
            Voting::Promoted => "promoted",
            Voting::Demoted => "demoted",
        }),
        Command::MoveNode(moved) => node(&format!("moved to {} (data {})", moved.advertise, moved.data_addr)),
        Command::RemoveNode { force: false, .. } => node("removed"),
        Command::RemoveNode { .. } => node("removed by force"),
        Command::ConfigureCluster(_) => Some("changed the settings of the cluster".to_owned()),
        // One that an engine makes has no name before it tells that.
        Command::CreateNetwork(wanted) if wanted.engine.is_some() => None,
        Command::CreateNetwork(_) | Command::NameNetwork { .. } => network("created"),
        Command::RemoveNetwork { .. } => network("removed"),
        Command::CreateEndpoint(_) => endpoint("attached"),
        Command::RemoveEndpoint { .. } => endpoint("detached"),
        Command::CreateToken(_) => token("made"),
        Command::RevokeToken { .. } => token("revoked"),
        Command::RotateToken { .. } => token("rotated a token to"),
        Command::RotateAuthority(_) => Some("exchanged the authority".to_owned()),
        Command::CreateAdmin(_) => admin("let in"),
        Command::RemoveAdmin(_) => admin("locked out"),
        Command::ReportNode(_)
        | Command::SetNodeState { .. }
        | Command::RetireMember { .. }
        | Command::ActivateEndpoint { .. }
        | Command::ClaimSubnet(_)
        | Command::ReleaseClaim { .. }
        | Command::ReportEngineNetwork(_)
        | Command::HoldAddress(_)
        | Command::ReleaseAddress { .. }
        | Command::PlaceEndpoint(_)
        | Command::StopEndpoint { .. }
        | Command::RebindEndpoint(_)
        | Command::DropAuthorities
        | Command::ReportCertificate { .. } => None,
    }
}
