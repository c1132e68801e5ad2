//! Carries out steps. No decisions: a step says what there is and what there shall be.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use netlink_packet_route::link::{InfoBridge, InfoBridgePort};
use pontoon_store::model::id::{EndpointId, Vni};
use pontoon_store::model::object::Sandbox;

use super::error::{KernelError, Refusal};
use super::link::{self, Link, Settings};
use super::linux::Linux;
use super::netns::{self, Namespace};
use super::socket::{Netlink, Request};
use super::{address, neighbour, sysctl};
use crate::plan::desired::vxlan_name;
use crate::plan::diff::Step;
use crate::plan::object::{Address, Bridge, BridgeUse, Fdb, Object, Peer, Place, Port, Route, Veth, Vxlan};

type Outcome = Result<(), KernelError>;

/// One run over the steps of a pass: what has been looked up meanwhile. Sandboxes stay open no longer than this, since an
/// open one cannot go away.
pub(super) struct Run<'a> {
    linux: &'a mut Linux,
    sandboxes: BTreeMap<Sandbox, Namespace>,
    /// Indexes of the VXLAN devices, once forwarding entries come up.
    tunnels: Option<BTreeMap<Vni, u32>>,
}

/// Gone already is as good as removed.
fn absent_is_fine(result: Result<(), Refusal>) -> Result<(), Refusal> {
    match result {
        Err(Refusal { errno: libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL, .. }) => Ok(()),
        other => other,
    }
}

