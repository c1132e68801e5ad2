//! Calls as engines make them, mixed and spoilt at random.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Answer, Cluster, Plugin};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::overlay::{Overlay, nothing_is_left, overlay, with_plugins};

/// What engines of versions 20.10 and 26.1 have sent, in their order: for a network of their own and a container on it, for
/// one with both families, a range and a kept address, and for one of the cluster's.
const CORPUS: [&str; 3] = [
    include_str!("corpus/own.json"),
    include_str!("corpus/both_families.json"),
    include_str!("corpus/of_cluster.json"),
];
/// How many calls are made.
const CALLS: usize = 1000;
/// How often the engine gets the cluster's networks again, in calls: as often as the loop beside a real one would see to it.
const AGAIN: usize = 10;
/// How long they may take together: those that wait for a network's name take 4 s each.
const ENOUGH: Duration = Duration::from_secs(15);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// The cluster's networks, which the engine has.
const SUBNETS: [&str; 2] = ["10.44.0.0/24", "10.45.0.0/24"];
/// Ids of endpoints: few, so that calls meet.
const ENDPOINTS: [&str; 4] = ["0a5a0040c6bc0857", "77d1c4557753a68b", "fd64301ade282c0c", "6efd1727f27cdf90"];
/// What no field should be.
const STRANGE: [&str; 12] = [
    "",
    " ",
    "\0",
    "x/y",
    "10.44.0.2/33",
    "10.44.0.256",
    "::1/64",
    "0.0.0.0/0",
    "ff:ff:ff:ff:ff:ff",
    "\u{202e}",
    "-1",
    "18446744073709551616",
];

/// Who sends them.
struct Engine<'a> {
    plugin: &'a Plugin,
    random: StdRng,
    corpus: Vec<Value>,
    /// Networks of the cluster, as the engine has them.
    networks: Vec<Overlay>,
    /// Every id and prefix that was ever named, to clean up after them.
    network_ids: BTreeSet<String>,
    endpoint_ids: BTreeSet<String>,
    pools: BTreeSet<String>,
    /// Prefixes that were given for networks to be made.
    claims: Vec<String>,
    /// How many calls of each method were not refused.
    done: BTreeMap<String, usize>,
    /// Every call, shortened.
    made: Vec<String>,
}

impl<'a> Engine<'a> {
    fn new(cluster: &Cluster, plugin: &'a Plugin, seed: u64) -> Result<Self> {
        let mut corpus = Vec::new();
        for calls in CORPUS {
            let calls: Value = serde_json::from_str(calls)?;
            corpus.extend(calls.as_array().context("not a list of calls")?.clone());
        }
        let networks = [("web", SUBNETS[0]), ("db", SUBNETS[1])];
        let networks = networks.map(|(name, subnet)| overlay(cluster, plugin, name, subnet));
        Ok(Self {
            plugin,
            random: StdRng::seed_from_u64(seed),
            corpus,
            networks: networks.into_iter().collect::<Result<_>>()?,
            network_ids: BTreeSet::new(),
            endpoint_ids: BTreeSet::new(),
            pools: BTreeSet::new(),
            claims: Vec::new(),
            done: BTreeMap::new(),
            made: Vec::new(),
        })
    }

    /// Gives the engine the networks of the cluster again, if it has lost them.
    fn has_networks(&self) -> Result<()> {
        for network in &self.networks {
            let request = network.create(&json!({ "pontoon.network": network.id }));
            self.plugin.ask("NetworkDriver.CreateNetwork", &request)?;
        }
        Ok(())
    }

