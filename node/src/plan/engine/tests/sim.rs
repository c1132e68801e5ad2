//! An engine in memory, the driver that it calls, and the cluster's state: what they do to each other.

mod again;
mod check;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pontoon_store::model::command::{Command, PlaceEndpoint, RebindEndpoint};
use pontoon_store::model::id::{ClusterId, NetworkId};
use pontoon_store::model::object::{Family, Labels, Sandbox};
use pontoon_store::model::rejection::Reason;

use super::{CLUSTER, World, container};
use crate::plan::engine::{
    Seen, SeenAttachment, SeenContainer, SeenNetwork, Step, Stray, Waiting, gone, likeliest, plan,
};

/// How many times the loop looks again at what it has brought about, in one pass.
const ROUNDS: usize = 4;

/// A network of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Net {
    id: String,
    name: String,
    /// The cluster's network that our driver has made of it, and whether it was made for one that was there before.
    ours: Option<(NetworkId, bool)>,
    /// It was another cluster's.
    left: bool,
}

/// A container's place on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Name of the network.
    network: String,
    /// The engine's id of the network, once the container has run on it.
    network_id: Option<String>,
    /// The engine's id of the endpoint and the interface's name, while the container runs.
    running: Option<(String, String)>,
    aliases: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Container {
    id: String,
    name: String,
    places: Vec<Place>,
    /// How many times it was started.
    starts: u32,
    runs: bool,
}

/// All of it.
pub(super) struct Sim {
    world: World,
    networks: Vec<Net>,
    containers: Vec<Container>,
    /// Whether the driver answers.
    pub(super) listens: bool,
    count: u64,
    /// Ids of networks that the loop has known to be the cluster's.
    past: BTreeSet<String>,
    /// Containers that the loop has put on a network again, and its name.
    reconnected: BTreeSet<(String, String)>,
}

impl Sim {
    pub(super) fn new() -> Self {
        let (networks, containers, past, reconnected) = Default::default();
        Self { world: World::new(), networks, containers, listens: true, count: 0, past, reconnected }
    }

    fn id(&mut self) -> String {
        self.count += 1;
        format!("{:012x}{:052}", self.count, 0)
    }

    fn named(&self, name: &str) -> Option<&Net> {
        self.networks.iter().find(|net| net.name == name)
    }

    /// The network that a container means.
    fn meant(&self, place: &Place) -> Option<&Net> {
        match &place.network_id {
            None => self.named(&place.network),
            Some(id) => self.networks.iter().find(|net| net.id == *id),
        }
    }

