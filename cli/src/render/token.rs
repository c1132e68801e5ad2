//! `pontoon token`.

use jiff::Timestamp;
use pontoon_proto::v1::{Token, TokenRole};

use super::{ago, name, table};

/// All tokens.
pub(crate) fn list(tokens: &[Token], now: Timestamp) -> String {
    let rows = tokens.iter().map(|token| {
        let uses = format!("{}/{}", token.used, token.uses);
        [token.id.clone(), name::<TokenRole>(token.role), uses, state(token, now), ago(token.created_ms, now)]
    });
    table(&["ID", "ROLE", "USED", "STATE", "CREATED"], rows)
}

/// Whether hosts can join with it.
fn state(token: &Token, now: Timestamp) -> String {
    let now_ms = u64::try_from(now.as_millisecond()).unwrap_or(0);
    if token.revoked_ms != 0 {
        return format!("revoked {}", ago(token.revoked_ms, now));
    }
    if token.until_ms <= now_ms {
        return format!("ended {}", ago(token.until_ms, now));
    }
    if token.used >= token.uses {
        return "used up".to_owned();
    }
    format!("ends {}", ago(token.until_ms, now))
}

/// A new token, and how to join with it.
pub(crate) fn made(join_token: &str, token: Option<&Token>, now: Timestamp) -> String {
    let token = token.cloned().unwrap_or_default();
    let ends = ago(token.until_ms, now);
    format!("{}\n\nToken {} ends {ends}. It is not shown again.\n", invite(join_token, token.uses), token.id)
}

/// How to join with a token.
pub(crate) fn invite(join_token: &str, uses: u32) -> String {
    let hosts = if uses == 1 { "another host".to_owned() } else { format!("up to {uses} hosts") };
    format!("To add {hosts}, run there:\n\n    pontoon join {join_token}")
}
