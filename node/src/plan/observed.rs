//! What the kernel holds of ours.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use pontoon_store::model::object::{Family, Route, Sandbox};

use super::object::{Key, Object};

/// Whether a sandbox can be worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxState {
    /// Its file names the namespace that was attached.
    Present,
    /// Its file does not, but the namespace lives on: our end of its interface is there.
    /// Left alone. The text says what is at the path.
    Hidden(String),
    /// It is gone, and its interfaces with it. The text says how that was seen.
    Vanished(String),
    /// It could not be looked at. Left alone. The text says why.
    Unreachable(String),
}

/// What the kernel holds of ours: everything in our own namespace, and what carries our mark elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Objects.
    pub objects: BTreeMap<Key, Object>,
    /// The sandboxes that were asked for.
    pub sandboxes: BTreeMap<Sandbox, SandboxState>,
}

impl Observed {
    /// Adds an object.
    pub fn insert(&mut self, object: Object) {
        self.objects.insert(object.key(), object);
    }
}

/// How the host forwards IPv6.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Forwarding6 {
    /// On for every interface (`net.ipv6.conf.all.forwarding`): nothing needs doing.
    On,
    /// Off, and it can be switched on for single interfaces (`force_forwarding`, Linux 6.17).
    PerInterface,
    /// Off, and it could be switched on for the whole host only, which is not ours to do.
    #[default]
    Off,
}

/// Facts about the host that are not ours to decide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Routes of the main table, without the default routes and those of our gateway bridge.
    pub routes: Vec<Route>,
    /// Addresses of the host's interfaces without our gateway bridge.
    pub addresses: Vec<IpNet>,
    /// MTU of the interface that has the VTEP's address; 0: no interface has it.
    pub underlay_mtu: u32,
    /// Subnets that our gateway bridge has.
    pub gateway_subnets: Vec<IpNet>,
    /// An interface that is not ours has the name of our gateway bridge.
    pub gateway_taken: bool,
    /// The host forwards IPv4 (`net.ipv4.ip_forward`).
    pub forwarding4: bool,
    /// How it forwards IPv6.
    pub forwarding6: Forwarding6,
    /// Interfaces with a route whose forwarding is off, or was switched on by us.
    pub openable: BTreeSet<(Family, String)>,
    /// Interfaces whose forwarding we switched on, as our firewall table records them.
    pub opened: BTreeSet<(Family, String)>,
    /// Docker's chain for rules of others is there.
    pub docker_user: bool,
}
