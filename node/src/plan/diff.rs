//! The steps from what is observed to what is desired.

use std::collections::BTreeSet;
use std::fmt;

use pontoon_store::model::id::Vni;

use super::desired::Desired;
use super::object::{Address, BridgeUse, Object, Place, Scope};
use super::observed::{Observed, SandboxState};

/// One step. It has no choices left: it says what there is and what there shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Removes an object, and what hangs on it.
    Remove(Object),
    /// Makes an object.
    Create(Object),
    /// Changes an object in one go, so that traffic is not cut.
    Change {
        /// As it is.
        from: Object,
        /// As it shall be.
        to: Object,
    },
}

impl Step {
    /// The object that the step is about: as it shall be, or the one that goes.
    pub fn object(&self) -> &Object {
        match self {
            Self::Remove(object) | Self::Create(object) | Self::Change { to: object, .. } => object,
        }
    }

    /// The object that shall be there afterwards.
    pub fn target(&self) -> Option<&Object> {
        match self {
            Self::Remove(_) => None,
            Self::Create(object) | Self::Change { to: object, .. } => Some(object),
        }
    }

    /// Whom it concerns when it fails.
    pub fn scope(&self) -> Scope {
        self.object().scope()
    }
}

/// The steps that turn `observed` into `desired`, in order: first what has to go, then what has to come or change.
/// Nothing but the objects in the two is touched, and nothing inside a sandbox that is not there to be worked on.
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut gone = Gone::default();
    let mut keep = BTreeSet::new();
    let mut removals = Vec::new();
    for (key, old) in &observed.objects {
        let wanted = desired.objects.get(key);
        if gone.has(old) {
            continue;
        }
        match wanted {
            Some(new) if !workable(new, observed) || !must_be_made_again(old, new) => {
                keep.insert(key);
                gone.note_move(old, new);
            }
            Some(_) | None => {
                gone.note(old);
                removals.push(Step::Remove(old.clone()));
            }
        }
    }
    removals.reverse();

    let mut steps = removals;
    for (key, new) in &desired.objects {
        if !workable(new, observed) {
            continue;
        }
        match observed.objects.get(key).filter(|_| keep.contains(key)) {
            None => steps.push(Step::Create(new.clone())),
            Some(old) => {
                let old = gone.as_after_move(old.clone());
                if old != *new {
                    steps.push(Step::Change { from: old, to: new.clone() });
                }
            }
        }
    }
    steps
}

/// Whether the object's sandbox, if it has one, can be worked on.
fn workable(object: &Object, observed: &Observed) -> bool {
    match object.sandbox().and_then(|s| observed.sandboxes.get(s)) {
        None | Some(SandboxState::Present) => true,
        Some(SandboxState::Hidden(_) | SandboxState::Vanished(_) | SandboxState::Unreachable(_)) => false,
    }
}

/// Whether an object has to be removed and made again to become the other.
fn must_be_made_again(old: &Object, new: &Object) -> bool {
    match (old, new) {
        (Object::Vxlan(old), Object::Vxlan(new)) => old.tunnel != new.tunnel,
        (Object::Veth(old), Object::Veth(new)) => {
            let name = |veth: &super::object::Veth| veth.peer.as_ref().map(|p| p.ifname.clone());
            old.sandbox != new.sandbox || old.port.name != new.port.name || name(old) != name(new)
        }
        // The kernel keeps the broadcast address that an address was made with.
        (Object::Address(old), Object::Address(new)) => old.broadcast != new.broadcast,
        // A route that hangs on another interface is not replaced but doubled (IPv6).
        (Object::Route(old), Object::Route(new)) => old.ifname != new.ifname,
        _ => false,
    }
}

/// What goes with the objects that are removed.
#[derive(Default)]
struct Gone {
    namespace: bool,
    tunnels: BTreeSet<Vni>,
    /// VXLAN devices that change their bridge, and lose their entries there.
    moved: BTreeSet<Vni>,
    interfaces: BTreeSet<(Place, String)>,
    addresses: BTreeSet<(Place, String)>,
}

impl Gone {
    fn note(&mut self, object: &Object) {
        match object {
            Object::Namespace(_) => self.namespace = true,
            Object::Vxlan(vxlan) => {
                self.tunnels.insert(vxlan.vni);
            }
            Object::Bridge(bridge) => {
                if bridge.purpose == BridgeUse::Gateway {
                    self.interfaces.insert((Place::Host, bridge.name.clone()));
                } else if let BridgeUse::Overlay(vni) = bridge.purpose {
                    self.moved.insert(vni);
                }
            }
            Object::Veth(veth) => {
                if let (Some(sandbox), Some(peer)) = (&veth.sandbox, &veth.peer) {
                    self.interfaces.insert((Place::Sandbox(sandbox.clone()), peer.ifname.clone()));
                }
            }
            // Routes through a network that the interface is no longer in go with its address.
            Object::Address(address) => {
                self.addresses.insert((address.place.clone(), address.ifname.clone()));
            }
            Object::Firewall(_)
            | Object::DockerUser(_)
            | Object::Forwarding(_)
            | Object::Route(_)
            | Object::Fdb(_)
            | Object::Neighbour(_) => {}
        }
    }

    /// Notes what an object loses although it stays.
    fn note_move(&mut self, old: &Object, new: &Object) {
        if let (Object::Vxlan(old), Object::Vxlan(new)) = (old, new)
            && old.bridge != new.bridge
        {
            self.moved.insert(old.vni);
        }
    }

    /// Whether the object goes with what was noted.
    fn has(&self, object: &Object) -> bool {
        match object {
            Object::Bridge(bridge) => self.namespace && bridge.purpose != BridgeUse::Gateway,
            Object::Vxlan(_) => self.namespace,
            Object::Veth(veth) => self.namespace && veth.network.is_some(),
            Object::Fdb(fdb) => self.namespace || self.tunnels.contains(&fdb.vni),
            Object::Neighbour(neighbour) => self.namespace || self.tunnels.contains(&neighbour.vni),
            Object::Address(Address { place, ifname, .. }) => {
                self.interfaces.contains(&(place.clone(), ifname.clone()))
            }
            Object::Forwarding(f) => self.interfaces.contains(&(Place::Host, f.ifname.clone())),
            Object::Route(route) => {
                let interface = (Place::Sandbox(route.sandbox.clone()), route.ifname.clone());
                self.interfaces.contains(&interface) || self.addresses.contains(&interface)
            }
            Object::Namespace(_) | Object::Firewall(_) | Object::DockerUser(_) => false,
        }
    }

    /// An object as it is once its device has changed its bridge.
    fn as_after_move(&self, mut object: Object) -> Object {
        if let Object::Fdb(fdb) = &mut object
            && self.moved.contains(&fdb.vni)
        {
            fdb.on_bridge = false;
        }
        object
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove(object) => write!(f, "remove {object}"),
            Self::Create(object) => write!(f, "create {object}"),
            Self::Change { from, to } => write!(f, "change {from} to {to}"),
        }
    }
}
