//! Endpoints and their leases.

use std::net::IpAddr;

use crate::model::command::{CreateEndpoint, Outcome};
use crate::model::id::{EndpointId, NetworkId, NodeId};
use crate::model::name;
use crate::model::object::{Endpoint, EndpointState, Lease, LeaseState, Network, Node, PastHolder, Sandbox};
use crate::model::rejection::{Reason, Rejection};

use super::Changing;
use super::address::Asker;
use super::engine::{check_engine_id, check_named};

/// Longest id of a container, in bytes: engines use 64 hexadecimal digits.
const MAX_CONTAINER_ID: usize = 128;
/// Longest path of a namespace, in bytes (`PATH_MAX` of linux/limits.h).
const MAX_NETNS: usize = 4096;
/// Longest key of a sandbox, in bytes.
const MAX_SANDBOX_KEY: usize = 256;

impl Changing<'_> {
    pub(super) fn create_endpoint(&mut self, wanted: &CreateEndpoint) -> Result<Outcome, Rejection> {
        let endpoint = self.new_endpoint(wanted)?;
        let former = self.former_with_mac(wanted, &endpoint)?;
        for &address in &endpoint.addresses {
            self.take_lease(&endpoint, address);
        }
        self.put_endpoint(endpoint.clone());
        former.into_iter().for_each(|former| self.put_endpoint(former));
        Ok(Outcome::Endpoint(endpoint))
    }

    /// The endpoint that a command makes, if nothing is in its way.
    fn new_endpoint(&self, wanted: &CreateEndpoint) -> Result<Endpoint, Rejection> {
        let network = self.network(wanted.network)?;
        let node = self.working_node(wanted.node)?;
        let of_engine = !wanted.engine_id.is_empty();
        check_texts(&wanted.name, &wanted.container_id, &wanted.aliases)?;
        check_named(network)?;
        if of_engine {
            check_engine_id("endpoint", &wanted.engine_id)?;
            if let Some(other) = self.state.endpoint_of_engine(node.id, &wanted.engine_id) {
                return Err(Rejection::new(
                    Reason::AlreadyAttached,
                    format!("endpoint {} of the engine of node {} is there already", other.engine_id, node.name),
                    "make each endpoint once",
                ));
            }
        } else {
            check_sandbox(&wanted.name, &wanted.sandbox)?;
            self.check_not_on(network, node.id, &wanted.sandbox, None)?;
        }
        self.check_name_free(network, node, &wanted.name, None)?;
        let asker = Asker { node: node.id, name: &wanted.name, engine: of_engine };
        let addresses = self.choose_addresses(asker, &wanted.addresses, network)?;
        let mac = self.choose_mac(wanted, network, &addresses)?;
        let (ifname, egress) = if of_engine {
            (String::new(), None)
        } else {
            let ifname = self.choose_ifname(wanted)?;
            let egress = self.choose_egress(wanted, network, node, &ifname)?;
            (ifname, egress)
        };
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
            sandbox: if of_engine { Sandbox::default() } else { wanted.sandbox.clone() },
            ifname,
            egress,
            created_ms: self.state.clock_ms,
            epoch: self.entry_index,
            engine_id: wanted.engine_id.clone(),
            ports: Vec::new(),
        })
    }

    /// A sandbox has one endpoint on a network at most, besides `me`.
    pub(super) fn check_not_on(
        &self,
        network: &Network,
        node: NodeId,
        sandbox: &Sandbox,
        me: Option<EndpointId>,
    ) -> Result<(), Rejection> {
        let mut in_sandbox = self.state.endpoints_of_sandbox(node, &sandbox.key);
        match in_sandbox.find(|endpoint| endpoint.network == network.id && Some(endpoint.id) != me) {
            Some(other) => Err(Rejection::new(
                Reason::AlreadyAttached,
                format!("{} is on network {} already, as container {}", sandbox.netns, network.name, other.name),
                "detach it first",
            )),
            None => Ok(()),
        }
    }

    /// A name is used once on a network and a node, besides `me`.
    pub(super) fn check_name_free(
        &self,
        network: &Network,
        node: &Node,
        name: &str,
        me: Option<EndpointId>,
    ) -> Result<(), Rejection> {
        match self.state.endpoint_named(network.id, node.id, name) {
            Some(other) if Some(other.id) != me => Err(Rejection::new(
                Reason::EndpointNameTaken,
                format!(
                    "there is a container {} on network {} and node {} already, in {}",
                    other.name, network.name, node.name, other.sandbox.netns
                ),
                "use another --name, or detach that one",
            )),
            _ => Ok(()),
        }
    }

    fn take_lease(&mut self, endpoint: &Endpoint, address: IpAddr) {
        let lease = self.pending_lease(endpoint.network, address, endpoint.node, &endpoint.name);
        self.put_lease(Lease { endpoint: Some(endpoint.id), ..lease });
    }

    /// A lease that begins with this entry. What an address was before is remembered.
    pub(super) fn pending_lease(&self, network: NetworkId, address: IpAddr, node: NodeId, name: &str) -> Lease {
        let old = self.state.leases.get(&(network, address));
        Lease {
            network,
            address,
            epoch: self.entry_index,
            state: LeaseState::Pending,
            endpoint: None,
            node: Some(node),
            name: name.to_owned(),
            since_ms: self.state.clock_ms,
            reserved_for: old.and_then(|lease| lease.reserved_for.clone()),
            previous: old.map_or_else(Vec::new, |lease| lease.previous.clone()),
        }
    }

    pub(super) fn activate_endpoint(&mut self, id: EndpointId, epoch: u64) -> Result<Outcome, Rejection> {
        let endpoint = self.endpoint_of_epoch(id, epoch)?;
        Ok(match endpoint.state {
            EndpointState::Pending => self.activate(endpoint),
            EndpointState::Active | EndpointState::Stopped => Outcome::Endpoint(endpoint),
        })
    }

    /// Puts an endpoint that is in use, and its leases.
    pub(super) fn activate(&mut self, endpoint: Endpoint) -> Outcome {
        let endpoint = Endpoint { state: EndpointState::Active, ..endpoint };
        self.put_with_leases(endpoint.clone());
        Outcome::Endpoint(endpoint)
    }

    pub(super) fn remove_endpoint(&mut self, id: EndpointId, epoch: u64) -> Result<Outcome, Rejection> {
        let endpoint = self.endpoint_of_epoch(id, epoch)?;
        self.end_endpoint(&endpoint);
        Ok(Outcome::Endpoint(endpoint))
    }

    pub(super) fn endpoint_of_epoch(&self, id: EndpointId, epoch: u64) -> Result<Endpoint, Rejection> {
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

/// Checks what a container is called.
pub(super) fn check_texts(container: &str, container_id: &str, aliases: &[String]) -> Result<(), Rejection> {
    name::check("container", container, name::MAX_CONTAINER_NAME)?;
    name::check_text("container id", container_id, MAX_CONTAINER_ID)?;
    if aliases.len() > Endpoint::MAX_ALIASES {
        let message = format!("container {container} would have {} aliases", aliases.len());
        return Err(Rejection::new(Reason::TooLarge, message, format!("use {} at most", Endpoint::MAX_ALIASES)));
    }
    for alias in aliases {
        name::check("container", alias, name::MAX_CONTAINER_NAME)?;
    }
    Ok(())
}

/// Checks the namespace of a container.
pub(super) fn check_sandbox(container: &str, sandbox: &Sandbox) -> Result<(), Rejection> {
    name::check_text("namespace", &sandbox.netns, MAX_NETNS)?;
    name::check_text("sandbox key", &sandbox.key, MAX_SANDBOX_KEY)?;
    if sandbox.netns.is_empty() || sandbox.key.is_empty() {
        let message = format!("container {container} has no namespace");
        return Err(Rejection::new(Reason::InvalidName, message, "give its path and its key"));
    }
    Ok(())
}