    /// Makes one call.
    fn call(&mut self) -> Result<()> {
        let call = self.corpus.choose(&mut self.random).context("no corpus")?.clone();
        let mut method = call["method"].as_str().context("no method")?.to_owned();
        let mut request = call["request"].clone();
        self.aim(&mut request);
        if self.random.random_bool(0.35) {
            for _ in 0..self.random.random_range(1..4) {
                self.spoil(&mut request);
            }
        }
        if self.random.random_bool(0.02) {
            method.push('x');
        }
        let mut body = request.to_string().into_bytes();
        if self.random.random_bool(0.1) {
            self.tear(&mut body);
        }
        self.note(&body);
        self.made.push(format!("{method} {}", String::from_utf8_lossy(&body).chars().take(300).collect::<String>()));
        let begin = Instant::now();
        let answer = self.plugin.post(&method, &body)?;
        let took = begin.elapsed();
        check(&method, &answer, took).with_context(|| format!("answered in {took:?}: {answer:?}"))?;
        if let Some(pool) = answer.body["PoolID"].as_str() {
            self.pools.insert(pool.to_owned());
            self.claims.extend((!SUBNETS.contains(&pool)).then(|| pool.to_owned()));
        }
        if answer.status == 200 && answer.error(&method).is_none() {
            *self.done.entry(method).or_insert(0) += 1;
        }
        if took > Duration::from_secs(3) {
            self.give_up_unnamed()?;
        }
        Ok(())
    }

    /// Puts the ids and prefixes that there are in the place of those of the corpus.
    fn aim(&mut self, request: &mut Value) {
        let mut network = self.networks[self.random.random_range(0..SUBNETS.len())].clone();
        if let Some(generic) = request.pointer_mut("/Options/com.docker.network.generic")
            && generic["pontoon.network"].is_null()
        {
            // One of the engine's own, on a prefix that it was given.
            network.engine_id = format!("{}1bdaa98387b2ac6", self.random.random_range(0..3));
            network.subnet = self.claims.pop().unwrap_or(network.subnet);
        }
        let other = self.random.random_bool(0.1);
        for field in ["/Options/pontoon.network", "/Options/com.docker.network.generic/pontoon.network"] {
            if let Some(id) = request.pointer_mut(field) {
                *id = json!(network.id);
            }
        }
        for (name, value) in request.as_object_mut().into_iter().flatten() {
            match name.as_str() {
                "NetworkID" if !other => *value = json!(network.engine_id),
                "EndpointID" => *value = json!(ENDPOINTS.choose(&mut self.random)),
                "PoolID" | "Pool" if !other && *value != "" => *value = json!(network.subnet),
                "Address" if *value != "" => *value = json!(self.address(&network)),
                "Interface" => {
                    let address = format!("{}/24", self.address(&network));
                    *value = json!({ "Address": address, "AddressIPv6": "", "MacAddress": "" });
                }
                "IPv4Data" if !other => {
                    value[0] = json!({ "AddressSpace": "pontoon", "Pool": network.subnet });
                }
                _ => {}
            }
        }
    }

    /// One of a few addresses.
    fn address(&mut self, network: &Overlay) -> String {
        network.subnet.replace(".0/24", &format!(".{}", self.random.random_range(0..9)))
    }

    /// Changes something in a request.
    fn spoil(&mut self, value: &mut Value) {
        let deeper = self.random.random_bool(0.8);
        match value {
            Value::Object(fields) if deeper && !fields.is_empty() => {
                let at = self.random.random_range(0..fields.len());
                let Some(name) = fields.keys().nth(at).cloned() else { return };
                match self.random.random_range(0..6) {
                    0 => drop(fields.remove(&name)),
                    1 => drop(fields.insert(format!("{name}x"), json!(null))),
                    _ => self.spoil(&mut fields[&name]),
                }
            }
            Value::Array(items) if deeper && !items.is_empty() => {
                let at = self.random.random_range(0..items.len());
                match self.random.random_range(0..3) {
                    0 => items.push(items[at].clone()),
                    _ => self.spoil(&mut items[at]),
                }
            }
            other => *other = self.strange(),
        }
    }

    fn strange(&mut self) -> Value {
        match self.random.random_range(0..10) {
            0 => json!(null),
            1 => json!(self.random.random::<i64>()),
            2 => json!(-1.5),
            3 => json!(true),
            4 => json!([{}]),
            5 => json!({ "a": { "b": [] } }),
            6 => json!("é".repeat(self.random.random_range(1..70_000))),
            _ => json!(STRANGE.choose(&mut self.random)),
        }
    }

