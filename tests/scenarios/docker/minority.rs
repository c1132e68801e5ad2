//! The host that votes is away: what runs goes on, what ran starts again, and what is new is refused.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pontoon_tests::lab::{Cluster, EngineKind, IMAGE, OUTSIDE};
use pontoon_tests::wait_for;

use super::restarts::{TWO, address, pinger, placed, two_containers};
use super::{CREATE, SOON, appears, interface, loses_nothing, on_engines, run_on};

/// Nobody gets an address that this host does not have, and the user is told why in time.
fn what_is_new_is_refused(cluster: &Cluster) -> Result<()> {
    let begin = Instant::now();
    cluster.engine(1).refuses(&format!("run -d --net app --name new {IMAGE}"), &["no answer from h1"])?;
    ensure!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
    cluster.engine(1).docker("rm -f new").map(drop)
}

/// The voter is back: new containers start, and get what nobody has.
fn goes_on(cluster: &mut Cluster, taken: &[IpAddr]) -> Result<()> {
    cluster.daemon(0).up()?;
    wait_for("new containers to be taken again", SOON, || {
        cluster.engine(1).docker("rm -f new")?;
        run_on(cluster, 1, "app", "new", "")
    })?;
    let new = address(cluster, 1, "new")?;
    ensure!(!taken.contains(&new), "{new} is given twice");
    Ok(())
}

#[test]
fn an_engine_that_leaves_its_containers_alone() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.engine_mut(1).stop()?;
        cluster.engine_mut(1).args_mut().push("--live-restore".into());
        cluster.engine_mut(1).start()?;
        let [first, second] = two_containers(cluster, "")?;
        ensure!(cluster.leader()? == 0, "the second of two does not vote");
        let pinger = pinger(cluster, second)?;
        cluster.daemon(0).kill9()?;
        cluster.engine_mut(1).kill9()?;
        cluster.engine_mut(1).start()?;
        ensure!(address(cluster, 1, "c2")? == second);
        loses_nothing(cluster, 1, "c2", first)?;
        what_is_new_is_refused(cluster)?;
        goes_on(cluster, &[first, second])?;
        pinger.lost_nothing(20)?;
        placed(cluster, 3)
    })
}

/// A container's address while it is up; it starts in a moment.
fn up(cluster: &Cluster, container: &str) -> Result<IpAddr> {
    wait_for(&format!("{container} to be up"), SOON * 3, || interface(cluster, 1, container, "eth0"))?;
    address(cluster, 1, container)
}

/// Containers `c2` and, with an address by number, `c3` on the second host keep their addresses through whatever happens to
/// them without a majority.
fn containers_start_again(kinds: &[EngineKind]) -> Result<()> {
    on_engines(kinds, |cluster| {
        let [first, second] = two_containers(cluster, "")?;
        cluster.engine(1).docker("update --restart always c2")?;
        let third: IpAddr = "10.0.0.50".parse()?;
        run_on(cluster, 1, "app", "c3", "--ip 10.0.0.50 --restart always")?;
        // Stopped while there is a majority: its address is kept for it.
        run_on(cluster, 1, "app", "c4", "")?;
        placed(cluster, 4)?;
        let fourth = address(cluster, 1, "c4")?;
        cluster.engine(1).docker("stop -t 0 c4")?;
        let keeps = |state: &str| {
            let lease = cluster.cli(0).run(&format!("lease inspect {fourth}"))?;
            ensure!(lease.to_string().contains(&format!("\"{state}\"")), "{lease}");
            Ok(())
        };
        wait_for("the address to be kept", SOON, || keeps("kept"))?;
        cluster.daemon(0).kill9()?;

        let begin = Instant::now();
        cluster.engine(1).docker("start c4")?;
        println!("a container starts without a majority in {:?}", begin.elapsed());
        cluster.engine(1).docker("restart -t 0 c3")?;
        let all = |cluster: &Cluster| -> Result<()> {
            for (container, had) in [("c2", second), ("c3", third), ("c4", fourth)] {
                let now = up(cluster, container)?;
                ensure!(now == had, "{container} had {had} and has {now}");
                loses_nothing(cluster, 1, container, first)?;
                loses_nothing(cluster, 0, "c1", had)?;
            }
            loses_nothing(cluster, 1, "c4", OUTSIDE.into())
        };
        all(cluster)?;
        // Names of the other host as they were known last.
        for container in ["c2", "c3", "c4"] {
            wait_for("c1 to be found", SOON, || cluster.engine(1).exec(container, "ping -c 1 -W 1 c1"))?;
        }
        // The daemon has it all on its disk.
        cluster.daemon(1).kill9()?;
        cluster.daemon(1).up()?;
        all(cluster)?;
        what_is_new_is_refused(cluster)?;
        cluster.engine(1).docker("stop -t 0 c4")?;
        // Everything anew, c2 and c3 in whichever order: c3 says which address is its own.
        for crash in [false, true] {
            if crash {
                cluster.daemon(1).kill9()?;
                cluster.engine_mut(1).kill9()?;
                cluster.daemon(1).up()?;
            } else {
                cluster.engine_mut(1).stop()?;
            }
            cluster.engine_mut(1).start()?;
            ensure!(up(cluster, "c3")? == third, "c3 has another address, crash: {crash}");
            let now = up(cluster, "c2")?;
            ensure!([second, fourth].contains(&now), "c2 has {now}, which was nobody's here, crash: {crash}");
            loses_nothing(cluster, 1, "c2", first)?;
        }

        goes_on(cluster, &[first, second, third, fourth])?;
        cluster.engine(1).docker("start c4")?;
        placed(cluster, 5)?;
        loses_nothing(cluster, 1, "c4", first)?;
        for container in ["c2", "c3", "c4"] {
            loses_nothing(cluster, 0, "c1", address(cluster, 1, container)?)?;
        }
        cluster.wait_same_state()
    })
}

