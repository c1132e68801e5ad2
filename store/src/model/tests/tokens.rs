//! Tokens that hosts join with.

use super::{World, admission, report, settings};
use crate::model::command::{AdmitNode, Command, ConfigureCluster, CreateToken, Outcome, RotateAuthority};
use crate::model::id::TokenId;
use crate::model::object::{Cluster, NodeState, Token, TokenRole, Voting};
use crate::model::rejection::Reason;

const HOUR: u64 = 3_600_000;

/// A cluster that nobody enters without a token.
fn closed() -> World {
    let mut world = World::new();
    let cluster = Cluster { authorities: vec![vec![1]], ..settings() };
    world.ok(Command::FoundCluster { cluster, node: admission(1), sealed_key: vec![2] });
    world
}

fn create(number: u8, uses: u32) -> CreateToken {
    CreateToken { hash: [number; 32], role: TokenRole::Voter, uses, life_ms: HOUR }
}

fn token(world: &mut World, command: Command) -> Token {
    match world.ok(command) {
        Outcome::Token(token) => token,
        other => panic!("{other:?}"),
    }
}

fn with(token: u8, node: u8) -> Command {
    Command::AdmitNode(AdmitNode { token: Some([token; 32]), ..admission(node) })
}

#[test]
fn nobody_enters_without_a_token() {
    let mut world = closed();
    let hint = "pontoon token create";
    world.refused(Command::AdmitNode(admission(2)), Reason::TokenUnknown, &["n2", hint]);
    world.refused(with(7, 2), Reason::TokenUnknown, &["n2", hint]);
    world.ok(Command::CreateToken(create(7, 1)));
    // It begins as the good one does.
    let mut near = [7; 32];
    near[31] = 8;
    let near = Command::AdmitNode(AdmitNode { token: Some(near), ..admission(2) });
    world.refused(near, Reason::TokenUnknown, &["n2", hint]);
    world.ok(with(7, 2));
}

#[test]
fn each_host_counts_and_a_retry_does_not() {
    let mut world = closed();
    let id = token(&mut world, Command::CreateToken(create(7, 2))).id();
    assert_eq!(id, TokenId(0x0707_0707_0707_0707));
    for node in [2, 2, 3, 3] {
        world.ok(with(7, node));
    }
    assert_eq!(world.state.tokens[&id].used, 2);
    assert!(!world.state.tokens[&id].is_good(world.now_ms), "used up");
    world.refused(with(7, 4), Reason::TokenUsedUp, &["n4", "0707070707070707", "2 hosts", "pontoon token create"]);
    // Who is in already needs none to ask again.
    world.ok(with(7, 2));
}

/// One that is refused for something else does not count.
#[test]
fn a_host_that_does_not_enter_does_not_count() {
    let mut world = closed();
    let id = token(&mut world, Command::CreateToken(create(7, 1))).id();
    let taken = AdmitNode { name: "n1".into(), token: Some([7; 32]), ..admission(2) };
    world.refused(Command::AdmitNode(taken), Reason::NodeNameTaken, &["n1"]);
    assert_eq!(world.state.tokens[&id].used, 0);
    world.ok(with(7, 2));
}

#[test]
fn a_token_ends() {
    let mut world = closed();
    let id = token(&mut world, Command::CreateToken(create(7, 9))).id();
    world.now_ms += HOUR - 1;
    world.ok(with(7, 2));
    assert!(world.state.tokens[&id].is_good(world.now_ms));
    world.now_ms += 1;
    assert!(!world.state.tokens[&id].is_good(world.now_ms));
    world.refused(
        with(7, 3),
        Reason::TokenExpired,
        &["n3", "0707070707070707", "ended 0 s ago", "pontoon token create"],
    );
}

