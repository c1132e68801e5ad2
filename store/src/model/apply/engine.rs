//! What container engines ask for before they say what it is for, and what they have.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::command::{ClaimSubnet, HoldAddress, Outcome, PlaceEndpoint};
use crate::model::id::{NetworkId, NodeId};
use crate::model::name;
use crate::model::object::{
    Claim, Endpoint, EngineContainer, EngineNetwork, Family, Labels, Lease, LeaseState, Network, Subnet,
};
use crate::model::rejection::{Reason, Rejection};

use super::Changing;
use super::address::Asker;
use super::endpoint::{check_sandbox, check_texts};

/// Longest id of an engine's object, in bytes: engines use 64 hexadecimal digits.
const MAX_ENGINE_ID: usize = 128;
/// How many containers of one engine are kept of a network: a Linux bridge has 1024 ports (`BR_PORT_BITS` of
/// net/bridge/br_private.h), and as many again may not run.
const MAX_CONTAINERS: usize = 2048;
/// How many published ports are kept of a container.
const MAX_PORTS: usize = 256;
/// Longest text of a published port, in bytes: two addresses and ports, and a protocol.
const MAX_PORT: usize = 128;

impl Changing<'_> {
    pub(super) fn claim_subnet(&mut self, wanted: &ClaimSubnet) -> Result<Outcome, Rejection> {
        let node = self.working_node(wanted.node)?.id;
        let Subnet { cidr, ip_range, .. } = self.claimable(wanted)?;
        let now_ms = self.state.clock_ms;
        self.drop_claims(|claim| claim.until_ms <= now_ms);
        let claim = Claim { cidr, ip_range, node, until_ms: now_ms.saturating_add(Claim::LIFE_MS) };
        self.put_claim(claim);
        Ok(Outcome::Claim(claim))
    }

    pub(super) fn release_claim(&mut self, node: NodeId, cidr: IpNet) -> Outcome {
        self.drop_claims(|claim| claim.node == node && claim.cidr == cidr);
        Outcome::Done
    }

    pub(super) fn name_network(&mut self, id: NetworkId, name: &str, labels: &Labels) -> Result<Outcome, Rejection> {
        let network = self.network(id)?.clone();
        if !network.provisional && network.name == name {
            return Ok(Outcome::Network(network));
        }
        name::check("network", name, name::MAX_NAME)?;
        name::check_labels(&format!("network {name}"), labels)?;
        if !network.provisional {
            return Err(Rejection::new(
                Reason::InvalidName,
                format!("network {} cannot be renamed to {name}", network.name),
                "make another network",
            ));
        }
        if let Some(other) = self.state.network_named(name) {
            return Err(Rejection::new(
                Reason::NetworkNameTaken,
                format!("there is a network {name} already: id {}", other.id),
                "use another name, or remove that network",
            ));
        }
        let network = Network { name: name.to_owned(), labels: labels.clone(), provisional: false, ..network };
        self.put_network(network.clone());
        Ok(Outcome::Network(network))
    }

    pub(super) fn report_engine_network(&mut self, known: &EngineNetwork) -> Result<Outcome, Rejection> {
        let (network, node) = (self.network(known.network)?, self.node(known.node)?.id);
        if known.id.is_empty() {
            let gone = known.network;
            self.drop_engine_networks(|other| other.network == gone && other.node == node);
            return Ok(Outcome::Done);
        }
        // Until it has its name, only the engine that makes it can have it.
        if network.engine != Some(node) {
            check_named(network)?;
        }
        check_engine_id("network", &known.id)?;
        if let Some(other) = self.state.network_of_engine(node, &known.id).filter(|other| other.id != known.network) {
            return Err(Rejection::new(
                Reason::NetworkNameTaken,
                format!("the engine's network {} is network {} already, not {}", known.id, other.name, network.name),
                "report each network of an engine once",
            ));
        }
        if known.containers.len() > MAX_CONTAINERS {
            let message = format!("network {} has {} containers on one engine", network.name, known.containers.len());
            return Err(Rejection::new(Reason::TooLarge, message, format!("report {MAX_CONTAINERS} at most")));
        }
        for container in &known.containers {
            name::check("container", &container.name, name::MAX_CONTAINER_NAME)?;
            check_engine_id("container", &container.id)?;
        }
        if self.state.engine_networks.get(&(known.network, node)) != Some(known) {
            self.put_engine_network(known.clone());
            self.rename_stopped(known);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn hold_address(&mut self, wanted: &HoldAddress) -> Result<Outcome, Rejection> {
        let network = self.network(wanted.network)?.clone();
        let node = self.working_node(wanted.node)?.id;
        check_named(&network)?;
        if !wanted.name.is_empty() {
            name::check("container", &wanted.name, name::MAX_CONTAINER_NAME)?;
        }
        let known = wanted.address.and_then(|address| self.state.leases.get(&(network.id, address)));
        if let Some(lease) = known.filter(|lease| is_repeated(lease, wanted)) {
            return Ok(Outcome::Lease(lease.clone()));
        }
        let asker = Asker { node, name: &wanted.name, engine: wanted.address.is_some() };
        let address = match wanted.address {
            Some(address) => {
                self.check_asked(asker, &network, address)?;
                address
            }
            None => self.choose_address(asker, &network, subnet_of(&network, wanted.family)?)?,
        };
        let lease = self.pending_lease(network.id, address, node, &wanted.name);
        self.put_lease(lease.clone());
        Ok(Outcome::Lease(lease))
    }

    /// Gives back an address that no endpoint took. Whoever had it before is remembered as before.
    pub(super) fn release_address(
        &mut self,
        network: NetworkId,
        address: IpAddr,
        epoch: u64,
    ) -> Result<Outcome, Rejection> {
        self.network(network)?;
        let Some(lease) = self.state.leases.get(&(network, address)).cloned() else { return Ok(Outcome::Done) };
        if lease.epoch != epoch {
            return Err(Rejection::new(
                Reason::EpochMismatch,
                format!("the lease of {address} has epoch {}, not {epoch}", lease.epoch),
                "look at the lease again: somebody else has the address",
            ));
        }
        if lease.held_for().is_none() {
            return Ok(Outcome::Done);
        }
        let now_ms = self.state.clock_ms;
        match (&lease.reserved_for, lease.previous.first().cloned()) {
            (Some(name), _) => {
                let name = name.clone();
                self.put_lease(Lease { state: LeaseState::Reserved, node: None, name, since_ms: now_ms, ..lease });
            }
            (None, Some(last)) => {
                let state = LeaseState::Cooling { until_ms: now_ms };
                self.put_lease(Lease { state, node: Some(last.node), name: last.name, since_ms: now_ms, ..lease });
            }
            (None, None) => self.drop_lease(network, address),
        }
        Ok(Outcome::Done)
    }

    pub(super) fn place_endpoint(&mut self, placed: &PlaceEndpoint) -> Result<Outcome, Rejection> {
        let endpoint = self.endpoint_of_epoch(placed.endpoint, placed.epoch)?;
        let (network, node) = (self.network(endpoint.network)?, self.node(endpoint.node)?);
        if !endpoint.is_up() {
            let message = format!("container {} of endpoint {} has stopped", endpoint.name, endpoint.id);
            return Err(Rejection::new(Reason::EndpointNotFound, message, "look at the container again"));
        }
        check_texts(&placed.name, &placed.container_id, &placed.aliases)?;
        check_sandbox(&placed.name, &placed.sandbox)?;
        name::check_ifname(&placed.ifname)?;
        check_ports(placed)?;
        let handed = self.handed_over(&endpoint, placed);
        let handed_id = handed.as_ref().map(|handed| handed.id);
        let holder = self.state.endpoint_named(endpoint.network, endpoint.node, &placed.name).map(|holder| holder.id);
        let former = self.former_holder(&endpoint, &placed.name).filter(|former| Some(former.id) != handed_id);
        match &former {
            Some(former) => self.check_name_free(network, node, &former.name, Some(former.id))?,
            // It loses the name in this step.
            None if holder.is_some() && holder == handed_id => {}
            None => self.check_name_free(network, node, &placed.name, Some(endpoint.id))?,
        }
        if let Some(handed) = handed.as_ref().filter(|handed| handed.name != endpoint.name) {
            self.check_name_free(network, node, &handed.name, Some(handed.id))?;
        }
        let is_placed = |other: &Endpoint| other.name == placed.name;
        let is_same = matches!((&former, &handed), (Some(former), Some(handed)) if former.name == handed.name);
        if is_same || former.as_ref().is_some_and(is_placed) || handed.as_ref().is_some_and(is_placed) {
            let message = format!(
                "the name {} of container {} is the engine's id of an endpoint",
                placed.name, placed.container_id
            );
            return Err(Rejection::new(Reason::EndpointNameTaken, message, "rename the container"));
        }
        self.check_not_on(network, node.id, &placed.sandbox, Some(endpoint.id))?;
        self.check_ifname_free(&endpoint, placed)?;
        former.into_iter().for_each(|former| self.put_with_leases(former));
        let PlaceEndpoint { name, container_id, aliases, sandbox, ifname, ports, .. } = placed.clone();
        let outcome = self.activate(Endpoint { name, container_id, aliases, sandbox, ifname, ports, ..endpoint });
        handed.into_iter().for_each(|handed| self.put_with_leases(handed));
        Ok(outcome)
    }

    /// The other endpoint of the engine that has this name here, as it is without it: an engine gives a name to one container
    /// at a time, so that one was renamed or is gone.
    fn former_holder(&self, endpoint: &Endpoint, name: &str) -> Option<Endpoint> {
        let other = self.state.endpoint_named(endpoint.network, endpoint.node, name)?;
        let unnamed = Endpoint::short_id(&other.engine_id);
        let loses_it = other.id != endpoint.id && !unnamed.is_empty() && unnamed != name;
        loses_it.then(|| Endpoint { name: unnamed, ..other.clone() })
    }

    /// Gives what waits for containers the names that these have by now, unless somebody has one of them.
    fn rename_stopped(&mut self, known: &EngineNetwork) {
        let waiting = self.state.endpoints_of_node(known.node).filter(|e| e.network == known.network && !e.is_up());
        for endpoint in waiting.cloned().collect::<Vec<_>>() {
            let container = known.containers.iter().find(|container| container.id == endpoint.container_id);
            let Some(EngineContainer { name, .. }) = container else { continue };
            if self.state.endpoint_named(known.network, known.node, name).is_none() {
                self.put_with_leases(Endpoint { name: name.clone(), ..endpoint });
            }
        }
    }

    fn check_ifname_free(&self, endpoint: &Endpoint, placed: &PlaceEndpoint) -> Result<(), Rejection> {
        let others = self.state.endpoints_of_sandbox(endpoint.node, &placed.sandbox.key);
        let others: Vec<&Endpoint> = others.filter(|other| other.id != endpoint.id).collect();
        if !Self::names_in_use(&others).contains(&placed.ifname.as_str()) {
            return Ok(());
        }
        let message = format!("container {} has an interface {} already", placed.name, placed.ifname);
        Err(Rejection::new(Reason::IfnameTaken, message, "look at the container's interfaces again"))
    }

    /// Ends what the engine of a node that is removed has, besides its endpoints.
    pub(super) fn end_engine(&mut self, node: NodeId) {
        self.drop_claims(|claim| claim.node == node);
        self.drop_engine_networks(|known| known.node == node);
        let unnamed = self.state.networks.values().filter(|net| net.provisional && net.engine == Some(node));
        for network in unnamed.map(|network| network.id).collect::<Vec<_>>() {
            // Nobody else can tell its name. Refused only when it is used, which it is not without a name.
            let _ = self.remove_network(network);
        }
        let held = self.state.leases.values().filter(|lease| lease.held_for() == Some(node));
        for (network, address, epoch) in held.map(|l| (l.network, l.address, l.epoch)).collect::<Vec<_>>() {
            // Refused only when the lease is another one by now, which nothing here makes it.
            let _ = self.release_address(network, address, epoch);
        }
    }
}

/// Whether the same node has the address already. An engine that was restarted asks again for those of its running
/// containers and for those that it had reserved, and nothing tells that from a new container: it is told so when the
/// endpoint is made.
fn is_repeated(lease: &Lease, wanted: &HoldAddress) -> bool {
    match lease.state {
        LeaseState::Reserved => lease.reserved_for.as_ref() != Some(&wanted.name),
        LeaseState::Pending | LeaseState::Active | LeaseState::Kept => lease.node == Some(wanted.node),
        LeaseState::Cooling { .. } => false,
    }
}

fn subnet_of(network: &Network, family: Family) -> Result<&Subnet, Rejection> {
    let of_family = network.subnets.iter().find(|subnet| Family::of(subnet.cidr.addr()) == family);
    of_family.ok_or_else(|| {
        let message = format!("network {} has no {family:?} subnet", network.name);
        Rejection::new(Reason::InvalidAddress, message, "ask for an address of a family that it has")
    })
}

/// A network is used once its name is certain: another one may have got the name first.
pub(super) fn check_named(network: &Network) -> Result<(), Rejection> {
    if !network.provisional {
        return Ok(());
    }
    Err(Rejection::new(
        Reason::NetworkProvisional,
        format!("network {} cannot be used yet: the engine that makes it has not told its name", network.name),
        "try again in a moment",
    ))
}

fn check_ports(placed: &PlaceEndpoint) -> Result<(), Rejection> {
    if placed.ports.len() > MAX_PORTS {
        let message = format!("container {} publishes {} ports", placed.name, placed.ports.len());
        return Err(Rejection::new(Reason::TooLarge, message, format!("report {MAX_PORTS} at most")));
    }
    placed.ports.iter().try_for_each(|port| name::check_text("port", port, MAX_PORT))
}

/// Checks an engine's id of something.
pub(super) fn check_engine_id(what: &str, id: &str) -> Result<(), Rejection> {
    name::check(&format!("{what} of an engine"), id, MAX_ENGINE_ID)
}
