use crate::model::apply::{Applied, Change};
use crate::model::command::{Command, Outcome, ReportNode};
use crate::model::entry::{Entry, RequestId};
use crate::model::id::NodeId;
use crate::model::object::Route;
use crate::model::rejection::Reason;
use crate::model::state::Session;

use super::{World, named, report};

impl World {
    fn ask(&mut self, node: u64, run: u64, seq: u64, command: Command) -> Applied {
        self.index += 1;
        let request = RequestId { node: NodeId(node), run, seq };
        let applied = self.state.apply(self.index, &Entry { time_ms: self.now_ms, request, command, origin: None });
        assert_eq!(self.state.check(), []);
        assert_eq!(self.state.applied_index, self.index);
        applied
    }
}

fn create(name: &str) -> Command {
    Command::CreateNetwork(named(name))
}

#[test]
fn a_retry_gets_the_answer_and_changes_nothing() {
    let mut world = World::founded();
    let first = world.ask(2, 5, 1, create("web"));
    assert!(first.changes.contains(&Change::Answer(NodeId(2), 1)));
    let retry = world.ask(2, 5, 1, create("web"));
    assert_eq!((retry.result, retry.changes), (first.result, vec![]));
    let refused = world.ask(2, 5, 2, create("web"));
    assert_eq!(refused.changes, [Change::Answer(NodeId(2), 2)]);
    assert_eq!(world.ask(2, 5, 2, create("web")).result, refused.result);
    assert_eq!(world.state.networks.len(), 1);
}

#[test]
fn a_new_run_replaces_the_session() {
    let mut world = World::founded();
    world.ask(2, 5, 1, create("web"));
    world.ask(2, 5, 2, create("db"));
    let other = world.ask(2, 6, 1, create("web"));
    assert_eq!(other.result.expect_err("asked anew").reason, Reason::NetworkNameTaken);
    assert_eq!(other.changes, [Change::Answer(NodeId(2), 1), Change::Answer(NodeId(2), 2)]);
    assert_eq!(world.state.sessions[&NodeId(2)].answers.len(), 1);
}

#[test]
fn answers_are_bounded_and_old_requests_refused() {
    let mut world = World::founded();
    let kept = Session::MAX_ANSWERS as u64;
    // Requests may come out of order.
    let late = world.ask(2, 5, 3, create("web"));
    assert!(late.result.is_ok());
    assert!(world.ask(2, 5, 2, create("db")).result.is_ok());
    (4..=kept + 1).for_each(|seq| drop(world.ask(2, 5, seq, create("web"))));
    let full = world.ask(2, 5, kept + 2, create("web"));
    assert_eq!(full.changes, [Change::Answer(NodeId(2), 2), Change::Answer(NodeId(2), kept + 2)]);
    let old = world.ask(2, 5, 2, create("dc"));
    let rejection = old.result.expect_err("too old");
    assert_eq!((rejection.reason, old.changes), (Reason::RequestTooOld, vec![]));
    assert!(rejection.message.contains("request 2 of node 2"), "{rejection}");
    assert_eq!(world.ask(2, 5, 3, create("web")).result, late.result);
}

#[test]
fn sessions_of_strangers_are_few() {
    let mut world = World::founded();
    let member = world.node(1).id;
    world.ask(member.0, 5, 1, create("web"));
    for node in 100..120 {
        world.ask(node, 5, 1, create("web"));
    }
    assert_eq!(world.state.sessions.len(), 1 + Session::MAX_STRANGERS);
    assert!(world.state.sessions.contains_key(&member));
    assert!(world.state.sessions.contains_key(&NodeId(119)));
}

#[test]
fn a_node_that_leaves_can_ask_again() {
    let mut world = World::founded();
    let node = world.node(1).id;
    world.ask(node.0, 5, 1, create("web"));
    let leave = Command::RemoveNode { node, force: true };
    let left = world.ask(node.0, 5, 2, leave.clone());
    assert_eq!(world.state.sessions[&node].answers.len(), 1);
    assert_eq!(world.ask(node.0, 5, 2, leave).result, left.result);
}

#[test]
fn who_asks_again_gets_the_object_as_it_is_now() {
    let mut world = World::founded();
    let node = world.node(1).id;
    let label = |value: &str| Command::LabelNode { node, set: [("a".into(), value.into())].into(), remove: vec![] };
    world.ask(2, 5, 1, label("1"));
    world.ask(2, 5, 2, label("2"));
    let Ok(Outcome::Node(again)) = world.ask(2, 5, 1, label("1")).result else { panic!("no node") };
    assert_eq!(again.labels["a"], "2");

    let Ok(Outcome::Network(network)) = world.ask(2, 5, 3, create("web")).result else { panic!("no network") };
    let remove = Command::RemoveNetwork { network: network.id };
    let removed = world.ask(2, 5, 4, remove.clone());
    let gone = world.ask(2, 5, 3, create("web"));
    let rejection = gone.result.expect_err("it is gone");
    assert_eq!((rejection.reason, gone.changes), (Reason::NetworkNotFound, vec![]));
    assert!(rejection.message.contains("was done"), "{rejection}");
    assert_eq!(removed.result, Ok(Outcome::Network(network)));
    assert_eq!(world.ask(2, 5, 4, remove).result, removed.result);
}

#[test]
fn what_is_kept_of_an_answer_is_small() {
    let mut world = World::founded();
    let node = world.node(1).id;
    let route = |n: u32| Route {
        destination: ipnet::Ipv4Net::new_assert((0x0b00_0000 + n).into(), 32).into(),
        device: "eth0".into(),
    };
    let report = ReportNode { routes: (0..4096).map(route).collect(), ..report(node) };
    world.ask(2, 5, 1, Command::ReportNode(report)).result.expect("a report");
    let label = Command::LabelNode { node, set: [("a".into(), "b".into())].into(), remove: vec![] };
    world.ask(2, 5, 2, label).result.expect("a label");
    let bytes = |change| world.state.object_bytes(&change).expect("it is there").len();
    assert!(bytes(Change::Node(node)) > 50_000);
    assert!(bytes(Change::Answer(NodeId(2), 2)) < 40);
}
