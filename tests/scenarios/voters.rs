//! Voters that stay away, that are told to vote or not to, and that do nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, Options, run, run_with, while_writing};
use pontoon_tests::wait_for;

use super::members::is_clean;

/// How long a change of the voters may take, beyond what is set.
const CHANGE: Duration = Duration::from_secs(40);
/// Writes that are to be acknowledged after the voters were replaced.
const MORE_WRITES: u64 = 20;

fn hosts(hosts: usize) -> Options {
    Options { hosts, ..Options::default() }
}

/// Names of the voters, as a host sees them.
fn voters(cluster: &Cluster, host: usize) -> Result<BTreeSet<String>> {
    let status = cluster.status(host)?;
    let members = status["members"].as_array().context("no members")?;
    let voters = members.iter().filter(|member| member["voter"] == true);
    Ok(voters.filter_map(|member| Some(member["node"]["name"].as_str()?.to_owned())).collect())
}

fn wait_voters(cluster: &Cluster, host: usize, what: &str, right: impl Fn(&BTreeSet<String>) -> bool) -> Result<()> {
    wait_for(what, CHANGE, || {
        let voters = voters(cluster, host)?;
        ensure!(right(&voters), "{voters:?} vote");
        Ok(())
    })
}

/// Two of five voters are killed for good, one of them the leader, while there are writes and pings. Two spare nodes take
/// their places.
#[test]
fn two_voters_that_are_gone_are_replaced() -> Result<()> {
    run_with(hosts(7), |cluster| {
        cluster.form()?;
        wait_voters(cluster, 0, "five voters", |voters| voters.len() == 5)?;
        cluster.cli(0).run("network create pinged")?;
        let containers = (0..7).map(|host| cluster.attached(host, &format!("p{host}"), "pinged"));
        let containers = containers.collect::<Result<Vec<_>>>()?;
        let next = containers.iter().cycle().skip(1);
        let ways = containers.iter().zip(next).map(|((from, _), (_, to))| cluster.pinger(from, to));
        let ways = ways.collect::<Result<Vec<_>>>()?;
        let settings = cluster.cli(0).run("cluster set replace-after=5s")?;
        ensure!(settings["cluster"]["replace_after_ms"] == 5000, "{settings}");

        let voting = voters(cluster, 0)?;
        let votes = |host: &usize| voting.contains(&cluster.hosts()[*host].name);
        let leader = cluster.leader()?;
        let other = (0..7).filter(votes).find(|&host| host != leader).context("no other voter")?;
        let killed = [leader, other];
        let names = killed.map(|host| cluster.hosts()[host].name.clone());
        let spare = (0..7).find(|host| !votes(host)).context("no learner")?;
        let writing: Vec<usize> = (0..7).filter(|host| !killed.contains(host)).take(2).collect();

        let journal = while_writing(cluster, &writing, |cluster, journal| {
            let start = Instant::now();
            for host in killed {
                cluster.daemon(host).kill9()?;
            }
            wait_for("a warning", CHANGE, || {
                let warnings = cluster.status(cluster.leader()?)?["warnings"].to_string();
                ensure!(
                    warnings.contains("has not answered for") && warnings.contains("takes its place"),
                    "{warnings}"
                );
                Ok(())
            })?;
            let replaced =
                |voters: &BTreeSet<String>| voters.len() == 5 && names.iter().all(|name| !voters.contains(name));
            wait_voters(cluster, spare, "both to be replaced", replaced)?;
            eprintln!("both were replaced after {:?}", start.elapsed());
            let status = cluster.status(spare)?;
            ensure!(status["tolerates"] == 2 && status["quorum"] == 3, "{status}");
            let before = journal.acknowledged.load(Ordering::Relaxed);
            wait_for("writes", CHANGE, || {
                let now = journal.acknowledged.load(Ordering::Relaxed);
                ensure!(now >= before + MORE_WRITES, "{before} writes before, {now} now");
                Ok(())
            })
        })?;
        for way in ways {
            way.lost_nothing(50)?;
        }
        // They come back without a vote, with all that was acknowledged.
        for host in killed {
            cluster.daemon(host).up()?;
        }
        cluster.wait_all_ready()?;
        cluster.wait_same_state()?;
        journal.check(cluster, MORE_WRITES)?;
        let voting = voters(cluster, leader)?;
        ensure!(voting.len() == 5 && names.iter().all(|name| !voting.contains(name)), "{voting:?} vote");
        Ok(())
    })
}

