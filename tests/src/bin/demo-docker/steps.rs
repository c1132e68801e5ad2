//! The steps.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, IMAGE, OUTSIDE, ROUTER};
use pontoon_tests::wait_for;

use super::screen::Screen;

/// How long the hosts may take to agree on something.
const SOON: Duration = Duration::from_secs(10);
/// The network.
const NETWORK: &str = "my-overlay";
/// The containers, one on each host.
const CONTAINERS: [&str; 2] = ["centos1", "centos2"];

/// What is shown, before it begins.
pub(super) fn introduce(screen: &Screen) -> Result<()> {
    screen.say("Pontoon: one network for the containers of two Docker hosts")?;
    screen.say(
        "Hosts are network namespaces here. The engines, the daemons, the kernel's VXLAN and the packets are real.",
    )?;
    screen.step(&format!("Two hosts on one LAN (192.168.140.0/24), and an outside ({OUTSIDE}) behind a router"))?;
    screen.say("starting dockerd and pontoond on both")
}

/// Shows it all.
pub(super) fn show(screen: &mut Screen, cluster: &Cluster) -> Result<()> {
    let start = Instant::now();
    cluster_of_two(screen, cluster)?;
    network(screen, cluster)?;
    containers(screen, cluster)?;
    inspect(screen, cluster)?;
    pings(screen, cluster)?;
    screen.say(&format!("\n({} s since the hosts were up)", start.elapsed().as_secs()))
}

fn cluster_of_two(screen: &Screen, cluster: &Cluster) -> Result<()> {
    for host in [0, 1] {
        screen.run(cluster, host, "docker version --format 'Docker Engine {{.Server.Version}}'")?;
    }
    screen.step("A cluster: nothing else to install, and dockerd is not restarted")?;
    let first = cluster.hosts()[0].address;
    let told = screen.run(cluster, 0, &format!("pontoon init --advertise {first}"))?;
    let line = join_line(&told)?;
    screen.run(cluster, 1, line)?;
    cluster.wait_all_ready()?;
    screen.run(cluster, 1, "pontoon node ls").map(drop)
}

/// The command that `pontoon init` prints for the next host.
fn join_line(told: &str) -> Result<&str> {
    told.lines().map(str::trim).find(|line| line.starts_with("pontoon join ")).context("init prints no command to join")
}

fn network(screen: &Screen, cluster: &Cluster) -> Result<()> {
    screen.step("A network, made with Docker on one host and there on both")?;
    screen.run(cluster, 0, &format!("docker network create -d pontoon --ipam-driver pontoon {NETWORK}"))?;
    let made = Instant::now();
    wait_for(&format!("{NETWORK} to be in both engines"), SOON, || {
        for host in [0, 1] {
            let listed = cluster.engine(host).docker("network ls --format {{.Name}}")?;
            ensure!(listed.lines().any(|name| name == NETWORK), "h{} lists {listed:?}", host + 1);
        }
        Ok(())
    })?;
    screen
        .say(&format!("(in the engine of h2 within {} ms; nobody typed anything there)", made.elapsed().as_millis()))?;
    for host in [0, 1] {
        screen.run(cluster, host, "docker network ls")?;
    }
    Ok(())
}

fn containers(screen: &Screen, cluster: &Cluster) -> Result<()> {
    screen.step("A container on each host")?;
    for (host, container) in CONTAINERS.iter().enumerate() {
        screen.run(cluster, host, &format!("docker run -d -it --net {NETWORK} --name {container} {IMAGE}"))?;
    }
    for (host, container) in CONTAINERS.iter().enumerate() {
        screen.run(cluster, host, &format!("docker exec {container} ip addr"))?;
    }
    screen.step("On the host: what the overlay adds is out of sight")?;
    screen.run(cluster, 0, "ip addr").map(drop)
}

fn inspect(screen: &Screen, cluster: &Cluster) -> Result<()> {
    screen.step("What Docker knows of the network: its own containers")?;
    screen.run(cluster, 0, &format!("docker network inspect {NETWORK}"))?;
    screen.step("What Pontoon knows of it: those of all hosts")?;
    wait_for("both containers to be listed", SOON, || {
        let answer = cluster.cli(1).run(&format!("network inspect {NETWORK}"))?.to_string();
        for container in CONTAINERS {
            ensure!(answer.contains(container), "no {container} in {answer}");
        }
        Ok(())
    })?;
    screen.run(cluster, 1, &format!("pontoon network inspect {NETWORK}"))?;
    screen.step("The bridge that containers leave a host by")?;
    screen.run(cluster, 0, "docker network inspect docker_gwbridge").map(drop)
}

fn pings(screen: &mut Screen, cluster: &Cluster) -> Result<()> {
    screen.step("Who reaches whom")?;
    for (host, container) in CONTAINERS.into_iter().enumerate() {
        let other = 1 - host;
        let ways = [
            (cluster.hosts()[host].address.to_string(), "its own host".to_owned()),
            (cluster.hosts()[other].address.to_string(), "the other host".to_owned()),
            (ROUTER.to_string(), "another machine of the hosts' LAN".to_owned()),
            (OUTSIDE.to_string(), "the outside, through the host's NAT".to_owned()),
            (CONTAINERS[other].to_owned(), format!("by its name, on {}", cluster.hosts()[other].name)),
        ];
        settle(cluster, host, container, &ways[4].0)?;
        for (to, what) in ways {
            screen.ping(cluster, (host, container), &to, &what)?;
        }
    }
    Ok(())
}

/// A container is on the network when it has started; the other hosts hear of it a moment later.
fn settle(cluster: &Cluster, host: usize, container: &str, to: &str) -> Result<()> {
    let answers = || cluster.engine(host).exec(container, &format!("ping -q -c 1 -W 1 {to}"));
    // The ping that follows shows it if not.
    let _ = wait_for("the other container", SOON, answers);
    Ok(())
}