#[test]
fn a_revoked_token_is_told_from_one_that_never_was() {
    let mut world = closed();
    let id = token(&mut world, Command::CreateToken(create(7, 9))).id();
    let revoked = token(&mut world, Command::RevokeToken { token: id });
    assert_eq!(revoked.revoked_ms, Some(world.now_ms));
    assert!(!revoked.is_good(world.now_ms));
    world.now_ms += 5;
    assert_eq!(token(&mut world, Command::RevokeToken { token: id }), revoked, "once more");
    world.refused(with(7, 2), Reason::TokenRevoked, &["n2", "was revoked", "pontoon token create"]);
    world.refused(Command::RevokeToken { token: TokenId(1) }, Reason::TokenNotFound, &["0000000000000001", "token ls"]);
}

#[test]
fn a_rotated_token_is_like_the_one_before() {
    let mut world = closed();
    let wanted = CreateToken { role: TokenRole::Observer, ..create(7, 3) };
    let id = token(&mut world, Command::CreateToken(wanted)).id();
    world.ok(with(7, 2));
    world.now_ms += HOUR / 2;
    let made = token(&mut world, Command::RotateToken { token: id, hash: [8; 32] });
    assert_eq!((made.role, made.uses, made.used, made.until_ms), (TokenRole::Observer, 3, 0, world.now_ms + HOUR));
    world.refused(with(7, 3), Reason::TokenRevoked, &["n3"]);
    world.ok(with(8, 3));
    let again = Command::RotateToken { token: made.id(), hash: [8; 32] };
    world.refused(again, Reason::InvalidToken, &["such a token already"]);
    world.ok(with(8, 4));
}

#[test]
fn an_observers_token_makes_nodes_that_do_not_vote() {
    let mut world = closed();
    world.ok(Command::CreateToken(CreateToken { role: TokenRole::Observer, ..create(7, 3) }));
    let only_votes = AdmitNode { voter_only: true, token: Some([7; 32]), ..admission(2) };
    world.refused(Command::AdmitNode(only_votes), Reason::TokenRole, &["n2", "--voter-only"]);
    world.ok(with(7, 2));
    assert_eq!(world.node(2).voting, Voting::Demoted);
    world.ok(Command::CreateToken(create(8, 3)));
    world.ok(with(8, 3));
    assert_eq!(world.node(3).voting, Voting::Auto);
}

#[test]
fn what_a_token_cannot_be() {
    let mut world = closed();
    for (uses, life_ms, text) in
        [(0, HOUR, "for 0 hosts"), (1_001, HOUR, "for 1001 hosts"), (1, 999, "999 ms"), (1, 366 * 24 * HOUR, "ms")]
    {
        let wanted = CreateToken { uses, life_ms, ..create(7, 1) };
        world.refused(Command::CreateToken(wanted), Reason::InvalidToken, &[text]);
    }
    world.ok(Command::CreateToken(create(7, 1)));
    world.refused(Command::CreateToken(create(7, 1)), Reason::InvalidToken, &["such a token already"]);
}

#[test]
fn tokens_are_forgotten_a_week_after_they_end() {
    let mut world = closed();
    world.ok(Command::CreateToken(create(7, 1)));
    world.now_ms += 7 * 24 * HOUR + HOUR - 1;
    world.ok(Command::CreateToken(create(8, 1)));
    assert_eq!(world.state.tokens.len(), 2);
    world.now_ms += 1;
    world.ok(Command::CreateToken(create(9, 1)));
    assert_eq!(world.state.tokens.len(), 2);
    assert!(!world.state.tokens.contains_key(&TokenId::of(&[7; 32])));
}

#[test]
fn there_are_a_thousand_tokens_at_most() {
    let mut world = closed();
    let numbered = |number: u32| {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        CreateToken { hash, ..create(0, 1) }
    };
    for number in 0..1_000 {
        world.ok(Command::CreateToken(numbered(number)));
    }
    world.refused(Command::CreateToken(numbered(1_000)), Reason::InvalidToken, &["1000 tokens"]);
}

