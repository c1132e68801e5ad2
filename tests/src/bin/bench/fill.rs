//! Endpoints in the store without containers: proposed to the leader as a member's daemon does it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use pontoon_proto::metadata;
use pontoon_proto::v1::cluster_service_client::ClusterServiceClient;
use pontoon_proto::v1::network_service_client::NetworkServiceClient;
use pontoon_proto::v1::peer_client::PeerClient;
use pontoon_proto::v1::{
    Command, CreateEndpoint, InspectNetworkRequest, Node, ProposeRequest, RequestId, Sandbox, StatusRequest, command,
    response,
};
use pontoon_store::NodeKey;
use pontoon_tests::lab::Netns;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::Channel;

use pontoon_tests::socket;

/// Proposals under way at once.
const CLIENTS: usize = 32;

/// Where the endpoints go, and in whose name they are proposed.
#[derive(Debug, Clone)]
struct Target {
    peer: PeerClient<Channel>,
    cluster: String,
    leader: Node,
    owner: Node,
    network: u64,
    run: u64,
}

/// Makes `count` endpoints of node `owner` on a network. The owner's daemon must not run: it would see that there
/// are no such namespaces, and end them.
///
/// `key` is the owner's; `socket` and `netns` are the leader's.
pub(crate) async fn endpoints(
    count: u64,
    (owner, key): (&str, NodeKey),
    network: &str,
    socket: &Path,
    netns: &Netns,
) -> Result<()> {
    let target = Target::find((owner, key), network, socket, netns).await?;
    let next = Arc::new(AtomicU64::new(1));
    let client = |_| {
        let (target, next) = (target.clone(), next.clone());
        async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number > count {
                    return Ok(());
                }
                target.propose(number).await.with_context(|| format!("endpoint {number} of {count}"))?;
            }
        }
    };
    let mut clients: JoinSet<Result<()>> = (0..CLIENTS).map(client).collect();
    while let Some(client) = clients.join_next().await {
        client??;
    }
    Ok(())
}

impl Target {
    async fn find((owner, key): (&str, NodeKey), network: &str, socket: &Path, netns: &Netns) -> Result<Self> {
        let channel = socket::connect(socket).await?;
        let request = InspectNetworkRequest { network: network.to_owned(), read: None };
        let answer = NetworkServiceClient::new(channel.clone()).inspect_network(request).await?.into_inner();
        let network = answer.network.context("no network")?.id;
        let status = ClusterServiceClient::new(channel).status(StatusRequest {}).await?.into_inner();
        let node = |wanted: &dyn Fn(&Node) -> bool| status.members.iter().filter_map(|m| m.node.clone()).find(wanted);
        let owner = node(&|node| node.name == owner).with_context(|| format!("no node {owner}"))?;
        let leader = node(&|node| node.id == status.leader).context("no leader")?;
        let address: SocketAddr =
            leader.advertise.parse().with_context(|| format!("address {:?}", leader.advertise))?;
        let peer = PeerClient::new(socket::connect_in(netns, address, key).await?);
        let run = rand::random();
        Ok(Self { peer, cluster: status.cluster_id, leader, owner, network, run })
    }

    async fn propose(&self, number: u64) -> Result<()> {
        let endpoint = CreateEndpoint {
            network: self.network,
            node: self.owner.id,
            name: format!("remote-{number}"),
            sandbox: Some(Sandbox { netns: format!("/run/netns/remote-{number}"), key: format!("remote:{number}") }),
            ..CreateEndpoint::default()
        };
        let command = Command { kind: Some(command::Kind::CreateEndpoint(endpoint)) };
        let id = RequestId { node: self.owner.id, run: self.run, seq: number };
        let mut request = Request::new(ProposeRequest { request: Some(id), command: Some(command), origin: None });
        let (from, to) = (self.owner.raft_id.to_string(), self.leader.raft_id.to_string());
        for (key, value) in [(metadata::CLUSTER, &self.cluster), (metadata::FROM, &from), (metadata::TO, &to)] {
            request.metadata_mut().insert(key, value.parse()?);
        }
        let answer = self.peer.clone().propose(request).await?.into_inner();
        match answer.response.and_then(|response| response.result) {
            Some(response::Result::Outcome(_)) => Ok(()),
            refused => bail!("it was refused: {refused:?}"),
        }
    }
}