#[test]
fn nodes_are_promoted_and_demoted() -> Result<()> {
    run_with(hosts(4), |cluster| {
        cluster.form()?;
        wait_voters(cluster, 0, "three voters", |voters| voters.len() == 3)?;
        let leader = cluster.leader()?;
        let name = cluster.hosts()[leader].name.clone();
        let answer = cluster.cli((leader + 1) % 4).run(&format!("node demote {name}"))?;
        ensure!(answer["warnings"] == serde_json::json!([]), "{answer}");
        let voting = voters(cluster, (leader + 1) % 4)?;
        ensure!(voting.len() == 3 && !voting.contains(&name), "{voting:?} vote");
        ensure!(cluster.leader()? != leader, "{name} leads and does not vote");
        let shown = cluster.cli(0).run(&format!("node inspect {name}"))?;
        ensure!(shown["node"]["node"]["voting"] == "demoted", "{shown}");

        // There is nobody left who could take another one's place.
        let second = voting.first().context("no voter")?;
        cluster.cli(0).refuses(
            &format!("node demote {second}"),
            "VOTER_NEEDED",
            &[second, "no other node", "voters=1"],
        )?;
        let answer = cluster.cli(0).run(&format!("node promote {name}"))?;
        ensure!(answer["warnings"] == serde_json::json!([]), "{answer}");
        wait_voters(cluster, 0, "the promoted one to vote", |voters| voters.len() == 3 && voters.contains(&name))?;
        cluster.cli(0).run("cluster set voters=1")?;
        wait_voters(cluster, leader, "it to vote alone", |voters| voters.iter().eq([&name]))?;
        let others: Vec<String> =
            (0..4).filter(|&host| host != leader).map(|host| cluster.hosts()[host].name.clone()).collect();
        cluster.cli(0).refuses(&format!("node promote {}", others[0]), "VOTERS_FULL", &[&others[0], &name])?;
        cluster.cli(0).run(&format!("node auto {name}"))?;
        let answer = cluster.cli(0).run(&format!("node promote {}", others[0]))?;
        ensure!(answer["warnings"] == serde_json::json!([]), "{answer}");
        wait_voters(cluster, 0, "the other one to vote alone", |voters| voters.iter().eq([&others[0]]))?;
        cluster.cli(0).run("network create n")?;
        cluster.cli(0).refuses("cluster set replace-after=1s", "INVALID_CLUSTER", &["1000 ms", "5s"])?;
        cluster.cli(0).refuses("node promote h9", "NODE_NOT_FOUND", &["h9"]).map(drop)
    })
}

/// Two of four hosts are down, and three vote: neither of the two others can be spared.
#[test]
fn a_voter_that_is_needed_stays() -> Result<()> {
    run_with(hosts(4), |cluster| {
        cluster.form()?;
        wait_voters(cluster, 0, "three voters", |voters| voters.len() == 3)?;
        let voting = voters(cluster, 0)?;
        let host_of =
            |name: &String| cluster.hosts().iter().position(|host| host.name == *name).context("no such host");
        let down = host_of(voting.last().context("no voter")?)?;
        let learner = (0..4).find(|&host| !voting.contains(&cluster.hosts()[host].name)).context("no learner")?;
        let names: Vec<String> = cluster.hosts().iter().map(|host| host.name.clone()).collect();
        let up: Vec<usize> = (0..4).filter(|host| ![down, learner].contains(host)).collect();
        cluster.daemon(down).kill9()?;
        cluster.daemon(learner).kill9()?;
        wait_for("both to be down", CHANGE, || {
            let status = cluster.status(up[0])?;
            let members = status["members"].as_array().context("no members")?;
            let down = members.iter().filter(|member| member["node"]["state"] == "down").count();
            let warnings = status["warnings"].to_string();
            ensure!(down == 2 && warnings.contains("no other node can take its place"), "{status}");
            ensure!(warnings.contains("one more voter would stop writes"), "{status}");
            Ok(())
        })?;
        let told = [names[up[1]].as_str(), names[down].as_str(), "does not answer", "no other node", "bring back"];
        for line in ["node rm", "node rm --force", "node demote"] {
            let start = Instant::now();
            cluster.cli(up[0]).refuses(&format!("{line} {}", names[up[1]]), "VOTER_NEEDED", &told)?;
            ensure!(start.elapsed() < Duration::from_secs(5), "`{line}` took {:?}", start.elapsed());
        }
        cluster.cli(up[1]).refuses("leave", "VOTER_NEEDED", &told)?;
        cluster.cli(up[0]).run("network create n")?;
        // The cure that it names.
        cluster.cli(up[0]).run(&format!("node rm {} --force", names[down]))?;
        cluster.daemon(learner).up()?;
        wait_voters(cluster, up[0], "the learner to vote", |voters| voters.contains(&names[learner]))?;
        cluster.cli(up[1]).run("leave")?;
        cluster.cli(up[0]).run("network create m").map(drop)
    })
}

