//! A container reaches its host, the hosts' LAN, what lies behind it, and the containers of the other hosts.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, LAN_INTERFACE, Netns, OUTSIDE, OUTSIDE6, Options, ROUTER, ROUTER6, run, run_with};
use serde_json::Value;

use super::environment::{Environment, Field};

/// Packets of each ping.
const COUNT: u32 = 20;

fn reach(environment: Environment) -> Result<()> {
    environment.run(|cluster, field| {
        field.all_reach_all(COUNT)?;
        for member in &field.members {
            for host in cluster.hosts() {
                member.container.netns.reaches(host.address.into(), COUNT)?;
            }
            member.container.netns.reaches(ROUTER.into(), COUNT)?;
            member.container.netns.reaches(OUTSIDE.into(), COUNT)?;
            if environment == Environment::Ipv6Overlay {
                member.container.netns.reaches(ROUTER6.into(), COUNT)?;
                member.container.netns.reaches(OUTSIDE6.into(), COUNT)?;
            }
        }
        every_node_shows_all(cluster, field)
    })
}

/// `network inspect` lists the containers of every host, wherever it is asked.
fn every_node_shows_all(cluster: &Cluster, field: &Field) -> Result<()> {
    for host in 0..cluster.hosts().len() {
        for (index, network) in field.networks.iter().enumerate() {
            let answer = cluster.cli(host).run(&format!("network inspect {network}"))?;
            let shown = answer["endpoints"].as_array().context("no endpoints")?;
            ensure!(shown.len() == field.members.len(), "h{} shows {shown:?}", host + 1);
            for member in &field.members {
                let view = shown.iter().find(|view| view["endpoint"]["name"] == *member.container.name);
                let view = view.with_context(|| format!("{} is not in {shown:?}", member.container.name))?;
                let attached = &member.attached[index];
                ensure!(view["endpoint"]["mac"] == *attached.mac, "{view}");
                ensure!(view["endpoint"]["addresses"][0] == attached.addresses[0].to_string(), "{view}");
                ensure!(view["node_name"] == *cluster.hosts()[member.container.host].name, "{view}");
                ensure!(view["vtep"] == cluster.advertise(member.container.host), "{view}");
            }
        }
    }
    Ok(())
}

#[test]
fn plain() -> Result<()> {
    reach(Environment::Plain)
}

#[test]
fn with_the_gateway_bridges_subnet_occupied() -> Result<()> {
    reach(Environment::OccupiedGateway)
}

#[test]
fn with_the_pool_routed_elsewhere() -> Result<()> {
    reach(Environment::RoutedPool)
}

#[test]
fn with_two_networks_on_one_container() -> Result<()> {
    reach(Environment::TwoNetworks)
}

#[test]
fn with_ipv6() -> Result<()> {
    reach(Environment::Ipv6Overlay)
}

#[test]
fn over_ipv6() -> Result<()> {
    reach(Environment::Ipv6Underlay)
}

/// What the old system showed (eth0 10.0.0.2/24 with MAC 02:42:0a:00:00:02, eth1 172.18.0.2/16, default by eth1).
#[test]
fn a_container_looks_as_it_did_with_the_classic_overlay() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create my-overlay")?;
        let (one, first) = cluster.attached(0, "centos1", "my-overlay")?;
        let (two, second) = cluster.attached(1, "centos2", "my-overlay")?;
        ensure!(first.mac == "02:42:0a:00:00:02" && second.mac == "02:42:0a:00:00:03", "{first:?} {second:?}");
        for (container, overlay) in [(&one, "10.0.0.2"), (&two, "10.0.0.3")] {
            let eth0 = container.interface("eth0")?.context("no eth0")?;
            ensure!(has_address(&eth0, overlay, 24, "10.0.0.255"), "{eth0}");
            ensure!(eth0["mtu"] == 1450, "{eth0}");
            let eth1 = container.interface("eth1")?.context("no eth1")?;
            ensure!(has_address(&eth1, "172.18.0.2", 16, "172.18.255.255"), "{eth1}");
            ensure!(eth1["address"] == "02:42:ac:12:00:02", "{eth1}");
            let route = container.netns.run("ip", &["route", "show", "default"])?;
            ensure!(route.starts_with("default via 172.18.0.1 dev eth1"), "{route}");
        }
        Ok(())
    })
}

fn has_address(link: &Value, local: &str, prefix: u8, broadcast: &str) -> bool {
    let addresses = link["addr_info"].as_array();
    addresses.is_some_and(|list| {
        list.iter().any(|a| a["local"] == local && a["prefixlen"] == prefix && a["broadcast"] == broadcast)
    })
}

#[test]
fn an_internal_network_has_no_way_out() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create closed --internal")?;
        let (one, first) = cluster.attached(0, "c1", "closed")?;
        let (_, second) = cluster.attached(1, "c2", "closed")?;
        ensure!(first.egress.is_empty(), "{first:?}");
        ensure!(one.interface("eth1")?.is_none(), "it has an eth1");
        cluster.pinger(&one, &second)?.lost_nothing(0)?;
        one.netns.cannot_reach(OUTSIDE.into())?;
        one.netns.cannot_reach(cluster.hosts()[0].address.into())
    })
}

/// The gateway is reserved, and there is no routing between networks.
#[test]
fn networks_do_not_reach_each_other_and_nobody_answers_for_the_gateway() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create one")?;
        cluster.cli(0).run("network create two")?;
        let (c1, _) = cluster.attached(0, "c1", "one")?;
        let (_, other) = cluster.attached(1, "c2", "two")?;
        let (_, neighbour) = cluster.attached(0, "c3", "two")?;
        let gateway: IpAddr = "10.0.0.1".parse()?;
        for address in [gateway, other.addresses[0], neighbour.addresses[0]] {
            c1.netns.cannot_reach(address)?;
        }
        Ok(())
    })
}

