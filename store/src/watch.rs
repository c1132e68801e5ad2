//! Following the cluster's objects. A watcher is an index and what it asked for: what it is sent is read when it is ready
//! to take it, so one that does not read costs next to nothing, and is told to begin anew once it is too far behind. Only what
//! there was when it came is kept until it takes it, within a bound ([`backlog`]).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use pontoon_proto::v1::watch_response::Event;
use pontoon_proto::v1::{self, ObjectKind, object};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prost::Message;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::entrance::{reason_of, with_reason};
use crate::feed::{Changes, Compacted};
use crate::model::apply::Change;
use crate::model::id::{ClusterId, NetworkId};
use crate::model::state::State;
use crate::rt::{timeout, watch};
use crate::store::{ReadError, Store};

mod backlog;
mod concern;

use backlog::{Backlog, Whole};
pub(crate) use concern::Concern;

/// Most bytes of objects in one part of what there is. For each watcher that takes nothing one part is in memory, and beyond
/// it what its connection lets be sent: up to 400 KB in hyper's buffer.
const PART_BYTES: usize = 64 << 10;
/// How many changes are looked at in one go, for the first that a watcher wants.
const AT_ONCE: usize = 16;
/// How often a watcher is told that nothing has changed.
const QUIET: Duration = Duration::from_secs(10);
/// How long the end of the log may take to be known.
const READ: Duration = Duration::from_secs(2);

/// What watchers do, for the metrics. Clones count the same.
#[derive(Debug, Default, Clone)]
pub struct Watching {
    /// Watchers at this moment.
    pub now: Gauge,
    /// What they were sent.
    pub sent: Counter,
    /// How often one was told to begin anew.
    pub compacted: Counter,
    /// What they are yet to be sent.
    pub(crate) backlog: Backlog,
}

/// Why a watcher is sent nothing (more).
#[derive(Debug, Error)]
pub enum WatchError {
    /// It means another cluster.
    #[error("this node is in cluster {own}, not in {wanted:?}")]
    OtherCluster {
        /// Cluster of this node.
        own: ClusterId,
        /// What was asked for.
        wanted: String,
    },
    /// The network that it asks for is not there.
    #[error("there is no network {name:?}")]
    UnknownNetwork {
        /// Name or id.
        name: String,
    },
    /// There is no such kind of objects.
    #[error("there is no kind of objects with the number {kind}")]
    UnknownKind {
        /// Its number.
        kind: i32,
    },
    /// It wants to go on from an index that is not written yet.
    #[error("index {wanted} is not written yet: the log ends at {known}")]
    Future {
        /// What was asked for.
        wanted: u64,
        /// Where the log ends.
        known: u64,
    },
    /// It is unknown where the log ends.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is too far behind.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// It has not taken what there was when it came.
    #[error(
        "what this watcher is yet to be sent was not kept any longer: others needed the room, and it took nothing for {after:?}"
    )]
    CutOff {
        /// For so long.
        after: Duration,
    },
    /// Others have not taken what there was when they came.
    #[error("this node has too much yet to send to other watchers")]
    TooMany,
    /// The daemon stops, or its store does.
    #[error("pontoond stops, or leaves its cluster")]
    Ended,
    /// Another node, which was asked, says so.
    #[error("{message}")]
    Told {
        /// [`WatchError::reason`] there.
        reason: &'static str,
        /// In its words.
        message: String,
    },
}

impl WatchError {
    /// Machine-readable; docs/api.md lists them.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OtherCluster { .. } => "OTHER_CLUSTER",
            Self::UnknownNetwork { .. } => "NETWORK_NOT_FOUND",
            Self::UnknownKind { .. } => "INVALID_KIND",
            Self::Future { .. } => "INDEX_OF_FUTURE",
            Self::Compacted(_) | Self::CutOff { .. } => COMPACTED,
            Self::TooMany => TOO_MANY,
            Self::Read(ReadError::NoQuorum { .. }) => "NO_QUORUM",
            Self::Read(ReadError::Stopped { .. }) | Self::Ended => ENDED,
            Self::Told { reason, .. } => reason,
        }
    }

    /// For another node.
    pub(crate) fn status(&self) -> Status {
        with_reason(Status::failed_precondition(self.to_string()), self.reason())
    }

    /// What another node has said.
    pub(crate) fn of(status: &Status) -> Self {
        let reasons =
            ["OTHER_CLUSTER", "NETWORK_NOT_FOUND", "INVALID_KIND", "INDEX_OF_FUTURE", COMPACTED, TOO_MANY, "NO_QUORUM"];
        let told = reason_of(status);
        match reasons.into_iter().find(|reason| Some(*reason) == told) {
            Some(reason) => Self::Told { reason, message: status.message().to_owned() },
            None => Self::Ended,
        }
    }

    /// Whether another node may do what this one cannot.
    pub(crate) fn is_of_one_node(&self) -> bool {
        matches!(self.reason(), ENDED | TOO_MANY)
    }

    /// Whether it has to begin anew.
    pub(crate) fn is_compacted(&self) -> bool {
        self.reason() == COMPACTED
    }
}

