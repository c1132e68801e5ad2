//! Tokens that hosts join with.

use crate::model::command::{AdmitNode, CreateToken, Outcome};
use crate::model::id::TokenId;
use crate::model::object::{Token, TokenRole};
use crate::model::rejection::{Reason, Rejection};
use crate::model::state::State;

use super::{Change, Changing};

/// How many tokens are kept.
const MAX_TOKENS: usize = 1_000;
/// How long a token is kept once nobody can join with it, in milliseconds: whoever tries is told why. A week.
const KEEP_MS: u64 = 7 * 24 * 3_600_000;
/// What to do without a token that is good.
const MAKE_ONE: &str = "make a new one with `pontoon token create` on a node of the cluster";

impl Changing<'_> {
    pub(super) fn create_token(&mut self, wanted: &CreateToken) -> Result<Outcome, Rejection> {
        let refuse = |message: String, hint: &str| Err(Rejection::new(Reason::InvalidToken, message, hint));
        if !(1..=Token::MAX_USES).contains(&wanted.uses) {
            let message = format!("a token cannot be for {} hosts", wanted.uses);
            return refuse(message, "use 1 to 1000: each host that joins counts");
        }
        if !Token::LIFE_MS.contains(&wanted.life_ms) {
            return refuse(format!("a token cannot last {} ms", wanted.life_ms), "use 1s to 8760h (a year)");
        }
        let now = self.state.clock_ms;
        let over = |token: &Token| token.revoked_ms.unwrap_or(token.until_ms) + KEEP_MS <= now;
        let forgotten: Vec<_> = self.state.tokens.values().filter(|token| over(token)).map(Token::id).collect();
        if self.state.tokens.len() - forgotten.len() >= MAX_TOKENS {
            let message = format!("there are {MAX_TOKENS} tokens already");
            return refuse(
                message,
                "they are forgotten a week after they end: use those that there are, or longer ones",
            );
        }
        if self.state.tokens.contains_key(&TokenId::of(&wanted.hash)) {
            return refuse("there is such a token already".to_owned(), "use another secret");
        }
        for id in forgotten {
            self.state.tokens.remove(&id);
            self.changes.insert(Change::Token(id));
        }
        let token = Token {
            hash: wanted.hash,
            role: wanted.role,
            uses: wanted.uses,
            used: 0,
            created_ms: now,
            until_ms: now + wanted.life_ms,
            revoked_ms: None,
        };
        self.put_token(token.clone());
        Ok(Outcome::Token(token))
    }

    pub(super) fn revoke_token(&mut self, id: TokenId) -> Result<Outcome, Rejection> {
        let mut token = self.token(id)?.clone();
        if token.revoked_ms.is_none() {
            token.revoked_ms = Some(self.state.clock_ms);
            self.put_token(token.clone());
        }
        Ok(Outcome::Token(token))
    }

    pub(super) fn rotate_token(&mut self, id: TokenId, hash: [u8; 32]) -> Result<Outcome, Rejection> {
        let Token { role, uses, created_ms, until_ms, .. } = *self.token(id)?;
        let made = self.create_token(&CreateToken { hash, role, uses, life_ms: until_ms - created_ms })?;
        // One that ended long ago is forgotten by now.
        if self.state.tokens.contains_key(&id) {
            self.revoke_token(id)?;
        }
        Ok(made)
    }

    fn token(&self, id: TokenId) -> Result<&Token, Rejection> {
        let missing =
            || Rejection::new(Reason::TokenNotFound, format!("there is no token {id}"), "see `pontoon token ls`");
        self.state.tokens.get(&id).ok_or_else(missing)
    }
}

impl State {
    /// The token that an admission uses; none in a cluster that was founded before there were any.
    pub(super) fn token_of(&self, admit: &AdmitNode) -> Result<Option<&Token>, Rejection> {
        let refuse = |reason: Reason, why: String, hint: &str| {
            Err(Rejection::new(reason, format!("node {} cannot be admitted: {why}", admit.name), hint))
        };
        match &self.cluster {
            Some(cluster) if cluster.authorities.is_empty() => return Ok(None),
            Some(_) => {}
            None => {
                let why = "this node does not know its cluster yet".to_owned();
                return refuse(Reason::NotFounded, why, "try again in a moment, or ask another node");
            }
        }
        let known = admit.token.and_then(|hash| {
            let token = self.tokens.get(&TokenId::of(&hash))?;
            (token.hash == hash).then_some(token)
        });
        let Some(token) = known else {
            let why = "its token is none that this cluster knows".to_owned();
            return refuse(Reason::TokenUnknown, why, MAKE_ONE);
        };
        let id = token.id();
        if token.revoked_ms.is_some() {
            return refuse(Reason::TokenRevoked, format!("token {id} was revoked"), MAKE_ONE);
        }
        if self.clock_ms >= token.until_ms {
            let ago = (self.clock_ms - token.until_ms) / 1_000;
            return refuse(Reason::TokenExpired, format!("token {id} ended {ago} s ago"), MAKE_ONE);
        }
        if token.used >= token.uses {
            let why = format!("token {id} is used up: it was for {} hosts", token.uses);
            return refuse(Reason::TokenUsedUp, why, MAKE_ONE);
        }
        if token.role == TokenRole::Observer && admit.voter_only {
            let why = format!("token {id} makes nodes that do not vote, and --voter-only one that does nothing else");
            return refuse(Reason::TokenRole, why, "leave out --voter-only, or use a token of role voter");
        }
        Ok(Some(token))
    }
}
