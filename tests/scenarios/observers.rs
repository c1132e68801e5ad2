//! Nodes outside the Raft membership: more of them than vote, and with nobody in reach.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, Options, run_with};
use pontoon_tests::wait_for;
use serde_json::Value;

/// How long a change of what a node is may take.
const CHANGE: Duration = Duration::from_secs(40);

fn hosts(hosts: usize) -> Options {
    Options { hosts, ..Options::default() }
}

/// What each node is, as a host sees it: whether it votes, and whether it observes.
fn roles(cluster: &Cluster, host: usize) -> Result<Vec<(bool, bool)>> {
    let status = cluster.status(host)?;
    let members = status["members"].as_array().context("no members")?;
    let is = |member: &Value, what: &str| member[what] == true;
    Ok(members.iter().map(|member| (is(member, "voter"), is(member, "observer"))).collect())
}

/// Waits until a host sees so many voters, learners and observers.
fn wait_roles(cluster: &Cluster, host: usize, expected: [usize; 3]) -> Result<()> {
    wait_for(&format!("{expected:?} voters, learners and observers"), CHANGE, || {
        let roles = roles(cluster, host)?;
        let count = |role| roles.iter().filter(|found| **found == role).count();
        let found = [(true, false), (false, false), (false, true)].map(count);
        ensure!(found == expected, "there are {found:?}");
        Ok(())
    })
}

/// Hosts that observe.
fn observers(cluster: &Cluster) -> Result<Vec<usize>> {
    let roles = roles(cluster, 0)?;
    Ok((0..roles.len()).filter(|host| roles[*host].1).collect())
}

/// What is on a network that an observer has no containers on, it does not know itself, and shows all the same.
fn knows_the_rest_from_a_member(cluster: &Cluster, observer: usize) -> Result<()> {
    cluster.cli(0).run("network create far")?;
    let _far = cluster.attached(0, "c4", "far")?;
    let seen = |line: &str| -> Result<(usize, Value)> {
        let answer = cluster.cli(observer).run(line)?;
        Ok((answer["endpoints"].as_array().context("no endpoints")?.len(), answer["freshness"].clone()))
    };
    let (whole, freshness) = seen("network inspect far")?;
    ensure!(whole == 1 && freshness["linearizable"] == true, "{whole} endpoints: {freshness}");
    let (own, freshness) = seen("network inspect far --stale")?;
    let reason = freshness["reason"].to_string();
    ensure!(own == 0 && reason.contains("this node observes"), "{own} endpoints: {freshness}");
    let counted = cluster.cli(observer).run("network ls")?["networks"].to_string();
    ensure!(counted.contains("\"endpoints\":1"), "{counted}");
    let leases = cluster.cli(observer).run("lease ls --network far")?["leases"].to_string();
    ensure!(leases.contains("c4"), "{leases}");
    cluster.cli(0).run("detach --name c4")?;
    cluster.cli(observer).run("network rm far").map(drop)
}

/// Eight and nine join like any other, and their containers are reached like any other's. When all that vote are gone, the
/// traffic goes on, also of an observer that is started again meanwhile.
#[test]
fn more_nodes_than_members() -> Result<()> {
    run_with(hosts(9), |cluster| {
        cluster.form()?;
        wait_roles(cluster, 0, [5, 2, 2])?;
        let observers = observers(cluster)?;
        ensure!(observers == [7, 8], "{observers:?} observe: those who came last");
        let [first, last] = [observers[0], observers[1]];
        cluster.cli(first).run("network create n")?;
        let (here, member) = (cluster.attached(first, "c1", "n")?, cluster.attached(0, "c2", "n")?);
        let there = cluster.attached(last, "c3", "n")?;
        let ways = [(&here, &member), (&member, &there), (&there, &here)];
        let ways = ways.iter().map(|((from, _), (_, to))| cluster.pinger(from, to)).collect::<Result<Vec<_>>>()?;
        let listed = cluster.cli(last).run("network inspect n")?;
        ensure!(listed["freshness"]["linearizable"] == true, "{listed}");
        ensure!(listed["endpoints"].as_array().is_some_and(|endpoints| endpoints.len() == 3), "{listed}");
        knows_the_rest_from_a_member(cluster, last)?;
        cluster.wait_same_state()?;
        let role = cluster.cli(0).run(&format!("node inspect h{}", last + 1))?["node"].clone();
        ensure!(role["observer"] == true && role["node"]["state"] == "ready", "{role}");

        let voters: Vec<usize> = (0..7).filter(|host| *host != 0).collect();
        for host in voters.iter().copied().chain([0]) {
            cluster.daemon(host).kill9()?;
        }
        cluster.daemon(first).kill9()?;
        cluster.daemon(first).up()?;
        wait_for("the first pass", CHANGE, || {
            let plane = cluster.status(first)?["data_plane"].clone();
            ensure!(plane["first_pass_done"] == true, "{plane}");
            ensure!(plane["first_pass_steps"] == 0, "it changed something: {plane}");
            Ok(())
        })?;
        let stale = cluster.cli(first).run("network inspect n --stale")?;
        ensure!(stale["endpoints"].as_array().is_some_and(|endpoints| endpoints.len() == 3), "{stale}");
        cluster.cli(first).refuses("network create m", "NO_QUORUM", &["no majority"])?;
        for host in 0..7 {
            cluster.daemon(host).up()?;
        }
        cluster.wait_all_ready()?;
        cluster.cli(first).run("network create m")?;
        for way in ways {
            way.lost_nothing(100)?;
        }
        cluster.cli(last).run("leave --force")?;
        wait_roles(cluster, 0, [5, 2, 1])
    })
}

/// A voter that is gone for good is replaced by a learner, and an observer learns in its place; when it comes back it
/// observes.
#[test]
fn an_observer_takes_the_place_of_a_learner() -> Result<()> {
    run_with(hosts(8), |cluster| {
        cluster.form()?;
        wait_roles(cluster, 0, [5, 2, 1])?;
        cluster.cli(0).run("network create n")?;
        let (from, to) = (cluster.attached(7, "c1", "n")?, cluster.attached(6, "c2", "n")?);
        let way = cluster.pinger(&from.0, &to.1)?;
        cluster.cli(0).run("cluster set replace-after=5s")?;
        let leader = cluster.leader()?;
        let gone = (0..5).find(|host| *host != leader).context("no other voter")?;
        cluster.daemon(gone).kill9()?;
        wait_for("the observer to be in the membership", CHANGE, || {
            let inspected = cluster.cli(leader).run("node inspect h8")?;
            ensure!(inspected["node"]["observer"] == false, "{inspected}");
            Ok(())
        })?;
        cluster.cli(7).run("network create m")?;
        cluster.daemon(gone).up()?;
        cluster.wait_all_ready()?;
        wait_roles(cluster, gone, [5, 2, 1])?;
        wait_for("it to observe", CHANGE, || {
            let inspected = cluster.cli(gone).run(&format!("node inspect h{}", gone + 1))?;
            ensure!(
                inspected["node"]["observer"] == true && inspected["freshness"]["linearizable"] == true,
                "{inspected}"
            );
            Ok(())
        })?;
        cluster.cli(gone).run("network create k")?;
        cluster.wait_same_state()?;
        way.lost_nothing(50).map(drop)
    })
}
