//! The metrics, as Prometheus gets them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, DaemonOptions, EngineKind, Options, run_with};
use pontoon_tests::wait_for;

use super::drift::{REPAIR, vxlan};
use super::page::ask;
use super::watch::Watcher;

/// Where each daemon is asked to serve them.
const ASKED_FOR: &str = "0.0.0.0:7302";
/// How long a change may take until they tell of it.
const TOLD: Duration = Duration::from_secs(20);

/// What one daemon told, by the whole name of each sample.
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub(crate) fn get(&self, sample: &str) -> Result<f64> {
        self.0.get(sample).copied().with_context(|| format!("no {sample} in {:#?}", self.0))
    }

    /// Checks that a sample has this value.
    fn is(&self, sample: &str, value: f64) -> Result<()> {
        let told = self.get(sample)?;
        // Whole numbers are told exactly.
        ensure!((told - value).abs() < 0.5, "{sample} is {told}, not {value}");
        Ok(())
    }

    /// Everything of one family.
    fn of<'a>(&'a self, family: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let samples = self.0.iter().map(|(sample, value)| (sample.as_str(), *value));
        samples.filter(move |(sample, _)| sample.split('{').next() == Some(family))
    }
}

fn serving(hosts: usize, address: &str) -> Options {
    let args = vec!["--metrics".to_owned(), address.to_owned()];
    Options { hosts, daemon: DaemonOptions { args, ..DaemonOptions::default() }, ..Options::default() }
}

/// What a daemon tells to somebody on its host.
pub(crate) fn scrape(cluster: &Cluster, host: usize) -> Result<Metrics> {
    let request = "GET /metrics HTTP/1.1\r\nHost: prometheus-knows-it-as.example:7302";
    let answer = ask(&cluster.hosts()[host].netns, "127.0.0.1:7302", request)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| answer.clone())?;
    ensure!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    ensure!(body.ends_with("\n# EOF\n"), "cut off: {body}");
    let samples = body.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (sample, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
        Ok((sample.to_owned(), value.parse()?))
    });
    Ok(Metrics(samples.collect::<Result<_>>()?))
}

fn scrape_all(cluster: &Cluster) -> Result<Vec<Metrics>> {
    (0..cluster.hosts().len()).map(|host| scrape(cluster, host)).collect()
}

/// Lag of each node by its name, as the leader tells it.
fn lags(cluster: &Cluster) -> Result<BTreeMap<String, f64>> {
    let told = scrape(cluster, cluster.leader()?)?;
    let name = |sample: &str| sample.split('"').nth(1).unwrap_or_default().to_owned();
    Ok(told.of("pontoon_raft_lag_entries").map(|(sample, lag)| (name(sample), lag)).collect())
}

/// Leases of each network and state as `lease ls` lists them, as samples.
fn listed_leases(cluster: &Cluster, host: usize) -> Result<BTreeMap<String, f64>> {
    let mut counts = BTreeMap::new();
    let listed = cluster.cli(host).run("lease ls")?;
    for lease in listed["leases"].as_array().context("no leases")? {
        let (network, state) = (&lease["network_name"], &lease["lease"]["state"]);
        *counts.entry(format!("pontoon_leases{{network={network},state={state}}}")).or_default() += 1.0;
    }
    Ok(counts)
}

