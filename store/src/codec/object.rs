//! Objects.

use std::net::IpAddr;

use ipnet::IpNet;
use pontoon_proto::v1;

use crate::model::id::{EndpointId, NetworkId, NodeId, RaftId, Vni};
use crate::model::object::{
    Claim, Cluster, EgressInterface, Endpoint, EndpointState, EngineContainer, EngineNetwork, Family, Lease,
    LeaseState, Network, Node, NodeState, PastHolder, Pool, Route, Sandbox, Subnet,
};

use super::error::{ADDRESS, CodecError, ENDPOINT_ADDRESS, MAC, PREFIX, invalid, parse, parse_optional, required};
use super::voting::voting;

impl From<&Cluster> for v1::Cluster {
    fn from(cluster: &Cluster) -> Self {
        Self {
            id: cluster.id.to_string(),
            created_ms: cluster.created_ms,
            pools: cluster.pools.iter().map(Into::into).collect(),
            pool6: cluster.pool6.to_string(),
            vxlan_port: cluster.vxlan_port.into(),
            feature_level: cluster.feature_level,
            underlay: v1::AddressFamily::from(cluster.underlay).into(),
            voters: cluster.voters.map_or(0, u32::from),
            replace_after_ms: cluster.replace_after_ms.unwrap_or(0),
            authorities: cluster.authorities.clone(),
            crossed: cluster.crossed.clone(),
            authority: cluster.authority,
            locked: cluster.locked,
        }
    }
}

impl TryFrom<v1::Cluster> for Cluster {
    type Error = CodecError;

    fn try_from(cluster: v1::Cluster) -> Result<Self, CodecError> {
        const WHAT: &str = "cluster";
        let port = cluster.vxlan_port;
        let underlay = family(WHAT, "underlay", cluster.underlay)?;
        let voters = cluster.voters;
        let too_many = || invalid(WHAT, "voters", &voters.to_string(), "a number of voters");
        Ok(Self {
            id: parse(WHAT, "id", &cluster.id, "32 hexadecimal digits")?,
            created_ms: cluster.created_ms,
            pools: cluster.pools.into_iter().map(Pool::try_from).collect::<Result<_, _>>()?,
            pool6: parse(WHAT, "pool6", &cluster.pool6, "an IPv6 prefix")?,
            vxlan_port: port.try_into().map_err(|_| invalid(WHAT, "vxlan_port", &port.to_string(), "a port"))?,
            feature_level: cluster.feature_level,
            underlay,
            voters: (voters != 0).then(|| voters.try_into()).transpose().map_err(|_| too_many())?,
            replace_after_ms: (cluster.replace_after_ms != 0).then_some(cluster.replace_after_ms),
            authorities: cluster.authorities,
            crossed: cluster.crossed,
            authority: cluster.authority,
            locked: cluster.locked,
        })
    }
}

pub(super) fn family(what: &'static str, field: &'static str, family: i32) -> Result<Family, CodecError> {
    match v1::AddressFamily::try_from(family) {
        Ok(v1::AddressFamily::Ipv4) => Ok(Family::V4),
        Ok(v1::AddressFamily::Ipv6) => Ok(Family::V6),
        Ok(v1::AddressFamily::Unspecified) | Err(_) => {
            Err(invalid(what, field, &family.to_string(), "an address family"))
        }
    }
}

impl From<Family> for v1::AddressFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ipv4,
            Family::V6 => Self::Ipv6,
        }
    }
}

impl From<&Pool> for v1::Pool {
    fn from(pool: &Pool) -> Self {
        Self { cidr: pool.cidr.to_string(), prefix: pool.prefix.into() }
    }
}

impl TryFrom<v1::Pool> for Pool {
    type Error = CodecError;

    fn try_from(pool: v1::Pool) -> Result<Self, CodecError> {
        let prefix = pool.prefix;
        let prefix =
            prefix.try_into().map_err(|_| invalid("pool", "prefix", &prefix.to_string(), "a prefix length"))?;
        Ok(Self { cidr: parse("pool", "cidr", &pool.cidr, "an IPv4 prefix such as 10.0.0.0/8")?, prefix })
    }
}

impl From<NodeState> for v1::NodeState {
    fn from(state: NodeState) -> Self {
        match state {
            NodeState::Joining => Self::Joining,
            NodeState::Ready => Self::Ready,
            NodeState::Down => Self::Down,
        }
    }
}

pub(super) fn node_state(what: &'static str, state: i32) -> Result<NodeState, CodecError> {
    match v1::NodeState::try_from(state) {
        Ok(v1::NodeState::Joining) => Ok(NodeState::Joining),
        Ok(v1::NodeState::Ready) => Ok(NodeState::Ready),
        Ok(v1::NodeState::Down) => Ok(NodeState::Down),
        Ok(v1::NodeState::Unspecified) | Err(_) => Err(invalid(what, "state", &state.to_string(), "a node's state")),
    }
}

