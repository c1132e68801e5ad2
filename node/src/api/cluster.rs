//! The cluster and this daemon's place in it.

use std::sync::Arc;

use futures::stream::{BoxStream, StreamExt};
use pontoon_proto::v1::cluster_service_server::ClusterService;
use pontoon_proto::{BACKUP_PART_BYTES, v1};
use pontoon_store::model::command::{Command, Outcome};
use tonic::{Code, Request, Response, Status, Streaming};

use super::error::ApiError;
use crate::daemon::Daemon;
use crate::{backup, lifecycle, lock, status, voting};
use zeroize::Zeroizing;

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

    async fn r#move(&self, request: Request<v1::MoveRequest>) -> Result<Response<v1::MoveResponse>, Status> {
        let daemon = self.0.clone();
        let answer = super::to_the_end(async move { lifecycle::move_to(&daemon, request.into_inner()).await }).await?;
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

    async fn rotate_authority(
        &self,
        _: Request<v1::RotateAuthorityRequest>,
    ) -> Result<Response<v1::RotateAuthorityResponse>, Status> {
        let member = self.0.member()?;
        let next = member.store().next_authority(None).map_err(|error| lock::no_key(&error))?;
        match member.propose(Command::RotateAuthority(next)).await? {
            Outcome::Cluster(cluster) => {
                Ok(Response::new(v1::RotateAuthorityResponse { cluster: Some((&cluster).into()) }))
            }
            other => Err(super::unexpected(&other).into()),
        }
    }

    async fn lock(&self, request: Request<v1::LockRequest>) -> Result<Response<v1::LockResponse>, Status> {
        let daemon = self.0.clone();
        let work = async move { lock::lock(&daemon, Zeroizing::new(request.into_inner().key)).await };
        Ok(Response::new(super::to_the_end(work).await?))
    }

    async fn unlock(&self, request: Request<v1::UnlockRequest>) -> Result<Response<v1::UnlockResponse>, Status> {
        lock::unlock(&self.0, Zeroizing::new(request.into_inner().key)).await?;
        Ok(Response::new(v1::UnlockResponse {}))
    }

    type BackupStream = BoxStream<'static, Result<v1::BackupResponse, Status>>;

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let (member, stale) = (self.0.member()?, request.get_ref().stale);
        let basis = member.read(Some(v1::ReadOptions { stale })).await;
        let (file, freshness) = {
            let state = basis.look(&member);
            (backup::write(&state), basis.of(&state))
        };
        if !freshness.linearizable && (!stale || member.store().observes()) {
            let message = format!("there is no backup of everything: {}", freshness.reason);
            let hint = "pontoon backup --stale on a voter or a learner writes what that one has";
            return Err(ApiError::new(Code::Unavailable, "NO_QUORUM", message, hint).into());
        }
        let parts: Vec<_> = file.chunks(BACKUP_PART_BYTES).map(<[u8]>::to_vec).collect();
        let told = parts.into_iter().enumerate().map(move |(number, data)| {
            Ok(v1::BackupResponse { data, freshness: (number == 0).then(|| freshness.clone()) })
        });
        Ok(Response::new(futures::stream::iter(told).boxed()))
    }

    async fn restore(
        &self,
        request: Request<Streaming<v1::RestoreRequest>>,
    ) -> Result<Response<v1::RestoreResponse>, Status> {
        let mut parts = request.into_inner();
        let (mut init, mut file) = (None, Vec::new());
        while let Some(part) = parts.message().await? {
            init = init.or(part.init);
            file.extend(part.data);
            if file.len() > backup::MAX_BYTES {
                let message = format!("the backup has more than {} bytes", backup::MAX_BYTES);
                let error = ApiError::new(Code::InvalidArgument, "INVALID_BACKUP", message, "is it the right file?");
                return Err(error.into());
            }
        }
        let daemon = self.0.clone();
        let work = async move { lifecycle::restore(&daemon, init.unwrap_or_default(), &file).await };
        Ok(Response::new(super::to_the_end(work).await?))
    }

    async fn recover(&self, request: Request<v1::RecoverRequest>) -> Result<Response<v1::RecoverResponse>, Status> {
        let daemon = self.0.clone();
        let answer =
            super::to_the_end(async move { lifecycle::recover(&daemon, request.into_inner().force).await }).await?;
        Ok(Response::new(answer))
    }

    async fn configure(
        &self,
        request: Request<v1::ConfigureRequest>,
    ) -> Result<Response<v1::ConfigureResponse>, Status> {
        let member = self.0.member()?;
        Ok(Response::new(voting::configure(&member, request.into_inner()).await?))
    }
}
