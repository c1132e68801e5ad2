//! Containers find each other by name across hosts.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use pontoon_tests::lab::dns::{ANSWERED, Asker, Resolver};
use pontoon_tests::lab::{Cluster, EngineKind, IMAGE, ROUTER};
use pontoon_tests::wait_for;

use super::{CREATE, SOON, appears, on_engines, run_on};

const TWO: [EngineKind; 2] = [EngineKind::Debian, EngineKind::Suite("trixie")];
/// A name server on the host itself, as dnsmasq is one.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// A name server that a user gives a container with `--dns`: another address of the router's.
const GIVEN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 140, 2));

/// A container's program that asks for names.
fn asker(cluster: &Cluster, host: usize, container: &str) -> Result<Asker> {
    Asker::in_container(cluster.engine(host).netns(container)?)
}

/// Waits until a name has exactly these addresses for a container, in whatever order.
fn resolves(asker: &Asker, name: &str, to: &[IpAddr], within: Duration) -> Result<()> {
    wait_for(&format!("{name} to be {to:?}"), within, || {
        let mut found = asker.addresses(name)?;
        found.sort();
        ensure!(found == to, "it is {found:?}");
        Ok(())
    })
}

/// The address of a container on a network, as its engine tells.
fn address(cluster: &Cluster, host: usize, network: &str, container: &str) -> Result<IpAddr> {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    Ok(cluster.engine(host).docker_args(&["inspect", "--format", &format, container])?.parse()?)
}

/// Every way to ask for the container of another host, from both hosts.
fn finds_the_other(cluster: &Cluster, host: usize, own: &str, other: &str, alias: &str) -> Result<()> {
    let there = address(cluster, 1 - host, "app", other)?;
    let id = cluster.engine(1 - host).docker(&format!("inspect --format {{{{.Id}}}} {other}"))?;
    let short = id.get(..12).context("no id")?.to_owned();
    let asker = asker(cluster, host, own)?;
    for name in [other, &format!("{other}.app"), alias, &format!("{alias}.app"), &short, &other.to_uppercase()] {
        resolves(&asker, name, &[there], SOON)?;
    }
    ensure!(asker.name_of(there)? == [format!("{other}.app.")], "{:?}", asker.name_of(there)?);
    let by_tcp = asker.ask_by_tcp(other, RecordType::A)?;
    ensure!(by_tcp.answers.len() == 1, "{by_tcp:?}");
    // The name is there, and has no IPv6 address.
    let no_data = asker.ask(other, RecordType::AAAA)?;
    ensure!(no_data.metadata.response_code == ResponseCode::NoError && no_data.answers.is_empty(), "{no_data:?}");
    Ok(())
}

/// Asks for an outside name, which somebody must have been asked for.
fn asks_outside(asker: &Asker, name: &str, resolver: &Resolver) -> Result<()> {
    let found = asker.addresses(name)?;
    ensure!(found == [IpAddr::from(ANSWERED)], "{name} is {found:?}");
    ensure!(resolver.asked().iter().any(|asked| asked == name), "it was asked for {:?}", resolver.asked());
    Ok(())
}

#[test]
fn names_of_other_hosts_with_every_kind_of_resolver() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.router().ip(&format!("addr add {GIVEN}/24 dev ens33"))?;
        let lan = Resolver::start(cluster.router(), ROUTER.into())?;
        let given = Resolver::start(cluster.router(), GIVEN)?;
        let hosts: Vec<Resolver> =
            cluster.hosts().iter().map(|host| Resolver::start(&host.netns, LOOPBACK)).collect::<Result<_>>()?;
        cluster.cli(0).run("network create app --wait")?;
        let set_ups = [
            ("lan", &[IpAddr::from(ROUTER)][..], ""),
            ("loopback", &[LOOPBACK], ""),
            ("none", &[], ""),
            ("given", &[IpAddr::from(ROUTER)], "--dns 192.168.140.2 --dns-search example.test"),
        ];
        for (set_up, servers, options) in set_ups {
            let names = [0, 1].map(|host| format!("{set_up}{host}"));
            let aliases = [0, 1].map(|host| format!("alias-{set_up}{host}"));
            for host in [0, 1] {
                cluster.engine(host).ask_name_servers(servers)?;
                run_on(cluster, host, "app", &names[host], &format!("--network-alias {} {options}", aliases[host]))?;
            }
            for host in [0, 1] {
                finds_the_other(cluster, host, &names[host], &names[1 - host], &aliases[1 - host])
                    .with_context(|| format!("on h{} with the set-up {set_up}", host + 1))?;
                let asker = asker(cluster, host, &names[host])?;
                let outside = format!("{set_up}{host}.example.com");
                match set_up {
                    "lan" => asks_outside(&asker, &outside, &lan),
                    "loopback" => asks_outside(&asker, &outside, &hosts[host]),
                    "given" => asks_outside(&asker, &outside, &given),
                    _ => Ok(()),
                }
                .with_context(|| format!("on h{} with the set-up {set_up}", host + 1))?;
                // As a user sees it.
                let shown = cluster.engine(host).exec(&names[host], &format!("nslookup {}", names[1 - host]))?;
                let there = address(cluster, 1 - host, "app", &names[1 - host])?;
                ensure!(shown.contains(&there.to_string()), "{shown}");
            }
        }
        // No name of a container has left the host for an answer.
        let asked = [lan.asked(), given.asked(), hosts[0].asked(), hosts[1].asked()].concat();
        let is_outside = |name: &&String| [".example.com", ".example.test"].iter().any(|zone| name.ends_with(zone));
        let inside: Vec<_> = asked.iter().filter(|name| !is_outside(name)).collect();
        ensure!(inside.is_empty(), "{inside:?}");
        // The search domain that the user has given is asked for, where programs do so.
        ensure!(given.asked().iter().any(|name| name == "given1.example.test"), "{:?}", given.asked());
        Ok(())
    })
}

