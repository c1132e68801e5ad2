//! The metrics: what Prometheus reads of this node and its cluster. They can only be read, hold no secrets, and are
//! served where somebody has asked for them.
//!
//! - `families`: from what is known to text
//! - `usage`: how much of the state there is

mod families;
mod usage;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use pontoon_proto::v1;
use tokio::net::TcpListener;
use tracing::info;

use crate::daemon::Daemon;
use crate::member::Member;
use crate::serve::{self, ServeError};
use crate::status;
use crate::visits::{Visits, only_for_this_host};

use families::{InCluster, Known};
use usage::Usage;

/// What comes with the metrics: their format, and how they are to be treated.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // A connection is for one request: visits are short.
    (header::CONNECTION, "close"),
];

/// Opens the port, if there is to be one.
pub(crate) async fn open(address: Option<SocketAddr>) -> Result<Option<TcpListener>, ServeError> {
    match address {
        Some(address) => serve::bind_metrics(address).await.map(Some),
        None => Ok(None),
    }
}

/// Serves the metrics until the daemon stops.
pub(crate) async fn run(daemon: Arc<Daemon>, listener: Option<TcpListener>) {
    let (Some(listener), Some(address)) = (listener, daemon.config.metrics) else { return };
    let task = daemon.tasks.task("metrics");
    task.begin();
    let address = listener.local_addr().unwrap_or(address);
    info!(%address, "the metrics are served");
    let serving = async { axum::serve(Visits::of(listener), router(daemon.clone(), address)).await };
    // Nobody waits for the end of visits: they change nothing.
    daemon.stop.run_until_cancelled(serving).await;
}

/// What is on loopback is for this host, and not for web pages from elsewhere that a browser on it shows. What is not
/// can be read by whoever reaches it, under whatever name Prometheus knows the host by.
fn router(daemon: Arc<Daemon>, address: SocketAddr) -> Router {
    let router = Router::new()
        .route("/metrics", get(show))
        .fallback(async || (StatusCode::NOT_FOUND, "there is only one thing here: /metrics\n"));
    let router = if address.ip().is_loopback() {
        router.layer(middleware::from_fn_with_state(daemon.clone(), only_for_this_host))
    } else {
        router
    };
    router.with_state(daemon)
}

async fn show(State(daemon): State<Arc<Daemon>>) -> Response {
    (HEADERS, families::text(&collect(&daemon))).into_response()
}

/// What this daemon knows by itself: the others are not asked, so it is answered at once also without quorum.
fn collect(daemon: &Daemon) -> Known {
    let status = status::status(daemon);
    // It may have come into a cluster, or left one, since.
    let member = daemon.try_member().filter(|_| !status.cluster_id.is_empty());
    let engine = daemon.config.docker.is_some().then(|| !daemon.containers.engine().is_empty());
    Known {
        member: member.map(|member| in_cluster(&member, &status, engine)),
        watching: daemon.slot.watching().clone(),
        names: daemon.config.docker.as_ref().map(|_| daemon.names.counts.clone()),
        status,
    }
}

fn in_cluster(member: &Member, status: &v1::StatusResponse, engine: Option<bool>) -> InCluster {
    let store = member.store().status();
    InCluster {
        data_plane: status.data_plane.clone().unwrap_or_default(),
        snapshot_index: store.snapshot_index,
        log_entries: store.log_entries,
        replaced_voters: store.replaced_voters,
        log_sync_seconds: member.store().log_sync_seconds(),
        usage: Usage::of(&member.store().state()),
        engine,
    }
}
