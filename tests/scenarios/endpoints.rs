//! Attaching, detaching, and what goes wrong with it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pontoon_tests::lab::{Cluster, Container, Options, run, run_with};
use pontoon_tests::wait_for;

/// A cluster of one with a small network: gateway .1, .2 to .6 free.
fn alone(scenario: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    run_with(Options { hosts: 1, ..Options::default() }, |cluster| {
        cluster.form()?;
        cluster.cli(0).run("network create small --subnet 10.5.0.0/29")?;
        scenario(cluster)
    })
}

/// Nothing was left of a refused attach.
fn untouched(cluster: &Cluster, container: &Container) -> Result<()> {
    for name in ["eth0", "eth1"] {
        ensure!(container.interface(name)?.is_none(), "{name} is left in {}", container.name);
    }
    let leases = cluster.cli(0).run("lease ls")?.to_string();
    ensure!(!leases.contains(&format!("\"{}\"", container.name)), "a lease is left: {leases}");
    Ok(())
}

#[test]
fn addresses() -> Result<()> {
    alone(|cluster| {
        cluster.attached(0, "first", "small")?;
        let container = cluster.container(0, "c")?;
        let table = [
            ("--ip 10.5.0.2", "ADDRESS_TAKEN", "first"),
            ("--ip 10.6.0.2", "INVALID_ADDRESS", "10.5.0.0/29"),
            ("--ip 10.5.0.0", "INVALID_ADDRESS", "10.5.0.0"),
            ("--ip 10.5.0.7", "INVALID_ADDRESS", "10.5.0.7"),
            ("--ip 10.5.0.1", "ADDRESS_RESERVED", "gateway"),
            ("--ip 10.5.0.3 --ip 10.5.0.4", "INVALID_ADDRESS", "10.5.0."),
            ("--mac 02:42:0a:05:00:02", "MAC_TAKEN", "first"),
            ("--ifname much-too-long-for-linux", "INVALID_IFNAME", "much-too-long-for-linux"),
        ];
        for (more, reason, word) in table {
            cluster.cli(0).refuses(&container.attach_line("small", more), reason, &[word])?;
            untouched(cluster, &container)?;
        }
        cluster.cli(0).refuses(&container.attach_line("nowhere", ""), "NETWORK_NOT_FOUND", &["nowhere"])?;
        let attached = cluster.attach(&container, "small", "--ip 10.5.0.5 --mac 02:42:00:00:00:99 --ifname net7")?;
        ensure!(attached.addresses == ["10.5.0.5".parse::<IpAddr>()?], "{attached:?}");
        let link = container.interface("net7")?.context("no net7")?;
        ensure!(link["address"] == "02:42:00:00:00:99", "{link}");
        let again = container.attach_line("small", "--name other");
        let error = cluster.cli(0).refused(&again)?;
        ensure!(["ALREADY_ATTACHED", ""].contains(&error.reason.as_str()), "{error}");
        Ok(())
    })
}

#[test]
fn leases_of_one_node_and_in_one_state() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create n --reserve printer=10.0.0.9")?;
        cluster.attached(0, "one", "n")?;
        cluster.attached(1, "two", "n")?;
        cluster.attached(1, "gone", "n")?;
        cluster.cli(1).run("detach --name gone")?;
        let table: [(&str, &[&str]); 8] = [
            ("--state active", &["one", "two"]),
            ("--state cooling", &["gone"]),
            ("--state reserved", &["gateway", "printer"]),
            ("--state pending", &[]),
            ("--node h1", &["one"]),
            ("--node h2", &["gone", "two"]),
            ("--node h2 --state active", &["two"]),
            ("--node h3", &[]),
        ];
        for (filter, expected) in table {
            // Any node tells the same.
            let answer = cluster.cli(2).run(&format!("lease ls {filter}"))?;
            let leases = answer["leases"].as_array().context("no leases")?;
            let mut names: Vec<_> = leases.iter().map(|view| view["lease"]["name"].as_str().unwrap_or("?")).collect();
            names.sort_unstable();
            ensure!(names == expected, "`lease ls {filter}` lists {names:?}");
        }
        Ok(())
    })
}

#[test]
fn a_full_network_says_how_many_are_held() -> Result<()> {
    alone(|cluster| {
        for index in 0..5 {
            cluster.attached(0, &format!("c{index}"), "small")?;
        }
        let late = cluster.container(0, "late")?;
        // The gateway is reserved.
        cluster.cli(0).refuses(&late.attach_line("small", ""), "NETWORK_FULL", &["small", "5 active", "1 reserved"])?;
        untouched(cluster, &late)?;
        cluster.cli(0).run("detach --name c0")?;
        cluster.cli(0).refuses(&late.attach_line("small", ""), "NETWORK_FULL", &["4 active", "1 cooling"])?;
        // The same container gets its address back, cooling or not.
        let again = Container { name: "c0".to_owned(), ..cluster.container(0, "c0-again")? };
        let attached = cluster.attach(&again, "small", "")?;
        ensure!(attached.addresses == ["10.5.0.2".parse::<IpAddr>()?], "{attached:?}");
        Ok(())
    })
}

