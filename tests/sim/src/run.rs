//! One run: a cluster is founded, used while things go wrong, and must be well again once nothing does any more.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Once};
use std::time::Duration;

use openraft::async_runtime::AsyncRuntime;
use pontoon_store::Store;
use pontoon_store::model::command::{Command, CreateNetwork, Outcome};
use pontoon_store::model::object::Voting;
use pontoon_store::model::voters::seats;
use pontoon_store::rt::sim::link::Net;
use pontoon_store::rt::sim::{Chance, Runtime};
use pontoon_store::rt::{now, sleep, spawn};

use crate::bug::Bug;
use crate::clients::{Clients, REGISTERS};
use crate::daemon::{DEADLINE, Daemon, Settings};
use crate::inspector::{Inspector, check_copy, check_objects};
use crate::nemesis::{Nemesis, has_its_members};
use crate::notes::Notes;
use crate::watcher::Follower;

/// Clients.
const CLIENTS: u64 = 5;
/// Watchers.
const WATCHERS: usize = 2;
/// Networks.
const NETWORKS: u64 = 2;
/// How long forming a cluster may take, and being well again.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether that is so.
const LOOK: Duration = Duration::from_millis(50);

/// What to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Everything follows from it.
    pub(crate) seed: u64,
    /// For how long things go wrong.
    pub(crate) time: Duration,
    /// What is planted.
    pub(crate) bug: Option<Bug>,
    /// Whether what happens is printed.
    pub(crate) aloud: bool,
    /// Whether every step of the runtime is noted.
    pub(crate) traced: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Report {
    /// What must not have happened.
    pub(crate) violations: Vec<String>,
    /// What happened how often.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// What happened, and every step of the runtime.
    #[cfg(test)]
    pub(crate) trace: Vec<String>,
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From now on panics are remembered by the thread that has them, and not printed.
fn remember_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()))));
    });
}

/// Runs it.
pub(crate) fn run(plan: Plan) -> Report {
    remember_panics();
    let notes = Notes::new(plan.aloud);
    let mut runtime = Runtime::with_seed(plan.seed, plan.traced);
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            if let Err(error) = play(plan, notes.clone()).await {
                notes.violation(error.to_string());
            }
        });
    }));
    let mut violations = notes.violations();
    let panics = PANICS.with_borrow_mut(std::mem::take);
    if ran.is_err() || !panics.is_empty() {
        violations.push(format!("panicked: {}", panics.join("; ")));
    }
    #[cfg(test)]
    let trace = notes.events().into_iter().chain(runtime.take_trace()).collect();
    Report {
        violations,
        counts: notes.counts(),
        #[cfg(test)]
        trace,
    }
}

async fn play(plan: Plan, notes: Notes) -> anyhow::Result<()> {
    let mut chance = Chance::new(plan.seed);
    let net = Net::new(plan.seed);
    let settings = Settings {
        seed: plan.seed,
        snapshot_every: 30 + chance.below(150),
        keep_entries: 1 + chance.below(40),
        bug: plan.bug,
    };
    let number = 3 + chance.below(3);
    let daemons = (1..=number).map(|number| Daemon::new(number, &net, &settings, &notes));
    let daemons: Vec<Arc<Daemon>> = daemons.collect::<Result<_, _>>()?;
    let clients = Clients::new(daemons.clone(), notes.clone(), plan.bug);
    if !form(&daemons, &clients).await {
        notes.violation("no cluster forms although nothing goes wrong");
        return Ok(());
    }
    notes.event(format!("{number} daemons, {settings:?}"));
    let end = now() + plan.time;
    let nemesis = Nemesis::new(daemons.clone(), net.clone(), clients.clone(), plan.bug == Some(Bug::IdReused));
    let mut tasks = vec![spawn(nemesis.clone().run(Chance::new(chance.below(u64::MAX)), end))];
    for _ in 0..CLIENTS {
        tasks.push(spawn(clients.clone().run(Chance::new(chance.below(u64::MAX)), end)));
    }
    // Watchers go on until all is well again.
    let last = end + PATIENCE * 3;
    let followers: Vec<Follower> = (0..WATCHERS).map(|_| Follower::new(notes.clone(), plan.bug)).collect();
    for follower in &followers {
        drop(spawn(follower.clone().run(daemons.clone(), Chance::new(chance.below(u64::MAX)), last)));
    }
    let inspector = spawn(Inspector::default().run(daemons.clone(), notes.clone(), end));
    for task in tasks {
        task.await?;
    }
    let mut inspector = inspector.await?;
    if notes.is_bad() {
        return Ok(());
    }
    heal(&daemons, &net, &nemesis, &clients, &followers).await;
    if notes.is_bad() {
        return Ok(());
    }
    for daemon in &daemons {
        for register in 0..REGISTERS {
            clients.read(daemon, register).await;
        }
        if let Some((run, store)) = daemon.up() {
            inspector.look(daemon.number, &run, &store, &notes);
            check_objects(daemon.number, &store, &notes);
            if store.observes() {
                check_copy(daemon.number, &store, &daemons, &notes);
            } else {
                clients.check_endpoints(&store.state());
            }
        }
    }
    clients.check_histories();
    Ok(())
}

