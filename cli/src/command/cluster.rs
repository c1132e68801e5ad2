//! `pontoon init`, `join`, `leave`, `status` and `cluster`.

use std::fmt::Display;
use std::io;

use jiff::Timestamp;
use pontoon_proto::v1::{
    ConfigureRequest, InitRequest, JoinRequest, LeaveRequest, ListNodesRequest, LockRequest, Pool,
    RotateAuthorityRequest, StatusRequest, UnlockRequest,
};
use pontoon_proto::{JoinToken, TokenError, UnlockKey, UnlockKeyError};
use serde::Serialize;

use crate::args::{ClusterCommand, FirstNodeArgs, InitArgs, JoinArgs, JoinWith, LeaveArgs, Setting};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use crate::session::{Kind, Session};

pub(super) async fn init(args: &InitArgs, session: &Session, output: &Output) -> Result<(), Failure> {
    let pools = args.pools.iter().map(|cidr| Pool { cidr: cidr.clone(), prefix: args.pool_prefix }).collect();
    let request = InitRequest { pools, seeds: args.seeds.clone(), ..(&args.first).into() };
    let answer = session.call(Kind::WORK, "making the cluster", session.cluster().init(request)).await?;
    output.message(&answer, || render::cluster::init(&answer, args.first.token_uses.unwrap_or(1)))
}

impl From<&FirstNodeArgs> for InitRequest {
    fn from(args: &FirstNodeArgs) -> Self {
        Self {
            advertise: args.advertise.clone(),
            data_addr: args.data_addr.clone().unwrap_or_default(),
            name: args.name.clone().unwrap_or_default(),
            voter_only: args.voter_only,
            token_uses: args.token_uses.unwrap_or_default(),
            pools: Vec::new(),
            seeds: Vec::new(),
        }
    }
}

pub(super) async fn join(args: &JoinArgs, session: &Session, output: &Output) -> Result<(), Failure> {
    let token = match &args.token {
        JoinWith::Token(token) => token.clone(),
        JoinWith::Stdin => read_token()?,
    };
    let request = JoinRequest {
        peers: args.peers.clone(),
        advertise: args.advertise.clone().unwrap_or_default(),
        data_addr: args.data_addr.clone().unwrap_or_default(),
        name: args.name.clone().unwrap_or_default(),
        voter_only: args.voter_only,
        token: token.to_string(),
        replaces: args.replace.clone().unwrap_or_default(),
    };
    let named: Vec<String> = token.addresses.iter().map(ToString::to_string).collect();
    let asked: Vec<&str> = args.peers.iter().chain(&named).map(String::as_str).collect();
    let waiting = format!("joining the cluster of {}", asked.join(", "));
    let answer = session.call(Kind::WORK, &waiting, session.cluster().join(request)).await?;
    output.warnings(&answer.warnings);
    output.message(&answer, || render::cluster::join(&answer))
}

/// The token on the standard input, where it stands in no list of processes and no history.
fn read_token() -> Result<JoinToken, Failure> {
    let mut text = String::new();
    let none = |why: &dyn Display| {
        let hint = "pipe what pontoon token create -q printed into it";
        Failure::local("MALFORMED_TOKEN", format!("no join token on the standard input: {why}"), hint)
    };
    io::stdin().read_line(&mut text).map_err(|error| none(&error))?;
    text.parse().map_err(|error: TokenError| none(&error))
}

pub(super) async fn leave(args: &LeaveArgs, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = LeaveRequest { force: args.force };
    let answer = session.call(Kind::WORK, "leaving the cluster", session.cluster().leave(request)).await?;
    output.warnings(&answer.warnings);
    output.message(&answer, || "This node has left its cluster.\n".to_owned())
}

pub(super) async fn status(session: &Session, output: &Output) -> Result<(), Failure> {
    let answer = session.call(Kind::READ, "reading the status", session.cluster().status(StatusRequest {})).await?;
    output.message(&answer, || render::cluster::status(&answer, Timestamp::now()))
}

