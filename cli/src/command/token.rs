//! `pontoon token`.

use jiff::Timestamp;
use pontoon_proto::v1::{
    CreateTokenRequest, ListTokensRequest, ReadOptions, RevokeTokenRequest, RotateTokenRequest, Token, TokenRole,
};

use super::{each, line};
use crate::args::TokenCommand;
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use crate::session::{Kind, Session};

pub(super) async fn run(command: &TokenCommand, session: &Session, output: &Output) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { uses, expires, role, print } => {
            let request = CreateTokenRequest {
                role: TokenRole::from(*role).into(),
                uses: *uses,
                life_ms: u64::try_from(expires.as_millis()).unwrap_or(u64::MAX),
                without_addresses: print.no_addresses,
            };
            let answer = session.call(Kind::WRITE, "making a token", session.tokens().create_token(request)).await?;
            output.message(&answer, || made(print.quiet, &answer.join_token, answer.token.as_ref()))
        }
        TokenCommand::Rotate { token, print } => {
            let request = RotateTokenRequest { token: token.clone(), without_addresses: print.no_addresses };
            let waiting = format!("rotating token {token}");
            let answer = session.call(Kind::WRITE, &waiting, session.tokens().rotate_token(request)).await?;
            output.message(&answer, || made(print.quiet, &answer.join_token, answer.token.as_ref()))
        }
        TokenCommand::Ls { quiet, read } => list(*quiet, (*read).into(), session, output).await,
        TokenCommand::Rm { tokens } => {
            each(tokens, output, async |token| revoke(token, session, output).await).await;
            Ok(())
        }
    }
}

fn made(quiet: bool, join_token: &str, token: Option<&Token>) -> String {
    if quiet { line(join_token) } else { render::token::made(join_token, token, Timestamp::now()) }
}

async fn list(quiet: bool, read: ReadOptions, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = ListTokensRequest { read: Some(read) };
    let answer = session.call(Kind::READ, "listing tokens", session.tokens().list_tokens(request)).await?;
    output.freshness(answer.freshness.as_ref());
    output.message(&answer, || {
        if quiet {
            answer.tokens.iter().map(|token| line(&token.id)).collect()
        } else {
            render::token::list(&answer.tokens, Timestamp::now())
        }
    })
}

async fn revoke(token: &str, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = RevokeTokenRequest { token: token.to_owned() };
    let waiting = format!("revoking token {token}");
    let answer = session.call(Kind::WRITE, &waiting, session.tokens().revoke_token(request)).await?;
    output.message(&answer, || line(answer.token.as_ref().map_or(token, |token| &token.id)))
}
