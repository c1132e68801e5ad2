//! Tokens that hosts join with.

use std::net::SocketAddr;

use pontoon_proto::{JoinToken, Secret, v1};
use pontoon_store::model::command::{Command, CreateToken, Outcome};
use pontoon_store::model::id::TokenId;
use pontoon_store::model::object::{Token, TokenRole};
use pontoon_store::model::rejection::Reason;
use tonic::Code;

use crate::api::error::ApiError;
use crate::member::Member;

/// How many nodes a token names at most: a host that joins needs one that is there.
const ADDRESSES: usize = 3;

/// A token for the cluster with this authority, with a secret that nobody can guess.
pub(crate) fn random(authority: &[u8], addresses: Vec<SocketAddr>) -> JoinToken {
    JoinToken { digest: JoinToken::digest_of(authority), secret: Secret::new(rand::random()), addresses }
}

/// What has the cluster know a token. 0 uses or milliseconds of life: as many as there are by default.
pub(crate) fn creation(token: &JoinToken, role: TokenRole, uses: u32, life_ms: u64) -> Command {
    let uses = if uses == 0 { 1 } else { uses };
    let life_ms = if life_ms == 0 { Token::DEFAULT_LIFE_MS } else { life_ms };
    Command::CreateToken(CreateToken { hash: token.secret.hash(), role, uses, life_ms })
}

/// Makes a token.
pub(crate) async fn create(
    member: &Member,
    request: v1::CreateTokenRequest,
) -> Result<v1::CreateTokenResponse, ApiError> {
    let role = match request.role() {
        v1::TokenRole::Unspecified | v1::TokenRole::Voter => TokenRole::Voter,
        v1::TokenRole::Observer => TokenRole::Observer,
    };
    let token = of_cluster(member, request.without_addresses)?;
    let made = outcome(member, creation(&token, role, request.uses, request.life_ms)).await?;
    Ok(v1::CreateTokenResponse { join_token: token.to_string(), token: Some((&made).into()) })
}

/// Puts another token in the place of one.
pub(crate) async fn rotate(
    member: &Member,
    request: v1::RotateTokenRequest,
) -> Result<v1::RotateTokenResponse, ApiError> {
    let id = find(member, &request.token)?;
    let token = of_cluster(member, request.without_addresses)?;
    let made = outcome(member, Command::RotateToken { token: id, hash: token.secret.hash() }).await?;
    Ok(v1::RotateTokenResponse { join_token: token.to_string(), token: Some((&made).into()) })
}

/// Revokes a token.
pub(crate) async fn revoke(member: &Member, wanted: &str) -> Result<v1::RevokeTokenResponse, ApiError> {
    let token = find(member, wanted)?;
    let revoked = outcome(member, Command::RevokeToken { token }).await?;
    Ok(v1::RevokeTokenResponse { token: Some((&revoked).into()) })
}

/// A new token for the cluster of a member, with the addresses of nodes that are there: first this one's.
fn of_cluster(member: &Member, without_addresses: bool) -> Result<JoinToken, ApiError> {
    let state = member.store().state();
    let authority = state.cluster.as_ref().and_then(|cluster| cluster.authorities.last());
    let authority = authority.ok_or_else(|| {
        let message = "this cluster has no authority: it was founded by a version before there were any";
        ApiError::new(Code::FailedPrecondition, "NO_AUTHORITY_KEY", message, "make the cluster anew")
    })?;
    let mut addresses = Vec::new();
    if !without_addresses {
        let own = state.nodes.get(&member.node()).into_iter();
        let others = state.nodes.values().filter(|node| node.id != member.node());
        addresses.extend(own.chain(others).take(ADDRESSES).map(|node| node.advertise));
    }
    Ok(random(authority, addresses))
}

/// What to do about tokens when a node is removed that may be in other hands.
pub(crate) fn warning(member: &Member, removed: &str) -> Option<String> {
    let state = member.store().state();
    let count = state.tokens.values().filter(|token| token.is_good(state.clock_ms)).count();
    (count > 0).then(|| {
        format!(
            "{count} tokens are good still (pontoon token ls): if somebody else has the host of {removed}, revoke them, and \
             exchange the authority (pontoon cluster rotate-authority)"
        )
    })
}

/// The token whose id begins so.
fn find(member: &Member, wanted: &str) -> Result<TokenId, ApiError> {
    let state = member.store().state();
    let mut found = state.tokens.keys().filter(|id| !wanted.is_empty() && id.to_string().starts_with(wanted));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(*id),
        (Some(_), Some(_)) => {
            let message = format!("several tokens begin with {wanted}");
            Err(ApiError::invalid(Reason::TokenNotFound, message, "give more of its id: see `pontoon token ls`"))
        }
        (None, _) => {
            let message = format!("there is no token {wanted:?}");
            let hint = "see `pontoon token ls`";
            Err(ApiError::new(Code::NotFound, Reason::TokenNotFound.as_str(), message, hint))
        }
    }
}

async fn outcome(member: &Member, command: Command) -> Result<Token, ApiError> {
    match member.propose(command).await? {
        Outcome::Token(token) => Ok(token),
        other => Err(crate::api::unexpected(&other)),
    }
}
