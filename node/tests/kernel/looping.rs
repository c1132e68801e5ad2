//! The loop with the real kernel and its events.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pontoon_node::kernel::{Linux, watch::watch};
use pontoon_node::reconcile::{self, DataPlaneStatus, Reconciler, StateSource};
use pontoon_store::model::id::{EndpointId, NodeId, Vni};
use pontoon_store::model::state::State;
use pontoon_store::tasks::TaskBoard;
use tokio::sync::{Notify, watch as watch_channel};
use tokio_util::sync::CancellationToken;

use crate::lab::{Host, enter, run};
use crate::repair::{Pair, Traffic};

struct Source {
    me: NodeId,
    state: Mutex<State>,
}

impl StateSource for Source {
    fn node(&self) -> Option<NodeId> {
        Some(self.me)
    }

    fn is_known(&self, _: &State) -> bool {
        true
    }

    fn with_state<R>(&self, look: impl FnOnce(&State, &BTreeSet<EndpointId>) -> R) -> R {
        look(&self.state.lock().unwrap(), &BTreeSet::new())
    }
}

/// A daemon's loop on a host.
struct Daemon {
    runtime: tokio::runtime::Runtime,
    reconciler: Reconciler,
    changes: watch_channel::Sender<u64>,
    source: Arc<Source>,
    stop: CancellationToken,
}

impl Daemon {
    fn start(host: &mut Host, state: &State) -> Self {
        host.stop();
        let path = host.netns.path();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(move || enter(&path))
            .build()
            .unwrap();
        let source = Arc::new(Source { me: host.id, state: Mutex::new(state.clone()) });
        let (changes, seen) = watch_channel::channel(state.applied_index);
        let (names, stop, wake) = (host.names.clone(), CancellationToken::new(), Arc::new(Notify::new()));
        let (kernel, names2) = (names.clone(), names.clone());
        let kernel =
            runtime.block_on(async { tokio::task::spawn_blocking(|| Linux::open(kernel)).await }).unwrap().unwrap();
        let tasks = TaskBoard::new(|| 0);
        let task = tasks.task("reconcile");
        let (reconciler, looping) = reconcile::new(kernel, names, source.clone(), seen, wake.clone(), task);
        runtime.spawn(looping.run(stop.clone()));
        runtime.spawn(watch(names2, wake, tasks.task("watch"), stop.clone()));
        Self { runtime, reconciler, changes, source, stop }
    }

    fn status(&self) -> DataPlaneStatus {
        self.reconciler.status().borrow().clone()
    }

    /// Waits for a status, and tells how long that took.
    #[track_caller]
    fn wait(&self, what: &str, condition: impl FnMut(&DataPlaneStatus) -> bool) -> Duration {
        let begin = Instant::now();
        let mut status = self.reconciler.status();
        let waited = self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(10), status.wait_for(condition)).await.is_ok()
        });
        assert!(waited, "waited in vain: {what}; status {:?}", self.status());
        begin.elapsed()
    }

    fn drift(&self, kind: &str) -> u64 {
        self.status().drift.get(kind).copied().unwrap_or(0)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[test]
fn drift_is_back_within_a_second_of_the_kernels_event() {
    let mut pair = Pair::new();
    let state = pair.cluster.state.clone();
    let daemon = Daemon::start(&mut pair.one, &state);
    daemon.wait("the first pass", |s| s.first_pass_done);
    assert_eq!(daemon.status().first_pass_steps, 0, "a restart changes nothing");
    // The kernel's events are listened to once they have woken a further pass.
    daemon.wait("the second pass", |s| s.passes >= 2);
    let overlay = format!("nsenter --net=/run/netns/{}", pair.one.names.netns);
    let host = format!("nsenter --net={}", pair.one.netns.path());
    let container = format!("nsenter --net={}", pair.c1.path());
    let table = pair.one.names.table();
    let damages = [
        ("neighbour", format!("{overlay} ip neigh del 10.0.0.3 dev vx65536")),
        ("fdb", format!("{overlay} bridge fdb del 02:42:0a:00:00:03 dev vx65536 self")),
        ("fdb", format!("{overlay} bridge fdb del 02:42:0a:00:00:03 dev vx65536 master")),
        ("link", format!("{overlay} ip link del vx65536")),
        ("link", format!("{container} ip link del eth0")),
        ("address", format!("{container} ip addr del 10.0.0.2/24 dev eth0")),
        ("route", format!("{container} ip route del default")),
        ("rule", format!("{host} nft delete table inet {table}")),
        ("link", format!("{host} ip link del pontoon_gw")),
        ("namespace", format!("ip netns del {}", pair.one.names.netns)),
        // Again, to see that the events of the namespace that got its file back are still listened to.
        ("neighbour", format!("{overlay} ip neigh del 10.0.0.3 dev vx65536")),
    ];
    for (kind, damage) in damages {
        let before = daemon.drift(kind);
        run(&damage);
        let took = daemon.wait(&damage, |s| s.drift.get(kind).copied().unwrap_or(0) > before && s.last_pass_steps == 0);
        assert!(took < Duration::from_secs(1), "`{damage}` took {took:?}");
    }
    pair.works("after all repairs");
}

#[test]
fn a_change_of_the_state_is_carried_out_and_a_request_is_answered() {
    let mut pair = Pair::new();
    let state = pair.cluster.state.clone();
    let daemon = Daemon::start(&mut pair.one, &state);
    daemon.wait("the first pass", |s| s.first_pass_done);
    let traffic = Traffic::start(&pair.c1, "10.0.0.3");

    pair.cluster.network(30, 65_600, &["10.0.5.0/24"], true);
    let sandbox = crate::lab::Netns::new("c");
    pair.cluster.endpoint(31, 30, NodeId(1), &["10.0.5.2"], &sandbox);
    *daemon.source.state.lock().unwrap() = pair.cluster.state.clone();
    let index = pair.cluster.state.applied_index;
    daemon.changes.send(index).unwrap();
    let report = daemon.runtime.block_on(daemon.reconciler.pass_now()).unwrap();
    assert_eq!(report.index, index);
    assert_eq!(report.problem_of(EndpointId(31), Vni::new(65_600).unwrap(), false), None);
    assert!(sandbox.run("ip addr show eth0").contains("10.0.5.2/24"));
    assert_eq!(daemon.status().drift.values().sum::<u64>(), 0, "{}", daemon.status().last_drift);

    // An older copy of the state is not gone back to.
    *daemon.source.state.lock().unwrap() = state;
    assert!(daemon.runtime.block_on(daemon.reconciler.pass_now()).is_err());
    assert!(sandbox.run("ip addr show eth0").contains("10.0.5.2/24"));

    // A sandbox that vanishes is told, with the endpoint.
    *daemon.source.state.lock().unwrap() = pair.cluster.state.clone();
    drop(sandbox);
    daemon.wait("the vanished endpoint", |s| s.vanished.keys().eq(&[EndpointId(31)]));
    drop(daemon);
    let (_, lost) = traffic.end();
    assert_eq!(lost, 0);
}