/// Founds a cluster, which the others join.
async fn form(daemons: &[Arc<Daemon>], clients: &Clients) -> bool {
    daemons.iter().for_each(Daemon::start);
    if daemons[0].found().await.is_none() {
        return false;
    }
    for daemon in &daemons[1..] {
        if daemon.join(daemons[0].address()).await.is_none() {
            return false;
        }
    }
    for number in 0..NETWORKS {
        let wanted = CreateNetwork { name: format!("net{number}"), ..CreateNetwork::default() };
        let command = Command::CreateNetwork(wanted);
        let made = daemons[0].on(|store| async move { store.propose(command, DEADLINE).await }).await;
        let Some(Ok(Outcome::Network(network))) = made else { return false };
        clients.add_network(network.id);
    }
    let voters = seats(None, daemons.len());
    let end = now() + PATIENCE;
    let vote = |daemon: &Arc<Daemon>| daemon.up().is_some_and(|(_, store)| store.status().voters.len() == voters);
    while !daemons.iter().all(vote) {
        if now() > end {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

/// Ends everything that goes wrong, and waits until all is well.
async fn heal(daemons: &[Arc<Daemon>], net: &Net, nemesis: &Nemesis, clients: &Clients, followers: &[Follower]) {
    net.heal();
    // Of four or five, one may stay an observer: an odd number can vote then.
    let most = if daemons.len() > 3 { 1 } else { 0 };
    promote(daemons, most).await;
    clients.notes.event("nothing goes wrong any more");
    let end = now() + PATIENCE;
    loop {
        let wrong = match nemesis.is_over() {
            false => Some(format!("a node that lost its disk has not joined anew: {}", described(daemons))),
            true => what_is_wrong(daemons, followers).await,
        };
        let Some(wrong) = wrong else { return clients.notes.count("clusters that were well again") };
        if now() > end {
            return clients
                .notes
                .violation(format!("not well {PATIENCE:?} after nothing went wrong any more: {wrong}"));
        }
        if clients.notes.is_bad() {
            return;
        }
        sleep(LOOK).await;
    }
}

/// What is not as it should be; none: nothing.
async fn what_is_wrong(daemons: &[Arc<Daemon>], followers: &[Follower]) -> Option<String> {
    for daemon in daemons {
        let fresh = daemon.on(|store| async move { store.read_barrier(DEADLINE).await.is_ok() }).await;
        if fresh != Some(true) {
            return Some(format!("daemon {} cannot read: {}", daemon.number, described(daemons)));
        }
    }
    let stores: Vec<_> = daemons.iter().filter_map(|daemon| Some((daemon, daemon.up()?.1))).collect();
    let status: Vec<_> = stores.iter().map(|(_, store)| store.status()).collect();
    let index = status.iter().map(|status| status.applied_index).max().unwrap_or(0);
    if let Some(behind) = status.iter().find(|status| status.applied_index < index) {
        return Some(format!("member {} is at {} and others at {index}", behind.raft_id, behind.applied_index));
    }
    if let Some((daemon, store)) = stores.iter().find(|(_, store)| !has_its_members(store)) {
        let voting: Vec<_> = store.state().nodes.values().map(|node| (node.raft_id, node.voting)).collect();
        return Some(format!("the membership is not what it should be: {}, nodes {voting:?}", describe(daemon)));
    }
    for (daemon, store) in &stores {
        match daemon.steps_to_go() {
            Some(0) => {}
            steps => return Some(format!("daemon {}: its kernel lacks {steps:?} steps", daemon.number)),
        }
        let in_step = |follower: &&Follower| !store.observes() && follower.index() == store.state().applied_index;
        for follower in followers.iter().filter(in_step) {
            follower.compare(&store.state());
        }
    }
    None
}

/// Every daemon in few words.
fn described(daemons: &[Arc<Daemon>]) -> String {
    daemons.iter().map(|daemon| describe(daemon)).collect::<Vec<_>>().join("; ")
}

fn describe(daemon: &Daemon) -> String {
    let Some((_, store)) = daemon.up() else { return format!("{} is not up", daemon.number) };
    let status = store.status();
    let observes = if store.observes() { ", observes" } else { "" };
    format!(
        "{} is {}{observes}, in term {} with leader {:?}, voters {:?}, members {:?}, entries {}, stopped {:?}",
        daemon.number,
        status.raft_id,
        status.term,
        status.leader,
        status.voters,
        status.members.keys(),
        status.last_index,
        status.stopped,
    )
}

/// Lets all vote that were demoted, but for a few.
async fn promote(daemons: &[Arc<Daemon>], but: usize) {
    let demoted = move |store: &Store| {
        let state = store.state();
        let demoted = state.nodes.values().filter(|node| node.voting == Voting::Demoted);
        demoted.skip(but).map(|node| node.id).collect::<Vec<_>>()
    };
    let end = now() + PATIENCE;
    for daemon in daemons.iter().cycle().take_while(|_| now() < end) {
        let done = daemon.on(|store| async move {
            store.read_barrier(DEADLINE).await.ok()?;
            for node in demoted(&store) {
                store.propose(Command::SetVoting { node, voting: Voting::Auto }, DEADLINE).await.ok()?;
            }
            Some(())
        });
        if done.await.flatten().is_some() {
            return;
        }
        sleep(LOOK).await;
    }
}