/// An interface of ours that is gone, whoever has its name now, has lost what was on it.
fn unless_gone<T>(found: Result<T, KernelError>) -> Result<Option<T>, KernelError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(KernelError::NoInterface { .. } | KernelError::NotOurs { .. } | KernelError::GatewayTaken { .. }) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl<'a> Run<'a> {
    pub(super) fn new(linux: &'a mut Linux) -> Self {
        Self { linux, sandboxes: BTreeMap::new(), tunnels: None }
    }

    /// Carries out all steps, also after one has failed, and tells how each went.
    pub(super) fn all(&mut self, steps: &[Step]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(steps.len());
        let mut rest = steps;
        while let Some(step) = rest.first() {
            let entries = rest.iter().take_while(|s| is_entry(s)).count();
            if entries > 0 {
                outcomes.extend(self.entries(&rest[..entries]));
                rest = &rest[entries..];
            } else {
                outcomes.push(self.step(step));
                rest = &rest[1..];
            }
        }
        outcomes
    }

    fn step(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Create(object) => self.put(None, object),
            Step::Change { from, to } => self.put(Some(from), to),
            Step::Remove(object) => self.remove(object),
        }
    }

    fn put(&mut self, from: Option<&Object>, to: &Object) -> Outcome {
        match to {
            Object::Namespace(_) => self.linux.put_namespace(),
            Object::Firewall(firewall) => self.linux.write_firewall(firewall),
            Object::DockerUser(rules) => self.linux.write_docker_rules(Some(&rules.gateway)),
            Object::Bridge(bridge) => self.put_bridge(from.is_some(), bridge),
            Object::Vxlan(vxlan) => self.put_vxlan(from, vxlan),
            Object::Forwarding(f) => {
                if f.ifname == self.linux.names.gateway {
                    self.gateway()?;
                }
                sysctl::set_forwarding(f.family, &f.ifname, true)
            }
            Object::Veth(veth) => self.put_veth(from.is_some(), veth),
            Object::Address(address) => self.put_address(address),
            Object::Route(route) => self.put_route(from.is_some(), route),
            // `all` has sent these in batches.
            Object::Fdb(_) | Object::Neighbour(_) => Ok(()),
        }
    }

    fn remove(&mut self, object: &Object) -> Outcome {
        match object {
            Object::Namespace(_) => self.linux.remove_namespace(),
            Object::Firewall(_) => self.linux.remove_firewall(),
            Object::DockerUser(_) => self.linux.write_docker_rules(None),
            Object::Bridge(Bridge { purpose: BridgeUse::Gateway, name, .. }) => match unless_gone(self.gateway())? {
                None => Ok(()),
                Some(_) => self.delete(&Place::Host, name),
            },
            Object::Bridge(Bridge { name, .. }) => self.delete(&Place::Overlay, name),
            Object::Vxlan(vxlan) => {
                self.tunnels = None;
                self.delete(&Place::Overlay, &vxlan.name)
            }
            Object::Forwarding(f) => {
                if f.ifname == self.linux.names.gateway && unless_gone(self.gateway())?.is_none() {
                    return Ok(());
                }
                sysctl::set_forwarding(f.family, &f.ifname, false)
            }
            Object::Veth(veth) => self.delete(&place_of_port(veth), &veth.port.name),
            Object::Address(a) => {
                let Some((netlink, index)) = unless_gone(self.ours(&a.place, &a.ifname, a.endpoint))? else {
                    return Ok(());
                };
                let result = absent_is_fine(address::delete(netlink, index, a.address));
                result.map_err(KernelError::netlink(format!("remove {object}")))
            }
            Object::Route(r) => {
                let place = Place::Sandbox(r.sandbox.clone());
                let Some((netlink, index)) = unless_gone(self.ours(&place, &r.ifname, r.endpoint))? else {
                    return Ok(());
                };
                let result = absent_is_fine(address::delete_route(netlink, index, r.family));
                result.map_err(KernelError::netlink(format!("remove {object}")))
            }
            Object::Fdb(_) | Object::Neighbour(_) => Ok(()),
        }
    }

    fn netlink(&mut self, place: &Place) -> Result<&mut Netlink, KernelError> {
        match place {
            Place::Host => Ok(&mut self.linux.host),
            Place::Overlay => Ok(&mut self.linux.overlay()?.netlink),
            Place::Sandbox(sandbox) => Ok(&mut open(&mut self.sandboxes, sandbox)?.netlink),
        }
    }

    fn find(&mut self, place: &Place, ifname: &str) -> Result<Option<Link>, KernelError> {
        let link = link::find(self.netlink(place)?, ifname);
        link.map_err(KernelError::netlink(format!("look for interface {ifname} {place}")))
    }

    fn need(&mut self, place: &Place, ifname: &str) -> Result<Link, KernelError> {
        let missing = || KernelError::NoInterface { ifname: ifname.to_owned(), place: place.to_string() };
        self.find(place, ifname)?.ok_or_else(missing)
    }

    /// Our gateway bridge.
    fn gateway(&mut self) -> Result<Link, KernelError> {
        let (ifname, group) = (self.linux.names.gateway.clone(), self.linux.names.group());
        let link = self.need(&Place::Host, &ifname)?;
        if link.is_bridge_of(group) { Ok(link) } else { Err(KernelError::GatewayTaken { ifname }) }
    }

    /// The index of an interface that we made, and a socket in its namespace. A name proves nothing outside of our own
    /// namespace: in a sandbox, ours is what is one pair with our port; on the host, the bridge with our mark.
    fn ours(
        &mut self,
        place: &Place,
        ifname: &str,
        endpoint: Option<EndpointId>,
    ) -> Result<(&mut Netlink, u32), KernelError> {
        let link = match place {
            Place::Host => self.gateway()?,
            Place::Overlay => self.need(place, ifname)?,
            Place::Sandbox(_) => {
                let link = self.need(place, ifname)?;
                let mut ours = false;
                for (egress, port_place) in [(false, Place::Overlay), (true, Place::Host)] {
                    let Some(endpoint) = endpoint.filter(|_| !ours) else { break };
                    let port = self.linux.names.port(egress, endpoint);
                    ours = self.find(&port_place, &port)?.is_some_and(|port| port.is_pair(&link));
                }
                if !ours {
                    return Err(KernelError::NotOurs { ifname: ifname.to_owned(), place: place.to_string() });
                }
                link
            }
        };
        Ok((self.netlink(place)?, link.index))
    }

    fn delete(&mut self, place: &Place, name: &str) -> Outcome {
        let Some(Link { index, .. }) = self.find(place, name)? else { return Ok(()) };
        let result = absent_is_fine(link::delete(self.netlink(place)?, index));
        result.map_err(KernelError::netlink(format!("delete interface {name} {place}")))
    }

    fn set(&mut self, place: &Place, name: &str, settings: Settings) -> Outcome {
        let index = self.need(place, name)?.index;
        let result = link::set(self.netlink(place)?, index, settings);
        result.map_err(KernelError::netlink(format!("set up interface {name} {place}")))
    }

    fn put_bridge(&mut self, exists: bool, bridge: &Bridge) -> Outcome {
        let place = if bridge.purpose == BridgeUse::Gateway { Place::Host } else { Place::Overlay };
        if !exists {
            if place == Place::Host && self.find(&place, &bridge.name)?.is_some() {
                return Err(KernelError::GatewayTaken { ifname: bridge.name.clone() });
            }
            let (group, failed) = (self.linux.names.group(), format!("create bridge {} {place}", bridge.name));
            link::add_bridge(self.netlink(&place)?, bridge, group).map_err(KernelError::netlink(failed))?;
        } else if place == Place::Host {
            self.gateway()?;
        }
        self.set(
            &place,
            &bridge.name,
            Settings {
                mac: Some(bridge.mac),
                mtu: Some(bridge.mtu),
                bridge: vec![InfoBridge::MulticastSnooping(bridge.mcast_snooping)],
                silent: place == Place::Overlay,
                up: Some(bridge.up),
                ..Settings::default()
            },
        )
    }

    fn put_vxlan(&mut self, from: Option<&Object>, vxlan: &Vxlan) -> Outcome {
        self.tunnels = None;
        if from.is_none() {
            self.linux.add_vxlan(vxlan)?;
        }
        let master = self.master(&Place::Overlay, vxlan.bridge.as_deref())?;
        let moves = !matches!(from, Some(Object::Vxlan(old)) if old.bridge == vxlan.bridge);
        let result = self.set(
            &Place::Overlay,
            &vxlan.name,
            Settings {
                mac: Some(vxlan.mac),
                mtu: Some(vxlan.mtu),
                master: moves.then_some(master),
                port: vec![InfoBridgePort::Learning(vxlan.port_learning)],
                silent: true,
                up: Some(vxlan.up),
                ..Settings::default()
            },
        );
        result.map_err(|error| match error {
            KernelError::Netlink { source: Refusal { errno: libc::EADDRINUSE, .. }, .. } => {
                KernelError::PortTaken { device: vxlan.name.clone(), port: vxlan.tunnel.port }
            }
            other => other,
        })
    }

    fn master(&mut self, place: &Place, name: Option<&str>) -> Result<u32, KernelError> {
        match (name, place) {
            (None, _) => Ok(0),
            (Some(_), Place::Host) => self.gateway().map(|link| link.index),
            (Some(name), _) => self.need(place, name).map(|link| link.index),
        }
    }

    fn put_veth(&mut self, exists: bool, veth: &Veth) -> Outcome {
        if let Some(offer) = &veth.offer {
            if !exists {
                self.offer(&veth.port, offer)?;
            }
            return self.set_port(veth);
        }
        let (Some(sandbox), Some(peer)) = (&veth.sandbox, &veth.peer) else {
            return Err(KernelError::Impossible(format!("endpoint {} has no sandbox to go to", veth.endpoint)));
        };
        let inside = Place::Sandbox(sandbox.clone());
        if !exists {
            if self.find(&inside, &peer.ifname)?.is_some() {
                return Err(KernelError::NameTaken { ifname: peer.ifname.clone(), netns: sandbox.netns.clone() });
            }
            let namespace = open(&mut self.sandboxes, sandbox)?;
            let netlink = match &place_of_port(veth) {
                Place::Host => &mut self.linux.host,
                _ => &mut self.linux.overlay()?.netlink,
            };
            let failed = KernelError::netlink(format!("create interface {} in {}", peer.ifname, sandbox.netns));
            link::add_veth(netlink, &veth.port, peer, namespace.file.as_raw_fd()).map_err(failed)?;
        }
        self.set_port(veth)?;
        let (netlink, index) = self.ours(&inside, &peer.ifname, Some(veth.endpoint))?;
        let settings = Settings { mac: Some(peer.mac), mtu: Some(peer.mtu), up: Some(peer.up), ..Settings::default() };
        let failed = KernelError::netlink(format!("set up interface {} {inside}", peer.ifname));
        link::set(netlink, index, settings).map_err(failed)
    }

    /// Makes a pair whose other end waits in the host's namespace. One of its name there is of an endpoint that is no more.
    fn offer(&mut self, port: &Port, offer: &Peer) -> Outcome {
        self.delete(&Place::Host, &offer.ifname)?;
        let host = netns::current()?;
        let failed = KernelError::netlink(format!("create interface {} for an engine", offer.ifname));
        link::add_veth(&mut self.linux.overlay()?.netlink, port, offer, host.as_raw_fd()).map_err(failed)
    }

    /// Sets up our end of a pair.
    fn set_port(&mut self, veth: &Veth) -> Outcome {
        let place = place_of_port(veth);
        let master = self.master(&place, veth.port.bridge.as_deref())?;
        self.set(
            &place,
            &veth.port.name,
            Settings {
                mtu: Some(veth.port.mtu),
                master: Some(master),
                port: vec![InfoBridgePort::Isolated(veth.port.isolated)],
                silent: true,
                up: Some(veth.port.up),
                ..Settings::default()
            },
        )
    }

    fn put_address(&mut self, address: &Address) -> Outcome {
        self.ours(&address.place, &address.ifname, address.endpoint)?;
        if let (Place::Sandbox(sandbox), true) = (&address.place, address.address.addr().is_ipv6()) {
            let namespace = open(&mut self.sandboxes, sandbox)?;
            let enabled = netns::run_in(&namespace.file, || sysctl::enable_ipv6(&address.ifname));
            enabled.map_err(|e| KernelError::netlink(format!("enter {}", sandbox.netns))(e.into()))??;
        }
        let (netlink, index) = self.ours(&address.place, &address.ifname, address.endpoint)?;
        let failed = format!("set address {} of {} {}", address.address, address.ifname, address.place);
        address::add(netlink, index, address).map_err(KernelError::netlink(failed))
    }

    fn put_route(&mut self, exists: bool, route: &Route) -> Outcome {
        let place = Place::Sandbox(route.sandbox.clone());
        let (netlink, index) = self.ours(&place, &route.ifname, route.endpoint)?;
        let failed = format!("set the default route via {} {place}", route.ifname);
        address::set_route(netlink, index, route, exists).map_err(KernelError::netlink(failed))
    }

    /// Forwarding entries and neighbours, many at a time.
    fn entries(&mut self, steps: &[Step]) -> Vec<Outcome> {
        let tunnels = match self.tunnels() {
            Ok(tunnels) => tunnels.clone(),
            Err(error) => {
                let text = error.to_string();
                return steps.iter().map(|_| Err(KernelError::Impossible(text.clone()))).collect();
            }
        };
        let (mut requests, mut counts) = (Vec::new(), Vec::with_capacity(steps.len()));
        for step in steps {
            let before = requests.len();
            let known = entry_requests(step, &tunnels, &mut requests);
            counts.push(known.then_some(requests.len() - before));
        }
        let answers = match self.linux.overlay() {
            Ok(overlay) => overlay.netlink.batch(requests),
            Err(error) => {
                requests.iter().map(|_| Err(Refusal { errno: libc::ENODEV, text: error.to_string() })).collect()
            }
        };
        let mut answers = answers.into_iter();
        let outcome = |(step, count): (&Step, Option<usize>)| {
            let Some(count) = count else {
                let (ifname, place) = (vxlan_name(vni_of(step)), Place::Overlay.to_string());
                return if step.target().is_none() { Ok(()) } else { Err(KernelError::NoInterface { ifname, place }) };
            };
            let mut result = Ok(());
            for answer in answers.by_ref().take(count) {
                let answer = if step.target().is_none() { absent_is_fine(answer) } else { answer };
                result = result.and(answer);
            }
            result.map_err(KernelError::netlink(step.to_string()))
        };
        steps.iter().zip(counts).map(outcome).collect()
    }

    fn tunnels(&mut self) -> Result<&BTreeMap<Vni, u32>, KernelError> {
        if self.tunnels.is_none() {
            let links = link::list(&mut self.linux.overlay()?.netlink);
            let links = links.map_err(KernelError::netlink("list the links in our namespace"))?;
            let of = |l: link::Link| Some((Vni::new(l.name.strip_prefix("vx")?.parse().ok()?)?, l.index));
            self.tunnels = Some(links.into_iter().filter_map(of).collect());
        }
        Ok(self.tunnels.get_or_insert_default())
    }
}

