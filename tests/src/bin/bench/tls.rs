//! What TLS between nodes costs: beside daemons that are built without it, for this alone.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hyper_util::rt::TokioIo;
use pontoon_proto::DEFAULT_PEER_PORT;
use pontoon_proto::v1::HelloRequest;
use pontoon_proto::v1::entrance_client::EntranceClient;
use pontoon_store::NodeKey;
use pontoon_tests::Section;
use pontoon_tests::lab::{Cluster, DaemonOptions, Netns, Options, Plugin, run_with};
use pontoon_tests::socket::{connect_from, connect_in};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::stats::{median, ms, number, per_second, percentile};
use crate::writer::Writer;
use crate::writes::write_until;

/// Numbers of clients.
const CLIENTS: [usize; 3] = [1, 16, 64];
/// How often the two take turns.
const ROUNDS: usize = 7;
/// How long each writes in a turn.
const TURN: Duration = Duration::from_millis(1500);
/// Connections that are made to each.
const CONNECTIONS: usize = 200;
/// The network that leases are of.
const SUBNET: &str = "10.90.0.0/16";

/// Measures and reports.
pub(crate) fn measure(runtime: &Runtime) -> Result<Section> {
    let mut rows = Vec::new();
    let options = |program| {
        let daemon = DaemonOptions { plugin: true, program, ..DaemonOptions::default() };
        Options { daemon, ..Options::default() }
    };
    run_with(options(None), |tls| {
        run_with(options(Some("pontoond-plaintext")), |plain| {
            for cluster in [&mut *tls, &mut *plain] {
                cluster.form()?;
                cluster.cli(0).run(&format!("network create --subnet {SUBNET} leases"))?;
            }
            for clients in CLIENTS {
                rows.push(row(format!("leases, by {clients} at once, /s"), tls, plain, |cluster| {
                    leases(cluster, clients)
                })?);
                rows.push(row(format!("labels, by {clients} at once, /s"), tls, plain, |cluster| {
                    runtime.block_on(labels(cluster, clients))
                })?);
            }
            rows.push(handshakes(runtime, tls, plain)?);
            Ok(())
        })
    })?;
    Ok(Section {
        title: "What TLS costs",
        how: format!(
            "Two clusters of 3 nodes at once, of which one is built without TLS (the feature \"plaintext\", for this alone), in \
             turn. Leases: an address is asked for and given back at the plugin socket, through all nodes, as an engine does it \
             (each counts, and has a connection of its own to that socket). Labels: `node label` with a short value through \
             all nodes (gRPC over the unix socket). {ROUNDS} turns of {} s each; medians of the rates. Connections: from \
             connecting to the answer of the first call, {CONNECTIONS} one after the other to each; medians, milliseconds.",
            TURN.as_secs_f64()
        ),
        header: vec!["", "TLS", "plaintext", "TLS over plaintext, %"],
        rows,
    })
}

fn row(
    what: String,
    tls: &mut Cluster,
    plain: &mut Cluster,
    rate: impl Fn(&mut Cluster) -> Result<f64>,
) -> Result<Vec<String>> {
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        rates[0].push(rate(tls)?);
        rates[1].push(rate(plain)?);
    }
    Ok(cells(what, rates.map(|rates| median(&rates))))
}

fn cells(what: String, [tls, plain]: [f64; 2]) -> Vec<String> {
    vec![what, number(tls), number(plain), format!("{:+.1}", (tls / plain - 1.0) * 100.0)]
}

/// Addresses that are taken and given back in a second.
fn leases(cluster: &mut Cluster, clients: usize) -> Result<f64> {
    let plugins: Vec<Plugin> = cluster.daemons().iter().map(|daemon| daemon.plugin()).collect();
    let start = Instant::now();
    let counts = thread::scope(|scope| {
        let client = |number: usize| {
            let plugin = &plugins[number % plugins.len()];
            scope.spawn(move || lease_until(plugin, start + TURN))
        };
        let clients: Vec<_> = (0..clients).map(client).collect();
        let join = |client: thread::ScopedJoinHandle<'_, Result<u64>>| {
            client.join().map_err(|_| anyhow!("a client panicked"))?
        };
        clients.into_iter().map(join).sum::<Result<u64>>()
    })?;
    Ok(per_second(counts, start.elapsed()))
}

