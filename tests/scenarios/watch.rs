//! `pontoon watch`: what there is and what changes, in order and without a gap, on whichever node.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, run};
use pontoon_tests::wait_for;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

/// A running `pontoon watch`.
pub(super) struct Watcher {
    child: Child,
    lines: Receiver<String>,
}

impl Watcher {
    pub(super) fn start(cluster: &Cluster, host: usize, more: &str) -> Result<Self> {
        let mut command = cluster.cli(host).command(&format!("watch {more}"))?;
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let (sender, lines) = channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { child, lines })
    }

    fn next(&self) -> Result<Value> {
        let line = self.lines.recv_timeout(SOON * 2).context("the watcher is told nothing")?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Reads on until an event has these words; gives what was read.
    pub(super) fn until(&self, words: &str) -> Result<Vec<Value>> {
        let mut read = Vec::new();
        loop {
            read.push(self.next().with_context(|| format!("waiting for {words:?} after {read:#?}"))?);
            if read.last().is_some_and(|event| event.to_string().contains(words)) {
                return Ok(read);
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Objects by what names them, as events make them.
#[derive(Debug, Default, PartialEq)]
struct Copy {
    objects: BTreeMap<String, Value>,
    index: u64,
}

impl Copy {
    fn take(&mut self, event: &Value) -> Result<()> {
        let event = event["event"].as_object().context("no event")?;
        let (kind, event) = event.iter().next().context("an empty event")?;
        let index = event["index"].as_u64().context("no index")?;
        ensure!(index >= self.index, "{index} after {}", self.index);
        ensure!(kind != "changes" || index > self.index, "{index} twice");
        self.index = index;
        for object in event["objects"].as_array().into_iter().chain(event["put"].as_array()).flatten() {
            self.objects.insert(key_of(object)?, object.clone());
        }
        for key in event["deleted"].as_array().into_iter().flatten() {
            let gone = format!("{}-{}-{}", key["kind"].as_str().unwrap_or_default(), key["id"], key["address"]);
            self.objects.remove(&gone);
        }
        Ok(())
    }
}

fn key_of(object: &Value) -> Result<String> {
    let (kind, fields) = object["object"].as_object().and_then(|o| o.iter().next()).context("no object")?;
    let text = |name: &str| if fields[name].is_null() { "0".into() } else { fields[name].to_string() };
    Ok(match kind.as_str() {
        "lease" => format!("lease-0-{}", fields["address"]),
        _ => format!("{kind}-{}-\"\"", text("id")),
    })
}

#[test]
fn a_watcher_sees_every_change_on_whichever_node() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create web")?;
        let watcher = Watcher::start(cluster, 1, "")?;
        let mut copy = Copy::default();
        for event in watcher.until("\"last\":true")? {
            copy.take(&event)?;
        }
        ensure!(copy.objects.keys().any(|key| key.starts_with("network-")), "{copy:?}");
        let begun = copy.index;
        let (_c1, _) = cluster.attached(0, "c1", "web")?;
        cluster.cli(2).run("network create gone")?;
        cluster.cli(2).run("network rm gone")?;
        cluster.cli(0).run("detach --name c1")?;
        cluster.cli(0).run("network create end")?;
        for event in watcher.until("\"end\"")? {
            copy.take(&event)?;
        }

        // What another node sends to one that goes on from there comes to the same.
        let mut resumed = Copy::default();
        let again = Watcher::start(cluster, 2, "")?;
        for event in again.until("\"last\":true")? {
            resumed.take(&event)?;
        }
        ensure!(resumed.objects == copy.objects, "{:#?} and {:#?}", resumed.objects, copy.objects);
        let part = Watcher::start(cluster, 0, &format!("--from {begun}"))?;
        let told: Vec<Value> = part.until("\"end\"")?;
        let text = Value::from(told).to_string();
        for words in ["\"c1\"", "\"gone\"", "deleted"] {
            ensure!(text.contains(words), "no {words} in {text}");
        }
        ensure!(!text.contains("snapshot"), "what there was is sent again: {text}");
        Ok(())
    })
}

#[test]
fn a_watcher_is_told_what_it_asked_for_only() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create web")?;
        let watcher = Watcher::start(cluster, 0, "--network web --kind endpoint --kind network")?;
        watcher.until("\"last\":true")?;
        cluster.cli(0).run("network create other")?;
        let (_c1, _) = cluster.attached(1, "c1", "other")?;
        let (_c2, _) = cluster.attached(1, "c2", "web")?;
        let told = Value::from(watcher.until("\"active\"")?).to_string();
        ensure!(told.contains("\"c2\"") && !told.contains("\"c1\"") && !told.contains("lease"), "{told}");
        Ok(())
    })
}

#[test]
fn what_cannot_be_watched_is_refused() -> Result<()> {
    run(|cluster| {
        let cli = cluster.cli(0);
        cli.refuses("watch --network nowhere", "NETWORK_NOT_FOUND", &["nowhere", "network ls"])?;
        cli.refuses("watch --from 999999", "INDEX_OF_FUTURE", &["999999", "begin with 0"])?;
        // A daemon that has started knows no change from before.
        cluster.daemon(0).kill9()?;
        cluster.daemon(0).up()?;
        wait_for("the daemon to know its log again", SOON, || cluster.cli(0).run("network create web"))?;
        cluster.cli(0).refuses("watch --from 1", "INDEX_COMPACTED", &["after index 1", "begin anew"])?;
        Ok(())
    })
}

/// One that never reads costs nothing and is in nobody's way; one whose daemon stops is told so.
#[test]
fn a_watcher_that_does_not_read_is_in_nobodys_way() -> Result<()> {
    run(|cluster| {
        let mut command = cluster.cli(0).command("watch")?;
        let idle = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        for number in 0..20 {
            cluster.cli(0).run(&format!("network create n{number}"))?;
        }
        let watcher = Watcher::start(cluster, 0, "--kind network")?;
        watcher.until("\"n19\"")?;
        let begin = Instant::now();
        cluster.daemon(0).term()?;
        // The daemon waits for other requests for as long as this.
        ensure!(begin.elapsed() < Duration::from_secs(4), "the watcher has kept the daemon for {:?}", begin.elapsed());
        let output = idle.wait_with_output()?;
        ensure!(output.status.code() == Some(1), "{}", output.status);
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(told.contains("SHUTTING_DOWN") && told.contains("go on"), "{told}");
        Ok(())
    })
}