#[test]
fn every_node_tells_of_raft_leases_and_its_host() -> Result<()> {
    run_with(serving(3, ASKED_FOR), |cluster| {
        let alone = scrape(cluster, 0)?;
        alone.is("pontoon_member", 0.0)?;
        ensure!(alone.of("pontoon_raft_term").next().is_none(), "a term in no cluster");
        cluster.form()?;
        cluster.cli(0).run("network create web")?;
        let (_c1, _) = cluster.attached(0, "c1", "web")?;
        let (_c2, _) = cluster.attached(1, "c2", "web")?;
        cluster.cli(1).run("detach --network web --name c2")?;
        let synced = scrape(cluster, 0)?.get("pontoon_wal_sync_seconds_count")?;
        cluster.cli(0).run("network create other")?;
        let leader = cluster.leader()?;
        let told = wait_for("all nodes to tell the same", TOLD, || {
            let told = scrape_all(cluster)?;
            let last = told[leader].get("pontoon_raft_last_index")?;
            for metrics in &told {
                metrics.is("pontoon_raft_committed_index", last)?;
                metrics.is("pontoon_raft_applied_index", last)?;
            }
            let lags = lags(cluster)?;
            ensure!(lags.len() == 3 && lags.values().all(|lag| *lag == 0.0), "lag after writes: {lags:?}");
            Ok(told)
        })?;
        for (host, metrics) in told.iter().enumerate() {
            metrics.is("pontoon_member", 1.0)?;
            metrics.is("pontoon_leader", if host == leader { 1.0 } else { 0.0 })?;
            metrics.is("pontoon_raft_quorum_voters", 2.0)?;
            metrics.is("pontoon_raft_tolerated_voters", 1.0)?;
            metrics.is("pontoon_nodes{state=\"ready\"}", 3.0)?;
            metrics.is("pontoon_networks", 2.0)?;
            metrics.is("pontoon_endpoints{network=\"web\",state=\"active\"}", 1.0)?;
            let held: BTreeMap<_, _> = metrics
                .of("pontoon_leases")
                .filter(|(_, count)| *count > 0.0)
                .map(|(s, n)| (s.to_owned(), n))
                .collect();
            let listed = listed_leases(cluster, host)?;
            ensure!(held == listed && listed.len() == 4, "told: {held:?}; listed: {listed:?}");
            let count = metrics.get("pontoon_wal_sync_seconds_count")?;
            metrics.is("pontoon_wal_sync_seconds_bucket{le=\"+Inf\"}", count)?;
            ensure!(metrics.get("pontoon_wal_sync_seconds_sum")? > 0.0, "syncs took no time");
            ensure!(metrics.get("pontoon_wal_entries_total")? > 0.0, "no entries");
            ensure!(host > 0 || count > synced, "a write without a sync: {count}");
        }
        Ok(())
    })
}

#[test]
fn the_leader_tells_who_lags() -> Result<()> {
    run_with(serving(3, ASKED_FOR), |cluster| {
        cluster.form()?;
        let leader = cluster.leader()?;
        let slow = (leader + 1) % 3;
        let name = cluster.hosts()[slow].name.clone();
        cluster.daemon(slow).pause()?;
        cluster.cli(leader).run("network create web")?;
        let told = scrape(cluster, leader)?;
        ensure!(
            told.get(&format!("pontoon_raft_lag_entries{{node=\"{name}\"}}"))? > 0.0,
            "{name} lags, and nobody says so"
        );
        cluster.daemon(slow).resume()?;
        wait_for("it to catch up", TOLD, || {
            let lags = lags(cluster)?;
            ensure!(lags.len() == 3 && lags.values().all(|lag| *lag == 0.0), "{lags:?}");
            Ok(())
        })
    })
}

#[test]
fn repairs_are_counted() -> Result<()> {
    run_with(serving(1, ASKED_FOR), |cluster| {
        cluster.form()?;
        cluster.cli(0).run("network create web")?;
        let (_c1, _) = cluster.attached(0, "c1", "web")?;
        let repairs = || Ok::<_, anyhow::Error>(scrape(cluster, 0)?.of("pontoon_drift_total").map(|(_, n)| n).sum());
        let (before, passes): (f64, f64) = (repairs()?, scrape(cluster, 0)?.get("pontoon_reconcile_passes_total")?);
        cluster.overlay(0).ip(&format!("link del {}", vxlan(cluster)?))?;
        wait_for("the repair to be counted", REPAIR, || {
            let after: f64 = repairs()?;
            ensure!(after > before, "{after} repairs, as before");
            let told = scrape(cluster, 0)?;
            ensure!(told.get("pontoon_reconcile_passes_total")? > passes, "repaired without a pass");
            told.is("pontoon_reconcile_failures", 0.0)
        })
    })
}

