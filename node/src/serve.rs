//! The two doors: the admin socket and the peer port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use nix::sys::socket::sockopt::{AcceptConn, SockType as TypeOf};
use nix::sys::socket::{SockType, getsockopt};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Group, chown};
use pontoon_proto::v1::admin_service_server::AdminServiceServer;
use pontoon_proto::v1::cluster_service_server::ClusterServiceServer;
use pontoon_proto::v1::diagnosis_service_server::DiagnosisServiceServer;
use pontoon_proto::v1::endpoint_service_server::EndpointServiceServer;
use pontoon_proto::v1::name_service_server::NameServiceServer;
use pontoon_proto::v1::network_service_server::NetworkServiceServer;
use pontoon_proto::v1::node_service_server::NodeServiceServer;
use pontoon_proto::v1::token_service_server::TokenServiceServer;
use pontoon_proto::v1::watch_service_server::WatchServiceServer;
use pontoon_store::Connection;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::layer::layer_fn;
use tracing::warn;

use crate::access::Access;
use crate::api::admin::Admins;
use crate::api::cluster::Cluster;
use crate::api::diagnosis::Diagnosis;
use crate::api::endpoint::Endpoints;
use crate::api::name::Names;
use crate::api::network::Networks;
use crate::api::node::Nodes;
use crate::api::token::Tokens;
use crate::api::watch::Watch;
use crate::daemon::Daemon;

/// Largest request on the admin socket, in bytes: far above what any of them needs.
const MAX_ADMIN_REQUEST: usize = 1 << 20;

/// Connections from elsewhere that may wait to be served.
pub(crate) const ADMINS: usize = 16;

/// How often a client of the admin socket is asked whether it is there still, and how long it may take to answer: a watcher
/// that stands still keeps memory.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests and watchers on one connection to the admin socket at a time; more wait.
const MAX_STREAMS: u32 = 4_096;

/// A unix socket of the daemon.
#[derive(Debug)]
pub struct Door {
    /// What it is called.
    name: &'static str,
    /// The option that says where it is.
    option: &'static str,
}

const ADMIN: Door = Door { name: "admin", option: "--socket" };
const PLUGIN: Door = Door { name: "Docker plugin", option: "--docker-plugin" };

/// How often it is looked whether anything can be written, for health checks.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// Name that a supervisor gives the plugin socket when it passes it (`FileDescriptorName=` of a socket unit).
const PASSED_PLUGIN: &str = "docker-plugin";

/// A door cannot be opened, or broke.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The peer port.
    #[error("cannot listen on {address} for other members: {source}; stop what uses it, or give another with --listen")]
    Peer {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The page.
    #[error("cannot serve the page at {address}: {why}; stop what uses it, or give another with --page (off: no page)")]
    Page {
        /// The address.
        address: SocketAddr,
        /// Why.
        why: io::Error,
    },
    /// The metrics.
    #[error(
        "cannot serve the metrics at {address}: {why}; stop what uses it, or give another with --metrics (off: none)"
    )]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why.
        why: io::Error,
    },
    /// A unix socket.
    #[error("cannot make the {} socket {path}: {source}; give another with {}", .door.name, .door.option)]
    Unix {
        /// Which.
        door: &'static Door,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon answers there.
    #[error("another pontoond answers at {path}; stop that one, or give another with {}", .door.option)]
    UnixInUse {
        /// Which.
        door: &'static Door,
        /// Its path.
        path: PathBuf,
    },
    /// What the supervisor has passed cannot be the plugin socket.
    #[error(
        "cannot serve Docker at the socket that was passed as {PASSED_PLUGIN}: {source}; pass a unix stream socket \
        that listens, as pontoond-docker.socket does, or none"
    )]
    Passed {
        /// Why.
        source: io::Error,
    },
    /// Serving ended.
    #[error("the {door} failed: {source}")]
    Broke {
        /// Which.
        door: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Opens the peer port. Where there is no IPv6, the default address falls back to IPv4.
pub async fn bind_peer(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let no_ipv6 = |error: &io::Error| error.raw_os_error() == Some(libc::EAFNOSUPPORT);
    let bound = match TcpListener::bind(address).await {
        Err(error) if address.ip().is_unspecified() && no_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        result => result,
    };
    bound.map_err(|source| ServeError::Peer { address, source })
}

/// Opens the port of the page.
pub async fn bind_page(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|why| ServeError::Page { address, why })
}

/// Opens the port of the metrics.
pub async fn bind_metrics(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|why| ServeError::Metrics { address, why })
}

/// The group whose members may do everything that root may, if there is one of this name.
const GROUP: &str = "pontoon";

/// Opens the admin socket, for root and the group.
pub fn bind_admin(path: &Path) -> Result<UnixListener, ServeError> {
    let listener = bind_unix(path, &ADMIN)?;
    match Group::from_name(GROUP) {
        Ok(Some(group)) => {
            if let Err(error) = chown(path, None, Some(group.gid)) {
                warn!(%error, path = %path.display(), "the admin socket is root's alone: it cannot be given to group {GROUP}");
            }
        }
        Ok(None) => {}
        Err(error) => warn!(%error, "the admin socket is root's alone: group {GROUP} cannot be looked up"),
    }
    Ok(listener)
}

/// Opens Docker's plugin socket, for root and its group. If the supervisor has passed one, it is that: requests may wait
/// in it since before this daemon was started. To be called once.
pub fn bind_plugin(path: &Path) -> Result<UnixListener, ServeError> {
    let passed = passed(PASSED_PLUGIN).and_then(|passed| passed.map(listener).transpose());
    match passed.map_err(|source| ServeError::Passed { source })? {
        Some(listener) => Ok(listener),
        None => bind_unix(path, &PLUGIN),
    }
}

