//! The way to the other nodes: what size of packet gets through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pontoon_store::model::id::NodeId;
use pontoon_store::model::object::{Network, Node, NodeState};

use super::cluster::{Greeting, Place};
use super::{Check, Finding};

/// Sizes of IP packets, in bytes, by the data address of the node that they are for.
pub type Sizes = BTreeMap<IpAddr, BTreeSet<u32>>;

/// Sizes that are tried below the full one, in bytes: what Ethernet, PPPoE and tunnels of all kinds leave, and the least that
/// every host must take (RFC 791, RFC 8200).
const USUAL: [u32; 13] = [8950, 1500, 1492, 1480, 1476, 1460, 1450, 1440, 1420, 1400, 1380, 1280, 576];

/// Sizes of IP packets to send to the data addresses of the other nodes that are ready: the full size of the underlay,
/// those that the networks need, and smaller ones, to tell where it ends. `mtu`: of this node's underlay, 0: none.
pub fn path_sizes(place: &Place<'_>, mtu: u32) -> Sizes {
    let needs: Vec<u32> = place.state.networks.values().map(|network| needs(place, network)).collect();
    let sizes = |node: &Node| {
        // The largest packet that both ends can have.
        let full = mtu.min(node.underlay_mtu);
        let smaller = USUAL.iter().chain(&needs).copied().filter(|size| *size < full);
        (node.data_addr, smaller.chain([full]).collect())
    };
    if mtu == 0 { BTreeMap::new() } else { ready(place).map(sizes).collect() }
}

fn ready<'a>(place: &Place<'a>) -> impl Iterator<Item = &'a Node> + use<'a> {
    place.others().filter(|node| node.state == NodeState::Ready && node.underlay_mtu != 0)
}

/// The size of a network's largest packets in the underlay.
fn needs(place: &Place<'_>, network: &Network) -> u32 {
    network.mtu + place.state.cluster.as_ref().map_or(0, |cluster| cluster.underlay.vxlan_overhead())
}

/// Whether packets of full size get through to every other node that is ready. `asked`: what was sent; `answered`: those of
/// them that were answered.
pub fn paths(
    place: &Place<'_>,
    asked: &Sizes,
    answered: &Result<Sizes, String>,
    greetings: &BTreeMap<NodeId, Result<Greeting, String>>,
) -> Vec<Finding> {
    let answered = match answered {
        _ if asked.is_empty() => return Vec::new(),
        Ok(answered) => answered,
        Err(why) => {
            let evidence = format!("what size of packet gets through to the other nodes could not be tried: {why}");
            let cure = "give pontoond CAP_NET_RAW, as its systemd unit does";
            return vec![Finding::warning(Check::Mtu, evidence, cure)];
        }
    };
    let of = |node: &Node| {
        let greeted = matches!(greetings.get(&node.id), Some(Ok(greeting)) if place.is(greeting, node.id));
        let (full, sizes) = (asked.get(&node.data_addr)?.last()?, answered.get(&node.data_addr)?);
        path(place, node, *full, sizes, greeted).map(|finding| finding.about(&node.name))
    };
    ready(place).filter_map(of).collect()
}

/// `greeted`: the node's daemon answers.
fn path(place: &Place<'_>, node: &Node, full: u32, answered: &BTreeSet<u32>, greeted: bool) -> Option<Finding> {
    let (name, address) = (&node.name, node.data_addr);
    let Some(largest) = answered.last().copied() else {
        // That it is away is told elsewhere.
        let header = if address.is_ipv4() { 28 } else { 48 };
        let evidence = format!(
            "node {name} does not answer echo requests at {address}: what size of packet gets there is not known"
        );
        let cure = format!(
            "let ICMP through between the hosts, and look whether they reach each other at all: ping -M do -s {} {address}",
            full - header
        );
        return greeted.then(|| Finding::warning(Check::Mtu, evidence, cure));
    };
    if largest == full {
        let evidence = format!("packets of {full} bytes get through to node {name} ({address})");
        return Some(Finding::ok(Check::Mtu, evidence));
    }
    let evidence = format!(
        "packets of {largest} bytes get through to node {name} ({address}), and of {full} bytes they do not, though the \
         underlay has that MTU here and there"
    );
    let cure =
        format!("raise the MTU of what is on the way to {name} to {full}, or lower that of both hosts' underlay");
    let lost = |network: &&Network| (largest + 1..=full).contains(&needs(place, network));
    let lost: Vec<&str> = place.state.networks.values().filter(lost).map(|network| network.name.as_str()).collect();
    if lost.is_empty() {
        return Some(Finding::warning(Check::Mtu, evidence, cure));
    }
    let overhead = place.state.cluster.as_ref().map_or(0, |cluster| cluster.underlay.vxlan_overhead());
    let evidence = format!("{evidence}: large packets of {} are lost there", lost.join(", "));
    let cure = format!("{cure}; or make the network again with --mtu {}", largest.saturating_sub(overhead));
    Some(Finding::failure(Check::Mtu, evidence, cure))
}
