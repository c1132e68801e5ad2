//! Containers and their addresses.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, EngineKind, IMAGE, OUTSIDE};
use pontoon_tests::wait_for;
use serde_json::Value;

use super::{CREATE, Compose, SOON, appears, has, interface, loses_nothing, on_engines, run_on};

const TWO: [EngineKind; 2] = [EngineKind::Debian, EngineKind::Suite("trixie")];

/// The leases of a network that are pending or active.
fn held(cluster: &Cluster, network: &str) -> Result<Vec<Value>> {
    let answer = cluster.cli(0).run(&format!("lease ls --network {network}"))?;
    let leases = answer["leases"].as_array().cloned().unwrap_or_default();
    let held = |view: &Value| ["pending", "active"].iter().any(|state| view["lease"]["state"] == **state);
    Ok(leases.into_iter().filter(held).collect())
}

/// Waits until nobody has an address of a network.
fn nobody_is_on(cluster: &Cluster, network: &str) -> Result<()> {
    wait_for(&format!("nobody to be on {network}"), SOON, || {
        let held = held(cluster, network)?;
        ensure!(held.is_empty(), "{held:?}");
        Ok(())
    })
}

#[test]
fn addresses_and_macs_that_the_user_asks_for() -> Result<()> {
    on_engines(&TWO, |cluster| {
        let line = "--subnet 10.9.0.0/24 --gateway 10.9.0.254 --ip-range 10.9.0.64/26 --aux-address printer=10.9.0.70";
        cluster.engine(0).docker(&format!("{CREATE} {line} -o mtu=1300 -o vni=70000 --label team=a asked"))?;
        appears(cluster, 1, "asked")?;
        let network = &cluster.cli(1).run("network inspect asked")?["network"];
        ensure!(network["vni"] == 70000 && network["mtu"] == 1300 && network["labels"]["team"] == "a", "{network}");
        let more = "--ip 10.9.0.9 --mac-address 02:00:00:00:00:09 --network-alias web --network-alias db";
        run_on(cluster, 0, "asked", "c1", more)?;
        wait_for("the aliases to be known", SOON, || {
            let answer = cluster.cli(1).run("network inspect asked")?;
            let endpoint = &answer["endpoints"][0]["endpoint"];
            ensure!(endpoint["name"] == "c1" && endpoint["aliases"] == serde_json::json!(["db", "web"]), "{answer}");
            Ok(())
        })?;
        has(cluster, 0, "c1", "eth0", &["10.9.0.9/24", "02:00:00:00:00:09", "mtu 1300"])?;
        run_on(cluster, 1, "asked", "c2", "")?;
        has(cluster, 1, "c2", "eth0", &["10.9.0.64/24", "02:42:0a:09:00:40"])?;
        loses_nothing(cluster, 1, "c2", IpAddr::from([10, 9, 0, 9]))?;
        let taken = format!("run -d --net asked --ip 10.9.0.9 --name c3 {}", IMAGE);
        cluster.engine(1).refuses(&taken, &["10.9.0.9", "c1 on h1 has it"])?;
        cluster.engine(0).refuses(&taken, &["10.9.0.9", "c1 on h1 has it"])?;
        loses_nothing(cluster, 1, "c2", IpAddr::from([10, 9, 0, 9]))?;
        let kept = format!("run -d --net asked --ip 10.9.0.70 --name c4 {}", IMAGE);
        cluster.engine(0).refuses(&kept, &["10.9.0.70", "kept for printer"])?;
        cluster.engine(0).docker("rm -f c1 c3 c4")?;
        cluster.engine(1).docker("rm -f c2 c3")?;
        nobody_is_on(cluster, "asked")
    })
}

#[test]
fn an_internal_network_has_no_way_out() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.engine(0).docker(&format!("{CREATE} --internal inside"))?;
        appears(cluster, 1, "inside")?;
        for (host, name) in [(0, "c1"), (1, "c2")] {
            run_on(cluster, host, "inside", name, "")?;
            let links = cluster.engine(host).exec(name, "ip -o link")?;
            ensure!(!links.contains("eth1"), "{links}");
        }
        loses_nothing(cluster, 0, "c1", IpAddr::from([10, 0, 0, 3]))?;
        cluster.engine(0).refuses(&format!("exec c1 ping -c 1 -W 1 {OUTSIDE}"), &[])?;
        Ok(())
    })
}

