//! The Pontoon daemon: it keeps a copy of the replicated store, makes its host's kernel look
//! the way the store says, and answers the administrator.
//!
//! - [`config`], [`identity`]: options, and the data folder
//! - [`daemon`], [`lifecycle`], [`member`]: what the daemon is, how it enters and leaves a cluster
//! - [`serve`], [`api`], [`status`]: the doors and what is answered there
//! - [`attach`]: network namespaces get and lose their interfaces
//! - [`plan`]: PURE: what the kernel should hold, and the steps to it
//! - [`kernel`]: the only place that speaks to the kernel
//! - [`reconcile`]: the loop between the two
//! - `doctor`: looks at all of it for `pontoon doctor`
//! - `docker`: Docker's driver, and the cluster's networks in its engine
//! - `page`: what a browser shows of all that
//! - `metrics`: what Prometheus reads of it
//! - `visits`: how connections for the two are taken
//! - `names`: containers find each other by name across hosts
//! - `voting`: who votes, as users ask for it

mod access;
mod admins;
pub mod api;
pub mod attach;
mod backup;
mod clock;
pub mod config;
pub mod daemon;
mod docker;
mod doctor;
pub mod host;
pub mod identity;
pub mod journal;
pub mod kernel;
pub mod lifecycle;
mod lock;
pub mod member;
mod metrics;
mod names;
mod page;
pub mod plan;
pub mod read;
pub mod reconcile;
mod renewal;
mod report;
mod role;
pub mod serve;
pub mod status;
mod tokens;
mod visits;
mod voting;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryFutureExt;
use pontoon_store::tasks::Task;
use pontoon_store::{PeerServer, StoreSlot};
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use config::Config;
use daemon::Daemon;
use identity::{DataDir, DataDirError};
use serve::ServeError;

/// How long requests under way may take to end once the daemon stops. With what follows it
/// stays below the 10 s after which a supervisor loses patience.
const DRAIN: Duration = Duration::from_secs(3);

/// How long the member may take to end after that. What it would still do, the next start does: the log is synced with
/// each write, and the kernel is put in order by the first pass.
const LAST: Duration = Duration::from_secs(5);

/// How long a data folder that is in use is waited for.
const GOING: Duration = Duration::from_secs(2);

/// The daemon cannot start, or cannot go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// Privileges are missing.
    #[error("{0}")]
    Privileges(#[source] kernel::KernelError),
    /// The data folder.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The peer port, a socket, the page or the metrics.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] std::io::Error),
    /// The store or the kernel refused.
    #[error("cannot go on as a member: {message}{}{hint}", if hint.is_empty() { "" } else { "; " })]
    Resume {
        /// What failed.
        message: String,
        /// What to do.
        hint: String,
    },
}

/// Says that it starts, and what as.
fn announce(config: &Config) {
    info!(version = env!("CARGO_PKG_VERSION"), data_dir = %config.data_dir.display(),
        socket = %config.socket.display(), peer = %config.listen, "pontoond starts");
    if cfg!(feature = "plaintext") {
        warn!("this program was built for a benchmark, with the feature plaintext: nothing between nodes is secret");
    }
}

