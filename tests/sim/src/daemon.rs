//! A daemon on a simulated host: a store, a reconcile loop with a kernel in memory, and what they need to know at a start.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_node::kernel::memory::Memory;
use pontoon_node::plan::desired::{Names, desired};
use pontoon_node::plan::diff::plan;
use pontoon_node::reconcile::{self, StateSource};
use pontoon_store::model::command::{AdmitNode, Command, CreateToken, FEATURE_LEVEL, Outcome, ReportNode};
use pontoon_store::model::id::{ClusterId, EndpointId, FOUNDER, NodeId, RaftId};
use pontoon_store::model::object::{Cluster, Family, Pool, Token, TokenRole};
use pontoon_store::model::state::State;
use pontoon_store::rt::sim::fs::Disk;
use pontoon_store::rt::sim::link::Net;
use pontoon_store::rt::sim::{Chance, Host, Run};
use pontoon_store::rt::{fs, sleep, spawn, wall_ms};
use pontoon_store::tasks::TaskBoard;
use pontoon_store::{NodeKey, Peer, PeerServer, Requests, Role, Store, StoreOptions, StoreSlot, Timing, knock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::bug::Bug;
use crate::notes::Notes;
use crate::secrets::{authority, cluster_key, document, token};

/// The cluster.
pub(crate) const CLUSTER: ClusterId = ClusterId(0x5eed);
/// How long a request may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(3);
/// How long a voter may be away before another takes its place.
const REPLACE_AFTER_MS: u64 = 4_000;
/// How long each step of joining may take.
const JOINING: Duration = Duration::from_secs(5);
/// How long a daemon waits before it tries again.
const AGAIN: Duration = Duration::from_millis(300);

/// What every daemon of a run has in common.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) snapshot_every: u64,
    pub(crate) keep_entries: u64,
    pub(crate) bug: Option<Bug>,
}

/// What is in the data folder of a member.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    raft_id: RaftId,
    pub(crate) node: NodeId,
    members: BTreeMap<RaftId, Peer>,
    /// Its log is there.
    begun: bool,
    /// It is outside the Raft membership.
    observer: bool,
}

/// A daemon, on or off.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) number: u64,
    name: String,
    address: SocketAddr,
    pub(crate) host: Host,
    key: NodeKey,
    settings: Settings,
    notes: Notes,
    chance: Mutex<Chance>,
    /// Tells a retry of joining from joining anew.
    attempt: Mutex<u64>,
    identity: Mutex<Option<Identity>>,
    changing: tokio::sync::Mutex<()>,
    up: Mutex<Option<(Run, StoreSlot)>>,
    /// Of this host, which may go on while the daemon does not.
    kernel: Mutex<Arc<Mutex<Memory>>>,
}

