//! `pontoon doctor`: looks at the host, the engine and the other nodes, all at once; `plan::doctor` says what that means.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pontoon_store::model::id::NodeId;
use pontoon_store::model::object::Family;
use tokio::time::timeout;

use crate::clock;
use crate::daemon::Daemon;
use crate::docker;
use crate::host;
use crate::kernel;
use crate::member::Member;
use crate::plan::doctor::{
    self, Check, EngineLook, Finding, Greeting, HostLook, Place, PluginLook, Sizes, Trial, peer_port, vxlan_port,
};

/// How long a look may take that blocks. With it, everything is answered within 5 s.
const LOOK: Duration = Duration::from_secs(4);
/// How long another node has to answer.
const GREETING: Duration = Duration::from_secs(2);
/// How long a majority of the voters has to answer.
const QUORUM: Duration = Duration::from_secs(2);

/// What was seen.
struct Seen {
    host: Result<HostLook, String>,
    trials: Result<Vec<Trial>, String>,
    engine: Option<(EngineLook, PluginLook)>,
    greetings: BTreeMap<NodeId, Result<Greeting, String>>,
    /// Sizes of packets that were sent to the other nodes, and those that were answered.
    paths: (Sizes, Result<Sizes, String>),
    /// Why no majority answers.
    silence: Option<String>,
}

/// Looks at everything that this daemon depends on, and changes nothing.
pub(crate) async fn examine(daemon: &Daemon) -> Vec<Finding> {
    let member = daemon.try_member();
    let seen = look(daemon, member.as_deref()).await;
    let Some(member) = member else { return findings(daemon, None, &seen) };
    let mut found = with_place(&member, |place| findings(daemon, Some(place), &seen));
    let pass = member.reconciler.status().borrow().clone();
    found.extend(doctor::reconcile(pass.first_pass_done, pass.last_pass_steps, &pass.failures));
    found
}

/// Calls this with a member's place in its cluster.
fn with_place<T>(member: &Member, call: impl FnOnce(&Place<'_>) -> T) -> T {
    let status = member.store().status();
    let state = member.store().state();
    call(&Place {
        state: &state,
        cluster: member.cluster(),
        me: member.node(),
        voters: &status.voters,
        leader: status.leader,
        stopped: status.stopped.as_deref(),
    })
}

async fn look(daemon: &Daemon, member: Option<&Member>) -> Seen {
    let vtep = member.and_then(|member| Some(member.store().state().nodes.get(&member.node())?.data_addr));
    let (names, port) = (daemon.config.names(), port(daemon, member));
    let engine = async {
        let docker = daemon.config.docker.as_ref()?;
        Some(tokio::join!(docker::look_at_engine(&docker.socket), docker::look_at_plugin(&docker.plugin)))
    };
    let silence = async { member?.store().read_barrier(QUORUM).await.err().map(|error| error.to_string()) };
    let (host, trials, engine, greetings, paths, silence) = tokio::join!(
        blocking(move || kernel::look(&names, vtep, port).map_err(|error| error.to_string())),
        blocking(|| Ok(kernel::trials())),
        engine,
        greetings(member),
        paths(member, vtep),
        silence,
    );
    Seen { host, trials, engine, greetings, paths, silence }
}

/// The UDP port of VXLAN: the cluster's, or the one that a cluster of this daemon would have.
fn port(daemon: &Daemon, member: Option<&Member>) -> u16 {
    let port = member.and_then(|member| Some(member.store().state().cluster.as_ref()?.vxlan_port));
    port.unwrap_or(daemon.config.vxlan_port)
}

/// Runs what blocks on a thread that may. One that does not end in time is left behind.
async fn blocking<T: Send + 'static>(look: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    match timeout(LOOK, tokio::task::spawn_blocking(look)).await {
        Ok(done) => done.unwrap_or_else(|error| Err(error.to_string())),
        Err(_) => Err(format!("no answer within {} s", LOOK.as_secs())),
    }
}

/// Asks every node who it is, this one too.
async fn greetings(member: Option<&Member>) -> BTreeMap<NodeId, Result<Greeting, String>> {
    let Some(member) = member else { return BTreeMap::new() };
    let nodes: Vec<(NodeId, SocketAddr)> =
        member.store().state().nodes.values().map(|node| (node.id, node.advertise)).collect();
    let greet = async |node, address| {
        let greeting = clock::greet(member, address, GREETING).await;
        (node, greeting.map_err(|error| error.to_string()))
    };
    let asked = nodes.into_iter().map(|(node, address)| greet(node, address));
    futures::future::join_all(asked).await.into_iter().collect()
}

