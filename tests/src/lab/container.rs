//! Containers: network namespaces that are attached with `pontoon attach`.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Netns;

/// A container without an engine.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub netns: Netns,
    /// The host it is on.
    pub host: usize,
}

/// What an attachment gave a container.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Addresses on the overlay.
    pub addresses: Vec<IpAddr>,
    /// MAC on the overlay.
    pub mac: String,
    /// Interface on the overlay.
    pub ifname: String,
    /// Addresses on the host's gateway bridge.
    pub egress: Vec<IpAddr>,
}

impl Attached {
    /// Reads the answer of `pontoon attach`.
    ///
    /// # Errors
    ///
    /// Something is not in it.
    pub fn parse(answer: &Value) -> Result<Self> {
        let endpoint = &answer["endpoint"]["endpoint"];
        let text =
            |name: &str| endpoint[name].as_str().map(str::to_owned).with_context(|| format!("no {name}: {answer}"));
        Ok(Self {
            addresses: addresses(&endpoint["addresses"])?,
            mac: text("mac")?,
            ifname: text("ifname")?,
            egress: addresses(&answer["egress_addresses"])?,
        })
    }
}

/// A list of addresses, with or without prefix lengths.
fn addresses(list: &Value) -> Result<Vec<IpAddr>> {
    let list = list.as_array().with_context(|| format!("not a list of addresses: {list}"))?;
    let address = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        text.split('/').next().unwrap_or_default().parse().with_context(|| format!("not an address: {value}"))
    };
    list.iter().map(address).collect()
}

impl Container {
    /// The arguments that attach it.
    pub fn attach_line(&self, network: &str, more: &str) -> String {
        let netns = self.netns.path();
        format!("attach --network {network} --netns {} --name {} {more}", netns.display(), self.name)
    }

    /// What `ip -json addr` shows of an interface; `None` without such an interface.
    ///
    /// # Errors
    ///
    /// The namespace is gone, or `ip` printed no JSON.
    pub fn interface(&self, name: &str) -> Result<Option<Value>> {
        let text = self.netns.run("ip", &["-json", "addr", "show"])?;
        let links: Value = serde_json::from_str(&text).with_context(|| format!("ip printed {text:?}"))?;
        let links = links.as_array().context("ip printed no list")?;
        Ok(links.iter().find(|link| link["ifname"] == name).cloned())
    }
}