/// Runs the daemon until a signal ends it.
pub async fn run(config: Config) -> Result<(), RunError> {
    kernel::check_privileges().map_err(RunError::Privileges)?;
    let data = open_data_dir(&config.data_dir).await?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;

    let peer = serve::bind_peer(config.listen).await?;
    let address = peer.local_addr().unwrap_or(config.listen);
    let admin = serve::bind_admin(&config.socket)?;
    let plugin = config.docker.as_ref().map(|docker| serve::bind_plugin(&docker.plugin)).transpose()?;
    let page = page::open(config.page).await?;
    let metrics = metrics::open(config.metrics).await?;
    let config = Config { listen: address, ..config };
    announce(&config);

    let stop = CancellationToken::new();
    let slot = StoreSlot::new(host::name().unwrap_or_default(), data.key().clone(), host::now_ms);
    let daemon = Arc::new(Daemon::new(config, data, slot.clone(), stop.clone()));
    let (admins, of_admins) = mpsc::channel(serve::ADMINS);
    let serving = PeerServer::with_admins(slot, admins).serve(peer, stop.clone().cancelled_owned());
    let serving = serving.map_err(|source| ServeError::Broke { door: "peer port", source: source.into() });
    let mut peers = tokio::spawn(shown(daemon.tasks.task("peers"), serving));
    // Before anything else of a member runs: an engine that starts waits for this socket.
    let mut plugins = tokio::spawn(shown(daemon.tasks.task("docker-plugin"), serve_plugin(daemon.clone(), plugin)));
    lifecycle::resume(&daemon).await.map_err(|error| RunError::Resume { message: error.message, hint: error.hint })?;
    daemon.settle();
    let serving = serve::serve_admin(daemon.clone(), admin, of_admins, stop.clone());
    let mut admins = tokio::spawn(shown(daemon.tasks.task("admin"), serving));
    tokio::spawn(page::run(daemon.clone(), page));
    tokio::spawn(metrics::run(daemon.clone(), metrics));
    notify(sd_notify::NotifyState::Ready);

    let ended = tokio::select! {
        _ = terminate.recv() => {
            info!("SIGTERM: stopping");
            Ok(())
        }
        _ = interrupt.recv() => {
            info!("SIGINT: stopping");
            Ok(())
        }
        result = &mut peers => served(result),
        result = &mut admins => served(result),
        result = &mut plugins => served(result),
    };
    notify(sd_notify::NotifyState::Stopping);
    resign(&daemon).await;
    stop.cancel();
    let drain = async {
        for door in [admins, peers, plugins] {
            if !door.is_finished() {
                served(door.await)?;
            }
        }
        Ok::<(), RunError>(())
    };
    let drained = tokio::time::timeout(DRAIN, drain).await.unwrap_or_else(|_| {
        warn!("requests under way were cut off");
        Ok(())
    });
    if let Some(member) = daemon.set_member(None)
        && tokio::time::timeout(LAST, member.stop()).await.is_err()
    {
        warn!("ending although something is still at work; the next start goes on from what is on the disk");
    }
    info!("pontoond has stopped; the containers' traffic goes on");
    ended.and(drained)
}

/// Hands leadership over, if this member leads. Before the doors close, so that the others hardly notice: what they have
/// passed to this node is still answered.
async fn resign(daemon: &Daemon) {
    if let Some(member) = daemon.try_member() {
        member.store().resign().await;
    }
}

/// Serves Docker's plugin socket, where there is one, until the daemon stops.
async fn serve_plugin(daemon: Arc<Daemon>, listener: Option<UnixListener>) -> Result<(), ServeError> {
    let stop = daemon.stop.clone();
    let Some(listener) = listener else {
        stop.cancelled().await;
        return Ok(());
    };
    let served = docker::serve(daemon, listener, stop).await;
    served.map_err(|source| ServeError::Broke { door: "plugin socket", source: source.into() })
}

/// Shows a server on the task board for as long as it serves.
async fn shown(task: Task, serving: impl Future<Output = Result<(), ServeError>>) -> Result<(), ServeError> {
    task.begin();
    serving.await
}

/// Opens the data folder. A daemon that was killed a moment ago may still be going, or have started an nft that has
/// not let go of its files.
async fn open_data_dir(path: &Path) -> Result<DataDir, DataDirError> {
    let end = Instant::now() + GOING;
    loop {
        match DataDir::open(path) {
            Err(DataDirError::InUse { .. }) if Instant::now() < end => tokio::time::sleep(GOING / 40).await,
            result => return result,
        }
    }
}

/// A door that closed although nobody asked it to.
fn served(result: Result<Result<(), ServeError>, tokio::task::JoinError>) -> Result<(), RunError> {
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(error) => {
            error!(%error, "a server task ended");
            Ok(())
        }
    }
}

fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "cannot tell systemd");
    }
}
