//! The daemon is killed at one moment after another of what it is asked to do. Asked again it does it, or says that it
//! is done; and nothing is left over of the first time.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pontoon_tests::lab::{Cluster, Container, Options, run, run_with};
use pontoon_tests::{elapse, wait_for};

use super::members::is_clean;

/// Moments that each operation is cut off at.
const MOMENTS: u32 = 11;
/// Moments that are looked at more closely, between the last one at which it was not done and the first one at which it was.
const CLOSER: u32 = 20;
/// How long a daemon that was started again may take to put things in order.
const SETTLE: Duration = Duration::from_secs(20);

/// Moments spread over what a command takes, and half of that again: it may take longer the next time.
fn moments(whole: Duration) -> impl Iterator<Item = Duration> {
    eprintln!("uninterrupted it takes {whole:?}");
    (0..MOMENTS).map(move |n| whole * n * 3 / (MOMENTS - 1) / 2)
}

/// What the kills of a sweep found.
#[derive(Debug, Default)]
struct Sweep {
    /// Moments at which it was not done.
    before: Vec<Duration>,
    /// Moments at which it was done, or so far that it could not be undone.
    after: Vec<Duration>,
}

impl Sweep {
    /// Notes whether it was done when the daemon was killed after this time.
    fn note(&mut self, moment: Duration, done: bool) {
        if done { self.after.push(moment) } else { self.before.push(moment) }
    }

    /// One of the moments about the one from which on it is done.
    fn turn(&self, n: u32) -> Duration {
        let last = self.before.iter().max().copied().unwrap_or_default();
        let first = self.after.iter().min().copied().unwrap_or(last);
        last.min(first) + last.abs_diff(first) * n / CLOSER
    }

    /// It has cut off something: kills that are all too early or all too late tell nothing.
    fn ensure_midway(&self) -> Result<()> {
        eprintln!("{self:?}");
        ensure!(!self.before.is_empty() && !self.after.is_empty(), "no kill came midway: {self:?}");
        Ok(())
    }
}

/// How long a command takes.
fn time(cluster: &Cluster, host: usize, line: &str) -> Result<Duration> {
    let start = Instant::now();
    cluster.cli(host).run(line)?;
    Ok(start.elapsed())
}

/// Asks a daemon for something and kills it some time after.
fn cut_off(cluster: &mut Cluster, host: usize, line: &str, after: Duration) -> Result<()> {
    let mut command = cluster.cli(host).command(line)?;
    let mut asking = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    elapse(after);
    cluster.daemon(host).kill9()?;
    asking.wait()?;
    Ok(())
}

/// Asks again for what was cut off: it is done now, or was already, for this reason. Tells whether it was.
fn again(cluster: &Cluster, host: usize, line: &str, done: &str) -> Result<bool> {
    match cluster.cli(host).ask(line)? {
        Err(error) if error.reason != done => bail!("`{line}`, asked again: {error}"),
        answer => Ok(answer.is_err()),
    }
}

/// The nodes on these hosts list each other once and nobody else, and each takes a write.
fn is_whole(cluster: &Cluster, hosts: &[usize]) -> Result<()> {
    let names: Vec<&str> = hosts.iter().map(|&host| cluster.hosts()[host].name.as_str()).collect();
    for &host in hosts {
        let answer = cluster.cli(host).run("node ls")?;
        let listed = answer["nodes"].as_array().context("no nodes")?;
        let mut listed: Vec<_> = listed.iter().map(|node| node["node"]["name"].as_str().unwrap_or_default()).collect();
        listed.sort_unstable();
        ensure!(listed == names, "h{} lists {listed:?}", host + 1);
        cluster.cli(host).run("network create once")?;
        cluster.cli(host).run("network rm once")?;
    }
    Ok(())
}

type Held = BTreeSet<(String, IpAddr)>;

/// Who has which address on the network `n`: endpoints and leases tell the same.
fn held(cluster: &Cluster, by: usize) -> Result<Held> {
    let entry = |object: &serde_json::Value, address: &serde_json::Value| -> Result<(String, IpAddr)> {
        let name = object["name"].as_str().context("no name")?;
        Ok((name.to_owned(), address.as_str().unwrap_or_default().parse()?))
    };
    let answer = cluster.cli(by).run("network inspect n")?;
    let mut endpoints = Held::new();
    for view in answer["endpoints"].as_array().into_iter().flatten() {
        for address in view["endpoint"]["addresses"].as_array().into_iter().flatten() {
            endpoints.insert(entry(&view["endpoint"], address)?);
        }
    }
    let answer = cluster.cli(by).run("lease ls --network n")?;
    let mut leases = Held::new();
    for view in answer["leases"].as_array().into_iter().flatten() {
        if ["active", "pending"].iter().any(|state| view["lease"]["state"] == **state) {
            leases.insert(entry(&view["lease"], &view["lease"]["address"])?);
        }
    }
    ensure!(endpoints == leases, "endpoints {endpoints:?}, leases {leases:?}");
    Ok(endpoints)
}

