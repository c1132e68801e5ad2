//! A kernel in memory: what hangs on an object goes with it, and what is missing cannot be used.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_store::model::object::Sandbox;

use super::{Kernel, KernelError};
use crate::plan::desired::Desired;
use crate::plan::diff::Step;
use crate::plan::object::{BridgeUse, Key, Object, Place, Veth};
use crate::plan::observed::{HostFacts, Observed, SandboxState};

/// What it holds.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// The host.
    pub facts: HostFacts,
    /// Everything that is ours.
    pub objects: BTreeMap<Key, Object>,
    /// Sandboxes that are not there to be worked on.
    pub absent: BTreeMap<Sandbox, SandboxState>,
    /// How often it was looked at.
    pub observations: u64,
    /// Steps whose text contains this fail.
    pub refuse: Option<&'static str>,
}

fn peer_of(veth: &Veth) -> Option<(Place, String)> {
    Some((Place::Sandbox(veth.sandbox.clone()?), veth.peer.as_ref()?.ifname.clone()))
}

impl Memory {
    /// All of it, as the loop sees it.
    pub fn observed(&self, desired: &Desired) -> Observed {
        let state = |s: &Sandbox| self.absent.get(s).cloned().unwrap_or(SandboxState::Present);
        let sandboxes = desired.sandboxes.keys().map(|s| (s.clone(), state(s))).collect();
        Observed { objects: self.objects.clone(), sandboxes }
    }

    /// Takes an object away, with what hangs on it.
    pub fn remove(&mut self, key: &Key) {
        let Some(object) = self.objects.remove(key) else { return };
        match object {
            Object::Namespace(_) => {
                let inside =
                    |k: &&Key| matches!(k, Key::Vxlan(_) | Key::Bridge(BridgeUse::Overlay(_)) | Key::Veth(false, _));
                let keys: Vec<Key> = self.objects.keys().filter(inside).cloned().collect();
                keys.iter().for_each(|k| self.remove(k));
            }
            Object::Vxlan(v) => {
                self.objects.retain(|k, _| !matches!(k, Key::Fdb(vni, _) | Key::Neighbour(vni, _) if *vni == v.vni));
            }
            Object::Bridge(bridge) => self.lose_bridge(&bridge.name, bridge.purpose),
            Object::Veth(veth) => {
                if let Some((place, ifname)) = peer_of(&veth) {
                    self.lose_interface(&place, &ifname);
                }
            }
            Object::Address(address) => self.objects.retain(|_, o| match o {
                Object::Route(r) => Place::Sandbox(r.sandbox.clone()) != address.place || r.ifname != address.ifname,
                _ => true,
            }),
            _ => {}
        }
    }

    fn lose_bridge(&mut self, name: &str, purpose: BridgeUse) {
        if purpose == BridgeUse::Gateway {
            self.lose_interface(&Place::Host, name);
        }
        for object in self.objects.values_mut() {
            match object {
                Object::Vxlan(v) if v.bridge.as_deref() == Some(name) => v.bridge = None,
                Object::Veth(v) if v.port.bridge.as_deref() == Some(name) => v.port.bridge = None,
                Object::Fdb(f) if purpose == BridgeUse::Overlay(f.vni) => f.on_bridge = false,
                _ => {}
            }
        }
    }

    fn lose_interface(&mut self, place: &Place, ifname: &str) {
        self.objects.retain(|_, o| match o {
            Object::Address(a) => a.place != *place || a.ifname != ifname,
            Object::Route(r) => Place::Sandbox(r.sandbox.clone()) != *place || r.ifname != ifname,
            Object::Forwarding(f) => *place != Place::Host || f.ifname != ifname,
            _ => true,
        });
    }

