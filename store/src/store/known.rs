//! Who is in the cluster, and by which key: also those that came later than what is known here.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_proto::v1;

use super::{Store, members};
use crate::model::id::RaftId;
use crate::model::state::State;
use crate::raft::types::Peer;
use crate::rt::timeout;
use crate::tls::PublicKey;

/// How often it is looked whether an admin's time is over.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a member may take to vouch for another.
const VOUCHING: Duration = Duration::from_secs(1);

impl Store {
    /// Whether a member may have come later than what is known here: ids are log indexes, so a greater one than the
    /// membership's own, or than the state's, is that of a newer member.
    pub(crate) fn may_be_newer(&self, member: RaftId) -> bool {
        let membership = self.membership().log_id().map_or(0, |id| id.index);
        member.0 > membership.min(*self.applied().borrow())
    }

    /// Whether a state of this store knows its node as it is now: before its admission, or since, another may be in its place.
    pub fn is_known_in(&self, state: &State) -> bool {
        // Not by the node's id, which a founder looks up in the state.
        state.applied_index >= self.id().0 && state.node_with_key(&self.key().public()).is_some()
    }

    /// Whether a node of this cluster has this key, or a member that was not taken out of the Raft membership yet.
    pub(crate) fn knows(&self, key: &PublicKey) -> bool {
        self.membership().nodes().any(|(_, peer)| peer.key == *key) || self.state().node_with_key(key).is_some()
    }

    /// Whether a node of this cluster has this key, or one may that came later than what is known here.
    pub(crate) fn has_node(&self, member: RaftId, key: &PublicKey) -> bool {
        self.state().node_with_key(key).is_some() || self.may_be_newer(member)
    }

    /// Whether a member votes, or has until the latest change of the membership is committed: it must not go before.
    pub(crate) fn needs_vote_of(&self, member: RaftId) -> bool {
        let metrics = self.metrics();
        let memberships = [&metrics.membership_config, &metrics.committed_membership_config];
        memberships.iter().any(|membership| membership.voter_ids().any(|id| id == member.0))
    }

    /// Waits until no node of this cluster has this key any more.
    pub(crate) fn without_node(&self, member: RaftId, key: PublicKey) -> impl Future<Output = ()> + Send + 'static {
        let (store, mut departures) = (Arc::downgrade(&self.0), self.0.shared.departures());
        async move {
            while members::upgrade(&store).is_some_and(|store| store.has_node(member, &key)) {
                if departures.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    /// Waits until somebody with this key may not administer the cluster any more; none: he may not now.
    pub(crate) fn without_admin(&self, key: PublicKey) -> Option<impl Future<Output = ()> + Send + use<>> {
        let clock = self.0.options.clock;
        let may = move |store: &Store| store.state().admin_with_key(&key).is_some_and(|admin| clock() < admin.until_ms);
        let (store, mut applied) = (Arc::downgrade(&self.0), self.applied());
        let gone = async move {
            while members::upgrade(&store).is_some_and(|store| may(&store)) {
                // Time passes also where nothing is written.
                if let Ok(Err(_)) = timeout(AGAIN, applied.changed()).await {
                    return;
                }
            }
        };
        may(self).then_some(gone)
    }

    /// The key of a member, as the membership says; or the state, for one that is about to be added; or whoever admitted
    /// this one, until there is a membership that is newer.
    pub(crate) fn key_of(&self, member: RaftId) -> Option<PublicKey> {
        let membership = self.membership();
        let peer = membership.get_node(&member.0).map(|peer| peer.key);
        let about_to_be = || self.state().node_with_raft_id(member).map(|node| node.public_key);
        let told = || self.0.options.members.get(&member).map(|peer| peer.key).filter(|_| self.may_be_newer(member));
        peer.or_else(about_to_be).or_else(told)
    }

    /// The key of a member that came later than what is known here, as those say whose keys are known.
    pub(crate) async fn vouched_key_of(&self, member: RaftId) -> Option<PublicKey> {
        if let Some(key) = self.vouched().get(&member) {
            return Some(*key);
        }
        let membership = self.membership();
        let mut others = self.0.options.members.clone();
        others.extend(membership.nodes().map(|(id, peer)| (RaftId(*id), peer.clone())));
        let others = others.into_iter().filter(|(id, _)| ![self.id(), member].contains(id));
        let asked = others.map(|(id, peer)| Box::pin(self.ask_key(id.0, peer, member)));
        let asked: Vec<_> = asked.collect();
        if asked.is_empty() {
            return None;
        }
        let (key, _) = futures::future::select_ok(asked).await.ok()?;
        self.vouched().insert(member, key);
        Some(key)
    }

    async fn ask_key(&self, id: u64, peer: Peer, member: RaftId) -> Result<PublicKey, ()> {
        let mut client = self.0.channels.peer(id, &peer).map_err(drop)?;
        let request = self.0.channels.request(id, v1::KeyOfRequest { raft_id: member.0 });
        let answer = timeout(VOUCHING, client.key_of(request)).await.map_err(drop)?.map_err(drop)?;
        answer.into_inner().public_key.try_into().map_err(drop)
    }

    fn vouched(&self) -> MutexGuard<'_, BTreeMap<RaftId, PublicKey>> {
        // Keys are put in whole.
        self.0.vouched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
