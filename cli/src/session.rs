//! The connection to the daemon.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use indicatif::{ProgressBar, ProgressStyle};
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
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};
use tower::service_fn;

use crate::args::Global;
use crate::failure::{Effect, Failure};
use crate::host::Host;

/// Largest answer that is read, in bytes: a million leases fit.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// How long a request may take that only needs the log.
const SHORT: Duration = Duration::from_secs(10);

/// How long a request may take that changes membership or interfaces.
const LONG: Duration = Duration::from_secs(60);

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
        let socket = global.host.socket.clone();
        let connector = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The URI only fills the requests' authority; the connector says where they go.
        let endpoint = Endpoint::from_static("http://pontoond");
        let limit = global.timeout.unwrap_or(SHORT);
        let channel = timeout(limit, endpoint.connect_with_connector(connector))
            .await
            .map_err(|_| Failure::timeout(&global.host, limit, Effect::Read))?
            .map_err(|error| Failure::unreachable(&global.host, &error))?;
        Ok(Self { host: global.host.clone(), limit: global.timeout, channel })
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