/// A container's address on the network, and that on its interface, where it has one.
fn addresses(cluster: &Cluster, by: usize, container: &Container) -> Result<(Option<IpAddr>, Option<IpAddr>)> {
    let held = held(cluster, by)?;
    let leased = held.into_iter().find(|(name, _)| *name == container.name).map(|(_, address)| address);
    let Some(link) = container.interface("eth0")? else { return Ok((leased, None)) };
    let infos = link["addr_info"].as_array().context("no addr_info")?;
    let v4 = infos.iter().find(|info| info["family"] == "inet");
    let address = v4.and_then(|info| info["local"].as_str()).map(str::parse).transpose()?;
    Ok((leased, address))
}

/// The container has its lease and its interface, or neither.
fn whole_or_gone(cluster: &Cluster, container: &Container) -> Result<Option<IpAddr>> {
    wait_for(&format!("{} to have its lease and its interface, or neither", container.name), SETTLE, || {
        let (leased, address) = addresses(cluster, container.host, container)?;
        ensure!(leased == address, "leased {leased:?}, on eth0 {address:?}");
        ensure!(leased.is_some() || container.interface("eth1")?.is_none(), "eth1 is left");
        Ok(leased)
    })
}

#[test]
fn init() -> Result<()> {
    run_with(Options { hosts: 1, ..Options::default() }, |cluster| {
        let line = format!("init --advertise {} --name h1", cluster.advertise(0));
        let whole = time(cluster, 0, &line)?;
        let mut sweep = Sweep::default();
        for after in moments(whole) {
            cluster.cli(0).run("leave --force")?;
            cut_off(cluster, 0, &line, after)?;
            cluster.daemon(0).up()?;
            sweep.note(after, again(cluster, 0, &line, "ALREADY_IN_CLUSTER")?);
            is_whole(cluster, &[0])?;
        }
        sweep.ensure_midway()?;
        Ok(())
    })
}

#[test]
fn join() -> Result<()> {
    run_with(Options { hosts: 2, ..Options::default() }, |cluster| {
        cluster.init()?;
        let line = cluster.join_line(1, 0);
        let whole = time(cluster, 1, &line)?;
        let mut sweep = Sweep::default();
        for after in moments(whole) {
            cluster.wait_all_ready()?;
            cluster.cli(1).run("leave")?;
            cut_off(cluster, 1, &line, after)?;
            cluster.daemon(1).up()?;
            sweep.note(after, again(cluster, 1, &line, "ALREADY_IN_CLUSTER")?);
            cluster.wait_all_ready()?;
            is_whole(cluster, &[0, 1])?;
            cluster.wait_same_state()?;
        }
        sweep.ensure_midway()?;
        Ok(())
    })
}

#[test]
fn attach() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create n")?;
        let (_, peer) = cluster.attached(0, "peer", "n")?;
        let first = cluster.container(2, "first")?;
        let whole = time(cluster, 2, &first.attach_line("n", ""))?;
        let mut sweep = Sweep::default();
        for (n, after) in moments(whole).enumerate() {
            let container = cluster.container(2, &format!("c{n}"))?;
            let line = container.attach_line("n", "");
            cut_off(cluster, 2, &line, after)?;
            cluster.daemon(2).up()?;
            sweep.note(after, again(cluster, 2, &line, "ALREADY_ATTACHED")?);
            let address = whole_or_gone(cluster, &container)?;
            ensure!(
                address.is_some(),
                "killed after {after:?}, attach was done and {} is not attached",
                container.name
            );
            container.netns.reaches(peer.addresses[0], 3)?;
        }
        sweep.ensure_midway()?;
        ensure!(held(cluster, 0)?.len() == MOMENTS as usize + 2, "{:?}", held(cluster, 0)?);
        cluster.wait_all_ready()?;
        is_whole(cluster, &[0, 1, 2])?;
        cluster.wait_same_state()
    })
}

#[test]
fn detach() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create n")?;
        cluster.attached(2, "first", "n")?;
        let whole = time(cluster, 2, "detach --name first")?;
        let mut sweep = Sweep::default();
        for (n, after) in moments(whole).enumerate() {
            let (container, _) = cluster.attached(2, &format!("c{n}"), "n")?;
            let line = format!("detach --name {}", container.name);
            cut_off(cluster, 2, &line, after)?;
            // For as long as the daemon is down, nobody takes away an interface that was left.
            let (leased, address) = addresses(cluster, 0, &container)?;
            ensure!(leased.is_some() || address.is_none(), "killed after {after:?}: {address:?} has no lease");
            cluster.daemon(2).up()?;
            whole_or_gone(cluster, &container)?;
            sweep.note(after, again(cluster, 2, &line, "ENDPOINT_NOT_FOUND")?);
            let left = whole_or_gone(cluster, &container)?;
            ensure!(left.is_none(), "killed after {after:?}, detach was done and {left:?} is there");
        }
        sweep.ensure_midway()?;
        ensure!(held(cluster, 0)?.is_empty(), "{:?}", held(cluster, 0)?);
        cluster.wait_all_ready()?;
        is_whole(cluster, &[0, 1, 2])?;
        cluster.wait_same_state()
    })
}

