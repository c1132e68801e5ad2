//! What is there when the churn is over: all that was acknowledged, and, once that is removed, nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_proto::v1::network_service_client::NetworkServiceClient;
use pontoon_proto::v1::node_service_client::NodeServiceClient;
use pontoon_proto::v1::{EndpointView, InspectNetworkRequest, ListNetworksRequest, ListNodesRequest, ReadOptions};
use pontoon_tests::lab::{Cluster, LAN_INTERFACE, Netns};
use pontoon_tests::wait_for;
use tokio::runtime::Runtime;

use crate::churn::Left;
use crate::client::{Node, answer};
use crate::label::Label;
use crate::slot::Known;

/// How long a daemon may take until it has ended what was left to it, such as the endpoint of a namespace that is gone.
const SETTLE: Duration = Duration::from_secs(60);
/// The node's own copy, which is to have it.
const OWN: Option<ReadOptions> = Some(ReadOptions { stale: true });

/// Waits until every node has what was acknowledged, and nothing else. What was lost does not come back by waiting.
pub(crate) fn all_is_there(nodes: &[Node], left: &Left, runtime: &Runtime) -> Result<()> {
    let known: Vec<Known> = left.slots.iter().map(|slot| slot.known()).collect();
    wait_for("every node to have what was acknowledged, and only that", SETTLE, || {
        for node in nodes {
            let here = runtime.block_on(here(node, &known, &left.labels));
            here.with_context(|| format!("on {}", node.name))?;
        }
        Ok(())
    })
}

async fn here(node: &Node, known: &[Known], labels: &[Label]) -> Result<()> {
    let mut client = NetworkServiceClient::new(node.channel.clone());
    let listed = answer(client.list_networks(ListNetworksRequest { read: OWN })).await?;
    let listed = listed.networks.into_iter().filter_map(|view| Some(view.network?.name));
    let there: BTreeSet<String> = listed.collect();
    let expected: BTreeSet<String> = known.iter().filter_map(|known| known.network.clone()).collect();
    ensure!(there == expected, "the networks are {there:?} and not {expected:?}");
    for known in known {
        let Some(network) = known.network.clone() else { continue };
        let inspected = answer(client.inspect_network(InspectNetworkRequest { network, read: OWN })).await?;
        let there: BTreeMap<_, _> = inspected.endpoints.into_iter().filter_map(of_view).collect();
        ensure!(there == known.endpoints, "{:?} has {there:?} and not {:?}", known.network, known.endpoints);
    }
    let mut client = NodeServiceClient::new(node.channel.clone());
    let listed = answer(client.list_nodes(ListNodesRequest { read: OWN })).await?;
    let nodes: Vec<_> = listed.nodes.into_iter().filter_map(|member| member.node).collect();
    for Label { node, keys, value } in labels {
        let there = nodes.iter().find(|there| there.name == *node).with_context(|| format!("there is no {node}"))?;
        for key in keys {
            let label = there.labels.get(key);
            ensure!(label == Some(value), "label {key} of {node} is {label:?} and not {value}");
        }
    }
    Ok(())
}

fn of_view(view: EndpointView) -> Option<(String, (String, Vec<String>))> {
    let endpoint = view.endpoint?;
    Some((endpoint.name, (view.node_name, endpoint.addresses)))
}

/// What a daemon has made in the kernel, as text: interfaces, addresses, routes, neighbours and rules.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kernel(Vec<BTreeSet<String>>);

impl Kernel {
    /// Looks at every host, and at the namespaces that the daemons keep their overlays in.
    pub(crate) fn look(cluster: &mut Cluster) -> Result<Self> {
        let mut found = Vec::new();
        for host in 0..cluster.hosts().len() {
            let spaces = [cluster.hosts()[host].netns.clone(), cluster.daemon(host).overlay().clone()];
            for space in spaces {
                found.push(lines(&space)?);
            }
        }
        Ok(Self(found))
    }

    /// Waits until the kernel is as it was.
    pub(crate) fn is_again(&self, cluster: &mut Cluster) -> Result<()> {
        wait_for("the kernel to be as it was without networks", SETTLE, || {
            for (index, (before, now)) in self.0.iter().zip(&Self::look(cluster)?.0).enumerate() {
                let left: Vec<&String> = now.difference(before).collect();
                let gone: Vec<&String> = before.difference(now).collect();
                let (host, space) = (index / 2 + 1, ["host", "overlay"][index % 2]);
                ensure!(left.is_empty() && gone.is_empty(), "h{host}, {space}: left {left:?}, gone {gone:?}");
            }
            Ok(())
        })
    }
}

/// Without counters and times, which go on.
const LOOKS: [(&str, &str); 5] = [
    ("ip", "-brief link show"),
    ("ip", "-brief address show"),
    ("ip", "route show table all"),
    ("ip", "neighbour show nud permanent"),
    ("nft", "--stateless list ruleset"),
];

fn lines(netns: &Netns) -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    if netns.path().exists() {
        for (program, arguments) in LOOKS {
            let text = netns.run(program, &arguments.split_whitespace().collect::<Vec<_>>())?;
            // The LAN's interface is the lab's; the kernel gives it an address some seconds after it is there.
            let made = text.lines().filter(|line| !line.contains(LAN_INTERFACE));
            lines.extend(made.map(|line| format!("{program}: {}", line.trim())));
        }
    }
    Ok(lines)
}
