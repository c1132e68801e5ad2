//! `pontoon node`.

use jiff::Timestamp;
use pontoon_proto::v1::{InspectNodeResponse, Member, Node, NodeState, Voting};

use super::{ago, block, endpoint, labels, list as join, name, or_none, section, since, table};

/// All nodes.
pub(crate) fn list(nodes: &[Member], now: Timestamp) -> String {
    let rows = nodes.iter().map(|member| {
        let Node { id, name: node_name, advertise, data_addr, version, state, joined_ms, .. } =
            member.node.clone().unwrap_or_default();
        let (state, joined) = (name::<NodeState>(state), ago(joined_ms, now));
        [id.to_string(), node_name, state, member.role().to_owned(), advertise, data_addr, or_none(&version), joined]
    });
    table(&["ID", "NAME", "STATE", "ROLE", "ADDRESS", "VTEP", "VERSION", "JOINED"], rows)
}

/// What was said of a node's vote.
fn voting(node: &Node) -> &'static str {
    match (node.voting(), node.voter_only) {
        (Voting::Auto, false) => "",
        (Voting::Auto, true) => ", only votes",
        (Voting::Promoted, false) => ", promoted",
        (Voting::Promoted, true) => ", promoted, only votes",
        (Voting::Demoted, false) => ", demoted",
        (Voting::Demoted, true) => ", demoted, only votes",
    }
}

/// One node and its endpoints.
pub(crate) fn inspect(answer: &InspectNodeResponse, now: Timestamp) -> String {
    let member = answer.node.clone().unwrap_or_default();
    let role = member.role();
    let node = member.node.unwrap_or_default();
    let role = [role, voting(&node)].concat();
    let key: String = node.public_key.iter().map(|byte| format!("{byte:02x}")).collect();
    let mtu = if node.underlay_mtu == 0 { "not reported yet".to_owned() } else { node.underlay_mtu.to_string() };
    let routes: Vec<_> =
        node.routes.iter().map(|route| format!("{} dev {}", route.destination, route.device)).collect();
    let text = block(&[
        ("Name", node.name),
        ("Id", node.id.to_string()),
        ("State", name::<NodeState>(node.state)),
        ("Role", role),
        ("Address", node.advertise),
        ("VTEP", node.data_addr),
        ("Underlay MTU", mtu),
        ("Egress subnets", join(&node.egress_subnets)),
        ("Labels", labels(&node.labels)),
        ("Engine", or_none(&node.engine)),
        ("Version", format!("{}, feature level {}", or_none(&node.version), node.feature_level)),
        ("Raft id", node.raft_id.to_string()),
        ("Public key", or_none(&key)),
        ("Joined", since(node.joined_ms, now)),
        ("Routes", or_none(&routes.join("\n"))),
    ]);
    text + &section("Containers", &endpoint::on_node(&answer.endpoints))
}