#[test]
fn containers_start_again_on_the_distributions_engine() -> Result<()> {
    containers_start_again(&[EngineKind::Debian, EngineKind::Debian])
}

#[test]
fn containers_start_again_on_a_newer_engine() -> Result<()> {
    containers_start_again(&TWO)
}

/// The engine does not say which container starts: the one that stopped first is taken for the other one. Both start.
#[test]
fn containers_that_are_taken_for_each_other() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.engine(0).docker(&format!("{CREATE} app"))?;
        appears(cluster, 1, "app")?;
        for container in ["c1", "c2"] {
            run_on(cluster, 1, "app", container, "")?;
        }
        placed(cluster, 2)?;
        let had = [address(cluster, 1, "c1")?, address(cluster, 1, "c2")?];
        for majority in [true, false] {
            for container in ["c1", "c2"] {
                cluster.engine(1).docker(&format!("stop -t 0 {container}"))?;
            }
            if !majority {
                cluster.daemon(0).kill9()?;
            }
            for container in ["c1", "c2"] {
                cluster.engine(1).docker(&format!("start {container}"))?;
            }
            let mut have = [address(cluster, 1, "c1")?, address(cluster, 1, "c2")?];
            have.sort();
            ensure!(have == had, "they had {had:?} and have {have:?}, majority: {majority}");
            loses_nothing(cluster, 1, "c1", address(cluster, 1, "c2")?)?;
            if majority {
                placed(cluster, 2)?;
            }
        }
        goes_on(cluster, &had)?;
        placed(cluster, 3)?;
        let answer = cluster.cli(0).run("network inspect app")?;
        for container in ["c1", "c2"] {
            let own = format!("\"{}\"", address(cluster, 1, container)?);
            let known = answer["endpoints"].as_array().into_iter().flatten();
            let known = known.filter(|view| view["endpoint"]["name"] == container).map(serde_json::Value::to_string);
            ensure!(known.clone().count() == 1 && known.into_iter().all(|view| view.contains(&own)), "{answer}");
        }
        Ok(())
    })
}

/// A container stops while nobody can be told, and starts again long afterwards: what was to be ended is in use by then.
#[test]
fn a_container_that_was_to_be_ended_long_ago_starts_again() -> Result<()> {
    on_engines(&TWO, |cluster| {
        let [first, second] = two_containers(cluster, "")?;
        cluster.daemon(0).kill9()?;
        cluster.engine(1).docker("stop -t 0 c2")?;
        wait_for("its end to be overdue", SOON * 4, || {
            let tasks = cluster.status(1)?["tasks"].to_string();
            ensure!(tasks.contains("cannot end what the engine does not know"), "{tasks}");
            Ok(())
        })?;
        cluster.engine(1).docker("start c2")?;
        ensure!(address(cluster, 1, "c2")? == second);
        // Through a few passes of the loop that ends things.
        let counted = cluster.engine(1).exec("c2", &format!("ping -c 100 -i 0.1 -W 1 {first}"))?;
        ensure!(counted.contains("100 packets received"), "{counted}");
        goes_on(cluster, &[first, second])?;
        loses_nothing(cluster, 0, "c1", second)?;
        placed(cluster, 3)
    })
}

/// Without a majority, nobody gets what a container that was removed had: others may have it by now.
#[test]
fn what_a_removed_container_had_is_given_up() -> Result<()> {
    on_engines(&TWO, |cluster| {
        cluster.engine(0).docker(&format!("{CREATE} app"))?;
        appears(cluster, 1, "app")?;
        run_on(cluster, 1, "app", "c1", "")?;
        placed(cluster, 1)?;
        cluster.engine(1).docker("stop -t 0 c1")?;
        cluster.daemon(0).kill9()?;
        cluster.engine(1).docker("rm c1")?;
        let journal = cluster.daemon(1).data_dir().join("journal");
        wait_for("it to be noted", SOON, || {
            let text = std::fs::read_to_string(&journal)?;
            ensure!(text.contains("given_up"), "{text:?}");
            Ok(())
        })?;
        what_is_new_is_refused(cluster)
    })
}
