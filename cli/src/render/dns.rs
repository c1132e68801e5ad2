//! `pontoon dns`.

use jiff::Timestamp;
use pontoon_proto::v1::QueryNameResponse;

use super::{ago, block, list, table};

/// What a name stands for: a row for each address, and as of when.
pub(crate) fn query(answer: &QueryNameResponse, now: Timestamp) -> String {
    let rows = answer.matches.iter().flat_map(|found| {
        let view = found.endpoint.clone().unwrap_or_default();
        let endpoint = view.endpoint.unwrap_or_default();
        found.leases.iter().map(move |lease| {
            let (name, node, aliases) = (endpoint.name.clone(), view.node_name.clone(), list(&endpoint.aliases));
            let (index, since) = (endpoint.epoch.to_string(), ago(lease.since_ms, now));
            [lease.address.clone(), name, aliases, node, since, index, lease.epoch.to_string()]
        })
    });
    let found = table(&["ADDRESS", "CONTAINER", "ALIASES", "NODE", "SINCE", "INDEX", "LEASE EPOCH"], rows);
    let index = answer.freshness.as_ref().map_or(0, |freshness| freshness.applied_index);
    let as_of = [
        ("Network", answer.network_name.clone()),
        ("As of index", index.to_string()),
        ("TTL", format!("{} s", answer.ttl_s)),
    ];
    format!("{found}\n{}", block(&as_of))
}