impl From<&Node> for v1::Node {
    fn from(node: &Node) -> Self {
        Self {
            id: node.id.0,
            raft_id: node.raft_id.0,
            name: node.name.clone(),
            advertise: node.advertise.to_string(),
            data_addr: node.data_addr.to_string(),
            public_key: node.public_key.to_vec(),
            labels: node.labels.clone(),
            version: node.version.clone(),
            feature_level: node.feature_level,
            state: v1::NodeState::from(node.state).into(),
            joined_ms: node.joined_ms,
            routes: node.routes.iter().map(Into::into).collect(),
            underlay_mtu: node.underlay_mtu,
            egress_subnets: texts(&node.egress_subnets),
            attempt: node.attempt,
            engine: node.engine.clone(),
            voting: v1::Voting::from(node.voting).into(),
            voter_only: node.voter_only,
            authority: node.authority,
            certificate_until_ms: node.certificate_until_ms,
        }
    }
}

impl TryFrom<v1::Node> for Node {
    type Error = CodecError;

    fn try_from(node: v1::Node) -> Result<Self, CodecError> {
        const WHAT: &str = "node";
        Ok(Self {
            id: NodeId(node.id),
            raft_id: RaftId(node.raft_id),
            name: node.name,
            advertise: parse(WHAT, "advertise", &node.advertise, ENDPOINT_ADDRESS)?,
            data_addr: parse(WHAT, "data_addr", &node.data_addr, ADDRESS)?,
            public_key: public_key(WHAT, &node.public_key)?,
            labels: node.labels,
            version: node.version,
            feature_level: node.feature_level,
            state: node_state(WHAT, node.state)?,
            joined_ms: node.joined_ms,
            routes: node.routes.into_iter().map(Route::try_from).collect::<Result<_, _>>()?,
            underlay_mtu: node.underlay_mtu,
            egress_subnets: prefixes(WHAT, "egress_subnets", &node.egress_subnets)?,
            attempt: node.attempt,
            engine: node.engine,
            voting: voting(WHAT, node.voting)?,
            voter_only: node.voter_only,
            authority: node.authority,
            certificate_until_ms: node.certificate_until_ms,
        })
    }
}

pub(super) fn public_key(what: &'static str, key: &[u8]) -> Result<[u8; 32], CodecError> {
    let wrong = || invalid(what, "public_key", &format!("{} bytes", key.len()), "32 bytes");
    key.try_into().map_err(|_| wrong())
}

pub(super) fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

pub(super) fn prefixes(what: &'static str, field: &'static str, texts: &[String]) -> Result<Vec<IpNet>, CodecError> {
    texts.iter().map(|text| parse(what, field, text, PREFIX)).collect()
}

pub(super) fn addresses(what: &'static str, texts: &[String]) -> Result<Vec<IpAddr>, CodecError> {
    texts.iter().map(|text| parse(what, "addresses", text, ADDRESS)).collect()
}

impl From<&Route> for v1::Route {
    fn from(route: &Route) -> Self {
        Self { destination: route.destination.to_string(), device: route.device.clone() }
    }
}

impl TryFrom<v1::Route> for Route {
    type Error = CodecError;

    fn try_from(route: v1::Route) -> Result<Self, CodecError> {
        Ok(Self { destination: parse("route", "destination", &route.destination, PREFIX)?, device: route.device })
    }
}

impl From<&Subnet> for v1::Subnet {
    fn from(subnet: &Subnet) -> Self {
        Self {
            cidr: subnet.cidr.to_string(),
            gateway: subnet.gateway.to_string(),
            ip_range: subnet.ip_range.map_or_else(String::new, |range| range.to_string()),
        }
    }
}

impl TryFrom<v1::Subnet> for Subnet {
    type Error = CodecError;

    fn try_from(subnet: v1::Subnet) -> Result<Self, CodecError> {
        Ok(Self {
            cidr: parse("subnet", "cidr", &subnet.cidr, PREFIX)?,
            gateway: parse("subnet", "gateway", &subnet.gateway, ADDRESS)?,
            ip_range: parse_optional("subnet", "ip_range", &subnet.ip_range, PREFIX)?,
        })
    }
}

impl From<&Network> for v1::Network {
    fn from(network: &Network) -> Self {
        Self {
            id: network.id.0,
            name: network.name.clone(),
            vni: network.vni.get(),
            subnets: network.subnets.iter().map(Into::into).collect(),
            mtu: network.mtu,
            internal: network.internal,
            labels: network.labels.clone(),
            created_ms: network.created_ms,
            engine_node: network.engine.map_or(0, |node| node.0),
            provisional: network.provisional,
        }
    }
}

