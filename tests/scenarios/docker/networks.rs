//! Networks are the same in every engine: they come and go together.

use std::thread;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, EngineKind};
use pontoon_tests::wait_for;
use serde_json::{Value, json};

use super::{CREATE, SOON, appears, disappears, on_engines, run_on};

const TWO: [EngineKind; 2] = [EngineKind::Debian, EngineKind::Debian];

/// Ids and names of the cluster's networks.
fn listed(cluster: &Cluster, host: usize) -> Result<Vec<(String, String)>> {
    let answer = cluster.cli(host).run("network ls")?;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let networks = answer["networks"].as_array().context("no networks")?;
    Ok(networks.iter().map(|view| (text(&view["network"]["id"]), text(&view["network"]["name"]))).collect())
}

/// Waits until status tells of something that is in the way.
pub(super) fn problem(cluster: &Cluster, host: usize, words: &[&str]) -> Result<()> {
    wait_for(&format!("status of h{} to tell of {words:?}", host + 1), SOON, || {
        let status = cluster.status(host)?;
        let tasks = status["tasks"].as_array().context("no tasks")?;
        let docker = tasks.iter().find(|task| task["name"] == "docker").context("no task docker")?;
        let error = docker["last_error"].as_str().unwrap_or_default();
        ensure!(words.iter().all(|word| error.contains(word)), "{docker}");
        Ok(())
    })
}

#[test]
fn one_that_the_command_makes_is_in_every_engine_and_goes_with_it() -> Result<()> {
    on_engines(&TWO, |cluster| {
        let line = "network create web --subnet 10.7.0.0/24 --gateway 10.7.0.254 --ip-range 10.7.0.128/25 --label a=b";
        cluster.cli(1).run(&format!("{line} --reserve db=10.7.0.200 --mtu 1400"))?;
        for host in [0, 1] {
            appears(cluster, host, "web")?;
            let inspected = cluster.engine(host).docker("network inspect web")?;
            for words in ["10.7.0.0/24", "10.7.0.254", "10.7.0.128/25", "10.7.0.200", "\"a\": \"b\""] {
                ensure!(inspected.contains(words), "no {words} in {inspected}");
            }
        }
        run_on(cluster, 0, "web", "c1", "")?;
        ensure!(cluster.engine(0).exec("c1", "ip addr show dev eth0")?.contains("10.7.0.128/24"));
        ensure!(cluster.engine(0).exec("c1", "ip link show dev eth0")?.contains("mtu 1400"));
        run_on(cluster, 0, "web", "c2", "")?;
        cluster.engine(0).docker("stop c2")?;
        wait_for("both containers to keep the network", SOON, || {
            let users = ["c1 on node h1 (10.7.0.128)", "c2 on node h1 (not running)"];
            cluster.cli(1).refuses("network rm web", "NETWORK_IN_USE", &users)
        })?;
        cluster.engine(0).docker("rm -f c1 c2")?;
        wait_for("the network to be free", SOON, || cluster.cli(1).run("network rm web"))?;
        disappears(cluster, 0, "web")?;
        disappears(cluster, 1, "web")
    })
}

#[test]
fn one_that_an_engine_removes_goes_everywhere_unless_it_is_used() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.engine(0).docker(&format!("{CREATE} app"))?;
        appears(cluster, 1, "app")?;
        run_on(cluster, 1, "app", "c1", "")?;
        cluster.engine(1).docker("stop c1")?;
        wait_for("the container to be known", SOON, || {
            cluster.cli(0).refuses("network rm app", "NETWORK_IN_USE", &["c1 on node h2"])
        })?;
        let before = cluster.engine(0).docker("network inspect -f {{.Id}} app")?;
        cluster.engine(0).docker("network rm app")?;
        appears(cluster, 0, "app")?;
        ensure!(cluster.engine(0).docker("network inspect -f {{.Id}} app")? != before);
        run_on(cluster, 0, "app", "c2", "")?;
        cluster.engine(1).docker("start c1")?;
        cluster.engine(1).exec("c1", "ip addr show dev eth0")?;
        cluster.engine(0).docker("rm -f c2")?;
        cluster.engine(1).docker("rm -f c1")?;
        wait_for("the containers to be gone", SOON, || {
            let answer = cluster.cli(0).run("network inspect app")?;
            ensure!(answer["endpoints"].as_array().is_none_or(Vec::is_empty), "{answer}");
            Ok(())
        })?;
        cluster.engine(1).docker("network prune -f")?;
        disappears(cluster, 0, "app")?;
        wait_for("the cluster to have no network", SOON, || {
            ensure!(listed(cluster, 0)?.is_empty(), "{:?}", listed(cluster, 0)?);
            Ok(())
        })
    })
}

