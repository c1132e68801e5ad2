//! Who may administer the cluster from elsewhere, and who has done what.

use super::{World, admission, named};
use crate::model::admin::{Admin, Audited, CreateAdmin, Origin, Role};
use crate::model::command::{Command, Outcome};
use crate::model::entry::{Entry, RequestId};
use crate::model::id::{AdminId, NodeId};
use crate::model::object::Cluster;
use crate::model::rejection::Reason;

const HOUR: u64 = 3_600_000;

fn create(name: &str, key: u8) -> CreateAdmin {
    CreateAdmin { name: name.into(), role: Role::Operator, public_key: [key; 32], life_ms: HOUR }
}

fn admin(world: &mut World, wanted: CreateAdmin) -> Admin {
    match world.ok(Command::CreateAdmin(wanted)) {
        Outcome::Admin(admin) => admin,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_admin_is_let_in_and_locked_out() {
    let mut world = World::founded();
    let alice = admin(&mut world, create("alice", 7));
    assert_eq!((alice.role, alice.until_ms), (Role::Operator, world.now_ms + HOUR));
    assert_eq!(world.state.admin_with_key(&[7; 32]), Some(&alice));
    let refused = |world: &mut World, wanted: CreateAdmin, reason, texts: &[&str]| {
        world.refused(Command::CreateAdmin(wanted), reason, texts);
    };
    refused(&mut world, create("alice", 8), Reason::AdminNameTaken, &["alice", "admin cert rm alice"]);
    refused(&mut world, create("bob", 7), Reason::InvalidAdmin, &["bob", "another has it"]);
    refused(&mut world, create("bo b", 8), Reason::InvalidName, &["bo b"]);
    for life_ms in [0, 59_999, 11 * 365 * 24 * HOUR] {
        refused(&mut world, CreateAdmin { life_ms, ..create("bob", 8) }, Reason::InvalidAdmin, &["bob", "ms"]);
    }
    world.ok(Command::RemoveAdmin(alice.id));
    assert_eq!(world.state.admin_with_key(&[7; 32]), None);
    world.refused(Command::RemoveAdmin(alice.id), Reason::AdminNotFound, &["admin cert ls"]);
}

/// One that has ended is shown as such, until there is another of its name.
#[test]
fn one_that_has_ended_makes_room_for_its_name() {
    let mut world = World::founded();
    let old = admin(&mut world, create("alice", 7));
    world.now_ms += HOUR;
    assert_eq!(world.state.admins.len(), 1);
    let new = admin(&mut world, create("alice", 8));
    assert_eq!(world.state.admins.keys().copied().collect::<Vec<AdminId>>(), [new.id]);
    assert!(new.id > old.id);
}

fn by(world: &mut World, who: &str, command: Command) -> Result<Outcome, crate::model::rejection::Rejection> {
    world.index += 1;
    let request = RequestId { node: NodeId(2), run: 9, seq: world.index };
    let origin = Some(Origin { who: who.into(), from: "192.0.2.7".into() });
    world.state.apply(world.index, &Entry { time_ms: world.now_ms, request, command, origin }).result
}

#[test]
fn what_somebody_has_done_is_kept_and_nothing_else() {
    let mut world = World::founded();
    world.network(named("nobody-asked"));
    by(&mut world, "alice", Command::CreateNetwork(named("web"))).unwrap();
    let index = world.index;
    by(&mut world, "alice", Command::CreateNetwork(named("web"))).unwrap_err();
    by(&mut world, "a\nb", Command::AdmitNode(admission(2))).unwrap();
    by(&mut world, &"x".repeat(500), Command::CreateAdmin(create("bob", 7))).unwrap();
    by(&mut world, "alice", Command::DropAuthorities).ok();
    let kept: Vec<&Audited> = world.state.audit.values().collect();
    let texts: Vec<&str> = kept.iter().map(|audited| audited.what.as_str()).collect();
    assert_eq!(texts, ["created network web", "joined as node n2", "let in bob as operator"]);
    let Audited { origin, .. } = kept[0].clone();
    assert_eq!(kept[0], &Audited { index, time_ms: world.now_ms, node: NodeId(2), origin, what: texts[0].into() });
    assert_eq!((kept[0].origin.who.as_str(), kept[0].origin.from.as_str()), ("alice", "192.0.2.7"));
    assert_eq!(kept[1].origin.who, "ab");
    assert_eq!(kept[2].origin.who.len(), 128);
}

#[test]
fn the_latest_are_kept() {
    let mut world = World::founded();
    let node = world.node(1).id;
    let label = |number: usize| Command::LabelNode {
        node,
        set: [("k".to_owned(), number.to_string())].into(),
        remove: Vec::new(),
    };
    for number in 0..Audited::KEPT + 3 {
        by(&mut world, "alice", label(number)).unwrap();
    }
    by(&mut world, "alice", label(Audited::KEPT + 2)).unwrap();
    assert_eq!(world.state.audit.len(), Audited::KEPT);
    let last = world.state.audit.last_key_value().map(|(index, _)| *index);
    assert_eq!(last, Some(world.index - 1), "what has changed nothing pushes nothing out");
}

/// A node that does not know of it would have another state.
#[test]
fn nothing_is_kept_below_feature_level_6() {
    let mut world = World::founded();
    world.state.cluster = world.state.cluster.take().map(|cluster| Cluster { feature_level: 5, ..cluster });
    by(&mut world, "alice", Command::CreateNetwork(named("web"))).unwrap();
    assert!(world.state.audit.is_empty());
}