#[test]
fn vxlan_from_a_foreign_host_is_dropped() -> Result<()> {
    run(|cluster| foreign_vxlan_is_dropped(cluster, 4789))
}

/// A host of the LAN that is no member must not put frames into a container.
fn foreign_vxlan_is_dropped(cluster: &Cluster, port: u16) -> Result<()> {
    cluster.cli(0).run("network create my-overlay --vni 70000")?;
    let (c1, inside) = cluster.attached(0, "c1", "my-overlay")?;
    let (_, member) = cluster.attached(1, "c2", "my-overlay")?;
    cluster.pinger(&c1, &member)?.lost_nothing(0)?;
    // The router is on the LAN and knows everything that it needs: VNI, port, addresses and MACs.
    let router = cluster.router();
    let vtep = cluster.advertise(0);
    router.ip(&format!("link add vx0 type vxlan id 70000 dstport {port} local 192.168.140.1 nolearning"))?;
    router.ip("addr add 10.0.0.200/24 dev vx0")?;
    router.ip("link set vx0 up")?;
    router.ip(&format!("neigh add {} lladdr {} dev vx0", inside.addresses[0], inside.mac))?;
    router.run("bridge", &["fdb", "append", &inside.mac, "dev", "vx0", "dst", &vtep])?;
    let seen = Seen::watch(&cluster.hosts()[0].netns, "foreign", &format!("udp dport {port} ip saddr {ROUTER}"))?;
    let before = received(&c1)?;
    router.cannot_reach(inside.addresses[0])?;
    let after = received(&c1)?;
    ensure!(seen.packets()? > 0, "the host has seen no packet of it, so it has dropped none");
    ensure!(before == after, "{} frames came through", after - before);
    Ok(())
}

/// The port is the cluster's: the daemon that founds it says which, and the others follow.
#[test]
fn another_vxlan_port() -> Result<()> {
    run_with(Options::default(), |cluster| {
        cluster.daemon(0).term()?;
        cluster.daemon(0).options_mut().args = ["--vxlan-port", "8473"].map(str::to_owned).to_vec();
        cluster.daemon(0).up()?;
        cluster.form()?;
        foreign_vxlan_is_dropped(cluster, 8473)?;
        for host in 0..2 {
            let links = cluster.overlay(host).run("ip", &["-d", "link", "show", "type", "vxlan"])?;
            ensure!(links.contains("dstport 8473"), "h{}: {links}", host + 1);
        }
        Ok(())
    })
}

/// Packets between containers take the data addresses, and only requests the others.
#[test]
fn another_address_for_data() -> Result<()> {
    run_with(Options::default(), |cluster| {
        let data = |host: usize| format!("192.168.150.{}", 200 + host);
        for (host, place) in cluster.hosts().iter().enumerate() {
            place.netns.ip(&format!("addr add {}/24 dev {LAN_INTERFACE}", data(host)))?;
        }
        let init =
            format!("init --advertise {} --name h1 --token-uses 2 --data-addr {}", cluster.advertise(0), data(0));
        let answer = cluster.cli(0).run(&init)?;
        cluster.set_token(answer["join_token"].as_str().context("no token")?);
        for host in 1..3 {
            cluster.cli(host).run(&format!("{} --data-addr {}", cluster.join_line(host, 0), data(host)))?;
        }
        cluster.wait_all_ready()?;
        let h1 = &cluster.hosts()[0].netns;
        let by_data = Seen::watch(h1, "by_data", &format!("udp dport 4789 ip saddr {} ip daddr {}", data(1), data(0)))?;
        let by_others = Seen::watch(h1, "by_others", "udp dport 4789 ip daddr 192.168.140.200")?;
        cluster.cli(0).run("network create my-overlay")?;
        let (c1, _) = cluster.attached(0, "c1", "my-overlay")?;
        let (_, there) = cluster.attached(1, "c2", "my-overlay")?;
        cluster.pinger(&c1, &there)?.lost_nothing(0)?;
        c1.netns.reaches(there.addresses[0], COUNT)?;
        ensure!(by_data.packets()? >= COUNT.into(), "{} packets by the data addresses", by_data.packets()?);
        ensure!(by_others.packets()? == 0, "{} packets by the other addresses", by_others.packets()?);
        Ok(())
    })
}

/// Counts packets that come to a host, before anything drops them.
struct Seen {
    netns: Netns,
    table: String,
}

impl Seen {
    fn watch(netns: &Netns, table: &str, what: &str) -> Result<Self> {
        let seen = Self { netns: netns.clone(), table: table.to_owned() };
        let table = &seen.table;
        netns.run("nft", &["add", "table", "inet", table])?;
        let hook = "{ type filter hook prerouting priority -500; }";
        netns.run("nft", &["add", "chain", "inet", table, "in", hook])?;
        netns.run("nft", &[&format!("add rule inet {table} in {what} counter")])?;
        Ok(seen)
    }

    fn packets(&self) -> Result<u64> {
        let text = self.netns.run("nft", &["list", "table", "inet", &self.table])?;
        let count = text.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        Ok(count.with_context(|| format!("no counter in {text}"))?.parse()?)
    }
}

/// Packets that a container has received on eth0.
fn received(container: &pontoon_tests::lab::Container) -> Result<u64> {
    let text = container.netns.run("ip", &["-json", "-s", "link", "show", "eth0"])?;
    let links: Value = serde_json::from_str(&text)?;
    links[0]["stats64"]["rx"]["packets"].as_u64().context("no counter")
}
