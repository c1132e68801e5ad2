//! The messages of Docker's plugin protocol (github.com/moby/moby: daemon/libnetwork/drivers/remote/api,
//! daemon/libnetwork/ipams/remote/api). Engines send fields that are not read here, and leave out what is empty.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `IpamDriver.RequestPool`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RequestPool {
    /// The subnet that the user asks for, or that a restarted engine has; empty: any.
    pub(super) pool: String,
    /// The user's `--ip-range`.
    pub(super) sub_pool: String,
    /// The user's `--ipam-opt`.
    #[serde(deserialize_with = "none_is_empty")]
    pub(super) options: BTreeMap<String, String>,
    /// An IPv6 subnet is wanted.
    pub(super) v6: bool,
}

/// `IpamDriver.ReleasePool`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ReleasePool {
    #[serde(rename = "PoolID")]
    pub(super) pool_id: String,
}

/// `IpamDriver.RequestAddress`, `IpamDriver.ReleaseAddress`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PoolAddress {
    #[serde(rename = "PoolID")]
    pub(super) pool_id: String,
    /// Without a prefix length; empty: any.
    pub(super) address: String,
    #[serde(deserialize_with = "none_is_empty")]
    pub(super) options: BTreeMap<String, String>,
}

/// A network's subnet, as an engine's IPAM keeps it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct IpamData {
    pub(super) address_space: String,
    pub(super) pool: String,
    /// With a prefix length.
    pub(super) gateway: String,
    /// The user's `--aux-address`: names and addresses, which may have a prefix length.
    #[serde(deserialize_with = "none_is_empty")]
    pub(super) aux_addresses: BTreeMap<String, Value>,
}

/// `NetworkDriver.CreateNetwork`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    #[serde(deserialize_with = "none_is_empty")]
    pub(super) options: BTreeMap<String, Value>,
    #[serde(rename = "IPv4Data", deserialize_with = "none_is_empty")]
    pub(super) ipv4_data: Vec<IpamData>,
    #[serde(rename = "IPv6Data", deserialize_with = "none_is_empty")]
    pub(super) ipv6_data: Vec<IpamData>,
}

/// `NetworkDriver.DeleteNetwork`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NetworkRef {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
}

/// The interface of an endpoint: in a request what is given, in an answer what was chosen; what is empty is neither.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Interface {
    /// With a prefix length.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) address: String,
    /// With a prefix length.
    #[serde(rename = "AddressIPv6", skip_serializing_if = "String::is_empty")]
    pub(super) address_ipv6: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) mac_address: String,
}

/// `NetworkDriver.CreateEndpoint`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint_id: String,
    #[serde(deserialize_with = "none_is_empty")]
    pub(super) interface: Interface,
}

/// `NetworkDriver.Join`, `Leave`, `DeleteEndpoint` and `EndpointOperInfo`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct EndpointRef {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint_id: String,
    /// File of the container's network namespace; only `Join` has it, and the file may not be there yet.
    pub(super) sandbox_key: String,
}

/// What `Join` answers: the interface that the engine moves into the container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InterfaceName {
    /// Its name in the host's namespace.
    pub(super) src_name: String,
    /// What its name in the container begins with; a number follows.
    pub(super) dst_prefix: &'static str,
}

/// An engine writes `null` for what it does not have.
fn none_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
