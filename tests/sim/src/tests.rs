//! What a simulation must be able to do: the same twice, and find what is wrong.

use std::time::Duration;

use crate::bug::Bug;
use crate::run::{Plan, run};

/// For how long things go wrong.
const TIME: Duration = Duration::from_secs(20);
/// Within how many runs a planted bug must be found.
const RUNS: u64 = 200;

fn plan(seed: u64) -> Plan {
    Plan { seed, time: TIME, bug: None, aloud: false, traced: false }
}

/// Fails unless one of the runs finds a planted bug, and says one of these things of it.
fn expect_found(bug: Bug, signs: &[&str]) {
    let shows = |violation: &String| signs.iter().any(|sign| violation.contains(sign));
    let found = (1..=RUNS).find_map(|seed| {
        let violations = run(Plan { bug: Some(bug), ..plan(seed) }).violations;
        violations.into_iter().find(shows).map(|violation| (seed, violation))
    });
    let Some((seed, violation)) = found else { panic!("{bug:?} is not found within {RUNS} runs") };
    println!("{bug:?} is found by seed {seed}: {violation}");
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    for seed in 1..=3 {
        let plan = Plan { traced: true, ..plan(seed) };
        let (first, second) = (run(plan).trace, run(plan).trace);
        assert!(first.len() > 100_000, "only {} steps", first.len());
        if let Some(at) = first.iter().zip(&second).position(|(first, second)| first != second) {
            panic!("seed {seed}: step {at} is {:?} and then {:?}", first[at], second[at]);
        }
        assert_eq!(first.len(), second.len());
    }
}

#[test]
fn what_is_acknowledged_before_it_is_synced_is_found() {
    let lost = ["was acknowledged, and is not there", "which is committed", "was committed as something else"];
    expect_found(Bug::AcknowledgedBeforeSync, &lost);
}

#[test]
fn a_stale_read_is_found() {
    expect_found(Bug::StaleRead, &["is not linearizable"]);
}

#[test]
fn an_id_that_is_used_again_is_found() {
    let split = ["which is committed", "was committed as something else", "is not that of another"];
    expect_found(Bug::IdReused, &split);
}

#[test]
fn a_gap_in_a_watch_is_found() {
    expect_found(Bug::WatchGap, &["a watcher that has seen everything"]);
}

#[test]
fn a_lease_that_is_given_twice_is_found() {
    expect_found(Bug::LeaseGivenTwice, &["was answered what", "or its MAC was given to"]);
}
