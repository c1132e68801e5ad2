//! Following the cluster's objects. A watcher is an index and what it asked for: what it is sent is read when it is ready
//! to take it, so one that does not read costs nothing, and is told to begin anew once it is too far behind.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use pontoon_proto::v1;
use pontoon_proto::v1::watch_response::Event;
use pontoon_proto::v1::watch_service_server::WatchService;
use pontoon_proto::v1::{ObjectKind, object};
use pontoon_store::model::apply::Change;
use pontoon_store::model::id::NetworkId;
use pontoon_store::model::state::State;
use pontoon_store::rt::{timeout, watch};
use pontoon_store::{Changes, Compacted};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::error::ApiError;
use super::find_network;
use crate::daemon::Daemon;
use crate::member::Member;

/// Most bytes of objects in one part of what there is.
const PART_BYTES: usize = 1 << 20;
/// How many changes are looked at in one go.
const AT_ONCE: usize = 64;
/// How often a watcher is told that nothing has changed.
const QUIET: Duration = Duration::from_secs(10);

/// What watchers do, for the metrics. Clones count the same.
#[derive(Debug, Default, Clone)]
pub(crate) struct Watching {
    /// Watchers at this moment.
    pub(crate) now: Gauge,
    /// What they were sent.
    pub(crate) sent: Counter,
    /// How often one was told to begin anew.
    pub(crate) compacted: Counter,
}

/// The service, answered by this daemon.
#[derive(Debug)]
pub struct Watch(pub Arc<Daemon>);

#[tonic::async_trait]
impl WatchService for Watch {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watcher = Watcher::begin(&self.0, request.into_inner()).await?;
        Ok(Response::new(Box::pin(unfold(Some(watcher), step))))
    }
}

/// The next thing that a watcher is sent. After a failure there is none.
async fn step(watcher: Option<Watcher>) -> Option<(Result<v1::WatchResponse, Status>, Option<Watcher>)> {
    let mut watcher = watcher?;
    match watcher.next().await {
        Ok(event) => {
            watcher.watching.sent.inc();
            Some((Ok(v1::WatchResponse { event: Some(event) }), Some(watcher)))
        }
        Err(error) => Some((Err(error.into()), None)),
    }
}

/// What a watcher wants to know of.
#[derive(Debug, Default)]
struct Interest {
    /// Empty: all.
    networks: BTreeSet<NetworkId>,
    /// Empty: all.
    kinds: BTreeSet<i32>,
}

impl Interest {
    fn of(state: &State, request: &v1::WatchRequest) -> Result<Self, ApiError> {
        let networks = request.networks.iter().map(|wanted| find_network(state, wanted).map(|network| network.id));
        let unknown =
            |kind: &&i32| !matches!(ObjectKind::try_from(**kind), Ok(kind) if kind != ObjectKind::Unspecified);
        if let Some(kind) = request.kinds.iter().find(unknown) {
            let message = format!("there is no kind of objects with the number {kind}");
            return Err(ApiError::new(Code::InvalidArgument, "INVALID_KIND", message, "see ObjectKind in docs/api.md"));
        }
        Ok(Self { networks: networks.collect::<Result<_, _>>()?, kinds: request.kinds.iter().copied().collect() })
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

struct Watcher {
    member: Arc<Member>,
    /// Of the daemon, which waits for its requests to end.
    stop: CancellationToken,
    interest: Interest,
    /// Everything up to this index was sent, or is in `ready`.
    index: u64,
    ready: VecDeque<Event>,
    applied: watch::Receiver<u64>,
    watching: Watching,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watching.now.dec();
    }
}

impl Watcher {
    async fn begin(daemon: &Daemon, request: v1::WatchRequest) -> Result<Self, ApiError> {
        let (member, stop, watching) = (daemon.member()?, daemon.stop.clone(), daemon.watching.clone());
        check_cluster(&member, &request.cluster_id)?;
        let applied = member.store().applied();
        if request.from_index > *applied.borrow() {
            // Somebody else may have told the caller of what this copy has not heard of yet.
            member.refresh().await?;
        }
        let known = *applied.borrow();
        if request.from_index > known {
            return Err(of_the_future(request.from_index, known));
        }
        let (interest, snapshot) = {
            let state = member.store().state();
            let interest = Interest::of(&state, &request)?;
            let snapshot = (request.from_index == 0).then(|| snapshot(&state, &interest));
            (interest, snapshot)
        };
        let (index, ready) = snapshot.unwrap_or((request.from_index, VecDeque::new()));
        watching.now.inc();
        let watcher = Self { member, stop, interest, index, ready, applied, watching };
        // Said at once, and not in the stream.
        watcher.member.store().changes_after(watcher.index, 0).map_err(|error| watcher.compacted(&error))?;
        Ok(watcher)
    }

