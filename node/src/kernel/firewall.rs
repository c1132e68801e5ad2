//! Our nftables table, and our rules in Docker's chain, through `nft -j`.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use ipnet::IpNet;
use pontoon_store::model::object::Family;
use serde_json::{Value, json};
use tracing::info;

use super::error::KernelError;
use crate::plan::doctor::Chain;
use crate::plan::object::Firewall;

/// Where the VNI is, in bits behind the beginning of the UDP header: 64 of the UDP header, 8 flags and 24
/// reserved bits (RFC 7348, section 5); 24 bits long.
const VNI_OFFSET: u32 = 96;

/// Runs nft with a document on its standard input. None: what was asked for is not there.
fn nft(operation: &str, arguments: &[&str], input: Option<&Value>) -> Result<Option<Value>, KernelError> {
    let mut command = Command::new("nft");
    command.args(arguments).env("LC_ALL", "C").stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().map_err(KernelError::NoNft)?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // nft that ends before it has read everything says why on its standard error.
        match stdin.write_all(input.to_string().as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(KernelError::NoNft(error)),
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(KernelError::NoNft)?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(Some(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)));
    }
    if stderr.contains("No such file or directory") {
        return Ok(None);
    }
    let stderr = stderr.lines().take(3).collect::<Vec<_>>().join(" ");
    Err(KernelError::Nft { operation: operation.to_owned(), stderr })
}

fn run(operation: &str, commands: Vec<Value>) -> Result<(), KernelError> {
    match nft(operation, &["-j", "-f", "-"], Some(&json!({ "nftables": commands })))? {
        Some(_) => Ok(()),
        None => Err(KernelError::Nft {
            operation: operation.to_owned(),
            stderr: "No such file or directory: something it names is not there, or this kernel lacks a module for it"
                .to_owned(),
        }),
    }
}

fn matches(op: &str, left: Value, right: Value) -> Value {
    json!({ "match": { "op": op, "left": left, "right": right } })
}

fn meta(key: &str, op: &str, right: &str) -> Value {
    matches(op, json!({ "meta": { "key": key } }), json!(right))
}

