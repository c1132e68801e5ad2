//! Following the cluster's objects.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use pontoon_proto::v1;
use pontoon_proto::v1::watch_service_server::WatchService;
use pontoon_store::model::admin::Role;
use tonic::{Request, Response, Status};

use super::error::ApiError;
use crate::access::kinds;
use crate::daemon::Daemon;

/// The service, answered by this daemon.
#[derive(Debug)]
pub struct Watch(pub Arc<Daemon>);

#[tonic::async_trait]
impl WatchService for Watch {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (member, watching) = (self.0.member()?, self.0.slot.watching().clone());
        // It is always said.
        let role = request.extensions().get::<Role>().copied().unwrap_or(Role::Viewer);
        let request = request.into_inner();
        let request = v1::WatchRequest { kinds: kinds(request.kinds, role)?, ..request };
        let told = member.store().watch(request, self.0.stop.clone(), watching).await;
        let told = told.map_err(ApiError::from)?;
        Ok(Response::new(Box::pin(told.map(|event| event.map_err(|error| ApiError::from(error).into())))))
    }
}