    /// Cuts a body off, or changes bytes of it.
    fn tear(&mut self, body: &mut Vec<u8>) {
        if self.random.random_bool(0.5) {
            body.truncate(self.random.random_range(0..=body.len()));
        }
        for _ in 0..3 {
            if !body.is_empty() {
                let at = self.random.random_range(0..body.len());
                body[at] = self.random.random();
            }
        }
    }

    /// Remembers what a body names.
    fn note(&mut self, body: &[u8]) {
        let Ok(request) = serde_json::from_slice::<Value>(body) else { return };
        let text = |name: &str| request[name].as_str().map(str::to_owned);
        self.network_ids.extend(text("NetworkID"));
        self.endpoint_ids.extend(text("EndpointID"));
        self.pools.extend(text("Pool"));
    }

    /// Removes the networks that were made: nobody tells their names, and whoever asks for an address waits for that.
    fn give_up_unnamed(&mut self) -> Result<()> {
        for id in self.network_ids.iter().filter(|id| self.networks.iter().all(|known| known.engine_id != **id)) {
            self.plugin.ask("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": id }))?;
        }
        Ok(())
    }

    /// Ends and gives back all that there can be.
    fn clean_up(&mut self, cluster: &Cluster) -> Result<()> {
        for id in &self.endpoint_ids {
            self.plugin.ask("NetworkDriver.DeleteEndpoint", &json!({ "EndpointID": id }))?;
        }
        self.give_up_unnamed()?;
        for network in &self.networks {
            for last in 0..=255 {
                let address = network.subnet.replace(".0/24", &format!(".{last}"));
                self.plugin
                    .ask("IpamDriver.ReleaseAddress", &json!({ "PoolID": network.subnet, "Address": address }))?;
            }
        }
        for pool in &self.pools {
            // Some of them are none.
            self.plugin.call("IpamDriver.ReleasePool", &json!({ "PoolID": pool }))?;
        }
        nothing_is_left(cluster)?;
        for name in ["web", "db"] {
            cluster.cli(0).run(&format!("network rm {name}"))?;
        }
        // No network and no claim is left in the way.
        cluster.cli(0).run("network create all --subnet 10.0.0.0/8").map(drop)
    }
}

fn check(method: &str, answer: &Answer, took: Duration) -> Result<()> {
    ensure!(took < ANSWER, "it took too long");
    ensure!([200, 400, 404, 413].contains(&answer.status), "not a status that engines are told");
    let fields = answer.body.as_object().context("not an object")?;
    let error = answer.error(method).unwrap_or_default();
    ensure!(answer.status == 200 || !error.is_empty(), "it does not say why");
    ensure!(["Err", "Error"].iter().all(|name| !fields.contains_key(*name)) || !error.is_empty(), "in the wrong field");
    ensure!(error.len() < 8000, "it repeats the request");
    Ok(())
}

#[test]
fn random_calls_are_answered_and_leave_nothing() -> Result<()> {
    let seed = env::var("PONTOON_SEED").ok().map(|seed| seed.parse()).transpose()?;
    let seed = seed.unwrap_or_else(rand::random);
    with_plugins(1, |cluster, plugin| {
        let mut engine = Engine::new(cluster, plugin, seed)?;
        let begin = Instant::now();
        let mut result = Ok(());
        for number in 0..CALLS {
            if result.is_err() || begin.elapsed() > ENOUGH {
                break;
            }
            result = if number % AGAIN == 0 { engine.has_networks() } else { engine.call() };
        }
        let result = result.and_then(|()| engine.clean_up(cluster));
        println!("{} calls in {:?}; not refused: {:?}", engine.made.len(), begin.elapsed(), engine.done);
        let log = std::fs::read_to_string(cluster.daemon(0).log())?;
        ensure!(!log.contains("panicked at"), "the daemon panicked");
        let last = engine.made.iter().rev().take(5).collect::<Vec<_>>();
        result.with_context(|| format!("PONTOON_SEED={seed} makes the same calls again; the last: {last:#?}"))?;
        for method in ["CreateEndpoint", "Join", "Leave", "DeleteEndpoint"] {
            let done = engine.done.contains_key(&format!("NetworkDriver.{method}"));
            ensure!(done, "PONTOON_SEED={seed}: every {method} was refused, so this shows nothing");
        }
        Ok(())
    })
}
