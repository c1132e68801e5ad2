//! `pontoon lease`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pontoon_proto::v1::{InspectLeaseResponse, LeaseState, LeaseView, PastHolder};

use super::{ago, block, name, or_none, section, since, table, time};

/// Leases.
pub(crate) fn list(leases: &[LeaseView], now: Timestamp) -> String {
    let rows = leases.iter().map(|view| {
        let lease = view.lease.clone().unwrap_or_default();
        let (state, holder) = (name::<LeaseState>(lease.state), or_none(&lease.name));
        let (node, mac) = (or_none(&view.node_name), or_none(&view.mac));
        [view.network_name.clone(), lease.address, state, holder, node, mac, ago(lease.since_ms, now)]
    });
    table(&["NETWORK", "ADDRESS", "STATE", "NAME", "NODE", "MAC", "SINCE"], rows)
}

/// One address: who has it, since when, and who had it before.
pub(crate) fn inspect(answer: &InspectLeaseResponse, now: Timestamp) -> String {
    let view = answer.lease.clone().unwrap_or_default();
    let lease = view.lease.unwrap_or_default();
    let mut lines = vec![
        ("Address", lease.address),
        ("Network", format!("{} (id {})", view.network_name, lease.network)),
        ("State", name::<LeaseState>(lease.state)),
        ("Since", since(lease.since_ms, now)),
    ];
    if lease.until_ms > 0 {
        lines.push(("Until", since(lease.until_ms, now)));
    }
    let node = match (lease.node, view.node_name.as_str()) {
        (0, _) => or_none(""),
        (id, "") => format!("id {id}, removed"),
        (id, name) => format!("{name} (id {id})"),
    };
    lines.extend([
        ("Name", or_none(&lease.name)),
        ("Node", node),
        ("MAC", or_none(&view.mac)),
        ("Reserved for", or_none(&lease.reserved_for)),
        ("Epoch", lease.epoch.to_string()),
    ]);
    block(&lines) + &section("Before", &previous(&lease.previous, &view.previous_nodes))
}

fn previous(holders: &[PastHolder], nodes: &BTreeMap<u64, String>) -> String {
    if holders.is_empty() {
        return String::new();
    }
    let rows = holders.iter().map(|holder| {
        let PastHolder { name, node, from_ms, to_ms } = holder;
        let node = nodes.get(node).cloned().unwrap_or_else(|| format!("id {node}, removed"));
        [name.clone(), node, time(*from_ms), time(*to_ms)]
    });
    table(&["NAME", "NODE", "FROM", "TO"], rows)
}
