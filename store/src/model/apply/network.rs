//! Networks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::alloc;
use crate::model::command::{CreateNetwork, EngineRef, Outcome};
use crate::model::id::{NetworkId, NodeId, Vni};
use crate::model::name;
use crate::model::object::{EngineNetwork, Family, Lease, LeaseState, Network, Node, NodeState, Subnet};
use crate::model::rejection::{Reason, Rejection};
use crate::model::subnet::{is_host, overlap};

use super::engine::check_engine_id;
use super::{Change, Changing, list};

/// How many addresses of a network may be kept for names when it is made.
const MAX_RESERVATIONS: usize = 1024;
/// Smallest MTU of IPv4 (RFC 791: every host takes packets of 576 bytes).
const MIN_MTU: u32 = 576;
/// Smallest MTU of IPv6 (RFC 8200, section 5).
const MIN_MTU_V6: u32 = 1280;
/// Largest MTU of an interface.
const MAX_UNDERLAY_MTU: u32 = 65_535;
/// MTU of the underlay while no node has reported one (Ethernet, RFC 894).
const USUAL_UNDERLAY_MTU: u32 = 1500;

impl Changing<'_> {
    pub(super) fn create_network(&mut self, wanted: &CreateNetwork) -> Result<Outcome, Rejection> {
        if let Some(known) = self.made_already(wanted)? {
            return Ok(Outcome::Network(known));
        }
        name::check("network", &wanted.name, name::MAX_NAME)?;
        if let Some(other) = self.state.network_named(&wanted.name) {
            return Err(Rejection::new(
                Reason::NetworkNameTaken,
                format!("there is a network {} already: id {}", other.name, other.id),
                "use another name, or remove that network",
            ));
        }
        name::check_labels(&format!("network {}", wanted.name), &wanted.labels)?;
        let subnets = self.choose_subnets(wanted)?;
        check_reservations(wanted, &subnets)?;
        let network = Network {
            id: NetworkId(self.entry_index),
            name: wanted.name.clone(),
            vni: self.choose_vni(wanted)?,
            mtu: self.choose_mtu(wanted)?,
            subnets,
            internal: wanted.internal,
            labels: wanted.labels.clone(),
            created_ms: self.state.clock_ms,
            engine: wanted.engine.as_ref().map(|engine| engine.node),
            provisional: wanted.engine.is_some(),
        };
        self.drop_claims(|claim| network.subnets.iter().any(|subnet| overlap(subnet.cidr, claim.cidr)));
        if let Some(EngineRef { node, id }) = wanted.engine.clone() {
            self.put_engine_network(EngineNetwork { network: network.id, node, id, containers: Vec::new() });
        }
        for subnet in &network.subnets {
            self.reserve(network.id, subnet.gateway, Lease::GATEWAY, None);
        }
        for (name, address) in &wanted.reservations {
            self.reserve(network.id, *address, name, Some(name.clone()));
        }
        self.put_network(network.clone());
        Ok(Outcome::Network(network))
    }

    /// The network that an engine has made under this id before.
    fn made_already(&self, wanted: &CreateNetwork) -> Result<Option<Network>, Rejection> {
        let Some(EngineRef { node, id }) = &wanted.engine else { return Ok(None) };
        self.working_node(*node)?;
        check_engine_id("network", id)?;
        Ok(self.state.network_of_engine(*node, id).cloned())
    }

    fn reserve(&mut self, network: NetworkId, address: IpAddr, name: &str, reserved_for: Option<String>) {
        self.put_lease(Lease {
            network,
            address,
            epoch: self.entry_index,
            state: LeaseState::Reserved,
            endpoint: None,
            node: None,
            name: name.to_owned(),
            since_ms: self.state.clock_ms,
            reserved_for,
            previous: Vec::new(),
        });
    }

    fn choose_vni(&self, wanted: &CreateNetwork) -> Result<Vni, Rejection> {
        if let Some(vni) = wanted.vni {
            return match self.state.networks.values().find(|network| network.vni == vni) {
                Some(other) => Err(Rejection::new(
                    Reason::VniTaken,
                    format!("{} cannot have VNI {vni}: network {} has it", wanted.shown(), other.name),
                    "use another VNI, or none to have one chosen",
                )),
                None => Ok(vni),
            };
        }
        let used: BTreeSet<Vni> = self.state.networks.values().map(|network| network.vni).collect();
        let exhausted = || {
            let message = format!("no free VNI for {} from {} to {}", wanted.shown(), Vni::FIRST_FREE, Vni::MAX);
            Rejection::new(Reason::VniExhausted, message, "give one with --vni, or remove a network")
        };
        alloc::free_vni(&used).ok_or_else(exhausted)
    }

    fn choose_mtu(&self, wanted: &CreateNetwork) -> Result<u32, Rejection> {
        let refuse = |message: String, hint: String| Err(Rejection::new(Reason::InvalidMtu, message, hint));
        let underlay = self.state.cluster.as_ref().map_or(Family::V4, |cluster| cluster.underlay);
        let overhead = underlay.vxlan_overhead();
        let smallest = if wanted.ipv6 { MIN_MTU_V6 } else { MIN_MTU };
        let narrowest = self.narrowest_node();
        let room = |node: &Node| node.underlay_mtu.min(MAX_UNDERLAY_MTU).saturating_sub(overhead);
        let mtu = match (wanted.mtu, narrowest) {
            (Some(mtu), _) => mtu,
            (None, Some(node)) => room(node),
            (None, None) => USUAL_UNDERLAY_MTU - overhead,
        };
        let largest = narrowest.map_or(MAX_UNDERLAY_MTU - overhead, room);
        if mtu <= largest && mtu >= smallest {
            return Ok(mtu);
        }
        let name = wanted.shown();
        match narrowest {
            Some(node) if mtu > largest || largest < smallest => refuse(
                format!(
                    "{name} cannot have MTU {mtu}: node {} has an underlay MTU of {}, and VXLAN takes {overhead}",
                    node.name, node.underlay_mtu
                ),
                if largest < smallest {
                    format!("a network needs {smallest}: raise the MTU of that node's underlay")
                } else {
                    format!("use {smallest} to {largest}, or raise the MTU of that node's underlay")
                },
            ),
            _ => refuse(
                format!("{name} cannot have MTU {mtu}"),
                format!("use {smallest} to {largest}, or none to have it chosen"),
            ),
        }
    }

    /// The ready node with the smallest underlay MTU.
    fn narrowest_node(&self) -> Option<&Node> {
        let ready = |node: &&Node| node.state == NodeState::Ready && node.underlay_mtu != 0;
        self.state.nodes.values().filter(ready).min_by_key(|node| node.underlay_mtu)
    }

    pub(super) fn remove_network(&mut self, id: NetworkId) -> Result<Outcome, Rejection> {
        let network = self.network(id)?.clone();
        let users = self.users(id);
        if !users.is_empty() {
            let count =
                if users.len() == 1 { "1 container is".to_owned() } else { format!("{} containers are", users.len()) };
            return Err(Rejection::new(
                Reason::NetworkInUse,
                format!("network {} cannot be removed: {count} on it: {}", network.name, list(users.into_iter())),
                "detach them, or remove the containers, first; what a host without its engine still has goes with the host \
                 (pontoon leave --force)",
            ));
        }
        let addresses: Vec<IpAddr> = self.state.leases_of_network(id).map(|lease| lease.address).collect();
        for address in addresses {
            self.drop_lease(id, address);
        }
        self.drop_engine_networks(|known| known.network == id);
        self.state.networks.remove(&id);
        self.changes.insert(Change::Network(id));
        Ok(Outcome::Network(network))
    }

    /// Who is on a network: endpoints, containers that start at this moment, and those of engines that do not run.
    fn users(&self, network: NetworkId) -> Vec<String> {
        let node = |id: NodeId| self.state.nodes.get(&id).map_or("?", |node| &node.name);
        let endpoints = self.state.endpoints_of_network(network).map(|endpoint| {
            let addresses: Vec<String> = endpoint.addresses.iter().map(IpAddr::to_string).collect();
            let how = if endpoint.is_up() { addresses.join(", ") } else { "not running".to_owned() };
            format!("{} on node {} ({how})", endpoint.name, node(endpoint.node))
        });
        let held = self.state.leases_of_network(network).filter_map(|lease| Some((lease.address, lease.held_for()?)));
        let starting = held.map(|(address, id)| format!("one that starts on node {} ({address})", node(id)));
        let told = |id: &str| self.state.endpoints_of_network(network).any(|endpoint| endpoint.container_id == id);
        let known = self.state.engines_of_network(network);
        let containers = known.flat_map(|known| known.containers.iter().map(|container| (known.node, container)));
        let stopped = containers.filter(|(_, container)| !told(&container.id));
        let stopped = stopped.map(|(id, container)| format!("{} on node {} (not running)", container.name, node(id)));
        endpoints.chain(starting).chain(stopped).collect()
    }
}

