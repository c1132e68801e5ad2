//! etcd, the peer of the store: three members on the hosts of a lab, with default settings.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pontoon_tests::lab::{Lab, Netns};
use pontoon_tests::wait_for;
use prost::Message;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use pontoon_tests::socket;

/// How long the members may take to agree.
const AGREE: Duration = Duration::from_secs(30);
/// Name of the client socket. etcd's unix addresses are host:port, taken as a file name.
const SOCKET: &str = "client:1";

/// An etcd cluster with a member on each host.
#[derive(Debug)]
pub(crate) struct Etcd {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    program: PathBuf,
    netns: Netns,
    dir: PathBuf,
    args: Vec<String>,
    process: Option<Child>,
}

impl Etcd {
    /// Starts a member on each host and waits until they agree on a leader.
    pub(crate) fn start(lab: &Lab, runtime: &Runtime) -> Result<Self> {
        let program = std::env::var_os("PONTOON_ETCD").map_or_else(|| PathBuf::from("etcd"), PathBuf::from);
        let url = |host: &pontoon_tests::lab::Host| format!("http://{}:2380", host.address);
        let cluster: Vec<String> = lab.hosts().iter().map(|host| format!("{}={}", host.name, url(host))).collect();
        let mut members = Vec::new();
        for host in lab.hosts() {
            let dir = lab.dir().join(format!("etcd-{}", host.name));
            fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            let options = [
                ("--name", host.name.clone()),
                ("--data-dir", dir.join("data").display().to_string()),
                ("--listen-peer-urls", url(host)),
                ("--initial-advertise-peer-urls", url(host)),
                ("--initial-cluster", cluster.join(",")),
                ("--listen-client-urls", format!("unix://{SOCKET}")),
                ("--advertise-client-urls", format!("http://{}:2379", host.address)),
            ];
            let args = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
            let (program, netns) = (program.clone(), host.netns.clone());
            members.push(Member { program, netns, dir, args, process: None });
        }
        members.iter_mut().try_for_each(Member::start)?;
        let etcd = Self { members };
        etcd.wait_agreed(runtime)?;
        Ok(etcd)
    }

    /// Client socket of a member.
    pub(crate) fn socket(&self, host: usize) -> PathBuf {
        self.members[host].dir.join(SOCKET)
    }

    /// Process id of a member that runs.
    pub(crate) fn pid(&self, host: usize) -> Option<Pid> {
        self.members[host].process.as_ref().map(|process| Pid::from_raw(process.id().cast_signed()))
    }

    /// Kills a member: SIGKILL.
    pub(crate) fn kill9(&mut self, host: usize) -> Result<()> {
        let mut process = self.members[host].process.take().context("this member of etcd does not run")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Asks a member to end (SIGTERM) and waits for it.
    pub(crate) fn term(&mut self, host: usize) -> Result<()> {
        let mut process = self.members[host].process.take().context("this member of etcd does not run")?;
        kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM)?;
        process.wait()?;
        Ok(())
    }

    /// Starts a killed member again and waits until it has caught up.
    pub(crate) fn restart(&mut self, host: usize, runtime: &Runtime) -> Result<()> {
        self.members[host].start()?;
        self.wait_agreed(runtime).map(drop)
    }

    /// The member that leads, once all agree on it and have applied the same entries.
    pub(crate) fn wait_agreed(&self, runtime: &Runtime) -> Result<usize> {
        let sockets: Vec<PathBuf> = (0..self.members.len()).map(|host| self.socket(host)).collect();
        wait_for("etcd to agree on a leader", AGREE, || {
            let statuses = runtime.block_on(statuses(&sockets))?;
            let first = statuses.first().context("etcd has no members")?;
            let same = |status: &StatusResponse| status.leader == first.leader && status.applied == first.applied;
            ensure!(first.leader != 0 && statuses.iter().all(same), "they do not agree: {statuses:?}");
            let leader = statuses.iter().position(|status| status.member() == first.leader);
            leader.context("the leader is no member")
        })
    }
}

impl Member {
    fn start(&mut self) -> Result<()> {
        let socket = self.dir.join(SOCKET);
        if socket.exists() {
            // A killed member leaves it, and the next one would not start.
            fs::remove_file(&socket)?;
        }
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut command = self.netns.command(&self.program.display().to_string());
        command.args(&self.args).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn().context("cannot start etcd")?);
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for host in 0..self.members.len() {
            // One that was killed before is no error here, and the lab's guard ends what is left.
            let _ = self.kill9(host);
        }
    }
}

async fn statuses(sockets: &[PathBuf]) -> Result<Vec<StatusResponse>> {
    let mut statuses = Vec::new();
    for socket in sockets {
        statuses.push(EtcdClient::connect(socket).await?.status().await?);
    }
    Ok(statuses)
}

/// The part of etcd's API (etcdserver/etcdserverpb/rpc.proto of release 3.4) that is measured or needed for it.
#[derive(Debug, Clone)]
pub(crate) struct EtcdClient {
    grpc: Grpc<Channel>,
}

impl EtcdClient {
    /// Connects to a member.
    pub(crate) async fn connect(socket: &Path) -> Result<Self> {
        Ok(Self { grpc: Grpc::new(socket::connect(socket).await?) })
    }

    /// Puts a value: answered once it is committed and applied.
    pub(crate) async fn put(&mut self, key: String, value: Vec<u8>) -> Result<(), Status> {
        let request = PutRequest { key: key.into_bytes(), value };
        self.call::<_, PutResponse>("/etcdserverpb.KV/Put", request).await.map(drop)
    }

    async fn status(&mut self) -> Result<StatusResponse, Status> {
        self.call("/etcdserverpb.Maintenance/Status", StatusRequest {}).await
    }

    async fn call<Q, A>(&mut self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        let response = self.grpc.unary(Request::new(request), PathAndQuery::from_static(method), codec).await?;
        Ok(response.into_inner())
    }
}

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    /// Member id of the leader.
    #[prost(uint64, tag = "4")]
    leader: u64,
    /// Last applied entry.
    #[prost(uint64, tag = "7")]
    applied: u64,
}

impl StatusResponse {
    fn member(&self) -> u64 {
        self.header.as_ref().map_or(0, |header| header.member_id)
    }
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}