/// What a watcher would go on from is not kept any more.
const COMPACTED: &str = "INDEX_COMPACTED";
/// There is no room for what a watcher that begins is sent first.
const TOO_MANY: &str = "TOO_MANY_WATCHERS";
/// There is nothing more from this node.
const ENDED: &str = "SHUTTING_DOWN";

/// What a watcher wants to know of.
#[derive(Debug, Default)]
struct Interest {
    /// Empty: all.
    networks: BTreeSet<NetworkId>,
    /// Empty: all.
    kinds: BTreeSet<i32>,
}

impl Interest {
    fn of(state: &State, request: &v1::WatchRequest) -> Result<Self, WatchError> {
        let find = |wanted: &String| {
            let found = state.find_network(wanted).map(|network| network.id);
            found.ok_or_else(|| WatchError::UnknownNetwork { name: wanted.clone() })
        };
        let networks = request.networks.iter().map(find).collect::<Result<_, _>>()?;
        let unknown =
            |kind: &&i32| !matches!(ObjectKind::try_from(**kind), Ok(kind) if kind != ObjectKind::Unspecified);
        if let Some(kind) = request.kinds.iter().find(unknown) {
            return Err(WatchError::UnknownKind { kind: *kind });
        }
        Ok(Self { networks, kinds: request.kinds.iter().copied().collect() })
    }

    /// Whether it takes an object, which is gone if there is none. One that is gone may not tell any more which network it
    /// belonged to: then it is taken.
    fn takes(&self, change: &Change, key: &v1::ObjectKey, object: Option<&v1::Object>) -> bool {
        let network = match object.and_then(|object| object.object.as_ref()) {
            Some(object::Object::Endpoint(endpoint)) => Some(NetworkId(endpoint.network)),
            _ => change.network(),
        };
        let is_meant = network.is_none_or(|id| self.networks.is_empty() || self.networks.contains(&id));
        is_meant && (self.kinds.is_empty() || self.kinds.contains(&key.kind))
    }
}

/// Where somebody who follows is, and what he is sent next.
#[derive(Debug)]
struct Place {
    store: Store,
    /// Everything up to this index was sent, or is in `whole` or `ready`.
    index: u64,
    /// What there was when he came, if he is yet to be sent some of it.
    whole: Option<Whole>,
    ready: VecDeque<Event>,
    applied: watch::Receiver<u64>,
    watching: Watching,
}

impl Place {
    fn new(store: Store, index: u64, whole: Option<Whole>, watching: Watching) -> Self {
        watching.now.inc();
        let applied = store.applied();
        Self { store, index, whole, ready: VecDeque::new(), applied, watching }
    }

    /// What is ready to be sent, if something is.
    fn take_ready(&mut self) -> Result<Option<Event>, WatchError> {
        if let Some(whole) = &self.whole {
            match whole.take() {
                Ok(Some(part)) => return Ok(Some(part)),
                Ok(None) => self.whole = None,
                Err(cut_off) => {
                    self.watching.compacted.inc();
                    return Err(cut_off);
                }
            }
        }
        Ok(self.ready.pop_front())
    }

    fn progress(&self) -> Event {
        Event::Progress(v1::WatchProgress { index: self.index, time_ms: self.store.state().clock_ms })
    }

