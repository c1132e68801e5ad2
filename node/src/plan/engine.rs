//! What a container engine should have of the cluster's networks, and what the cluster should know of the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use pontoon_store::model::command::Command;
use pontoon_store::model::id::{ClusterId, EndpointId, NetworkId, NodeId};
use pontoon_store::model::object::{
    Endpoint, EngineContainer, EngineNetwork, Labels, Lease, LeaseState, Network, PastHolder, Subnet,
};
use pontoon_store::model::state::State;

use super::egress;
use super::observed::HostFacts;

mod cut_off;
mod leaving;
mod waiting;

#[cfg(test)]
mod tests;

pub use leaving::{leaving, left_behind};
pub use waiting::{GivenUp, Waiting, is_given_up};

/// A network of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenNetwork {
    /// The engine's id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Whether our driver has it.
    pub ours: bool,
    /// The network of a cluster that it was made for, as its options say.
    pub made_for: Option<NetworkId>,
    /// That cluster.
    pub cluster: Option<ClusterId>,
    /// Labels.
    pub labels: Labels,
}

impl SeenNetwork {
    /// Whether it was made for this network of this cluster. Another cluster, such as one that this node was in before, can
    /// have a network of the same id and name.
    pub fn is_for(&self, state: &State, network: NetworkId) -> bool {
        let here = state.cluster.as_ref().map(|cluster| cluster.id);
        self.ours && self.made_for == Some(network) && self.cluster.is_some() && self.cluster == here
    }
}

/// A container of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenContainer {
    /// The engine's id.
    pub id: String,
    /// Name.
    pub name: String,
    /// It does not run, and nothing is under way that would change that.
    pub stopped: bool,
    /// The networks that it is on, running or not.
    pub attachments: Vec<SeenAttachment>,
    /// Ports that are published for it.
    pub ports: Vec<String>,
}

/// A container's place on a network of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenAttachment {
    /// The engine's id of the network.
    pub network: String,
    /// Its name, which the container keeps when the network is gone.
    pub name: String,
    /// The engine's id of the endpoint; empty while the container does not run.
    pub endpoint: String,
    /// Other names of the container on it.
    pub aliases: Vec<String>,
    /// Its user has given it an address there by number.
    pub fixed: bool,
}

/// What an engine has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Networks.
    pub networks: Vec<SeenNetwork>,
    /// Containers.
    pub containers: Vec<SeenContainer>,
    /// Ids of networks of the cluster that it has or had, of which containers may still speak.
    pub past: BTreeSet<String>,
    /// The engine's ids of endpoints whose other names it has not told: they are to be asked for again.
    pub unasked: BTreeSet<String>,
}

impl Seen {
    /// The same, seen after that, when the cluster knows its networks by these ids: an id that it knew is remembered for as
    /// long as a container speaks of it.
    pub fn after(mut self, before: &Self, known: BTreeSet<String>) -> Self {
        let attachments = self.containers.iter().flat_map(|container| &container.attachments);
        let spoken: BTreeSet<&str> = attachments.map(|attachment| attachment.network.as_str()).collect();
        self.past = before.past.iter().filter(|id| spoken.contains(id.as_str())).cloned().chain(known).collect();
        self
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Tells the cluster the name of a network that the engine has made.
    Name {
        /// Network.
        network: NetworkId,
        /// The engine's id.
        id: String,
        /// Name.
        name: String,
        /// Labels.
        labels: Labels,
    },
    /// Makes a network of the cluster in the engine.
    Create(Network),
    /// Removes a network from the engine that the cluster does not have.
    Remove {
        /// The engine's id.
        id: String,
        /// Name.
        name: String,
        /// The cluster that it was made for.
        cluster: Option<ClusterId>,
    },
    /// Puts a container that does not run on a network again: the one that it is on was removed, and this one made for it.
    Reconnect {
        /// Name of the network.
        name: String,
        /// The engine's id of the container.
        container_id: String,
        /// Name of the container.
        container: String,
    },
    /// Tells the cluster how the engine has a network.
    Report(EngineNetwork),
    /// Tells the cluster where an endpoint's interface is and what its container is called.
    Place {
        /// Endpoint.
        endpoint: Box<Endpoint>,
        /// Name of the container.
        name: String,
        /// The engine's id of the container.
        container_id: String,
        /// Other names.
        aliases: Vec<String>,
        /// Ports that are published for it.
        ports: Vec<String>,
    },
    /// Ends what waits for a container: the container is gone, runs on another endpoint, or more of them have stopped since
    /// than a node may keep addresses for.
    Forget {
        /// Endpoint.
        endpoint: EndpointId,
        /// Its epoch.
        epoch: u64,
        /// Name of the container.
        name: String,
    },
}

/// Something of the cluster that the engine does not know. It may be about to: only what stays unknown is ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stray {
    /// A network that the engine made and has not finished.
    Network(NetworkId),
    /// A network that the engine had. It lists one no more that its user removes, before it says so; only one that it says
    /// nothing about is lost, and made there again.
    Lost(NetworkId),
    /// An endpoint, with its epoch and the engine's id of it: without a majority it can be taken into use again as another
    /// one of the engine, and has its epoch still.
    Endpoint(EndpointId, u64, String),
    /// An address that is held, with the epoch of its lease.
    Address(NetworkId, IpAddr, u64),
}

