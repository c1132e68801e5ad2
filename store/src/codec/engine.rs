//! Commands about what container engines ask for.

use pontoon_proto::v1;

use crate::model::command::{ClaimSubnet, HoldAddress, PlaceEndpoint, RebindEndpoint};
use crate::model::id::{EndpointId, NetworkId, NodeId};

use super::error::{ADDRESS, CodecError, MAC, PREFIX, parse_optional, required};
use super::object::family;

impl From<&ClaimSubnet> for v1::ClaimSubnet {
    fn from(wanted: &ClaimSubnet) -> Self {
        Self {
            node: wanted.node.0,
            family: v1::AddressFamily::from(wanted.family).into(),
            cidr: wanted.cidr.map_or_else(String::new, |cidr| cidr.to_string()),
            ip_range: wanted.ip_range.map_or_else(String::new, |range| range.to_string()),
        }
    }
}

impl TryFrom<v1::ClaimSubnet> for ClaimSubnet {
    type Error = CodecError;

    fn try_from(wanted: v1::ClaimSubnet) -> Result<Self, CodecError> {
        const WHAT: &str = "claim_subnet";
        Ok(Self {
            node: NodeId(wanted.node),
            family: family(WHAT, "family", wanted.family)?,
            cidr: parse_optional(WHAT, "cidr", &wanted.cidr, PREFIX)?,
            ip_range: parse_optional(WHAT, "ip_range", &wanted.ip_range, PREFIX)?,
        })
    }
}

impl From<&HoldAddress> for v1::HoldAddress {
    fn from(wanted: &HoldAddress) -> Self {
        Self {
            network: wanted.network.0,
            node: wanted.node.0,
            family: v1::AddressFamily::from(wanted.family).into(),
            address: wanted.address.map_or_else(String::new, |address| address.to_string()),
            name: wanted.name.clone(),
        }
    }
}

impl TryFrom<v1::HoldAddress> for HoldAddress {
    type Error = CodecError;

    fn try_from(wanted: v1::HoldAddress) -> Result<Self, CodecError> {
        const WHAT: &str = "hold_address";
        Ok(Self {
            network: NetworkId(wanted.network),
            node: NodeId(wanted.node),
            family: family(WHAT, "family", wanted.family)?,
            address: parse_optional(WHAT, "address", &wanted.address, ADDRESS)?,
            name: wanted.name,
        })
    }
}

impl From<&PlaceEndpoint> for v1::PlaceEndpoint {
    fn from(placed: &PlaceEndpoint) -> Self {
        Self {
            endpoint: placed.endpoint.0,
            epoch: placed.epoch,
            name: placed.name.clone(),
            container_id: placed.container_id.clone(),
            aliases: placed.aliases.clone(),
            sandbox: Some((&placed.sandbox).into()),
            ifname: placed.ifname.clone(),
            ports: placed.ports.clone(),
        }
    }
}

impl TryFrom<v1::PlaceEndpoint> for PlaceEndpoint {
    type Error = CodecError;

    fn try_from(placed: v1::PlaceEndpoint) -> Result<Self, CodecError> {
        Ok(Self {
            endpoint: EndpointId(placed.endpoint),
            epoch: placed.epoch,
            name: placed.name,
            container_id: placed.container_id,
            aliases: placed.aliases,
            sandbox: required("place_endpoint", "sandbox", placed.sandbox)?.into(),
            ifname: placed.ifname,
            ports: placed.ports,
        })
    }
}

impl From<&RebindEndpoint> for v1::RebindEndpoint {
    fn from(rebound: &RebindEndpoint) -> Self {
        Self {
            endpoint: rebound.endpoint.0,
            epoch: rebound.epoch,
            engine_id: rebound.engine_id.clone(),
            mac: rebound.mac.map_or_else(String::new, |mac| mac.to_string()),
        }
    }
}

impl TryFrom<v1::RebindEndpoint> for RebindEndpoint {
    type Error = CodecError;

    fn try_from(rebound: v1::RebindEndpoint) -> Result<Self, CodecError> {
        Ok(Self {
            endpoint: EndpointId(rebound.endpoint),
            epoch: rebound.epoch,
            engine_id: rebound.engine_id,
            mac: parse_optional("rebind_endpoint", "mac", &rebound.mac, MAC)?,
        })
    }
}
