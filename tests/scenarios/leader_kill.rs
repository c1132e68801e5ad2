//! The leader is killed again and again under a stream of writes. What was acknowledged stays, no address is given
//! twice, and the containers notice nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use pontoon_tests::lab::{Attached, Cli, Cluster, Container, Daemon, Netns};
use pontoon_tests::{elapse, wait_for};
use serde_json::Value;

use super::environment::{Environment, Field};

/// How often the leader is killed.
const KILLS: u64 = 20;
/// Network that the stream leases addresses of.
const LEASED: &str = "leased";
/// Of so many containers that are attached, one stays.
const KEEP_EVERY: u64 = 4;

/// How often all daemons are killed at once.
const BLACKOUTS: u64 = 5;

fn leader_kill(environment: Environment) -> Result<()> {
    under_writes(environment, kill_leaders)
}

/// Writes while something is done to the cluster; nothing that was acknowledged is lost.
fn under_writes(environment: Environment, harm: impl FnOnce(&mut Cluster, &Journal) -> Result<()>) -> Result<()> {
    environment.run(|cluster, field| {
        let ways = field.pairs().map(|(from, to)| cluster.pinger(&from.container, &to.attached[0]));
        let ways = ways.collect::<Result<Vec<_>>>()?;
        let hosts: Vec<usize> = (0..cluster.hosts().len()).collect();
        let journal = while_writing(cluster, &hosts, harm)?;
        for way in ways {
            way.lost_nothing(KILLS * 10)?;
        }
        cluster.wait_all_ready()?;
        cluster.wait_same_state()?;
        journal.check(cluster)?;
        still_works(cluster, field)
    })
}

/// Writes on these hosts while something is done to the cluster. Returns what was acknowledged.
pub(super) fn while_writing(
    cluster: &mut Cluster,
    hosts: &[usize],
    harm: impl FnOnce(&mut Cluster, &Journal) -> Result<()>,
) -> Result<Journal> {
    cluster.cli(hosts[0]).run(&format!("network create {LEASED} --subnet 100.96.0.0/16"))?;
    let journal = Journal::default();
    let writers = writers(cluster, hosts, &journal);
    thread::scope(|scope| {
        let running: Vec<_> = writers.into_iter().map(|writer| scope.spawn(move || writer.work())).collect();
        let harmed = harm(cluster, &journal);
        journal.stop.store(true, Ordering::Relaxed);
        let written = running.into_iter().try_for_each(|writer| match writer.join() {
            Ok(result) => result,
            Err(_) => Err(anyhow!("a writer panicked")),
        });
        harmed.and(written)
    })?;
    Ok(journal)
}

fn kill_leaders(cluster: &mut Cluster, journal: &Journal) -> Result<()> {
    for round in 0..KILLS {
        // From at once to 0.4 s into a term, and at different places in a write.
        elapse(Duration::from_millis(round * 37 % 400));
        let leader = cluster.leader()?;
        cluster.daemon(leader).kill9()?;
        let before = journal.acknowledged.load(Ordering::Relaxed);
        if round % 2 == 0 {
            // It comes back to a cluster that has a new leader; in other rounds, perhaps before there is one.
            cluster.leader()?;
        }
        cluster.daemon(leader).up()?;
        wait_for_writes(journal, round, before)?;
    }
    Ok(())
}

/// Kills all daemons at once: none of them can ask another what it had.
fn kill_all(cluster: &mut Cluster, journal: &Journal) -> Result<()> {
    for round in 0..BLACKOUTS {
        // From about half a second to one under way, and at different places in a write.
        elapse(Duration::from_millis(500 + round * 137));
        // Held first: a kill waits for the end of its process, and the others would go on meanwhile.
        cluster.daemons().iter().try_for_each(Daemon::pause)?;
        let before = journal.acknowledged.load(Ordering::Relaxed);
        cluster.daemons().iter_mut().try_for_each(Daemon::kill9)?;
        cluster.daemons().iter_mut().try_for_each(Daemon::start)?;
        cluster.daemons().iter_mut().try_for_each(Daemon::wait_ready)?;
        // An answer that was on its way may have been counted since; more than that is new.
        wait_for_writes(journal, round, before + u64::try_from(cluster.hosts().len())? + 1)?;
    }
    Ok(())
}

fn wait_for_writes(journal: &Journal, round: u64, before: u64) -> Result<()> {
    wait_for("writes after the kill", Duration::from_secs(20), || {
        let now = journal.acknowledged.load(Ordering::Relaxed);
        ensure!(now > before, "round {round}: {now} by now, {before} before");
        Ok(())
    })
}

fn still_works(cluster: &Cluster, field: &Field) -> Result<()> {
    field.all_reach_all(10)?;
    let (_, last) = cluster.attached(1, "afterwards", &field.networks[0])?;
    cluster.pinger(&field.members[0].container, &last)?.lost_nothing(0).map(drop)
}