/// What should be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnginePlan {
    /// Steps, in order.
    pub steps: Vec<Step>,
    /// What the engine does not know.
    pub strays: BTreeSet<Stray>,
    /// What is in the way and is not ours to change.
    pub problems: Vec<String>,
}

impl Step {
    fn remove(net: &SeenNetwork) -> Self {
        Self::Remove { id: net.id.clone(), name: net.name.clone(), cluster: net.cluster }
    }

    /// Whether networks of the engine may come or go by it.
    pub fn changes_networks(&self) -> bool {
        // One that the engine has made goes again when it cannot have its name.
        matches!(self, Self::Name { .. } | Self::Create(_) | Self::Remove { .. })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { name, .. } => write!(f, "tell the cluster that the engine has made network {name}"),
            Self::Create(network) => write!(f, "make network {} in the engine", network.name),
            Self::Remove { name, cluster: None, .. } => write!(f, "remove network {name} from the engine"),
            Self::Remove { name, cluster: Some(cluster), .. } => {
                write!(f, "remove network {name} from the engine, which was made for cluster {cluster}")
            }
            Self::Reconnect { name, container, .. } => write!(f, "put container {container} on network {name} again"),
            Self::Report(known) => write!(f, "tell the cluster who is on network {} here", known.network),
            Self::Place { name, .. } => write!(f, "tell the cluster where container {name} is"),
            Self::Forget { name, .. } => write!(f, "give up what was kept for container {name}"),
        }
    }
}

/// Tells the cluster that a node's engine has a network no more.
pub fn gone(network: NetworkId, node: NodeId) -> Command {
    Command::ReportEngineNetwork(EngineNetwork { network, node, id: String::new(), containers: Vec::new() })
}

/// What node `me` should do, given what its engine has.
pub fn plan(state: &State, me: NodeId, seen: &Seen) -> EnginePlan {
    let mut plan = EnginePlan::default();
    let networks = state.networks.values();
    let here = networks.filter_map(|network| Some((network.id, counterpart(state, me, seen, network)?))).collect();
    let view = View { state, me, seen, here };
    for network in state.networks.values() {
        view.plan_network(&mut plan, network);
    }
    for net in seen.networks.iter().filter(|net| view.is_orphan(net)) {
        view.plan_orphan(&mut plan, net);
    }
    view.plan_cut_off(&mut plan);
    plan_endpoints(&mut plan, state, me, seen);
    plan.steps.extend(view.forgotten());
    let held = state.leases.values().filter(|lease| lease.held_for() == Some(me));
    plan.strays.extend(held.map(|lease| Stray::Address(lease.network, lease.address, lease.epoch)));
    plan
}

