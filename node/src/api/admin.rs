//! Who may administer the cluster from elsewhere, and who has done what.

use std::sync::Arc;

use pontoon_proto::v1;
use pontoon_proto::v1::admin_service_server::AdminService;
use tonic::{Request, Response, Status};

use crate::admins;
use crate::daemon::Daemon;

/// How many changes are listed unless it is said.
const LISTED: usize = 100;

/// The service, answered by this daemon.
#[derive(Debug)]
pub struct Admins(pub Arc<Daemon>);

#[tonic::async_trait]
impl AdminService for Admins {
    async fn create_admin(
        &self,
        request: Request<v1::CreateAdminRequest>,
    ) -> Result<Response<v1::CreateAdminResponse>, Status> {
        let member = self.0.member()?;
        let answer = super::to_the_end(async move { admins::create(&member, request.into_inner()).await }).await?;
        Ok(Response::new(answer))
    }

    async fn list_admins(
        &self,
        request: Request<v1::ListAdminsRequest>,
    ) -> Result<Response<v1::ListAdminsResponse>, Status> {
        let member = self.0.member()?;
        let freshness = member.read_own(request.into_inner().read).await;
        let state = member.store().state();
        let mut admins: Vec<v1::Admin> = state.admins.values().map(Into::into).collect();
        admins.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Response::new(v1::ListAdminsResponse { admins, freshness: Some(freshness.of(&state)) }))
    }

    async fn remove_admin(
        &self,
        request: Request<v1::RemoveAdminRequest>,
    ) -> Result<Response<v1::RemoveAdminResponse>, Status> {
        let member = self.0.member()?;
        Ok(Response::new(admins::remove(&member, &request.into_inner().admin).await?))
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let v1::ListAuditRequest { limit, read } = request.into_inner();
        let limit = if limit == 0 { LISTED } else { limit as usize };
        let member = self.0.member()?;
        let freshness = member.read(read).await;
        let state = freshness.look(&member);
        let mut audit: Vec<v1::Audited> = state.audit.values().rev().take(limit).map(Into::into).collect();
        audit.reverse();
        Ok(Response::new(v1::ListAuditResponse { audit, freshness: Some(freshness.of(&state)) }))
    }
}
