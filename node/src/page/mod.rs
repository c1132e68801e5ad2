//! The page: what a browser shows of this node and its cluster. It can only be read, and asks nobody who they are, so it
//! is for this host alone unless somebody decides otherwise.
//!
//! `view` makes HTML of what is known.

mod view;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use pontoon_proto::v1;
use pontoon_store::tasks::Task;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::api;
use crate::config::PageConfig;
use crate::daemon::Daemon;
use crate::serve::{self, ServeError};
use crate::visits::{Visits, only_for_this_host};
use crate::{host, status};

use view::View;

/// How long after it could not be served it is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What a browser may do with the page: show it and its own style. Nothing is loaded, sent or kept, and no other page
/// may frame it.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // A connection is for one request: visits are short.
    (header::CONNECTION, "close"),
];

/// Opens the port that somebody has asked for. [`run`] opens the default one.
pub(crate) async fn open(page: Option<PageConfig>) -> Result<Option<TcpListener>, ServeError> {
    match page {
        Some(page) if page.given => serve::bind_page(page.address).await.map(Some),
        _ => Ok(None),
    }
}

/// Serves the page until the daemon stops. Where its port is not open yet, that is tried until it is.
pub(crate) async fn run(daemon: Arc<Daemon>, listener: Option<TcpListener>) {
    let Some(page) = daemon.config.page else { return };
    let task = daemon.tasks.task("page");
    task.begin();
    let serving = async {
        let listener = match listener {
            Some(listener) => listener,
            None => bind(page.address, &task).await,
        };
        info!(address = %listener.local_addr().unwrap_or(page.address), "the page is served");
        axum::serve(Visits::of(listener), router(daemon.clone())).await
    };
    // Nobody waits for the end of visits: they change nothing.
    daemon.stop.run_until_cancelled(serving).await;
}

async fn bind(address: SocketAddr, task: &Task) -> TcpListener {
    let mut told = false;
    loop {
        match serve::bind_page(address).await {
            Ok(listener) => {
                if told {
                    task.end(Ok::<(), ServeError>(()));
                    task.begin();
                }
                return listener;
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!("{error}; trying again every {} s", AGAIN.as_secs());
                }
                task.end(Err(error));
            }
        }
        tokio::time::sleep(AGAIN).await;
        task.begin();
    }
}

fn router(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route("/", get(show))
        .fallback(async || (StatusCode::NOT_FOUND, "there is only one page here: /\n"))
        .layer(middleware::from_fn_with_state(daemon.clone(), only_for_this_host))
        .with_state(daemon)
}

async fn show(State(daemon): State<Arc<Daemon>>) -> Response {
    let view = collect(&daemon).await;
    (HEADERS, view::page(&view)).into_response()
}

/// What the page shows. Without quorum it is the local copy, and says so.
async fn collect(daemon: &Daemon) -> View {
    let mut view = View { node: daemon.name(), now_ms: host::now_ms(), ..View::default() };
    let Some(member) = daemon.try_member() else {
        view.status = status::status(daemon);
        return view;
    };
    let basis = member.read(None).await;
    view.status = status::status(daemon);
    let state = basis.look(&member);
    view.networks = state.networks.values().map(|network| api::network_view(&state, network)).collect();
    view.endpoints = state.endpoints.values().map(|endpoint| api::endpoint_view(&state, endpoint)).collect();
    // It names nothing that could be missing.
    view.leases = api::select_leases(&state, &v1::ListLeasesRequest::default()).unwrap_or_default();
    view.freshness = Some(basis.of(&state));
    view
}