fn address(family: Family, field: &str) -> Value {
    let protocol = if family == Family::V4 { "ip" } else { "ip6" };
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn set(table: &str, name: &str, kind: &str, elements: Vec<String>) -> Value {
    let mut set = json!({ "family": "inet", "name": name, "table": table, "type": kind });
    if !elements.is_empty() {
        set["elem"] = json!(elements);
    }
    json!({ "set": set })
}

fn chain(table: &str, name: &str, kind: &str, hook: &str, priority: i32) -> Value {
    json!({ "chain": {
        "family": "inet", "table": table, "name": name, "type": kind, "hook": hook, "prio": priority, "policy": "accept"
    } })
}

fn rule(table: &str, chain: &str, expressions: Vec<Value>) -> Value {
    json!({ "rule": { "family": "inet", "table": table, "chain": chain, "expr": expressions } })
}

/// The table as nft lists it. In nft's own language:
///
/// ```text
/// table inet pontoon {
///     set members4 { type ipv4_addr; elements = { … } }      # VTEPs of the members; members6 likewise
///     set opened4 { type ifname; elements = { … } }          # whose forwarding we switched on; opened6 likewise
///     chain vtep {    type filter hook prerouting priority raw; policy accept;
///         udp dport PORT @th,96,24 { VNIS } ip saddr != @members4 drop         # likewise ip6
///         udp dport PORT @th,96,24 { VNIS } notrack
///     }
///     chain vtep_out { type filter hook output priority raw; policy accept;
///         udp dport PORT @th,96,24 { VNIS } ip daddr @members4 notrack         # likewise ip6
///     }
///     chain forward { type filter hook forward priority filter; policy accept;
///         iifname GW oifname GW drop                                           # these four with a SUBNET only
///         iifname GW accept
///         oifname GW ct state established,related accept
///         oifname GW drop
///         meta nfproto ipv4 iifname @opened4 ct state invalid,new,untracked drop       # likewise ipv6
///     }
///     chain nat {     type nat hook postrouting priority srcnat; policy accept;
///         ip saddr SUBNET oifname != GW masquerade                             # for each subnet
///     }
/// }
/// ```
fn render(table: &str, firewall: &Firewall) -> Vec<Value> {
    let families = [(Family::V4, "4", "ipv4_addr", "ipv4"), (Family::V6, "6", "ipv6_addr", "ipv6")];
    let mut objects = vec![json!({ "table": { "family": "inet", "name": table } })];
    for (family, suffix, kind, _) in families {
        let members = firewall.members.iter().filter(|a| Family::of(**a) == family).map(IpAddr::to_string);
        objects.push(set(table, &format!("members{suffix}"), kind, members.collect()));
        let opened = firewall.opened.iter().filter(|(f, _)| *f == family).map(|(_, name)| name.clone());
        objects.push(set(table, &format!("opened{suffix}"), "ifname", opened.collect()));
    }
    // Priorities: raw (before connection tracking), filter, srcnat.
    objects.push(chain(table, "vtep", "filter", "prerouting", -300));
    objects.push(chain(table, "vtep_out", "filter", "output", -300));
    objects.push(chain(table, "forward", "filter", "forward", 0));
    objects.push(chain(table, "nat", "nat", "postrouting", 100));

    objects.extend(vtep_rules(table, firewall));
    let gateway = firewall.gateway.as_str();
    let state = |states: &[&str]| matches("in", json!({ "ct": { "key": "state" } }), json!(states));
    let (accept, drop) = (json!({ "accept": null }), json!({ "drop": null }));
    if !firewall.egress.is_empty() {
        let (from, to) = (meta("iifname", "==", gateway), meta("oifname", "==", gateway));
        objects.push(rule(table, "forward", vec![from.clone(), to.clone(), drop.clone()]));
        objects.push(rule(table, "forward", vec![from, accept.clone()]));
        objects.push(rule(table, "forward", vec![to.clone(), state(&["established", "related"]), accept]));
        objects.push(rule(table, "forward", vec![to, drop.clone()]));
    }
    for (_, suffix, _, protocol) in families {
        let opened = meta("iifname", "==", &format!("@opened{suffix}"));
        objects.push(rule(
            table,
            "forward",
            vec![meta("nfproto", "==", protocol), opened, state(&["invalid", "new", "untracked"]), drop.clone()],
        ));
    }
    for subnet in &firewall.egress {
        let prefix = json!({ "prefix": { "addr": subnet.network().to_string(), "len": subnet.prefix_len() } });
        objects.push(rule(
            table,
            "nat",
            vec![
                matches("==", address(Family::of(subnet.addr()), "saddr"), prefix),
                meta("oifname", "!=", gateway),
                json!({ "masquerade": null }),
            ],
        ));
    }
    objects
}

/// The rules for VXLAN packets of our VNIs. Those from and to members need no connection tracking: there is one "connection"
/// for each of the sender's ports, no answer ever comes back to one, and each packet would pay for looking it up.
fn vtep_rules(table: &str, firewall: &Firewall) -> Vec<Value> {
    let vnis: Vec<u32> = firewall.vnis.iter().copied().collect();
    let vnis = match *vnis.as_slice() {
        [] => return Vec::new(),
        [one] => json!(one),
        _ => json!({ "set": vnis }),
    };
    let dport = json!({ "payload": { "protocol": "udp", "field": "dport" } });
    let vni = json!({ "payload": { "base": "th", "offset": VNI_OFFSET, "len": 24 } });
    let ours = |chain: &str, rest: Vec<Value>| {
        let of_ours =
            [matches("==", dport.clone(), json!(firewall.vxlan_port)), matches("==", vni.clone(), vnis.clone())];
        rule(table, chain, of_ours.into_iter().chain(rest).collect())
    };
    let members = |op: &str, family: Family, field: &str| {
        let set = if family == Family::V4 { "@members4" } else { "@members6" };
        matches(op, address(family, field), json!(set))
    };
    let (drop, notrack) = (json!({ "drop": null }), json!({ "notrack": null }));
    let stranger = |family| ours("vtep", vec![members("!=", family, "saddr"), drop.clone()]);
    let to_member = |family| ours("vtep_out", vec![members("==", family, "daddr"), notrack.clone()]);
    let from_member = ours("vtep", vec![notrack.clone()]);
    vec![stranger(Family::V4), stranger(Family::V6), from_member, to_member(Family::V4), to_member(Family::V6)]
}

/// Brings what nft lists, or what is to be given to it, into one form: without handles, sets sorted.
fn normal(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let entries = map.iter().filter(|(key, _)| *key != "handle");
            let entries = entries.map(|(key, value)| {
                let mut value = normal(value);
                if let (true, Value::Array(items)) = (matches!(key.as_str(), "elem" | "set" | "right"), &mut value) {
                    items.sort_by_key(Value::to_string);
                }
                (key.clone(), value)
            });
            Value::Object(entries.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(normal).collect()),
        other => other.clone(),
    }
}

