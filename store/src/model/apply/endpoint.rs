//! Endpoints and their leases.

use std::net::IpAddr;

use crate::model::command::{CreateEndpoint, Outcome};
use crate::model::id::EndpointId;
use crate::model::name;
use crate::model::object::{Endpoint, EndpointState, Lease, LeaseState, PastHolder};
use crate::model::rejection::{Reason, Rejection};

use super::Changing;

/// How many other names a container may have on a network.
const MAX_ALIASES: usize = 32;
/// Longest id of a container, in bytes: engines use 64 hexadecimal digits.
const MAX_CONTAINER_ID: usize = 128;
/// Longest path of a namespace, in bytes (`PATH_MAX` of linux/limits.h).
const MAX_NETNS: usize = 4096;
/// Longest key of a sandbox, in bytes.
const MAX_SANDBOX_KEY: usize = 256;

impl Changing<'_> {
    pub(super) fn create_endpoint(&mut self, wanted: &CreateEndpoint) -> Result<Outcome, Rejection> {
        let endpoint = self.new_endpoint(wanted)?;
        for &address in &endpoint.addresses {
            self.take_lease(&endpoint, address);
        }
        self.put_endpoint(endpoint.clone());
        Ok(Outcome::Endpoint(endpoint))
    }

    /// The endpoint that a command makes, if nothing is in its way.
    fn new_endpoint(&self, wanted: &CreateEndpoint) -> Result<Endpoint, Rejection> {
        let network = self.network(wanted.network)?;
        let node = self.node(wanted.node)?;
        check_texts(wanted)?;
        let mut in_sandbox = self.state.endpoints_of_sandbox(node.id, &wanted.sandbox.key);
        if let Some(other) = in_sandbox.find(|endpoint| endpoint.network == network.id) {
            return Err(Rejection::new(
                Reason::AlreadyAttached,
                format!("{} is on network {} already, as container {}", wanted.sandbox.netns, network.name, other.name),
                "detach it first",
            ));
        }
        if let Some(other) = self.state.endpoint_named(network.id, node.id, &wanted.name) {
            return Err(Rejection::new(
                Reason::EndpointNameTaken,
                format!(
                    "there is a container {} on network {} and node {} already, in {}",
                    other.name, network.name, node.name, other.sandbox.netns
                ),
                "use another --name, or detach that one",
            ));
        }
        let addresses = self.choose_addresses(wanted, network)?;
        let mac = self.choose_mac(wanted, network, &addresses)?;
        let ifname = self.choose_ifname(wanted)?;
        let egress = self.choose_egress(wanted, network, node, &ifname)?;
        Ok(Endpoint {
            id: EndpointId(self.entry_index),
            network: network.id,
            node: node.id,
            name: wanted.name.clone(),
            container_id: wanted.container_id.clone(),
            aliases: wanted.aliases.clone(),
            mac,
            addresses,
            state: EndpointState::Pending,
            sandbox: wanted.sandbox.clone(),
            ifname,
            egress,
            created_ms: self.state.clock_ms,
            epoch: self.entry_index,
        })
    }

    fn take_lease(&mut self, endpoint: &Endpoint, address: IpAddr) {
        let old = self.state.leases.get(&(endpoint.network, address));
        self.put_lease(Lease {
            network: endpoint.network,
            address,
            epoch: endpoint.epoch,
            state: LeaseState::Pending,
            endpoint: Some(endpoint.id),
            node: Some(endpoint.node),
            name: endpoint.name.clone(),
            since_ms: self.state.clock_ms,
            reserved_for: old.and_then(|lease| lease.reserved_for.clone()),
            previous: old.map_or_else(Vec::new, |lease| lease.previous.clone()),
        });
    }

    pub(super) fn activate_endpoint(&mut self, id: EndpointId, epoch: u64) -> Result<Outcome, Rejection> {
        let endpoint = self.endpoint_of_epoch(id, epoch)?;
        if endpoint.state == EndpointState::Active {
            return Ok(Outcome::Endpoint(endpoint));
        }
        for &address in &endpoint.addresses {
            if let Some(lease) = self.state.leases.get(&(endpoint.network, address)).cloned() {
                self.put_lease(Lease { state: LeaseState::Active, since_ms: self.state.clock_ms, ..lease });
            }
        }
        let endpoint = Endpoint { state: EndpointState::Active, ..endpoint };
        self.put_endpoint(endpoint.clone());
        Ok(Outcome::Endpoint(endpoint))
    }

    pub(super) fn remove_endpoint(&mut self, id: EndpointId, epoch: u64) -> Result<Outcome, Rejection> {
        let endpoint = self.endpoint_of_epoch(id, epoch)?;
        self.end_endpoint(&endpoint);
        Ok(Outcome::Endpoint(endpoint))
    }

    fn endpoint_of_epoch(&self, id: EndpointId, epoch: u64) -> Result<Endpoint, Rejection> {
        let endpoint = self.endpoint(id)?;
        if endpoint.epoch == epoch {
            return Ok(endpoint.clone());
        }
        Err(Rejection::new(
            Reason::EpochMismatch,
            format!("endpoint {id} of container {} has epoch {}, not {epoch}", endpoint.name, endpoint.epoch),
            "look at the endpoint again: it was ended and made anew",
        ))
    }

    /// Ends an endpoint, releases its leases and leaves its way out to another endpoint of its sandbox.
    pub(super) fn end_endpoint(&mut self, endpoint: &Endpoint) {
        // The endpoint as it is now: the end of another one may have left it that one's way out.
        let Some(endpoint) = self.state.endpoints.get(&endpoint.id).cloned() else { return };
        self.drop_endpoint(&endpoint);
        for &address in &endpoint.addresses {
            self.release_lease(&endpoint, address);
        }
        if let Some(egress) = &endpoint.egress
            && let Some(heir) = self.egress_heir(&endpoint)
        {
            self.put_endpoint(Endpoint { egress: Some(egress.clone()), ..heir });
        }
    }

    fn release_lease(&mut self, endpoint: &Endpoint, address: IpAddr) {
        let Some(mut lease) = self.state.leases.get(&(endpoint.network, address)).cloned() else { return };
        let now_ms = self.state.clock_ms;
        let holder =
            PastHolder { name: lease.name.clone(), node: endpoint.node, from_ms: endpoint.created_ms, to_ms: now_ms };
        lease.previous.insert(0, holder);
        lease.previous.truncate(Lease::MAX_PREVIOUS);
        lease.endpoint = None;
        lease.since_ms = now_ms;
        if let Some(name) = &lease.reserved_for {
            lease.name = name.clone();
            lease.node = None;
            lease.state = LeaseState::Reserved;
        } else {
            lease.state = LeaseState::Cooling { until_ms: now_ms.saturating_add(Lease::COOLING_MS) };
        }
        self.put_lease(lease);
    }
}

fn check_texts(wanted: &CreateEndpoint) -> Result<(), Rejection> {
    name::check("container", &wanted.name, name::MAX_CONTAINER_NAME)?;
    name::check_text("container id", &wanted.container_id, MAX_CONTAINER_ID)?;
    if wanted.aliases.len() > MAX_ALIASES {
        let message = format!("container {} would have {} aliases", wanted.name, wanted.aliases.len());
        return Err(Rejection::new(Reason::TooLarge, message, format!("use {MAX_ALIASES} at most")));
    }
    for alias in &wanted.aliases {
        name::check("container", alias, name::MAX_CONTAINER_NAME)?;
    }
    name::check_text("namespace", &wanted.sandbox.netns, MAX_NETNS)?;
    name::check_text("sandbox key", &wanted.sandbox.key, MAX_SANDBOX_KEY)?;
    if wanted.sandbox.netns.is_empty() || wanted.sandbox.key.is_empty() {
        let message = format!("container {} has no namespace", wanted.name);
        return Err(Rejection::new(Reason::InvalidName, message, "give its path and its key"));
    }
    Ok(())
}