/// The engine keeps the id of a network in the containers that are on it, also when it is gone.
#[test]
fn one_that_is_removed_under_containers_that_do_not_run_has_them_again() -> Result<()> {
    on_engines(&[EngineKind::Debian, EngineKind::Suite("trixie")], |cluster| {
        cluster.engine(0).docker(&format!("{CREATE} --subnet 10.7.0.0/24 app"))?;
        for (host, last) in [(0, 50), (1, 51)] {
            appears(cluster, host, "app")?;
            let engine = cluster.engine(host);
            engine.docker("network create --subnet 10.88.0.0/24 mine")?;
            run_on(cluster, host, "mine", "both", "")?;
            engine.docker(&format!("network connect --ip 10.7.0.{last} --alias db app both"))?;
            run_on(cluster, host, "app", "plain", "")?;
            engine.docker("stop both plain")?;
            wait_for("its containers to be known", SOON, || {
                cluster.cli(0).refuses("network rm app", "NETWORK_IN_USE", &["both", "plain"])
            })?;
            let before = engine.docker("network inspect -f {{.Id}} app")?;
            engine.docker("network rm app")?;
            wait_for("it to be there again", SOON, || {
                let now = engine.docker("network inspect -f {{.Id}} app")?;
                ensure!(now != before, "it is still there");
                Ok(())
            })?;
            // One after the other: the engine does not say for which of several it asks for an address.
            for name in ["both", "plain"] {
                wait_for(&format!("{name} to be started"), SOON, || engine.docker(&format!("start {name}")))?;
            }
            let plane = cluster.status(host)?["data_plane"].clone();
            let counts = [&plane["drift"]["docker-network"], &plane["drift"]["docker-container"]];
            ensure!(counts == [&json!(1), &json!(2)], "not counted: {plane}");
            let latest = plane["last_drift"].as_str().unwrap_or_default();
            ensure!(latest.contains("on network app again"), "{latest}");
            let shown = engine.exec("both", "ip addr")?;
            for words in [&format!("inet 10.7.0.{last}/24"), "inet 10.88.0.2/24"] {
                ensure!(shown.contains(words), "no {words} in {shown}");
            }
            engine.exec("plain", "ip addr show dev eth0")?;
            let settings = engine.docker("inspect -f {{.NetworkSettings.Networks.app.Aliases}} both")?;
            ensure!(settings.contains("db"), "{settings}");
        }
        Ok(())
    })
}

/// What the loop tells of containers comes a moment after what the engine asks for networks.
/// An engine lists a network no more for a moment before it says that it removes it: who looks then must not take it for lost.
#[test]
fn one_that_is_removed_while_the_engine_is_looked_at_does_not_come_back() -> Result<()> {
    const TIMES: usize = 40;
    on_engines(&TWO, |cluster| {
        for number in 0..TIMES {
            cluster.engine(0).docker(&format!("{CREATE} n{number}"))?;
            appears(cluster, 1, &format!("n{number}"))?;
            cluster.engine(0).docker(&format!("network rm n{number}"))?;
        }
        // One that comes last, so that what could come back has had its time.
        cluster.engine(0).docker(&format!("{CREATE} last"))?;
        appears(cluster, 1, "last")?;
        (0..TIMES).try_for_each(|number| {
            disappears(cluster, 0, &format!("n{number}"))?;
            disappears(cluster, 1, &format!("n{number}"))
        })
    })
}

#[test]
fn one_whose_last_container_has_just_gone_is_removed() -> Result<()> {
    on_engines(&[EngineKind::Debian, EngineKind::Suite("trixie")], |cluster| {
        for host in [0, 1, 0, 1] {
            let engine = cluster.engine(host);
            engine.docker(&format!("{CREATE} app"))?;
            appears(cluster, 1 - host, "app")?;
            run_on(cluster, host, "app", "c1", "")?;
            run_on(cluster, host, "app", "c2", "")?;
            engine.docker("stop -t 0 c2")?;
            engine.docker("rm -f c1 c2")?;
            engine.docker("network rm app")?;
            let networks = &cluster.cli(host).run("network ls")?["networks"];
            ensure!(networks.as_array().is_none_or(Vec::is_empty), "{networks}");
            disappears(cluster, 1 - host, "app")?;
        }
        Ok(())
    })
}

