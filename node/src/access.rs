//! Who may call what of the admin API, and whose wish a change is.
//!
//! On the host's own socket whoever can open it may call everything. From elsewhere somebody may what his role lets him, as
//! the state says at the time of each call, and nothing that is about the host of the daemon that he happens to reach.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use nix::unistd::{Uid, User};
use pontoon_store::model::admin::{Admin, Origin, Role};
use pontoon_store::{Shown, on_behalf_of};
use tonic::Code;
use tonic::codegen::{Service, http};
use tonic::transport::server::UdsConnectInfo;
use tracing::warn;

use crate::api::error::ApiError;
use crate::daemon::Daemon;

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// This role, or a greater one.
    Role(Role),
    /// To be made on the host that it is about.
    Host,
}

/// What a method of the API needs; what is not listed, nobody may call from elsewhere.
fn needs(path: &str) -> Needs {
    let Some((service, method)) = path.trim_start_matches('/').split_once('/') else { return Needs::Host };
    match (service.trim_start_matches("pontoon.v1."), method) {
        ("ClusterService", "Status")
        | ("NodeService", "ListNodes" | "InspectNode")
        | ("NetworkService", "ListNetworks" | "InspectNetwork" | "ListLeases" | "InspectLease")
        | ("NameService", "QueryName")
        | ("DiagnosisService", "Examine")
        | ("WatchService", "Watch")
        | ("grpc.health.v1.Health", _)
        | ("grpc.reflection.v1.ServerReflection", _) => Needs::Role(Role::Viewer),
        ("NodeService", "LabelNode" | "SetVoting") | ("NetworkService", "CreateNetwork" | "RemoveNetwork") => {
            Needs::Role(Role::Operator)
        }
        ("ClusterService", "Configure" | "RotateAuthority" | "Lock" | "Backup")
        | ("NodeService", "RemoveNode")
        | ("TokenService" | "AdminService", _) => Needs::Role(Role::Admin),
        _ => Needs::Host,
    }
}

/// Checks each call before it is made, and says whose wish it is.
#[derive(Debug, Clone)]
pub(crate) struct Access<S> {
    pub(crate) daemon: Arc<Daemon>,
    pub(crate) inner: S,
}

impl<S, B, A> Service<http::Request<B>> for Access<S>
where
    S: Service<http::Request<B>, Response = http::Response<A>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    A: Default + Send + 'static,
{
    type Response = http::Response<A>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        match caller(&self.daemon, &request) {
            Ok(origin) => on_behalf_of(Some(origin), self.inner.call(request)).boxed(),
            Err(refused) => std::future::ready(Ok(tonic::Status::from(refused).into_http())).boxed(),
        }
    }
}

/// Who makes a call, if he may.
fn caller<B>(daemon: &Daemon, request: &http::Request<B>) -> Result<Origin, ApiError> {
    let Some(shown) = request.extensions().get::<Shown>() else { return Ok(of_host(request)) };
    let (path, from) = (request.uri().path(), shown.address.ip().to_canonical());
    let known = daemon.try_member().and_then(|member| {
        let state = member.store().state();
        let admin = state.admin_with_key(&shown.key)?;
        Some((admin.clone(), crate::host::now_ms()))
    });
    allowed(known, path, from).inspect_err(|error| warn!(%from, path, "a call is refused: {}", error.message))
}

fn allowed(known: Option<(Admin, u64)>, path: &str, from: IpAddr) -> Result<Origin, ApiError> {
    let refuse = |reason: &'static str, message: String, hint: &str| {
        Err(ApiError::new(Code::PermissionDenied, reason, message, hint))
    };
    let Some((admin, now_ms)) = known else {
        let message = "this cluster does not know the certificate, or not any more".to_owned();
        return refuse("ADMIN_UNKNOWN", message, "ask for another: pontoon admin cert create");
    };
    if now_ms >= admin.until_ms {
        let message = format!("the certificate of {} has ended", admin.name);
        return refuse("ADMIN_ENDED", message, "ask for another: pontoon admin cert create");
    }
    match needs(path) {
        Needs::Host => {
            let message = "this is about the host of a daemon, and can only be asked on that host".to_owned();
            refuse("HOST_ONLY", message, "run the command there, without a context")
        }
        Needs::Role(role) if admin.role < role => {
            let message = format!("{} is {}, and this takes {role}", admin.name, admin.role);
            refuse("ROLE_TOO_LOW", message, "ask somebody who may, or for another role: pontoon admin cert create")
        }
        Needs::Role(_) => Ok(Origin { who: admin.name, from: from.to_string() }),
    }
}

