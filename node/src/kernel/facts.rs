//! Facts about the host that are not ours to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use pontoon_store::model::object::{Family, Route};

use super::error::KernelError;
use super::link::Link;
use super::socket::Netlink;
use super::{address, link, sysctl};
use crate::plan::desired::Names;
use crate::plan::observed::{Forwarding6, HostFacts};

/// Facts about the host as they are now, for somebody who cannot wait for a pass of the loop that is under way. What its rules
/// tell is taken from an earlier look.
///
/// # Errors
/// When the kernel cannot be read.
pub fn facts_now(names: &Names, before: &HostFacts, vtep: Option<IpAddr>) -> Result<HostFacts, KernelError> {
    let mut host = Netlink::open().map_err(|e| KernelError::netlink("open a netlink socket")(e.into()))?;
    gather(&mut host, names, before.opened.clone(), before.docker_user, vtep)
}

/// Looks at the host that the calling thread is in. `opened`: interfaces whose forwarding we switched on. `vtep` tells
/// which interface the underlay's is.
pub(super) fn gather(
    host: &mut Netlink,
    names: &Names,
    opened: BTreeSet<(Family, String)>,
    docker_user: bool,
    vtep: Option<IpAddr>,
) -> Result<HostFacts, KernelError> {
    let links = link::list(host).map_err(KernelError::netlink("list the host's links"))?;
    let addresses = address::list(host).map_err(KernelError::netlink("list the host's addresses"))?;
    let routes = address::list_routes(host).map_err(KernelError::netlink("list the host's routes"))?;
    let links: BTreeMap<u32, Link> = links.into_iter().map(|l| (l.index, l)).collect();
    let name = |index: u32| links.get(&index).map_or("?", |l| l.name.as_str());
    let gateway = links.values().find(|l| l.name == names.gateway);
    let gateway_taken = gateway.is_some_and(|l| !l.is_bridge_of(names.group()));
    let gateway = gateway.filter(|_| !gateway_taken).map(|l| l.index);

    let mut facts = HostFacts {
        forwarding4: sysctl::forwarding4()?,
        forwarding6: sysctl::forwarding6()?,
        opened,
        docker_user,
        gateway_taken,
        ..HostFacts::default()
    };
    for seen in &addresses {
        let link = links.get(&seen.index);
        if Some(seen.address.addr()) == vtep {
            facts.underlay_mtu = link.map_or(0, |l| l.mtu);
        }
        if is_local(seen.address) {
            continue;
        }
        if Some(seen.index) == gateway {
            facts.gateway_subnets.push(seen.address.trunc());
        } else if !link.is_some_and(|l| l.loopback) {
            facts.addresses.push(seen.address);
        }
    }
    let mut uplinks = BTreeSet::new();
    for route in routes {
        let Some(index) = route.index.filter(|i| Some(*i) != gateway) else { continue };
        if !links.get(&index).is_some_and(|l| l.loopback) {
            uplinks.insert((route.family, name(index).to_owned()));
        }
        let destination = route.destination.filter(|d| d.prefix_len() > 0 && !is_local(*d));
        facts.routes.extend(destination.map(|d| Route { destination: d, device: name(index).to_owned() }));
    }
    facts.routes.sort();
    facts.routes.dedup();
    facts.gateway_subnets.sort();
    facts.openable = openable(&facts, uplinks)?;
    Ok(facts)
}

/// Link-local addresses and multicast say nothing about where others may be.
fn is_local(net: IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.addr().is_link_local() || net.addr().is_multicast() || net.addr().is_loopback(),
        IpNet::V6(net) => net.addr().is_unicast_link_local() || net.addr().is_multicast() || net.addr().is_loopback(),
    }
}

/// Of the interfaces that have routes, those whose forwarding is off, or on because of us.
fn openable(facts: &HostFacts, uplinks: BTreeSet<(Family, String)>) -> Result<BTreeSet<(Family, String)>, KernelError> {
    let mut openable = BTreeSet::new();
    for (family, ifname) in uplinks {
        let possible = match family {
            Family::V4 => !facts.forwarding4,
            Family::V6 => facts.forwarding6 == Forwarding6::PerInterface,
        };
        if possible && (facts.opened.contains(&(family, ifname.clone())) || !sysctl::forwards(family, &ifname)?) {
            openable.insert((family, ifname));
        }
    }
    Ok(openable)
}
