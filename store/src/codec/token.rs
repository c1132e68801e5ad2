//! Tokens that hosts join with, and the authority that they name.

use pontoon_proto::v1;

use crate::model::command::{CreateToken, RotateAuthority};
use crate::model::id::TokenId;
use crate::model::object::{Token, TokenRole};

use super::error::{CodecError, invalid, parse};

impl From<TokenRole> for v1::TokenRole {
    fn from(role: TokenRole) -> Self {
        match role {
            TokenRole::Voter => Self::Voter,
            TokenRole::Observer => Self::Observer,
        }
    }
}

impl From<&Token> for v1::Token {
    fn from(token: &Token) -> Self {
        Self {
            id: token.id().to_string(),
            hash: token.hash.to_vec(),
            role: v1::TokenRole::from(token.role).into(),
            uses: token.uses,
            used: token.used,
            created_ms: token.created_ms,
            until_ms: token.until_ms,
            revoked_ms: token.revoked_ms.unwrap_or(0),
        }
    }
}

impl TryFrom<v1::Token> for Token {
    type Error = CodecError;

    fn try_from(token: v1::Token) -> Result<Self, CodecError> {
        Ok(Self {
            hash: hash("token", &token.hash)?,
            role: role("token", token.role)?,
            uses: token.uses,
            used: token.used,
            created_ms: token.created_ms,
            until_ms: token.until_ms,
            revoked_ms: (token.revoked_ms != 0).then_some(token.revoked_ms),
        })
    }
}

impl From<&CreateToken> for v1::CreateToken {
    fn from(wanted: &CreateToken) -> Self {
        Self {
            hash: wanted.hash.to_vec(),
            role: v1::TokenRole::from(wanted.role).into(),
            uses: wanted.uses,
            life_ms: wanted.life_ms,
        }
    }
}

impl TryFrom<v1::CreateToken> for CreateToken {
    type Error = CodecError;

    fn try_from(wanted: v1::CreateToken) -> Result<Self, CodecError> {
        const WHAT: &str = "create_token";
        Ok(Self {
            hash: hash(WHAT, &wanted.hash)?,
            role: role(WHAT, wanted.role)?,
            uses: wanted.uses,
            life_ms: wanted.life_ms,
        })
    }
}

impl From<&RotateAuthority> for v1::RotateAuthority {
    fn from(new: &RotateAuthority) -> Self {
        let RotateAuthority { certificate, crossed, sealed_key, locks } = new.clone();
        Self { certificate, crossed, sealed_key, locks }
    }
}

impl From<v1::RotateAuthority> for RotateAuthority {
    fn from(new: v1::RotateAuthority) -> Self {
        let v1::RotateAuthority { certificate, crossed, sealed_key, locks } = new;
        Self { certificate, crossed, sealed_key, locks }
    }
}

fn role(what: &'static str, role: i32) -> Result<TokenRole, CodecError> {
    match v1::TokenRole::try_from(role) {
        Ok(v1::TokenRole::Voter) => Ok(TokenRole::Voter),
        Ok(v1::TokenRole::Observer) => Ok(TokenRole::Observer),
        Ok(v1::TokenRole::Unspecified) | Err(_) => Err(invalid(what, "role", &role.to_string(), "a token's role")),
    }
}

pub(super) fn hash(what: &'static str, hash: &[u8]) -> Result<[u8; 32], CodecError> {
    hash.try_into().map_err(|_| invalid(what, "hash", &format!("{} bytes", hash.len()), "32 bytes"))
}

pub(super) fn token_id(what: &'static str, id: &str) -> Result<TokenId, CodecError> {
    parse(what, "id", id, "16 hexadecimal digits")
}
