//! The connection to the daemon.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use futures::future::select_ok;
use hyper_util::rt::TokioIo;
use indicatif::{ProgressBar, ProgressStyle};
use pontoon_proto::v1::admin_service_client::AdminServiceClient;
use pontoon_proto::v1::cluster_service_client::ClusterServiceClient;
use pontoon_proto::v1::diagnosis_service_client::DiagnosisServiceClient;
use pontoon_proto::v1::endpoint_service_client::EndpointServiceClient;
use pontoon_proto::v1::name_service_client::NameServiceClient;
use pontoon_proto::v1::network_service_client::NetworkServiceClient;
use pontoon_proto::v1::node_service_client::NodeServiceClient;
use pontoon_proto::v1::token_service_client::TokenServiceClient;
use pontoon_proto::v1::watch_service_client::WatchServiceClient;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Response, Status, Streaming};
use tower::service_fn;

use crate::args::Global;
use crate::context::Context;
use crate::failure::{Effect, Failure};
use crate::host::Host;

/// Largest answer that is read, in bytes: a million leases fit.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// How long a request may take that only needs the log.
const SHORT: Duration = Duration::from_secs(10);

/// How long a request may take that changes membership or interfaces.
const LONG: Duration = Duration::from_secs(60);

/// How long a node of a context may take to answer before the next one is tried, too.
const NEXT_NODE: Duration = Duration::from_millis(250);

/// Nobody needs to be told of a shorter wait.
const QUIET: Duration = Duration::from_secs(1);

/// What a request is: how long it may take, and what a missing answer means.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    limit: Duration,
    effect: Effect,
}

impl Kind {
    /// It reads.
    pub(crate) const READ: Self = Self { limit: SHORT, effect: Effect::Read };
    /// It writes an object.
    pub(crate) const WRITE: Self = Self { limit: SHORT, effect: Effect::Write };
    /// It changes membership or interfaces.
    pub(crate) const WORK: Self = Self { limit: LONG, effect: Effect::Write };
}

/// A connection to the daemon.
#[derive(Debug)]
pub(crate) struct Session {
    host: Host,
    limit: Option<Duration>,
    channel: Channel,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    ///
    /// There is no daemon, or it may not be spoken to.
    pub(crate) async fn open(global: &Global) -> Result<Self, Failure> {
        let host = Host::of(global)?;
        let limit = global.timeout.unwrap_or(SHORT);
        let connected = match &host {
            Host::Socket(path) => timeout(limit, connect(path)).await,
            Host::Elsewhere(context) => timeout(limit, connect_elsewhere(context)).await,
        };
        let channel = connected
            .map_err(|_| Failure::timeout(&host, limit, Effect::Read))?
            .map_err(|error| Failure::unreachable(&host, &error))?;
        Ok(Self { host, limit: global.timeout, channel })
    }

    /// Waits for an answer. `waiting` tells the user what for, when it takes long and a terminal is there.
    ///
    /// # Errors
    ///
    /// The daemon's error, a broken connection or no answer in time.
    pub(crate) async fn call<T>(
        &self,
        kind: Kind,
        waiting: &str,
        request: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        let limit = self.limit.unwrap_or(kind.limit);
        let answer = timeout(limit, with_spinner(waiting, request)).await;
        let answer = answer.map_err(|_| Failure::timeout(&self.host, limit, kind.effect))?;
        answer.map(Response::into_inner).map_err(|status| Failure::from_status(&status, &self.host, kind.effect))
    }

    /// Takes the next message of a stream, however long that takes; none: it has ended.
    ///
    /// # Errors
    ///
    /// The daemon's error, or a broken connection.
    pub(crate) async fn next<T>(&self, stream: &mut Streaming<T>) -> Result<Option<T>, Failure> {
        stream.message().await.map_err(|status| Failure::from_status(&status, &self.host, Effect::Read))
    }

    /// The cluster.
    pub(crate) fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Who may administer it from elsewhere, and who has changed what.
    pub(crate) fn admins(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Tokens that hosts join with.
    pub(crate) fn tokens(&self) -> TokenServiceClient<Channel> {
        TokenServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Its nodes.
    pub(crate) fn nodes(&self) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Its networks and leases.
    pub(crate) fn networks(&self) -> NetworkServiceClient<Channel> {
        NetworkServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Names of containers.
    pub(crate) fn names(&self) -> NameServiceClient<Channel> {
        NameServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Endpoints on this host.
    pub(crate) fn endpoints(&self) -> EndpointServiceClient<Channel> {
        EndpointServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// What changes.
    pub(crate) fn watch(&self) -> WatchServiceClient<Channel> {
        WatchServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// What is wrong.
    pub(crate) fn diagnosis(&self) -> DiagnosisServiceClient<Channel> {
        DiagnosisServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

async fn connect(path: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = path.to_owned();
    let connector = service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The URI only fills the requests' authority; the connector says where they go.
    Endpoint::from_static("http://pontoond").connect_with_connector(connector).await
}

/// Connects to the first node that answers and has a certificate of the cluster.
async fn connect_elsewhere(context: &Context) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&context.authorities))
        .identity(Identity::from_pem(&context.certificate, &context.key))
        .domain_name(format!("{}.pontoon.internal", context.cluster))
        .assume_http2(true);
    // One that stands still does not use the time up that the others need.
    let tried = context.addresses.iter().zip(0_u32..).map(|(address, place)| {
        let tls = tls.clone();
        Box::pin(async move {
            sleep(NEXT_NODE * place).await;
            connect_tls(address, tls).await
        })
    });
    select_ok(tried).await.map(|(channel, _)| channel)
}

async fn connect_tls(address: &str, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?.connect().await
}

/// Shows a spinner once the wait is no longer short. It is gone when the answer is there, or when this is dropped.
async fn with_spinner<T>(waiting: &str, request: impl Future<Output = T>) -> T {
    tokio::pin!(request);
    tokio::select! {
        biased;
        answer = &mut request => return answer,
        () = sleep(QUIET) => {}
    }
    if !io::stderr().is_terminal() {
        return request.await;
    }
    let spinner = Spinner::new(waiting);
    let answer = request.await;
    drop(spinner);
    answer
}

/// A spinner that leaves no trace.
struct Spinner(ProgressBar);

impl Spinner {
    fn new(waiting: &str) -> Self {
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
        let bar = ProgressBar::new_spinner().with_elapsed(QUIET).with_message(waiting.to_owned());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
