//! What a cluster may find on its hosts. The same scenarios run in each.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Attached, Cluster, Container, LAN_INTERFACE, Options, ROUTER, run_with};
use pontoon_tests::wait_for;
use serde_json::Value;

/// What is special about the hosts or the networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Environment {
    /// Nothing.
    Plain,
    /// The first host uses 172.18.0.0/16, where the gateway bridge would be.
    OccupiedGateway,
    /// The first host routes 10.0.0.0/8, where the networks' pool is.
    RoutedPool,
    /// Every container is on two networks.
    TwoNetworks,
    /// Networks have IPv6 too.
    Ipv6Overlay,
    /// Daemons and VXLAN speak IPv6.
    Ipv6Underlay,
}

use Environment::{Ipv6Overlay, Ipv6Underlay, OccupiedGateway, RoutedPool, TwoNetworks};

/// A container and its places in the networks, in their order.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) container: Container,
    pub(crate) attached: Vec<Attached>,
}

impl Member {
    /// All its overlay addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.attached.iter().flat_map(|attached| attached.addresses.iter().copied())
    }
}

/// A container `c1`, `c2`, … on each host, on network `my-overlay` and, in some environments, on `second` too.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) networks: Vec<String>,
    pub(crate) members: Vec<Member>,
}

impl Environment {
    /// Runs a scenario in a cluster of three on such hosts, with a container on each.
    pub(crate) fn run(self, scenario: impl FnOnce(&mut Cluster, &Field) -> Result<()>) -> Result<()> {
        run_with(self.options(), |cluster| {
            self.prepare_hosts(cluster)?;
            cluster.form()?;
            self.wait_reported(cluster)?;
            let field = self.field(cluster)?;
            field.all_reach_all(10)?;
            scenario(cluster, &field)
        })
    }

    pub(crate) fn options(self) -> Options {
        let init = match self {
            // Something else must be left to take: 100.64.0.0/16 (RFC 6598).
            RoutedPool => "--pool 10.0.0.0/8 --pool 100.64.0.0/16 --pool-prefix 24",
            _ => "",
        };
        Options { underlay6: self == Ipv6Underlay, init: init.to_owned(), ..Options::default() }
    }

    pub(crate) fn prepare_hosts(self, cluster: &Cluster) -> Result<()> {
        let host = &cluster.hosts()[0].netns;
        match self {
            OccupiedGateway => {
                host.ip("link add occupied type bridge")?;
                host.ip("addr add 172.18.0.1/16 dev occupied")?;
                host.ip("link set occupied up")
            }
            RoutedPool => host.ip(&format!("route add 10.0.0.0/8 via {ROUTER} dev {LAN_INTERFACE}")),
            _ => Ok(()),
        }
    }

    /// Waits until the cluster knows of the first host's routes.
    pub(crate) fn wait_reported(self, cluster: &Cluster) -> Result<()> {
        let expected = match self {
            OccupiedGateway => "172.18.0.0/16",
            RoutedPool => "10.0.0.0/8",
            _ => return Ok(()),
        };
        wait_for("the route to be reported", Duration::from_secs(35), || {
            let answer = cluster.cli(1).run("node inspect h1")?;
            let routes = answer["node"]["node"]["routes"].as_array().context("no routes")?;
            ensure!(routes.iter().any(|route| route["destination"] == expected), "{routes:?} has no {expected}");
            Ok(())
        })
    }

    fn field(self, cluster: &Cluster) -> Result<Field> {
        let mut networks = vec!["my-overlay".to_owned()];
        if self == TwoNetworks {
            networks.push("second".to_owned());
        }
        for name in &networks {
            let ipv6 = if self == Ipv6Overlay { "--ipv6" } else { "" };
            let answer = cluster.cli(1).run(&format!("network create {name} {ipv6}"))?;
            self.check_network(&answer["network"])?;
        }
        let mut members = Vec::new();
        for host in 0..cluster.hosts().len() {
            let container = cluster.container(host, &format!("c{}", host + 1))?;
            let attach = |network: &String| cluster.attach(&container, network, "");
            let attached = networks.iter().map(attach).collect::<Result<Vec<_>>>()?;
            members.push(Member { container, attached });
        }
        let field = Field { networks, members };
        self.check_members(&field)?;
        Ok(field)
    }

    fn check_network(self, network: &Value) -> Result<()> {
        let subnets = network["subnets"].as_array().context("no subnets")?;
        ensure!(subnets.len() == if self == Ipv6Overlay { 2 } else { 1 }, "{network}");
        let first = subnets[0]["cidr"].as_str().unwrap_or_default();
        let expected = if self == RoutedPool { "100.64." } else { "10.0." };
        ensure!(first.starts_with(expected), "{first} is not of {expected}: {network}");
        Ok(())
    }

    fn check_members(self, field: &Field) -> Result<()> {
        for member in &field.members {
            let egress: Vec<_> = member.attached.iter().flat_map(|attached| &attached.egress).collect();
            let v4: Vec<_> = egress.iter().filter(|address| address.is_ipv4()).collect();
            ensure!(v4.len() == 1, "{}: not one way out: {egress:?}", member.container.name);
            if self == OccupiedGateway && member.container.host == 0 {
                ensure!(!v4[0].to_string().starts_with("172.18."), "the gateway bridge uses what is in use: {v4:?}");
            }
        }
        Ok(())
    }
}

impl Field {
    /// Every container answers every other on each of its addresses, to each of `count` packets.
    pub(crate) fn all_reach_all(&self, count: u32) -> Result<()> {
        for (from, to) in self.pairs() {
            for address in to.addresses() {
                let way = || from.container.netns.reaches(address, count);
                // The endpoint is in the log; the other nodes carry it out a moment later.
                wait_for("the way to a new container", Duration::from_secs(5), way)?;
            }
        }
        Ok(())
    }

    /// Every two containers, both ways.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&Member, &Member)> {
        let others = |from: &Member, to: &Member| from.container.name != to.container.name;
        self.members
            .iter()
            .flat_map(move |from| self.members.iter().filter(move |to| others(from, to)).map(move |to| (from, to)))
    }
}
