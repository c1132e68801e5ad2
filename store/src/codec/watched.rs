//! Objects as watchers are sent them.

use pontoon_proto::v1::{self, ObjectKind, object};

use crate::model::apply::Change;
use crate::model::id::NetworkId;
use crate::model::state::State;

impl Change {
    /// Names the object to watchers; none: it is no object of theirs.
    pub fn watched(&self) -> Option<v1::ObjectKey> {
        let key = |kind: ObjectKind| v1::ObjectKey { kind: kind.into(), ..v1::ObjectKey::default() };
        Some(match self {
            Self::Cluster => key(ObjectKind::Cluster),
            Self::Node(id) => v1::ObjectKey { id: id.0, ..key(ObjectKind::Node) },
            Self::Network(id) => v1::ObjectKey { id: id.0, ..key(ObjectKind::Network) },
            Self::Endpoint(id) => v1::ObjectKey { id: id.0, ..key(ObjectKind::Endpoint) },
            Self::Lease(network, address) => {
                v1::ObjectKey { network: network.0, address: address.to_string(), ..key(ObjectKind::Lease) }
            }
            Self::Claim(cidr) => v1::ObjectKey { cidr: cidr.to_string(), ..key(ObjectKind::Claim) },
            Self::EngineNetwork(network, node) => {
                v1::ObjectKey { network: network.0, node: node.0, ..key(ObjectKind::EngineNetwork) }
            }
            Self::Answer(..) => return None,
        })
    }

    /// The network that the object belongs to, as far as its key tells.
    pub fn network(&self) -> Option<NetworkId> {
        match self {
            Self::Network(id) | Self::Lease(id, _) | Self::EngineNetwork(id, _) => Some(*id),
            Self::Cluster | Self::Node(_) | Self::Endpoint(_) | Self::Claim(_) | Self::Answer(..) => None,
        }
    }
}

impl State {
    /// An object as watchers are sent it; none when there is none (any more).
    pub fn watched(&self, change: &Change) -> Option<v1::Object> {
        use object::Object;
        let object = match change {
            Change::Cluster => Object::Cluster(self.cluster.as_ref()?.into()),
            Change::Node(id) => Object::Node(self.nodes.get(id)?.into()),
            Change::Network(id) => Object::Network(self.networks.get(id)?.into()),
            Change::Endpoint(id) => Object::Endpoint(self.endpoints.get(id)?.into()),
            Change::Lease(network, address) => Object::Lease(self.leases.get(&(*network, *address))?.into()),
            Change::Claim(cidr) => Object::Claim(self.claims.get(cidr)?.into()),
            Change::EngineNetwork(network, node) => {
                Object::EngineNetwork(self.engine_networks.get(&(*network, *node))?.into())
            }
            Change::Answer(..) => return None,
        };
        Some(v1::Object { object: Some(object) })
    }
}
