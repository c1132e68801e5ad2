//! Thousands of watchers, some of which take nothing, and what they cost.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::{join_all, try_join_all};
use pontoon_proto::v1::network_service_client::NetworkServiceClient;
use pontoon_proto::v1::watch_response::Event;
use pontoon_proto::v1::watch_service_client::WatchServiceClient;
use pontoon_proto::v1::{CreateNetworkRequest, ObjectKind, WatchRequest, WatchResponse, object};
use pontoon_tests::lab::{Cluster, run};
use pontoon_tests::{resident, socket};
use tokio::runtime::Runtime;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Watchers that read, those among them that begin with all that there is, and watchers that take nothing.
const READERS: usize = 1_500;
const BEGINNERS: usize = 20;
const DEAF: usize = 500;
/// Watchers on one connection.
const SHARED: usize = 100;
/// Networks, and labels of 200 bytes on each: what there is comes to more than 600 KB.
const NETWORKS: usize = 300;
const LABELS: usize = 10;
/// How much the daemon may grow: 64 MiB that are kept, 128 KiB on their way for each that takes nothing, and what 2,000
/// requests take in a debug build.
const GROWTH: u64 = 320 << 20;
/// How long all of them may take.
const PATIENCE: Duration = Duration::from_secs(60);

type Watch = WatchServiceClient<Channel>;

fn all() -> WatchRequest {
    WatchRequest::default()
}

/// Connections for so many watchers.
async fn connections(socket: &Path, watchers: usize) -> Result<Vec<Watch>> {
    let channels = try_join_all((0..watchers.div_ceil(SHARED)).map(|_| socket::connect(socket))).await?;
    Ok(channels.into_iter().map(WatchServiceClient::new).collect())
}

/// Begins to watch; there may be no room at the moment.
async fn begin(mut client: Watch, request: WatchRequest) -> Result<Streaming<WatchResponse>, Status> {
    client.watch(request).await.map(|told| told.into_inner())
}

/// Watches until it is told of a network, and from the beginning again as often as there was no room.
async fn until_told(client: Watch, request: WatchRequest, network: &str) -> Result<()> {
    let is_it = |object: &object::Object| matches!(object, object::Object::Network(found) if found.name == network);
    loop {
        let mut told = match begin(client.clone(), request.clone()).await {
            Ok(told) => told,
            Err(status) if status.code() == Code::ResourceExhausted => {
                yield_now().await;
                continue;
            }
            Err(status) => return Err(status).context("a watcher is refused"),
        };
        while let Some(response) = told.message().await.context("a watcher that reads was cut off")? {
            let objects = match response.event {
                Some(Event::Snapshot(part)) => part.objects,
                Some(Event::Changes(part)) => part.put,
                _ => continue,
            };
            if objects.into_iter().filter_map(|found| found.object).any(|found| is_it(&found)) {
                return Ok(());
            }
        }
    }
}

async fn make(socket: &Path, names: Vec<String>) -> Result<()> {
    let client = NetworkServiceClient::new(socket::connect(socket).await?);
    try_join_all(names.into_iter().map(|name| {
        let labels = (0..LABELS).map(|number| (format!("label-{number}"), "x".repeat(200))).collect();
        let mut client = client.clone();
        async move { client.create_network(CreateNetworkRequest { name, labels, ..Default::default() }).await }
    }))
    .await
    .context("cannot make networks")
    .map(drop)
}

/// Resident memory of a host's daemon, in bytes.
fn resident_at(cluster: &mut Cluster, host: usize) -> Result<u64> {
    let pid = cluster.daemon(host).pid().context("the daemon does not run")?;
    resident(pid.as_raw().cast_unsigned())
}

/// Those that read are told, those that begin get what there is, writes go on, and memory stays within its bound.
#[test]
fn two_thousand_watchers_a_quarter_of_which_takes_nothing() -> Result<()> {
    run(|cluster| {
        let (near, far) = (cluster.daemon(0).socket(), cluster.daemon(1).socket());
        let runtime = Runtime::new()?;
        runtime.block_on(make(&far, (0..NETWORKS).map(|number| format!("n{number}")).collect()))?;
        cluster.wait_same_state()?;
        let index = cluster.status(0)?["applied_index"].as_u64().context("no index")?;
        let before = resident_at(cluster, 0)?;
        let (told, begun) = runtime.block_on(async {
            let deaf = connections(&near, DEAF).await?;
            let deaf = join_all((0..DEAF).map(|number| begin(deaf[number / SHARED].clone(), all()))).await;
            let begun = deaf.iter().filter(|begun| begun.is_ok()).count();
            let kinds = vec![ObjectKind::Network.into()];
            let readers = connections(&near, READERS).await?;
            let mut told = JoinSet::new();
            for number in 0..READERS {
                let from_index = if number < BEGINNERS { 0 } else { index };
                let request = WatchRequest { from_index, kinds: kinds.clone(), ..all() };
                told.spawn(timeout(PATIENCE, until_told(readers[number / SHARED].clone(), request, "the-last")));
            }
            make(&far, vec!["the-last".to_owned()]).await?;
            let told = told.join_all().await;
            drop(deaf);
            anyhow::Ok((told, begun))
        })?;
        for told in told {
            told.context("a watcher was told nothing")??;
        }
        let grown = resident_at(cluster, 0)?.saturating_sub(before);
        eprintln!("{begun} of {DEAF} that take nothing had begun; the daemon grew by {} MiB", grown >> 20);
        ensure!(begun > 0 && grown < GROWTH, "the daemon grew by {} MiB, {begun} had begun", grown >> 20);
        Ok(())
    })
}
