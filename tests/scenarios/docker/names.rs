//! Containers find each other by name across hosts.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use pontoon_tests::lab::dns::{ANSWERED, Asker, Resolver, question};
use pontoon_tests::lab::{Cluster, DaemonOptions, EngineKind, IMAGE, Options, ROUTER, run_with};
use pontoon_tests::wait_for;

use super::super::metrics::scrape;
use super::restarts::TWO;
use super::{CREATE, Compose, SOON, appears, on_engines, run_on};

/// A name server on the host itself, as dnsmasq is one.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// A name server that a user gives a container with `--dns`: another address of the router's.
const GIVEN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 140, 2));

/// A container's program that asks for names.
fn asker(cluster: &Cluster, host: usize, container: &str) -> Result<Asker> {
    Asker::in_container(cluster.engine(host), container)
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
    on_engines(&TWO, every_kind_of_resolver)
}

/// The newest engine that the distribution has: run by `make test-engines`, which prepares it.
#[test]
fn names_with_the_newest_engine() -> Result<()> {
    on_engines(&[EngineKind::Suite("sid"), EngineKind::Suite("sid")], every_kind_of_resolver)
}

fn every_kind_of_resolver(cluster: &mut Cluster) -> Result<()> {
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
            let shown = cluster.engine(host).exec(&names[host], &format!("nslookup {}.", names[1 - host]))?;
            let there = address(cluster, 1 - host, "app", &names[1 - host])?;
            ensure!(shown.contains(&there.to_string()), "{shown}");
            cluster.engine(host).exec(&names[host], &format!("ping -c 1 -W 1 {}", names[1 - host]))?;
        }
    }
    // The search domain that the user has given is asked for, where programs do so.
    let _ = cluster.engine(1).ask("exec given1 nslookup elsewhere")?;
    ensure!(given.asked().iter().any(|name| name == "elsewhere.example.test"), "{:?}", given.asked());
    // No name of a container has left the host for an answer.
    let asked = [lan.asked(), given.asked(), hosts[0].asked(), hosts[1].asked()].concat();
    let is_outside = |name: &&String| [".example.com", ".example.test"].iter().any(|zone| name.ends_with(zone));
    let inside: Vec<_> = asked.iter().filter(|name| !is_outside(name)).collect();
    ensure!(inside.is_empty(), "{inside:?}");
    Ok(())
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
            cluster.daemon(host).up()?;
            resolves(&asker, &other, &[there], SOON)?;
        }
        Ok(())
    })
}

#[test]
fn a_name_is_fresh_and_only_of_networks_that_the_asker_is_on() -> Result<()> {
    // The third host is for a majority.
    run_with(Options { hosts: 3, engines: TWO.to_vec(), ..Options::default() }, |cluster| {
        cluster.form()?;
        // Names that are unknown are asked for somewhere.
        let _lan = Resolver::start(cluster.router(), ROUTER.into())?;
        for host in [0, 1] {
            cluster.engine(host).ask_name_servers(&[ROUTER.into()])?;
        }
        for network in ["app", "other"] {
            cluster.engine(0).docker(&format!("{CREATE} {network}"))?;
            appears(cluster, 1, network)?;
        }
        run_on(cluster, 0, "app", "near", "")?;
        run_on(cluster, 0, "app", "beside", "")?;
        run_on(cluster, 1, "other", "far", "")?;
        let (asker, beside) = (asker(cluster, 0, "near")?, asker(cluster, 0, "beside")?);
        let there = address(cluster, 1, "other", "far")?;
        let known = |name: &str| cluster.cli(0).run(&format!("dns query {name} --network other"));
        wait_for("the cluster to know it", SOON, || {
            ensure!(known("far")?["matches"].to_string().contains(&there.to_string()));
            Ok(())
        })?;
        for name in ["far", "far.other", "far.app"] {
            ensure!(asker.addresses(name)?.is_empty(), "{name} is told to a container that is on another network");
        }
        ensure!(asker.name_of(there)?.is_empty(), "{there} is told to a container that is on another network");
        cluster.engine(0).docker("network connect other near")?;
        for name in ["far", "far.other"] {
            resolves(&asker, name, &[there], SOON)?;
        }
        ensure!(asker.addresses("far.app")?.is_empty() && beside.addresses("far")?.is_empty());
        // Gone with its container, and not with the daemon that has answered.
        cluster.engine(1).docker("stop far")?;
        resolves(&asker, "far", &[], Duration::from_secs(1))?;
        ensure!(asker.name_of(there)?.is_empty(), "{there} has a name still");
        cluster.engine(1).docker("start far")?;
        resolves(&asker, "far", &[there], Duration::from_secs(1))?;
        cluster.engine(0).docker("network disconnect other near")?;
        resolves(&asker, "far", &[], Duration::from_secs(1))?;
        // Nothing stays in a container that is on no network any more.
        let sockets = || cluster.engine(0).netns("beside")?.run("ss", &["-Hlntu"]);
        ensure!(sockets()?.contains("127.0.0.13"), "{}", sockets()?);
        cluster.engine(0).docker("network connect bridge beside")?;
        cluster.engine(0).docker("network disconnect app beside")?;
        wait_for("our sockets to be gone", Duration::from_secs(1), || {
            let open = sockets()?;
            ensure!(!open.contains("127.0.0.12") && !open.contains("127.0.0.13"), "{open}");
            Ok(())
        })?;
        // Without quorum, what was known last.
        run_on(cluster, 1, "app", "last", "")?;
        let last = address(cluster, 1, "app", "last")?;
        resolves(&asker, "last", &[last], SOON)?;
        [1, 2].into_iter().try_for_each(|host| cluster.daemon(host).kill9())?;
        wait_for("the majority to be gone", SOON, || cluster.cli(0).refuses("network rm app", "NO_QUORUM", &[]))?;
        resolves(&asker, "last", &[last], SOON)
    })
}

