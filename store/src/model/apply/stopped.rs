//! Endpoints whose containers are stopped: kept for their node's engine, and taken into use again.

use crate::model::command::{Outcome, PlaceEndpoint, RebindEndpoint};
use crate::model::id::{EndpointId, NetworkId, NodeId};
use crate::model::object::{Endpoint, EndpointState, LeaseState, Sandbox};
use crate::model::rejection::{Reason, Rejection};

use super::Changing;
use super::engine::check_engine_id;

impl Changing<'_> {
    /// Keeps an endpoint for its container, which its node's engine has and does not run; otherwise ends it.
    pub(super) fn stop_endpoint(&mut self, id: EndpointId, epoch: u64) -> Result<Outcome, Rejection> {
        let endpoint = self.endpoint_of_epoch(id, epoch)?;
        if !endpoint.is_up() {
            return Ok(Outcome::Endpoint(endpoint));
        }
        if !self.has_container(&endpoint) || self.kept_for(&endpoint, &endpoint.container_id).is_some() {
            self.end_endpoint(&endpoint);
            return Ok(Outcome::Endpoint(endpoint));
        }
        let stopped = Endpoint {
            state: EndpointState::Stopped,
            sandbox: Sandbox::default(),
            ifname: String::new(),
            ports: Vec::new(),
            ..endpoint
        };
        self.put_with_leases(stopped.clone(), LeaseState::Kept);
        Ok(Outcome::Endpoint(stopped))
    }

    /// Whether an endpoint's container is one of those that its node's engine has on the network.
    fn has_container(&self, endpoint: &Endpoint) -> bool {
        let known = self.state.engine_networks.get(&(endpoint.network, endpoint.node));
        known.is_some_and(|known| known.containers.iter().any(|container| container.id == endpoint.container_id))
    }

    /// The other endpoint that is kept for a container on the same network and node.
    pub(super) fn kept_for(&self, me: &Endpoint, container_id: &str) -> Option<&Endpoint> {
        let mut others = self.state.endpoints_of_node(me.node).filter(|other| other.id != me.id && !other.is_up());
        others.find(|other| other.network == me.network && other.container_id == container_id)
    }

    /// An engine starts a container on an endpoint that it had before. Its epoch is new: what was asked of the endpoint
    /// before cannot end it any more.
    pub(super) fn rebind_endpoint(&mut self, wanted: &RebindEndpoint) -> Result<Outcome, Rejection> {
        let known = self.endpoint(wanted.endpoint)?;
        if known.engine_id == wanted.engine_id && known.is_up() {
            return Ok(Outcome::Endpoint(known.clone()));
        }
        let endpoint = self.endpoint_of_epoch(wanted.endpoint, wanted.epoch)?;
        check_engine_id("endpoint", &wanted.engine_id)?;
        let refuse = |message: String| {
            Err(Rejection::new(Reason::AlreadyAttached, message, "see `pontoon network inspect`, and make another one"))
        };
        if endpoint.engine_id.is_empty() {
            return refuse(format!("endpoint {} of container {} is no engine's", endpoint.id, endpoint.name));
        }
        let other = self.state.endpoint_of_engine(endpoint.node, &wanted.engine_id);
        if let Some(other) = other.filter(|other| other.id != endpoint.id) {
            return refuse(format!(
                "endpoint {} of the engine is container {}'s already",
                wanted.engine_id, other.name
            ));
        }
        let mac = wanted.mac.unwrap_or(endpoint.mac);
        if mac != endpoint.mac {
            let network = self.network(endpoint.network)?;
            self.check_mac(&endpoint.name, network, mac, Some(endpoint.node))?;
            self.end_kept_with_mac(endpoint.network, endpoint.node, mac);
        }
        let rebound = Endpoint {
            mac,
            engine_id: wanted.engine_id.clone(),
            epoch: self.entry_index,
            state: EndpointState::Pending,
            sandbox: Sandbox::default(),
            ifname: String::new(),
            ports: Vec::new(),
            ..endpoint
        };
        self.put_with_leases(rebound.clone(), LeaseState::Pending);
        Ok(Outcome::Endpoint(rebound))
    }

    /// Puts an endpoint, and its leases in this state.
    pub(super) fn put_with_leases(&mut self, endpoint: Endpoint, state: LeaseState) {
        for &address in &endpoint.addresses {
            if let Some(mut lease) = self.state.leases.get(&(endpoint.network, address)).cloned() {
                if lease.state != state {
                    (lease.state, lease.since_ms) = (state, self.state.clock_ms);
                }
                lease.name.clone_from(&endpoint.name);
                lease.epoch = endpoint.epoch;
                self.put_lease(lease);
            }
        }
        self.put_endpoint(endpoint);
    }

    /// Ends what is kept for containers that a node's engine does not have on a network (any more).
    pub(super) fn end_forgotten(&mut self, network: NetworkId, node: NodeId) {
        let kept = self.state.endpoints_of_node(node).filter(|e| e.network == network && !e.is_up());
        for endpoint in kept.filter(|endpoint| !self.has_container(endpoint)).cloned().collect::<Vec<_>>() {
            self.end_endpoint(&endpoint);
        }
    }

    /// A container runs on another endpoint than the one that is kept for it, because its engine had not told which
    /// container starts. Takes the kept one out of the way, and gives it back if it is now to be kept for the container
    /// that the other one was kept for.
    pub(super) fn take_kept(&mut self, endpoint: &Endpoint, placed: &PlaceEndpoint) -> Option<Endpoint> {
        let kept = self.kept_for(endpoint, &placed.container_id).cloned()?;
        let Endpoint { container_id, aliases, name, .. } = endpoint.clone();
        let has_heir = !container_id.is_empty()
            && container_id != placed.container_id
            && name != placed.name
            && self.has_container(endpoint)
            && self.kept_for(endpoint, &container_id).is_none();
        if !has_heir {
            self.end_endpoint(&kept);
            return None;
        }
        self.drop_endpoint(&kept);
        Some(Endpoint { container_id, aliases, name, ..kept })
    }
}
