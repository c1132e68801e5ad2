//! Following the cluster's objects.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use pontoon_proto::v1;
use pontoon_proto::v1::watch_service_server::WatchService;
use pontoon_store::{WatchError, Watcher};
use tonic::{Request, Response, Status};

use super::error::ApiError;
use crate::daemon::Daemon;

/// The service, answered by this daemon.
#[derive(Debug)]
pub struct Watch(pub Arc<Daemon>);

#[tonic::async_trait]
impl WatchService for Watch {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (store, end) = (self.0.member()?.store().clone(), self.0.stop.clone());
        let watcher = Watcher::follow(store, end, self.0.slot.watching().clone(), request.into_inner()).await;
        let watcher = watcher.map_err(ApiError::from)?;
        let told = watcher.stream().map(|event| event.map_err(|error: WatchError| ApiError::from(error).into()));
        Ok(Response::new(Box::pin(told)))
    }
}
