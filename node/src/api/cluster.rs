//! The cluster and this daemon's place in it.

use std::sync::Arc;

use pontoon_proto::v1;
use pontoon_proto::v1::cluster_service_server::ClusterService;
use tonic::{Request, Response, Status};

use crate::daemon::Daemon;
use crate::{lifecycle, status, voting};

/// The service, answered by this daemon.
#[derive(Debug)]
pub struct Cluster(pub Arc<Daemon>);

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn init(&self, request: Request<v1::InitRequest>) -> Result<Response<v1::InitResponse>, Status> {
        let daemon = self.0.clone();
        let answer = super::to_the_end(async move { lifecycle::init(&daemon, request.into_inner()).await }).await?;
        Ok(Response::new(answer))
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let daemon = self.0.clone();
        let answer = super::to_the_end(async move { lifecycle::join(&daemon, request.into_inner()).await }).await?;
        Ok(Response::new(answer))
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaveResponse>, Status> {
        let daemon = self.0.clone();
        let answer =
            super::to_the_end(async move { lifecycle::leave(&daemon, request.into_inner().force).await }).await?;
        Ok(Response::new(answer))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(status::status(&self.0)))
    }

    async fn configure(
        &self,
        request: Request<v1::ConfigureRequest>,
    ) -> Result<Response<v1::ConfigureResponse>, Status> {
        let member = self.0.member()?;
        Ok(Response::new(voting::configure(&member, request.into_inner()).await?))
    }
}
