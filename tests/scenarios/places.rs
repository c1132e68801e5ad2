//! A cluster that is not made twice, a node that moves, and a host that was wiped and takes its place again.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, LAN_INTERFACE, OUTSIDE, Options, Pinger, run, run_with};
use pontoon_tests::wait_for;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

fn node(cluster: &Cluster, through: usize, name: &str) -> Result<Value> {
    Ok(cluster.cli(through).run(&format!("node inspect {name}"))?["node"]["node"].clone())
}

#[test]
fn no_second_cluster_is_made_where_one_answers() -> Result<()> {
    run_with(Options { hosts: 3, ..Options::default() }, |cluster| {
        let line = |host: usize, seeds: &[usize]| {
            let seeds: Vec<String> = seeds.iter().map(|seed| cluster.advertise(*seed)).collect();
            format!("init --advertise {} --name h{} --seed {}", cluster.advertise(host), host + 1, seeds.join(","))
        };
        // One is in no cluster, one is this node itself, and nobody has the third address.
        let first = cluster.cli(0).run(&format!("{} --seed 192.168.140.250", line(0, &[0, 1])))?;
        let id = first["cluster_id"].as_str().context("no id")?;
        let told = [id, &cluster.advertise(0), "pontoon token create"];
        cluster.cli(1).refuses(&line(1, &[2, 0]), "CLUSTER_EXISTS", &told)?;
        ensure!(cluster.status(1)?["cluster_id"] == "", "it is in a cluster");
        cluster.cli(1).refuses(&format!("{},nowhere", line(1, &[2])), "INVALID_NODE_ADDRESS", &["nowhere"]).map(drop)
    })
}

/// Other addresses of a node are known everywhere, also to Raft, and no packet is lost that did not go to the old ones.
#[test]
fn a_node_that_moves() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create n")?;
        let mut on = Vec::new();
        for host in 0..3 {
            on.push(cluster.attached(host, &format!("c{host}"), "n")?);
        }
        let leader = cluster.leader()?;
        let follower = (leader + 1) % 3;
        let third = 3 - leader - follower;
        let taken = format!("node move --advertise {}", cluster.advertise(third));
        // As somebody sees it who is there, before the cluster is asked.
        cluster.cli(follower).refuses(&taken, "INVALID_NODE_ADDRESS", &[&cluster.advertise(third), "this host"])?;
        let taken = format!("{taken} --data-addr {}", cluster.advertise(follower));
        cluster.cli(follower).refuses(&taken, "ADVERTISE_UNREACHABLE", &["another daemon answers there"])?;
        for host in [follower, leader] {
            let (old, new) = (cluster.advertise(host), format!("192.168.140.{}", 150 + host));
            let netns = &cluster.hosts()[host].netns;
            // Otherwise the kernel takes the second address away with the first.
            netns.run("sysctl", &["-qw", &format!("net.ipv4.conf.{LAN_INTERFACE}.promote_secondaries=1")])?;
            netns.ip(&format!("addr add {new}/24 dev {LAN_INTERFACE}"))?;
            let name = format!("h{}", host + 1);
            let moved = cluster.cli(host).run(&format!("node move --advertise {new}"))?;
            ensure!(
                moved["node"]["data_addr"] == new && moved["node"]["advertise"] == format!("{new}:7300"),
                "{moved}"
            );
            // Nobody has the old one any more.
            cluster.hosts()[host].netns.ip(&format!("addr del {old}/24 dev {LAN_INTERFACE}"))?;
            wait_for("the others to know it", SOON, || {
                for through in 0..3 {
                    let shown = node(cluster, through, &name)?;
                    ensure!(shown["advertise"] == format!("{new}:7300"), "{shown}");
                }
                let down = cluster.cli(third).run("node ls")?;
                let nodes = down["nodes"].as_array().context("no nodes")?;
                ensure!(nodes.iter().all(|node| node["node"]["state"] == "ready"), "{down}");
                Ok(())
            })?;
            for (from, to) in [(host, third), (third, host), (host, (host + 1) % 3)] {
                let to = on[to].1.addresses[0];
                wait_for("packets to go there", SOON, || on[from].0.netns.reaches(to, 3))?;
                on[from].0.netns.reaches(to, 20)?;
            }
        }
        // What is on the disks says so, too: both are started anew, and there is a majority with them only.
        for host in [leader, follower] {
            cluster.daemon(host).kill9()?;
        }
        cluster.daemon(follower).up()?;
        wait_for("writes", SOON, || cluster.cli(follower).run("node label h1 a=b").map(drop))?;
        cluster.daemon(leader).up()?;
        cluster.wait_all_ready()
    })
}