/// The network of the engine that is this one of the cluster: the one that the cluster knows, or one that was made for it.
/// One of another name is none: a user can make a network for whichever id.
fn counterpart<'a>(state: &State, me: NodeId, seen: &'a Seen, network: &Network) -> Option<&'a SeenNetwork> {
    let known = state.engine_networks.get(&(network.id, me));
    let own = || seen.networks.iter().filter(|net| net.ours);
    let mut known = own().filter(|net| known.is_some_and(|known| known.id == net.id));
    if network.provisional {
        return known.next();
    }
    known.chain(own().filter(|net| net.is_for(state, network.id))).find(|net| net.name == network.name)
}

/// The cluster and an engine, side by side.
struct View<'a> {
    state: &'a State,
    me: NodeId,
    seen: &'a Seen,
    /// The engine's networks that are the cluster's.
    here: BTreeMap<NetworkId, &'a SeenNetwork>,
}

impl View<'_> {
    fn plan_network(&self, plan: &mut EnginePlan, network: &Network) {
        let here = self.here.get(&network.id);
        if network.provisional {
            match here {
                Some(here) => plan.steps.push(Step::Name {
                    network: network.id,
                    id: here.id.clone(),
                    name: here.name.clone(),
                    labels: here.labels.clone(),
                }),
                None if network.engine == Some(self.me) => {
                    plan.strays.insert(Stray::Network(network.id));
                }
                None => {}
            }
            return;
        }
        let known = self.state.engine_networks.get(&(network.id, self.me));
        match here {
            Some(here) => {
                let (id, containers) = (here.id.clone(), containers_on(self.seen, here));
                let now = EngineNetwork { network: network.id, node: self.me, id, containers };
                if known != Some(&now) {
                    plan.steps.push(Step::Report(now));
                }
            }
            None if known.is_some() => drop(plan.strays.insert(Stray::Lost(network.id))),
            None => self.plan_missing(plan, network),
        }
    }

    /// A network that the engine does not have.
    fn plan_missing(&self, plan: &mut EnginePlan, network: &Network) {
        let in_the_way = || self.seen.networks.iter().filter(|net| net.name == network.name);
        if in_the_way().any(|net| !net.ours) {
            plan.problems.push(format!(
                "the engine has a network {} of its own, so it cannot have the cluster's: remove or rename one of them",
                network.name
            ));
        } else if in_the_way().all(|net| self.can_go(net)) {
            plan.steps.push(Step::Create(network.clone()));
        }
        // Otherwise it waits: the one in the way loses its name or is given up in this pass, or has containers.
    }

    /// Whether a network is of ours and none of the cluster's.
    fn is_orphan(&self, net: &SeenNetwork) -> bool {
        net.ours && self.here.values().all(|here| here.id != net.id)
    }

    /// Whether a network is removed in this round: an orphan that nobody is on, and that the cluster does not take for one of
    /// its own.
    fn can_go(&self, net: &SeenNetwork) -> bool {
        let known = self.state.network_of_engine(self.me, &net.id);
        self.is_orphan(net) && known.is_none() && containers_on(self.seen, net).is_empty()
    }

    /// A network of ours in the engine that is none of the cluster's, and not about to be.
    fn plan_orphan(&self, plan: &mut EnginePlan, net: &SeenNetwork) {
        if self.can_go(net) {
            // First: another network may have its name.
            plan.steps.insert(0, Step::remove(net));
            return;
        }
        let names = names_on(self.seen, net);
        if !names.is_empty() {
            let here = self.state.cluster.as_ref().map(|cluster| cluster.id);
            let whose = match net.cluster.filter(|cluster| Some(*cluster) != here) {
                Some(other) => format!("was made for another cluster ({other})"),
                None => "is none of the cluster's (any more)".to_owned(),
            };
            plan.problems.push(format!(
                "network {} in the engine {whose}, and stays because of {}: remove the containers or put them on another \
                 network, and then docker network rm {0}",
                net.name,
                names.join(", ")
            ));
        }
    }
}

