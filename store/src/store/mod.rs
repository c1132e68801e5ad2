//! One member of the cluster.

mod agreement;
mod attend;
mod certify;
mod consensus;
mod copy;
mod elsewhere;
mod handover;
mod known;
mod members;
mod observe;
mod open;
#[cfg(feature = "sim")]
mod probe;
mod propose;
mod reached;
mod read;
mod refound;
mod room;
mod status;
#[cfg(test)]
mod tests;
mod voting;
mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::RaftMetrics;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use pontoon_proto::v1;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use crate::feed::{Changes, Compacted};
use crate::model::id::{ClusterId, NodeId, RaftId};
use crate::model::object::Cluster;
use crate::model::voters::MAX_MEMBERS;
use crate::raft::channel::Channels;
use crate::raft::convert;
use crate::raft::guard::StateGuard;
use crate::raft::state_machine::Shared;
use crate::raft::types::{Peer, StoredMembership, Types};
use crate::rt::{JoinHandle, timeout, watch};
use crate::tasks::TaskBoard;
use crate::tls::{HeldKey, NodeKey, PublicKey};

pub(crate) use agreement::hash_out;
use attend::Attendance;
pub use certify::CertifyError;
pub(crate) use consensus::Consensus;
pub use elsewhere::Watched;
pub use members::ExpelError;
use observe::Observing;
pub use open::OpenError;
#[cfg(feature = "sim")]
pub use probe::{Logged, Probe};
pub(crate) use propose::Proposed;
pub use propose::{Missing, ProposeError};
pub use reached::ReachError;
pub use read::ReadError;
pub(crate) use room::RoomWatch;
pub use room::{Level, Room};
pub use status::{MemberStatus, StoreStatus};
pub use voting::{NeededError, Outlook};
pub use window::Requests;

/// Called once when the log cannot be written any more, with the reason. It should end the process:
/// nobody knows then what is on the disk.
pub type Fatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Timing of Raft. The shortest safe times depend on the network and on how long a sync takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Least time without a leader after which a member stands for election.
    pub election_min: Duration,
    /// Most such time. A leader that hears from no majority for this long takes no more writes.
    pub election_max: Duration,
    /// How long the leader may not hear from a node before it is `Down`.
    pub down_after: Duration,
}

impl Default for Timing {
    /// For a local network and SSDs: a leader's death costs about a second.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            down_after: Duration::from_secs(3),
        }
    }
}

/// What a store needs to be opened.
#[derive(Clone)]
pub struct StoreOptions {
    /// Its folder. It is made if there is none.
    pub dir: PathBuf,
    /// The cluster.
    pub cluster: ClusterId,
    /// This member.
    pub raft_id: RaftId,
    /// The node it is; 0 while the cluster is being founded.
    pub node: NodeId,
    /// The node's key pair.
    pub key: NodeKey,
    /// The key that the authority's is encrypted with, if this node has it.
    pub cluster_key: HeldKey,
    /// The members, as the one told that admitted this one: whom to believe until the log says it.
    pub members: BTreeMap<RaftId, Peer>,
    /// Whether it has been opened before: then its log must be there. A member whose log was lost may have voted, and would
    /// vote again.
    pub begun: bool,
    /// The requests of this run of the daemon.
    pub requests: Requests,
    /// Timing.
    pub timing: Timing,
    /// Milliseconds since the Unix epoch.
    pub clock: fn() -> u64,
    /// What to do when the log cannot be written.
    pub fatal: Fatal,
    /// Entries after which a snapshot is made.
    pub snapshot_every: u64,
    /// Entries that are kept behind a snapshot, for members that are a little behind.
    pub keep_entries: u64,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// Bytes that are to stay free on the disk of its folder: below that it takes no writes as the leader, below half of that
    /// no entries. A quarter of it is kept in a file that is given up when there is no room to start in.
    pub reserve: u64,
    /// Where its background tasks report.
    pub tasks: TaskBoard,
}

