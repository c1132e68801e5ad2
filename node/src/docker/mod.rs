//! Docker: its engine calls this daemon to make networks and endpoints, and this daemon calls the engine to keep the
//! cluster's networks there.
//!
//! - `plugin`, `wire`: the plugin socket and its messages
//! - `network`, `ipam`: what the two halves of the driver do
//! - `rebind`: endpoints that an engine takes into use again, also without a majority
//! - `containers`: what is known of containers before the cluster knows it
//! - `engine`: what is asked of the engine
//! - `leave`: what is done in the engine when the node leaves its cluster
//! - `look`: what a diagnosis asks the engine and our own socket
//! - `sync`: the loop that keeps the engine as the cluster wants it; `plan::engine` decides
//!
//! A handler of the plugin socket never calls the engine: the engine may hold a lock until the handler answers.

mod containers;
mod engine;
mod ipam;
mod leave;
mod look;
mod network;
mod plugin;
mod rebind;
mod sync;
mod wire;

use std::net::IpAddr;

use ipnet::IpNet;
use pontoon_store::model::rejection::Reason;
use tonic::Code;

use crate::api::error::ApiError;
use crate::member::Member;

pub(crate) use containers::Containers;
pub(crate) use leave::clean_up;
pub(crate) use look::{engine as look_at_engine, plugin as look_at_plugin};
pub(crate) use plugin::serve;
pub(crate) use sync::{Sync, run};

/// Name of the network driver and of the IPAM driver.
pub(crate) const DRIVER: &str = "pontoon";
/// Option of a network that is made for one that the cluster has: its id. Engines show it as an option of the driver,
/// and give it to the IPAM driver again when they restart.
pub(crate) const NETWORK_OPTION: &str = "pontoon.network";
/// Option of such a network: the id of its cluster. Ids of networks are small numbers, which every cluster has.
pub(crate) const CLUSTER_OPTION: &str = "pontoon.cluster";

/// Refuses what is asked for a network that was made for another cluster, if the option says for which.
fn check_cluster(member: &Member, option: Option<&str>) -> Result<(), ApiError> {
    let own = member.cluster().to_string();
    let Some(other) = option.filter(|option| **option != own) else { return Ok(()) };
    let message = format!("this network was made for the cluster {other:?}, and this host is in {own}");
    let hint = "docker network rm removes it; to have one of this cluster, leave the options pontoon.* out";
    Err(ApiError::new(Code::NotFound, Reason::NetworkNotFound.as_str(), message, hint))
}

fn parse_cidr(text: &str) -> Result<IpNet, ApiError> {
    let hint = "give a prefix such as 10.0.0.0/24";
    text.parse().map_err(|_| ApiError::invalid(Reason::InvalidSubnet, format!("{text:?} is no subnet"), hint))
}

/// An address, with or without a prefix length.
fn parse_address(text: &str) -> Result<IpAddr, ApiError> {
    let address = text.split('/').next().unwrap_or_default();
    let hint = "give an address such as 10.0.0.2";
    address.parse().map_err(|_| ApiError::invalid(Reason::InvalidAddress, format!("{text:?} is no address"), hint))
}
