//! Writes that go on while something is done to a cluster, and what of them was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::{Attached, Cli, Cluster, Container, Host, Netns};
use crate::elapse;

/// Network that the stream leases addresses of.
const LEASED: &str = "leased";
/// Of so many containers that are attached, one stays.
const KEEP_EVERY: u64 = 4;

/// Writes on these hosts while something is done to the cluster. Returns what was acknowledged.
///
/// # Errors
///
/// What was done failed, or a write was answered as it must not be.
pub fn while_writing(
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

/// What was acknowledged.
#[derive(Debug, Default)]
pub struct Journal {
    networks: Mutex<BTreeSet<String>>,
    /// Containers that are attached now, as far as the writers were told.
    held: Mutex<BTreeMap<IpAddr, String>>,
    /// Containers that are detached for certain.
    released: Mutex<BTreeSet<String>>,
    /// How many writes.
    pub acknowledged: AtomicU64,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Every node has every acknowledged write, of which there are at least so many. What an observer has not itself, a member
    /// tells it.
    ///
    /// # Errors
    ///
    /// What is lost, or was given twice, and on which node.
    pub fn check(&self, cluster: &Cluster, least: u64) -> Result<()> {
        self.check_on(cluster, &(0..cluster.hosts().len()).collect::<Vec<_>>(), least)
    }

    /// The same of these nodes.
    ///
    /// # Errors
    ///
    /// As [`Journal::check`].
    pub fn check_on(&self, cluster: &Cluster, hosts: &[usize], least: u64) -> Result<()> {
        let (networks, held) = (lock(&self.networks), lock(&self.held));
        let counted = (networks.len(), held.len(), lock(&self.released).len());
        let enough = u64::try_from(counted.0 + counted.1 + counted.2)? >= least;
        ensure!(enough, "too few writes to tell (networks, held, released): {counted:?}");
        let members = cluster.status(hosts[0])?["members"].clone();
        let members = members.as_array().context("no members")?;
        let observes = |name: &str| members.iter().any(|m| m["node"]["name"] == name && m["observer"] == true);
        for &host in hosts {
            let Host { name, .. } = &cluster.hosts()[host];
            let answer = cluster.cli(host).run("network ls --stale")?;
            let views = answer["networks"].as_array().context("no networks")?;
            let known: BTreeSet<&str> = views.iter().filter_map(|view| view["network"]["name"].as_str()).collect();
            for name in networks.iter() {
                ensure!(known.contains(name.as_str()), "h{} has lost network {name}", host + 1);
            }
            let own = if observes(name) { "" } else { "--stale" };
            self.check_leases(&cluster.cli(host).run(&format!("lease ls --network {LEASED} {own}"))?, &held)?;
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
