//! Objects as watchers are sent them.

use std::collections::BTreeSet;

use pontoon_proto::v1::{self, ObjectKind, object};

use crate::model::apply::{Change, Observed};
use crate::model::id::{AdminId, EndpointId, NetworkId, NodeId, TokenId};
use crate::model::state::State;

use super::error::{ADDRESS, CodecError, PREFIX, invalid, parse, required};

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
            Self::Token(id) => v1::ObjectKey { id: id.0, ..key(ObjectKind::Token) },
            Self::Admin(id) => v1::ObjectKey { id: id.0, ..key(ObjectKind::Admin) },
            Self::Audited(index) => v1::ObjectKey { id: *index, ..key(ObjectKind::Audited) },
            Self::SealedKey | Self::Answer(..) => return None,
        })
    }

    /// The network that the object belongs to, as far as its key tells.
    pub fn network(&self) -> Option<NetworkId> {
        match self {
            Self::Network(id) | Self::Lease(id, _) | Self::EngineNetwork(id, _) => Some(*id),
            Self::Cluster | Self::Node(_) | Self::Endpoint(_) | Self::Claim(_) => None,
            Self::Token(_) | Self::Admin(_) | Self::Audited(_) | Self::SealedKey | Self::Answer(..) => None,
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
            Change::Token(id) => Object::Token(self.tokens.get(id)?.into()),
            Change::Admin(id) => Object::Admin(self.admins.get(id)?.into()),
            Change::Audited(index) => Object::Audited(self.audit.get(index)?.into()),
            Change::SealedKey | Change::Answer(..) => return None,
        };
        Some(v1::Object { object: Some(object) })
    }
}

impl TryFrom<v1::Object> for Observed {
    type Error = CodecError;

    fn try_from(object: v1::Object) -> Result<Self, CodecError> {
        use object::Object;
        Ok(match required("object", "object", object.object)? {
            Object::Cluster(cluster) => Self::Cluster(cluster.try_into()?),
            Object::Node(node) => Self::Node(node.try_into()?),
            Object::Network(network) => Self::Network(network.try_into()?),
            Object::Endpoint(endpoint) => Self::Endpoint(endpoint.try_into()?),
            Object::Lease(lease) => Self::Lease(lease.try_into()?),
            Object::Claim(claim) => Self::Claim(claim.try_into()?),
            Object::EngineNetwork(known) => Self::EngineNetwork(known.into()),
            Object::Token(token) => Self::Token(token.try_into()?),
            Object::Admin(admin) => Self::Admin(admin.try_into()?),
            Object::Audited(audited) => Self::Audited(audited.try_into()?),
        })
    }
}

/// The object that a watcher's key names.
fn named(key: &v1::ObjectKey) -> Result<Change, CodecError> {
    let (id, network) = (key.id, NetworkId(key.network));
    Ok(match key.kind() {
        ObjectKind::Unspecified => {
            return Err(invalid(
                "object_key",
                "kind",
                &key.kind.to_string(),
                "a kind of objects that this version knows",
            ));
        }
        ObjectKind::Cluster => Change::Cluster,
        ObjectKind::Node => Change::Node(NodeId(id)),
        ObjectKind::Network => Change::Network(NetworkId(id)),
        ObjectKind::Endpoint => Change::Endpoint(EndpointId(id)),
        ObjectKind::Lease => Change::Lease(network, parse("object_key", "address", &key.address, ADDRESS)?),
        ObjectKind::Claim => Change::Claim(parse("object_key", "cidr", &key.cidr, PREFIX)?),
        ObjectKind::EngineNetwork => Change::EngineNetwork(network, NodeId(key.node)),
        ObjectKind::Token => Change::Token(TokenId(id)),
        ObjectKind::Admin => Change::Admin(AdminId(id)),
        ObjectKind::Audited => Change::Audited(id),
    })
}

impl State {
    /// The state that a watcher was sent as a whole.
    ///
    /// # Errors
    ///
    /// An object that this version cannot read.
    pub fn of_watched(objects: Vec<v1::Object>, index: u64, time_ms: u64) -> Result<Self, CodecError> {
        let mut state = Self::empty();
        let put = objects.into_iter().map(Observed::try_from).collect::<Result<_, _>>()?;
        state.observe(index, time_ms, put, []);
        Ok(state)
    }

    /// Takes over what a watcher was sent. Nothing, if some of it cannot be read.
    ///
    /// # Errors
    ///
    /// An object that this version cannot read.
    pub fn take_watched(&mut self, changes: v1::WatchChanges) -> Result<BTreeSet<Change>, CodecError> {
        let put = changes.put.into_iter().map(Observed::try_from).collect::<Result<_, _>>()?;
        let deleted = changes.deleted.iter().map(named).collect::<Result<Vec<_>, _>>()?;
        Ok(self.observe(changes.index, changes.time_ms, put, deleted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Command;
    use crate::model::tests::World;

    /// Everything but the answers, of which watchers are told nothing.
    fn without_answers(state: &State) -> State {
        let mut state = state.clone();
        state.sessions.clear();
        state
    }

    #[test]
    fn an_observer_has_what_the_members_have() {
        let (mut world, network) = World::with_network();
        let objects = |state: &State| state.objects().filter_map(|key| state.watched(&key)).collect();
        let mut copy = State::of_watched(objects(&world.state), world.index, world.state.clock_ms).unwrap();
        assert_eq!(copy, without_answers(&world.state));
        let endpoint = world.endpoint(world.container(&network, 1, "c1"));
        let steps: [&dyn Fn(&mut World); 4] = [
            &|world| drop(world.endpoint(world.container(&network, 2, "c2"))),
            &|world| world.remove(&endpoint),
            &|world| drop(world.ok(Command::RemoveNode { node: world.node(2).id, force: true })),
            &|world| drop(world.ok(Command::RemoveNetwork { network: network.id })),
        ];
        let take = |copy: &mut State, state: &State| {
            let keys: BTreeSet<Change> = state.objects().chain(copy.objects()).collect();
            let keys = keys.into_iter().filter(|key| key.watched().is_some());
            let (put, deleted): (Vec<_>, Vec<_>) = keys.partition(|key| state.watched(key).is_some());
            let changes = v1::WatchChanges {
                index: state.applied_index,
                time_ms: state.clock_ms,
                put: put.iter().filter_map(|key| state.watched(key)).collect(),
                deleted: deleted.iter().filter_map(Change::watched).collect(),
                ..v1::WatchChanges::default()
            };
            copy.take_watched(changes).unwrap();
        };
        for step in steps {
            step(&mut world);
            take(&mut copy, &world.state);
            assert_eq!(copy, without_answers(&world.state));
        }
    }

    #[test]
    fn what_a_later_version_sends_changes_nothing() {
        let (world, _) = World::with_network();
        let mut copy = world.state.clone();
        for changes in [
            v1::WatchChanges { index: 99, put: vec![v1::Object::default()], ..Default::default() },
            v1::WatchChanges {
                index: 99,
                deleted: vec![v1::ObjectKey { kind: 99, ..Default::default() }],
                ..Default::default()
            },
        ] {
            assert!(copy.take_watched(changes).is_err());
            assert_eq!(copy, world.state);
        }
    }
}