/// A project whose service has two containers on one host and one on the other, on one network.
#[test]
fn a_service_that_is_scaled_over_two_hosts() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.cli(0).run("network create my-overlay --wait")?;
        let compose = Compose::on(cluster, "my-overlay")?;
        for (host, scale) in [(0, "web=2"), (1, "web=1")] {
            run_on(cluster, host, "my-overlay", &format!("asker{host}"), "")?;
            compose.run(cluster, host, &["up", "-d", "--scale", scale])?;
        }
        let mut addresses = Vec::new();
        for (host, container) in [(0, "app_web_1"), (0, "app_web_2"), (1, "app_web_1")] {
            addresses.push(address(cluster, host, "my-overlay", container)?);
        }
        addresses.sort();
        let askers = [0, 1].map(|host| asker(cluster, host, &format!("asker{host}")));
        for asker in askers.iter().flatten() {
            for name in ["web", "web.my-overlay"] {
                resolves(asker, name, &addresses, SOON)?;
                let firsts = (0..6).map(|_| asker.addresses(name)?.first().copied().context("none"));
                let firsts = firsts.collect::<Result<BTreeSet<IpAddr>>>()?;
                ensure!(firsts.len() == 3, "the first is always one of {firsts:?}");
            }
        }
        let stopped = address(cluster, 0, "my-overlay", "app_web_2")?;
        cluster.engine(0).docker("stop app_web_2")?;
        addresses.retain(|address| *address != stopped);
        for asker in askers {
            resolves(&asker?, "web", &addresses, Duration::from_secs(1))?;
        }
        Ok(())
    })
}

/// How many answers of a kind the daemon of the first host has given.
fn counted(cluster: &Cluster, kind: &str) -> Result<f64> {
    scrape(cluster, 0)?.get(&format!("pontoon_dns_answers_total{{kind=\"{kind}\"}}"))
}

/// Messages that cannot be read, and connections that lead to nothing.
fn sends_rubbish(cluster: &Cluster, bad: &Asker, usual: &[u8]) -> Result<()> {
    for number in 0..2000_usize {
        let mut message = usual.to_vec();
        message[number % usual.len()] ^= rand::random::<u8>();
        bad.send(&message)?;
        bad.send(&rand::random_iter().take(1 + number % 600).collect::<Vec<u8>>())?;
    }
    wait_for("some of it to be said to be malformed", SOON, || {
        bad.send(&usual[..usual.len() - 1])?;
        ensure!(counted(cluster, "malformed")? > 0.0);
        Ok(())
    })?;
    // The largest message, one that does not come, and more connections than there may be.
    let mut whole = bad.connect()?;
    whole.write_all(&[255; 2 + 65_535])?;
    let mut rest = bad.connect()?;
    rest.write_all(&[255, 255, 1, 2, 3])?;
    let mut open = Vec::new();
    wait_for("connections to be refused", SOON, || {
        open.push(bad.connect()?);
        ensure!(counted(cluster, "busy")? > 0.0);
        Ok(())
    })?;
    drop((whole, rest, open));
    Ok(())
}

