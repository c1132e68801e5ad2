//! A network that comes and goes, with containers that do the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_proto::v1::endpoint_service_client::EndpointServiceClient;
use pontoon_proto::v1::network_service_client::NetworkServiceClient;
use pontoon_proto::v1::{AttachRequest, CreateNetworkRequest, DetachRequest, RemoveNetworkRequest};
use pontoon_tests::lab::{Cluster, Netns};
use tokio::task::spawn_blocking;
use tokio::time::Interval;
use tonic::Code;

use crate::churn::Shared;
use crate::client::{Node, Tries, answer, paced};

/// Containers of each node that may be on the network.
pub(crate) const OF_EACH_NODE: usize = 2;
/// How often one of them is detached and attached again before the network goes.
const TURNS: usize = 20;
/// Of so many containers that are to go, one goes with its namespace, as when a host's container engine is killed.
const VANISHES: u32 = 8;
/// Between two requests, so that twenty of these leave two cores something for the daemons.
const PACE: Duration = Duration::from_millis(500);

/// What was acknowledged to be there: the network, and its endpoints' nodes and addresses by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// Name of the network; none if it was removed.
    pub(crate) network: Option<String>,
    /// Endpoints.
    pub(crate) endpoints: BTreeMap<String, (String, Vec<String>)>,
}

/// One network at a time, and the namespaces that are attached to it.
#[derive(Debug)]
pub(crate) struct Slot {
    number: usize,
    shared: Arc<Shared>,
    network: Option<String>,
    members: Vec<Member>,
}

/// A namespace on a node, attached or not.
#[derive(Debug)]
struct Member {
    node: Node,
    name: String,
    netns: Netns,
    /// Its addresses, if it was acknowledged that it is attached and not that it is not.
    addresses: Option<Vec<String>>,
}

impl Slot {
    /// One with namespaces on every node, and no network yet.
    pub(crate) fn new(cluster: &Cluster, number: usize, shared: &Arc<Shared>) -> Result<Self> {
        let nodes = shared.nodes.iter().flat_map(|node| std::iter::repeat_n(node, OF_EACH_NODE));
        let member = |(index, node): (usize, &Node)| {
            let name = format!("s{number}-{index}");
            Ok(Member { node: node.clone(), netns: cluster.netns(&format!("c-{name}"))?, name, addresses: None })
        };
        let members = nodes.enumerate().map(member).collect::<Result<Vec<_>>>()?;
        Ok(Self { number, shared: shared.clone(), network: None, members })
    }

    /// Churns until it is to stop, and then gives itself back as it is.
    pub(crate) async fn work(mut self) -> Result<Self> {
        let mut tick = paced(PACE);
        for generation in 0_u64.. {
            if !self.live(generation, &mut tick).await? {
                break;
            }
        }
        Ok(self)
    }

    /// One network's life. Returns whether it came to its end: it does not when the churn is stopped.
    async fn live(&mut self, generation: u64, tick: &mut Interval) -> Result<bool> {
        let network = format!("soak-{}-{generation}", self.number);
        let all = 0..self.members.len();
        if !self.goes_on(tick).await {
            return Ok(false);
        }
        self.create(&network).await?;
        for index in all.clone() {
            if !self.goes_on(tick).await {
                return Ok(false);
            }
            self.attach(index, &network).await?;
        }
        for _ in 0..TURNS {
            let index = rand::random_range(all.clone());
            if !self.goes_on(tick).await {
                return Ok(false);
            }
            self.end(index).await?;
            if !self.goes_on(tick).await {
                return Ok(false);
            }
            self.attach(index, &network).await?;
        }
        for index in all {
            if !self.goes_on(tick).await {
                return Ok(false);
            }
            self.end(index).await?;
        }
        self.clear().await?;
        Ok(true)
    }

    async fn goes_on(&self, tick: &mut Interval) -> bool {
        tick.tick().await;
        !self.shared.stop.load(Ordering::Relaxed)
    }

    /// What was acknowledged to be there.
    pub(crate) fn known(&self) -> Known {
        let attached =
            |member: &Member| Some((member.name.clone(), (member.node.name.clone(), member.addresses.clone()?)));
        Known { network: self.network.clone(), endpoints: self.members.iter().filter_map(attached).collect() }
    }