#[test]
fn watchers_are_counted() -> Result<()> {
    run_with(serving(1, ASKED_FOR), |cluster| {
        cluster.form()?;
        scrape(cluster, 0)?.is("pontoon_watchers", 0.0)?;
        let watcher = Watcher::start(cluster, 0, "")?;
        watcher.until("\"last\":true")?;
        let told = scrape(cluster, 0)?;
        told.is("pontoon_watchers", 1.0)?;
        ensure!(told.get("pontoon_watch_events_total")? > 0.0, "it was sent nothing");
        drop(watcher);
        wait_for("the watcher to be gone", TOLD, || scrape(cluster, 0)?.is("pontoon_watchers", 0.0))?;
        // A daemon that has started knows no change from before.
        cluster.daemon(0).kill9()?;
        cluster.daemon(0).up()?;
        wait_for("the daemon to know its log again", TOLD, || cluster.cli(0).run("network create web"))?;
        scrape(cluster, 0)?.is("pontoon_watch_compacted_total", 0.0)?;
        cluster.cli(0).refuses("watch --from 1", "INDEX_COMPACTED", &[])?;
        let told = scrape(cluster, 0)?;
        told.is("pontoon_watch_compacted_total", 1.0)?;
        told.is("pontoon_watchers", 0.0)
    })
}

#[test]
fn they_tell_whether_dockers_engine_answers() -> Result<()> {
    let options = Options { engines: vec![EngineKind::Suite("trixie")], ..serving(1, ASKED_FOR) };
    run_with(options, |cluster| {
        cluster.form()?;
        let connected = |cluster: &Cluster, value| scrape(cluster, 0)?.is("pontoon_engine_connected", value);
        wait_for("the engine to be met", TOLD, || connected(cluster, 1.0))?;
        cluster.engine_mut(0).stop()?;
        wait_for("the engine to be missed", TOLD, || connected(cluster, 0.0))
    })
}

#[test]
fn they_are_where_they_were_asked_for_or_nowhere() -> Result<()> {
    run_with(Options { hosts: 1, ..Options::default() }, |cluster| {
        let host = cluster.hosts()[0].netns.clone();
        // Admin and plugin sockets are no TCP ports: the peers' port and the page are all that listens.
        let listening = host.run("ss", &["-Hltn"])?;
        ensure!(
            listening.lines().count() == 2 && !cluster.status(0)?["tasks"].to_string().contains("metrics"),
            "{listening}"
        );
        cluster.daemon(0).term()?;
        cluster.daemon(0).options_mut().args = ["--metrics", "127.0.0.1:7302"].map(str::to_owned).to_vec();
        cluster.daemon(0).up()?;
        let begins = |request: &str, start: &str| {
            let answer = ask(&host, "127.0.0.1:7302", request)?;
            ensure!(answer.starts_with(&format!("HTTP/1.1 {start} ")), "{request:?}: {answer}");
            Ok(())
        };
        for name in ["localhost:7302", "127.0.0.1:7302"] {
            begins(&format!("GET /metrics HTTP/1.1\r\nHost: {name}"), "200")?;
        }
        begins("GET /metrics HTTP/1.1\r\nHost: evil.example", "403")?;
        begins("GET / HTTP/1.1\r\nHost: localhost", "404")?;
        begins("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0", "405")?;
        ensure!(
            ask(&host, "192.168.140.200:7302", "GET /metrics HTTP/1.1\r\nHost: h1").is_err(),
            "it is elsewhere too"
        );
        cluster.daemon(0).term()?;
        cluster.daemon(0).options_mut().args = ["--metrics", "192.0.2.1:7302"].map(str::to_owned).to_vec();
        let log = cluster.daemon(0).fails_to_start()?;
        for word in ["192.0.2.1:7302", "assign", "--metrics"] {
            ensure!(log.contains(word), "it does not say {word:?}: {log}");
        }
        Ok(())
    })
}
