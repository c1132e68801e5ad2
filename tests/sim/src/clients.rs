//! Those who use the cluster: they read and write registers, and attach and detach containers, on whichever daemon. What
//! they were answered is checked at once, or when the run is over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_store::model::command::{Command, CreateEndpoint, Outcome};
use pontoon_store::model::id::{EndpointId, NetworkId, NodeId};
use pontoon_store::model::object::{Endpoint, Sandbox};
use pontoon_store::model::state::State;
use pontoon_store::rt::sim::Chance;
use pontoon_store::rt::{Instant, now, sleep};
use pontoon_store::{ProposeError, Store};

use crate::bug::Bug;
use crate::daemon::{DEADLINE, Daemon};
use crate::linear::{self, Failure, Operation};
use crate::notes::Notes;

/// Registers: labels of the founder's node.
pub(crate) const REGISTERS: u64 = 4;
/// Most endpoints that the clients keep.
const ENDPOINTS: usize = 24;

/// What the clients know. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    pub(crate) daemons: Vec<Arc<Daemon>>,
    pub(crate) notes: Notes,
    bug: Option<Bug>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Counts calls and answers.
    moment: u64,
    /// Numbers what is written and attached.
    number: u64,
    histories: BTreeMap<u64, Vec<Operation>>,
    networks: Vec<NetworkId>,
    endpoints: BTreeMap<EndpointId, Attached>,
}

/// An endpoint whose making was acknowledged.
#[derive(Debug, Clone)]
struct Attached {
    endpoint: Endpoint,
    /// Somebody has asked to end it, with or without success.
    ending: bool,
}