/// Fails as long as something is in the way.
pub(super) async fn check_upgrade(session: &Session, output: &Output) -> Result<(), Failure> {
    let answer = session.call(Kind::READ, "reading the status", session.cluster().status(StatusRequest {})).await?;
    let listed =
        session.call(Kind::READ, "asking the leader", session.nodes().list_nodes(ListNodesRequest::default())).await;
    let fresh = listed.ok().and_then(|listed| listed.freshness).unwrap_or_default();
    let outlook = render::upgrade::outlook(&answer, &fresh);
    output.message(&answer, || render::upgrade::text(&answer, &outlook))?;
    match outlook.in_the_way.as_slice() {
        [] => Ok(()),
        reasons => {
            let hint = "mend that first: pontoon status and pontoon doctor say more";
            Err(Failure::local("NOT_NOW", format!("no node should be stopped now: {}", reasons.join("; ")), hint))
        }
    }
}

async fn rotate_authority(session: &Session, output: &Output) -> Result<(), Failure> {
    let request = RotateAuthorityRequest {};
    let answer =
        session.call(Kind::WRITE, "exchanging the authority", session.cluster().rotate_authority(request)).await?;
    output.message(&answer, || {
        let number = answer.cluster.as_ref().map_or(0, |cluster| cluster.authority);
        format!("Authority {number} issues certificates from now on; pontoon status shows who has one\n")
    })
}

/// What `pontoon cluster lock -o json` prints.
#[derive(Serialize)]
struct Printed {
    unlock_key: String,
}

/// The key is printed before anything is done: a daemon whose answer is lost has forgotten the only other copy.
async fn lock(session: &Session, output: &Output) -> Result<(), Failure> {
    let key = UnlockKey::new(rand::random());
    let printed = Printed { unlock_key: key.to_string() };
    output.message(&printed, || render::cluster::unlock_key(&printed.unlock_key))?;
    let request = LockRequest { key: key.bytes().to_vec() };
    session.call(Kind::WRITE, "locking the cluster", session.cluster().lock(request)).await.map(drop)
}

async fn lock_off(session: &Session, output: &Output) -> Result<(), Failure> {
    let request = LockRequest { key: Vec::new() };
    let answer = session.call(Kind::WRITE, "unlocking the cluster", session.cluster().lock(request)).await?;
    output.message(&answer, || "The cluster is not locked any more\n".to_owned())
}

async fn unlock(session: &Session, output: &Output) -> Result<(), Failure> {
    let none = |why: &dyn Display| {
        let hint = "pipe what pontoon cluster lock has printed into it";
        Failure::local("WRONG_KEY", format!("no unlock key on the standard input: {why}"), hint)
    };
    let mut text = String::new();
    io::stdin().read_line(&mut text).map_err(|error| none(&error))?;
    let key: UnlockKey = text.parse().map_err(|error: UnlockKeyError| none(&error))?;
    let request = UnlockRequest { key: key.bytes().to_vec() };
    let answer = session.call(Kind::WRITE, "unlocking this daemon", session.cluster().unlock(request)).await?;
    output.message(&answer, || "This daemon can issue certificates until it is restarted\n".to_owned())
}

pub(super) async fn run(command: &ClusterCommand, session: &Session, output: &Output) -> Result<(), Failure> {
    let settings = match command {
        ClusterCommand::Set { settings } => settings,
        ClusterCommand::Lock { off: true } => return lock_off(session, output).await,
        ClusterCommand::Lock { off: false } => return lock(session, output).await,
        ClusterCommand::Unlock => return unlock(session, output).await,
        ClusterCommand::RotateAuthority => return rotate_authority(session, output).await,
    };
    let mut request = ConfigureRequest::default();
    for setting in settings {
        match *setting {
            Setting::Voters(voters) => request.voters = Some(voters),
            Setting::ReplaceAfter(millis) => request.replace_after_ms = Some(millis),
        }
    }
    let waiting = "changing the settings of the cluster";
    let answer = session.call(Kind::WRITE, waiting, session.cluster().configure(request)).await?;
    output.message(&answer, || {
        format!("Voters: {}\n", render::cluster::voters(&answer.cluster.clone().unwrap_or_default()))
    })
}
