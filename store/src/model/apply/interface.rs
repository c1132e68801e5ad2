//! The interfaces of a new endpoint: MAC, names, the way out.

use std::net::IpAddr;

use crate::model::alloc;
use crate::model::command::CreateEndpoint;
use crate::model::id::{Mac, NetworkId, NodeId};
use crate::model::name;
use crate::model::object::{EgressInterface, Endpoint, Network, Node};
use crate::model::rejection::{Reason, Rejection};

use super::Changing;

impl Changing<'_> {
    pub(super) fn choose_mac(
        &self,
        wanted: &CreateEndpoint,
        network: &Network,
        addresses: &[IpAddr],
    ) -> Result<Mac, Rejection> {
        let free = |mac: &Mac| self.state.index.with_mac(network.id, *mac).is_none();
        if let Some(mac) = wanted.mac {
            let asker = (!wanted.engine_id.is_empty()).then_some(wanted.node);
            return self.check_mac(&wanted.name, network, mac, asker).map(|()| mac);
        }
        let v4 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        let usual = Mac::of_ipv4(v4.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED));
        // Only an address that somebody asked for can be in the way: take the next second byte.
        let [first, second, rest @ ..] = usual.bytes();
        let others = (1..=u8::MAX).filter_map(|step| {
            let [a, b, c, d] = rest;
            Mac::new([first, second.wrapping_add(step), a, b, c, d])
        });
        std::iter::once(usual).chain(others).find(free).ok_or_else(|| self.mac_taken(&wanted.name, network, usual))
    }

    /// Refuses a MAC that somebody has. A node's engine that asks for the MAC of a stopped container of its own starts just
    /// that one: nobody else asks for it by number.
    pub(super) fn check_mac(
        &self,
        container: &str,
        network: &Network,
        mac: Mac,
        engine_of: Option<NodeId>,
    ) -> Result<(), Rejection> {
        let is_free = self.state.index.with_mac(network.id, mac).is_none();
        if is_free || engine_of.is_some_and(|node| self.state.kept_with_mac(network.id, node, mac).is_some()) {
            return Ok(());
        }
        Err(self.mac_taken(container, network, mac))
    }

    fn mac_taken(&self, container: &str, network: &Network, mac: Mac) -> Rejection {
        let holder = self.state.index.with_mac(network.id, mac).and_then(|id| self.state.endpoints.get(&id));
        let holder = holder.map_or("another container", |endpoint| &endpoint.name);
        Rejection::new(
            Reason::MacTaken,
            format!("container {container} cannot have MAC {mac} on network {}: {holder} has it", network.name),
            "use another MAC, or none to have one chosen",
        )
    }

    /// Ends what is kept with this MAC for a stopped container of a node's engine: the container runs elsewhere.
    pub(super) fn end_kept_with_mac(&mut self, network: NetworkId, node: NodeId, mac: Mac) {
        if let Some(kept) = self.state.kept_with_mac(network, node, mac).cloned() {
            self.end_endpoint(&kept);
        }
    }

    /// Names of the interfaces that the sandbox has through its endpoints.
    pub(super) fn names_in_use<'a>(endpoints: &'a [&Endpoint]) -> Vec<&'a str> {
        let egress = endpoints.iter().filter_map(|endpoint| endpoint.egress.as_ref().map(|e| e.ifname.as_str()));
        endpoints.iter().map(|endpoint| endpoint.ifname.as_str()).chain(egress).collect()
    }

    pub(super) fn choose_ifname(&self, wanted: &CreateEndpoint) -> Result<String, Rejection> {
        let endpoints: Vec<&Endpoint> = self.state.endpoints_of_sandbox(wanted.node, &wanted.sandbox.key).collect();
        let used = Self::names_in_use(&endpoints);
        let Some(name) = &wanted.ifname else {
            return Ok(alloc::free_ethernet_name(0, &used));
        };
        name::check_ifname(name)?;
        if !used.contains(&name.as_str()) {
            return Ok(name.clone());
        }
        let message = format!("container {} has an interface {name} already", wanted.name);
        Err(Rejection::new(Reason::IfnameTaken, message, "use another name, or none to have one chosen"))
    }

    /// The way out that a new endpoint brings into its sandbox, unless the network is internal
    /// or another endpoint brought one.
    pub(super) fn choose_egress(
        &self,
        wanted: &CreateEndpoint,
        network: &Network,
        node: &Node,
        ifname: &str,
    ) -> Result<Option<EgressInterface>, Rejection> {
        let endpoints: Vec<&Endpoint> = self.state.endpoints_of_sandbox(node.id, &wanted.sandbox.key).collect();
        if network.internal || endpoints.iter().any(|endpoint| endpoint.egress.is_some()) {
            return Ok(None);
        }
        let mut used = Self::names_in_use(&endpoints);
        used.push(ifname);
        let after = alloc::ethernet_number(ifname).map_or(0, |number| number + 1);
        let host = self.state.index.free_egress_host(node.id);
        if host > last_egress_host(node) {
            return Err(Rejection::new(
                Reason::EgressFull,
                format!("the gateway bridge of node {} has no free address for container {}", node.name, wanted.name),
                "detach a container, use an internal network, or give the node a larger egress subnet",
            ));
        }
        Ok(Some(EgressInterface { ifname: alloc::free_ethernet_name(after, &used), host }))
    }

    /// The endpoint that keeps the sandbox's way out once `ended` is gone.
    pub(super) fn egress_heir(&self, ended: &Endpoint) -> Option<Endpoint> {
        let internal = |id: NetworkId| self.state.networks.get(&id).is_none_or(|network| network.internal);
        let mut others = self.state.endpoints_of_sandbox(ended.node, &ended.sandbox.key);
        others.find(|other| other.id != ended.id && other.engine_id.is_empty() && !internal(other.network)).cloned()
    }
}

/// Highest number of a host in every egress subnet of the node; any 16-bit one before its first report.
fn last_egress_host(node: &Node) -> u32 {
    let hosts = |subnet: &ipnet::IpNet| {
        let bits = u32::from(subnet.max_prefix_len() - subnet.prefix_len()).min(16);
        (1u32 << bits).saturating_sub(2)
    };
    node.egress_subnets.iter().map(hosts).min().unwrap_or((1 << 16) - 2)
}
