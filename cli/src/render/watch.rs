//! What changes, a line for each object.

use pontoon_proto::v1::object::Object as Kind;
use pontoon_proto::v1::watch_response::Event;
use pontoon_proto::v1::{EndpointState, LeaseState, NodeState, Object, ObjectKey, ObjectKind, WatchResponse};

use super::{list, name, or_none};

/// One event: what there is, what was made or changed, and what is gone.
pub(crate) fn event(response: &WatchResponse) -> String {
    match &response.event {
        Some(Event::Snapshot(part)) => part.objects.iter().map(|object| put(part.index, "is", object)).collect(),
        Some(Event::Changes(changes)) => {
            let made = changes.put.iter().map(|object| put(changes.index, "put", object));
            made.chain(changes.deleted.iter().map(|key| deleted(changes.index, key))).collect()
        }
        // Nothing to see.
        Some(Event::Progress(_)) | None => String::new(),
    }
}

fn line(index: u64, what: &str, kind: &str, about: &str, details: &str) -> String {
    let line = format!("{index:>8}  {what:<4}  {kind:<14}  {about}  {details}");
    format!("{}\n", line.trim_end())
}

fn put(index: u64, what: &str, object: &Object) -> String {
    let line = |kind: &str, about: &str, details: String| line(index, what, kind, about, &details);
    match &object.object {
        Some(Kind::Cluster(cluster)) => line("cluster", &cluster.id, String::new()),
        Some(Kind::Node(node)) => {
            line("node", &node.name, format!("{} {}", node.data_addr, name::<NodeState>(node.state)))
        }
        Some(Kind::Network(network)) => {
            let subnets: Vec<String> = network.subnets.iter().map(|subnet| subnet.cidr.clone()).collect();
            line("network", &network.name, format!("{} vni {}", list(&subnets), network.vni))
        }
        Some(Kind::Endpoint(endpoint)) => {
            let state = name::<EndpointState>(endpoint.state);
            let on = format!("on network {} and node {}", endpoint.network, endpoint.node);
            line("endpoint", &endpoint.name, format!("{} {state} {on}", list(&endpoint.addresses)))
        }
        Some(Kind::Lease(lease)) => {
            let state = name::<LeaseState>(lease.state);
            line("lease", &lease.address, format!("{state} {} of network {}", or_none(&lease.name), lease.network))
        }
        Some(Kind::Claim(claim)) => line("claim", &claim.cidr, format!("by node {}", claim.node)),
        Some(Kind::EngineNetwork(known)) => {
            let containers = known.containers.len();
            let details = format!("of network {} on node {}, {containers} containers", known.network, known.node);
            line("engine-network", &known.id, details)
        }
        // Of a later version.
        None => line("?", "-", String::new()),
    }
}

fn deleted(index: u64, key: &ObjectKey) -> String {
    let line = |about: &str, details: String| {
        line(index, "gone", &name::<ObjectKind>(key.kind).replace('_', "-"), about, &details)
    };
    match key.kind() {
        ObjectKind::Lease => line(&key.address, format!("of network {}", key.network)),
        ObjectKind::Claim => line(&key.cidr, String::new()),
        ObjectKind::EngineNetwork => line("-", format!("of network {} on node {}", key.network, key.node)),
        _ => line(&key.id.to_string(), String::new()),
    }
}