#[test]
fn leave() -> Result<()> {
    run(|cluster| {
        let joining = cluster.join_line(2, 0);
        cluster.cli(0).run("network create n")?;
        something_to_clean_up(cluster, "first")?;
        let whole = time(cluster, 2, "leave")?;
        let mut sweep = Sweep::default();
        for (n, after) in moments(whole).enumerate() {
            cluster.cli(2).run(&joining)?;
            cluster.wait_all_ready()?;
            something_to_clean_up(cluster, &format!("c{n}"))?;
            cut_off(cluster, 2, "leave", after)?;
            let listed = cluster.cli(0).run("node ls")?.to_string().contains("\"h3\"");
            cluster.daemon(2).up()?;
            let left =
                again(cluster, 2, "leave", "NOT_IN_CLUSTER").with_context(|| format!("killed after {after:?}"))?;
            // Once the others do not list it, it can only go on.
            sweep.note(after, left || !listed);
            is_clean(cluster, 2)?;
            is_whole(cluster, &[0, 1])?;
        }
        sweep.ensure_midway()?;
        cluster.cli(2).run(&joining)?;
        cluster.wait_all_ready()?;
        cluster.wait_same_state()
    })
}

/// Bridges and devices that a container leaves behind on the third host.
fn something_to_clean_up(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.attached(2, name, "n")?;
    cluster.cli(2).run(&format!("detach --name {name}")).map(drop)
}

/// The cluster ends with its last node. One that was killed when it had ended, and before the node had left, leaves it
/// without force: there is nothing left to lose.
#[test]
fn leave_of_the_last() -> Result<()> {
    run_with(Options { hosts: 1, ..Options::default() }, |cluster| {
        cluster.init()?;
        let whole = time(cluster, 0, "leave --force")?;
        let (mut sweep, mut begun) = (Sweep::default(), false);
        for after in moments(whole) {
            begun |= the_last_leaves(cluster, after, &mut sweep)?;
        }
        for n in 0..CLOSER {
            if !begun {
                begun = the_last_leaves(cluster, sweep.turn(n), &mut sweep)?;
            }
        }
        ensure!(begun, "no kill came when the cluster had ended and the node had not left: {sweep:?}");
        sweep.ensure_midway()
    })
}

/// It is killed meanwhile, and leaves. Tells whether the cluster had ended and the node had not left.
fn the_last_leaves(cluster: &mut Cluster, after: Duration, sweep: &mut Sweep) -> Result<bool> {
    cluster.init()?;
    cut_off(cluster, 0, "leave --force", after)?;
    cluster.daemon(0).up()?;
    let answer = cluster.cli(0).ask("leave")?;
    let whole = answer.as_ref().is_err_and(|error| error.message.starts_with("this is the last node"));
    match &answer {
        Err(_) if whole => drop(cluster.cli(0).run("leave --force")?),
        Err(error) if error.reason != "NOT_IN_CLUSTER" => bail!("killed after {after:?}: {error}"),
        _ => {}
    }
    sweep.note(after, !whole);
    is_clean(cluster, 0)?;
    Ok(answer.is_ok())
}

/// Of two nodes, one votes and leads: that one leaves, then the other, and so on. The one that stays is not the last one
/// to the one that leaves.
#[test]
fn leave_of_the_leader_of_two() -> Result<()> {
    run_with(Options { hosts: 2, ..Options::default() }, |cluster| {
        cluster.form()?;
        let whole = time(cluster, 0, "leave")?;
        cluster.join(0, 1)?;
        let mut sweep = Sweep::default();
        for (n, after) in moments(whole).enumerate() {
            let (stays, goes) = (n % 2, (n + 1) % 2);
            cluster.wait_all_ready()?;
            ensure!(cluster.leader()? == goes, "the one that voted when the other came is h{}", goes + 1);
            cut_off(cluster, goes, "leave", after)?;
            cluster.daemon(goes).up()?;
            sweep.note(
                after,
                again(cluster, goes, "leave", "NOT_IN_CLUSTER").with_context(|| format!("killed after {after:?}"))?,
            );
            is_clean(cluster, goes)?;
            is_whole(cluster, &[stays])?;
            cluster.join(goes, stays)?;
        }
        sweep.ensure_midway()?;
        cluster.wait_all_ready()?;
        cluster.wait_same_state()
    })
}
