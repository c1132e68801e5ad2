//! Tokens that hosts join with.

use std::sync::Arc;

use pontoon_proto::v1;
use pontoon_proto::v1::token_service_server::TokenService;
use tonic::{Request, Response, Status};

use crate::daemon::Daemon;
use crate::tokens;

/// The service, answered by this daemon.
#[derive(Debug)]
pub struct Tokens(pub Arc<Daemon>);

#[tonic::async_trait]
impl TokenService for Tokens {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let member = self.0.member()?;
        Ok(Response::new(tokens::create(&member, request.into_inner()).await?))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let member = self.0.member()?;
        let freshness = member.read_own(request.into_inner().read).await;
        let state = member.store().state();
        let mut tokens: Vec<v1::Token> = state.tokens.values().map(Into::into).collect();
        tokens.sort_by_key(|token| token.created_ms);
        Ok(Response::new(v1::ListTokensResponse { tokens, freshness: Some(freshness.of(&state)) }))
    }

    async fn rotate_token(
        &self,
        request: Request<v1::RotateTokenRequest>,
    ) -> Result<Response<v1::RotateTokenResponse>, Status> {
        let member = self.0.member()?;
        Ok(Response::new(tokens::rotate(&member, request.into_inner()).await?))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let member = self.0.member()?;
        Ok(Response::new(tokens::revoke(&member, &request.into_inner().token).await?))
    }
}
