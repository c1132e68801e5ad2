//! The loop with a kernel in memory.

use std::collections::BTreeSet;
use std::sync::Mutex;

use pontoon_store::model::id::NetworkId;
use pontoon_store::model::object::EngineNetwork;
use pontoon_store::tasks::{TaskBoard, TaskState};

use super::pace::DEBOUNCE;
use super::*;
use crate::kernel::memory::Memory;
use crate::plan::object::Kind;
use crate::plan::tests::{node, sandbox, small_state};

struct Source {
    me: Mutex<Option<NodeId>>,
    state: Mutex<State>,
    ending: Mutex<BTreeSet<EndpointId>>,
}

impl StateSource for Source {
    fn node(&self) -> Option<NodeId> {
        *self.me.lock().unwrap()
    }

    fn is_known(&self, _: &State) -> bool {
        true
    }

    fn with_state<R>(&self, look: impl FnOnce(&State, &BTreeSet<EndpointId>) -> R) -> R {
        look(&self.state.lock().unwrap(), &self.ending.lock().unwrap())
    }
}

/// A running loop.
struct Bench {
    kernel: Arc<Mutex<Memory>>,
    source: Arc<Source>,
    changes: watch::Sender<u64>,
    reconciler: Reconciler,
    tasks: TaskBoard,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Arc<Mutex<Memory>>>,
}

impl Bench {
    fn start(memory: Memory, state: State) -> Self {
        let kernel = Arc::new(Mutex::new(memory));
        let (me, state) = (Mutex::new(Some(NodeId(1))), Mutex::new(state));
        let source = Arc::new(Source { me, state, ending: Mutex::default() });
        let (changes, seen) = watch::channel(0);
        let wake = Arc::new(Notify::new());
        let tasks = TaskBoard::new(|| 0);
        let task = tasks.task("reconcile");
        let (reconciler, looping) = new(kernel.clone(), Names::default(), source.clone(), seen, wake, task);
        let stop = CancellationToken::new();
        let task = tokio::spawn(looping.run(stop.clone()));
        Self { kernel, source, changes, reconciler, tasks, stop, task }
    }

    fn status(&self) -> DataPlaneStatus {
        self.reconciler.status().borrow().clone()
    }

    /// Applies an entry.
    fn change(&self, index: u64, entry: impl FnOnce(&mut State)) {
        let mut state = self.source.state.lock().unwrap();
        entry(&mut state);
        state.applied_index = index;
        state.reindex();
        drop(state);
        self.changes.send(index).unwrap();
    }

    async fn wait(&self, condition: impl FnMut(&DataPlaneStatus) -> bool) {
        let mut status = self.reconciler.status();
        let waited = tokio::time::timeout(Duration::from_secs(10), status.wait_for(condition)).await;
        waited.expect("waited in vain").unwrap();
    }
}

#[tokio::test]
async fn a_second_daemon_finds_everything_in_place() {
    let bench = Bench::start(Memory::default(), small_state());
    bench.wait(|s| s.first_pass_done).await;
    assert!(bench.status().first_pass_steps > 10);
    assert_eq!(bench.status().reconciled_index, 7);
    bench.stop.cancel();
    let kernel = bench.task.await.unwrap().lock().unwrap().clone();
    let bench = Bench::start(kernel, small_state());
    bench.wait(|s| s.first_pass_done).await;
    assert_eq!(bench.status().first_pass_steps, 0);
}

#[tokio::test]
async fn repairs_are_counted_by_kind() {
    let bench = Bench::start(Memory::default(), small_state());
    bench.wait(|s| s.first_pass_done).await;
    let before = bench.kernel.lock().unwrap().objects.len();
    let keys: Vec<Key> = bench.kernel.lock().unwrap().objects.keys().cloned().collect();
    let neighbour = keys.iter().find(|k| matches!(k, Key::Neighbour(..))).unwrap();
    bench.kernel.lock().unwrap().remove(neighbour);
    bench.reconciler.wake();
    bench.wait(|s| s.drift.get(Kind::Neighbour.as_str()) == Some(&1)).await;
    assert!(bench.status().last_drift.starts_with("create neighbour"), "{}", bench.status().last_drift);
    assert_eq!(bench.kernel.lock().unwrap().objects.len(), before);
}

