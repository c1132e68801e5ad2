//! `pontoon network`.

use jiff::Timestamp;
use pontoon_proto::v1::{InspectNetworkResponse, Lease, Network, NetworkView, Subnet};

use super::{ago, block, endpoint, labels, list as join, or_none, section, since, table};

/// All networks.
pub(crate) fn list(networks: &[NetworkView], now: Timestamp) -> String {
    let rows = networks.iter().map(|view| {
        let Network { id, name, vni, subnets, mtu, internal, created_ms, .. } =
            view.network.clone().unwrap_or_default();
        let subnets: Vec<_> = subnets.into_iter().map(|subnet| subnet.cidr).collect();
        let internal = if internal { "yes" } else { "no" }.to_owned();
        let (containers, created) = (view.endpoints.to_string(), ago(created_ms, now));
        [id.to_string(), name, vni.to_string(), join(&subnets), mtu.to_string(), internal, containers, created]
    });
    table(&["ID", "NAME", "VNI", "SUBNET", "MTU", "INTERNAL", "CONTAINERS", "CREATED"], rows)
}

/// One network, the containers of every host on it and the addresses kept for names.
pub(crate) fn inspect(answer: &InspectNetworkResponse, now: Timestamp) -> String {
    let network = answer.network.clone().unwrap_or_default();
    let subnets: Vec<_> = network.subnets.iter().map(subnet).collect();
    let text = block(&[
        ("Name", network.name),
        ("Id", network.id.to_string()),
        ("VNI", network.vni.to_string()),
        ("Subnets", or_none(&subnets.join("\n"))),
        ("MTU", network.mtu.to_string()),
        ("Internal", if network.internal { "yes: no way out" } else { "no" }.to_owned()),
        ("Labels", labels(&network.labels)),
        ("Created", since(network.created_ms, now)),
    ]);
    let containers = section("Containers", &endpoint::on_network(&answer.endpoints));
    text + &containers + &section("Reserved", &reserved(&answer.reserved))
}

fn subnet(subnet: &Subnet) -> String {
    let Subnet { cidr, gateway, ip_range } = subnet;
    let range = if ip_range.is_empty() { String::new() } else { format!(", hands out {ip_range}") };
    format!("{cidr}, gateway {gateway}{range}")
}

fn reserved(leases: &[Lease]) -> String {
    if leases.is_empty() {
        return String::new();
    }
    let rows = leases.iter().map(|lease| {
        let name = if lease.reserved_for.is_empty() { &lease.name } else { &lease.reserved_for };
        [lease.address.clone(), or_none(name)]
    });
    table(&["ADDRESS", "FOR"], rows)
}
