//! Somebody deletes something of ours by hand: it is back, and was counted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, Netns, OUTSIDE};
use pontoon_tests::wait_for;
use serde_json::Value;

use super::environment::{Environment, Field};

/// What is promised is a second after the kernel's event, or 30 s for what the kernel does not tell.
pub(super) const REPAIR: Duration = Duration::from_secs(32);

/// Breaks something on the first host, and waits until everything works again and the repair was counted.
fn drift(environment: Environment, what: &str, break_it: impl FnOnce(&Cluster, &Field) -> Result<()>) -> Result<()> {
    environment.run(|cluster, field| {
        let before = repairs(cluster)?;
        break_it(cluster, field)?;
        wait_for(&format!("the repair of {what}"), REPAIR, || {
            let after = repairs(cluster)?;
            ensure!(after > before, "{after} repairs are counted, as before");
            field.members[0].container.netns.reaches(OUTSIDE.into(), 3)?;
            for (from, to) in field.pairs() {
                to.addresses().try_for_each(|address| from.container.netns.reaches(address, 3))?;
            }
            Ok(())
        })
    })
}

/// Repairs that the first host has counted.
fn repairs(cluster: &Cluster) -> Result<u64> {
    let status = cluster.status(0)?;
    let drift = status["data_plane"]["drift"].as_object().context("no data_plane.drift")?;
    Ok(drift.values().filter_map(Value::as_u64).sum())
}

/// Names of the interfaces of a kind.
fn links(netns: &Netns, kind: &str) -> Result<Vec<String>> {
    let text = netns.run("ip", &["-json", "link", "show", "type", kind])?;
    let links: Value = serde_json::from_str(&text).with_context(|| format!("ip printed {text:?}"))?;
    let links = links.as_array().context("ip printed no list")?;
    Ok(links.iter().filter_map(|link| Some(link["ifname"].as_str()?.to_owned())).collect())
}

/// The only VXLAN device of the first host.
pub(super) fn vxlan(cluster: &Cluster) -> Result<String> {
    links(cluster.overlay(0), "vxlan")?.pop().context("there is no VXLAN device")
}

#[test]
fn a_forwarding_entry() -> Result<()> {
    drift(Environment::Plain, "a forwarding entry", |cluster, field| {
        let (device, mac) = (vxlan(cluster)?, &field.members[1].attached[0].mac);
        let arguments = ["fdb", "del", mac, "dev", &device, "dst", &cluster.advertise(1)];
        cluster.overlay(0).run("bridge", &arguments).map(drop)
    })
}

#[test]
fn a_forwarding_entry_that_points_elsewhere() -> Result<()> {
    drift(Environment::Plain, "a forwarding entry", |cluster, field| {
        let (device, mac) = (vxlan(cluster)?, &field.members[1].attached[0].mac);
        let arguments = ["fdb", "replace", mac, "dev", &device, "dst", "192.168.140.77", "self", "permanent"];
        cluster.overlay(0).run("bridge", &arguments).map(drop)
    })
}

#[test]
fn a_neighbour() -> Result<()> {
    drift(Environment::Plain, "a neighbour", |cluster, field| {
        let address = field.members[1].attached[0].addresses[0];
        // A container that has asked before would not ask again for a while.
        field.members[0].container.netns.ip("neigh flush all")?;
        cluster.overlay(0).ip(&format!("neigh del {address} dev {}", vxlan(cluster)?))
    })
}

#[test]
fn an_ipv6_neighbour() -> Result<()> {
    drift(Environment::Ipv6Overlay, "an IPv6 neighbour", |cluster, field| {
        let address = field.members[1].addresses().find(std::net::IpAddr::is_ipv6).context("no IPv6 address")?;
        field.members[0].container.netns.ip("-6 neigh flush all")?;
        cluster.overlay(0).ip(&format!("neigh del {address} dev {}", vxlan(cluster)?))
    })
}