    fn users<'a>(&'a self, net: &'a Net) -> impl Iterator<Item = (&'a Container, &'a Place)> {
        let places = self.containers.iter().flat_map(|c| c.places.iter().map(move |place| (c, place)));
        places.filter(|(_, place)| self.meant(place).is_some_and(|meant| meant.id == net.id))
    }

    // What administrators do.

    /// `pontoon network create NAME`.
    pub(super) fn cluster_makes(&mut self, name: &str) {
        if self.world.state.network_named(name).is_none() {
            self.world.network(name);
        }
    }

    /// `pontoon network rm`.
    pub(super) fn cluster_removes(&mut self, at: usize) {
        if let Some(network) = pick(&self.world.state.networks.keys().copied().collect::<Vec<_>>(), at) {
            let _ = self.world.apply(Command::RemoveNetwork { network });
        }
    }

    /// `docker network create -d pontoon --ipam-driver pontoon NAME`, on the other node.
    pub(super) fn other_makes(&mut self, name: &str) {
        let id = self.id();
        let Ok(made) = self.world.made(self.world.other, &id) else { return };
        let named = Command::NameNetwork { network: made.id, name: name.to_owned(), labels: Labels::default() };
        if self.world.apply(named).is_err() {
            self.world.ok(Command::RemoveNetwork { network: made.id });
        }
    }

    /// The same, on this node: the name is told by the plan.
    pub(super) fn makes(&mut self, name: &str) {
        let id = self.id();
        if self.named(name).is_some() || !self.listens {
            return;
        }
        let made = self.world.made(self.world.me, &id).expect("there are subnets enough").id;
        self.networks.push(Net { id, name: name.to_owned(), ours: Some((made, false)), left: false });
    }

    /// `docker network create -d pontoon --ipam-driver pontoon -o pontoon.network=ID NAME`, or with the daemon dead after
    /// the subnet was claimed: a network that the engine gives up.
    pub(super) fn makes_for(&mut self, at: usize, name: &str) {
        let (id, known) = (self.id(), self.world.state.networks.values().filter(|net| !net.provisional));
        let Some(network) = pick(&known.cloned().collect::<Vec<_>>(), at) else {
            let _ = self.world.made(self.world.me, &id);
            return;
        };
        if self.named(name).is_none() && self.listens {
            self.world.reported(self.world.me, &network, &id, &[]);
            self.networks.push(Net { id, name: name.to_owned(), ours: Some((network.id, true)), left: false });
        }
    }

    /// `docker network create NAME`.
    pub(super) fn makes_foreign(&mut self, name: &str) {
        let id = self.id();
        if self.named(name).is_none() {
            self.networks.push(Net { id, name: name.to_owned(), ours: None, left: false });
        }
    }

    /// `docker network rm`.
    pub(super) fn removes_network(&mut self, at: usize) {
        if let Some(net) = pick(&self.networks, at) {
            let _ = self.remove(&net.id);
        }
    }

    /// `docker network prune`.
    pub(super) fn prunes(&mut self) {
        let ids: Vec<String> = self.networks.iter().map(|net| net.id.clone()).collect();
        ids.iter().for_each(|id| drop(self.remove(id)));
    }

    /// `docker create --name NAME --net NET`.
    pub(super) fn creates(&mut self, name: &str, network: &str) {
        let id = self.id();
        if self.containers.iter().all(|container| container.name != name) && self.named(network).is_some() {
            let place = Place::on(network, Vec::new());
            let name = name.to_owned();
            self.containers.push(Container { id, name, places: vec![place], starts: 0, runs: false });
        }
    }

    /// `docker start NAME`.
    pub(super) fn starts_named(&mut self, name: &str) {
        if let Some(at) = self.containers.iter().position(|container| container.name == name) {
            self.starts(at);
        }
    }

    /// `docker start`: on all its networks, or it does not run.
    pub(super) fn starts(&mut self, at: usize) {
        let Some(mut started) = pick(&self.containers, at).filter(|container| !container.runs) else { return };
        let before = started.clone();
        (started.runs, started.starts) = (true, started.starts + 1);
        for place in 0..started.places.len() {
            if self.joins(&mut started, place).is_none() {
                self.leaves(&started.places);
                started = before;
                break;
            }
        }
        self.put(started);
    }

    /// `docker stop`, and what it does when the daemon is dead.
    pub(super) fn stops(&mut self, at: usize) {
        let Some(mut stopped) = pick(&self.containers, at) else { return };
        self.leaves(&stopped.places);
        stopped.places.iter_mut().for_each(|place| place.running = None);
        stopped.runs = false;
        self.put(stopped);
    }

    /// `docker rm -f`.
    pub(super) fn removes(&mut self, at: usize) {
        self.stops(at);
        if let Some(gone) = pick(&self.containers, at) {
            self.containers.retain(|container| container.id != gone.id);
        }
    }

    /// `docker rename A tmp; docker rename B A; docker rename tmp B`.
    pub(super) fn swaps_names(&mut self, at: usize, with: usize) {
        if let (Some(mut a), Some(mut b)) = (pick(&self.containers, at), pick(&self.containers, with))
            && a.id != b.id
        {
            std::mem::swap(&mut a.name, &mut b.name);
            self.put(a);
            self.put(b);
        }
    }

    /// `docker network connect --alias ALIAS`.
    pub(super) fn connects(&mut self, at: usize, network: &str, alias: &str) {
        let Some(mut container) = pick(&self.containers, at) else { return };
        let Some(net) = self.named(network).cloned() else { return };
        if self.users(&net).any(|(user, _)| user.id == container.id) {
            return;
        }
        container.places.retain(|place| place.network != network);
        container.places.push(Place::on(network, vec![alias.to_owned()]));
        let last = container.places.len() - 1;
        if !container.runs || self.joins(&mut container, last).is_some() {
            self.put(container);
        }
    }

    /// `docker network disconnect`.
    pub(super) fn disconnects(&mut self, at: usize, place: usize) {
        let Some(mut container) = pick(&self.containers, at) else { return };
        let Some(gone) = pick(&container.places, place) else { return };
        self.leaves(std::slice::from_ref(&gone));
        container.places.retain(|place| *place != gone);
        self.put(container);
    }

    /// The engine begins anew and tells nobody.
    pub(super) fn resets(&mut self) {
        self.networks.clear();
        self.containers.clear();
    }

    /// The engine asks for an address, perhaps makes the endpoint, and dies.
    pub(super) fn dies_starting(&mut self, at: usize, made: bool) {
        let id = self.id();
        let Some(net) = pick(&self.networks, at).filter(|_| self.listens) else { return };
        let Some((network, _)) = net.ours else { return };
        if let Ok(lease) = self.world.hold(self.world.me, network, None, "")
            && made
        {
            self.world.endpoint(self.world.me, network, lease.address, &id).expect("the address is held");
        }
    }

    // What the engine does.

    fn put(&mut self, container: Container) {
        if let Some(old) = self.containers.iter_mut().find(|old| old.id == container.id) {
            *old = container;
        }
    }

    /// Puts a container on one of its networks.
    fn joins(&mut self, container: &mut Container, at: usize) -> Option<()> {
        let net = self.meant(&container.places[at])?.clone();
        let endpoint = self.id();
        if let Some((network, _)) = net.ours {
            self.endpoint(&net, network, &endpoint)?;
        }
        let used: Vec<&str> =
            container.places.iter().filter_map(|place| place.running.as_ref()).map(|(_, name)| name.as_str()).collect();
        let ifname = (0..).map(|n| format!("eth{n}")).find(|name| !used.contains(&name.as_str()))?;
        let place = &mut container.places[at];
        (place.network_id, place.running) = (Some(net.id), Some((endpoint, ifname)));
        Some(())
    }

    /// `RequestAddress` and `CreateEndpoint`.
    fn endpoint(&mut self, net: &Net, network: NetworkId, endpoint: &str) -> Option<()> {
        let me = self.world.me;
        if !self.listens {
            return None;
        }
        let none = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        let waiting = Waiting { state: &self.world.state, me, ended: &none.0, given_up: &none.1, handed: &none.2 };
        if let Some(had) = waiting.likeliest(network, Family::V4).cloned() {
            let engine_id = endpoint.to_owned();
            let rebound = RebindEndpoint { endpoint: had.id, epoch: had.epoch, engine_id, mac: None };
            self.world.ok(Command::RebindEndpoint(rebound));
            return Some(());
        }
        let name = likeliest(&self.world.state, me, network).unwrap_or_default();
        let lease = self.world.hold(me, network, None, &name).ok()?;
        let known = self.world.state.network_of_engine(me, &net.id).is_some_and(|known| known.id == network);
        if known && self.world.endpoint(me, network, lease.address, endpoint).is_ok() {
            return Some(());
        }
        let address: IpAddr = lease.address;
        self.world.ok(Command::ReleaseAddress { network, address, epoch: lease.epoch });
        None
    }

    /// `Leave` and `DeleteEndpoint`.
    fn leaves(&mut self, places: &[Place]) {
        let ids = places.iter().filter_map(|place| place.running.as_ref()).map(|(id, _)| id);
        let ids: Vec<&String> = ids.filter(|_| self.listens).collect();
        for id in ids {
            if let Some(ended) = self.world.state.endpoint_of_engine(self.world.me, id).cloned() {
                self.world.stops(&ended);
            }
        }
    }

    /// Removes a network, unless a container runs on it, and tells the driver.
    fn remove(&mut self, id: &str) -> Result<(), String> {
        let Some(net) = self.networks.iter().find(|net| net.id == id).cloned() else { return Ok(()) };
        if self.users(&net).any(|(_, place)| place.running.is_some()) {
            return Err(format!("network {} has active endpoints", net.name));
        }
        self.networks.retain(|other| other.id != net.id);
        let me = self.world.me;
        let Some(known) = self.world.state.network_of_engine(me, id).filter(|_| self.listens).cloned() else {
            return Ok(());
        };
        if known.engine.is_some() {
            match self.world.apply(Command::RemoveNetwork { network: known.id }) {
                Err(refused) if refused.reason == Reason::NetworkInUse => {}
                removed => return removed.map(drop).map_err(|refused| refused.message),
            }
        }
        self.world.reported(me, &known, "", &[]);
        Ok(())
    }

    fn observe(&self) -> Seen {
        let network = |net: &Net| SeenNetwork {
            id: net.id.clone(),
            name: net.name.clone(),
            ours: net.ours.is_some(),
            made_for: net.ours.filter(|(_, made_for)| *made_for).map(|(network, _)| network),
            cluster: net.ours.map(|_| if net.left { ClusterId(8) } else { CLUSTER }),
            labels: Labels::default(),
        };
        let attachment = |place: &Place| SeenAttachment {
            network: place.network_id.clone().or_else(|| Some(self.meant(place)?.id.clone())).unwrap_or_default(),
            name: place.network.clone(),
            endpoint: place.running.as_ref().map(|(id, _)| id.clone()).unwrap_or_default(),
            aliases: place.aliases.clone(),
            fixed: false,
        };
        let seen = |c: &Container| SeenContainer {
            id: c.id.clone(),
            stopped: !c.runs,
            attachments: c.places.iter().map(attachment).collect(),
            ..container(&c.name, &[])
        };
        Seen {
            networks: self.networks.iter().map(network).collect(),
            containers: self.containers.iter().map(seen).collect(),
            past: self.past.clone(),
            ..Seen::default()
        }
    }

    // What the loop does.

    fn execute(&mut self, step: &Step) -> Result<(), String> {
        let me = self.world.me;
        match step.clone() {
            Step::Name { network, id, name, labels } => {
                match self.world.apply(Command::NameNetwork { network, name, labels }) {
                    Err(refused) if refused.reason == Reason::NetworkNameTaken => self.remove_unused(&id),
                    named => named.map(drop).map_err(|refused| refused.message),
                }
            }
            Step::Create(network) => {
                let id = self.id();
                if let Some(there) = self.named(&network.name) {
                    return Err(format!("network with name {} already exists", there.name));
                }
                self.world.reported(me, &network, &id, &[]);
                self.networks.push(Net { id, name: network.name, ours: Some((network.id, true)), left: false });
                Ok(())
            }
            // The cluster may know it by now.
            Step::Remove { id, .. } if self.world.state.network_of_engine(me, &id).is_some() => Ok(()),
            Step::Remove { id, .. } => self.remove_unused(&id),
            Step::Reconnect { name, container_id, .. } => self.reconnect(&name, &container_id),
            Step::Report(known) => self.propose(Command::ReportEngineNetwork(known)),
            Step::Forget { endpoint, epoch, .. } => self.propose(Command::RemoveEndpoint { endpoint, epoch }),
            Step::Place { endpoint, name, container_id, aliases, ports } => {
                let runs = |c: &&Container| c.id == container_id;
                let container = self.containers.iter().find(runs).expect("a container of the engine").clone();
                let running = container.places.iter().filter_map(|place| place.running.as_ref());
                let (_, ifname) = running.clone().find(|(id, _)| *id == endpoint.engine_id).expect("it runs").clone();
                let key = format!("{container_id}-{}", container.starts);
                let sandbox = Sandbox { netns: format!("/run/docker/netns/{key}"), key };
                let placed = PlaceEndpoint {
                    endpoint: endpoint.id,
                    epoch: endpoint.epoch,
                    name,
                    container_id,
                    aliases,
                    sandbox,
                    ifname,
                    ports,
                };
                self.propose(Command::PlaceEndpoint(placed))
            }
        }
    }

    fn propose(&mut self, command: Command) -> Result<(), String> {
        self.world.apply(command).map(drop).map_err(|refused| format!("{}: {}", refused.reason, refused.message))
    }

    /// Removes a network on the plan's behalf: one of ours, that no container will miss.
    fn remove_unused(&mut self, id: &str) -> Result<(), String> {
        let net = self.networks.iter().find(|net| net.id == id).expect("a network of the engine");
        assert!(net.ours.is_some(), "{net:?} is not ours");
        // One that has never run looks for its network by name.
        let missed: Vec<_> = self.users(net).filter(|(_, place)| place.network_id.is_some()).collect();
        assert!(missed.is_empty(), "{net:?} is removed although {missed:?}");
        self.remove(id)
    }

    fn end(&mut self, stray: Stray) {
        match stray {
            Stray::Network(network) => drop(self.world.ok(Command::RemoveNetwork { network })),
            Stray::Lost(network) => drop(self.world.ok(gone(network, self.world.me))),
            Stray::Endpoint(endpoint, epoch, _) => {
                let ended = &self.world.state.endpoints[&endpoint];
                let runs = self.running().contains_key(ended.engine_id.as_str());
                assert!(!runs, "the endpoint of a running container is ended: {ended:?}");
                self.world.ok(Command::StopEndpoint { endpoint, epoch });
            }
            Stray::Address(network, address, epoch) => {
                self.world.ok(Command::ReleaseAddress { network, address, epoch });
            }
        }
    }

    /// Running containers on networks of ours, by endpoint.
    fn running(&self) -> BTreeMap<&str, (&Container, &Place)> {
        let ours = self.networks.iter().filter(|net| net.ours.is_some());
        let places = ours.flat_map(|net| self.users(net));
        places.filter_map(|(c, place)| Some((place.running.as_ref()?.0.as_str(), (c, place)))).collect()
    }

    /// Plans and carries out until nothing is left to do, all graces being over. Only what is ours changes, and then all is
    /// as it should be.
    pub(super) fn settle(&mut self) {
        self.listens = true;
        let foreign = |sim: &Self| sim.networks.iter().filter(|net| net.ours.is_none()).cloned().collect::<Vec<_>>();
        let (networks, containers) = (foreign(self), self.containers.clone());
        self.reconnected.clear();
        let mut done = Vec::new();
        for _ in 0..=ROUNDS {
            let known = self.world.state.engine_networks.values().filter(|known| known.node == self.world.me);
            self.past.extend(known.map(|known| known.id.clone()));
            let planned = plan(&self.world.state, self.world.me, &self.observe());
            if planned.steps.is_empty() && planned.strays.is_empty() {
                assert_eq!(foreign(self), networks, "a network that is not ours was touched");
                assert_eq!(self.containers, self.with_reconnected(containers));
                return self.check(&planned.problems);
            }
            for stray in planned.strays {
                self.end(stray);
            }
            for step in planned.steps {
                let result = self.execute(&step);
                done.push(format!("{step}: {result:?}"));
                assert_eq!(result, Ok(()), "after {done:#?}");
            }
        }
        panic!("there is something to do after {ROUNDS} rounds: {done:#?}");
    }
}

/// One of these, if there is any.
fn pick<T: Clone>(all: &[T], at: usize) -> Option<T> {
    (!all.is_empty()).then(|| all[at % all.len()].clone())
}
