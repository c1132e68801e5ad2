//! What a simulation must be able to do: the same twice, and find what is wrong.

use std::time::Duration;

use clap::ValueEnum;

use crate::bug::Bug;
use crate::run::{Plan, run};

/// For how long things go wrong.
const TIME: Duration = Duration::from_secs(20);
/// Within how many runs a planted bug must be found.
const RUNS: u64 = 200;

fn plan(seed: u64) -> Plan {
    Plan { seed, time: TIME, bug: None, aloud: false, traced: false }
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    for seed in [1, 2] {
        let plan = Plan { traced: true, time: TIME / 4, ..plan(seed) };
        let (first, second) = (run(plan).trace, run(plan).trace);
        assert!(first.len() > 10_000, "only {} steps", first.len());
        let differs = first.iter().zip(&second).position(|(first, second)| first != second);
        if let Some(at) = differs {
            panic!("seed {seed}: step {at} is {:?} and then {:?}", first[at], second[at]);
        }
        assert_eq!(first.len(), second.len());
    }
}

#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::value_variants() {
        let found = (1..=RUNS).map(|seed| (seed, run(Plan { bug: Some(*bug), ..plan(seed) }).violations));
        let found = found.into_iter().find(|(_, violations)| !violations.is_empty());
        let Some((seed, violations)) = found else { panic!("{bug:?} is not found within {RUNS} runs") };
        println!("{bug:?}: seed {seed}, {}", violations[0]);
    }
}