#[test]
fn the_vxlan_device() -> Result<()> {
    drift(Environment::Plain, "the VXLAN device", |cluster, _| {
        cluster.overlay(0).ip(&format!("link del {}", vxlan(cluster)?))
    })
}

#[test]
fn the_vxlan_device_set_down() -> Result<()> {
    drift(Environment::Plain, "the VXLAN device's state", |cluster, _| {
        cluster.overlay(0).ip(&format!("link set {} down", vxlan(cluster)?))
    })
}

#[test]
fn the_overlay_bridge() -> Result<()> {
    drift(Environment::Plain, "the overlay bridge", |cluster, _| {
        let bridge = links(cluster.overlay(0), "bridge")?.pop().context("there is no bridge")?;
        cluster.overlay(0).ip(&format!("link del {bridge}"))
    })
}

#[test]
fn the_gateway_bridge() -> Result<()> {
    drift(Environment::Plain, "the gateway bridge", |cluster, _| {
        let host = &cluster.hosts()[0].netns;
        let bridge = links(host, "bridge")?.pop().context("there is no bridge")?;
        host.ip(&format!("link del {bridge}"))
    })
}

#[test]
fn a_containers_interface() -> Result<()> {
    drift(Environment::Plain, "eth0", |_, field| field.members[0].container.netns.ip("link del eth0"))
}

#[test]
fn a_containers_address() -> Result<()> {
    drift(Environment::Plain, "eth0's address", |_, field| field.members[0].container.netns.ip("addr flush dev eth0"))
}

#[test]
fn a_containers_default_route() -> Result<()> {
    drift(Environment::Plain, "the default route", |_, field| field.members[0].container.netns.ip("route del default"))
}

#[test]
fn the_firewall_rules() -> Result<()> {
    drift(Environment::Plain, "the nftables table", |cluster, _| {
        let host = &cluster.hosts()[0].netns;
        let before = host.run("nft", &["list", "ruleset"])?;
        ensure!(!before.is_empty(), "there are no rules");
        host.run("nft", &["flush", "ruleset"])?;
        wait_for("the rules", REPAIR, || {
            let now = host.run("nft", &["list", "ruleset"])?;
            ensure!(without_counters(&now) == without_counters(&before), "before: {before}\nnow: {now}");
            Ok(())
        })
    })
}

fn without_counters(rules: &str) -> String {
    let words = rules.split_whitespace().filter(|word| word.parse::<u64>().is_err());
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_whole_namespace() -> Result<()> {
    drift(Environment::Plain, "the overlay namespace", |cluster, _| cluster.overlay(0).remove())
}

#[test]
fn the_whole_namespace_with_two_networks_on_one_container() -> Result<()> {
    drift(Environment::TwoNetworks, "the overlay namespace", |cluster, _| cluster.overlay(0).remove())
}

/// A host that somebody else changes: what does not carry our mark is not touched.
#[test]
fn what_is_not_ours_stays() -> Result<()> {
    Environment::Plain.run(|cluster, field| {
        let host = &cluster.hosts()[0].netns;
        host.ip("link add foreign type bridge")?;
        host.ip("addr add 198.51.100.1/24 dev foreign")?;
        host.run("nft", &["add", "table", "inet", "foreign"])?;
        let overlay = cluster.overlay(0);
        overlay.ip("link add foreign type bridge")?;
        // A repair is a whole pass over everything.
        let before = repairs(cluster)?;
        overlay.ip(&format!("link del {}", vxlan(cluster)?))?;
        wait_for("the repair", REPAIR, || {
            ensure!(repairs(cluster)? > before, "not counted yet");
            field.members[0].container.netns.reaches(field.members[1].attached[0].addresses[0], 3)
        })?;
        host.ip("addr show dev foreign")?;
        ensure!(host.run("ip", &["addr", "show", "dev", "foreign"])?.contains("198.51.100.1/24"), "address gone");
        ensure!(host.run("nft", &["list", "tables"])?.contains("inet foreign"), "table gone");
        overlay.ip("link show dev foreign")
    })
}
