//! This host: its kernel, its ports and what it forwards.

use std::net::{IpAddr, SocketAddr};

use pontoon_store::model::id::NodeId;
use pontoon_store::model::object::Family;
use pontoon_store::model::state::State;

use super::cluster::{Greeting, Place};
use super::{Check, Finding, Level};
use crate::plan::observed::{Forwarding6, HostFacts};

/// The bridge that engines put containers of an overlay on for their way out.
pub const DOCKER_GATEWAY: &str = "docker_gwbridge";

/// Something that the kernel, or a program that speaks to it, must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Network namespaces that can be told apart.
    Namespaces,
    /// Bridges.
    Bridge,
    /// VXLAN devices.
    Vxlan,
    /// Pairs of virtual interfaces.
    Veth,
    /// nftables, with our own table.
    Nftables,
    /// Programs that choose the socket of a packet: without them containers do not find those of other hosts by name.
    Steering,
}

impl Feature {
    fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "network namespaces",
            Self::Bridge => "bridge",
            Self::Vxlan => "VXLAN",
            Self::Veth => "veth",
            Self::Nftables => "nftables",
            Self::Steering => "steering of names",
        }
    }

    fn cure(self) -> &'static str {
        match self {
            Self::Namespaces => "use Linux 5.14 or later, with CONFIG_NET_NS",
            Self::Bridge => "modprobe bridge, or use a kernel with CONFIG_BRIDGE",
            Self::Vxlan => "modprobe vxlan, or use a kernel with CONFIG_VXLAN",
            Self::Veth => "modprobe veth, or use a kernel with CONFIG_VETH",
            Self::Nftables => {
                "install the package nftables; modprobe nf_tables nft_ct nft_masq, or use a kernel with \
                 CONFIG_NF_TABLES_INET, CONFIG_NFT_CT, CONFIG_NFT_NAT and CONFIG_NFT_MASQ"
            }
            Self::Steering => {
                "use Linux 5.14 or later, with CONFIG_BPF_SYSCALL, and let pontoond call bpf(2); without it only addresses \
                 lead to containers of other hosts"
            }
        }
    }
}

/// A feature that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// Which.
    pub feature: Feature,
    /// Why it does not work; none: it does.
    pub error: Option<String>,
}

/// Whether the kernel of this release has what is needed.
pub fn kernel(release: &str, trials: &[Trial]) -> Vec<Finding> {
    let failed = trials.iter().filter_map(|trial| {
        let (name, error) = (trial.feature.name(), trial.error.as_ref()?);
        let evidence = format!("Linux {release}: {name} cannot be used: {error}");
        Some(Finding::failure(Check::Kernel, evidence, trial.feature.cure()).about(name))
    });
    let failed: Vec<Finding> = failed.collect();
    if !failed.is_empty() {
        return failed;
    }
    let names: Vec<&str> = trials.iter().map(|trial| trial.feature.name()).collect();
    vec![Finding::ok(Check::Kernel, format!("Linux {release}: {} work", names.join(", ")))]
}

/// Whether this daemon answers on its peer port. `greeting`: who answers at the advertise address, and whether that is
/// an address of this host.
pub fn peer_port(
    listen: SocketAddr,
    place: Option<&Place<'_>>,
    greeting: Option<(&Result<Greeting, String>, bool)>,
) -> Finding {
    let listens = format!("this daemon listens on {listen}");
    let node = place.and_then(|place| place.state.nodes.get(&place.me));
    let subject = format!("{}/tcp", listen.port());
    let (Some(place), Some(node), Some((greeting, local))) = (place, node, greeting) else {
        return Finding::ok(Check::Ports, listens).about(subject);
    };
    let (address, cure) = (node.advertise, "start pontoond with a --listen that fits the advertise address");
    let finding = match greeting {
        Ok(greeting) if place.is(greeting, node.id) => {
            Finding::ok(Check::Ports, format!("this daemon answers at {address} and listens on {listen}"))
        }
        Ok(greeting) => {
            let evidence = format!("{listens}, but at {address} answers {} instead", greeting.who());
            Finding::failure(Check::Ports, evidence, cure)
        }
        Err(why) if local => {
            let cure = format!("{cure}, and let its port through on this host");
            Finding::failure(Check::Ports, format!("{listens}, but {why}"), cure)
        }
        Err(why) => {
            let evidence = format!("{listens}, but {why}; {} is not an address of this host", address.ip());
            let cure = "run pontoon doctor on another node: if that one reaches this node, all is well";
            Finding::warning(Check::Ports, evidence, cure)
        }
    };
    finding.about(subject)
}