/// One is exchanged at a time, and the one before is believed until nobody that answers needs it.
#[test]
fn an_authority_is_exchanged() {
    let mut world = closed();
    world.ok(Command::CreateToken(create(7, 9)));
    world.ok(with(7, 2));
    let (first, second) = (world.node(1).id, world.node(2).id);
    for node in [first, second] {
        world.ok(Command::ReportNode(report(node)));
        world.ok(Command::ReportCertificate { node, authority: 1, until_ms: 5 });
    }
    world.ok(Command::DropAuthorities);
    let new = RotateAuthority { certificate: vec![9], crossed: vec![8], sealed_key: vec![7], locks: false };
    let Outcome::Cluster(cluster) = world.ok(Command::RotateAuthority(new.clone())) else { panic!("the settings") };
    assert_eq!((cluster.authorities, cluster.crossed, cluster.authority), (vec![vec![1], vec![9]], vec![8], 2));
    assert_eq!(world.state.sealed_key, [7]);
    world.refused(with(7, 3), Reason::TokenRevoked, &["n3"]);
    world.refused(Command::RotateAuthority(new), Reason::AuthorityInUse, &["a moment ago", "n1, n2"]);
    world.ok(Command::ReportCertificate { node: first, authority: 2, until_ms: 6 });
    world.refused(Command::DropAuthorities, Reason::AuthorityInUse, &["n2 have certificates", "pontoon status"]);
    // One that is down gets it when it is back.
    world.ok(Command::SetNodeState { node: second, state: NodeState::Down });
    let Outcome::Cluster(cluster) = world.ok(Command::DropAuthorities) else { panic!("the settings") };
    assert_eq!((cluster.authorities, cluster.crossed, cluster.authority), (vec![vec![9]], vec![8], 2));
    assert_eq!(world.node(1).certificate_until_ms, 6);
}

#[test]
fn a_cluster_stays_locked_until_that_is_taken_back() {
    let mut world = closed();
    let first = world.node(1).id;
    world.ok(Command::ReportNode(report(first)));
    let exchange = |world: &mut World, certificate: u8, authority: u32, locks: bool| {
        let new = RotateAuthority { certificate: vec![certificate], crossed: vec![8], sealed_key: vec![7], locks };
        world.ok(Command::RotateAuthority(new));
        world.ok(Command::ReportCertificate { node: first, authority, until_ms: 5 });
        world.ok(Command::DropAuthorities);
        world.state.cluster.as_ref().expect("founded").locked
    };
    assert!(exchange(&mut world, 9, 2, true));
    assert!(exchange(&mut world, 10, 3, false), "an exchange takes nothing back");
    let set = |lock_off| Command::ConfigureCluster(ConfigureCluster { lock_off, ..ConfigureCluster::default() });
    let locked = |outcome| matches!(outcome, Outcome::Cluster(Cluster { locked: true, .. }));
    assert!(locked(world.ok(set(false))));
    assert!(!locked(world.ok(set(true))));
}

/// The new one was there already when it was found that the one before was forgotten.
#[test]
fn a_token_that_ended_long_ago_is_rotated_all_the_same() {
    let mut world = closed();
    let id = token(&mut world, Command::CreateToken(create(7, 3))).id();
    world.now_ms += 8 * 24 * HOUR;
    let made = token(&mut world, Command::RotateToken { token: id, hash: [8; 32] });
    assert_eq!((made.uses, world.state.tokens.len()), (3, 1));
    world.ok(with(8, 2));
}

/// It cannot know whether a token is good, and would call wherever it is told to.
#[test]
fn a_node_that_knows_nothing_yet_lets_nobody_in() {
    let state = crate::model::state::State::empty();
    let refused = state.may_admit(&admission(2)).unwrap_err();
    assert_eq!(refused.reason, Reason::NotFounded);
    let long = AdmitNode { name: "x\n".repeat(30_000), ..admission(2) };
    let refused = closed().state.may_admit(&long).unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidName);
    assert!(refused.message.len() < 400 && !refused.message.contains('\n'), "{}", refused.message);
}
