//! Settings of the cluster, and who is to vote.

use std::time::Duration;

use crate::model::command::{
    AdmitNode, ClaimSubnet, Command, ConfigureCluster, CreateNetwork, EngineRef, Outcome, ReportNode,
};
use crate::model::id::NodeId;
use crate::model::object::{Cluster, Family, NodeState, Voting};
use crate::model::rejection::Reason;

use super::{World, admission, named, report};

fn configure(voters: Option<u32>, replace_after_ms: Option<u64>) -> Command {
    Command::ConfigureCluster(ConfigureCluster { voters, replace_after_ms, lock_off: false })
}

#[track_caller]
fn settings_after(world: &mut World, command: Command) -> (Option<u8>, Duration) {
    let Outcome::Cluster(cluster) = world.ok(command) else { panic!("the settings") };
    assert_eq!(world.state.cluster.as_ref(), Some(&cluster));
    (cluster.voters, cluster.replace_after())
}

#[test]
fn settings_change_one_by_one_and_go_back() {
    let mut world = World::founded();
    let minute = Duration::from_secs(60);
    assert_eq!(settings_after(&mut world, configure(None, None)), (None, Cluster::REPLACE_AFTER));
    assert_eq!(settings_after(&mut world, configure(Some(3), None)), (Some(3), Cluster::REPLACE_AFTER));
    assert_eq!(settings_after(&mut world, configure(None, Some(60_000))), (Some(3), minute));
    assert_eq!(settings_after(&mut world, configure(Some(0), None)), (None, minute));
    assert_eq!(settings_after(&mut world, configure(None, Some(0))), (None, Cluster::REPLACE_AFTER));
    assert_eq!(world.state.cluster, World::founded().state.cluster, "as if nothing had been set");
    for voters in [2, 4, 6, 7, 257, 259] {
        world.refused(configure(Some(voters), None), Reason::InvalidCluster, &[&voters.to_string(), "auto, 1, 3 or 5"]);
    }
    for millis in [1, 4_999, 2_592_000_001, u64::MAX] {
        world.refused(configure(None, Some(millis)), Reason::InvalidCluster, &[&millis.to_string(), "5s to 720h"]);
    }
    assert!(World::new().apply(configure(None, None)).result.is_err());
}

fn vote(world: &World, n: u8, voting: Voting) -> Command {
    Command::SetVoting { node: world.node(n).id, voting }
}

#[test]
fn no_more_are_promoted_than_can_vote() {
    let (mut world, _) = World::with_network();
    world.ok(Command::AdmitNode(admission(4)));
    for n in 1..=3 {
        world.ok(vote(&world, n, Voting::Promoted));
        assert_eq!(world.node(n).voting, Voting::Promoted);
    }
    let told = ["n4", "3 of 4 nodes vote", "n1, n2, n3", "node demote", "cluster set voters"];
    world.refused(vote(&world, 4, Voting::Promoted), Reason::VotersFull, &told);
    world.ok(vote(&world, 3, Voting::Promoted));
    world.ok(vote(&world, 3, Voting::Demoted));
    world.ok(configure(Some(1), None));
    world.refused(vote(&world, 4, Voting::Promoted), Reason::VotersFull, &["n4", "1 of 3 nodes", "n1, n2"]);
    world.ok(configure(Some(0), None));
    world.ok(vote(&world, 4, Voting::Promoted));
    world.ok(vote(&world, 4, Voting::Auto));
    assert_eq!(world.node(4).voting, Voting::Auto);
    let node = NodeId(99);
    world.refused(Command::SetVoting { node, voting: Voting::Auto }, Reason::NodeNotFound, &["99"]);
}

#[test]
fn a_node_that_only_votes_has_no_containers() {
    let (mut world, web) = World::with_network();
    world.ok(Command::AdmitNode(AdmitNode { voter_only: true, ..admission(4) }));
    let node = world.node(4);
    assert!(node.voter_only);
    let told = ["n4", "only votes", "--voter-only"];
    world.refused(Command::CreateEndpoint(world.container(&web, 4, "c")), Reason::NodeVoterOnly, &told);
    let claim = ClaimSubnet { node: node.id, family: Family::V4, cidr: None, ip_range: None };
    world.refused(Command::ClaimSubnet(claim), Reason::NodeVoterOnly, &told);
    let engine = Some(EngineRef { node: node.id, id: "0123".to_owned() });
    let made = CreateNetwork { engine, ..named("") };
    world.refused(Command::CreateNetwork(made), Reason::NodeVoterOnly, &told);
    // It tells nothing of its host, and is ready again all the same when it is back.
    let tell = |world: &mut World| {
        let nothing = ReportNode {
            routes: Vec::new(),
            egress_subnets: Vec::new(),
            underlay_mtu: 0,
            engine: String::new(),
            ..report(node.id)
        };
        world.ok(Command::ReportNode(nothing));
        world.node(4).state
    };
    assert_eq!(tell(&mut world), NodeState::Ready);
    world.ok(Command::SetNodeState { node: node.id, state: NodeState::Down });
    world.ok(Command::SetNodeState { node: node.id, state: NodeState::Ready });
    assert_eq!(tell(&mut world), NodeState::Ready);
    assert_eq!(world.network(named("more")).mtu, 1450, "of those that have containers");
}

#[test]
fn what_only_level_3_knows_needs_it() {
    let world = World::founded();
    let voter = |voter_only| Command::AdmitNode(AdmitNode { voter_only, ..admission(2) });
    let commands = [configure(Some(1), None), vote(&world, 1, Voting::Promoted), voter(true), voter(false)];
    assert_eq!(commands.map(|command| command.feature_level()), [3, 3, 3, 1]);
}
