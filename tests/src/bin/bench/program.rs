//! Programming 10,000 endpoints of other nodes when the first local one comes, beside `bridge -batch` and `ip -batch`.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pontoon_proto::v1::endpoint_service_client::EndpointServiceClient;
use pontoon_proto::v1::{AttachRequest, DetachRequest};
use pontoon_tests::lab::{Cluster, Netns, run};
use pontoon_tests::wait_for;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::fill;
use crate::stats::{median, ms, number, ratio};
use pontoon_tests::Section;
use pontoon_tests::socket;

/// Endpoints of other nodes.
const ENDPOINTS: usize = 10_000;
/// How often it is done.
const ROUNDS: usize = 5;
/// How long programming them may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// What our endpoints' MACs begin with.
const MAC_PREFIX: &str = "02:42:";

/// A network, and the node that gets its first local endpoint.
struct Field {
    client: EndpointServiceClient<Channel>,
    container: Netns,
    overlay: Netns,
    network: &'static str,
    device: String,
}

/// The entries of a VXLAN device.
struct Tables {
    fdb: Vec<String>,
    neighbours: Vec<String>,
}

/// Measures and reports.
pub(crate) fn measure(runtime: &Runtime) -> Result<Section> {
    let (mut attached, mut complete, mut empty, mut by_hand) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut entries = 0;
    run(|cluster| {
        let [full, nobody] = prepare(cluster, runtime)?;
        let bare = cluster.netns("by-hand")?;
        for round in 0..ROUNDS {
            empty.push(ms(turn(&nobody, 0, runtime)?.0));
            let (answer, whole, tables) = turn(&full, ENDPOINTS, runtime)?;
            attached.push(ms(answer));
            complete.push(ms(whole));
            let batches = tables.batches(cluster, round)?;
            by_hand.push(ms(write_by_hand(&bare, &batches, &tables)?));
            entries = tables.fdb.len() + tables.neighbours.len();
        }
        Ok(())
    })?;
    let (attached, complete, empty, by_hand) = (median(&attached), median(&complete), median(&empty), median(&by_hand));
    let row = |what: &str, value: f64| vec![what.to_owned(), number(value), number(by_hand), ratio(value, by_hand)];
    Ok(Section {
        title: "10,000 endpoints of other nodes after the first local one",
        how: format!(
            "A network with {ENDPOINTS} endpoints on another node (in the store only), none on this one: then one is attached here, \
             and the kernel gets {entries} forwarding and neighbour entries. By hand: `bridge -batch` and `ip -batch` with the same \
             entries, into a VXLAN device and bridge that exist. {ROUNDS} times in turn, medians. Milliseconds."
        ),
        header: vec!["from the request to attach", "Pontoon", "by hand", "ratio"],
        rows: vec![
            row("until the kernel has all entries", complete),
            row("until the answer", attached),
            row("until the answer, network without other endpoints", empty),
        ],
    })
}

/// Fills one network and leaves one without endpoints.
fn prepare(cluster: &mut Cluster, runtime: &Runtime) -> Result<[Field; 2]> {
    cluster.cli(0).run("network create full --subnet 10.200.0.0/16 --vni 70000 --internal")?;
    cluster.cli(0).run("network create nobody --subnet 10.201.0.0/16 --vni 70001 --internal")?;
    let leader = cluster.leader()?;
    let (owner, local) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.daemon(owner).kill9()?;
    let name = cluster.hosts()[owner].name.clone();
    let (socket, netns) = (cluster.daemon(leader).socket(), cluster.hosts()[leader].netns.clone());
    let count = u64::try_from(ENDPOINTS)?;
    let owner = (name.as_str(), cluster.daemon(owner).node_key()?);
    runtime.block_on(fill::endpoints(count, owner, "full", &socket, &netns))?;
    let written = cluster.status(leader)?["applied_index"].as_u64().context("no applied_index")?;
    wait_for("the other node to have applied it", DEADLINE, || {
        let applied = cluster.status(local)?["applied_index"].as_u64();
        ensure!(applied >= Some(written), "it has applied {applied:?} of {written}");
        Ok(())
    })?;
    let container = cluster.container(local, "first")?.netns;
    let socket = cluster.daemon(local).socket();
    let field = |network, vni: u32| -> Result<Field> {
        Ok(Field {
            client: EndpointServiceClient::new(runtime.block_on(socket::connect(&socket))?),
            container: container.clone(),
            overlay: cluster.overlay(local).clone(),
            network,
            device: format!("vx{vni}"),
        })
    };
    Ok([field("full", 70_000)?, field("nobody", 70_001)?])
}