/// The table's objects in one form: all but rules sorted, then the rules in their order, chain by chain.
fn normal_table(objects: &[Value]) -> Vec<Value> {
    let mut objects: Vec<Value> = objects.iter().filter(|o| o.get("metainfo").is_none()).map(normal).collect();
    objects.sort_by_key(|object| match object.get("rule") {
        Some(rule) => (1, rule["chain"].to_string()),
        None => (0, object.to_string()),
    });
    objects
}

/// The table in the kernel, and what this process knows of how nft shows what it has written.
pub(super) struct Table {
    name: String,
    /// What was written last, and how nft listed it: another version of nft may show a rule in other words.
    written: Option<(Firewall, Vec<Value>)>,
    /// A table that it has listed in the words that it was written in.
    plain: Option<Firewall>,
}

impl Table {
    pub(super) fn new(name: String) -> Self {
        Self { name, written: None, plain: None }
    }

    /// The table's objects in one form: `nft -j -s list table inet NAME`. None: there is no such table.
    pub(super) fn list(&self) -> Result<Option<Vec<Value>>, KernelError> {
        let arguments = ["-j", "-s", "list", "table", "inet", &self.name];
        let Some(answer) = nft("list our table", &arguments, None)? else { return Ok(None) };
        Ok(answer["nftables"].as_array().map(|objects| normal_table(objects)))
    }

    /// The table as it was listed: `wanted`, or what differs from it.
    pub(super) fn compare(&mut self, listed: &[Value], wanted: Option<&Firewall>) -> Firewall {
        if let Some(wanted) = wanted {
            let written = self.written.as_ref().filter(|(written, _)| written == wanted);
            let same = normal_table(&render(&self.name, wanted)) == listed;
            if same || written.is_some_and(|(_, shown)| shown == listed) {
                return wanted.clone();
            }
            if written.is_some() {
                // Or nft shows this one in other words: it is asked for them when it has written it again.
                self.plain = None;
            }
        }
        let rules = listed.iter().filter(|o| o.get("rule").is_some()).count();
        let elements = |set: &str| elements(listed, set).len();
        let text = format!(
            "{rules} rules, {} members, {} opened interfaces",
            elements("members4") + elements("members6"),
            elements("opened4") + elements("opened6")
        );
        Firewall {
            vxlan_port: 0,
            vnis: BTreeSet::new(),
            members: BTreeSet::new(),
            gateway: String::new(),
            egress: BTreeSet::<IpNet>::new(),
            opened: BTreeSet::new(),
            altered: Some(text),
        }
    }

    /// Puts the table into place of the one that is there, in one transaction: `nft -j -f -`. Tells how nft lists it. It is
    /// not asked when it has listed one as it was written that has other networks only.
    pub(super) fn write(&mut self, firewall: &Firewall) -> Result<Option<Vec<Value>>, KernelError> {
        let table = json!({ "table": { "family": "inet", "name": self.name } });
        let rendered = render(&self.name, firewall);
        let as_written = normal_table(&rendered);
        let mut commands = vec![json!({ "add": table }), json!({ "delete": table })];
        commands.extend(rendered.into_iter().map(|object| json!({ "add": object })));
        let before = self.written.take();
        run("write our table", commands)?;
        let is_alike = |plain: &Firewall| {
            // One network, or several, is written in other words.
            let words = |firewall: &Firewall| firewall.vnis.len().min(2);
            plain.differs_in_networks_only(firewall) && words(plain) == words(firewall)
        };
        if self.plain.as_ref().is_some_and(is_alike) {
            self.written = Some((firewall.clone(), as_written.clone()));
            return Ok(Some(as_written));
        }
        let Some(listed) = self.list()? else { return Ok(None) };
        self.plain = (listed == as_written).then(|| firewall.clone());
        if before.is_none() && self.plain.is_none() {
            info!(table = self.name, "nft shows our table in other words than it was written in: taken as it is shown");
        }
        self.written = Some((firewall.clone(), listed.clone()));
        Ok(Some(listed))
    }

    /// Forgets how nft lists what was written: somebody else may have changed it before it was listed.
    pub(super) fn forget(&mut self) {
        self.written = None;
    }

    /// `nft delete table inet NAME`
    pub(super) fn remove(&mut self) -> Result<(), KernelError> {
        self.written = None;
        let table = json!({ "table": { "family": "inet", "name": self.name } });
        run("delete our table", vec![json!({ "add": table }), json!({ "delete": table })])
    }
}

/// The interfaces that the table records as opened by us.
pub(super) fn opened(listed: &[Value]) -> BTreeSet<(Family, String)> {
    let of = |family, set| elements(listed, set).into_iter().map(move |name| (family, name));
    of(Family::V4, "opened4").chain(of(Family::V6, "opened6")).collect()
}