/// Milliseconds since the Unix epoch, as a host's clock has them: no two hosts agree.
fn clock() -> u64 {
    let skew = Run::current().map_or(0, |run| run.host().number * 170);
    wall_ms() + skew
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the log of a member that has become an observer.
fn remove_log() {
    for part in ["log", "state", "snapshots"] {
        // It may be gone already.
        let _ = fs::remove_dir_all(Path::new("data").join(part));
    }
    let _ = fs::File::open("data").and_then(|dir| dir.sync_all());
}

struct Source {
    store: Store,
    node: NodeId,
}

impl StateSource for Source {
    fn node(&self) -> Option<NodeId> {
        Some(self.node)
    }

    fn is_known(&self, _: &State) -> bool {
        true
    }

    fn with_state<R>(&self, look: impl FnOnce(&State, &BTreeSet<EndpointId>) -> R) -> R {
        look(&self.store.state(), &BTreeSet::new())
    }
}

impl Daemon {
    /// A daemon that is off and in no cluster.
    pub(crate) fn new(number: u64, net: &Net, settings: &Settings, notes: &Notes) -> anyhow::Result<Arc<Self>> {
        let seed = settings.seed.wrapping_mul(31).wrapping_add(number);
        let disk = Disk::new(seed);
        if settings.bug == Some(Bug::AcknowledgedBeforeSync) {
            disk.lie();
        }
        let ip = Ipv4Addr::new(192, 0, 2, number as u8);
        Ok(Arc::new(Self {
            number,
            name: format!("host-{number}"),
            address: SocketAddr::new(ip.into(), 7300),
            host: Host { number, disk, net: net.clone() },
            key: NodeKey::from_pkcs8(&document(number as u8))?,
            settings: settings.clone(),
            notes: notes.clone(),
            chance: Mutex::new(Chance::new(seed)),
            attempt: Mutex::new(1),
            identity: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            up: Mutex::default(),
            kernel: Mutex::default(),
        }))
    }

    /// Its run and its store, if it is on and has one.
    pub(crate) fn up(&self) -> Option<(Run, Store)> {
        let up = lock(&self.up).clone();
        up.and_then(|(run, slot)| Some((run, slot.get()?)))
    }

    /// Whether it is on.
    pub(crate) fn is_on(&self) -> bool {
        lock(&self.up).is_some()
    }

    /// The node it is.
    pub(crate) fn node(&self) -> Option<NodeId> {
        lock(&self.identity).as_ref().map(|identity| identity.node)
    }

    /// Who it is as a member.
    pub(crate) fn raft_id(&self) -> Option<RaftId> {
        lock(&self.identity).as_ref().map(|identity| identity.raft_id)
    }

    /// Does something as a part of its run. None: it is off, or ended meanwhile.
    pub(crate) async fn on<T, F>(&self, work: impl FnOnce(Store) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (run, store) = self.up()?;
        let task = run.within(|| spawn(work(store)));
        tokio::select! {
            biased;
            () = run.over() => None,
            done = task => done.ok(),
        }
    }

    /// Switches it on, unless it is; it goes on as what it was.
    pub(crate) fn start(self: &Arc<Self>) {
        if self.is_on() {
            return;
        }
        let run = self.host.start();
        let slot = StoreSlot::new(self.name.clone(), self.key.clone(), clock);
        *lock(&self.up) = Some((run.clone(), slot.clone()));
        let identity = lock(&self.identity).clone();
        run.within(|| {
            PeerServer::new(slot.clone()).listen(self.address);
            if let Some(identity) = identity {
                drop(spawn(Arc::clone(self).go_on(slot, identity)));
            }
        });
    }

    /// Kills it. With `reboot`, its host goes with it, and what was in the kernel.
    pub(crate) fn kill(&self, reboot: bool) {
        if let Some((_, store)) = self.up() {
            let status = store.status();
            let (purged, last, snapshot) = (status.purged_index, status.last_index, status.snapshot_index);
            let number = self.number;
            self.notes.event(format!("{number} had entries {purged} to {last}, and a snapshot at {snapshot}"));
        }
        let Some((run, _)) = lock(&self.up).take() else { return };
        run.kill();
        if reboot {
            *lock(&self.kernel) = Arc::default();
        }
    }

    /// Takes everything from its disk. It is off.
    pub(crate) fn wipe(&self) {
        self.host.disk.wipe();
        let mut identity = lock(&self.identity);
        if self.settings.bug == Some(Bug::IdReused) {
            if let Some(identity) = identity.as_mut() {
                identity.begun = false;
            }
        } else {
            *identity = None;
            *lock(&self.attempt) += 1;
        }
        *lock(&self.kernel) = Arc::default();
    }

    /// Ends it as an administrator would, who waits for it.
    pub(crate) async fn stop(&self) {
        self.on(Store::shutdown).await;
        self.kill(false);
    }

    /// Founds the cluster.
    pub(crate) async fn found(self: &Arc<Self>) -> Option<()> {
        let (run, slot) = lock(&self.up).clone()?;
        let this = Arc::clone(self);
        let founding = async move {
            let mut identity =
                Identity { raft_id: FOUNDER, node: NodeId(0), members: BTreeMap::new(), begun: false, observer: false };
            let options = this.options(&identity);
            let store = Store::open(options).await.ok()?;
            store.initialize(this.address).await.ok()?;
            slot.set(Some(store.clone()));
            let cluster = Cluster {
                id: CLUSTER,
                created_ms: 0,
                pools: vec![Pool { cidr: "10.0.0.0/8".parse().ok()?, prefix: 24 }],
                pool6: "fd00:1:2::/48".parse().ok()?,
                vxlan_port: 4789,
                feature_level: FEATURE_LEVEL,
                underlay: Family::V4,
                voters: None,
                replace_after_ms: Some(REPLACE_AFTER_MS),
                authorities: vec![authority()?.certificate().to_vec()],
                crossed: Vec::new(),
                authority: 1,
                locked: false,
            };
            let node = AdmitNode { raft_id: Some(FOUNDER), ..this.admission() };
            let sealed_key = authority()?.seal(&cluster_key());
            let found = Command::FoundCluster { cluster, node, sealed_key };
            let Ok(Outcome::Node(node)) = store.propose(found, DEADLINE).await else {
                return None;
            };
            let certificate = store.certify(node.id).ok()?;
            this.key.certify(certificate).ok()?;
            let token = CreateToken {
                hash: token()?.secret.hash(),
                role: TokenRole::Voter,
                uses: Token::MAX_USES,
                life_ms: *Token::LIFE_MS.end(),
            };
            store.propose(Command::CreateToken(token), DEADLINE).await.ok()?;
            (identity.node, identity.begun) = (node.id, true);
            *lock(&this.identity) = Some(identity);
            this.work(store, slot, node.id);
            Some(())
        };
        let founded = run.within(|| spawn(founding));
        founded.await.ok()?
    }

    /// Joins the cluster through another daemon.
    pub(crate) async fn join(self: &Arc<Self>, through: SocketAddr) -> Option<()> {
        let (run, slot) = lock(&self.up).clone()?;
        let this = Arc::clone(self);
        let joining = async move {
            let (node, token) = (this.admission(), token()?);
            let mut door = knock(&this.key, through, &token, JOINING).await.ok()?;
            let admitted = door.enter(&node, &token, JOINING).await.ok()?;
            this.key.certify(admitted.certificate).ok()?;
            let identity = Identity {
                raft_id: admitted.raft_id,
                node: admitted.node,
                members: admitted.members,
                begun: false,
                observer: admitted.observer,
            };
            *lock(&this.identity) = Some(identity.clone());
            this.go_on(slot, identity).await;
            Some(())
        };
        let joined = run.within(|| spawn(joining));
        tokio::select! {
            biased;
            () = run.over() => None,
            joined = joined => joined.ok()?,
        }
    }

    /// Where it is reached.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    async fn go_on(self: Arc<Self>, slot: StoreSlot, identity: Identity) {
        if identity.observer {
            remove_log();
        }
        if let Some(store) = self.open(&identity, None).await {
            slot.set(Some(store.clone()));
            self.work(store, slot, identity.node);
        }
    }

    /// Opens its store; that it cannot must not happen.
    async fn open(&self, identity: &Identity, old: Option<&Store>) -> Option<Store> {
        let mut options = self.options(identity);
        if let Some(old) = old {
            options.requests = old.requests();
        }
        let seed = old.map(|old| old.state().clone());
        let opened = if identity.observer { Store::observe(options, seed).await } else { Store::open(options).await };
        match opened {
            Ok(store) => {
                if let Some(known) = lock(&self.identity).as_mut() {
                    known.begun = !identity.observer;
                }
                Some(store)
            }
            Err(error) => {
                let number = self.number;
                let mut chain = vec![error.to_string()];
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    chain.push(cause.to_string());
                    source = cause.source();
                }
                self.notes.violation(format!("daemon {number} does not start: {}", chain.join(": ")));
                None
            }
        }
    }

    /// What a node does beside its store, until it is to be something else in its cluster.
    fn work(self: &Arc<Self>, store: Store, slot: StoreSlot, node: NodeId) {
        let kernel = lock(&self.kernel).clone();
        let source = Arc::new(Source { store: store.clone(), node });
        let task = TaskBoard::new(clock).task("reconcile");
        let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let (reconciler, run) = reconcile::new(kernel, Names::default(), source, store.applied(), wake, task);
        let (opened, stopped) = (store.clone(), stop.clone());
        drop(spawn(async move {
            opened.recovered(DEADLINE).await;
            run.run(stopped).await;
            drop(reconciler);
        }));
        let (reporting, stopped) = (store.clone(), stop.clone());
        drop(spawn(async move {
            let report = ReportNode {
                node,
                version: "0.1.0".into(),
                feature_level: FEATURE_LEVEL,
                routes: Vec::new(),
                underlay_mtu: 1500,
                egress_subnets: Vec::new(),
                engine: String::new(),
            };
            while !stopped.is_cancelled()
                && reporting.propose(Command::ReportNode(report.clone()), DEADLINE).await.is_err()
            {
                sleep(AGAIN).await;
            }
        }));
        let this = Arc::clone(self);
        drop(spawn(async move {
            let role = store.other_role().await;
            this.change_role(role, store, slot, stop).await;
        }));
    }

    /// Becomes what the leader wants it to be, as a daemon does (node/src/role.rs).
    async fn change_role(self: Arc<Self>, role: Role, old: Store, slot: StoreSlot, stop: CancellationToken) {
        // One after the other: what the one before has left is removed before anything of the next is there.
        let _one = self.changing.lock().await;
        if role == Role::Member {
            remove_log();
        }
        let identity = {
            let mut identity = lock(&self.identity);
            let Some(identity) = identity.as_mut() else { return };
            match role {
                Role::Member => identity.observer = false,
                Role::Observer { raft_id } => (identity.raft_id, identity.observer) = (raft_id, true),
            }
            (identity.begun, identity.members) = (false, old.peers());
            identity.clone()
        };
        self.notes.count(if identity.observer {
            "members that became observers"
        } else {
            "observers that became members"
        });
        self.notes.event(format!("{} becomes {role:?}", self.number));
        let Some(store) = self.open(&identity, Some(&old)).await else { return };
        if !identity.observer {
            slot.set(Some(store.clone()));
            let known = *old.applied().borrow();
            // It goes on as what it is until then.
            let _ = store.applied().wait_for(|applied| *applied >= known).await;
        }
        stop.cancel();
        slot.set(Some(store.clone()));
        self.work(store, slot, identity.node);
        old.shutdown().await;
        if identity.observer {
            remove_log();
        }
    }

    /// Steps that its kernel lacks to be as its copy of the state wants it.
    pub(crate) fn steps_to_go(&self) -> Option<usize> {
        let (_, store) = self.up()?;
        let kernel = lock(&self.kernel).clone();
        let kernel = lock(&kernel);
        let wanted = desired(&store.state(), self.node()?, &Names::default(), &kernel.facts);
        Some(plan(&wanted, &kernel.observed(&wanted)).len())
    }

    fn admission(&self) -> AdmitNode {
        AdmitNode {
            name: self.name.clone(),
            advertise: self.address,
            data_addr: IpAddr::V4(Ipv4Addr::new(198, 51, 100, self.number as u8)),
            public_key: self.key.public(),
            version: "0.1.0".into(),
            feature_level: FEATURE_LEVEL,
            raft_id: None,
            attempt: *lock(&self.attempt),
            voter_only: false,
            token: None,
            replaces: String::new(),
        }
    }

    fn options(&self, identity: &Identity) -> StoreOptions {
        let run = match self.settings.bug {
            Some(Bug::LeaseGivenTwice) => 1,
            _ => lock(&self.chance).below(u64::MAX),
        };
        let (notes, number) = (self.notes.clone(), self.number);
        StoreOptions {
            dir: "data".into(),
            cluster: CLUSTER,
            raft_id: identity.raft_id,
            node: identity.node,
            key: self.key.clone(),
            cluster_key: Some(cluster_key()).into(),
            members: identity.members.clone(),
            begun: identity.begun,
            requests: Requests::of_run(run),
            timing: Timing::default(),
            clock,
            fatal: Arc::new(move |reason| notes.violation(format!("daemon {number} cannot write its log: {reason}"))),
            snapshot_every: self.settings.snapshot_every,
            keep_entries: self.settings.keep_entries,
            segment_bytes: 16 << 10,
            reserve: 0,
            tasks: TaskBoard::new(clock),
        }
    }
}