/// What was acknowledged.
#[derive(Debug, Default)]
pub(super) struct Journal {
    networks: Mutex<BTreeSet<String>>,
    /// Containers that are attached now, as far as the writers were told.
    held: Mutex<BTreeMap<IpAddr, String>>,
    /// Containers that are detached for certain.
    released: Mutex<BTreeSet<String>>,
    /// How many writes.
    pub(super) acknowledged: AtomicU64,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Every node has every acknowledged write.
    pub(super) fn check(&self, cluster: &Cluster) -> Result<()> {
        let (networks, held) = (lock(&self.networks), lock(&self.held));
        let counted = (networks.len(), held.len(), lock(&self.released).len());
        let enough = u64::try_from(counted.0 + counted.1 + counted.2)? >= KILLS;
        ensure!(enough, "too few writes to tell (networks, held, released): {counted:?}");
        for host in 0..cluster.hosts().len() {
            let answer = cluster.cli(host).run("network ls --stale")?;
            let views = answer["networks"].as_array().context("no networks")?;
            let known: BTreeSet<&str> = views.iter().filter_map(|view| view["network"]["name"].as_str()).collect();
            for name in networks.iter() {
                ensure!(known.contains(name.as_str()), "h{} has lost network {name}", host + 1);
            }
            self.check_leases(&cluster.cli(host).run(&format!("lease ls --network {LEASED} --stale"))?, &held)?;
        }
        Ok(())
    }

    fn check_leases(&self, answer: &Value, held: &BTreeMap<IpAddr, String>) -> Result<()> {
        let views = answer["leases"].as_array().context("no leases")?;
        let active = views.iter().filter(|view| view["lease"]["state"] == "active");
        let mut leased = BTreeMap::new();
        for view in active {
            let address: IpAddr = view["lease"]["address"].as_str().unwrap_or_default().parse()?;
            let name = view["lease"]["name"].as_str().unwrap_or_default().to_owned();
            ensure!(!lock(&self.released).contains(&name), "{name} was detached and still has {address}");
            ensure!(leased.insert(address, name).is_none(), "{address} is leased twice");
        }
        for (address, name) in held {
            ensure!(leased.get(address) == Some(name), "{address} of {name} belongs to {:?}", leased.get(address));
        }
        Ok(())
    }
}

/// One stream of writes.
#[derive(Debug)]
enum Writer<'a> {
    Networks { journal: &'a Journal, clis: Vec<Cli> },
    Leases { journal: &'a Journal, cli: Cli, host: usize, prefix: String },
}

/// One that makes networks, through each of these nodes in turn, and one that leases addresses on each of them.
fn writers<'a>(cluster: &Cluster, hosts: &[usize], journal: &'a Journal) -> Vec<Writer<'a>> {
    let clis: Vec<Cli> = hosts.iter().map(|&host| cluster.cli(host)).collect();
    let prefix = cluster.prefix();
    let leases = hosts.iter().copied().zip(clis.clone());
    let leases = leases.map(|(host, cli)| Writer::Leases { journal, cli, host, prefix: prefix.to_owned() });
    [Writer::Networks { journal, clis }].into_iter().chain(leases).collect()
}

impl Writer<'_> {
    fn work(self) -> Result<()> {
        match self {
            Self::Networks { journal, clis } => make_networks(journal, &clis),
            Self::Leases { journal, cli, host, prefix } => lease_addresses(journal, &cli, host, &prefix),
        }
    }
}

fn make_networks(journal: &Journal, clis: &[Cli]) -> Result<()> {
    for (number, cli) in clis.iter().cycle().enumerate() {
        if journal.stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("n{number}");
        // Not asked again under this name: whether a write without an answer was applied is not known.
        if cli.ask(&format!("network create {name} --internal"))?.is_ok() {
            lock(&journal.networks).insert(name);
            journal.acknowledge();
        }
        elapse(Duration::from_millis(20));
    }
    Ok(())
}

fn lease_addresses(journal: &Journal, cli: &Cli, host: usize, prefix: &str) -> Result<()> {
    let mut number = 0;
    while !journal.stop.load(Ordering::Relaxed) {
        number += 1;
        let name = format!("l{host}-{number}");
        let container = Container { netns: Netns::create(&format!("{prefix}-c-{name}"))?, name, host };
        let Ok(answer) = cli.ask(&container.attach_line(LEASED, ""))? else {
            // Nothing is left of it, or a daemon died over it: then its namespace's end releases the lease.
            container.netns.remove()?;
            elapse(Duration::from_millis(50));
            continue;
        };
        let address = Attached::parse(&answer)?.addresses[0];
        let other = lock(&journal.held).insert(address, container.name.clone());
        ensure!(other.is_none(), "{address} was given to {} while {other:?} has it", container.name);
        journal.acknowledge();
        if number % KEEP_EVERY != 0 {
            release(journal, cli, &container, address)?;
        }
    }
    Ok(())
}

fn release(journal: &Journal, cli: &Cli, container: &Container, address: IpAddr) -> Result<()> {
    lock(&journal.held).remove(&address);
    if cli.ask(&format!("detach --netns {}", container.netns.path().display()))?.is_ok() {
        lock(&journal.released).insert(container.name.clone());
        journal.acknowledge();
    }
    container.netns.remove()
}

#[test]
fn plain() -> Result<()> {
    leader_kill(Environment::Plain)
}

#[test]
fn all_at_once() -> Result<()> {
    under_writes(Environment::Plain, kill_all)
}

#[test]
fn with_the_gateway_bridges_subnet_occupied() -> Result<()> {
    leader_kill(Environment::OccupiedGateway)
}

#[test]
fn with_the_pool_routed_elsewhere() -> Result<()> {
    leader_kill(Environment::RoutedPool)
}

#[test]
fn with_two_networks_on_one_container() -> Result<()> {
    leader_kill(Environment::TwoNetworks)
}

#[test]
fn with_ipv6() -> Result<()> {
    leader_kill(Environment::Ipv6Overlay)
}

#[test]
fn over_ipv6() -> Result<()> {
    leader_kill(Environment::Ipv6Underlay)
}