    /// Detaches what is attached, and removes the network.
    pub(crate) async fn clear(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            if self.members[index].addresses.is_some() {
                self.members[index].detach(&self.shared).await?;
            }
        }
        let Some(network) = self.network.take() else { return Ok(()) };
        let mut tries = Tries::of(format!("remove {network}"));
        loop {
            let mut client = NetworkServiceClient::new(self.any_node().channel.clone());
            match answer(client.remove_network(RemoveNetworkRequest { network: network.clone() })).await {
                Err(status) if status.code() == Code::NotFound => {
                    ensure!(tries.again, "{network} was acknowledged, and was lost: {}", status.message());
                    break;
                }
                // In use, as long as the last of what was detached without an answer is still there.
                Err(status) => tries.failed(&status).await?,
                Ok(_) => break,
            }
        }
        self.shared.done();
        Ok(())
    }

    async fn create(&mut self, network: &str) -> Result<()> {
        let mut tries = Tries::of(format!("create {network}"));
        loop {
            let request = CreateNetworkRequest { name: network.to_owned(), ..CreateNetworkRequest::default() };
            let mut client = NetworkServiceClient::new(self.any_node().channel.clone());
            match answer(client.create_network(request)).await {
                // Its name is used once only: it was made by a try that had no answer.
                Err(status) if tries.again && status.code() == Code::AlreadyExists => break,
                Err(status) => tries.failed(&status).await?,
                Ok(_) => break,
            }
        }
        self.network = Some(network.to_owned());
        self.shared.done();
        Ok(())
    }

    async fn attach(&mut self, index: usize, network: &str) -> Result<()> {
        let member = &mut self.members[index];
        let mut tries = Tries::of(format!("attach {} to {network} on {}", member.name, member.node.name));
        loop {
            let request = AttachRequest {
                network: network.to_owned(),
                netns: member.netns.path().display().to_string(),
                name: member.name.clone(),
                ..AttachRequest::default()
            };
            let mut client = EndpointServiceClient::new(member.node.channel.clone());
            match answer(client.attach(request)).await {
                Ok(attached) => {
                    let endpoint = attached.endpoint.and_then(|view| view.endpoint).context("no endpoint")?;
                    member.addresses = Some(endpoint.addresses);
                    self.shared.done();
                    return Ok(());
                }
                Err(status) => tries.failed(&status).await?,
            }
            // Whether it is attached is not known, and what it got neither: it is begun anew.
            member.detach(&self.shared).await?;
        }
    }

    /// Ends an attachment: in good order, or by the end of its namespace.
    async fn end(&mut self, index: usize) -> Result<()> {
        let member = &mut self.members[index];
        if rand::random_ratio(1, VANISHES) {
            member.vanish().await?;
        }
        member.detach(&self.shared).await
    }

    fn any_node(&self) -> &Node {
        &self.shared.nodes[rand::random_range(0..self.shared.nodes.len())]
    }
}

impl Member {
    /// Its namespace goes without a word to the daemon, and another of the same name is there instead.
    async fn vanish(&mut self) -> Result<()> {
        // From here on, the daemon ends the endpoint by itself.
        self.addresses = None;
        let netns = self.netns.clone();
        self.netns = spawn_blocking(move || {
            netns.remove()?;
            Netns::create(netns.name())
        })
        .await??;
        Ok(())
    }

    /// Detaches it until the daemon says that it is not attached.
    async fn detach(&mut self, shared: &Shared) -> Result<()> {
        let acknowledged = self.addresses.take().is_some();
        let mut tries = Tries::of(format!("detach {} on {}", self.name, self.node.name));
        loop {
            let request = DetachRequest { name: self.name.clone(), ..DetachRequest::default() };
            let mut client = EndpointServiceClient::new(self.node.channel.clone());
            match answer(client.detach(request)).await {
                Err(status) if status.code() == Code::NotFound => {
                    let lost = acknowledged && !tries.again;
                    ensure!(!lost, "{} was acknowledged, and was lost: {}", self.name, status.message());
                    return Ok(());
                }
                Err(status) => tries.failed(&status).await?,
                Ok(_) => {
                    shared.done();
                    return Ok(());
                }
            }
        }
    }
}