impl TryFrom<v1::Network> for Network {
    type Error = CodecError;

    fn try_from(network: v1::Network) -> Result<Self, CodecError> {
        Ok(Self {
            id: NetworkId(network.id),
            name: network.name,
            vni: vni("network", network.vni)?,
            subnets: network.subnets.into_iter().map(Subnet::try_from).collect::<Result<_, _>>()?,
            mtu: network.mtu,
            internal: network.internal,
            labels: network.labels,
            created_ms: network.created_ms,
            engine: (network.engine_node != 0).then_some(NodeId(network.engine_node)),
            provisional: network.provisional,
        })
    }
}

impl From<&Claim> for v1::Claim {
    fn from(claim: &Claim) -> Self {
        Self {
            cidr: claim.cidr.to_string(),
            ip_range: claim.ip_range.map_or_else(String::new, |range| range.to_string()),
            node: claim.node.0,
            until_ms: claim.until_ms,
        }
    }
}

impl TryFrom<v1::Claim> for Claim {
    type Error = CodecError;

    fn try_from(claim: v1::Claim) -> Result<Self, CodecError> {
        Ok(Self {
            cidr: parse("claim", "cidr", &claim.cidr, PREFIX)?,
            ip_range: parse_optional("claim", "ip_range", &claim.ip_range, PREFIX)?,
            node: NodeId(claim.node),
            until_ms: claim.until_ms,
        })
    }
}

impl From<&EngineNetwork> for v1::EngineNetwork {
    fn from(known: &EngineNetwork) -> Self {
        let container =
            |c: &EngineContainer| v1::EngineContainer { id: c.id.clone(), name: c.name.clone(), fixed: c.fixed };
        Self {
            network: known.network.0,
            node: known.node.0,
            id: known.id.clone(),
            containers: known.containers.iter().map(container).collect(),
        }
    }
}

impl From<v1::EngineNetwork> for EngineNetwork {
    fn from(known: v1::EngineNetwork) -> Self {
        let container = |c: v1::EngineContainer| EngineContainer { id: c.id, name: c.name, fixed: c.fixed };
        Self {
            network: NetworkId(known.network),
            node: NodeId(known.node),
            id: known.id,
            containers: known.containers.into_iter().map(container).collect(),
        }
    }
}

pub(super) fn vni(what: &'static str, number: u32) -> Result<Vni, CodecError> {
    Vni::new(number).ok_or_else(|| invalid(what, "vni", &number.to_string(), "a number from 1 to 16777215"))
}

impl From<EndpointState> for v1::EndpointState {
    fn from(state: EndpointState) -> Self {
        match state {
            EndpointState::Pending => Self::Pending,
            EndpointState::Active => Self::Active,
            EndpointState::Stopped => Self::Stopped,
        }
    }
}

impl From<&Endpoint> for v1::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            id: endpoint.id.0,
            network: endpoint.network.0,
            node: endpoint.node.0,
            name: endpoint.name.clone(),
            container_id: endpoint.container_id.clone(),
            aliases: endpoint.aliases.clone(),
            mac: endpoint.mac.to_string(),
            addresses: texts(&endpoint.addresses),
            state: v1::EndpointState::from(endpoint.state).into(),
            sandbox: Some((&endpoint.sandbox).into()),
            ifname: endpoint.ifname.clone(),
            egress: endpoint.egress.as_ref().map(Into::into),
            created_ms: endpoint.created_ms,
            epoch: endpoint.epoch,
            engine_id: endpoint.engine_id.clone(),
            ports: endpoint.ports.clone(),
        }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = CodecError;

    fn try_from(endpoint: v1::Endpoint) -> Result<Self, CodecError> {
        const WHAT: &str = "endpoint";
        let state = match endpoint.state() {
            v1::EndpointState::Pending => EndpointState::Pending,
            v1::EndpointState::Active => EndpointState::Active,
            v1::EndpointState::Stopped => EndpointState::Stopped,
            v1::EndpointState::Unspecified => {
                return Err(invalid(WHAT, "state", &endpoint.state.to_string(), "an endpoint's state"));
            }
        };
        Ok(Self {
            id: EndpointId(endpoint.id),
            network: NetworkId(endpoint.network),
            node: NodeId(endpoint.node),
            name: endpoint.name,
            container_id: endpoint.container_id,
            aliases: endpoint.aliases,
            mac: parse(WHAT, "mac", &endpoint.mac, MAC)?,
            addresses: addresses(WHAT, &endpoint.addresses)?,
            state,
            sandbox: required(WHAT, "sandbox", endpoint.sandbox)?.into(),
            ifname: endpoint.ifname,
            egress: endpoint.egress.map(Into::into),
            created_ms: endpoint.created_ms,
            epoch: endpoint.epoch,
            engine_id: endpoint.engine_id,
            ports: endpoint.ports,
        })
    }
}