fn check_reservations(wanted: &CreateNetwork, subnets: &[Subnet]) -> Result<(), Rejection> {
    if wanted.reservations.len() > MAX_RESERVATIONS {
        let message = format!("network {} would have {} reservations", wanted.name, wanted.reservations.len());
        return Err(Rejection::new(Reason::TooLarge, message, format!("use {MAX_RESERVATIONS} at most")));
    }
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for (name, address) in &wanted.reservations {
        name::check("container", name, name::MAX_CONTAINER_NAME)?;
        let refuse = |reason: Reason, why: String, hint: &str| {
            let message = format!("{address} of {} cannot be kept for {name}: {why}", wanted.shown());
            Err(Rejection::new(reason, message, hint))
        };
        let cidrs = || list(subnets.iter().map(|subnet| subnet.cidr.to_string()));
        if !subnets.iter().any(|subnet| is_host(subnet.cidr, *address)) {
            let why = format!("it is not a host address of {}", cidrs());
            return refuse(Reason::InvalidAddress, why, "use an address that a container can have");
        }
        if subnets.iter().any(|subnet| subnet.gateway == *address) {
            return refuse(Reason::AddressReserved, "it is the gateway".to_owned(), "use another address");
        }
        if !addresses.insert(*address) {
            let why = "it is kept for another name already".to_owned();
            return refuse(Reason::AddressReserved, why, "keep each address for one name");
        }
        if !names.insert((name, Family::of(*address))) {
            let why = "another address of this family is".to_owned();
            return refuse(Reason::AddressReserved, why, "keep one address of each family for a name");
        }
    }
    Ok(())
}