    async fn next(&mut self) -> Result<Event, ApiError> {
        let member = self.member.clone();
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            self.applied.borrow_and_update();
            let (changes, reached) =
                member.store().changes_after(self.index, AT_ONCE).map_err(|error| self.compacted(&error))?;
            self.index = reached;
            self.ready.extend(changes.iter().filter_map(|changes| wanted(changes, &self.interest)));
            if !self.ready.is_empty() || changes.len() == AT_ONCE {
                continue;
            }
            let changed = timeout(QUIET, self.applied.changed());
            match self.stop.run_until_cancelled(member.unless_stopped(changed)).await.flatten() {
                Some(Ok(Ok(()))) => {}
                Some(Err(_)) => return Ok(Event::Progress(v1::WatchProgress { index: self.index })),
                Some(Ok(Err(_))) | None => return Err(ended()),
            }
        }
    }

    fn compacted(&self, error: &Compacted) -> ApiError {
        self.watching.compacted.inc();
        let hint = "begin anew, with index 0";
        ApiError::new(Code::OutOfRange, "INDEX_COMPACTED", error.to_string(), hint)
    }
}

/// All that there is, in parts, and the index that it is as of.
fn snapshot(state: &State, interest: &Interest) -> (u64, VecDeque<Event>) {
    let index = state.applied_index;
    let part = || v1::WatchSnapshot { index, ..v1::WatchSnapshot::default() };
    let (mut parts, mut current, mut bytes) = (VecDeque::new(), part(), 0);
    for change in state.objects() {
        let (Some(key), Some(object)) = (change.watched(), state.watched(&change)) else { continue };
        if !interest.takes(&change, &key, Some(&object)) {
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
    (index, parts)
}

/// What of some changes a watcher is sent.
fn wanted(changes: &Changes, interest: &Interest) -> Option<Event> {
    let mut sent = v1::WatchChanges { index: changes.index, ..v1::WatchChanges::default() };
    for (change, object) in &changes.objects {
        let Some(key) = change.watched().filter(|key| interest.takes(change, key, object.as_ref())) else { continue };
        match object {
            Some(object) => sent.put.push(object.clone()),
            None => sent.deleted.push(key),
        }
    }
    (!sent.put.is_empty() || !sent.deleted.is_empty()).then_some(Event::Changes(sent))
}

fn check_cluster(member: &Member, wanted: &str) -> Result<(), ApiError> {
    let own = member.cluster().to_string();
    if wanted.is_empty() || wanted == own {
        return Ok(());
    }
    let message = format!("this node is in cluster {own}, not in {wanted:?}");
    let hint = "ask a node of that cluster, or leave the cluster out";
    Err(ApiError::new(Code::FailedPrecondition, "OTHER_CLUSTER", message, hint))
}

fn of_the_future(wanted: u64, known: u64) -> ApiError {
    let message = format!("index {wanted} is not written yet: the log ends at {known}");
    ApiError::new(Code::OutOfRange, "INDEX_OF_FUTURE", message, "begin with 0, or with an index that you were sent")
}

fn ended() -> ApiError {
    let hint = "go on at another node, or here once pontoond runs, from the latest index that you have seen";
    ApiError::new(Code::Unavailable, "SHUTTING_DOWN", "pontoond stops, or leaves its cluster", hint)
}

#[cfg(test)]
mod tests {
    use pontoon_store::model::id::EndpointId;

    use super::*;
    use crate::plan::tests::small_state;

    fn interest(state: &State, networks: &[&str], kinds: &[ObjectKind]) -> Result<Interest, ApiError> {
        let networks = networks.iter().map(|&name| name.to_owned()).collect();
        let kinds = kinds.iter().map(|kind| i32::from(*kind)).collect();
        Interest::of(state, &v1::WatchRequest { networks, kinds, ..v1::WatchRequest::default() })
    }

    fn sent(state: &State, interest: &Interest) -> Vec<v1::Object> {
        let (_, events) = snapshot(state, interest);
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
        let network = state.networks.values().next().unwrap();
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
        let name = &state.networks.values().next().unwrap().name;
        let interest = interest(&state, &[name], &[ObjectKind::Endpoint]).unwrap();
        let gone =
            Changes { index: 7, objects: vec![(Change::Endpoint(EndpointId(99)), None), (Change::Cluster, None)] };
        let Some(Event::Changes(changes)) = wanted(&gone, &interest) else { panic!("nothing") };
        assert_eq!((changes.index, changes.put.len(), changes.deleted.len()), (7, 0, 1));
        assert_eq!((changes.deleted[0].id, changes.deleted[0].kind()), (99, ObjectKind::Endpoint));
        assert!(wanted(&Changes { index: 8, objects: vec![(Change::Cluster, None)] }, &interest).is_none());
    }

    #[test]
    fn what_cannot_be_watched_is_refused_by_name() {
        let state = small_state();
        let error = interest(&state, &["nowhere"], &[]).unwrap_err();
        assert!(error.reason == "NETWORK_NOT_FOUND" && error.message.contains("nowhere"), "{error:?}");
        let request = v1::WatchRequest { kinds: vec![99], ..v1::WatchRequest::default() };
        let error = Interest::of(&state, &request).unwrap_err();
        assert!(error.reason == "INVALID_KIND" && error.message.contains("99"), "{error:?}");
        let request = v1::WatchRequest { kinds: vec![0], ..v1::WatchRequest::default() };
        assert!(Interest::of(&state, &request).is_err());
    }
}