/// What the supervisor has passed under this name (sd_listen_fds(3)).
#[allow(unsafe_code, reason = "a descriptor from the environment is a number")]
fn passed(name: &str) -> io::Result<Option<OwnedFd>> {
    let mut passed = sd_notify::listen_fds_with_names()?;
    let found = passed.find(|(_, known)| known == name);
    // SAFETY: LISTEN_PID says that it was opened for this process, listen_fds has found it open, and nothing else takes it.
    Ok(found.map(|(fd, _)| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// A listener, if this is one.
fn listener(fd: OwnedFd) -> io::Result<UnixListener> {
    let is_listener = getsockopt(&fd, AcceptConn)? && getsockopt(&fd, TypeOf)? == SockType::Stream;
    let listener = std::os::unix::net::UnixListener::from(fd);
    if !is_listener || listener.local_addr().is_err() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is none"));
    }
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn bind_unix(path: &Path, door: &'static Door) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Unix { door, path: path.into(), source };
    if UnixStream::connect(path).is_ok() {
        return Err(ServeError::UnixInUse { door, path: path.into() });
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // Made with its mode, so that there is no moment at which others could connect. The mask is the whole process's, which
    // makes no other file meanwhile.
    let before = umask(Mode::from_bits_truncate(0o117));
    let listener = UnixListener::bind(path);
    umask(before);
    listener.map_err(failed)
}

/// Serves the admin API until `stop`: on the socket, and to those who administer the cluster from elsewhere.
pub async fn serve_admin(
    daemon: Arc<Daemon>,
    listener: UnixListener,
    from_elsewhere: mpsc::Receiver<Connection>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let broke = |source: Box<dyn std::error::Error + Send + Sync>| ServeError::Broke { door: "admin socket", source };
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pontoon_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| broke(error.into()))?;
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(daemon.clone(), reporter));
    let checked = daemon.clone();
    let access = layer_fn(move |inner| Access { daemon: checked.clone(), inner });
    let server = Server::builder()
        .max_concurrent_streams(Some(MAX_STREAMS))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(access)
        .add_service(reflection)
        .add_service(health)
        .add_service(AdminServiceServer::new(Admins(daemon.clone())).max_decoding_message_size(MAX_ADMIN_REQUEST))
        .add_service(ClusterServiceServer::new(Cluster(daemon.clone())).max_decoding_message_size(MAX_ADMIN_REQUEST))
        .add_service(TokenServiceServer::new(Tokens(daemon.clone())).max_decoding_message_size(MAX_ADMIN_REQUEST))
        .add_service(NodeServiceServer::new(Nodes(daemon.clone())).max_decoding_message_size(MAX_ADMIN_REQUEST))
        .add_service(NetworkServiceServer::new(Networks(daemon.clone())).max_decoding_message_size(MAX_ADMIN_REQUEST))
        .add_service(EndpointServiceServer::new(Endpoints(daemon.clone())).max_decoding_message_size(MAX_ADMIN_REQUEST))
        .add_service(NameServiceServer::new(Names(daemon.clone())).max_decoding_message_size(MAX_ADMIN_REQUEST))
        .add_service(WatchServiceServer::new(Watch(daemon.clone())).max_decoding_message_size(MAX_ADMIN_REQUEST))
        .add_service(DiagnosisServiceServer::new(Diagnosis(daemon)).max_decoding_message_size(MAX_ADMIN_REQUEST));
    let elsewhere = ReceiverStream::new(from_elsewhere).map(Ok::<_, io::Error>);
    let elsewhere = server.clone().serve_with_incoming_shutdown(elsewhere, stop.clone().cancelled_owned());
    let here = server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned());
    futures::future::try_join(here, elsewhere).await.map(drop).map_err(|source| broke(source.into()))
}

/// Tells health checks how it is: of the daemon, which answers, and of each service that writes, whether it can.
async fn report_health(daemon: Arc<Daemon>, reporter: HealthReporter) {
    let writing = [
        TokenServiceServer::<Tokens>::NAME,
        NodeServiceServer::<Nodes>::NAME,
        NetworkServiceServer::<Networks>::NAME,
        EndpointServiceServer::<Endpoints>::NAME,
    ];
    let mut looks = tokio::time::interval(HEALTH_INTERVAL);
    while daemon.stop.run_until_cancelled(looks.tick()).await.is_some() {
        let status = if can_write(&daemon) { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in writing {
            reporter.set_service_status(name, status).await;
        }
    }
}

fn can_write(daemon: &Daemon) -> bool {
    daemon.try_member().is_some_and(|member| {
        let status = member.store().status();
        status.stopped.is_none() && status.leader.is_some() && member.store().is_connected()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;

    use super::*;

    #[tokio::test]
    async fn only_a_listening_unix_stream_socket_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let taken = listener(net::UnixListener::bind(&path).unwrap().into()).unwrap();
        let (client, accepted) = tokio::join!(tokio::net::UnixStream::connect(&path), taken.accept());
        assert!(client.is_ok() && accepted.is_ok());

        let (stream, _other) = net::UnixStream::pair().unwrap();
        let (datagram, _other) = net::UnixDatagram::pair().unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let others: [OwnedFd; 4] = [stream.into(), datagram.into(), tcp.into(), file.into()];
        for other in others {
            assert!(listener(other).is_err());
        }
    }

    #[test]
    fn nothing_is_passed_unless_the_environment_says_so() {
        assert!(passed(PASSED_PLUGIN).unwrap().is_none());
    }
}
