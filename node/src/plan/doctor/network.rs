//! The networks and what they lie on: MTU and routes.

use ipnet::IpNet;
use pontoon_store::model::object::{Network, NodeState, Route};

use super::cluster::Place;
use super::host::DOCKER_GATEWAY;
use super::{Check, Finding, count};
use crate::plan::egress::overlaps;
use crate::plan::observed::HostFacts;

/// Whether the networks' packets fit through the underlay of this node and of those that are ready.
pub fn mtu(place: &Place<'_>, facts: &HostFacts) -> Vec<Finding> {
    let (Some(cluster), Some(me)) = (&place.state.cluster, place.state.nodes.get(&place.me)) else { return Vec::new() };
    if facts.underlay_mtu == 0 {
        let vtep = me.data_addr;
        let evidence =
            format!("no interface of this host has its data address {vtep}: no packet of a network comes or goes");
        let cure =
            format!("give an interface the address {vtep} again, or pontoon leave and join with another --data-addr");
        return vec![Finding::failure(Check::Mtu, evidence, cure)];
    }
    let ready = place.others().filter(|node| node.state == NodeState::Ready && node.underlay_mtu != 0);
    let ready: Vec<(&str, u32)> = ready.map(|node| (node.name.as_str(), node.underlay_mtu)).collect();
    let overhead = cluster.underlay.vxlan_overhead();
    let mut found = Vec::new();
    for (name, mtu) in std::iter::once((me.name.as_str(), facts.underlay_mtu)).chain(ready.iter().copied()) {
        let large = place.state.networks.values().filter(|network| network.mtu + overhead > mtu);
        found.extend(large.map(|network| too_large(network, overhead, name, mtu)));
    }
    for (name, mtu) in ready.iter().filter(|(_, mtu)| *mtu != facts.underlay_mtu) {
        let evidence = format!("the underlay of node {name} has MTU {mtu}, this host's has {}", facts.underlay_mtu);
        let cure = "give the underlay of all nodes the same MTU";
        found.push(Finding::warning(Check::Mtu, evidence, cure).about(*name));
    }
    if found.is_empty() {
        let evidence = format!(
            "the underlay has MTU {} here and on {}: {} with {overhead} bytes for VXLAN fit",
            facts.underlay_mtu,
            count(ready.len(), "other node"),
            count(place.state.networks.len(), "network")
        );
        found.push(Finding::ok(Check::Mtu, evidence));
    }
    found
}

fn too_large(network: &Network, overhead: u32, node: &str, mtu: u32) -> Finding {
    let evidence = format!(
        "network {} has MTU {}, which with {overhead} bytes for VXLAN does not fit through node {node} (underlay MTU {mtu}): \
         large packets are lost there",
        network.name, network.mtu
    );
    let cure = format!(
        "on {node}: raise the MTU of the interface that has the data address to {} (ip link set dev NAME mtu {0}), if what it \
         is connected to carries that; or make the network again with --mtu {}",
        network.mtu + overhead,
        mtu.saturating_sub(overhead)
    );
    Finding::failure(Check::Mtu, evidence, cure).about(&network.name)
}

/// Whether a route of this host, or of a node that is ready, overlaps a network.
pub fn routes(place: &Place<'_>, facts: &HostFacts) -> Vec<Finding> {
    let subnets: Vec<(&Network, IpNet)> =
        place.state.networks.values().flat_map(|n| n.subnets.iter().map(move |subnet| (n, subnet.cidr))).collect();
    let mine = place.name();
    let ready: Vec<_> = place.others().filter(|node| node.state == NodeState::Ready).collect();
    let routes = facts.routes.iter().map(|route| (mine.as_str(), route));
    let routes = routes.chain(ready.iter().flat_map(|n| n.routes.iter().map(|route| (n.name.as_str(), route))));
    let (mut found, mut looked) = (Vec::new(), 0_usize);
    for (node, route) in routes {
        looked += 1;
        let hit = subnets.iter().filter(|(_, subnet)| overlaps(route.destination, *subnet));
        found.extend(hit.map(|(network, subnet)| overlap(node, route, network, *subnet)));
    }
    for own in &facts.gateway_subnets {
        let hit = subnets.iter().filter(|(_, subnet)| overlaps(*own, *subnet));
        found.extend(hit.map(|(network, subnet)| shared_way_out(&mine, "the gateway bridge", *own, network, *subnet)));
    }
    if found.is_empty() {
        let (nodes, networks) = (count(ready.len() + 1, "node"), count(subnets.len(), "subnet"));
        let evidence = format!("{} of {nodes}: none overlaps one of {networks}", count(looked, "route"));
        found.push(Finding::ok(Check::Routes, evidence));
    }
    found
}

fn overlap(node: &str, route: &Route, network: &Network, subnet: IpNet) -> Finding {
    if route.device == DOCKER_GATEWAY {
        return shared_way_out(node, DOCKER_GATEWAY, route.destination, network, subnet);
    }
    let evidence = format!(
        "node {node} routes {} by {}, which overlaps network {} ({subnet}): its containers do not reach what is there",
        route.destination, route.device, network.name
    );
    let cure = format!(
        "make the network again with a --subnet that is free on every node, or take the route off {node}: ip route del {} dev {}",
        route.destination, route.device
    );
    Finding::warning(Check::Routes, evidence, cure).about(&network.name)
}

/// A container has an interface on both, and cannot tell which one an address is behind.
fn shared_way_out(node: &str, bridge: &str, on: IpNet, network: &Network, subnet: IpNet) -> Finding {
    let evidence = format!(
        "on node {node}, {bridge} has {on}, which overlaps network {} ({subnet}): containers there are on both, and some \
         addresses cannot be reached",
        network.name
    );
    let cure = if bridge == DOCKER_GATEWAY {
        format!(
            "make the network again with another --subnet; or, once no container of {node} uses it, docker network rm \
             {bridge}: pontoond makes it again with one that is free when it is restarted"
        )
    } else {
        format!(
            "make the network again with another --subnet, or start pontoond on {node} with another --egress-subnet"
        )
    };
    Finding::failure(Check::Routes, evidence, cure).about(&network.name)
}
