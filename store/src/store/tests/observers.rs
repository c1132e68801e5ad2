//! Observers: nodes outside the Raft membership.

use std::collections::BTreeSet;

use super::*;
use crate::model::object::Voting;
use crate::model::state::State;
use crate::watch::Watching;

/// How soon a write is to be seen on an observer, in a debug build on a busy machine.
const SOON: Duration = Duration::from_secs(2);

impl Daemon {
    /// Becomes what the leader wants it to be.
    async fn change_role(&self) {
        let old = self.store();
        let Ok(role) = tokio::time::timeout(PATIENCE, old.other_role()).await else {
            panic!("nobody wants it to change")
        };
        let (members, requests) = (old.peers(), old.requests());
        match role {
            Role::Observer { raft_id } => {
                let seed = old.state().clone();
                old.shutdown().await;
                for part in ["log", "state", "snapshots"] {
                    std::fs::remove_dir_all(self.dir.path().join(part)).unwrap();
                }
                let options = StoreOptions { members, requests, ..self.options(raft_id) };
                self.slot.set(Some(Store::observe(options, Some(seed)).await.unwrap()));
            }
            Role::Member => {
                let store = Store::open(StoreOptions { members, requests, ..self.options(old.id()) }).await.unwrap();
                self.slot.set(Some(store.clone()));
                let known = *old.applied().borrow();
                let caught_up = tokio::time::timeout(PATIENCE, store.wait_applied(known)).await;
                assert!(caught_up.is_ok(), "it gets no log");
                old.shutdown().await;
            }
        }
    }

    async fn observe_again(&mut self, id: RaftId, members: BTreeMap<RaftId, Peer>) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
        self.run += 100;
        let options = StoreOptions { members, ..self.options(id) };
        self.slot.set(Some(Store::observe(options, None).await.unwrap()));
    }

    /// Stops it without any farewell, whatever it is.
    async fn vanish(&mut self) -> RaftId {
        let store = self.store();
        if !store.observes() {
            return self.kill().await;
        }
        self.slot.set(None);
        self.free_port().await;
        store.0.ending.cancel();
        for task in store.0.tasks.lock().await.drain(..) {
            task.await.unwrap();
        }
        store.id()
    }

    /// The same, and nothing of what it followed has reached the disk.
    async fn vanish_with_its_copy(&mut self) -> RaftId {
        let id = self.vanish().await;
        std::fs::remove_dir_all(self.dir.path().join("observed")).unwrap();
        id
    }
}

async fn vote(through: &Store, node: NodeId, voting: Voting) {
    through.propose(Command::SetVoting { node, voting }, DEADLINE).await.unwrap();
}

/// Three voters, and an observer that is ready.
async fn three_and_an_observer() -> Vec<Daemon> {
    let mut daemons = Vec::from(three().await);
    let fourth = Daemon::start(4).await;
    fourth.join(&daemons[0]).await;
    fourth.report().await;
    vote(&daemons[0].store(), fourth.store().node(), Voting::Demoted).await;
    fourth.change_role().await;
    assert!(fourth.store().observes());
    daemons.push(fourth);
    daemons
}

