//! A daemon with canned answers: it remembers what it was asked, refuses what is called `missing` and never answers
//! what is called `slow`.

use std::collections::HashMap;
use std::future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon_proto::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use pontoon_proto::v1::diagnosis_service_server::{DiagnosisService, DiagnosisServiceServer};
use pontoon_proto::v1::endpoint_service_server::{EndpointService, EndpointServiceServer};
use pontoon_proto::v1::name_service_server::{NameService, NameServiceServer};
use pontoon_proto::v1::network_service_server::{NetworkService, NetworkServiceServer};
use pontoon_proto::v1::node_service_server::{NodeService, NodeServiceServer};
use pontoon_proto::v1::*;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// What the daemon was asked last.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// How many requests came.
    pub(crate) requests: AtomicUsize,
    /// Wakes whoever waits for one.
    came: Notify,
    pub(crate) init: Mutex<Option<InitRequest>>,
    pub(crate) create: Mutex<Option<CreateNetworkRequest>>,
    pub(crate) label: Mutex<Option<LabelNodeRequest>>,
    pub(crate) voting: Mutex<Vec<SetVotingRequest>>,
    pub(crate) configure: Mutex<Option<ConfigureRequest>>,
    /// The key that the cluster was locked with.
    pub(crate) key: Mutex<Vec<u8>>,
    pub(crate) restore: Mutex<Option<(Option<InitRequest>, Vec<u8>)>>,
    pub(crate) attach: Mutex<Option<AttachRequest>>,
    pub(crate) detach: Mutex<Option<DetachRequest>>,
    /// What a diagnosis finds.
    pub(crate) findings: Mutex<Vec<Finding>>,
}

/// A server on a socket of its own. Dropping it ends it, and breaks its connections.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) seen: Arc<Seen>,
    socket: PathBuf,
    runtime: Runtime,
    _folder: TempDir,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("pontoon.sock");
        let seen = Arc::new(Seen::default());
        let runtime = Runtime::new().unwrap();
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(&socket).unwrap()
        };
        let canned = Canned { seen: Arc::clone(&seen) };
        let server = Server::builder()
            .add_service(ClusterServiceServer::new(canned.clone()))
            .add_service(NetworkServiceServer::new(canned.clone()))
            .add_service(NameServiceServer::new(canned.clone()))
            .add_service(EndpointServiceServer::new(canned.clone()))
            .add_service(DiagnosisServiceServer::new(canned.clone()))
            .add_service(NodeServiceServer::new(canned))
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(server);
        Self { seen, socket, runtime, _folder: folder }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until a request is there.
    pub(crate) fn wait_for_request(&self) {
        let request = async { tokio::time::timeout(Duration::from_secs(20), self.seen.came.notified()).await };
        self.runtime.block_on(request).expect("no request came");
    }
}

/// The answers.
#[derive(Debug, Clone)]
struct Canned {
    seen: Arc<Seen>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Canned {
    /// Counts a request and refuses or delays it by the name in it.
    async fn meet(&self, name: &str) -> Result<(), Status> {
        self.seen.requests.fetch_add(1, Ordering::SeqCst);
        self.seen.came.notify_one();
        match name {
            "slow" => future::pending().await,
            "missing" => {
                let hint = HashMap::from([("hint".to_owned(), "see `pontoon network ls`".to_owned())]);
                let details = ErrorDetails::with_error_info("NETWORK_NOT_FOUND", "pontoon", hint);
                Err(Status::with_error_details(Code::NotFound, format!("there is no network {name}"), details))
            }
            _ => Ok(()),
        }
    }
}

fn network(name: &str) -> Network {
    Network { name: name.into(), ..Default::default() }
}

fn node(name: &str) -> Node {
    Node { name: name.into(), state: NodeState::Ready.into(), public_key: vec![0, 255, 16], ..Default::default() }
}

fn endpoint(name: &str, network: &str) -> EndpointView {
    let endpoint = Some(Endpoint { name: name.into(), ..Default::default() });
    EndpointView { endpoint, network_name: network.into(), ..Default::default() }
}

fn unknown<T>() -> Answer<T> {
    Err(Status::unimplemented("not in this daemon"))
}

#[tonic::async_trait]
impl ClusterService for Canned {
    async fn init(&self, request: Request<InitRequest>) -> Answer<InitResponse> {
        self.meet("").await?;
        *self.seen.init.lock().unwrap() = Some(request.into_inner());
        Ok(Response::new(InitResponse::default()))
    }

