//! A network that is made on one of many nodes, until every one of them knows it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use pontoon_proto::v1::network_service_client::NetworkServiceClient;
use pontoon_proto::v1::{CreateNetworkRequest, InspectNetworkRequest, ReadOptions, RemoveNetworkRequest};
use pontoon_tests::lab::{Cluster, Options, run_with};
use pontoon_tests::{Section, socket, wait_for};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use crate::replace;
use crate::stats::{ms, number, percentile};

/// Nodes: five voters, two learners, twenty observers.
const NODES: usize = 27;
/// What the leader makes of them.
const ROLES: [(&str, usize); 3] = [("voters", 5), ("learners", 2), ("observers", 20)];
/// How often a network is made.
const RUNS: usize = 20;
/// How often a node is asked whether it knows the network. More often would keep the machine busy that all of them share.
const ASK: Duration = Duration::from_millis(5);
/// Every node must know it within this.
const DEADLINE: Duration = Duration::from_secs(30);

/// Measures and reports.
pub(crate) fn measure(runtime: &Runtime) -> Result<Vec<Section>> {
    let (mut members, mut observers, mut replaced) = (Vec::new(), Vec::new(), None);
    run_with(Options { hosts: NODES, ..Options::default() }, |cluster| {
        cluster.form()?;
        let observing = wait_roles(cluster)?;
        let sockets: Vec<PathBuf> = cluster.daemons().iter().map(|daemon| daemon.socket()).collect();
        let clients = runtime.block_on(try_join_all(sockets.iter().map(|socket| connect(socket))))?;
        for run in 0..RUNS {
            // Each time through another node.
            let known = runtime.block_on(make(&clients, run % NODES, &format!("n{run}")))?;
            let last = |observes: bool| {
                let of = known.iter().enumerate().filter(|(host, _)| observing.contains(host) == observes);
                of.map(|(_, took)| *took).max().unwrap_or_default()
            };
            members.push(last(false));
            observers.push(last(true));
        }
        replaced = Some(replace::measure(cluster)?);
        Ok(())
    })?;
    let row = |what: &str, times: &mut Vec<Duration>| {
        times.sort_unstable();
        let cells = [0, 50, 100].map(|percent| number(ms(percentile(times, percent))));
        [vec![what.to_owned()], cells.to_vec()].concat()
    };
    let known = Section {
        title: "A network that is made, until every node knows it",
        how: format!(
            "{NODES} daemons in namespaces of one machine: 5 voters, 2 learners, 20 observers. A network is made through each of \
             them in turn, {RUNS} in all. From the request to the moment at which the last of the 7 members and the last of the 20 \
             observers has it in its own copy; each is asked every {} ms. Milliseconds.",
            ASK.as_millis()
        ),
        header: vec!["last of the", "least", "p50", "most"],
        rows: vec![row("members", &mut members), row("observers", &mut observers)],
    };
    Ok([known].into_iter().chain(replaced).collect())
}

/// What a node is, as a status shows it.
fn role(member: &Value) -> &'static str {
    match (&member["voter"] == true, &member["observer"] == true) {
        (true, _) => "voters",
        (false, false) => "learners",
        (false, true) => "observers",
    }
}

/// Waits until everybody is what he is to be; tells the hosts that observe.
fn wait_roles(cluster: &Cluster) -> Result<Vec<usize>> {
    wait_for("as many voters and observers as there are to be", DEADLINE, || {
        let status = cluster.status(0)?;
        let members = status["members"].as_array().context("no members")?;
        let roles: Vec<&str> = members.iter().map(role).collect();
        for (role, expected) in ROLES {
            let found = roles.iter().filter(|found| **found == role).count();
            ensure!(found == expected, "there are {found} {role}");
        }
        hosts(cluster, 0, "observers")
    })
}

/// Hosts whose nodes have a role, as one of them sees it.
pub(crate) fn hosts(cluster: &Cluster, asked: usize, wanted: &str) -> Result<Vec<usize>> {
    let status = cluster.status(asked)?;
    let members = status["members"].as_array().context("no members")?;
    let has = |name: &str| members.iter().any(|member| member["node"]["name"] == name && role(member) == wanted);
    Ok((0..cluster.hosts().len()).filter(|host| has(&cluster.hosts()[*host].name)).collect())
}

async fn connect(socket: &Path) -> Result<NetworkServiceClient<Channel>> {
    Ok(NetworkServiceClient::new(socket::connect(socket).await?))
}

/// Makes a network through one node, and tells how long each took to know it. Then it is removed.
async fn make(clients: &[NetworkServiceClient<Channel>], through: usize, name: &str) -> Result<Vec<Duration>> {
    let begun = Instant::now();
    let mut client = clients[through].clone();
    let made = async {
        let request = CreateNetworkRequest { name: name.to_owned(), ..CreateNetworkRequest::default() };
        client.create_network(request).await.context("cannot make a network")
    };
    let known = try_join_all(clients.iter().map(|client| known(client.clone(), name, begun)));
    let (made, known) = tokio::join!(made, timeout(DEADLINE, known));
    made?;
    let known = known.context("not every node has heard of it in time")??;
    client.remove_network(RemoveNetworkRequest { network: name.to_owned() }).await.context("cannot remove it")?;
    Ok(known)
}

/// Asks one node for its own copy until it knows a network.
async fn known(mut client: NetworkServiceClient<Channel>, name: &str, begun: Instant) -> Result<Duration> {
    loop {
        let request = InspectNetworkRequest { network: name.to_owned(), read: Some(ReadOptions { stale: true }) };
        match client.inspect_network(request).await {
            Ok(_) => return Ok(begun.elapsed()),
            Err(status) if status.code() == tonic::Code::NotFound => sleep(ASK).await,
            Err(status) => return Err(status).context("a node does not tell its networks"),
        }
    }
}
