//! A look at the host for a diagnosis, and features of the kernel tried out. Nothing is changed and nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use netlink_packet_route::link::{InfoBridgePort, InfoData, InfoKind, InfoVxlan};
use pontoon_store::model::id::{Mac, Vni};

use super::error::KernelError;
use super::firewall::{self, Table};
use super::link::{self, Link, Settings};
use super::netns::{self, Namespace};
use super::socket::Netlink;
use super::{Kernel, Linux, ports, steer};
use crate::plan::desired::{Names, bridge_name, vxlan_name};
use crate::plan::doctor::{DOCKER_GATEWAY, Feature, HostLook, Trial, VxlanDevice};
use crate::plan::object::{Bridge, BridgeUse, Firewall, Peer, Port, Tunnel, Vxlan};

/// MTU of the interfaces that are made for a trial.
const MTU: u32 = 1450;

/// The kernel's release: `uname -r`.
pub fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Looks at the host. `vtep`: this node's data address; `port`: the UDP port of VXLAN.
///
/// # Errors
/// When the kernel cannot be read.
pub fn look(names: &Names, vtep: Option<IpAddr>, port: u16) -> Result<HostLook, KernelError> {
    let mut linux = Linux::open(names.clone())?;
    let facts = linux.facts(vtep)?;
    let links = link::list(&mut linux.host).map_err(KernelError::netlink("list the host's links"))?;
    let holders = ports::holders(port).map_err(|source| KernelError::Namespace {
        operation: "read",
        path: PathBuf::from("/proc/self/net/udp"),
        source,
    })?;
    let chains = firewall::closed_chains(&names.table(), &[DOCKER_GATEWAY, &names.gateway])?;
    let devices = links.iter().filter_map(vxlan_device).collect();
    Ok(HostLook { facts, chains, legacy_filter: legacy_filter(), holders, devices })
}

/// Whether the host's namespace has a table `filter` of iptables-legacy. A kernel without it does not have the file.
fn legacy_filter() -> bool {
    let tables = fs::read_to_string("/proc/self/net/ip_tables_names");
    tables.is_ok_and(|tables| tables.lines().any(|table| table == "filter"))
}

fn vxlan_device(link: &Link) -> Option<VxlanDevice> {
    let Some(InfoData::Vxlan(data)) = link.data.as_ref().filter(|_| link.is(&InfoKind::Vxlan)) else { return None };
    let vni = data.iter().find_map(|info| if let InfoVxlan::Id(vni) = info { Some(*vni) } else { None })?;
    let port = data.iter().find_map(|info| if let InfoVxlan::Port(port) = info { Some(*port) } else { None })?;
    Some(VxlanDevice { name: link.name.clone(), vni, port })
}

/// Makes one of each thing that a container's network needs, in two network namespaces that stand for the host's and our
/// own, and are gone afterwards with all that is in them.
pub fn trials() -> Vec<Trial> {
    let trial =
        |feature, result: Result<(), KernelError>| Trial { feature, error: result.err().map(|e| e.to_string()) };
    let namespaces = Namespace::unnamed().and_then(|host| Ok((host, Namespace::unnamed()?)));
    let made = namespaces.map_err(|source| KernelError::Namespace {
        operation: "make",
        path: PathBuf::from("a network namespace"),
        source,
    });
    let (mut host, mut overlay) = match made {
        Ok(made) => made,
        Err(error) => return vec![trial(Feature::Namespaces, Err(error))],
    };
    vec![
        trial(Feature::Namespaces, host.key().map(drop)),
        trial(Feature::Bridge, try_bridge(&mut overlay.netlink)),
        trial(Feature::Vxlan, try_vxlan(&mut host, &mut overlay)),
        trial(Feature::Veth, try_veth(&host, &mut overlay)),
        trial(Feature::Nftables, try_nftables(&host)),
        trial(Feature::Steering, steer::try_in(&host.file)),
    ]
}

/// The network of the trial. Nothing outside of its namespaces can meet it.
fn vni() -> Vni {
    Vni::new(1).expect("a VNI can be 1")
}

fn mac(last: u8) -> Mac {
    Mac::new([2, 0, 0, 0, 0, last]).expect("the first byte is even and not zero")
}

