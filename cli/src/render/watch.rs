//! What changes, a line for each object.

use pontoon_proto::v1::object::Object as Kind;
use pontoon_proto::v1::watch_response::Event;
use pontoon_proto::v1::{EndpointState, LeaseState, NodeState, Object, ObjectKey, ObjectKind, Role, WatchResponse};

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
        Some(Kind::Token(token)) => line("token", &token.id, format!("used by {} of {}", token.used, token.uses)),
        Some(Kind::Admin(admin)) => line("admin", &admin.name, name::<Role>(admin.role)),
        Some(Kind::Audited(audited)) => {
            let who = audited.origin.as_ref().map_or("-", |origin| &origin.who);
            line("audited", who, audited.what.clone())
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
        ObjectKind::Token => line(&format!("{:016x}", key.id), String::new()),
        ObjectKind::EngineNetwork => line("-", format!("of network {} on node {}", key.network, key.node)),
        _ => line(&key.id.to_string(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{Endpoint, Lease, Network, Subnet, WatchChanges, WatchProgress, WatchSnapshot};

    use super::*;

    fn shown(event: Event) -> String {
        super::event(&WatchResponse { event: Some(event) })
    }

    #[test]
    fn each_object_has_a_line() {
        let subnets = vec![Subnet { cidr: "10.0.0.0/24".into(), ..Subnet::default() }];
        let network = Network { name: "web".into(), subnets, vni: 65_536, ..Network::default() };
        let object = |object| Object { object: Some(object) };
        let there = WatchSnapshot {
            index: 12,
            objects: vec![object(Kind::Network(network))],
            last: true,
            ..Default::default()
        };
        assert_eq!(shown(Event::Snapshot(there)), "      12  is    network         web  10.0.0.0/24 vni 65536\n");
        let endpoint = Endpoint {
            name: "c1".into(),
            addresses: vec!["10.0.0.2".into()],
            state: EndpointState::Stopped.into(),
            network: 12,
            node: 2,
            ..Endpoint::default()
        };
        let lease =
            Lease { address: "10.0.0.2".into(), state: LeaseState::Kept.into(), network: 12, ..Lease::default() };
        let key = |kind: ObjectKind| ObjectKey { kind: kind.into(), id: 19, ..ObjectKey::default() };
        let changes = WatchChanges {
            index: 20,
            put: vec![object(Kind::Endpoint(endpoint)), object(Kind::Lease(lease)), Object { object: None }],
            deleted: vec![
                key(ObjectKind::Endpoint),
                ObjectKey { network: 12, node: 2, ..key(ObjectKind::EngineNetwork) },
                ObjectKey { network: 12, address: "10.0.0.3".into(), ..key(ObjectKind::Lease) },
            ],
            time_ms: 1,
            more: false,
        };
        let lines = [
            "      20  put   endpoint        c1  10.0.0.2 stopped on network 12 and node 2",
            "      20  put   lease           10.0.0.2  kept - of network 12",
            "      20  put   ?               -",
            "      20  gone  endpoint        19",
            "      20  gone  engine-network  -  of network 12 on node 2",
            "      20  gone  lease           10.0.0.3  of network 12",
        ];
        assert_eq!(shown(Event::Changes(changes)).lines().collect::<Vec<_>>(), lines);
        assert_eq!(shown(Event::Progress(WatchProgress { index: 99, time_ms: 1 })), "");
    }
}