/// Attaches, waits for the entries, and detaches. Returns the time until the answer, until the entries were there,
/// and the entries.
fn turn(field: &Field, expected: usize, runtime: &Runtime) -> Result<(Duration, Duration, Tables)> {
    let netns = field.container.path().display().to_string();
    let mut client = field.client.clone();
    let network = field.network.to_owned();
    let request = AttachRequest { network: network.clone(), netns: netns.clone(), ..AttachRequest::default() };
    let start = Instant::now();
    runtime.block_on(client.attach(request)).context("attach")?;
    let answer = start.elapsed();
    let mut whole = answer;
    let tables = wait_for("the entries", DEADLINE, || {
        // Looking takes a while itself, and sees what was there when it began.
        whole = start.elapsed();
        let tables = Tables::read(&field.overlay, &field.device)?;
        let seen = (tables.remotes(), tables.neighbours.len());
        if seen == (expected, expected) {
            return Ok(tables);
        }
        bail!("there are {seen:?} of {expected}")
    })?;
    runtime.block_on(client.detach(DetachRequest { network, netns, ..DetachRequest::default() })).context("detach")?;
    wait_for("the device to be gone", DEADLINE, || {
        let gone = field.overlay.ip(&format!("link show {}", field.device)).is_err();
        ensure!(gone, "it is there");
        Ok(())
    })?;
    Ok((answer, whole, tables))
}

impl Tables {
    /// Reads the entries of a device that stand for endpoints, as `bridge` and `ip` print them.
    fn read(netns: &Netns, device: &str) -> Result<Self> {
        let lines = |program: &str, args: &[&str], wanted: &str| -> Result<Vec<String>> {
            let text = netns.run(program, args)?;
            Ok(text.lines().filter(|line| line.contains(wanted)).map(str::to_owned).collect())
        };
        Ok(Self {
            fdb: lines("bridge", &["fdb", "show", "dev", device], MAC_PREFIX)?,
            neighbours: lines("ip", &["neigh", "show", "nud", "permanent", "dev", device], MAC_PREFIX)?,
        })
    }

    /// Forwarding entries with a VTEP: one an endpoint.
    fn remotes(&self) -> usize {
        self.fdb.iter().filter(|line| line.contains(" dst ")).count()
    }

    /// The same as input for `bridge -batch` and `ip -batch`.
    fn batches(&self, cluster: &Cluster, round: usize) -> Result<[PathBuf; 2]> {
        let (mut fdb, mut neighbours) = (String::new(), String::new());
        for line in &self.fdb {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [mac, "dst", vtep, ..] => writeln!(fdb, "fdb replace {mac} dev vx0 self permanent dst {vtep}")?,
                [mac, ..] => writeln!(fdb, "fdb replace {mac} dev vx0 master static")?,
                [] => {}
            }
        }
        for line in &self.neighbours {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [address, "lladdr", mac, ..] = words[..] else { bail!("ip printed {line:?}") };
            writeln!(neighbours, "neigh replace {address} lladdr {mac} dev vx0 nud permanent")?;
        }
        let files = ["fdb", "neighbours"].map(|name| cluster.file(&format!("{name}-{round}")));
        fs::write(&files[0], fdb)?;
        fs::write(&files[1], neighbours)?;
        Ok(files)
    }
}

/// Writes the batches into a device that is new, and checks that they arrived.
fn write_by_hand(netns: &Netns, [fdb, neighbours]: &[PathBuf; 2], expected: &Tables) -> Result<Duration> {
    netns.ip("link add br0 type bridge")?;
    netns.ip("link add vx0 type vxlan id 70000 dstport 4789 nolearning proxy")?;
    netns.ip("link set vx0 master br0 up")?;
    netns.ip("link set br0 up")?;
    let text = |path: &Path| path.display().to_string();
    let start = Instant::now();
    netns.run("bridge", &["-batch", &text(fdb)])?;
    netns.run("ip", &["-batch", &text(neighbours)])?;
    let elapsed = start.elapsed();
    let seen = Tables::read(netns, "vx0")?;
    let [fdb, neighbours] = [(&seen.fdb, &expected.fdb), (&seen.neighbours, &expected.neighbours)];
    for (seen, expected) in [fdb, neighbours] {
        ensure!(seen.len() == expected.len(), "by hand there are {} entries of {}", seen.len(), expected.len());
    }
    netns.ip("link del vx0")?;
    netns.ip("link del br0")?;
    Ok(elapsed)
}
