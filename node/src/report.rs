//! What this node tells the cluster about its host: version, routes, underlay MTU and the
//! subnets of its gateway bridge.

use ipnet::IpNet;
use pontoon_store::model::command::{Command, FEATURE_LEVEL, ReportNode};
use pontoon_store::model::object::{Node, NodeState};
use pontoon_store::model::state::State;
use tonic::Code;

use crate::api::error::ApiError;
use crate::member::Member;
use crate::plan::egress;
use crate::plan::observed::HostFacts;

/// Tells the cluster what has changed since the last report, if anything has. `wanted` is the
/// subnet of the gateway bridge that the configuration asks for.
pub(crate) async fn report(member: &Member, facts: &HostFacts, wanted: Option<IpNet>) -> Result<(), ApiError> {
    let news = {
        let state = member.store().state();
        match state.nodes.get(&member.node()) {
            Some(node) => {
                let now = describe(&state, node, facts, wanted)?;
                is_news(node, &now).then_some(now)
            }
            None => None,
        }
    };
    if let Some(now) = news {
        member.propose(Command::ReportNode(now)).await?;
    }
    Ok(())
}

fn describe(state: &State, node: &Node, facts: &HostFacts, wanted: Option<IpNet>) -> Result<ReportNode, ApiError> {
    let overlay: Vec<IpNet> = state.networks.values().flat_map(|n| &n.subnets).map(|subnet| subnet.cidr).collect();
    let v4 = match wanted {
        Some(subnet) if facts.gateway_subnets.contains(&subnet) || egress::is_free(subnet, facts, &overlay) => subnet,
        Some(subnet) => {
            let message = format!("the egress subnet {subnet} meets a route or an address of this host, or a network");
            return Err(ApiError::new(Code::FailedPrecondition, "KERNEL", message, "set another egress_subnet"));
        }
        None => egress::choose(facts, &node.egress_subnets, &overlay).ok_or_else(|| {
            let message = "every subnet that the gateway bridge could have meets a route of this host";
            ApiError::new(Code::FailedPrecondition, "KERNEL", message, "set egress_subnet to one that is free")
        })?,
    };
    let v6 = state.cluster.as_ref().map(|cluster| egress::choose6(cluster.pool6, node.id));
    Ok(ReportNode {
        node: node.id,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        feature_level: FEATURE_LEVEL,
        routes: facts.routes.clone(),
        underlay_mtu: facts.underlay_mtu,
        egress_subnets: std::iter::once(v4).chain(v6).collect(),
    })
}

fn is_news(known: &Node, now: &ReportNode) -> bool {
    known.state == NodeState::Joining
        || known.version != now.version
        || known.feature_level != now.feature_level
        || known.routes != now.routes
        || known.underlay_mtu != now.underlay_mtu
        || known.egress_subnets != now.egress_subnets
}