    fn has_interface(&self, place: &Place, ifname: &str) -> bool {
        self.objects.values().any(|o| match o {
            Object::Bridge(b) => *place == Place::Host && b.purpose == BridgeUse::Gateway && b.name == ifname,
            Object::Veth(v) => peer_of(v).is_some_and(|(p, name)| p == *place && name == ifname),
            _ => false,
        })
    }

    fn has_parent(&self, object: &Object) -> bool {
        match object {
            Object::Bridge(b) => b.purpose == BridgeUse::Gateway || self.objects.contains_key(&Key::Namespace),
            Object::Vxlan(v) => {
                self.objects.contains_key(&Key::Namespace)
                    && self.objects.contains_key(&Key::Bridge(BridgeUse::Overlay(v.vni)))
            }
            Object::Veth(v) => {
                let bridge = v.network.map_or(BridgeUse::Gateway, BridgeUse::Overlay);
                self.objects.contains_key(&Key::Bridge(bridge))
            }
            Object::Address(a) => self.has_interface(&a.place, &a.ifname),
            Object::Route(r) => self.has_interface(&Place::Sandbox(r.sandbox.clone()), &r.ifname),
            Object::Fdb(f) => self.objects.contains_key(&Key::Vxlan(f.vni)),
            Object::Neighbour(n) => self.objects.contains_key(&Key::Vxlan(n.vni)),
            Object::Namespace(_) | Object::Firewall(_) | Object::DockerUser(_) | Object::Forwarding(_) => true,
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), KernelError> {
        if self.refuse.is_some_and(|text| step.to_string().contains(text)) {
            return Err(KernelError::Impossible("refused".into()));
        }
        let key = step.object().key();
        match step {
            Step::Remove(_) => {
                if !self.objects.contains_key(&key) {
                    return Err(KernelError::Impossible(format!("{step}: it is not there")));
                }
                self.remove(&key);
            }
            Step::Create(object) => {
                if self.objects.contains_key(&key) {
                    return Err(KernelError::Impossible(format!("{step}: it is there")));
                }
                self.put(step, object)?;
            }
            Step::Change { from, to } => {
                if self.objects.get(&key) != Some(from) {
                    return Err(KernelError::Impossible(format!("{step}: it is not so")));
                }
                self.put(step, to)?;
                if let (Object::Vxlan(old), Object::Vxlan(new)) = (from, to)
                    && old.bridge != new.bridge
                {
                    self.lose_bridge(old.bridge.as_deref().unwrap_or_default(), BridgeUse::Overlay(new.vni));
                    self.objects.insert(key, to.clone());
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, step: &Step, object: &Object) -> Result<(), KernelError> {
        if !self.has_parent(object) {
            return Err(KernelError::Impossible(format!("{step}: nothing to hang it on")));
        }
        self.objects.insert(object.key(), object.clone());
        Ok(())
    }
}

impl Kernel for Memory {
    fn facts(&mut self, _vtep: Option<IpAddr>) -> Result<HostFacts, KernelError> {
        Ok(self.facts.clone())
    }

    fn observe(&mut self, desired: &Desired) -> Result<Observed, KernelError> {
        self.observations += 1;
        Ok(self.observed(desired))
    }

    fn execute(&mut self, steps: &[Step]) -> Vec<Result<(), KernelError>> {
        steps.iter().map(|step| self.step(step)).collect()
    }
}

/// Several daemons and a test look at one kernel.
impl Kernel for Arc<Mutex<Memory>> {
    fn facts(&mut self, vtep: Option<IpAddr>) -> Result<HostFacts, KernelError> {
        self.lock().unwrap_or_else(PoisonError::into_inner).facts(vtep)
    }

    fn observe(&mut self, desired: &Desired) -> Result<Observed, KernelError> {
        self.lock().unwrap_or_else(PoisonError::into_inner).observe(desired)
    }

    fn execute(&mut self, steps: &[Step]) -> Vec<Result<(), KernelError>> {
        self.lock().unwrap_or_else(PoisonError::into_inner).execute(steps)
    }
}