#[tokio::test]
async fn a_failed_step_is_told_to_whom_it_concerns_and_tried_again() {
    let memory = Memory { refuse: Some("eth1 in /run/netns/c12"), ..Memory::default() };
    let bench = Bench::start(memory, small_state());
    let report = bench.reconciler.pass_now().await.unwrap();
    let vni = small_state().networks.values().next().unwrap().vni;
    assert_eq!(report.problem_of(EndpointId(11), vni, true), None);
    assert_eq!(report.problem_of(EndpointId(12), vni, true).as_deref(), Some("refused"));
    assert_eq!(bench.status().failures.len(), report.failures.len());
    let shown = bench.tasks.reports().remove(0);
    assert_eq!((shown.state, shown.failures), (TaskState::Failing, 1), "{shown:?}");
    assert!(shown.last_error.is_some_and(|error| error.contains("eth1") && error.ends_with("refused")));
    // Nobody wakes the loop: it tries again by itself.
    bench.kernel.lock().unwrap().refuse = None;
    bench.wait(|s| s.failures.is_empty() && s.passes > 1).await;
    assert_eq!(bench.status().drift.values().sum::<u64>(), 0, "a late success is no repair");
    let shown = bench.tasks.reports().remove(0);
    assert_eq!((shown.state, shown.last_error), (TaskState::Idle, None));
}

#[tokio::test]
async fn a_node_that_its_cluster_does_not_know_keeps_what_it_has() {
    let bench = Bench::start(Memory::default(), small_state());
    bench.wait(|s| s.first_pass_done).await;
    let objects = bench.kernel.lock().unwrap().objects.clone();
    let mut others = small_state();
    others.nodes = [(NodeId(2), node(2, &[]))].into();
    for state in [State::default(), others] {
        *bench.source.state.lock().unwrap() = state;
        bench.changes.send(8).unwrap();
        assert!(matches!(bench.reconciler.pass_now().await, Err(PassError::NoMember)));
        assert_eq!(bench.kernel.lock().unwrap().objects, objects);
    }
    *bench.source.me.lock().unwrap() = None;
    assert!(matches!(bench.reconciler.pass_now().await, Err(PassError::NoMember)));
    assert_eq!(bench.kernel.lock().unwrap().objects, objects);
}

