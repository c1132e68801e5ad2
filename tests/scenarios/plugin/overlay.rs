//! What an engine does with a network and with its containers, and what is left of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, DaemonOptions, LAN_INTERFACE, Netns, Options, Plugin, run_with};
use pontoon_tests::wait_for;
use serde_json::{Value, json};

/// How long the cluster may take until something is known everywhere.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// Daemons whose plugin sockets are open.
pub(super) fn with_plugins(hosts: usize, scenario: impl FnOnce(&mut Cluster, &Plugin) -> Result<()>) -> Result<()> {
    let daemon = DaemonOptions { plugin: true, ..DaemonOptions::default() };
    run_with(Options { hosts, daemon, ..Options::default() }, |cluster| {
        cluster.form()?;
        let plugin = cluster.daemon(0).plugin();
        scenario(cluster, &plugin)?;
        ensure!(cluster.daemon(0).pid().is_some(), "the daemon is gone");
        cluster.status(0).map(drop)
    })
}

/// A network as the engine of the first host has it.
#[derive(Debug, Clone)]
pub(super) struct Overlay {
    /// The cluster's id.
    pub(super) id: String,
    /// The engine's id.
    pub(super) engine_id: String,
    /// Its prefix, a /24.
    pub(super) subnet: String,
}

/// Makes a network, and lets the engine of the first host have it, as the loop beside a real engine would.
pub(super) fn overlay(cluster: &Cluster, plugin: &Plugin, name: &str, subnet: &str) -> Result<Overlay> {
    let made = cluster.cli(0).run(&format!("network create {name} --subnet {subnet}"))?;
    let id = made["network"]["id"].to_string().trim_matches('"').to_owned();
    let option = json!({ "pontoon.network": id });
    let pool = json!({ "AddressSpace": "pontoon", "Pool": subnet, "SubPool": "", "Options": option, "V6": false });
    let answer = plugin.ask("IpamDriver.RequestPool", &pool)?;
    ensure!(answer == json!({ "PoolID": subnet, "Pool": subnet, "Data": {} }), "{answer}");
    let network = Overlay { id, engine_id: format!("{name:0<64}"), subnet: subnet.to_owned() };
    plugin.ask("NetworkDriver.CreateNetwork", &network.create(&json!({ "pontoon.network": network.id })))?;
    Ok(network)
}

impl Overlay {
    /// `CreateNetwork` with `-o` options.
    pub(super) fn create(&self, options: &Value) -> Value {
        let gateway = format!("{}/24", gateway(&self.subnet));
        let data = json!({ "AddressSpace": "pontoon", "Pool": self.subnet, "Gateway": gateway, "AuxAddresses": null });
        json!({
            "NetworkID": self.engine_id,
            "Options": { "com.docker.network.enable_ipv6": false, "com.docker.network.generic": options },
            "IPv4Data": [data],
            "IPv6Data": [],
        })
    }

    pub(super) fn address(&self, address: &str) -> Value {
        json!({ "PoolID": self.subnet, "Address": address, "Options": {} })
    }

    pub(super) fn create_endpoint(&self, endpoint: &str, address: &str) -> Value {
        let interface = json!({ "Address": address, "AddressIPv6": "", "MacAddress": "" });
        json!({ "NetworkID": self.engine_id, "EndpointID": endpoint, "Interface": interface, "Options": {} })
    }

    pub(super) fn of_endpoint(&self, endpoint: &str) -> Value {
        json!({ "NetworkID": self.engine_id, "EndpointID": endpoint })
    }

    /// What an engine does when a container starts. Returns its address, with a prefix length.
    pub(super) fn start(&self, plugin: &Plugin, endpoint: &str) -> Result<String> {
        let answer = plugin.ask("IpamDriver.RequestAddress", &self.address(""))?;
        let address = answer["Address"].as_str().context("no address")?.to_owned();
        plugin.ask("NetworkDriver.CreateEndpoint", &self.create_endpoint(endpoint, &address))?;
        plugin.ask("NetworkDriver.Join", &self.of_endpoint(endpoint))?;
        Ok(address)
    }

    /// What it does when the container ends.
    pub(super) fn stop(&self, plugin: &Plugin, endpoint: &str, address: &str) -> Result<()> {
        let (address, _) = address.split_once('/').context("no prefix length")?;
        for method in ["NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint"] {
            plugin.ask(method, &self.of_endpoint(endpoint))?;
        }
        plugin.ask("IpamDriver.ReleaseAddress", &self.address(address)).map(drop)
    }
}

fn gateway(subnet: &str) -> String {
    subnet.replace(".0/24", ".1")
}

/// Addresses that somebody has, or that are held for somebody, with their states.
pub(super) fn in_use(cluster: &Cluster) -> Result<Vec<String>> {
    let mut used = Vec::new();
    for state in ["pending", "active"] {
        let answer = cluster.cli(0).run(&format!("lease ls --state {state}"))?;
        let leases = answer["leases"].as_array().context("no leases")?;
        used.extend(leases.iter().map(|view| format!("{state} {}", view["lease"]["address"])));
    }
    Ok(used)
}

/// Names of the links of a namespace, besides those that it has without containers.
pub(super) fn links(netns: &Netns) -> Result<Vec<String>> {
    let shown = netns.run("ip", &["-json", "link", "show"])?;
    let links: Value = serde_json::from_str(&shown).with_context(|| format!("ip printed {shown:?}"))?;
    let names = links.as_array().context("no list")?.iter().filter_map(|link| link["ifname"].as_str());
    Ok(names.filter(|name| !["lo", LAN_INTERFACE].contains(name)).map(str::to_owned).collect())
}

/// Nobody has an address, and no interface is left on the first host.
pub(super) fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    let used = in_use(cluster)?;
    ensure!(used.is_empty(), "there are leases left: {used:?}");
    wait_for("the interfaces to be gone", SOON, || {
        let mut left = links(&cluster.hosts()[0].netns)?;
        if cluster.overlay(0).path().exists() {
            left.extend(links(cluster.overlay(0))?);
        }
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}
