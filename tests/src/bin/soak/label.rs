//! Writes that are nothing but writes: labels of nodes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use pontoon_proto::v1::LabelNodeRequest;
use pontoon_proto::v1::node_service_client::NodeServiceClient;

use crate::churn::Shared;
use crate::client::{Node, Tries, answer, paced};

/// Between two writes of one client, once it is warm: 15 of them write 10,000 entries, after which there is a snapshot
/// and the log is purged, in about 40 s.
const PACE: Duration = Duration::from_millis(60);

/// Length of a label's value, in bytes. Three clients with two labels each make a node of 2.4 KB, so that what a daemon
/// keeps of the latest changes, 16 MiB (store/src/feed.rs), is full soon.
const VALUE: usize = 400;

/// One client, with two labels of its own on its node.
#[derive(Debug)]
pub(crate) struct Labeller {
    node: Node,
    keys: [String; 2],
    shared: Arc<Shared>,
}

/// Labels that were acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Label {
    /// Name of the node that has it.
    pub(crate) node: String,
    /// Keys.
    pub(crate) keys: [String; 2],
    /// The value of both.
    pub(crate) value: String,
}

impl Labeller {
    /// The client of this number. Clients are spread over the nodes.
    pub(crate) fn new(number: usize, shared: &Arc<Shared>) -> Self {
        let node = shared.nodes[number % shared.nodes.len()].clone();
        Self { node, keys: ["a", "b"].map(|key| format!("soak-{number}-{key}")), shared: shared.clone() }
    }

    /// Writes until it is to stop: as fast as it can until it is warm. Returns its last labels.
    pub(crate) async fn work(self) -> Result<Label> {
        let mut tick = paced(PACE);
        let mut number = 0_u64;
        loop {
            if !self.shared.warming.load(Ordering::Relaxed) {
                tick.tick().await;
            }
            let value = format!("{number:0VALUE$}");
            self.write(&value).await?;
            if self.shared.stop.load(Ordering::Relaxed) {
                return Ok(Label { node: self.node.name, keys: self.keys, value });
            }
            number += 1;
        }
    }

    async fn write(&self, value: &str) -> Result<()> {
        let mut tries = Tries::of(format!("set the label {} of {}", self.keys[0], self.node.name));
        loop {
            let set = self.keys.iter().map(|key| (key.clone(), value.to_owned())).collect();
            let request = LabelNodeRequest { node: self.node.name.clone(), set, remove: Vec::new() };
            let mut client = NodeServiceClient::new(self.node.channel.clone());
            match answer(client.label_node(request)).await {
                Ok(_) => {
                    self.shared.done();
                    return Ok(());
                }
                Err(status) => tries.failed(&status).await?,
            }
        }
    }
}