#[test]
fn a_network_in_use_is_not_removed() -> Result<()> {
    alone(|cluster| {
        let (container, attached) = cluster.attached(0, "user", "small")?;
        cluster.cli(0).refuses("network rm small", "NETWORK_IN_USE", &["small", "user"])?;
        ensure!(container.interface(&attached.ifname)?.is_some(), "it has lost its interface");
        cluster.cli(0).run("detach --name user")?;
        ensure!(container.interface("eth0")?.is_none() && container.interface("eth1")?.is_none(), "interfaces left");
        cluster.cli(0).run("network rm small")?;
        cluster.cli(0).refuses("network inspect small", "NETWORK_NOT_FOUND", &["small"]).map(drop)
    })
}

#[test]
fn a_namespace_that_is_none() -> Result<()> {
    alone(|cluster| {
        let file = cluster.file("plain");
        std::fs::write(&file, "")?;
        for path in ["/nowhere", &*file.to_string_lossy()] {
            cluster.cli(0).refuses(&format!("attach --network small --netns {path}"), "NETNS_NOT_FOUND", &[path])?;
        }
        cluster.cli(0).refused("attach --network small --pid 4194303")?;
        let error = cluster.cli(0).refused("detach --name nobody")?;
        ensure!(error.reason == "ENDPOINT_NOT_FOUND", "{error}");
        let leases = cluster.cli(0).run("lease ls --state active")?;
        ensure!(leases["leases"].as_array().is_some_and(Vec::is_empty), "{leases}");
        Ok(())
    })
}

/// A namespace with an eth0 of its own: the overlay's interface gets the next name, or is refused the taken one.
#[test]
fn an_interface_that_is_there_already() -> Result<()> {
    alone(|cluster| {
        let container = cluster.container(0, "c")?;
        container.netns.ip("link add eth0 type bridge")?;
        let error = cluster.cli(0).refused(&container.attach_line("small", "--ifname eth0"))?;
        ensure!(error.text().contains("eth0"), "{error}");
        let leases = cluster.cli(0).run("lease ls --state active")?;
        ensure!(leases["leases"].as_array().is_some_and(Vec::is_empty), "a lease is left: {leases}");
        let eth0 = container.interface("eth0")?.context("the container's own eth0 is gone")?;
        ensure!(eth0["addr_info"].as_array().is_some_and(Vec::is_empty), "it was changed: {eth0}");
        Ok(())
    })
}

#[test]
fn a_namespace_that_vanishes_gives_its_lease_back() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create n")?;
        let (container, attached) = cluster.attached(1, "gone", "n")?;
        container.netns.remove()?;
        wait_for("the lease to be released", Duration::from_secs(40), || {
            let answer = cluster.cli(0).run(&format!("lease inspect {}", attached.addresses[0]))?;
            ensure!(answer["lease"]["lease"]["state"] == "cooling", "{answer}");
            Ok(())
        })?;
        wait_for("it to be counted", Duration::from_secs(5), || {
            let status = cluster.status(1)?;
            ensure!(status["data_plane"]["reclaimed"] == 1, "{}", status["data_plane"]);
            Ok(())
        })
    })
}

#[test]
fn a_process_is_attached_by_its_id() -> Result<()> {
    alone(|cluster| {
        let container = cluster.container(0, "c")?;
        let mut process = container.netns.command("sleep").arg("60").spawn()?;
        // Until then it may still be nsenter, in the machine's own namespace.
        let own = std::fs::read_link("/proc/self/ns/net")?;
        wait_for("the process to be in its namespace", Duration::from_secs(5), || {
            ensure!(std::fs::read_link(format!("/proc/{}/ns/net", process.id()))? != own, "not yet");
            Ok(())
        })?;
        let answer = cluster.cli(0).run(&format!("attach --network small --pid {}", process.id()))?;
        ensure!(container.interface("eth0")?.is_some(), "no eth0: {answer}");
        cluster.cli(0).run(&format!("detach --pid {}", process.id()))?;
        ensure!(container.interface("eth0")?.is_none(), "eth0 is left");
        process.kill()?;
        process.wait()?;
        Ok(())
    })
}

#[test]
fn reserved_addresses_wait_for_their_names() -> Result<()> {
    alone(|cluster| {
        cluster.cli(0).run("network create kept --subnet 10.7.0.0/24 --reserve db=10.7.0.2 --reserve web=10.7.0.9")?;
        let (_, other) = cluster.attached(0, "other", "kept")?;
        ensure!(other.addresses == ["10.7.0.3".parse::<IpAddr>()?], "{other:?}");
        let (_, web) = cluster.attached(0, "web", "kept")?;
        ensure!(web.addresses == ["10.7.0.9".parse::<IpAddr>()?], "{web:?}");
        let thief = cluster.container(0, "thief")?;
        cluster.cli(0).refuses(&thief.attach_line("kept", "--ip 10.7.0.2"), "ADDRESS_RESERVED", &["db"])?;
        let history = cluster.cli(0).run("lease inspect 10.7.0.9")?;
        if history["lease"]["lease"]["name"] != "web" {
            bail!("{history}");
        }
        Ok(())
    })
}