    async fn join(&self, _: Request<JoinRequest>) -> Answer<JoinResponse> {
        unknown()
    }

    async fn lock(&self, request: Request<LockRequest>) -> Answer<LockResponse> {
        *self.seen.key.lock().unwrap() = request.into_inner().key;
        Ok(Response::new(LockResponse::default()))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Answer<UnlockResponse> {
        match request.into_inner().key == *self.seen.key.lock().unwrap() {
            true => Ok(Response::new(UnlockResponse {})),
            false => Err(Status::permission_denied("another key")),
        }
    }

    async fn r#move(&self, request: Request<MoveRequest>) -> Answer<MoveResponse> {
        let MoveRequest { advertise, data_addr } = request.into_inner();
        let node = Some(Node { name: format!("{advertise}+{data_addr}"), ..Default::default() });
        Ok(Response::new(MoveResponse { node }))
    }

    async fn leave(&self, _: Request<LeaveRequest>) -> Answer<LeaveResponse> {
        Ok(Response::new(LeaveResponse { warnings: vec!["remove it by hand".into()] }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        unknown()
    }

    async fn rotate_authority(&self, _: Request<RotateAuthorityRequest>) -> Answer<RotateAuthorityResponse> {
        let cluster = Some(Cluster { authority: 2, ..Default::default() });
        Ok(Response::new(RotateAuthorityResponse { cluster }))
    }

    type BackupStream = tokio_stream::Iter<std::vec::IntoIter<Result<BackupResponse, Status>>>;

    async fn backup(&self, _: Request<BackupRequest>) -> Answer<Self::BackupStream> {
        let freshness = Some(Freshness { linearizable: true, applied_index: 118, ..Default::default() });
        let parts = [(freshness, "what there"), (None, " is")];
        let parts = parts.map(|(freshness, data)| Ok(BackupResponse { data: data.into(), freshness }));
        Ok(Response::new(tokio_stream::iter(Vec::from(parts))))
    }

    async fn restore(&self, request: Request<tonic::Streaming<RestoreRequest>>) -> Answer<RestoreResponse> {
        let mut parts = request.into_inner();
        let mut seen = (None, Vec::new());
        while let Some(part) = parts.message().await? {
            seen.0 = seen.0.or(part.init);
            seen.1.extend(part.data);
        }
        *self.seen.restore.lock().unwrap() = Some(seen);
        Ok(Response::new(RestoreResponse::default()))
    }

    async fn recover(&self, request: Request<RecoverRequest>) -> Answer<RecoverResponse> {
        let done = request.into_inner().force;
        Ok(Response::new(RecoverResponse { done, warnings: vec!["look out".into()], ..Default::default() }))
    }

    async fn configure(&self, request: Request<ConfigureRequest>) -> Answer<ConfigureResponse> {
        let request = request.into_inner();
        let voters = request.voters.unwrap_or_default();
        let cluster = Cluster { voters, replace_after_ms: request.replace_after_ms(), ..Default::default() };
        *self.seen.configure.lock().unwrap() = Some(request);
        Ok(Response::new(ConfigureResponse { cluster: Some(cluster) }))
    }
}

#[tonic::async_trait]
impl NodeService for Canned {
    async fn list_nodes(&self, _: Request<ListNodesRequest>) -> Answer<ListNodesResponse> {
        unknown()
    }

    async fn inspect_node(&self, _: Request<InspectNodeRequest>) -> Answer<InspectNodeResponse> {
        unknown()
    }

    async fn remove_node(&self, request: Request<RemoveNodeRequest>) -> Answer<RemoveNodeResponse> {
        let node = Some(node(&request.into_inner().node));
        Ok(Response::new(RemoveNodeResponse { node, warnings: vec!["it still votes".into()] }))
    }

    async fn label_node(&self, request: Request<LabelNodeRequest>) -> Answer<LabelNodeResponse> {
        let request = request.into_inner();
        let node = node(&request.node);
        *self.seen.label.lock().unwrap() = Some(request);
        Ok(Response::new(LabelNodeResponse { node: Some(node) }))
    }

    async fn set_voting(&self, request: Request<SetVotingRequest>) -> Answer<SetVotingResponse> {
        let request = request.into_inner();
        let node = Some(node(&request.node));
        self.seen.voting.lock().unwrap().push(request);
        Ok(Response::new(SetVotingResponse { node, warnings: vec!["it does not vote yet".into()] }))
    }
}

#[tonic::async_trait]
impl NetworkService for Canned {
    async fn create_network(&self, request: Request<CreateNetworkRequest>) -> Answer<CreateNetworkResponse> {
        let request = request.into_inner();
        self.meet(&request.name).await?;
        let network = network(&request.name);
        *self.seen.create.lock().unwrap() = Some(request);
        Ok(Response::new(CreateNetworkResponse { network: Some(network) }))
    }

    async fn list_networks(&self, request: Request<ListNetworksRequest>) -> Answer<ListNetworksResponse> {
        let stale = request.into_inner().read.unwrap_or_default().stale;
        let view = |name| NetworkView { network: Some(network(name)), endpoints: 0 };
        let freshness = Freshness { linearizable: !stale, applied_index: 42, ..Default::default() };
        Ok(Response::new(ListNetworksResponse { networks: vec![view("a"), view("b")], freshness: Some(freshness) }))
    }

    async fn inspect_network(&self, request: Request<InspectNetworkRequest>) -> Answer<InspectNetworkResponse> {
        self.meet(&request.into_inner().network).await?;
        unknown()
    }

    async fn remove_network(&self, request: Request<RemoveNetworkRequest>) -> Answer<RemoveNetworkResponse> {
        let name = request.into_inner().network;
        self.meet(&name).await?;
        Ok(Response::new(RemoveNetworkResponse { network: Some(network(&name)) }))
    }

    async fn list_leases(&self, _: Request<ListLeasesRequest>) -> Answer<ListLeasesResponse> {
        unknown()
    }

    async fn inspect_lease(&self, _: Request<InspectLeaseRequest>) -> Answer<InspectLeaseResponse> {
        unknown()
    }
}

#[tonic::async_trait]
impl NameService for Canned {
    async fn query_name(&self, request: Request<QueryNameRequest>) -> Answer<QueryNameResponse> {
        let QueryNameRequest { name, network } = request.into_inner();
        self.meet(&name).await?;
        let lease = Lease { address: "10.0.0.3".into(), epoch: 24, ..Default::default() };
        let found = NameMatch { endpoint: Some(endpoint(&name, &network)), leases: vec![lease] };
        Ok(Response::new(QueryNameResponse { network_name: network, matches: vec![found], ttl_s: 5, freshness: None }))
    }
}

#[tonic::async_trait]
impl EndpointService for Canned {
    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        *self.seen.attach.lock().unwrap() = Some(request.into_inner());
        Ok(Response::new(AttachResponse { endpoint: Some(endpoint("c1", "n")), egress_addresses: vec![] }))
    }

    async fn detach(&self, request: Request<DetachRequest>) -> Answer<DetachResponse> {
        *self.seen.detach.lock().unwrap() = Some(request.into_inner());
        Ok(Response::new(DetachResponse { endpoints: vec![endpoint("c1", "n")] }))
    }
}

#[tonic::async_trait]
impl DiagnosisService for Canned {
    async fn examine(&self, _: Request<ExamineRequest>) -> Answer<ExamineResponse> {
        Ok(Response::new(ExamineResponse { findings: self.seen.findings.lock().unwrap().clone() }))
    }
}