fn containers_on(seen: &Seen, net: &SeenNetwork) -> Vec<EngineContainer> {
    let on_it = |c: &&SeenContainer| c.attachments.iter().any(|attachment| attachment.network == net.id);
    let fixed =
        |c: &SeenContainer| c.attachments.iter().any(|attachment| attachment.network == net.id && attachment.fixed);
    let container = |c: &SeenContainer| EngineContainer { id: c.id.clone(), name: c.name.clone(), fixed: fixed(c) };
    let mut containers: Vec<EngineContainer> = seen.containers.iter().filter(on_it).map(container).collect();
    containers.sort();
    containers
}

fn names_on(seen: &Seen, net: &SeenNetwork) -> Vec<String> {
    containers_on(seen, net).into_iter().map(|container| container.name).collect()
}

fn plan_endpoints(plan: &mut EnginePlan, state: &State, me: NodeId, seen: &Seen) {
    let mut attachments = BTreeMap::new();
    for container in &seen.containers {
        for attachment in container.attachments.iter().filter(|attachment| !attachment.endpoint.is_empty()) {
            attachments.insert(attachment.endpoint.as_str(), (container, attachment));
        }
    }
    let up = |endpoint: &&Endpoint| endpoint.is_up() && !endpoint.engine_id.is_empty();
    for endpoint in state.endpoints_of_node(me).filter(up) {
        let Some((container, attachment)) = attachments.get(endpoint.engine_id.as_str()) else {
            plan.strays.insert(Stray::Endpoint(endpoint.id, endpoint.epoch, endpoint.engine_id.clone()));
            continue;
        };
        let name = match attached_as(state, endpoint, &container.name) {
            None => container.name.clone(),
            Some(network) => {
                plan.problems.push(format!(
                    "container {} of the engine has the name of one that pontoon attach put on network {network} of this \
                     host, and is listed as {}: rename one of them",
                    container.name,
                    Endpoint::short_id(&endpoint.engine_id),
                ));
                Endpoint::short_id(&endpoint.engine_id)
            }
        };
        let placed = endpoint.is_placed()
            && endpoint.name == name
            && endpoint.container_id == container.id
            && endpoint.aliases == attachment.aliases
            && endpoint.ports == container.ports;
        if !placed {
            plan.steps.push(Step::Place {
                endpoint: Box::new(endpoint.clone()),
                name,
                container_id: container.id.clone(),
                aliases: attachment.aliases.clone(),
                ports: container.ports.clone(),
            });
        }
    }
}

/// The network on which something that no engine has made has a container's name on the same node.
fn attached_as<'a>(state: &'a State, endpoint: &Endpoint, name: &str) -> Option<&'a str> {
    let other = state.endpoint_named(endpoint.network, endpoint.node, name)?;
    let network = state.networks.get(&endpoint.network)?;
    other.engine_id.is_empty().then_some(network.name.as_str())
}

/// The container that most likely starts on a network when no endpoint waits for one and nothing else is known of it: of
/// those that the engine has and that do not run, the one that stopped last.
pub fn likeliest(state: &State, me: NodeId, network: NetworkId) -> Option<String> {
    let known = state.engine_networks.get(&(network, me))?;
    let runs = |name: &str| state.endpoint_named(network, me, name).is_some();
    let stopped: BTreeSet<&str> =
        known.containers.iter().map(|container| container.name.as_str()).filter(|name| !runs(name)).collect();
    let released = |lease: &&Lease| matches!(lease.state, LeaseState::Cooling { .. }) && lease.node == Some(me);
    let last = state.leases_of_network(network).filter(released).filter(|lease| stopped.contains(lease.name.as_str()));
    let when = |lease: &&Lease| lease.previous.first().map_or(0, |PastHolder { to_ms, .. }| *to_ms);
    last.max_by_key(when).map(|lease| lease.name.clone())
}

/// The subnet for the bridge that engines put containers of an overlay on for their way out: one that meets no route of the
/// host and no network.
pub fn gateway_subnet(state: &State, facts: &HostFacts) -> Option<IpNet> {
    let taken = state.networks.values().flat_map(|network| network.subnets.iter().map(|subnet: &Subnet| subnet.cidr));
    let taken: Vec<IpNet> = taken.chain(state.claims.keys().copied()).collect();
    egress::choose(&HostFacts { gateway_subnets: Default::default(), ..facts.clone() }, &[], &taken)
}
