//! Members that have made different things of the same log.

use super::*;
use crate::disk::state::lose_an_object;
use crate::error_chain;

/// What a member that has gone astray is told, when it compares. Others that compare must not stop.
async fn astray(daemons: &mut [Daemon], which: usize) -> String {
    daemons[0].create("first").await.unwrap();
    let index = daemons[0].store().status().applied_index;
    for daemon in daemons.iter() {
        daemon.store().wait_applied(index).await;
    }
    let id = daemons[which].kill().await;
    lose_an_object(&daemons[which].dir.path().join("state"), true);
    daemons[which].restart(id).await;
    // Each has applied the same now, in batches of its own.
    let mut reason = None;
    for number in 0.. {
        daemons[0].create(&format!("net-{number}")).await.unwrap();
        for (at, daemon) in daemons.iter().enumerate() {
            let found = daemon.store().compare().await;
            assert!(found.is_none() || at == which, "{at}: {found:?}");
            reason = reason.or(found);
        }
        if reason.is_some() {
            break;
        }
    }
    let reason = reason.unwrap();
    assert_eq!(daemons[which].store().stopped(), Some(reason.clone()));
    let refused = daemons[which].create("by-the-odd-one").await.unwrap_err();
    assert!(matches!(&refused, ProposeError::Stopped { .. }), "{refused}");
    // Nor is it used after a restart.
    daemons[which].kill().await;
    let again = error_chain(&Store::open(daemons[which].options(id)).await.unwrap_err());
    assert_eq!(again, reason);
    daemons[0].create("by-the-others").await.unwrap();
    reason
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_that_has_gone_astray_stops_and_the_others_go_on() {
    let mut daemons = three().await;
    let leader = leader(&daemons);
    // The first is written through.
    daemons.swap(0, leader);
    let reason = astray(&mut daemons, 2).await;
    let name = |at: usize| daemons[at].name.clone();
    let (mut one, mut other) = (name(0), name(1));
    if daemons[0].store().id() > daemons[1].store().id() {
        (one, other) = (other, one);
    }
    assert!(reason.contains(&format!("differs from what {one}, {other} made of it")), "{reason}");
    assert!(reason.contains(&format!("pontoon node rm --force {}", name(2))), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_it_is_the_one_that_does_not_lead() {
    let mut daemons = vec![Daemon::start(1).await, Daemon::start(2).await];
    daemons[0].found().await;
    daemons[1].join(&daemons[0]).await;
    daemons[1].report().await;
    let reason = astray(&mut daemons, 1).await;
    assert!(reason.contains("differs from what host-1 made of it"), "{reason}");
}