/// The user who has connected to the socket.
fn of_host<B>(request: &http::Request<B>) -> Origin {
    let credentials = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    let who = credentials.map_or_else(|| "somebody".to_owned(), |credentials| user(Uid::from_raw(credentials.uid())));
    Origin { who, from: "the admin socket".to_owned() }
}

fn user(uid: Uid) -> String {
    if uid.is_root() {
        return "root".to_owned();
    }
    User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use pontoon_store::model::id::AdminId;
    use prost::Message;

    use super::*;

    fn admin(role: Role) -> Admin {
        Admin { id: AdminId(7), name: "alice".into(), role, public_key: [7; 32], created_ms: 0, until_ms: 1_000 }
    }

    fn asked(known: Option<(Admin, u64)>, path: &str) -> Result<Origin, String> {
        allowed(known, path, [192, 0, 2, 7].into()).map_err(|error| error.reason.to_string())
    }

    #[test]
    fn each_role_may_what_those_before_it_may() {
        const LIST: &str = "/pontoon.v1.NetworkService/ListNetworks";
        const CREATE: &str = "/pontoon.v1.NetworkService/CreateNetwork";
        const TOKEN: &str = "/pontoon.v1.TokenService/CreateToken";
        const LEAVE: &str = "/pontoon.v1.ClusterService/Leave";
        for (role, may) in [
            (Role::Viewer, [true, false, false, false]),
            (Role::Operator, [true, true, false, false]),
            (Role::Admin, [true, true, true, false]),
        ] {
            for (path, may) in [LIST, CREATE, TOKEN, LEAVE].into_iter().zip(may) {
                let reason = if path == LEAVE { "HOST_ONLY" } else { "ROLE_TOO_LOW" };
                let expected = if may { None } else { Some(reason.to_owned()) };
                assert_eq!(asked(Some((admin(role), 999)), path).err(), expected, "{role} {path}");
            }
        }
        let origin = Origin { who: "alice".into(), from: "192.0.2.7".into() };
        assert_eq!(asked(Some((admin(Role::Viewer), 999)), LIST), Ok(origin));
        assert_eq!(asked(Some((admin(Role::Admin), 1_000)), LIST), Err("ADMIN_ENDED".into()));
        assert_eq!(asked(None, LIST), Err("ADMIN_UNKNOWN".into()));
        for path in ["/pontoon.v1.TokenService", "", "/", "/pontoon.v1.Raft/Append", "/x.TokenService/CreateToken/y"] {
            assert_eq!(asked(Some((admin(Role::Admin), 0)), path), Err("HOST_ONLY".into()), "{path}");
        }
    }

    /// Somebody who adds a method decides who may call it: those for the host alone are these.
    #[test]
    fn what_is_about_a_host_is_named_here() {
        let files = prost_types::FileDescriptorSet::decode(pontoon_proto::DESCRIPTORS).unwrap();
        let file = files.file.iter().find(|file| file.name().ends_with("admin.proto")).unwrap();
        let methods = file.service.iter().flat_map(|service| {
            service.method.iter().map(|method| format!("/pontoon.v1.{}/{}", service.name(), method.name()))
        });
        let of_host: Vec<String> = methods.filter(|path| needs(path) == Needs::Host).collect();
        let expected = ["Init", "Join", "Unlock", "Move", "Leave", "Restore", "Recover"]
            .map(|name| format!("ClusterService/{name}"));
        let expected = expected.into_iter().chain(["EndpointService/Attach".into(), "EndpointService/Detach".into()]);
        assert_eq!(of_host, expected.map(|path| format!("/pontoon.v1.{path}")).collect::<Vec<_>>());
    }
}