fn open<'s>(
    sandboxes: &'s mut BTreeMap<Sandbox, Namespace>,
    sandbox: &Sandbox,
) -> Result<&'s mut Namespace, KernelError> {
    match sandboxes.entry(sandbox.clone()) {
        std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
        std::collections::btree_map::Entry::Vacant(entry) => Ok(entry.insert(netns::open_sandbox(sandbox)?)),
    }
}

fn place_of_port(veth: &Veth) -> Place {
    if veth.network.is_some() { Place::Overlay } else { Place::Host }
}

fn is_entry(step: &Step) -> bool {
    matches!(step.object(), Object::Fdb(_) | Object::Neighbour(_))
}

fn vni_of(step: &Step) -> Vni {
    match step.object() {
        Object::Fdb(Fdb { vni, .. }) => *vni,
        Object::Neighbour(n) => n.vni,
        _ => Vni::new(1).expect("1 is a VNI"),
    }
}

/// Adds the requests of a step; false when its VXLAN device is not there.
fn entry_requests(step: &Step, tunnels: &BTreeMap<Vni, u32>, requests: &mut Vec<Request>) -> bool {
    let Some(index) = tunnels.get(&vni_of(step)).copied() else { return false };
    match (step, step.object()) {
        (Step::Remove(_), Object::Fdb(fdb)) => {
            requests.extend(fdb.vtep.map(|_| neighbour::delete_tunnel(index, fdb.mac)));
            requests.extend(fdb.on_bridge.then(|| neighbour::delete_static(index, fdb.mac)));
        }
        (_, Object::Fdb(fdb)) => {
            requests.extend(fdb.vtep.map(|vtep| neighbour::set_tunnel(index, fdb.mac, vtep)));
            requests.extend(fdb.on_bridge.then(|| neighbour::set_static(index, fdb.mac)));
        }
        (Step::Remove(_), Object::Neighbour(n)) => requests.push(neighbour::delete_neighbour(index, n.address)),
        (_, Object::Neighbour(n)) => requests.push(neighbour::set_neighbour(index, n.address, n.mac)),
        _ => {}
    }
    true
}