#[tokio::test]
async fn an_endpoint_that_is_being_ended_loses_its_interface_before_its_lease() {
    let bench = Bench::start(Memory::default(), small_state());
    bench.wait(|s| s.first_pass_done).await;
    let before = bench.kernel.lock().unwrap().objects.clone();
    bench.source.ending.lock().unwrap().insert(EndpointId(11));
    let report = bench.reconciler.pass_now().await.unwrap();
    assert_eq!((report.steps, report.kept.len()), (1, 0), "{:?}", report.failures);
    let after = bench.kernel.lock().unwrap().objects.clone();
    let (gone, stayed): (Vec<_>, Vec<_>) = before.into_iter().partition(|(key, _)| !after.contains_key(key));
    let addresses = small_state().endpoints[&EndpointId(11)].addresses.clone();
    assert_eq!(gone.len(), 1 + addresses.len(), "{gone:?}");
    for (key, _) in gone {
        match key {
            Key::Veth(egress, id) => assert_eq!((egress, id), (false, EndpointId(11))),
            Key::Address(_, _, address) => assert!(addresses.contains(&address.addr()), "{address}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(stayed.len(), after.len());
    assert_eq!(bench.status().drift.values().sum::<u64>(), 0);
    // It was not ended after all, as after a restart: it is made again.
    bench.source.ending.lock().unwrap().clear();
    assert_eq!(bench.reconciler.pass_now().await.unwrap().steps, 1 + addresses.len());
}

#[tokio::test]
async fn an_interface_that_does_not_go_is_told() {
    let bench = Bench::start(Memory::default(), small_state());
    bench.wait(|s| s.first_pass_done).await;
    bench.kernel.lock().unwrap().refuse = Some("remove veth vb ");
    bench.source.ending.lock().unwrap().extend([EndpointId(11), EndpointId(12)]);
    let report = bench.reconciler.pass_now().await.unwrap();
    assert_eq!(report.kept.keys().collect::<Vec<_>>(), [&EndpointId(11)]);
}

#[tokio::test]
async fn a_vanished_sandbox_is_told_and_its_endpoint_is_not_in_order() {
    let mut memory = Memory::default();
    memory.absent.insert(sandbox(11), SandboxState::Vanished("no such file".into()));
    memory.absent.insert(sandbox(12), SandboxState::Unreachable("permission denied".into()));
    let bench = Bench::start(memory, small_state());
    let report = bench.reconciler.pass_now().await.unwrap();
    let vni = small_state().networks.values().next().unwrap().vni;
    assert_eq!(report.problem_of(EndpointId(11), vni, true).as_deref(), Some("no such file"));
    assert_eq!(report.problem_of(EndpointId(12), vni, true).as_deref(), Some("permission denied"));
    assert_eq!(bench.status().vanished, [(EndpointId(11), sandbox(11).key)].into());
}

#[tokio::test]
async fn entries_that_concern_others_are_not_looked_at_the_kernel_for() {
    let bench = Bench::start(Memory::default(), small_state());
    let first = bench.reconciler.pass_now().await.unwrap();
    assert_eq!((first.index, first.failures.len()), (7, 0), "{:?}", first.failures);
    let before = bench.status();
    let observations = bench.kernel.lock().unwrap().observations;
    for index in 100..300 {
        bench.change(index, |state| {
            let mut network = state.networks.values().next().unwrap().clone();
            network.id = NetworkId(index);
            network.vni = Vni::new(70_000 + u32::try_from(index).unwrap()).unwrap();
            let mut endpoint = state.endpoints[&EndpointId(13)].clone();
            (endpoint.id, endpoint.network) = (EndpointId(index), network.id);
            state.networks.insert(network.id, network);
            state.endpoints.insert(endpoint.id, endpoint);
        });
        tokio::task::yield_now().await;
    }
    bench.wait(|s| s.reconciled_index == 299).await;
    let after = bench.status();
    assert_eq!(bench.kernel.lock().unwrap().observations, observations);
    assert_eq!((after.passes, after.last_pass_steps), (before.passes, before.last_pass_steps));

    // One that concerns this node is carried out.
    bench.change(300, |state| state.endpoints.get_mut(&EndpointId(13)).unwrap().node = NodeId(3));
    bench.wait(|s| s.reconciled_index == 300).await;
    assert_eq!(bench.status().passes, before.passes + 1);
    assert!(bench.status().last_pass_steps > 0);
    // A wake-up is a look, with or without a change.
    bench.reconciler.wake();
    bench.wait(|s| s.passes == before.passes + 2).await;
    assert_eq!(bench.status().last_pass_steps, 0);
}

/// Adds a network that the engine of node 1 has and nobody is on.
fn add_engine_network(state: &mut State, id: u64) -> u32 {
    let mut network = state.networks.values().next().unwrap().clone();
    let vni = 70_000 + u32::try_from(id).unwrap();
    (network.id, network.vni) = (NetworkId(id), Vni::new(vni).unwrap());
    let known =
        EngineNetwork { network: network.id, node: NodeId(1), id: format!("{id:064x}"), containers: Vec::new() };
    state.networks.insert(network.id, network);
    state.engine_networks.insert((known.network, known.node), known);
    vni
}

#[tokio::test]
async fn rules_of_networks_that_nobody_is_on_can_wait_and_of_members_cannot() {
    let bench = Bench::start(Memory::default(), small_state());
    let first = bench.reconciler.pass_now().await.unwrap();
    assert_eq!((first.index, first.failures.len()), (7, 0), "{:?}", first.failures);
    let firewall = || {
        let kernel = bench.kernel.lock().unwrap();
        let Object::Firewall(firewall) = kernel.objects[&Key::Firewall].clone() else { panic!("it is none") };
        firewall
    };
    let (before, old) = (bench.status(), firewall());
    let mut status = bench.reconciler.status();
    status.borrow_and_update();
    let mut vnis = old.vnis.clone();
    bench.change(100, |state| vnis.extend([add_engine_network(state, 100)]));
    status.changed().await.unwrap();
    let now = status.borrow_and_update().clone();
    assert_eq!((now.passes, now.reconciled_index), (before.passes, 7), "it is not put off, or said to be in order");
    assert_eq!(firewall(), old);
    // Packets of a member that is new must not be dropped for so long.
    bench.change(101, |state| {
        let mut node = state.nodes[&NodeId(3)].clone();
        (node.id, node.data_addr) = (NodeId(90), "192.168.140.90".parse().unwrap());
        state.nodes.insert(node.id, node);
    });
    status.changed().await.unwrap();
    let now = status.borrow_and_update().clone();
    assert_eq!((now.passes, now.reconciled_index), (before.passes + 1, 101));
    assert_eq!((firewall().members.len(), firewall().vnis), (old.members.len() + 1, vnis.clone()));
    // Nobody comes: it is done all the same.
    bench.change(102, |state| vnis.extend([add_engine_network(state, 102)]));
    bench.wait(|s| s.reconciled_index == 102).await;
    assert_eq!(firewall().vnis, vnis);
}

#[tokio::test]
async fn a_request_does_not_wait_for_the_events_that_others_make() {
    let bench = Bench::start(Memory::default(), small_state());
    bench.wait(|s| s.first_pass_done).await;
    for _ in 0..20 {
        bench.reconciler.wake();
        let report = tokio::time::timeout(DEBOUNCE.0, bench.reconciler.pass_now()).await;
        assert!(report.expect("it waited for more events").is_ok());
    }
}

#[tokio::test]
async fn a_loop_that_has_ended_says_so() {
    let bench = Bench::start(Memory::default(), small_state());
    bench.stop.cancel();
    bench.task.await.unwrap();
    assert!(matches!(bench.reconciler.pass_now().await, Err(PassError::Stopped)));
}
