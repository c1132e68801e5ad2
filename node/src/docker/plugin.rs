//! The plugin socket: HTTP and JSON over a unix socket, as Docker's engine speaks it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::net::UnixListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{DRIVER, ipam, network};
use crate::api::error::ApiError;
use crate::daemon::Daemon;

/// Type of every answer.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
/// Largest request, in bytes: the largest that an engine sends has some hundred auxiliary addresses.
const MAX_REQUEST: usize = 1 << 20;
/// How much of what is said of a failure an engine gets and the log keeps, in characters: more than any of it has that does
/// not repeat a long request.
const MAX_MESSAGE: usize = 1000;
/// How long a handler may take: an engine's user waits for it.
const DEADLINE: Duration = Duration::from_secs(9);

/// Serves the plugin socket until `stop`.
pub(crate) async fn serve(daemon: Arc<Daemon>, listener: UnixListener, stop: CancellationToken) -> io::Result<()> {
    // Whatever is asked for, the answer is JSON.
    let router = Router::new().fallback(call).layer(DefaultBodyLimit::max(MAX_REQUEST)).with_state(daemon);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn call(
    State(daemon): State<Arc<Daemon>>,
    verb: Method,
    address: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let method = address.path().trim_start_matches('/').to_owned();
    if verb != Method::POST {
        return unknown(&method);
    }
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            let message = format!("{method}: the request cannot be read, or has more than {MAX_REQUEST} bytes");
            return answer(rejection.status(), &failure(&method, message));
        }
    };
    debug!(%method, request = %String::from_utf8_lossy(&body), "an engine asks");
    // In a task of its own: an engine that hangs up must not leave half of what it asked for.
    let called = method.clone();
    let work = tokio::spawn(async move {
        let done = timeout(DEADLINE, dispatch(&daemon, &called, &body)).await;
        done.unwrap_or(Err(Refusal::Late))
    });
    match work.await {
        Ok(Ok(value)) => answer(StatusCode::OK, &value),
        Ok(Err(Refusal::Unknown)) => unknown(&method),
        Ok(Err(Refusal::Malformed(message))) => answer(StatusCode::BAD_REQUEST, &failure(&method, message)),
        Ok(Err(Refusal::Late)) => {
            let message = format!("{method} was not done within {} s; pontoon status may say why", DEADLINE.as_secs());
            warn!("{message}");
            answer(StatusCode::OK, &failure(&method, message))
        }
        Ok(Err(Refusal::Lost)) => {
            let again = "the engine asks again without saying for what, because pontoond ended before it had answered";
            let message = format!("{method}: {again}; run the command again");
            warn!("{message}");
            answer(StatusCode::OK, &failure(&method, message))
        }
        Ok(Err(Refusal::Failed(error))) => {
            warn!(%method, reason = error.reason, error = %error.message, "refused what an engine asked for");
            answer(StatusCode::OK, &failure(&method, text(&error)))
        }
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, &failure(&method, error.to_string())),
    }
}

fn unknown(method: &str) -> Response {
    answer(StatusCode::NOT_FOUND, &failure(method, shortened(format!("{method:?} is no method of this plugin"))))
}

fn answer(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], value.to_string()).into_response()
}

/// A failure, in the field that the engine reads for this half of the driver.
fn failure(method: &str, message: String) -> Value {
    if method.starts_with("IpamDriver.") { json!({ "Error": message }) } else { json!({ "Err": message }) }
}

/// Message and cure, in the one line that an engine shows.
fn text(error: &ApiError) -> String {
    if error.hint.is_empty() { error.message.clone() } else { format!("{}; {}", error.message, error.hint) }
}

/// Why a call was not done.
enum Refusal {
    /// There is no such method: how engines tell what is optional.
    Unknown,
    /// The request is none.
    Malformed(String),
    /// It says nothing. An engine whose connection ends without an answer, as when this daemon is killed, asks again a second
    /// later; but what it sends then is empty, as the first try has used up what there was to send (Docker 20.10 to 29; moby
    /// issues 35459 and 39331). Taken for a request it would be another one, such as for any subnet.
    Lost,
    /// It was not done in time.
    Late,
    /// It failed.
    Failed(ApiError),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Failed(ApiError { message: shortened(error.message), ..error })
    }
}

fn shortened(message: String) -> String {
    match message.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message,
    }
}

fn read<T: DeserializeOwned>(method: &str, body: &[u8]) -> Result<T, Refusal> {
    if body.is_empty() {
        return Err(Refusal::Lost);
    }
    // An object: what is derived for `T` takes a list for one, too.
    let fields: Result<Map<String, Value>, _> = serde_json::from_slice(body);
    let request = fields.and_then(|fields| serde_json::from_value(Value::Object(fields)));
    request.map_err(|error| Refusal::Malformed(shortened(format!("{method}: not such a request: {error}"))))
}

/// What is answered in the same way by every daemon.
fn fixed(method: &str) -> Option<Value> {
    let value = match method {
        "Plugin.Activate" => json!({ "Implements": ["NetworkDriver", "IpamDriver"] }),
        // Local, because engines of their own keep the networks; the containers reach further all the same.
        "NetworkDriver.GetCapabilities" => json!({ "Scope": "local", "ConnectivityScope": "global" }),
        "IpamDriver.GetCapabilities" => json!({ "RequiresMACAddress": false, "RequiresRequestReplay": true }),
        "IpamDriver.GetDefaultAddressSpaces" => {
            json!({ "LocalDefaultAddressSpace": DRIVER, "GlobalDefaultAddressSpace": DRIVER })
        }
        "NetworkDriver.EndpointOperInfo" => json!({ "Value": {} }),
        // Nothing to do: other nodes are learnt from the log.
        "NetworkDriver.DiscoverNew" | "NetworkDriver.DiscoverDelete" => json!({}),
        _ => return None,
    };
    Some(value)
}

async fn dispatch(daemon: &Daemon, method: &str, body: &[u8]) -> Result<Value, Refusal> {
    if let Some(value) = fixed(method) {
        return Ok(value);
    }
    // An engine that starts with the host asks at once.
    daemon.settled().await;
    let done = |()| json!({});
    let value = match method {
        "IpamDriver.RequestPool" => ipam::request_pool(daemon, read(method, body)?).await?,
        "IpamDriver.ReleasePool" => ipam::release_pool(daemon, read(method, body)?).await.map(done)?,
        "IpamDriver.RequestAddress" => ipam::request_address(daemon, read(method, body)?).await?,
        "IpamDriver.ReleaseAddress" => ipam::release_address(daemon, read(method, body)?).await.map(done)?,
        "NetworkDriver.CreateNetwork" => network::create_network(daemon, read(method, body)?).await.map(done)?,
        "NetworkDriver.DeleteNetwork" => network::delete_network(daemon, read(method, body)?).await.map(done)?,
        "NetworkDriver.CreateEndpoint" => network::create_endpoint(daemon, read(method, body)?).await?,
        "NetworkDriver.DeleteEndpoint" | "NetworkDriver.Leave" => {
            network::end_endpoint(daemon, read(method, body)?).await.map(done)?
        }
        "NetworkDriver.Join" => network::join(daemon, read(method, body)?).await?,
        _ => return Err(Refusal::Unknown),
    };
    Ok(value)
}