impl From<&Sandbox> for v1::Sandbox {
    fn from(sandbox: &Sandbox) -> Self {
        Self { netns: sandbox.netns.clone(), key: sandbox.key.clone() }
    }
}

impl From<v1::Sandbox> for Sandbox {
    fn from(sandbox: v1::Sandbox) -> Self {
        Self { netns: sandbox.netns, key: sandbox.key }
    }
}

impl From<&EgressInterface> for v1::EgressInterface {
    fn from(egress: &EgressInterface) -> Self {
        Self { ifname: egress.ifname.clone(), host: egress.host }
    }
}

impl From<v1::EgressInterface> for EgressInterface {
    fn from(egress: v1::EgressInterface) -> Self {
        Self { ifname: egress.ifname, host: egress.host }
    }
}

/// A lease as the API shows it.
pub fn lease_view(lease: &Lease, clock_ms: u64) -> v1::Lease {
    let mut view = v1::Lease::from(lease);
    view.set_state(lease_state(lease, clock_ms));
    view
}

/// A lease's state as the API shows it: one that has cooled down by `clock_ms`, the state's clock, is free.
pub fn lease_state(lease: &Lease, clock_ms: u64) -> v1::LeaseState {
    match lease.state {
        LeaseState::Cooling { until_ms } if until_ms <= clock_ms => v1::LeaseState::Free,
        state => state.into(),
    }
}

impl From<LeaseState> for v1::LeaseState {
    fn from(state: LeaseState) -> Self {
        match state {
            LeaseState::Reserved => Self::Reserved,
            LeaseState::Pending => Self::Pending,
            LeaseState::Active => Self::Active,
            LeaseState::Kept => Self::Kept,
            LeaseState::Cooling { .. } => Self::Cooling,
        }
    }
}

impl From<&Lease> for v1::Lease {
    fn from(lease: &Lease) -> Self {
        let until_ms = if let LeaseState::Cooling { until_ms } = lease.state { until_ms } else { 0 };
        Self {
            network: lease.network.0,
            address: lease.address.to_string(),
            epoch: lease.epoch,
            state: v1::LeaseState::from(lease.state).into(),
            endpoint: lease.endpoint.map_or(0, |id| id.0),
            node: lease.node.map_or(0, |id| id.0),
            name: lease.name.clone(),
            since_ms: lease.since_ms,
            until_ms,
            previous: lease.previous.iter().map(Into::into).collect(),
            reserved_for: lease.reserved_for.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::Lease> for Lease {
    type Error = CodecError;

    /// A lease that is shown as free is one that cooled down.
    fn try_from(lease: v1::Lease) -> Result<Self, CodecError> {
        const WHAT: &str = "lease";
        let state = match lease.state() {
            v1::LeaseState::Reserved => LeaseState::Reserved,
            v1::LeaseState::Pending => LeaseState::Pending,
            v1::LeaseState::Active => LeaseState::Active,
            v1::LeaseState::Kept => LeaseState::Kept,
            v1::LeaseState::Cooling | v1::LeaseState::Free => LeaseState::Cooling { until_ms: lease.until_ms },
            v1::LeaseState::Unspecified => {
                return Err(invalid(WHAT, "state", &lease.state.to_string(), "a lease's state"));
            }
        };
        Ok(Self {
            network: NetworkId(lease.network),
            address: parse(WHAT, "address", &lease.address, ADDRESS)?,
            epoch: lease.epoch,
            state,
            endpoint: (lease.endpoint != 0).then_some(EndpointId(lease.endpoint)),
            node: (lease.node != 0).then_some(NodeId(lease.node)),
            name: lease.name,
            since_ms: lease.since_ms,
            reserved_for: (!lease.reserved_for.is_empty()).then_some(lease.reserved_for),
            previous: lease.previous.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<&PastHolder> for v1::PastHolder {
    fn from(holder: &PastHolder) -> Self {
        Self { name: holder.name.clone(), node: holder.node.0, from_ms: holder.from_ms, to_ms: holder.to_ms }
    }
}

impl From<v1::PastHolder> for PastHolder {
    fn from(holder: v1::PastHolder) -> Self {
        Self { name: holder.name, node: NodeId(holder.node), from_ms: holder.from_ms, to_ms: holder.to_ms }
    }
}