/// The state without what watchers are not told.
fn objects(daemon: &Daemon) -> State {
    let mut state = daemon.store().state().clone();
    state.sessions.clear();
    // Only members have them.
    state.sealed_key.clear();
    state.audit.clear();
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_reads_and_writes_like_any_node() {
    let daemons = three_and_an_observer().await;
    let (fourth, lead) = (&daemons[3], daemons[leader(&daemons)].store());
    let node = fourth.store().node();
    fourth.create("from-observer").await.unwrap();
    assert!(fourth.networks().contains(&"from-observer".to_owned()), "a write is seen by whoever has made it");
    daemons[1].create("from-member").await.unwrap();
    fourth.store().read_barrier(SOON).await.unwrap();
    assert!(fourth.networks().contains(&"from-member".to_owned()), "a read sees what was acknowledged before");
    daemons[0].store().read_barrier(DEADLINE).await.unwrap();
    fourth.store().read_barrier(DEADLINE).await.unwrap();
    until("it has all objects", || objects(fourth) == objects(&daemons[0])).await;
    let audited = |daemon: &Daemon| daemon.store().state().audit.len();
    assert!(audited(&daemons[0]) > 0 && audited(fourth) == 0, "an observer asks a member who has done what");
    until("it is in the membership no more", || lead.status().members.len() == 3).await;
    until("the leader hears of it", || {
        lead.status().observers.get(&fourth.store().id()).is_some_and(|(_, at)| *at > 0)
    })
    .await;
    assert_eq!(lead.state().nodes[&node].state, NodeState::Ready);
    let known = fourth.store().status();
    assert_eq!((known.leader, known.voters.len(), known.state_hash), (Some(lead.id()), 3, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_observer_votes_and_a_demoted_voter_observes() {
    let daemons = three_and_an_observer().await;
    let fourth = &daemons[3];
    let (node, id) = (fourth.store().node(), fourth.store().id());
    vote(&fourth.store(), node, Voting::Promoted).await;
    fourth.change_role().await;
    assert!(fourth.store().id() == id && !fourth.store().observes());
    assert!(fourth.store().wait_voting(id, true, PATIENCE).await);
    fourth.create("while-it-votes").await.unwrap();
    vote(&fourth.store(), node, Voting::Demoted).await;
    fourth.change_role().await;
    assert!(fourth.store().id() > id && fourth.store().observes(), "an id that had a log is not used again");
    assert_eq!(fourth.networks(), ["while-it-votes"], "it goes on with what it had");
    fourth.create("while-it-observes").await.unwrap();
    until("the others know the voters", || daemons[0].store().status().voters.len() == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_nobody_answers_has_what_it_had() {
    let mut daemons = three_and_an_observer().await;
    daemons[3].create("kept").await.unwrap();
    let members = daemons[3].store().peers();
    for daemon in &mut daemons[..3] {
        daemon.vanish().await;
    }
    let id = daemons[3].vanish().await;
    daemons[3].observe_again(id, BTreeMap::new()).await;
    let store = daemons[3].store();
    assert_eq!(daemons[3].networks(), ["kept"]);
    assert_eq!(store.peers(), members, "it knows whom to ask");
    let error = store.read_barrier(SOON).await.unwrap_err();
    assert!(error.to_string().contains("host-1"), "{error}");
    assert!(matches!(daemons[3].create("lost").await, Err(ProposeError::NoQuorum { missing }) if missing.len() == 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_goes_on_at_another_member() {
    let mut daemons = three_and_an_observer().await;
    for round in 0..3 {
        let id = daemons[round].vanish().await;
        daemons[3].create(&format!("round-{round}")).await.unwrap();
        daemons[round].restart(id).await;
        daemons[round].store().read_barrier(PATIENCE).await.unwrap();
    }
    assert_eq!(daemons[3].networks(), ["round-0", "round-1", "round-2"]);
}

/// What they do not take would fill the connection that it follows on, too.
#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_take_nothing_do_not_hold_an_observer_up() {
    let daemons = three_and_an_observer().await;
    daemons[0].create_many(200, 400).await;
    let observer = daemons[3].store();
    until("the observer has them", || daemons[3].networks().len() == 200).await;
    let mut watchers = Vec::new();
    for _ in 0..30 {
        let request = pontoon_proto::v1::WatchRequest::default();
        watchers.push(observer.watch(request, observer.ending(), Watching::default()).await.unwrap());
    }
    for number in 0..20 {
        daemons[0].create(&format!("more-{number}")).await.unwrap();
    }
    until("the observer goes on", || daemons[3].networks().len() == 220).await;
    drop(watchers);
}

/// While it was away, each of them ceased to be a member and became one again, and its own copy did not reach the disk.
#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_knows_all_members_by_earlier_ids_finds_them() {
    let mut daemons = three_and_an_observer().await;
    daemons[0].create("there").await.unwrap();
    let members = daemons[3].store().peers();
    let id = daemons[3].vanish_with_its_copy().await;
    let earlier = members.into_iter().map(|(id, peer)| (RaftId(id.0 + 1_000), peer)).collect();
    daemons[3].observe_again(id, earlier).await;
    daemons[3].store().read_barrier(PATIENCE).await.unwrap();
    assert_eq!(daemons[3].networks(), ["there"]);
}

/// It had nobody to ask any more, for good.
#[tokio::test(flavor = "multi_thread")]
async fn an_observer_does_not_believe_that_there_are_no_members() {
    let mut daemons = three_and_an_observer().await;
    let members = daemons[3].store().peers();
    for daemon in &mut daemons[..3] {
        daemon.vanish().await;
    }
    let id = daemons[3].vanish_with_its_copy().await;
    daemons[3].observe_again(id, members.clone()).await;
    let store = daemons[3].store();
    let membership = Some(pontoon_proto::v1::Membership::default());
    let told = pontoon_proto::v1::AttendResponse { term: 9, leader: 1, membership, membership_log_id: None };
    store.observing().unwrap().take_told(told).unwrap();
    assert_eq!(store.status().leader, Some(RaftId(1)));
    assert_eq!(store.peers(), members);
}

/// One that starts does not know who leads, and a third of all would follow the leader by chance.
#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_starts_follows_the_leader_last() {
    let mut daemons = three_and_an_observer().await;
    let members = daemons[3].store().peers();
    let mut have_led = BTreeSet::new();
    while have_led.len() < 3 {
        let leading = leader(&daemons[..3]);
        have_led.insert(leading);
        let id = daemons[3].vanish().await;
        let follows = |daemon: &Daemon| daemon.slot.watching().now.get() > 0;
        until("nobody is followed", || !daemons[..3].iter().any(follows)).await;
        daemons[3].observe_again(id, members.clone()).await;
        until("it follows", || daemons[..3].iter().any(follows)).await;
        assert!(!follows(&daemons[leading]), "it follows host-{}, which leads", leading + 1);
        let leads = daemons[leading].store();
        leads.resign().await;
        let knows = |daemon: &Daemon| daemon.store().status().leader.is_some_and(|id| id != leads.id());
        until("all know the new leader", || daemons[..3].iter().all(knows)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_is_too_far_behind_begins_anew() {
    let mut daemons = three_and_an_observer().await;
    daemons[0].create("before").await.unwrap();
    let members = daemons[3].store().peers();
    let id = daemons[3].vanish().await;
    let State { networks, .. } = objects(&daemons[0]);
    let network = *networks.keys().next().unwrap();
    daemons[0].store().propose(Command::RemoveNetwork { network }, DEADLINE).await.unwrap();
    daemons[0].create("meanwhile").await.unwrap();
    // They remember nothing of what has changed before they were started.
    for daemon in &mut daemons[..3] {
        let id = daemon.vanish().await;
        daemon.restart(id).await;
        daemon.store().read_barrier(PATIENCE).await.unwrap();
    }
    let compacted: u64 = daemons.iter().map(|daemon| daemon.slot.watching().compacted.get()).sum();
    daemons[3].observe_again(id, members).await;
    daemons[3].store().read_barrier(PATIENCE).await.unwrap();
    assert_eq!(daemons[3].networks(), ["meanwhile"]);
    assert!(daemons.iter().map(|daemon| daemon.slot.watching().compacted.get()).sum::<u64>() > compacted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_retired_while_it_was_away_learns_of_it() {
    let mut daemons = Vec::from(three().await);
    let mut fourth = Daemon::start(4).await;
    fourth.join(&daemons[0]).await;
    fourth.report().await;
    let node = fourth.store().node();
    let id = fourth.kill().await;
    vote(&daemons[0].store(), node, Voting::Demoted).await;
    until("it is retired", || daemons[0].store().state().nodes[&node].raft_id != id).await;
    until("it is out", || !daemons[0].store().status().members.contains_key(&id)).await;
    fourth.restart(id).await;
    fourth.change_role().await;
    assert!(fourth.store().observes());
    fourth.create("back").await.unwrap();
    daemons.push(fourth);
    until("it is heard of", || daemons[0].store().state().nodes[&node].state == NodeState::Ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_was_removed_says_so() {
    let daemons = three_and_an_observer().await;
    let store = daemons[3].store();
    daemons[0].store().propose(Command::RemoveNode { node: store.node(), force: false }, DEADLINE).await.unwrap();
    until("it knows", || store.removed().is_some()).await;
    let error = daemons[3].create("refused").await.unwrap_err();
    assert!(matches!(&error, ProposeError::Stopped { reason } if reason.contains("removed")), "{error}");
    store.expel(store.id(), DEADLINE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_is_away_is_down_and_ready_when_it_is_back() {
    let mut daemons = three_and_an_observer().await;
    let node = daemons[3].store().node();
    let members = daemons[3].store().peers();
    let is = |daemons: &[Daemon], state| daemons[0].store().state().nodes[&node].state == state;
    assert!(is(&daemons, NodeState::Ready), "also while it changed");
    let id = daemons[3].vanish().await;
    until("it is down", || is(&daemons, NodeState::Down)).await;
    daemons[3].observe_again(id, members).await;
    until("it is ready", || is(&daemons, NodeState::Ready)).await;
}
