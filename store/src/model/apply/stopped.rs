//! Endpoints whose containers are stopped: kept for their node's engine, and taken into use again.

use crate::model::command::{Outcome, PlaceEndpoint, RebindEndpoint};
use crate::model::id::EndpointId;
use crate::model::object::{Endpoint, EndpointState};
use crate::model::rejection::{Reason, Rejection};

use super::Changing;
use super::engine::check_engine_id;

impl Changing<'_> {
    /// Keeps what an engine's endpoint has until its container starts again. Only a command that names the endpoint ends
    /// it: its node, which may be on its own, must know what it has given up.
    pub(super) fn stop_endpoint(&mut self, id: EndpointId, epoch: u64) -> Result<Outcome, Rejection> {
        let endpoint = self.endpoint_of_epoch(id, epoch)?;
        if endpoint.engine_id.is_empty() {
            return Err(not_of_an_engine(&endpoint));
        }
        let stopped = Endpoint { state: EndpointState::Stopped, ..endpoint.unplaced() };
        self.put_with_leases(stopped.clone());
        Ok(Outcome::Endpoint(stopped))
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
        if endpoint.engine_id.is_empty() {
            return Err(not_of_an_engine(&endpoint));
        }
        let other = self.state.endpoint_of_engine(endpoint.node, &wanted.engine_id);
        if let Some(other) = other.filter(|other| other.id != endpoint.id) {
            let message = format!("endpoint {} of the engine is container {}'s already", wanted.engine_id, other.name);
            return Err(Rejection::new(Reason::AlreadyAttached, message, "make each endpoint once"));
        }
        let mac = wanted.mac.unwrap_or(endpoint.mac);
        if mac != endpoint.mac {
            let network = self.network(endpoint.network)?;
            self.check_mac(&endpoint.name, network, mac, Some(endpoint.node))?;
        }
        let former = self.state.kept_with_mac(endpoint.network, endpoint.node, mac);
        let former = former.filter(|former| former.id != endpoint.id).cloned();
        // They change places.
        let former = former.map(|former| Endpoint { mac: endpoint.mac, ..former });
        let rebound = Endpoint {
            mac,
            engine_id: wanted.engine_id.clone(),
            epoch: self.entry_index,
            state: EndpointState::Pending,
            ..endpoint.unplaced()
        };
        self.put_with_leases(rebound.clone());
        former.into_iter().for_each(|former| self.put_endpoint(former));
        Ok(Outcome::Endpoint(rebound))
    }

    /// Puts an endpoint, and its leases as they are with it.
    pub(super) fn put_with_leases(&mut self, endpoint: Endpoint) {
        let state = endpoint.state.of_leases();
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

    /// The endpoint that waits for a container on the network and node of `me`.
    pub(super) fn kept_for(&self, me: &Endpoint, container_id: &str) -> Option<&Endpoint> {
        let mut others = self.state.endpoints_of_node(me.node).filter(|other| other.id != me.id && !other.is_up());
        let is_its = |other: &&Endpoint| other.network == me.network && other.container_id == container_id;
        others.find(is_its).filter(|_| !container_id.is_empty())
    }

    /// What waits for a container that runs on another endpoint, because its engine had not told which container starts. It
    /// waits from now on for the container that the other one waited for, or for none.
    pub(super) fn handed_over(&self, endpoint: &Endpoint, placed: &PlaceEndpoint) -> Option<Endpoint> {
        let kept = self.kept_for(endpoint, &placed.container_id)?.clone();
        let Endpoint { container_id, aliases, name, .. } = endpoint.clone();
        let mut others = self.state.endpoints_of_node(endpoint.node).filter(|other| other.network == endpoint.network);
        let has_heir = !container_id.is_empty()
            && container_id != placed.container_id
            && name != placed.name
            && others.all(|other| other.id == endpoint.id || other.container_id != container_id);
        Some(if has_heir {
            Endpoint { container_id, aliases, name, ..kept }
        } else {
            Endpoint { container_id: String::new(), aliases: Vec::new(), name: kept.engine_id.clone(), ..kept }
        })
    }
}

fn not_of_an_engine(endpoint: &Endpoint) -> Rejection {
    let message = format!("endpoint {} of container {} is no engine's", endpoint.id, endpoint.name);
    Rejection::new(Reason::AlreadyAttached, message, "detach the container instead")
}
