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

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{InitResponse, Node};

    use super::*;
    use crate::render::cluster;

    const HOUR: u64 = 3_600_000;
    const NOW_MS: u64 = 1_772_366_400_000;

    fn now() -> Timestamp {
        Timestamp::from_millisecond(NOW_MS.cast_signed()).unwrap()
    }

    fn token(id: &str) -> Token {
        Token {
            id: id.into(),
            role: TokenRole::Voter.into(),
            uses: 3,
            used: 1,
            created_ms: NOW_MS - HOUR,
            until_ms: NOW_MS + 23 * HOUR,
            ..Token::default()
        }
    }

    #[test]
    fn a_new_cluster_says_how_to_join_it() {
        let node = Node { name: "host1".into(), id: 1, ..Node::default() };
        let answer = InitResponse { cluster_id: "00ff".into(), node: Some(node), join_token: "PTN1-ABC".into() };
        let expected = "\
Cluster 00ff is made, with node host1 (id 1).

To add another host, run there:

    pontoon join PTN1-ABC

This is good for 24 hours. pontoon token create makes more.
";
        assert_eq!(cluster::init(&answer, 1), expected);
        assert!(cluster::init(&answer, 2).contains("To add up to 2 hosts, run there:"));
    }

    #[test]
    fn a_new_token_says_how_to_join_with_it() {
        let expected = "\
To add up to 3 hosts, run there:

    pontoon join PTN1-ABC

Token 0011 ends in 23 hours. It is not shown again.
";
        assert_eq!(made("PTN1-ABC", Some(&token("0011")), now()), expected);
    }

    #[test]
    fn tokens_say_whether_one_can_join_with_them() {
        let tokens = [
            token("good"),
            Token { used: 3, ..token("used") },
            Token { until_ms: NOW_MS, ..token("ended") },
            Token { revoked_ms: NOW_MS - HOUR, role: TokenRole::Observer.into(), ..token("revoked") },
        ];
        let expected = "\
ID        ROLE       USED   STATE                CREATED
good      voter      1/3    ends in 23 hours     1 hour ago
used      voter      3/3    used up              1 hour ago
ended     voter      1/3    ended 0 seconds ago  1 hour ago
revoked   observer   1/3    revoked 1 hour ago   1 hour ago
";
        let words = |text: &str| {
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(words(&list(&tokens, now())), words(expected));
    }
}
