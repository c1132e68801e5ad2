//! Plain Docker hosts share a network: the steps that their administrator takes, with the commands that he types.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use pontoon_tests::lab::{Cluster, EngineKind, IMAGE, OUTSIDE, Options, ROUTER, run_with};
use pontoon_tests::wait_for;

/// How long something may take that the engine and the cluster do together.
const SOON: Duration = Duration::from_secs(10);

/// Runs a scenario on hosts with an engine each.
fn on_engines(engines: &[EngineKind], scenario: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let options = Options { hosts: engines.len(), engines: engines.to_vec(), ..Options::default() };
    run_with(options, |cluster| {
        cluster.form()?;
        scenario(cluster)
    })
}

/// Waits until a host's engine lists a network, and nobody has told it to.
pub(crate) fn appears(cluster: &Cluster, host: usize, network: &str) -> Result<()> {
    wait_for(&format!("network {network} to be in the engine of h{}", host + 1), SOON, || {
        let listed = cluster.engine(host).docker("network ls --format {{.Name}}/{{.Driver}}")?;
        ensure!(listed.lines().any(|line| line == format!("{network}/pontoon")), "{listed}");
        Ok(())
    })
}

/// What `ip addr` says of a container's interface, in words.
fn interface(cluster: &Cluster, host: usize, container: &str, ifname: &str) -> Result<String> {
    let shown = cluster.engine(host).exec(container, &format!("ip addr show dev {ifname}"))?;
    Ok(shown.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn has(cluster: &Cluster, host: usize, container: &str, ifname: &str, words: &[&str]) -> Result<()> {
    let shown = interface(cluster, host, container, ifname)?;
    for words in words {
        ensure!(shown.contains(words), "{container}: no {words:?} in {shown}");
    }
    Ok(())
}

fn loses_nothing(cluster: &Cluster, host: usize, container: &str, to: IpAddr) -> Result<()> {
    let counted = cluster.engine(host).exec(container, &format!("ping -c 10 -i 0.05 -W 1 {to}"))?;
    ensure!(counted.contains("10 packets received, 0% packet loss"), "{container} to {to}: {counted}");
    Ok(())
}

/// Steps 5 to 12, as an administrator takes them on two hosts.
fn twelve_steps(cluster: &mut Cluster) -> Result<()> {
    let (first, second) = (cluster.engine(0), cluster.engine(1));
    println!("engines {} and {}", first.version()?, second.version()?);
    first.docker("network create -d pontoon --ipam-driver pontoon my-overlay")?;
    appears(cluster, 0, "my-overlay")?;
    appears(cluster, 1, "my-overlay")?;

    first.docker(&format!("run -d -it --net my-overlay --name centos1 {IMAGE}"))?;
    second.docker(&format!("run -d -it --net my-overlay --name centos2 {IMAGE}"))?;
    let eth0 = |n: u8| [format!("10.0.0.{n}/24 brd 10.0.0.255"), format!("link/ether 02:42:0a:00:00:{n:02x}")];
    let eth1 = ["172.18.0.2/16 brd 172.18.255.255", "link/ether 02:42:ac:12:00:02"];
    for (host, container, n) in [(0, "centos1", 2), (1, "centos2", 3)] {
        has(cluster, host, container, "eth0", &eth0(n).each_ref().map(String::as_str))?;
        has(cluster, host, container, "eth1", &eth1)?;
        let own = cluster.hosts()[host].netns.run("ip", &["-o", "addr"])?;
        let own: Vec<&str> = own.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        ensure!(
            own.iter()
                .all(|name| ["lo", "ens33", "docker0", "docker_gwbridge"].contains(name) || name.starts_with("veth")),
            "{own:?}"
        );
    }

    let inspected = first.docker("network inspect my-overlay")?;
    for words in ["10.0.0.0/24", "10.0.0.1", "centos1", "10.0.0.2/24", "02:42:0a:00:00:02"] {
        ensure!(inspected.contains(words), "no {words} in {inspected}");
    }
    wait_for("both containers to be listed", SOON, || {
        let answer = cluster.cli(1).run("network inspect my-overlay")?.to_string();
        for words in ["centos1", "10.0.0.2", "02:42:0a:00:00:02", "h1", "centos2", "10.0.0.3", "02:42:0a:00:00:03"] {
            ensure!(answer.contains(words), "no {words} in {answer}");
        }
        Ok(())
    })?;
    let bridge = first.docker("network inspect docker_gwbridge")?;
    for words in ["172.18.0.0/16", "172.18.0.1", "gateway_", "172.18.0.2/16"] {
        ensure!(bridge.contains(words), "no {words} in {bridge}");
    }

    let hosts: Vec<IpAddr> = cluster.hosts().iter().map(|host| host.address.into()).collect();
    let of_overlay = |n: u8| IpAddr::from([10, 0, 0, n]);
    wait_for("the way to be up", SOON, || cluster.engine(0).exec("centos1", &format!("ping -c 1 -W 1 {OUTSIDE}")))?;
    for (host, container, other) in [(0, "centos1", 3), (1, "centos2", 2)] {
        for to in [hosts[0], hosts[1], ROUTER.into(), OUTSIDE.into(), of_overlay(other)] {
            loses_nothing(cluster, host, container, to)?;
        }
    }
    Ok(())
}

#[test]
fn two_hosts_one_with_a_newer_engine() -> Result<()> {
    on_engines(&[EngineKind::Debian, EngineKind::Suite("trixie")], twelve_steps)
}

#[test]
fn two_hosts_with_the_distributions_engine() -> Result<()> {
    on_engines(&[EngineKind::Debian, EngineKind::Debian], twelve_steps)
}