impl StoreOptions {
    /// Entries after which a snapshot is made, unless changed.
    pub const SNAPSHOT_EVERY: u64 = 10_000;
    /// Entries that are kept behind a snapshot, unless changed.
    pub const KEEP_ENTRIES: u64 = 1_000;
    /// Bytes that are to stay free, unless changed: the log grows by segments of 64 MiB, and a snapshot is written beside the
    /// one before.
    pub const RESERVE: u64 = 256 << 20;
    /// Bytes of a segment of the log, unless changed.
    pub const SEGMENT_BYTES: u64 = crate::disk::wal::SEGMENT_BYTES;
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("dir", &self.dir)
            .field("cluster", &self.cluster)
            .field("raft_id", &self.raft_id)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// One node's part in the cluster: a member of the Raft membership, or an observer. Clones are the same.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    options: StoreOptions,
    part: Part,
    shared: Arc<Shared>,
    room: RoomWatch,
    channels: Channels,
    attendance: Attendance,
    role: watch::Sender<Option<Role>>,
    /// The tasks are to end.
    ending: CancellationToken,
    /// Raft has ended.
    ended: CancellationToken,
    tasks: tokio::sync::Mutex<Vec<JoinHandle<()>>>,
    /// Keys of members that others have vouched for.
    vouched: Mutex<BTreeMap<RaftId, PublicKey>>,
}

/// What a node is to be from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// In the Raft membership, under the id that it has: [`Store::open`].
    Member,
    /// Outside it, with this id, which was never in it: [`Store::observe`].
    Observer {
        /// The id.
        raft_id: RaftId,
    },
}

/// What a node is.
enum Part {
    Member(Box<Consensus>),
    Observer(Observing),
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("options", &self.0.options).finish_non_exhaustive()
    }
}

/// How long handing over leadership may take at the end.
const HAND_OVER: Duration = Duration::from_secs(1);
/// How long each other step of ending may take.
const END_STEP: Duration = Duration::from_secs(2);

