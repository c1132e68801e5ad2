//! Whatever administrators do, carrying out the plan leads to where nothing is left to do.

use proptest::prelude::*;

use super::sim::Sim;

const NETWORKS: [&str; 3] = ["web", "db", "cache"];
const CONTAINERS: [&str; 3] = ["c1", "c2", "c3"];

/// What somebody does. Numbers say to which of those that are there.
#[derive(Debug, Clone)]
enum Act {
    ClusterMakes(&'static str),
    ClusterRemoves(usize),
    OtherMakes(&'static str),
    Makes(&'static str),
    MakesFor(usize, &'static str),
    MakesForeign(&'static str),
    LeftBehind(usize, &'static str),
    RemovesNetwork(usize),
    Prunes,
    Creates(&'static str, &'static str),
    Runs(&'static str, &'static str),
    Starts(usize),
    Stops(usize),
    Removes(usize),
    SwapsNames(usize, usize),
    Connects(usize, &'static str),
    Disconnects(usize, usize),
    Resets,
    DiesStarting(usize, bool),
    /// The daemon dies or comes back.
    Listens(bool),
    Settles,
}

fn act() -> impl Strategy<Value = Act> {
    let network = || prop::sample::select(&NETWORKS);
    let container = || prop::sample::select(&CONTAINERS);
    let one = || 0..4_usize;
    prop_oneof![
        3 => network().prop_map(Act::ClusterMakes),
        3 => one().prop_map(Act::ClusterRemoves),
        2 => network().prop_map(Act::OtherMakes),
        3 => network().prop_map(Act::Makes),
        1 => (one(), network()).prop_map(|(at, name)| Act::MakesFor(at, name)),
        1 => network().prop_map(Act::MakesForeign),
        1 => (one(), network()).prop_map(|(at, name)| Act::LeftBehind(at, name)),
        2 => one().prop_map(Act::RemovesNetwork),
        1 => Just(Act::Prunes),
        1 => (container(), network()).prop_map(|(name, on)| Act::Creates(name, on)),
        6 => (container(), network()).prop_map(|(name, on)| Act::Runs(name, on)),
        2 => one().prop_map(Act::Starts),
        3 => one().prop_map(Act::Stops),
        2 => one().prop_map(Act::Removes),
        2 => (one(), one()).prop_map(|(at, with)| Act::SwapsNames(at, with)),
        2 => (one(), network()).prop_map(|(at, on)| Act::Connects(at, on)),
        2 => (one(), one()).prop_map(|(at, place)| Act::Disconnects(at, place)),
        1 => Just(Act::Resets),
        1 => (one(), any::<bool>()).prop_map(|(at, made)| Act::DiesStarting(at, made)),
        2 => any::<bool>().prop_map(Act::Listens),
        6 => Just(Act::Settles),
    ]
}

fn carry_out(sim: &mut Sim, act: &Act) {
    match *act {
        Act::ClusterMakes(name) => sim.cluster_makes(name),
        Act::ClusterRemoves(at) => sim.cluster_removes(at),
        Act::OtherMakes(name) => sim.other_makes(name),
        Act::Makes(name) => sim.makes(name),
        Act::MakesFor(at, name) => {
            sim.makes_for(at, name);
            // The loop is told at once, and nobody puts a container on it before.
            sim.settle();
        }
        Act::MakesForeign(name) => sim.makes_foreign(name),
        Act::LeftBehind(at, name) => sim.left_behind(at, name),
        Act::RemovesNetwork(at) => sim.removes_network(at),
        Act::Prunes => sim.prunes(),
        Act::Creates(name, on) => sim.creates(name, on),
        Act::Runs(name, on) => {
            sim.creates(name, on);
            sim.starts_named(name);
        }
        Act::Starts(at) => sim.starts(at),
        Act::Stops(at) => sim.stops(at),
        Act::Removes(at) => sim.removes(at),
        Act::SwapsNames(at, with) => {
            // Both are known by their names by then.
            sim.settle();
            sim.swaps_names(at, with);
        }
        Act::Connects(at, on) => sim.connects(at, on, "alias"),
        Act::Disconnects(at, place) => sim.disconnects(at, place),
        Act::Resets => sim.resets(),
        Act::DiesStarting(at, made) => sim.dies_starting(at, made),
        Act::Listens(listens) => sim.listens = listens,
        Act::Settles => sim.settle(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// A few passes after the last act there is nothing to do, whatever the acts were; what is not ours is as it was, and
    /// no container has lost its network.
    #[test]
    fn a_plan_of_an_engine_converges(acts in prop::collection::vec(act(), 1..40)) {
        let mut sim = Sim::new();
        for act in &acts {
            carry_out(&mut sim, act);
        }
        sim.settle();
        sim.settle();
    }
}