fn try_bridge(overlay: &mut Netlink) -> Result<(), KernelError> {
    let bridge = Bridge {
        purpose: BridgeUse::Overlay(vni()),
        name: bridge_name(vni()),
        mac: mac(1),
        mtu: MTU,
        mcast_snooping: false,
        up: true,
    };
    link::add_bridge(overlay, &bridge, 1).map_err(KernelError::netlink("create a bridge"))
}

fn try_vxlan(host: &mut Namespace, overlay: &mut Namespace) -> Result<(), KernelError> {
    let tunnel = Tunnel {
        local: Some(Ipv4Addr::LOCALHOST.into()),
        port: pontoon_proto::DEFAULT_VXLAN_PORT,
        learning: false,
        proxy: true,
        misses: false,
    };
    let vxlan = Vxlan {
        vni: vni(),
        name: vxlan_name(vni()),
        tunnel,
        mac: mac(2),
        mtu: MTU,
        up: true,
        bridge: Some(bridge_name(vni())),
        port_learning: false,
    };
    link::add_vxlan(&mut host.netlink, overlay, &vxlan).map_err(KernelError::netlink("create a VXLAN device"))?;
    join(&mut overlay.netlink, &vxlan.name, InfoBridgePort::Learning(false))
}

fn try_veth(host: &Namespace, overlay: &mut Namespace) -> Result<(), KernelError> {
    let port = Port { name: "v1".to_owned(), bridge: Some(bridge_name(vni())), isolated: true, mtu: MTU, up: true };
    let peer = Peer { ifname: "eth0".to_owned(), mac: mac(3), mtu: MTU, up: true };
    let made = link::add_veth(&mut overlay.netlink, &port, &peer, host.file.as_raw_fd());
    made.map_err(KernelError::netlink("create a veth pair"))?;
    join(&mut overlay.netlink, &port.name, InfoBridgePort::Isolated(true))
}

/// Puts an interface on the bridge, unless there is none, and switches it on.
fn join(overlay: &mut Netlink, name: &str, setting: InfoBridgePort) -> Result<(), KernelError> {
    let failed = || KernelError::netlink(format!("set up {name}"));
    let bridge = link::find(overlay, &bridge_name(vni())).map_err(failed())?;
    let Some(found) = link::find(overlay, name).map_err(failed())? else {
        return Err(KernelError::NoInterface { ifname: name.to_owned(), place: "after it was made".to_owned() });
    };
    let master = bridge.map(|bridge| bridge.index);
    let port = master.map(|_| setting).into_iter().collect();
    let settings = Settings { master, port, up: Some(true), ..Settings::default() };
    link::set(overlay, found.index, settings).map_err(failed())
}

/// Writes a table such as ours.
fn try_nftables(host: &Namespace) -> Result<(), KernelError> {
    let names = Names::default();
    // 203.0.113.0/24 and 2001:db8::/32 are for documentation (RFC 5737, RFC 3849).
    let egress = ["203.0.113.0/24", "2001:db8::/64"].map(|subnet| subnet.parse().expect("it is a subnet"));
    let firewall = Firewall {
        vxlan_port: pontoon_proto::DEFAULT_VXLAN_PORT,
        vnis: [vni().get(), vni().get() + 1].into(),
        members: [IpAddr::from([203, 0, 113, 1])].into(),
        gateway: names.gateway.clone(),
        egress: egress.into(),
        opened: BTreeSet::new(),
        altered: None,
    };
    let written = netns::run_in(&host.file, || Table::new(names.table()).write(&firewall).map(drop));
    written.unwrap_or_else(|source| {
        Err(KernelError::Namespace { operation: "enter", path: PathBuf::from("a network namespace"), source })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of this process that are open, of those that are namespaces or sockets.
    fn open_files() -> usize {
        let files = fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|file| fs::read_link(file.path()).ok());
        files.filter(|target| target.to_string_lossy().starts_with("net:[")).count()
    }

    #[test]
    fn this_kernel_has_all_and_nothing_is_left() {
        let before = open_files();
        let tried = trials();
        assert_eq!(tried.len(), 6);
        for trial in tried {
            assert_eq!(trial.error, None, "{:?}", trial.feature);
        }
        assert_eq!(open_files(), before);
        assert!(release().starts_with(|c: char| c.is_ascii_digit()), "{}", release());
    }
}