impl Store {
    /// Makes this member the only one of a new cluster. Does nothing when it has been done before.
    ///
    /// # Errors
    ///
    /// When Raft has stopped.
    pub async fn initialize(&self, advertise: SocketAddr) -> Result<(), OpenError> {
        let peer = Peer { address: advertise.to_string(), key: self.key().public() };
        let members = BTreeMap::from([(self.id().0, peer)]);
        let Some(consensus) = self.consensus() else { return Ok(()) };
        match consensus.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(OpenError::raft(&error)),
        }
    }

    /// This member.
    pub fn id(&self) -> RaftId {
        self.0.options.raft_id
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.0.options.cluster
    }

    /// The key pair of its node.
    pub fn key(&self) -> &NodeKey {
        &self.0.options.key
    }

    /// The requests of its run, for a store that takes over from it.
    pub fn requests(&self) -> Requests {
        self.0.options.requests.clone()
    }

    /// The node that this member is; 0 until the cluster is founded or the member's admission is applied.
    pub fn node(&self) -> NodeId {
        if self.0.options.node != NodeId(0) {
            return self.0.options.node;
        }
        let state = self.state();
        // It may have a newer Raft id by now; with an older one it was another node.
        let renewed = || state.node_with_key(&self.key().public()).filter(|node| node.raft_id > self.id());
        let own = state.node_with_raft_id(self.id()).or_else(renewed);
        own.map_or(NodeId(0), |node| node.id)
    }

    /// Waits until this node is to be something else: it goes on as what it is until it is opened anew.
    pub async fn other_role(&self) -> Role {
        let mut role = self.0.role.subscribe();
        loop {
            if let Some(role) = *role.borrow_and_update() {
                return role;
            }
            // The sender lives as long as the store.
            let _ = role.changed().await;
        }
    }

    /// The state as of the last applied entry. Applying waits while it is held: never hold it over an await, and have one at
    /// a time.
    pub fn state(&self) -> StateGuard<'_> {
        self.0.shared.state()
    }

    /// The first few changes after an index, and the index that they lead to.
    ///
    /// # Errors
    ///
    /// When they are not kept any more.
    pub fn changes_after(&self, index: u64, most: usize) -> Result<(Vec<Arc<Changes>>, u64), Compacted> {
        self.0.shared.feed().after(index, most)
    }

    /// The index of the last applied entry, as it grows.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.0.shared.applied()
    }

    /// Waits until every entry that was in the log when it was opened is applied, which takes a leader, or until the
    /// deadline. Before that the state here can be older than what this daemon had carried out before it was killed.
    pub async fn recovered(&self, deadline: Duration) {
        let last = self.metrics().last_log_index.unwrap_or(0);
        let recovered = async {
            match &self.0.part {
                Part::Member(_) => self.wait_applied(last).await,
                Part::Observer(observing) => observing.in_step().await,
            }
        };
        if timeout(deadline, recovered).await.is_err() {
            tracing::warn!(last, "going on with an older state: nobody has confirmed the end of the log yet");
        }
    }

    /// Ends the member: hands over leadership, stops Raft, and hands what is in memory to the disk. Takes a few
    /// seconds at most.
    pub async fn shutdown(self) {
        self.0.ending.cancel();
        for task in self.0.tasks.lock().await.drain(..) {
            if timeout(END_STEP, task).await.is_err() {
                tracing::warn!("a task of the store does not end");
            }
        }
        self.resign().await;
        match &self.0.part {
            Part::Member(consensus) => consensus.end().await,
            Part::Observer(observing) => observing.end().await,
        }
        self.0.ended.cancel();
        if let Part::Member(consensus) = &self.0.part {
            consensus.log.drain().await;
        }
    }

    /// Its part in Raft, if it has one.
    fn consensus(&self) -> Option<&Consensus> {
        match &self.0.part {
            Part::Member(consensus) => Some(consensus),
            Part::Observer(_) => None,
        }
    }

    /// Its part in Raft, for another member. An observer that is called by Raft is to be a member from now on.
    ///
    /// # Errors
    ///
    /// It is an observer still.
    pub(crate) fn in_raft(&self) -> Result<&Consensus, Status> {
        self.consensus().ok_or_else(|| {
            self.0.role.send_replace(Some(Role::Member));
            Status::unavailable("this node is an observer, and about to be a member")
        })
    }

    /// Whether it is an observer.
    pub fn observes(&self) -> bool {
        self.consensus().is_none()
    }

    /// Cancelled when it is to end.
    pub(crate) fn ending(&self) -> CancellationToken {
        self.0.ending.clone()
    }

    pub(crate) fn metrics(&self) -> RaftMetrics<Types> {
        match &self.0.part {
            Part::Member(consensus) => consensus.raft.metrics().borrow_watched().clone(),
            Part::Observer(observing) => observing.told(),
        }
    }

    /// Ends when Raft has ended.
    pub(crate) fn ended(&self) -> WaitForCancellationFutureOwned {
        self.0.ended.clone().cancelled_owned()
    }

    /// Whether it leads, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.metrics().current_leader == Some(self.id().0)
    }

    /// Whether it is a voter, as far as it knows.
    pub(crate) fn votes(&self) -> bool {
        self.metrics().membership_config.voter_ids().any(|id| id == self.id().0)
    }

    /// Its connections to the others, and what they think of it.
    pub(crate) fn channels(&self) -> &Channels {
        &self.0.channels
    }

    /// The latest membership, committed or not.
    fn membership(&self) -> Arc<StoredMembership> {
        match &self.0.part {
            Part::Member(consensus) => Arc::clone(&consensus.raft.metrics().borrow_watched().membership_config),
            Part::Observer(observing) => observing.told().membership_config,
        }
    }

    /// The members, and where they are reached.
    pub fn peers(&self) -> BTreeMap<RaftId, Peer> {
        self.membership().nodes().map(|(id, peer)| (RaftId(*id), peer.clone())).collect()
    }

    /// The members, for a newcomer.
    pub(crate) fn members(&self) -> BTreeMap<u64, v1::RaftMember> {
        let membership = self.membership();
        membership.nodes().map(|(id, peer)| (*id, convert::peer_out(peer))).collect()
    }

    /// Whether the Raft membership has as many nodes as it is to have: a newcomer is an observer then.
    pub(crate) fn is_full(&self) -> bool {
        let observers = self.state().cluster.as_ref().is_some_and(Cluster::has_observers);
        observers && self.membership().nodes().count() >= MAX_MEMBERS
    }

    /// What a member says that knows this one no more. It counts only while nobody leads this one: a member may be
    /// wrong about another, and a leader is not. But a leader that had given its vote away when it was killed takes
    /// itself for the leader again when it is started.
    pub fn removed(&self) -> Option<String> {
        let removed = self.0.channels.removed_and_alone_for(self.0.options.timing.election_max);
        removed.filter(|_| !self.leads() || !self.votes())
    }

    /// Why it has stopped, if it has.
    pub(crate) fn stopped(&self) -> Option<String> {
        if let Some(reason) = self.removed() {
            return Some(format!("this node was removed from the cluster: {reason}"));
        }
        if let Some(reason) = self.0.shared.view().stopped.clone() {
            return Some(reason);
        }
        self.metrics().running_state.err().map(|fatal| fatal.to_string())
    }

    /// Waits until an entry is applied here.
    pub(crate) async fn wait_applied(&self, index: u64) {
        let mut applied = self.applied();
        // The sender lives as long as the store.
        let _ = applied.wait_for(|&applied| applied >= index).await;
    }
}