#[test]
fn a_dual_stack_network() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.engine(0).docker(&format!("{CREATE} --ipv6 dual"))?;
        appears(cluster, 1, "dual")?;
        run_on(cluster, 0, "dual", "c1", "")?;
        run_on(cluster, 1, "dual", "c2", "")?;
        let answer = wait_for("both to be listed", SOON, || {
            let answer = cluster.cli(0).run("network inspect dual")?;
            let endpoints = answer["endpoints"].as_array().context("no endpoints")?;
            ensure!(endpoints.iter().filter(|view| view["endpoint"]["state"] == "active").count() == 2, "{answer}");
            Ok(answer)
        })?;
        for view in answer["endpoints"].as_array().into_iter().flatten() {
            let (host, other) = if view["node_name"] == "h1" { (1, "c2") } else { (0, "c1") };
            for address in view["endpoint"]["addresses"].as_array().into_iter().flatten() {
                loses_nothing(cluster, host, other, address.as_str().unwrap_or_default().parse()?)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_container_on_two_networks_and_off_again() -> Result<()> {
    on_engines(&TWO, |cluster| {
        for network in ["one", "two"] {
            cluster.engine(0).docker(&format!("{CREATE} {network}"))?;
            appears(cluster, 1, network)?;
        }
        run_on(cluster, 0, "one", "c1", "")?;
        run_on(cluster, 1, "two", "c2", "")?;
        // The same name on another host and another network is another container.
        run_on(cluster, 1, "one", "c1", "")?;
        cluster.engine(0).docker("network connect two c1")?;
        let shown = interface(cluster, 0, "c1", "eth2")?;
        ensure!(shown.contains("10.0.1.3/24"), "{shown}");
        loses_nothing(cluster, 0, "c1", IpAddr::from([10, 0, 1, 2]))?;
        loses_nothing(cluster, 0, "c1", IpAddr::from([10, 0, 0, 3]))?;
        loses_nothing(cluster, 0, "c1", OUTSIDE.into())?;
        cluster.engine(0).docker("network disconnect two c1")?;
        ensure!(!cluster.engine(0).exec("c1", "ip -o link")?.contains("eth2"));
        loses_nothing(cluster, 0, "c1", IpAddr::from([10, 0, 0, 3]))?;
        wait_for("only one to be on it", SOON, || {
            let held = held(cluster, "two")?;
            ensure!(held.len() == 1, "{held:?}");
            Ok(())
        })?;
        cluster.engine(0).docker("rm -f c1")?;
        cluster.engine(1).docker("rm -f c1 c2")?;
        nobody_is_on(cluster, "one")?;
        nobody_is_on(cluster, "two")
    })
}

#[test]
fn a_container_that_starts_again_has_its_address_again() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.engine(0).docker(&format!("{CREATE} app"))?;
        for host in [0, 1] {
            appears(cluster, host, "app")?;
            let names = ["a", "b"].map(|name| format!("{name}{host}"));
            for name in &names {
                run_on(cluster, host, "app", name, "")?;
            }
            let address = |name: &str| -> Result<String> {
                let shown = interface(cluster, host, name, "eth0")?;
                Ok(shown.split("inet ").nth(1).context("no address")?.split(' ').next().unwrap_or_default().to_owned())
            };
            let before = names.each_ref().map(|name| address(name));
            let [first, second] = before;
            let (first, second) = (first?, second?);
            wait_for("both to be known by name", SOON, || {
                let held = held(cluster, "app")?;
                ensure!(names.iter().all(|name| held.iter().any(|view| view["lease"]["name"] == **name)), "{held:?}");
                Ok(())
            })?;
            cluster.engine(host).docker(&format!("restart {}", names[0]))?;
            ensure!(address(&names[0])? == first, "{} instead of {first}", address(&names[0])?);
            cluster.engine(host).docker(&format!("stop {}", names[1]))?;
            // A new container takes none of theirs.
            run_on(cluster, host, "app", &format!("new{host}"), "")?;
            cluster.engine(host).docker(&format!("start {}", names[1]))?;
            ensure!(address(&names[1])? == second, "{} instead of {second}", address(&names[1])?);
        }
        Ok(())
    })
}