/// Tries what size of packet gets through to the other nodes, from this node's data address.
async fn paths(member: Option<&Member>, vtep: Option<IpAddr>) -> (Sizes, Result<Sizes, String>) {
    let (Some(member), Some(vtep)) = (member, vtep) else { return (Sizes::new(), Ok(Sizes::new())) };
    let mtu = member.reconciler.status().borrow().facts.underlay_mtu;
    let asked = with_place(member, |place| doctor::path_sizes(place, mtu));
    let sizes = asked.clone();
    let answered = blocking(move || kernel::answered(vtep, &sizes).map_err(|error| error.to_string())).await;
    (asked, answered)
}

fn findings(daemon: &Daemon, place: Option<&Place<'_>>, seen: &Seen) -> Vec<Finding> {
    let mut found = vec![doctor::cluster(place)];
    found.extend(place.map(|place| doctor::quorum(place, seen.silence.as_deref())));
    found.extend(of_engine(daemon, place, seen));
    found.extend(match &seen.trials {
        Ok(trials) => doctor::kernel(&kernel::release(), trials),
        Err(why) => vec![Finding::failure(Check::Kernel, format!("the kernel could not be tried out: {why}"), LOG)],
    });
    found.push(of_peer_port(daemon, place, seen));
    match &seen.host {
        Ok(host) => found.extend(of_host(daemon, place, seen, host)),
        Err(why) => {
            let evidence =
                format!("this host could not be looked at, so ports, MTU, forwarding and routes are not: {why}");
            found.push(Finding::failure(Check::Kernel, evidence, LOG));
        }
    }
    if let Some(place) = place {
        found.extend(doctor::peers(place, &seen.greetings));
        found.extend(doctor::paths(place, &seen.paths.0, &seen.paths.1, &seen.greetings));
        found.extend(doctor::clock(place, &seen.greetings));
        found.retain(|finding| place.concerns(finding.check));
    }
    // As the checks are numbered, whatever order they were made in.
    found.sort_by_key(|finding| finding.check as u8);
    found
}

/// What to do when a look failed.
const LOG: &str = "the log of pontoond says more";

fn of_engine(daemon: &Daemon, place: Option<&Place<'_>>, seen: &Seen) -> Vec<Finding> {
    let (Some(docker), Some((engine, plugin))) = (&daemon.config.docker, &seen.engine) else {
        return vec![doctor::engine("", None, false)];
    };
    let used = has_engine_networks(place);
    let mut found = vec![doctor::engine(&docker.socket.display().to_string(), Some(engine), used)];
    if engine.is_here(used) {
        let cluster = place.map(|place| (place.state, place.me));
        let tasks = daemon.tasks.reports();
        let trouble = tasks.iter().find(|task| task.name == "docker").and_then(|task| task.last_error.as_deref());
        found.push(doctor::driver(plugin, engine, cluster, trouble));
    }
    found
}

/// Whether the cluster knows networks that this host's engine has.
fn has_engine_networks(place: Option<&Place<'_>>) -> bool {
    place.is_some_and(|place| place.state.engine_networks.keys().any(|(_, node)| *node == place.me))
}

fn of_peer_port(daemon: &Daemon, place: Option<&Place<'_>>, seen: &Seen) -> Finding {
    let greeting = place.and_then(|place| {
        let node = place.state.nodes.get(&place.me)?;
        Some((seen.greetings.get(&place.me)?, host::require_local(node.advertise.ip()).is_ok()))
    });
    peer_port(daemon.config.listen, place, greeting)
}

fn of_host(daemon: &Daemon, place: Option<&Place<'_>>, seen: &Seen, host: &HostLook) -> Vec<Finding> {
    let cluster = place.and_then(|place| place.state.cluster.as_ref());
    let port = cluster.map_or(daemon.config.vxlan_port, |cluster| cluster.vxlan_port);
    let underlay = cluster.map_or(Family::V4, |cluster| cluster.underlay);
    let docker = seen.engine.as_ref().is_some_and(|(engine, _)| engine.is_here(has_engine_networks(place)));
    let mut found = vxlan_port(port, underlay, place.map(|place| place.state), &host.holders, &host.devices);
    found.extend(doctor::forwarding(host, &daemon.config.gateway_bridge, docker, place));
    if let Some(place) = place {
        found.extend(doctor::mtu(place, &host.facts));
        found.extend(doctor::routes(place, &host.facts));
    }
    found
}