#[test]
fn names_go_on_when_the_daemon_is_killed() -> Result<()> {
    on_engines(&TWO, |cluster| {
        let lan = Resolver::start(cluster.router(), ROUTER.into())?;
        cluster.cli(0).run("network create app --wait")?;
        for host in [0, 1] {
            cluster.engine(host).ask_name_servers(&[ROUTER.into()])?;
            for name in ["a", "b"] {
                run_on(cluster, host, "app", &format!("{name}{host}"), "")?;
            }
        }
        for host in [0, 1] {
            let (own, other) = (format!("b{host}"), format!("a{}", 1 - host));
            let there = address(cluster, 1 - host, "app", &other)?;
            let beside = address(cluster, host, "app", &own)?;
            let asker = asker(cluster, host, &format!("a{host}"))?;
            resolves(&asker, &other, &[there], SOON)?;
            cluster.daemon(host).kill9()?;
            for number in 0..200 {
                asks_outside(&asker, &format!("n{number}.example.com"), &lan)
                    .with_context(|| format!("after {number} names, with the daemon of h{} killed", host + 1))?;
                ensure!(asker.addresses(&own)? == [beside], "{own} after {number} names");
            }
            ensure!(asker.addresses(&other)?.is_empty(), "who has told where {other} is?");
            cluster.daemon(host).start()?;
            cluster.daemon(host).wait_ready()?;
            resolves(&asker, &other, &[there], SOON)?;
        }
        Ok(())
    })
}

#[test]
fn a_name_is_fresh_and_only_of_networks_that_the_asker_is_on() -> Result<()> {
    on_engines(&TWO, |cluster| {
        for network in ["app", "other"] {
            cluster.engine(0).docker(&format!("{CREATE} {network}"))?;
            appears(cluster, 1, network)?;
        }
        run_on(cluster, 0, "app", "a", "")?;
        run_on(cluster, 0, "app", "c", "")?;
        run_on(cluster, 1, "other", "b", "")?;
        let (asker, beside) = (asker(cluster, 0, "a")?, asker(cluster, 0, "c")?);
        let there = address(cluster, 1, "other", "b")?;
        let known = |name: &str| cluster.cli(0).run(&format!("dns query {name} --network other"));
        wait_for("the cluster to know b", SOON, || {
            ensure!(known("b")?["matches"].to_string().contains(&there.to_string()));
            Ok(())
        })?;
        for name in ["b", "b.other", "b.app"] {
            ensure!(asker.addresses(name)?.is_empty(), "{name} is told to a container that is on another network");
        }
        ensure!(asker.name_of(there)?.is_empty(), "{there} is told to a container that is on another network");
        cluster.engine(0).docker("network connect other a")?;
        for name in ["b", "b.other"] {
            resolves(&asker, name, &[there], SOON)?;
        }
        ensure!(asker.addresses("b.app")?.is_empty() && beside.addresses("b")?.is_empty());
        // Gone with its container, and not with the daemon that has answered.
        cluster.engine(1).docker("stop b")?;
        resolves(&asker, "b", &[], Duration::from_secs(1))?;
        ensure!(asker.name_of(there)?.is_empty(), "{there} has a name still");
        cluster.engine(1).docker("start b")?;
        resolves(&asker, "b", &[there], Duration::from_secs(1))?;
        cluster.engine(0).docker("network disconnect other a")?;
        resolves(&asker, "b", &[], Duration::from_secs(1))?;
        // Without quorum, what was known last.
        run_on(cluster, 1, "app", "d", "")?;
        let last = address(cluster, 1, "app", "d")?;
        resolves(&asker, "d", &[last], SOON)?;
        cluster.daemon(1).kill9()?;
        wait_for("the leader to be gone or alone", SOON, || {
            cluster.cli(0).refuses("network create late --timeout 1s", "", &[]).map(drop)
        })?;
        resolves(&asker, "d", &[last], SOON)
    })
}