fn lease_until(plugin: &Plugin, end: Instant) -> Result<u64> {
    let mut count = 0;
    while Instant::now() < end {
        let answer = plugin.ask("IpamDriver.RequestAddress", &json!({ "PoolID": SUBNET }))?;
        let address = answer["Address"].as_str().and_then(|address| address.split('/').next());
        let address = address.with_context(|| format!("no address: {answer}"))?;
        plugin.ask("IpamDriver.ReleaseAddress", &json!({ "PoolID": SUBNET, "Address": address }))?;
        count += 2;
    }
    Ok(count)
}

/// Labels that are written in a second.
async fn labels(cluster: &mut Cluster, clients: usize) -> Result<f64> {
    let sockets: Vec<PathBuf> = cluster.daemons().iter().map(|daemon| daemon.socket()).collect();
    let mut writers = Vec::new();
    for client in 0..clients {
        let mut writer = Writer::label(&sockets[client % sockets.len()], client).await?;
        writer.write(0).await.context("the first write")?;
        writers.push(writer);
    }
    let start = Instant::now();
    let writes = writers.into_iter().map(|writer| write_until(writer, start + TURN));
    let writes = futures::future::try_join_all(writes).await?;
    Ok(per_second(writes.iter().map(|writes| writes.len() as u64).sum(), start.elapsed()))
}

/// How long it takes until a connection can be used.
fn handshakes(runtime: &Runtime, tls: &mut Cluster, plain: &mut Cluster) -> Result<Vec<String>> {
    let mut times = [Vec::new(), Vec::new()];
    let keys = [tls.daemon(1).node_key()?, plain.daemon(1).node_key()?];
    let [tls, plain] = [tls, plain].map(|cluster| -> Result<_> {
        Ok((cluster.hosts()[0].netns.clone(), SocketAddr::new(cluster.advertise(0).parse()?, DEFAULT_PEER_PORT)))
    });
    let (tls, plain) = (tls?, plain?);
    for _ in 0..CONNECTIONS {
        let start = Instant::now();
        runtime.block_on(async { greet(connect_in(&tls.0, tls.1, keys[0].clone()).await?).await })?;
        times[0].push(start.elapsed());
        let start = Instant::now();
        runtime.block_on(async { greet(connect_plainly(&plain.0, plain.1, &keys[1]).await?).await })?;
        times[1].push(start.elapsed());
    }
    let medians = times.map(|mut times| {
        times.sort_unstable();
        ms(percentile(&times, 50))
    });
    Ok(cells("a connection, ms".to_owned(), medians))
}

async fn greet(channel: Channel) -> Result<()> {
    EntranceClient::new(channel).hello(HelloRequest {}).await.context("no answer")?;
    Ok(())
}

/// As a daemon does it that is built without TLS: both show their certificates.
async fn connect_plainly(netns: &Netns, address: SocketAddr, key: &NodeKey) -> Result<Channel> {
    let own = key.certificate().context("it has no certificate")?.own;
    let netns = netns.path();
    let connector = service_fn(move |_| {
        let (netns, own) = (netns.clone(), own.clone());
        async move {
            let mut stream = TcpStream::from_std(connect_from(&netns, address)?)?;
            let length = u32::try_from(own.len()).map_err(io::Error::other)?;
            stream.write_all(&[&[1], &length.to_be_bytes()[..], &own].concat()).await?;
            for _ in 0..stream.read_u8().await? {
                let length = stream.read_u32().await?;
                copy(&mut (&mut stream).take(length.into()), &mut sink()).await?;
            }
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    Ok(Endpoint::from_shared(format!("http://{address}"))?.connect_with_connector(connector).await?)
}