/// A UDP socket on the port of VXLAN, in the host's network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Address that it is bound to.
    pub address: IpAddr,
    /// Process that has it, and its name; none: no process has, so it is the kernel's own.
    pub process: Option<(u32, String)>,
}

/// A VXLAN device in the host's network namespace, where none is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanDevice {
    /// Name.
    pub name: String,
    /// VNI.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
}

/// Whether the port of VXLAN is free for this kernel's devices, and no device of somebody else has a VNI of ours.
pub fn vxlan_port(
    port: u16,
    underlay: Family,
    state: Option<&State>,
    holders: &[Holder],
    devices: &[VxlanDevice],
) -> Vec<Finding> {
    let own = |holder: &&Holder| Family::of(holder.address) == underlay;
    let kernels = holders.iter().filter(own).any(|h| h.process.is_none() && h.address.is_unspecified());
    // A socket of a program on [::] has the port of IPv4 too.
    let both = |holder: &Holder| underlay == Family::V4 && holder.address.is_ipv6() && holder.address.is_unspecified();
    let other = holders.iter().find(|holder| own(holder) || (both(holder) && holder.process.is_some()));
    let finding = match other {
        _ if kernels => Finding::ok(Check::Ports, format!("VXLAN devices of this kernel have UDP port {port}")),
        Some(holder) => {
            let (who, what) = match &holder.process {
                Some((pid, name)) => (format!("process {pid} ({name})"), format!("stop process {pid}")),
                None => ("a program that cannot be seen from here".to_owned(), "stop that program".to_owned()),
            };
            let evidence = format!("UDP port {port} on {} is held by {who}: VXLAN cannot have it", holder.address);
            Finding::failure(Check::Ports, evidence, format!("{what} (ss -ulpn 'sport = :{port}' lists it)"))
        }
        None => Finding::ok(Check::Ports, format!("UDP port {port} is free for VXLAN")),
    };
    let networks = state.into_iter().flat_map(|state| state.networks.values());
    let taken = networks.filter_map(|network| {
        let device = devices.iter().find(|device| device.port == port && device.vni == network.vni.get())?;
        let evidence = format!(
            "VXLAN device {} of this host has VNI {} and port {port}, which network {} needs",
            device.name, device.vni, network.name
        );
        let cure = format!("ip link del {}, or make the network again with another --vni", device.name);
        Some(Finding::failure(Check::Ports, evidence, cure).about(&device.name))
    });
    std::iter::once(finding.about(format!("{port}/udp"))).chain(taken).collect()
}

/// A chain that forwarded packets pass, and whose policy is to drop them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Family, table and chain.
    pub name: String,
    /// Gateway bridges that rules of its table name.
    pub gateways: Vec<String>,
}

/// What was seen of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostLook {
    /// Facts.
    pub facts: HostFacts,
    /// Chains that drop what is forwarded unless a rule lets it through.
    pub chains: Vec<Chain>,
    /// This host has a table `filter` of iptables-legacy, which nftables does not show.
    pub legacy_filter: bool,
    /// Sockets on the port of VXLAN.
    pub holders: Vec<Holder>,
    /// VXLAN devices in the host's network namespace.
    pub devices: Vec<VxlanDevice>,
}