/// A container that sends rubbish, and more than can be answered: the daemon lives, and others are served.
#[test]
fn a_container_that_asks_badly() -> Result<()> {
    let args = vec!["--metrics".to_owned(), "0.0.0.0:7302".to_owned()];
    let daemon = DaemonOptions { args, ..DaemonOptions::default() };
    run_with(Options { hosts: 1, engines: vec![TWO[0]], daemon, ..Options::default() }, |cluster| {
        cluster.form()?;
        cluster.cli(0).run("network create app")?;
        appears(cluster, 0, "app")?;
        // A name server that never answers.
        cluster.engine(0).ask_name_servers(&[IpAddr::from([192, 168, 140, 77])])?;
        for name in ["bad", "good"] {
            run_on(cluster, 0, "app", name, "")?;
        }
        let (bad, good) = (asker(cluster, 0, "bad")?, asker(cluster, 0, "good")?);
        let there = address(cluster, 0, "app", "good")?;
        wait_for("names to be answered", SOON, || cluster.cli(0).run("dns query good --network app"))?;
        resolves(&bad, "good", &[there], SOON)?;
        let counted = |kind: &str| counted(cluster, kind);
        let usual = question("good", RecordType::A)?.to_vec()?;
        sends_rubbish(cluster, &bad, &usual)?;
        // 10,000 a second for two seconds, all of which can be answered: others are served meanwhile.
        let (begin, mut sent, mut slowest) = (Instant::now(), 0, Duration::ZERO);
        while begin.elapsed() < Duration::from_secs(2) {
            let due = begin.elapsed().as_millis() * 10;
            while sent < due {
                bad.send(&usual)?;
                sent += 1;
            }
            let asked = Instant::now();
            ensure!(good.addresses("good")? == [there]);
            slowest = slowest.max(asked.elapsed());
        }
        println!("{sent} questions of one container; the slowest answer to the other took {slowest:?}");
        ensure!(slowest < Duration::from_secs(1), "an answer took {slowest:?}");
        // Names that nobody answers: at a bound there is a failure at once, and others are served all the same.
        let before = counted("busy")?;
        wait_for("the bound to be met", SOON, || {
            for number in 0..3000 {
                bad.send(&question(&format!("n{number}.example.com"), RecordType::A)?.to_vec()?)?;
            }
            ensure!(good.addresses("good")? == [there]);
            ensure!(counted("busy")? > before);
            Ok(())
        })?;
        wait_for("the bad one to be served again", SOON, || {
            let by_tcp = bad.ask_by_tcp("good", RecordType::A)?;
            ensure!(by_tcp.answers.len() == 1, "{by_tcp:?}");
            Ok(())
        })
    })
}

/// The first process of a container asks at once.
#[test]
fn the_first_question_of_a_container_is_answered() -> Result<()> {
    on_engines(&TWO, |cluster| {
        let _lan = Resolver::start(cluster.router(), ROUTER.into())?;
        cluster.cli(0).run("network create app --wait")?;
        for host in [0, 1] {
            cluster.engine(host).ask_name_servers(&[ROUTER.into()])?;
            run_on(cluster, host, "app", &format!("there{host}"), "")?;
        }
        for host in [0, 1] {
            let other = format!("there{}", 1 - host);
            let there = address(cluster, 1 - host, "app", &other)?;
            wait_for("the other to be known", SOON, || {
                cluster.cli(host).run(&format!("dns query {other} --network app"))
            })?;
            for number in 0..5 {
                let said = cluster.engine(host).docker(&format!("run --rm --net app {IMAGE} nslookup {other}."))?;
                ensure!(said.contains(&there.to_string()), "container {number} was told {said}");
            }
        }
        Ok(())
    })
}

/// Containers of `pontoon attach`, both families, and a container in another one's namespace.
#[test]
fn names_without_an_engine_and_of_both_families() -> Result<()> {
    run_with(Options { hosts: 2, engines: vec![TWO[0]], ..Options::default() }, |cluster| {
        cluster.form()?;
        cluster.cli(0).run("network create dual --ipv6")?;
        appears(cluster, 0, "dual")?;
        run_on(cluster, 0, "dual", "asker", "")?;
        let plain = cluster.container(1, "plain")?;
        let attached = cluster.attach(&plain, "dual", "--alias db")?;
        let asker = asker(cluster, 0, "asker")?;
        let [v4, v6] = attached.addresses[..] else { bail!("not one of each family: {:?}", attached.addresses) };
        for name in ["plain", "plain.dual", "db"] {
            resolves(&asker, name, &[v4], SOON)?;
            let answer = asker.ask(name, RecordType::AAAA)?;
            ensure!(answer.answers.iter().filter_map(|record| record.data.ip_addr()).eq([v6]), "{answer:?}");
        }
        for address in [v4, v6] {
            ensure!(asker.name_of(address)? == ["plain.dual."], "{address}: {:?}", asker.name_of(address)?);
        }
        // One that shares the namespace asks the same resolver.
        let shown = cluster.engine(0).docker(&format!("run --rm --network container:asker {IMAGE} nslookup plain."))?;
        ensure!(shown.contains(&v4.to_string()) && shown.contains(&v6.to_string()), "{shown}");
        cluster.cli(1).run("detach --name plain")?;
        cluster.cli(0).refuses("dns query plain --network dual", "NAME_NOT_FOUND", &["plain", "dual"])?;
        Ok(())
    })
}
