//! Watchers that come and go, on whichever daemon is there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use pontoon_proto::v1::cluster_service_client::ClusterServiceClient;
use pontoon_proto::v1::watch_response::Event;
use pontoon_proto::v1::watch_service_client::WatchServiceClient;
use pontoon_proto::v1::{StatusRequest, WatchRequest};
use pontoon_tests::socket;
use tokio::time::timeout;
use tonic::Code;

use crate::churn::Shared;
use crate::client::{Node, answer, paced};

/// How long one stays, at most.
const STAY_MS: u64 = 3_000;
/// Of so many that come, one takes nothing of what it is sent.
const DEAF: u32 = 4;
/// Between two that come.
const PACE: Duration = Duration::from_millis(100);

/// Watches here and there until it is to stop. Each time the connection is new, and broken off.
pub(crate) async fn work(shared: Arc<Shared>) -> Result<()> {
    let mut tick = paced(PACE);
    let mut seen = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let stay = Duration::from_millis(rand::random_range(0..STAY_MS));
        match timeout(stay, watch(&shared, &mut seen)).await {
            // Half of them go on from there, elsewhere.
            Err(_) if rand::random() => {}
            // The others begin anew, and must where they were told that what they missed is not kept any more.
            Err(_) => seen = 0,
            Ok(ended) => {
                ended?;
                seen = 0;
            }
        }
    }
    Ok(())
}

/// Watches one daemon until that ends it. Fails if it was told something out of order.
async fn watch(shared: &Shared, seen: &mut u64) -> Result<()> {
    let node = &shared.nodes[rand::random_range(0..shared.nodes.len())];
    // A daemon that was killed does not listen.
    let Ok(channel) = socket::connect(&node.socket).await else { return Ok(()) };
    let request = WatchRequest { from_index: *seen, ..WatchRequest::default() };
    let Ok(told) = WatchServiceClient::new(channel).watch(request).await else { return Ok(()) };
    let mut told = told.into_inner();
    if rand::random_ratio(1, DEAF) {
        // What has no room on the way waits in the daemon.
        std::future::pending::<()>().await;
    }
    while let Ok(Some(message)) = told.message().await {
        let (index, is_new) = match message.event {
            Some(Event::Snapshot(part)) => (part.index, true),
            Some(Event::Changes(changes)) => (changes.index, changes.index > *seen),
            Some(Event::Progress(progress)) => (progress.index, true),
            None => (0, false),
        };
        ensure!(is_new && index >= *seen, "a watcher on {} was told of {index} after {seen}", node.name);
        *seen = index;
    }
    Ok(())
}

/// An index that every daemon can tell what has followed it.
pub(crate) async fn first_index(nodes: &[Node]) -> Result<u64> {
    let mut first = 0;
    for node in nodes {
        let status = answer(ClusterServiceClient::new(node.channel.clone()).status(StatusRequest {})).await?;
        first = first.max(status.applied_index);
    }
    Ok(first)
}

/// No daemon keeps what has followed this index any more: each keeps as much as it ever will.
///
/// # Errors
///
/// One does.
pub(crate) async fn all_forget(nodes: &[Node], first: u64) -> Result<()> {
    for node in nodes {
        let request = WatchRequest { from_index: first, ..WatchRequest::default() };
        let told = match WatchServiceClient::new(node.channel.clone()).watch(request).await {
            Ok(told) => told.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        };
        let forgets = told.is_err_and(|status| status.code() == Code::OutOfRange);
        ensure!(forgets, "{} still keeps all that has changed since entry {first}", node.name);
    }
    Ok(())
}