/// A host that was off and comes back with another address: nobody reaches it, and it has heard of no leader.
#[test]
fn a_host_that_comes_back_elsewhere() -> Result<()> {
    run(|cluster| {
        wait_for("three voters", SOON, || {
            let status = cluster.status(0)?;
            ensure!(status["quorum"] == 2, "{status}");
            Ok(())
        })?;
        let host = cluster.leader()?;
        let other = (host + 1) % 3;
        cluster.daemon(host).kill9()?;
        let (old, new) = (cluster.advertise(host), format!("192.168.140.{}", 160 + host));
        let netns = &cluster.hosts()[host].netns;
        netns.ip(&format!("addr del {old}/24 dev {LAN_INTERFACE}"))?;
        netns.ip(&format!("addr add {new}/24 dev {LAN_INTERFACE}"))?;
        wait_for("another leader", SOON, || cluster.cli(other).run("node label h1 a=b").map(drop))?;
        cluster.daemon(host).up()?;
        cluster.cli(host).run(&format!("node move --advertise {new}"))?;
        cluster.wait_all_ready()?;
        cluster.cli(host).run("network create n")?;
        cluster.wait_same_state()
    })
}

/// A daemon with an empty data folder, on a host whose containers still run.
fn wipe(cluster: &mut Cluster, host: usize) -> Result<()> {
    cluster.daemon(host).kill9()?;
    fs::remove_dir_all(cluster.daemon(host).data_dir())?;
    cluster.daemon(host).up()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(copied.success(), "cannot copy {}", from.display());
    Ok(())
}

#[test]
fn a_wiped_host_takes_its_place_again() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create n")?;
        let (c1, first) = cluster.attached(0, "c1", "n")?;
        let (c3, third) = cluster.attached(2, "c3", "n")?;
        let before = node(cluster, 0, "h3")?;
        let lease = cluster.cli(0).run(&format!("lease inspect {}", third.addresses[0]))?;
        let outside = Pinger::start(&c3.netns, OUTSIDE.into(), cluster.file("ping-outside"))?;
        let pings = [cluster.pinger(&c1, &third)?, cluster.pinger(&c3, &first)?, outside];
        let old = cluster.file("old");
        copy(&cluster.daemon(2).data_dir(), &old)?;
        wipe(cluster, 2)?;
        let plainly = cluster.join_line(2, 0);
        cluster.cli(2).refuses(&plainly, "NODE_NAME_TAKEN", &["h3", "--replace h3"])?;
        let again = |name: &str| {
            format!(
                "join {} {} --advertise {} --replace {name}",
                cluster.token(),
                cluster.advertise(0),
                cluster.advertise(2)
            )
        };
        cluster.cli(2).refuses(&again("h9"), "NODE_NOT_FOUND", &["h9", "--replace"])?;
        let joined = cluster.cli(2).run(&again("h3"))?;
        ensure!(joined["node"]["id"] == before["id"] && joined["node"]["name"] == "h3", "{joined} {before}");
        ensure!(joined["node"]["public_key"] != before["public_key"], "it has the old key");
        cluster.wait_all_ready()?;
        for pinger in pings {
            pinger.lost_nothing(20)?;
        }
        // It is the same lease of the same container, which can be detached.
        let now = cluster.cli(2).run(&format!("lease inspect {}", third.addresses[0]))?;
        ensure!(now["lease"] == lease["lease"], "{now} {lease}");
        // The disk that was in it before is nobody's.
        cluster.daemon(2).kill9()?;
        let new = cluster.daemon(2).data_dir();
        fs::rename(&new, cluster.file("new"))?;
        copy(&old, &new)?;
        cluster.daemon(2).up()?;
        wait_for("the old one to be told", SOON, || {
            let status = cluster.status(2)?;
            ensure!(status["warnings"].to_string().contains("removed"), "{}", status["warnings"]);
            Ok(())
        })?;
        cluster.cli(2).refuses("network create m", "STOPPED", &["removed"])?;
        cluster.daemon(2).kill9()?;
        fs::remove_dir_all(&new)?;
        fs::rename(cluster.file("new"), &new)?;
        cluster.daemon(2).up()?;
        cluster.wait_all_ready()?;
        cluster.cli(2).run("detach --name c3")?;
        cluster.wait_same_state()
    })
}

/// Only one that is not there can be replaced.
#[test]
fn nobody_takes_the_place_of_a_node_that_is_there() -> Result<()> {
    run_with(Options { hosts: 3, ..Options::default() }, |cluster| {
        cluster.init()?;
        cluster.join(1, 0)?;
        let line = format!("{} --replace h2", cluster.join_line(2, 0));
        cluster.cli(2).refuses(&line, "NODE_ALIVE", &["h2", "stop its daemon"])?;
        ensure!(cluster.status(2)?["cluster_id"] == "", "it is in a cluster");
        Ok(())
    })
}