    /// The first few changes after its index, and the index that they lead to.
    fn changes(&self, most: usize) -> Result<(Vec<Arc<Changes>>, u64), WatchError> {
        self.store.changes_after(self.index, most).map_err(|error| {
            self.watching.compacted.inc();
            error.into()
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.watching.now.dec();
    }
}

/// Somebody who follows.
pub(crate) trait Following: Sized + Send + 'static {
    /// The next thing that he is sent.
    ///
    /// # Errors
    ///
    /// There is nothing more: he is too far behind, or the daemon stops.
    fn next(&mut self) -> impl Future<Output = Result<Event, WatchError>> + Send;

    /// Counts what he is sent.
    fn sent(&self) -> &Counter;

    /// What he is sent, until it ends. After a failure there is nothing.
    fn stream(self) -> impl Stream<Item = Result<v1::WatchResponse, WatchError>> + Send + 'static {
        unfold(Some(self), |following| async move {
            let mut following = following?;
            match following.next().await {
                Ok(event) => {
                    following.sent().inc();
                    Some((Ok(v1::WatchResponse { event: Some(event) }), Some(following)))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

/// A watcher, and what it asked for.
#[derive(Debug)]
pub(crate) struct Watcher {
    place: Place,
    /// It ends with either: the daemon waits for its requests to end.
    ends: [CancellationToken; 2],
    interest: Interest,
}

impl Watcher {
    /// Follows a store until that ends or `end` is cancelled.
    ///
    /// # Errors
    ///
    /// What was asked for is not there, or not any more, or not yet.
    pub(crate) async fn follow(
        store: Store,
        end: CancellationToken,
        watching: Watching,
        request: v1::WatchRequest,
    ) -> Result<Self, WatchError> {
        check(&store, &request.cluster_id, request.from_index).await?;
        let ends = [end, store.ending()];
        // What cannot be does not wait for its turn.
        let interest = Interest::of(&store.state(), &request)?;
        let turn = if request.from_index == 0 {
            let [first, second] = &ends;
            let turn = first.run_until_cancelled(second.run_until_cancelled(watching.backlog.turn())).await;
            Some(turn.flatten().ok_or(WatchError::Ended)??)
        } else {
            None
        };
        let (index, whole) = {
            let state = store.state();
            let takes = |change: &Change, key: &_, object: &_| interest.takes(change, key, Some(object));
            let whole = turn.map(|turn| turn.keep(snapshot(&state, takes)));
            (if whole.is_some() { state.applied_index } else { request.from_index }, whole)
        };
        let watcher = Self { place: Place::new(store, index, whole, watching), ends, interest };
        // Said at once, and not in the stream.
        watcher.place.changes(0)?;
        Ok(watcher)
    }
}

impl Following for Watcher {
    async fn next(&mut self) -> Result<Event, WatchError> {
        let place = &mut self.place;
        loop {
            if let Some(event) = place.take_ready()? {
                return Ok(event);
            }
            place.applied.borrow_and_update();
            let (changes, reached) = place.changes(AT_ONCE)?;
            for changes in &changes {
                // What follows is read when this is taken: nothing is kept for one that takes nothing.
                place.index = changes.index;
                if let Some(event) = wanted(changes, &self.interest) {
                    return Ok(event);
                }
            }
            place.index = reached;
            if changes.len() == AT_ONCE {
                continue;
            }
            let changed = timeout(QUIET, place.applied.changed());
            let [first, second] = &self.ends;
            match first.run_until_cancelled(second.run_until_cancelled(changed)).await.flatten() {
                Some(Ok(Ok(()))) => {}
                Some(Err(_)) => return Ok(place.progress()),
                Some(Ok(Err(_))) | None => return Err(WatchError::Ended),
            }
        }
    }

    fn sent(&self) -> &Counter {
        &self.place.watching.sent
    }
}

/// Whether a watcher is in the right cluster, and does not ask for what is to come.
async fn check(store: &Store, wanted: &str, from_index: u64) -> Result<(), WatchError> {
    let own = store.cluster();
    if !wanted.is_empty() && wanted != own.to_string() {
        return Err(WatchError::OtherCluster { own, wanted: wanted.to_owned() });
    }
    let applied = store.applied();
    if from_index > *applied.borrow() {
        // Somebody else may have told the caller of what this copy has not heard of yet.
        store.read_barrier(READ).await?;
    }
    let known = *applied.borrow();
    if from_index > known {
        return Err(WatchError::Future { wanted: from_index, known });
    }
    Ok(())
}

/// All that there is for a watcher, in parts.
fn snapshot(state: &State, takes: impl Fn(&Change, &v1::ObjectKey, &v1::Object) -> bool) -> VecDeque<Event> {
    let index = state.applied_index;
    let part = || v1::WatchSnapshot { index, time_ms: state.clock_ms, ..v1::WatchSnapshot::default() };
    let (mut parts, mut current, mut bytes) = (VecDeque::new(), part(), 0);
    for change in state.objects() {
        let (Some(key), Some(object)) = (change.watched(), state.watched(&change)) else { continue };
        if !takes(&change, &key, &object) {
            continue;
        }
        bytes += object.encoded_len();
        current.objects.push(object);
        if bytes >= PART_BYTES {
            parts.push_back(Event::Snapshot(std::mem::replace(&mut current, part())));
            bytes = 0;
        }
    }
    current.last = true;
    parts.push_back(Event::Snapshot(current));
    parts
}

/// What of some changes a watcher is sent.
fn wanted(changes: &Changes, interest: &Interest) -> Option<Event> {
    let Changes { index, time_ms, objects } = changes;
    let mut sent = v1::WatchChanges { index: *index, time_ms: *time_ms, ..v1::WatchChanges::default() };
    for (change, object) in objects {
        let Some(key) = change.watched().filter(|key| interest.takes(change, key, object.as_ref())) else { continue };
        match object {
            Some(object) => sent.put.push(object.clone()),
            None => sent.deleted.push(key),
        }
    }
    (!sent.put.is_empty() || !sent.deleted.is_empty()).then_some(Event::Changes(sent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Command;
    use crate::model::id::EndpointId;
    use crate::model::tests::{World, named};

    fn small_state() -> State {
        let (mut world, network) = World::with_network();
        world.network(named("other"));
        world.ok(Command::CreateEndpoint(world.container(&network, 1, "c1")));
        world.state
    }

    fn interest(state: &State, networks: &[&str], kinds: &[ObjectKind]) -> Result<Interest, WatchError> {
        let networks = networks.iter().map(|&name| name.to_owned()).collect();
        let kinds = kinds.iter().map(|kind| i32::from(*kind)).collect();
        Interest::of(state, &v1::WatchRequest { networks, kinds, ..v1::WatchRequest::default() })
    }

    fn sent(state: &State, interest: &Interest) -> Vec<v1::Object> {
        let events = snapshot(state, |change, key, object| interest.takes(change, key, Some(object)));
        let objects = |event| match event {
            Event::Snapshot(part) => part.objects,
            other => panic!("{other:?}"),
        };
        events.into_iter().flat_map(objects).collect()
    }

    #[test]
    fn a_watcher_is_sent_what_it_asked_for() {
        let state = small_state();
        let all = sent(&state, &interest(&state, &[], &[]).unwrap());
        let watched = state.objects().filter(|change| change.watched().is_some()).count();
        assert_eq!(all.len(), watched);
        let network = state.network_named("web").unwrap();
        let of_network = |object: &v1::Object| match object.object.as_ref().unwrap() {
            object::Object::Endpoint(endpoint) => endpoint.network == network.id.0,
            other => panic!("{other:?}"),
        };
        let some = sent(&state, &interest(&state, &[&network.name], &[ObjectKind::Endpoint]).unwrap());
        let expected = state.endpoints_of_network(network.id).count();
        assert!(expected > 0 && some.len() == expected && some.iter().all(of_network), "{some:?}");
    }

    #[test]
    fn an_object_that_is_gone_is_told_of_by_its_key() {
        let state = small_state();
        let interest = interest(&state, &["web"], &[ObjectKind::Endpoint]).unwrap();
        let objects = vec![(Change::Endpoint(EndpointId(99)), None), (Change::Cluster, None)];
        let Some(Event::Changes(changes)) = wanted(&Changes { index: 7, time_ms: 1, objects }, &interest) else {
            panic!("nothing")
        };
        assert_eq!((changes.index, changes.put.len(), changes.deleted.len()), (7, 0, 1));
        assert_eq!((changes.deleted[0].id, changes.deleted[0].kind()), (99, ObjectKind::Endpoint));
        let others = Changes { index: 8, time_ms: 1, objects: vec![(Change::Cluster, None)] };
        assert!(wanted(&others, &interest).is_none());
    }

    #[test]
    fn what_cannot_be_watched_is_refused_by_name() {
        let state = small_state();
        let error = interest(&state, &["nowhere"], &[]).unwrap_err();
        assert!(matches!(&error, WatchError::UnknownNetwork { name } if name == "nowhere"), "{error:?}");
        for kind in [99, 0] {
            let request = v1::WatchRequest { kinds: vec![kind], ..v1::WatchRequest::default() };
            let error = Interest::of(&state, &request).unwrap_err();
            assert!(matches!(error, WatchError::UnknownKind { kind: told } if told == kind), "{error:?}");
        }
    }
}