impl Clients {
    pub(crate) fn new(daemons: Vec<Arc<Daemon>>, notes: Notes, bug: Option<Bug>) -> Self {
        Self { daemons, notes, bug, known: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One client, until a moment.
    pub(crate) async fn run(self, mut chance: Chance, end: Instant) {
        while now() < end && !self.notes.is_bad() {
            sleep(Duration::from_millis(1 + chance.below(60))).await;
            let daemon = Arc::clone(&self.daemons[chance.below(self.daemons.len() as u64) as usize]);
            match chance.below(10) {
                0..=3 => self.write(&daemon, chance.below(REGISTERS)).await,
                4..=6 => self.read(&daemon, chance.below(REGISTERS)).await,
                7..=8 => self.attach(&daemon, &mut chance).await,
                _ => self.detach(&mut chance).await,
            }
        }
    }

    fn moment(&self) -> u64 {
        let mut known = self.known();
        known.moment += 1;
        known.moment
    }

    fn number(&self) -> u64 {
        let mut known = self.known();
        known.number += 1;
        known.number
    }

    fn remember(&self, register: u64, operation: Operation) {
        self.known().histories.entry(register).or_default().push(operation);
    }

    fn founder(&self) -> NodeId {
        self.daemons[0].node().unwrap_or(NodeId(0))
    }

    async fn write(&self, daemon: &Daemon, register: u64) {
        let (number, called, founder) = (self.number(), self.moment(), self.founder());
        let set = BTreeMap::from([(label(register), number.to_string())]);
        let command = Command::LabelNode { node: founder, set, remove: Vec::new() };
        let written = daemon.on(|store| async move { store.propose(command, DEADLINE).await }).await;
        let answered = match &written {
            Some(Ok(_)) => Some(self.moment()),
            // It certainly was not done.
            Some(Err(ProposeError::NoQuorum { .. })) => return self.notes.count("writes that found no majority"),
            Some(Err(ProposeError::Rejected(rejection))) => {
                let message = format!("a label of the founder was refused: {}", rejection.message);
                return self.notes.violation(message);
            }
            Some(Err(_)) | None => None,
        };
        self.notes.count(if answered.is_some() { "writes" } else { "writes of unknown end" });
        let outcome = answered.map_or("unknown", |_| "done");
        self.notes.event(format!("write r{register}={number} on {}: {outcome}", daemon.number));
        self.remember(register, Operation { value: Some(number), writes: true, called, answered });
    }

    pub(crate) async fn read(&self, daemon: &Daemon, register: u64) {
        let (called, founder) = (self.moment(), self.founder());
        let stale = self.bug == Some(Bug::StaleRead);
        let look = move |store: Store| async move {
            let fresh = stale || store.read_barrier(DEADLINE).await.is_ok();
            fresh.then(|| register_in(&store.state(), founder, register))
        };
        let Some(Some(value)) = daemon.on(look).await else { return self.notes.count("reads that failed") };
        self.notes.count("reads");
        self.notes.event(format!("read r{register}={value:?} on {}", daemon.number));
        let answered = Some(self.moment());
        self.remember(register, Operation { value, writes: false, called, answered });
    }

    async fn attach(&self, daemon: &Daemon, chance: &mut Chance) {
        let Some(node) = daemon.node() else { return };
        let network = {
            let known = self.known();
            let up = known.endpoints.values().filter(|attached| !attached.ending).count();
            if up >= ENDPOINTS || known.networks.is_empty() {
                return;
            }
            known.networks[chance.below(known.networks.len() as u64) as usize]
        };
        let name = format!("c{}", self.number());
        let wanted = CreateEndpoint {
            network,
            node,
            name: name.clone(),
            container_id: String::new(),
            aliases: Vec::new(),
            mac: None,
            addresses: Vec::new(),
            sandbox: Sandbox { netns: format!("/run/netns/{name}"), key: name.clone() },
            ifname: None,
            engine_id: String::new(),
        };
        let command = Command::CreateEndpoint(wanted);
        let made = daemon.on(|store| async move { store.propose(command, DEADLINE).await }).await;
        let Some(Ok(Outcome::Endpoint(endpoint))) = made else { return self.notes.count("attaches without success") };
        self.notes.count("attaches");
        self.notes.event(format!("{name} has {:?} on {}", endpoint.addresses, daemon.number));
        if endpoint.name != name {
            self.notes.violation(format!("{name} was answered what {} was given", endpoint.name));
        }
        self.check_addresses(&endpoint);
        self.known().endpoints.insert(endpoint.id, Attached { endpoint, ending: false });
    }

    fn check_addresses(&self, endpoint: &Endpoint) {
        let has = |other: &Endpoint, address: &IpAddr| {
            other.network == endpoint.network && (other.addresses.contains(address) || other.mac == endpoint.mac)
        };
        let known = self.known();
        for address in &endpoint.addresses {
            let mut others = known.endpoints.values().filter(|attached| !attached.ending);
            if let Some(other) = others.find(|attached| has(&attached.endpoint, address)) {
                let (one, two) = (&other.endpoint.name, &endpoint.name);
                self.notes.violation(format!("{address} or its MAC was given to {one} and to {two}"));
            }
        }
    }

    async fn detach(&self, chance: &mut Chance) {
        let chosen = {
            let mut known = self.known();
            let mut up: Vec<&mut Attached> = known.endpoints.values_mut().filter(|attached| !attached.ending).collect();
            if up.is_empty() {
                return;
            }
            let at = chance.below(up.len() as u64) as usize;
            let daemon = self.daemons.iter().find(|daemon| daemon.node() == Some(up[at].endpoint.node)).cloned();
            let Some(daemon) = daemon.filter(|daemon| daemon.is_on()) else { return };
            up[at].ending = true;
            (daemon, up[at].endpoint.clone())
        };
        let (daemon, endpoint) = chosen;
        let command = Command::RemoveEndpoint { endpoint: endpoint.id, epoch: endpoint.epoch };
        let ended = daemon.on(|store| async move { store.propose(command, DEADLINE).await }).await;
        self.notes.count(if matches!(ended, Some(Ok(_))) { "detaches" } else { "detaches without success" });
    }

    /// The endpoints of a node may be gone from now on.
    pub(crate) fn give_up(&self, node: NodeId) {
        let mut known = self.known();
        known.endpoints.values_mut().filter(|attached| attached.endpoint.node == node).for_each(|it| it.ending = true);
    }

    /// A network, which is there from now on.
    pub(crate) fn add_network(&self, network: NetworkId) {
        self.known().networks.push(network);
    }

    /// Looks whether everything that was acknowledged is there.
    pub(crate) fn check_endpoints(&self, state: &State) {
        let known = self.known();
        for Attached { endpoint, .. } in known.endpoints.values().filter(|attached| !attached.ending) {
            let found = state.endpoints.get(&endpoint.id);
            if found.is_none_or(|found| found.addresses != endpoint.addresses || found.mac != endpoint.mac) {
                let (name, id) = (&endpoint.name, endpoint.id);
                self.notes.violation(format!("endpoint {id}, {name}, was acknowledged, and is not there"));
            }
        }
    }

    /// Looks whether what was read and written could have happened in some order.
    pub(crate) fn check_histories(&self) {
        for (register, history) in &self.known().histories {
            match linear::check(history) {
                Ok(()) => self.notes.count("histories"),
                Err(Failure::Impossible) => {
                    self.notes.violation(format!("the history of register {register} is not linearizable"));
                }
                Err(Failure::Unfinished) => self.notes.count("histories that take too long to check"),
            }
        }
    }
}

fn label(register: u64) -> String {
    format!("r{register}")
}

fn register_in(state: &State, founder: NodeId, register: u64) -> Option<u64> {
    state.nodes.get(&founder)?.labels.get(&label(register))?.parse().ok()
}