/// Two hosts with containers, and a small machine that makes a third voter.
#[test]
fn a_node_that_only_votes() -> Result<()> {
    run_with(hosts(3), |cluster| {
        cluster.init()?;
        cluster.join(1, 0)?;
        cluster.cli(2).run(&format!("{} --voter-only", cluster.join_line(2, 0)))?;
        cluster.wait_all_ready()?;
        wait_voters(cluster, 0, "three voters", |voters| voters.len() == 3)?;
        cluster.cli(0).run("network create n --wait")?;
        let (first, _) = cluster.attached(0, "c1", "n")?;
        let (_, second) = cluster.attached(1, "c2", "n")?;
        let way = cluster.pinger(&first, &second)?;
        let refused = cluster.container(2, "c3")?;
        cluster.cli(2).refuses(&refused.attach_line("n", ""), "NODE_VOTER_ONLY", &["h3", "only votes"])?;
        is_clean(cluster, 2)?;
        let rules = cluster.hosts()[0].netns.run("nft", &["list", "ruleset"])?;
        let [third, second] = [2, 1].map(|host| cluster.hosts()[host].address.to_string());
        ensure!(rules.contains(&second) && !rules.contains(&third), "packets of h3 are taken: {rules}");
        let inspected = cluster.cli(0).run("node inspect h3")?;
        let node = &inspected["node"]["node"];
        ensure!(node["voter_only"] == true && node["underlay_mtu"] == 0 && node["state"] == "ready", "{node}");

        let found = cluster.cli(2).run("doctor")?["findings"].to_string();
        ensure!(found.contains("\"quorum\"") && !found.contains("\"kernel\""), "{found}");

        // One of the two others may go now.
        cluster.daemon(1).kill9()?;
        wait_for("writes", CHANGE, || cluster.cli(0).run("network create more"))?;
        cluster.daemon(1).up()?;
        // It remembers, and is ready again after it was down.
        cluster.daemon(2).kill9()?;
        wait_for("it to be down", CHANGE, || {
            let state = cluster.cli(0).run("node inspect h3")?["node"]["node"]["state"].clone();
            ensure!(state == "down", "it is {state}");
            Ok(())
        })?;
        cluster.daemon(2).up()?;
        cluster.wait_all_ready()?;
        is_clean(cluster, 2)?;
        way.lost_nothing(50)?;
        cluster.cli(2).run("leave").map(drop)
    })
}

#[test]
fn a_leader_that_is_stopped_hands_over() -> Result<()> {
    run(|cluster| {
        wait_voters(cluster, 0, "three voters", |voters| voters.len() == 3)?;
        let leader = cluster.leader()?;
        let term = cluster.status(leader)?["term"].as_u64().context("no term")?;
        let status = cluster.daemon(leader).term()?;
        ensure!(status.success(), "{status}");
        let log = fs::read_to_string(cluster.daemon(leader).log())?;
        ensure!(log.contains("leadership was handed over member="), "{log}");
        let next = cluster.leader()?;
        let now = cluster.status(next)?["term"].as_u64().context("no term")?;
        ensure!(next != leader && now == term + 1, "h{} leads in term {now} after {term}", next + 1);
        cluster.cli(next).run("network create n").map(drop)
    })
}

/// Its data folder is empty, or its store is: it must not vote as what it was.
#[test]
fn a_wiped_node_does_not_vote_under_its_old_identity() -> Result<()> {
    run(|cluster| {
        let data = cluster.daemon(2).data_dir();
        cluster.daemon(2).term()?;
        fs::rename(data.join("store"), data.join("lost"))?;
        let log = cluster.daemon(2).fails_to_start()?;
        ensure!(log.contains("must not vote again") && log.contains("pontoon node rm"), "{log}");
        // With its store it goes on.
        fs::remove_dir_all(data.join("store")).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        fs::rename(data.join("lost"), data.join("store"))?;
        cluster.daemon(2).up()?;
        cluster.wait_all_ready()?;

        cluster.daemon(2).term()?;
        fs::remove_dir_all(&data)?;
        cluster.daemon(2).up()?;
        ensure!(cluster.status(2)?["cluster_id"] == "", "it believes to be in its cluster");
        let line = cluster.join_line(2, 0);
        cluster.cli(2).refuses(&line, "NODE_NAME_TAKEN", &["h3", "pontoon node rm h3"])?;
        let old = cluster.cli(0).run("node inspect h3")?["node"]["node"]["raft_id"].clone();
        cluster.cli(0).run("node rm h3 --force")?;
        cluster.join(2, 0)?;
        cluster.wait_all_ready()?;
        let new = cluster.cli(0).run("node inspect h3")?["node"]["node"]["raft_id"].clone();
        ensure!(new != old, "it has its old Raft id {old}");
        cluster.wait_same_state()
    })
}
