//! What this node tells the cluster about its host: version, routes, underlay MTU and the
//! subnets of its gateway bridge.

use std::sync::Arc;

use ipnet::IpNet;
use pontoon_store::model::command::{Command, FEATURE_LEVEL, ReportNode};
use pontoon_store::model::object::{Node, NodeState};

use crate::api::error::ApiError;
use crate::daemon::Daemon;
use crate::kernel;
use crate::member::Member;
use crate::plan::egress;

/// Tells the cluster what has changed since the last report, if anything has.
pub(crate) async fn report(daemon: &Arc<Daemon>, member: &Member) -> Result<(), ApiError> {
    let (node, pool6) = {
        let state = member.store().state();
        let (Some(node), Some(cluster)) = (state.nodes.get(&member.node()), &state.cluster) else { return Ok(()) };
        (node.clone(), cluster.pool6)
    };
    let facts = kernel::host_facts(node.data_addr, &daemon.config.gateway_bridge).await?;
    let v4 = egress::choose(&facts, &node.egress_subnets, daemon.config.egress_subnet)?;
    let v6 = egress::ula(pool6, node.id);
    let now = ReportNode {
        node: node.id,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        feature_level: FEATURE_LEVEL,
        routes: facts.routes,
        underlay_mtu: facts.underlay_mtu,
        egress_subnets: vec![v4, IpNet::V6(v6)],
    };
    if is_news(&node, &now) {
        member.propose(Command::ReportNode(now)).await?;
    }
    Ok(())
}

fn is_news(known: &Node, now: &ReportNode) -> bool {
    known.state == NodeState::Joining
        || known.version != now.version
        || known.feature_level != now.feature_level
        || known.routes != now.routes
        || known.underlay_mtu != now.underlay_mtu
        || known.egress_subnets != now.egress_subnets
}