fn elements(listed: &[Value], set: &str) -> Vec<String> {
    let found = listed.iter().filter_map(|o| o.get("set")).find(|s| s["name"] == set);
    let elements = found.and_then(|s| s["elem"].as_array()).into_iter().flatten();
    elements.filter_map(|e| e.as_str().map(str::to_owned)).collect()
}

/// Our rules in Docker's chain for rules of others. `None` when Docker has no such chain.
pub(super) fn docker_rules(mark: &str) -> Result<Option<Vec<Value>>, KernelError> {
    let arguments = ["-j", "list", "chain", "ip", "filter", "DOCKER-USER"];
    let Some(answer) = nft("list Docker's chain", &arguments, None)? else { return Ok(None) };
    let objects = answer["nftables"].as_array().into_iter().flatten();
    let rules = objects.filter_map(|o| o.get("rule")).filter(|r| r["comment"] == mark);
    Ok(Some(rules.cloned().collect()))
}

fn wanted_docker_rules(gateway: &str) -> [Vec<Value>; 2] {
    ["iifname", "oifname"].map(|key| vec![meta(key, "==", gateway), json!({ "accept": null })])
}

/// What the rules say.
pub(super) fn expressions(rules: &[Value]) -> Vec<Value> {
    rules.iter().map(|rule| normal(&rule["expr"])).collect()
}

/// Whether exactly our rules are there: as we would write them, or as nft showed them after we had.
pub(super) fn docker_rules_complete(rules: &[Value], gateway: &str, shown: Option<&[Value]>) -> bool {
    if shown.is_some_and(|shown| expressions(rules) == shown) {
        return true;
    }
    let wanted = wanted_docker_rules(gateway);
    let is = |rule: &Value, wanted: &[Value]| normal(&rule["expr"]) == Value::Array(wanted.to_vec());
    rules.len() == wanted.len() && wanted.iter().all(|w| rules.iter().any(|r| is(r, w)))
}

/// Puts our rules at the beginning of Docker's chain, in place of those of ours that are there:
/// `nft insert rule ip filter DOCKER-USER iifname GW accept comment MARK`, and the same with `oifname`. What may come to
/// the gateway bridge, our own table says: an accept here ends only Docker's chain.
pub(super) fn write_docker_rules(mark: &str, gateway: Option<&str>) -> Result<(), KernelError> {
    let Some(old) = docker_rules(mark)? else { return Ok(()) };
    let at = |extra: Value| {
        let mut rule = json!({ "family": "ip", "table": "filter", "chain": "DOCKER-USER" });
        if let (Some(rule), Value::Object(extra)) = (rule.as_object_mut(), extra) {
            rule.extend(extra);
        }
        json!({ "rule": rule })
    };
    let mut commands: Vec<Value> =
        old.iter().map(|rule| json!({ "delete": at(json!({ "handle": rule["handle"] })) })).collect();
    for expressions in gateway.map(wanted_docker_rules).into_iter().flatten() {
        commands.push(json!({ "insert": at(json!({ "expr": expressions, "comment": mark })) }));
    }
    if commands.is_empty() { Ok(()) } else { run("write our rules in DOCKER-USER", commands) }
}

/// Chains of others that forwarded IPv4 packets pass and whose policy is to drop them, and which of these gateway bridges
/// rules of their tables name: `nft -j list chains`, and `nft -j list table …` for each.
pub(super) fn closed_chains(own: &str, gateways: &[&str]) -> Result<Vec<Chain>, KernelError> {
    let Some(answer) = nft("list chains", &["-j", "list", "chains"], None)? else { return Ok(Vec::new()) };
    let objects = answer["nftables"].as_array().into_iter().flatten();
    let mut found = Vec::new();
    for chain in objects.filter_map(|object| object.get("chain")) {
        let [family, table, name] = ["family", "table", "name"].map(|key| chain[key].as_str().unwrap_or_default());
        let closed = chain["hook"] == "forward" && chain["policy"] == "drop" && ["ip", "inet"].contains(&family);
        if !closed || table == own {
            continue;
        }
        // One that is gone by now drops nothing, and what cannot be shown (rules of iptables that nft has no words for)
        // cannot be judged.
        let Ok(Some(rules)) = nft("list a table", &["-j", "list", "table", family, table], None) else { continue };
        let rules = rules.to_string();
        let named = gateways.iter().filter(|gateway| rules.contains(&format!("\"{gateway}\"")));
        found.push(Chain {
            name: format!("{family} {table} {name}"),
            gateways: named.map(|gateway| (*gateway).to_owned()).collect(),
        });
    }
    Ok(found)
}