/// Whether containers have a way out. `gateway`: our bridge; `docker`: this host has Docker, which gives its
/// containers their way out.
pub fn forwarding(look: &HostLook, gateway: &str, docker: bool, place: Option<&Place<'_>>) -> Vec<Finding> {
    let facts = &look.facts;
    let mut found = Vec::new();
    if docker && !facts.forwarding4 {
        let cure = "sysctl -w net.ipv4.ip_forward=1, and write it to a file in /etc/sysctl.d";
        let evidence = "net.ipv4.ip_forward is 0: Docker's containers have no way out";
        found.push(Finding::warning(Check::Forwarding, evidence, cure));
    }
    if facts.gateway_taken {
        let evidence = format!(
            "interface {gateway} is not Pontoon's and stays as it is: containers that are attached with pontoon attach get \
             no way out"
        );
        let cure = "remove or rename it, or start pontoond with another --gateway-bridge";
        let finding = Finding::failure(Check::Forwarding, evidence, cure).about(gateway);
        // Docker's containers do not use it.
        found.push(if docker { Finding { level: Level::Warning, ..finding } } else { finding });
    }
    let bridge = if docker { DOCKER_GATEWAY } else { gateway };
    // Docker's own chains: it lets its bridges through, and ours by our rules in DOCKER-USER.
    let dockers = |chain: &&Chain| facts.docker_user && chain.name == "ip filter FORWARD";
    let closed = |chain: &&Chain| !dockers(chain) && !chain.gateways.iter().any(|name| name == bridge);
    for chain in look.chains.iter().filter(closed) {
        let evidence = format!(
            "chain {} drops what is forwarded, and no rule names {bridge}: containers may have no way out",
            chain.name
        );
        let cure =
            format!("let through what comes from {bridge}, and what answers it: {}", opening(&chain.name, bridge));
        found.push(Finding::warning(Check::Forwarding, evidence, cure).about(&chain.name));
    }
    found.extend(legacy_filter(look, bridge, docker));
    let dual = place.is_some_and(|place| has_ipv6_way_out(place.state, place.me));
    if !docker && dual && facts.forwarding6 == Forwarding6::Off {
        let evidence = "net.ipv6.conf.all.forwarding is 0, and this kernel cannot forward IPv6 for single interfaces: \
                        containers have no way out over IPv6";
        let cure = "sysctl -w net.ipv6.conf.all.forwarding=1, or use Linux 6.17 or later";
        found.push(Finding::warning(Check::Forwarding, evidence, cure));
    }
    if found.is_empty() {
        found.push(Finding::ok(Check::Forwarding, forwards(facts, docker)));
    }
    found
}

/// What iptables-legacy may do to what is forwarded: the kernel only tells that it has a filter.
fn legacy_filter(look: &HostLook, bridge: &str, docker: bool) -> Option<Finding> {
    // If Docker does not write its rules to nftables, that filter is its own, and lets its bridges through.
    let dockers = docker && !look.facts.docker_user;
    if !look.legacy_filter || dockers {
        return None;
    }
    let evidence = "iptables-legacy has a table filter on this host, which nft does not show: if its chain FORWARD drops, \
                    containers may have no way out";
    let cure = format!(
        "iptables-legacy -S FORWARD lists it: let through what comes from {bridge} (iptables-legacy -I FORWARD -i {bridge} -j \
         ACCEPT; iptables-legacy -I FORWARD -o {bridge} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT), or move these \
         rules to nftables; if it is empty, it is gone after the next boot"
    );
    Some(Finding::warning(Check::Forwarding, evidence, cure).about("iptables-legacy"))
}

/// Whether a container of this node has IPv6 and a way out.
fn has_ipv6_way_out(state: &State, me: NodeId) -> bool {
    let v6 = |address: &IpAddr| address.is_ipv6();
    state.endpoints_of_node(me).any(|endpoint| endpoint.egress.is_some() && endpoint.addresses.iter().any(v6))
}

fn forwards(facts: &HostFacts, docker: bool) -> String {
    let opened: Vec<&str> = facts.opened.iter().filter(|(f, _)| *f == Family::V4).map(|(_, n)| n.as_str()).collect();
    match (facts.forwarding4, docker) {
        (true, true) => "net.ipv4.ip_forward is 1; the way out of Docker's containers is left to Docker".to_owned(),
        (true, false) => "net.ipv4.ip_forward is 1".to_owned(),
        (false, _) if opened.is_empty() => {
            "net.ipv4.ip_forward is 0: switched on for single interfaces once a container needs it".to_owned()
        }
        (false, _) => format!("net.ipv4.ip_forward is 0, and on for {} because containers need it", opened.join(", ")),
    }
}

/// What lets a gateway bridge's packets through a chain of this name.
fn opening(chain: &str, bridge: &str) -> String {
    let rule = |key: &str, state: &str| format!("nft insert rule {chain} {key} {bridge} {state}accept");
    format!("{}; {}", rule("iifname", ""), rule("oifname", "ct state established,related "))
}