/// It was on a network that nobody else was on: only its owner knows whether it may be on this one.
#[test]
fn a_container_of_a_network_that_was_an_engines_own_is_told() -> Result<()> {
    on_engines(&[EngineKind::Debian], |cluster| {
        let engine = cluster.engine(0);
        engine.docker("network create web")?;
        run_on(cluster, 0, "web", "c1", "")?;
        engine.docker("stop c1")?;
        engine.docker("network rm web")?;
        cluster.cli(0).run("network create web")?;
        appears(cluster, 0, "web")?;
        let cure = ["network disconnect --force web c1", "network connect web c1"];
        problem(cluster, 0, &["container c1", &format!("docker {}", cure[0]), &format!("docker {}", cure[1])])?;
        engine.refuses("start c1", &["not found"])?;
        for line in cure {
            engine.docker(line)?;
        }
        engine.docker("start c1")?;
        engine.exec("c1", "ip addr show dev eth0").map(drop)
    })
}

#[test]
fn one_that_the_command_makes_survives_prune() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.cli(0).run("network create web")?;
        appears(cluster, 0, "web")?;
        appears(cluster, 1, "web")?;
        let before = cluster.engine(0).docker("network inspect -f {{.Id}} web")?;
        ensure!(cluster.engine(0).docker("network prune -f")?.contains("web"));
        wait_for("it to be there again", SOON, || {
            let now = cluster.engine(0).docker("network inspect -f {{.Id}} web")?;
            ensure!(now != before, "it is still there");
            Ok(())
        })?;
        appears(cluster, 1, "web")?;
        run_on(cluster, 0, "web", "c1", "")
    })
}

#[test]
fn two_engines_that_make_one_name_at_once_end_with_one_network() -> Result<()> {
    on_engines(&TWO, |cluster| {
        for round in 0..5 {
            let name = format!("twin{round}");
            let make = |host: usize| {
                let (engine, name) = (cluster.engine(host), &name);
                move || engine.ask(&format!("{CREATE} {name}"))
            };
            thread::scope(|scope| -> Result<()> {
                let both = [scope.spawn(make(0)), scope.spawn(make(1))];
                for made in both {
                    if let Err(error) = made.join().ok().context("panicked")?? {
                        ensure!(error.stderr.contains("exists"), "{error:?}");
                    }
                }
                Ok(())
            })?;
            wait_for("both engines to have one network", SOON, || {
                let networks = listed(cluster, 0)?;
                let own: Vec<_> = networks.iter().filter(|(_, listed)| *listed == name).collect();
                ensure!(own.len() == 1 && networks.len() == round + 1, "{networks:?}");
                let format = "{{(index .IPAM.Config 0).Subnet}}";
                let subnet =
                    |host: usize| cluster.engine(host).docker_args(&["network", "inspect", "-f", format, &name]);
                ensure!(subnet(0)? == subnet(1)?, "{} and {}", subnet(0)?, subnet(1)?);
                Ok(())
            })?;
        }
        Ok(())
    })
}

#[test]
fn an_engines_own_network_of_the_same_name_is_told_and_left_alone() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.engine(1).docker("network create web")?;
        let own = cluster.engine(1).docker("network inspect -f {{.Id}} web")?;
        cluster.cli(0).run("network create web")?;
        appears(cluster, 0, "web")?;
        problem(cluster, 1, &["web", "of its own", "remove or rename"])?;
        ensure!(cluster.engine(1).docker("network inspect -f {{.Id}} web")? == own);
        cluster.engine(1).docker("network rm web")?;
        appears(cluster, 1, "web")
    })
}

#[test]
fn an_engine_that_was_down_catches_up() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.engine(0).docker(&format!("{CREATE} old"))?;
        appears(cluster, 1, "old")?;
        cluster.engine_mut(1).kill9()?;
        cluster.engine(0).docker(&format!("{CREATE} new"))?;
        cluster.engine(0).docker("network rm old")?;
        disappears(cluster, 0, "old")?;
        cluster.engine_mut(1).start()?;
        appears(cluster, 1, "new")?;
        disappears(cluster, 1, "old")?;
        run_on(cluster, 1, "new", "c1", "")
    })
}
