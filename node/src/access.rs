//! Who may call what of the admin API, and whose wish a change is.
//!
//! On the host's own socket whoever can open it may call everything. From elsewhere somebody may what his role lets him, as
//! the state says at the time of each call, and nothing that is about the host of the daemon that he happens to reach.

use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use nix::unistd::{Uid, User};
use pontoon_proto::ShortName;
use pontoon_proto::v1::ObjectKind;
use pontoon_store::model::admin::{Admin, Origin, Role};
use pontoon_store::{PublicKey, Shown, on_behalf_of};
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

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        // The one that is ready.
        let next = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, next);
        let daemon = self.daemon.clone();
        let by = Caller::of(&request);
        let path = request.uri().path().to_owned();
        let answered = async move {
            match by.check(&daemon, &path).await {
                Ok((origin, role)) => {
                    request.extensions_mut().insert(role);
                    on_behalf_of(Some(origin), inner.call(request)).await
                }
                Err(refused) => Ok(tonic::Status::from(refused).into_http()),
            }
        };
        answered.boxed()
    }
}

/// Who makes a call.
enum Caller {
    /// A user of this host.
    Host(Option<Uid>),
    /// Somebody from elsewhere, with this key.
    Elsewhere(IpAddr, PublicKey),
}

impl Caller {
    fn of<B>(request: &http::Request<B>) -> Self {
        match request.extensions().get::<Shown>() {
            Some(shown) => Self::Elsewhere(shown.address.ip().to_canonical(), shown.key),
            None => {
                let credentials = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
                Self::Host(credentials.map(|credentials| Uid::from_raw(credentials.uid())))
            }
        }
    }

    /// Whose wish it is, and what he may do, if he may do this.
    async fn check(self, daemon: &Daemon, path: &str) -> Result<(Origin, Role), ApiError> {
        let needs = needs(path);
        let (from, key) = match self {
            Self::Host(uid) => return Ok((of_host(uid, needs != Needs::Role(Role::Viewer)).await, Role::Admin)),
            Self::Elsewhere(from, key) => (from, key),
        };
        let member = daemon.try_member();
        if let (Some(member), Needs::Role(Role::Operator | Role::Admin)) = (&member, needs) {
            // Who was locked out a moment ago is, also where that has not arrived.
            member.refresh().await?;
        }
        let known = member.and_then(|member| {
            let state = member.store().state();
            // The cluster's time counts where this host is behind.
            let now_ms = crate::host::now_ms().max(state.clock_ms);
            Some((state.admin_with_key(&key)?.clone(), now_ms))
        });
        allowed(known, needs, from).inspect_err(|error| warn!(%from, path, "a call is refused: {}", error.message))
    }
}

fn allowed(known: Option<(Admin, u64)>, needs: Needs, from: IpAddr) -> Result<(Origin, Role), ApiError> {
    const ANOTHER: &str = "ask for another: pontoon admin cert create";
    let Some((admin, now_ms)) = known else {
        let message = "this cluster does not know the certificate, or not any more".to_owned();
        return Err(ApiError::new(Code::PermissionDenied, "ADMIN_UNKNOWN", message, ANOTHER));
    };
    if now_ms >= admin.until_ms {
        let message = format!("the certificate of {} has ended", admin.name);
        return Err(ApiError::new(Code::PermissionDenied, "ADMIN_ENDED", message, ANOTHER));
    }
    match needs {
        Needs::Host => {
            let message = "this is about the host of a daemon, and can only be asked on that host".to_owned();
            let hint = "run the command there, without a context";
            Err(ApiError::new(Code::PermissionDenied, "HOST_ONLY", message, hint))
        }
        Needs::Role(role) if admin.role < role => {
            let message = format!("{} is {}, and this takes {role}", admin.name, admin.role);
            let hint = "ask somebody who may, or for another role: pontoon admin cert create";
            Err(ApiError::new(Code::PermissionDenied, "ROLE_TOO_LOW", message, hint))
        }
        Needs::Role(_) => Ok((Origin { who: admin.name, from: from.to_string() }, admin.role)),
    }
}

/// The user who has connected to the socket, by his name where that is worth the look: it may be asked for over a network.
async fn of_host(uid: Option<Uid>, by_name: bool) -> Origin {
    let who = match uid {
        None => "somebody".to_owned(),
        Some(uid) if uid.is_root() => "root".to_owned(),
        Some(uid) => {
            let look =
                tokio::task::spawn_blocking(move || by_name.then(|| User::from_uid(uid).ok().flatten()).flatten());
            look.await.ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name)
        }
    };
    Origin { who, from: "the admin socket".to_owned() }
}

/// Kinds of objects that only an admin may see: they have hashes of secrets, and who has done what.
const OF_ADMINS: [ObjectKind; 3] = [ObjectKind::Token, ObjectKind::Admin, ObjectKind::Audited];

/// The kinds of objects that somebody is sent who watches: those that he wants, or all that he may see.
pub(crate) fn kinds(wanted: Vec<i32>, role: Role) -> Result<Vec<i32>, ApiError> {
    let may = |kind: &i32| role == Role::Admin || !OF_ADMINS.iter().any(|of_admins| *kind == i32::from(*of_admins));
    if let Some(kind) = wanted.iter().find(|kind| !may(kind)) {
        let kind = ObjectKind::try_from(*kind).map_or_else(|_| kind.to_string(), |kind| kind.short_name());
        let message = format!("objects of kind {kind} are for admins, and whoever asks is {role}");
        let hint = "watch other kinds, or ask for another role: pontoon admin cert create";
        return Err(ApiError::new(Code::PermissionDenied, "ROLE_TOO_LOW", message, hint));
    }
    if !wanted.is_empty() {
        return Ok(wanted);
    }
    // Thousands of changes that somebody has made long ago are sent to those only who ask for them.
    let known = (1..).map_while(|kind| ObjectKind::try_from(kind).ok()).filter(|kind| *kind != ObjectKind::Audited);
    Ok(known.map(i32::from).filter(may).collect())
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
        let asked = allowed(known, needs(path), [192, 0, 2, 7].into());
        asked.map(|(origin, _)| origin).map_err(|error| error.reason.to_string())
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
        let expected = ["Init", "Join", "Move", "Leave", "Unlock", "Restore", "Recover"]
            .map(|name| format!("ClusterService/{name}"));
        let expected = expected.into_iter().chain(["EndpointService/Attach".into(), "EndpointService/Detach".into()]);
        assert_eq!(of_host, expected.map(|path| format!("/pontoon.v1.{path}")).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_for_admins_nobody_else_watches() {
        let all: Vec<i32> = (1..=10).collect();
        assert_eq!(kinds(Vec::new(), Role::Admin).unwrap(), all[..9], "but for what was done");
        let seen = kinds(Vec::new(), Role::Viewer).unwrap();
        assert_eq!(seen, all[..7]);
        assert_eq!(kinds(vec![2, 3], Role::Viewer).unwrap(), [2, 3]);
        for kind in OF_ADMINS.map(i32::from) {
            assert_eq!(kinds(vec![2, kind], Role::Operator).unwrap_err().reason, "ROLE_TOO_LOW");
            assert_eq!(kinds(vec![2, kind], Role::Admin).unwrap(), [2, kind]);
        }
    }
}
