//! Plain Docker hosts share a network: the steps that their administrator takes, with the commands that he types.

mod churn;
mod containers;
mod leaving;
mod minority;
mod names;
mod networks;
mod restarts;

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, EngineKind, EnginesStart, IMAGE, OUTSIDE, Options, ROUTER, run_with};
use pontoon_tests::wait_for;

use super::environment::Environment;

/// How long something may take that the engine and the cluster do together.
const SOON: Duration = Duration::from_secs(10);

/// Runs a scenario on hosts with an engine each.
fn on_engines(engines: &[EngineKind], scenario: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let options = Options { hosts: engines.len(), engines: engines.to_vec(), ..Options::default() };
    run_with(options, |cluster| {
        cluster.form()?;
        knows_the_engines(cluster)?;
        scenario(cluster)
    })
}

/// Waits until the cluster knows of each host that it has an engine: what waits for all engines waits for those.
fn knows_the_engines(cluster: &Cluster) -> Result<()> {
    wait_for("the engines to be known", SOON, || {
        let answer = cluster.cli(0).run("node ls")?;
        let nodes = answer["nodes"].as_array().context("no nodes")?;
        let engine =
            |member: &serde_json::Value| member["node"]["engine"].as_str().is_some_and(|name| !name.is_empty());
        ensure!(nodes.iter().all(engine), "{answer}");
        Ok(())
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

/// How an administrator makes a network.
const CREATE: &str = "network create -d pontoon --ipam-driver pontoon";

/// Waits until a host's engine does not list a network.
fn disappears(cluster: &Cluster, host: usize, network: &str) -> Result<()> {
    wait_for(&format!("network {network} to be gone from the engine of h{}", host + 1), SOON, || {
        let listed = cluster.engine(host).docker("network ls --format {{.Name}}")?;
        ensure!(listed.lines().all(|line| line != network), "{listed}");
        Ok(())
    })
}

/// Starts a container on a network.
fn run_on(cluster: &Cluster, host: usize, network: &str, name: &str, more: &str) -> Result<()> {
    cluster.engine(host).docker(&format!("run -d --net {network} --name {name} {more} {IMAGE}")).map(drop)
}

/// A compose project `app` on any of the hosts, whose service `web` is on a network that the project does not make.
struct Compose {
    file: PathBuf,
}

impl Compose {
    /// Writes its file.
    fn on(cluster: &Cluster, network: &str) -> Result<Self> {
        let file = cluster.file("compose.yaml");
        let services = format!("  web:\n    image: {IMAGE}\n    networks: [front]\n");
        let networks = format!("  front:\n    external: true\n    name: {network}\n");
        fs::write(&file, format!("version: '3.5'\nservices:\n{services}networks:\n{networks}"))?;
        Ok(Self { file })
    }

    /// Runs `docker-compose` against a host's engine.
    fn run(&self, cluster: &Cluster, host: usize, args: &[&str]) -> Result<()> {
        let mut command = Command::new("docker-compose");
        command.env("DOCKER_HOST", format!("unix://{}", cluster.engine(host).socket().display()));
        command.arg("--file").arg(&self.file).args(["--project-name", "app"]).args(args);
        let output = command.output().context("cannot run docker-compose: run tests/setup.sh test")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
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

/// What the containers of the twelve steps get.
struct Expected {
    /// The first three numbers of the overlay's addresses.
    overlay: [u8; 3],
    /// The first two numbers of each host's gateway bridge.
    bridges: [[u8; 2]; 2],
}

const USUAL: Expected = Expected { overlay: [10, 0, 0], bridges: [[172, 18], [172, 18]] };

impl Expected {
    fn overlay(&self, n: u8) -> IpAddr {
        let [a, b, c] = self.overlay;
        IpAddr::from([a, b, c, n])
    }

    /// What `ip addr` says of the interface on the overlay.
    fn eth0(&self, n: u8) -> [String; 2] {
        let [a, b, c] = self.overlay;
        let address = format!("inet {a}.{b}.{c}.{n}/24 brd {a}.{b}.{c}.255 scope global eth0");
        [address, format!("link/ether 02:42:{a:02x}:{b:02x}:{c:02x}:{n:02x} brd ff:ff:ff:ff:ff:ff")]
    }

    /// What `ip addr` says of the interface on the gateway bridge.
    fn eth1(&self, cluster: &Cluster, host: usize) -> Result<[String; 2]> {
        let [a, b] = self.bridges[host];
        let engine = cluster.engine(host);
        let told = "network inspect --format {{range.Containers}}{{.MacAddress}}{{end}} docker_gwbridge";
        let (mac, of_address) = (engine.docker(told)?, format!("02:42:{a:02x}:{b:02x}:00:02"));
        // Engines make it from the address before version 28, and of random numbers since.
        let version = engine.version()?;
        let major: u32 = version.split('.').next().unwrap_or_default().parse()?;
        ensure!(major >= 28 || mac == of_address, "{version}: {mac} is not {of_address}");
        let address = format!("inet {a}.{b}.0.2/16 brd {a}.{b}.255.255 scope global eth1");
        Ok([address, format!("link/ether {mac} brd ff:ff:ff:ff:ff:ff")])
    }
}

/// Steps 4 to 12, as an administrator takes them on two hosts.
fn twelve_steps(cluster: &mut Cluster, expected: &Expected) -> Result<()> {
    let (first, second) = (cluster.engine(0), cluster.engine(1));
    println!("engines {} and {}", first.version()?, second.version()?);
    let nodes = cluster.cli(1).run("node ls")?["nodes"].to_string();
    ensure!(nodes.matches("\"ready\"").count() == 2, "not two nodes that are ready: {nodes}");
    first.docker(&format!("{CREATE} my-overlay"))?;
    appears(cluster, 0, "my-overlay")?;
    appears(cluster, 1, "my-overlay")?;

    first.docker(&format!("run -d -it --net my-overlay --name centos1 {IMAGE}"))?;
    second.docker(&format!("run -d -it --net my-overlay --name centos2 {IMAGE}"))?;
    for (host, container, n) in [(0, "centos1", 2), (1, "centos2", 3)] {
        has(cluster, host, container, "eth0", &expected.eth0(n).each_ref().map(String::as_str))?;
        has(cluster, host, container, "eth1", &expected.eth1(cluster, host)?.each_ref().map(String::as_str))?;
        is_not_cluttered(cluster, host)?;
    }
    is_shown(cluster, expected)?;

    let hosts: Vec<IpAddr> = cluster.hosts().iter().map(|host| host.address.into()).collect();
    for (host, container, other) in [(0, "centos1", 3), (1, "centos2", 2)] {
        wait_for("the way to be up", SOON, || {
            cluster.engine(host).exec(container, &format!("ping -c 1 -W 1 {OUTSIDE}"))
        })?;
        for to in [hosts[0], hosts[1], ROUTER.into(), OUTSIDE.into(), expected.overlay(other)] {
            loses_nothing(cluster, host, container, to)?;
        }
        let log = fs::read_to_string(cluster.engine(host).log())?;
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("level=error")).collect();
        ensure!(errors.is_empty(), "the engine of h{} logged {errors:#?}", host + 1);
    }
    Ok(())
}

/// Step 9: the host has what it had with Docker alone.
fn is_not_cluttered(cluster: &Cluster, host: usize) -> Result<()> {
    let own = cluster.hosts()[host].netns.run("ip", &["-o", "addr"])?;
    let own: Vec<&str> = own.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    let known = ["lo", "ens33", "docker0", "docker_gwbridge", "occupied"];
    ensure!(own.iter().all(|name| known.contains(name) || name.starts_with("veth")), "h{}: {own:?}", host + 1);
    let ports = cluster.hosts()[host].netns.run("ip", &["-o", "link", "show", "master", "docker_gwbridge"])?;
    ensure!(ports.lines().count() == 1, "not one veth on docker_gwbridge: {ports}");
    Ok(())
}

/// Steps 10 and 11: what the networks' inspection shows.
fn is_shown(cluster: &Cluster, expected: &Expected) -> Result<()> {
    let [a, b, c] = expected.overlay;
    let inspected = cluster.engine(0).docker("network inspect my-overlay")?;
    let mac = |n: u8| format!("02:42:{a:02x}:{b:02x}:{c:02x}:{n:02x}");
    let subnet = format!("{a}.{b}.{c}.0/24");
    for words in
        [&*subnet, &expected.overlay(1).to_string(), "centos1", &format!("{}/24", expected.overlay(2)), &mac(2)]
    {
        ensure!(inspected.contains(words), "no {words} in {inspected}");
    }
    let both = [(2, "centos1", "h1", "192.168.140.200"), (3, "centos2", "h2", "192.168.140.201")];
    wait_for("both containers to be listed", SOON, || {
        let answer = cluster.cli(1).run("network inspect my-overlay")?.to_string();
        for (n, name, node, vtep) in both {
            for words in [name, node, vtep, &expected.overlay(n).to_string(), &mac(n)] {
                ensure!(answer.contains(words), "no {words} in {answer}");
            }
        }
        Ok(())
    })?;
    for host in [0, 1] {
        let bridge = cluster.engine(host).docker("network inspect docker_gwbridge")?;
        let [a, b] = expected.bridges[host];
        for words in [&format!("{a}.{b}.0.0/16"), &format!("{a}.{b}.0.1"), "gateway_", &format!("{a}.{b}.0.2/16")] {
            ensure!(bridge.contains(words), "no {words} in {bridge}");
        }
    }
    Ok(())
}

#[test]
fn two_hosts_one_with_a_newer_engine() -> Result<()> {
    on_engines(&[EngineKind::Debian, EngineKind::Suite("trixie")], |cluster| twelve_steps(cluster, &USUAL))
}

#[test]
fn two_hosts_with_the_distributions_engine() -> Result<()> {
    on_engines(&[EngineKind::Debian, EngineKind::Debian], |cluster| twelve_steps(cluster, &USUAL))
}

/// The twelve steps where one host is not as usual.
fn on_an_unusual_host(environment: Environment, expected: &Expected) -> Result<()> {
    let engines = vec![EngineKind::Debian, EngineKind::Suite("trixie")];
    let options = Options { hosts: 2, engines, engines_start: EnginesStart::ByHand, ..environment.options() };
    run_with(options, |cluster| {
        environment.prepare_hosts(cluster)?;
        cluster.form()?;
        environment.wait_reported(cluster)?;
        cluster.start_engines()?;
        twelve_steps(cluster, expected)
    })
}

#[test]
fn two_hosts_with_the_gateways_subnet_in_use_on_one() -> Result<()> {
    on_an_unusual_host(Environment::OccupiedGateway, &Expected { bridges: [[172, 19], [172, 18]], ..USUAL })
}

#[test]
fn two_hosts_with_the_pool_routed_elsewhere_on_one() -> Result<()> {
    on_an_unusual_host(Environment::RoutedPool, &Expected { overlay: [100, 64, 0], ..USUAL })
}

/// The newest engine that the distribution has: run by `make test-engines`, which prepares it.
#[test]
fn two_hosts_with_the_newest_engine() -> Result<()> {
    on_engines(&[EngineKind::Suite("sid"), EngineKind::Suite("sid")], |cluster| twelve_steps(cluster, &USUAL))
}