#[test]
fn an_address_that_is_kept_for_a_name_is_its_containers() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster
            .cli(0)
            .run("network create web --subnet 10.7.0.0/24 --reserve db=10.7.0.200 --reserve api=10.7.0.201 --wait")?;
        for (host, name, address) in [(0, "db", 200), (1, "api", 201)] {
            run_on(cluster, host, "web", "other", "")?;
            run_on(cluster, host, "web", name, "")?;
            has(cluster, host, name, "eth0", &[&format!("10.7.0.{address}/24")])?;
            cluster.engine(host).docker(&format!("rm -f {name}"))?;
            run_on(cluster, host, "web", name, &format!("--ip 10.7.0.{address}"))?;
            has(cluster, host, name, "eth0", &[&format!("10.7.0.{address}/24")])?;
        }
        Ok(())
    })
}

#[test]
fn a_published_port_is_reached_and_shown() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.cli(0).run("network create web --wait")?;
        for host in [0, 1] {
            let listed = cluster.engine(host).docker("network ls --format {{.Name}}")?;
            ensure!(listed.lines().any(|line| line == "web"), "--wait did not wait for h{}: {listed}", host + 1);
        }
        let serve = ["run", "-d", "--net", "web", "--name", "c1", "-p", "8080:80", IMAGE];
        let id = cluster.engine(1).docker_args(&[&serve[..], &["httpd", "-f", "-p", "80", "-h", "/etc"]].concat())?;
        let outside = cluster.hosts()[0].netns.clone();
        wait_for("the port to be reached from the other host", SOON, || {
            let (ask, address) = (r"printf 'GET /hostname HTTP/1.0\r\n\r\n'", cluster.hosts()[1].address);
            let said = outside.run("sh", &["-c", &format!("{ask} | busybox nc -w 2 {address} 8080")])?;
            ensure!(said.contains(id.get(..12).context("no id")?), "it says {said:?}");
            Ok(())
        })?;
        wait_for("the port to be shown", SOON, || {
            let answer = cluster.cli(0).run("network inspect web")?;
            ensure!(answer["endpoints"][0]["endpoint"]["ports"].to_string().contains(":8080->80/tcp"), "{answer}");
            Ok(())
        })
    })
}

/// The same project on two hosts, whose containers have the same names, on one network that neither makes.
#[test]
fn a_compose_project_on_both_hosts() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.cli(0).run("network create my-overlay --wait")?;
        let compose = Compose::on(cluster, "my-overlay")?;
        for host in [0, 1] {
            compose.run(cluster, host, &["up", "-d"])?;
        }
        let names = [0, 1].map(|host| cluster.engine(host).docker("ps --format {{.Names}}"));
        let [name, other] = names;
        let (name, other) = (name?, other?);
        ensure!(name.contains("web") && name == other, "{name} and {other}");
        loses_nothing(cluster, 0, &name, IpAddr::from([10, 0, 0, 3]))?;
        loses_nothing(cluster, 1, &name, IpAddr::from([10, 0, 0, 2]))?;
        for host in [0, 1] {
            compose.run(cluster, host, &["down"])?;
            appears(cluster, host, "my-overlay")?;
        }
        nobody_is_on(cluster, "my-overlay")
    })
}

#[test]
fn one_of_an_engine_is_not_detached_behind_its_back() -> Result<()> {
    on_engines(&[EngineKind::Debian], |cluster| {
        cluster.engine(0).docker(&format!("{CREATE} app"))?;
        appears(cluster, 0, "app")?;
        run_on(cluster, 0, "app", "c1", "-p 8080:80")?;
        wait_for("it to be known by name", SOON, || {
            cluster.cli(0).refuses("detach --name c1", "OF_ENGINE", &["docker network disconnect app c1"])
        })?;
        cluster.engine(0).exec("c1", "ip addr show dev eth0").map(drop)
    })
}
