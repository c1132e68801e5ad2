//! What this node tells the cluster about its host: version, routes, underlay MTU and the
//! subnets of its gateway bridge.

use ipnet::IpNet;
use pontoon_store::model::command::{Command, FEATURE_LEVEL, ReportNode};
use pontoon_store::model::id::NodeId;
use pontoon_store::model::object::{Node, NodeState, Route};
use pontoon_store::model::state::State;
use tonic::Code;

use crate::api::error::ApiError;
use crate::member::Member;
use crate::plan::egress;
use crate::plan::observed::HostFacts;

/// Routes that a report can hold: what the store takes, and little enough for one entry of the log.
const MAX_ROUTES: usize = 4096;

/// What the administrator should know of what reports leave out; none when they leave out nothing.
pub(crate) fn omission(facts: &HostFacts) -> Option<String> {
    let more = facts.routes.len().checked_sub(MAX_ROUTES).filter(|more| *more > 0)?;
    Some(format!(
        "this host has {} routes, of which the cluster is told the {MAX_ROUTES} widest: the {more} others are not looked \
         at when a subnet is chosen for a network; name subnets that are free here with --subnet",
        facts.routes.len()
    ))
}

/// The routes that the cluster is told of. Where there are too many, the widest: they take most addresses.
fn told(routes: &[Route]) -> Vec<Route> {
    let mut told = routes.to_vec();
    if told.len() > MAX_ROUTES {
        told.sort_by_key(|route| (route.destination.max_prefix_len() == 128, route.destination.prefix_len()));
        told.truncate(MAX_ROUTES);
        told.sort();
    }
    told
}

/// Tells the cluster what has changed since the last report, if anything has. `wanted` is the
/// subnet of the gateway bridge that the configuration asks for; `engine` is the container engine that is reached.
pub(crate) async fn report(
    member: &Member,
    facts: &HostFacts,
    engine: &str,
    wanted: Option<IpNet>,
) -> Result<(), ApiError> {
    let news = {
        let state = member.store().state();
        match state.nodes.get(&member.node()) {
            Some(node) => {
                let now = describe(&state, node, facts, engine, wanted)?;
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

fn describe(
    state: &State,
    node: &Node,
    facts: &HostFacts,
    engine: &str,
    wanted: Option<IpNet>,
) -> Result<ReportNode, ApiError> {
    if node.voter_only {
        return Ok(of_voter(node.id));
    }
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
        routes: told(&facts.routes),
        underlay_mtu: facts.underlay_mtu,
        egress_subnets: std::iter::once(v4).chain(v6).collect(),
        engine: engine.to_owned(),
    })
}

/// What a node that only votes tells: no network reaches its host, so nobody needs to know anything of it.
fn of_voter(node: NodeId) -> ReportNode {
    ReportNode {
        node,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        feature_level: FEATURE_LEVEL,
        routes: Vec::new(),
        underlay_mtu: 0,
        egress_subnets: Vec::new(),
        engine: String::new(),
    }
}

fn is_news(known: &Node, now: &ReportNode) -> bool {
    known.state == NodeState::Joining
        || known.version != now.version
        || known.feature_level != now.feature_level
        || known.routes != now.routes
        || known.underlay_mtu != now.underlay_mtu
        || known.egress_subnets != now.egress_subnets
        || known.engine != now.engine
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::small_state;

    fn routes(count: u32) -> Vec<Route> {
        let host = |n: u32| IpNet::new_assert(std::net::Ipv4Addr::from_bits(0x0b00_0000 + n).into(), 32);
        let wide = "172.20.0.0/16".parse().unwrap();
        let destinations = (1..count).map(host).chain([wide]);
        let mut routes: Vec<Route> =
            destinations.map(|destination| Route { destination, device: "eth0".into() }).collect();
        routes.sort();
        routes
    }

    #[test]
    fn a_node_that_only_votes_tells_nothing_of_its_host() {
        let mut state = small_state();
        let facts = HostFacts { routes: routes(3), underlay_mtu: 1500, ..HostFacts::default() };
        let told = |state: &State| describe(state, &state.nodes[&NodeId(1)], &facts, "Docker", None).unwrap();
        assert_eq!((told(&state).routes.len(), told(&state).underlay_mtu), (3, 1500));
        state.nodes.get_mut(&NodeId(1)).unwrap().voter_only = true;
        assert_eq!(told(&state), of_voter(NodeId(1)));
    }

    #[test]
    fn of_too_many_routes_the_widest_are_told() {
        let most = u32::try_from(MAX_ROUTES).unwrap();
        let facts = |count| HostFacts { routes: routes(count), ..HostFacts::default() };
        assert_eq!((told(&routes(most)), omission(&facts(most))), (routes(most), None));
        let few = told(&routes(most + 5));
        assert_eq!(few.len(), MAX_ROUTES);
        assert!(few.is_sorted() && few.iter().any(|route| route.destination.prefix_len() == 16));
        assert!(omission(&facts(most + 5)).unwrap().contains("the 5 others"));
    }
}
