//! What the leader does about the members: who votes, who is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, RaftMetrics};
use pontoon_proto::v1;
use thiserror::Error;

use super::propose::{Missing, ProposeError, list};
use super::read::ReadError;
use super::{Inner, Role, Store};
use crate::model::command::Command;
use crate::model::entry::Entry;
use crate::model::id::{NodeId, RaftId};
use crate::model::object::NodeState;
use crate::model::voters::{self, MembershipStep};
use crate::raft::types::{Peer, Types};
use crate::rt::{Elapsed, Instant, JoinHandle, now, sleep, sleep_until, spawn as start, timeout, timeout_at};

/// How often the leader looks.
const LOOK: Duration = Duration::from_millis(250);
/// How long a member may hear of no leader before it asks whether it is one still.
const LONELY: Duration = Duration::from_secs(5);
/// How long a node that has not reported itself is taken to be on its way, in milliseconds.
const JOINING_MS: u64 = 60_000;
/// How long one change may take.
const STEP: Duration = Duration::from_secs(5);

/// Why a member was not taken out.
#[derive(Debug, Error)]
pub enum ExpelError {
    /// There is no majority of voters.
    #[error("there is no majority of voters, and it is unknown whether the member was taken out: {}", list(.missing))]
    NoQuorum {
        /// Voters that do not answer.
        missing: Vec<Missing>,
    },
    /// It is the only voter.
    #[error("member {raft_id} is the only voter: a cluster must keep one")]
    OnlyVoter {
        /// The member.
        raft_id: RaftId,
    },
    /// This member does not apply entries any more.
    #[error("the store has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a background task failed.
#[derive(Debug, Error)]
enum TaskError {
    #[error("Raft did not change the membership: {0}")]
    Membership(String),
    #[error("changing the membership takes longer than {STEP:?}")]
    Slow,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the state of node {node} cannot be written")]
    Presence {
        node: NodeId,
        #[source]
        source: ProposeError,
    },
}

/// Starts the tasks.
pub(super) fn spawn(store: &Store) -> Vec<JoinHandle<()>> {
    let membership = {
        let (weak, task) = (Arc::downgrade(&store.0), store.0.options.tasks.task("membership"));
        let ending = store.0.ending.clone();
        async move {
            let mut ticks = Ticks::begin();
            let opened = now();
            while ending.run_until_cancelled(ticks.tick()).await.is_some() {
                let Some(store) = upgrade(&weak) else { return };
                let membership = store.metrics().membership_config;
                store.0.channels.keep(membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect());
                ending.run_until_cancelled(store.ask_whether_removed()).await;
                store.look_for_own_id();
                if now() - opened > LONELY {
                    ending.run_until_cancelled(store.ask_whether_outside()).await;
                }
                if !store.leads() {
                    continue;
                }
                task.begin();
                let step = ending.run_until_cancelled(store.adjust_membership()).await;
                task.end(step.unwrap_or(Ok(())));
            }
        }
    };
    let presence = {
        let (weak, task) = (Arc::downgrade(&store.0), store.0.options.tasks.task("presence"));
        let ending = store.0.ending.clone();
        async move {
            let mut ticks = Ticks::begin();
            let mut leads_since = None;
            while ending.run_until_cancelled(ticks.tick()).await.is_some() {
                let Some(store) = upgrade(&weak) else { return };
                if !store.leads() {
                    leads_since = None;
                    ending.run_until_cancelled(store.pass_attendance_on()).await;
                    continue;
                }
                let since = *leads_since.get_or_insert_with(now);
                task.begin();
                let done = ending.run_until_cancelled(store.tell_presence(now() - since)).await;
                task.end(done.unwrap_or(Ok(())));
            }
        }
    };
    vec![start(membership), start(presence)]
}

/// The store that a background task works for, as long as somebody has it.
pub(super) fn upgrade(weak: &Weak<Inner>) -> Option<Store> {
    weak.upgrade().map(Store)
}

/// When the leader looks: at once, and then again and again.
struct Ticks(Instant);

impl Ticks {
    fn begin() -> Self {
        Self(now())
    }

    async fn tick(&mut self) {
        sleep_until(self.0).await;
        self.0 = now() + LOOK;
    }
}

impl Store {
    /// Takes a member out of the Raft membership, on whichever member. One that is out already is no error.
    ///
    /// # Errors
    ///
    /// See [`ExpelError`]. Returns about by the deadline.
    pub async fn expel(&self, raft_id: RaftId, deadline: Duration) -> Result<(), ExpelError> {
        let end = now() + deadline;
        loop {
            if raft_id == self.id() && self.0.channels.removed().is_some() {
                return Ok(());
            }
            if let Some(reason) = self.stopped() {
                return Err(ExpelError::Stopped { reason });
            }
            let metrics = self.metrics();
            // With another node in the cluster the membership task makes that one a voter first.
            let successor = self.state().nodes.values().any(|node| node.raft_id != raft_id);
            if metrics.membership_config.voter_ids().eq([raft_id.0]) && !successor {
                return Err(ExpelError::OnlyVoter { raft_id });
            }
            if matches!(timeout_at(end, self.expel_once(&metrics, raft_id)).await, Ok(true)) {
                return Ok(());
            }
            if now() >= end {
                return Err(ExpelError::NoQuorum { missing: self.missing().await });
            }
            sleep(Duration::from_millis(25)).await;
        }
    }

    async fn expel_once(&self, metrics: &RaftMetrics<Types>, raft_id: RaftId) -> bool {
        let Some(leader) = metrics.current_leader else { return false };
        if leader == self.id().0 {
            if raft_id == self.id() {
                // The next leader does it.
                let _ = timeout(STEP, self.hand_over(|_| true)).await;
                return false;
            }
            return self.expel_here(raft_id).await;
        }
        let Some(node) = metrics.membership_config.get_node(&leader) else { return false };
        let Ok(mut client) = self.0.channels.peer(leader, node) else { return false };
        let request = v1::ExpelRequest { raft_id: raft_id.0 };
        tokio::select! {
            biased;
            answer = client.expel(self.0.channels.request(leader, request)) => {
                self.0.channels.note(&answer);
                answer.is_ok()
            }
            () = self.other_leader(leader) => false,
        }
    }

    /// A member that was retired learns of it from its own state, or from one that knows it no more.
    pub(super) fn look_for_own_id(&self) {
        // One that votes is needed until its vote was taken, whatever is written.
        // One whose place another host has taken is nobody.
        let own = self.key().public();
        let written = self.state().node_with_key(&own).map(|node| node.raft_id).filter(|_| !self.votes());
        if let Some(raft_id) = written.max(self.0.channels.renewed()).filter(|id| *id > self.id()) {
            self.0.channels.renew(raft_id);
            self.0.role.send_replace(Some(Role::Observer { raft_id }));
        }
    }

    /// A node whose place in the membership was given to others before it had it is in Raft in name only: nobody sends it
    /// anything. It has itself retired, under an id that nobody uses then.
    async fn ask_whether_outside(&self) {
        if self.leads() || !self.0.channels.alone_for(LONELY) {
            return;
        }
        let mut peers = self.0.options.members.clone();
        peers.extend(self.peers());
        peers.remove(&self.id());
        for (id, peer) in &peers {
            let Some((leader, mut client, membership)) = self.leader_known_by(id.0, peer).await else { continue };
            if membership.members.contains_key(&self.id().0) {
                continue;
            }
            let numbered = self.0.options.requests.begin().await;
            let request = v1::ProposeRequest {
                request: Some(self.request_id(numbered.number).into()),
                command: Some((&Command::RetireMember { node: self.node() }).into()),
                origin: None,
            };
            let asked = client.propose(self.0.channels.request(leader, request));
            if let Ok(answer) = timeout(STEP, asked).await {
                self.0.channels.note(&answer);
                return;
            }
        }
    }

    /// A member that does not vote stands for no election, and to one that was removed nobody sends anything: it would
    /// wait for ever. So it asks the voters that it knows, for as long as it hears of no leader.
    async fn ask_whether_removed(&self) {
        let membership = self.metrics().membership_config;
        if self.votes() || !self.0.channels.alone_for(self.0.options.timing.election_max) {
            return;
        }
        for id in membership.voter_ids() {
            let Some(node) = membership.get_node(&id) else { continue };
            let Ok(mut client) = self.0.channels.peer(id, node) else { continue };
            let asked = client.read_index(self.0.channels.request(id, v1::ReadIndexRequest {}));
            if let Ok(answer) = timeout(LOOK, asked).await {
                self.0.channels.note(&answer);
            }
        }
    }

    /// Takes a member out that is no node of the cluster any more, as the leader: the membership follows from the
    /// nodes, so the steps that it lacks do it, and a successor votes before the member ceases to. False: it has to be
    /// tried again.
    pub(crate) async fn expel_here(&self, raft_id: RaftId) -> bool {
        let gone = || self.metrics().membership_config.get_node(&raft_id.0).is_none();
        if !gone()
            && let Err(error) = self.adjust_membership().await
        {
            tracing::debug!(%error, member = %raft_id, "a member is not out yet");
        }
        self.leads() && gone()
    }

    /// Takes one step towards the membership that the cluster should have.
    async fn adjust_membership(&self) -> Result<(), TaskError> {
        let Some(consensus) = self.consensus() else { return Ok(()) };
        let _one_at_a_time = consensus.changing.lock().await;
        let metrics = self.metrics();
        if *metrics.membership_config.log_id() > metrics.last_applied {
            // Another change is under way, which an earlier leader may have begun.
            return Ok(());
        }
        let configs = metrics.membership_config.get_joint_config();
        if let [_, target] = configs.as_slice() {
            // An earlier leader did not finish.
            return self.change(ChangeMembers::ReplaceAllVoters(target.clone()), true).await;
        }
        if voters::next_step(&self.known(&metrics)).is_none() && self.moved(&metrics).is_empty() {
            return Ok(());
        }
        // A new leader may not have applied yet what the membership follows from.
        self.read_barrier(STEP).await?;
        let metrics = self.metrics();
        let moved = self.moved(&metrics);
        if !moved.is_empty() && self.leads() {
            tracing::info!(?moved, "members are reached elsewhere");
            return self.change(ChangeMembers::SetNodes(moved), true).await;
        }
        let known = self.known(&metrics);
        let Some(step) = voters::next_step(&known).filter(|_| self.leads()) else { return Ok(()) };
        tracing::info!(?step, "the membership changes");
        match step {
            MembershipStep::HandOver { heirs } => {
                // If nobody takes it, it is tried again.
                let _ = timeout(STEP, self.hand_over(|id| heirs.contains(&id))).await;
                Ok(())
            }
            MembershipStep::AddLearner(id) => {
                let peer = self
                    .state()
                    .node_with_raft_id(id)
                    .map(|node| Peer { address: node.advertise.to_string(), key: node.public_key });
                let Some(peer) = peer else { return Ok(()) };
                let added = timeout(STEP, consensus.raft.add_learner(id.0, peer, false)).await;
                settle(added.map(|result| result.map(drop)))
            }
            MembershipStep::Promote { voters } => {
                let voters = voters.into_iter().map(|id| id.0).collect();
                self.change(ChangeMembers::ReplaceAllVoters(voters), true).await?;
                let membership = self.membership();
                let votes = |id: &RaftId| membership.voter_ids().any(|voter| voter == id.0);
                let replaced = known.gone.iter().filter(|id| known.nodes.contains_key(id) && !votes(id)).count();
                consensus.replaced.fetch_add(replaced as u64, Ordering::Relaxed);
                Ok(())
            }
            MembershipStep::Retire(id) => {
                let node = self.state().node_with_raft_id(id).map(|node| node.id);
                let Some(node) = node else { return Ok(()) };
                // Under the id that it has in the membership it is a stranger then, and goes. Only this leader may: what another
                // one decides is not known here.
                let numbered = self.0.options.requests.begin().await;
                let request = self.request_id(numbered.number);
                let open = AtomicBool::new(false);
                let entry = Entry { time_ms: 0, request, command: Command::RetireMember { node }, origin: None };
                let written = timeout(STEP, self.propose_here(entry, &open));
                written.await.map(drop).map_err(|_| TaskError::Slow)
            }
            MembershipStep::Remove(id) => self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id.0])), true).await,
        }
    }

    /// The members that are reached elsewhere than the membership says. Who answers there is seen by the key.
    fn moved(&self, metrics: &RaftMetrics<Types>) -> BTreeMap<u64, Peer> {
        let state = self.state();
        let nodes = metrics.membership_config.nodes().filter_map(|(id, peer)| {
            let node = state.node_with_raft_id(RaftId(*id)).filter(|node| node.public_key == peer.key)?;
            let address = node.advertise.to_string();
            if address == peer.address { None } else { Some((*id, Peer { address, key: peer.key })) }
        });
        nodes.collect()
    }

    async fn change(&self, change: ChangeMembers<u64, Peer>, retain: bool) -> Result<(), TaskError> {
        let Some(consensus) = self.consensus() else { return Ok(()) };
        let changed = timeout(STEP, consensus.raft.change_membership(change, retain)).await;
        settle(changed.map(|result| result.map(drop)))
    }

    /// Writes which nodes are there, where that changed.
    async fn tell_presence(&self, led_for: Duration) -> Result<(), TaskError> {
        let down_after = self.0.options.timing.down_after;
        let metrics = self.metrics();
        let is_member = |id: &u64| metrics.membership_config.get_node(id).is_some();
        let nodes: BTreeSet<u64> = self.state().nodes.values().map(|node| node.raft_id.0).collect();
        self.0.attendance.expect(&nodes.into_iter().filter(|id| !is_member(id)).collect());
        let heard = self.heard(&metrics);
        let (me, now_ms) = (self.id(), (self.0.options.clock)());
        let changed: Vec<(NodeId, NodeState)> = {
            let state = self.state();
            let news = state.nodes.values().filter_map(|node| {
                let age = if node.raft_id == me { Some(Duration::ZERO) } else { heard.get(&node.raft_id.0).copied() };
                let there = age.is_some_and(|age| age < down_after);
                let never_came = now_ms > node.joined_ms + JOINING_MS;
                match node.state {
                    NodeState::Joining if !there && never_came && led_for > down_after => {
                        Some((node.id, NodeState::Down))
                    }
                    NodeState::Down if there => Some((node.id, NodeState::Ready)),
                    // A new leader first has to hear from everybody.
                    NodeState::Ready if !there && led_for > down_after => Some((node.id, NodeState::Down)),
                    _ => None,
                }
            });
            news.collect()
        };
        for (node, state) in changed {
            let written = self.propose(Command::SetNodeState { node, state }, STEP).await;
            written.map_err(|source| TaskError::Presence { node, source })?;
        }
        Ok(())
    }
}

type Changed = Result<Result<(), RaftError<Types, ClientWriteError<Types>>>, Elapsed>;

fn settle(changed: Changed) -> Result<(), TaskError> {
    match changed {
        Ok(Ok(())) => Ok(()),
        // The next leader goes on.
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Ok(()),
        // Another change first; it is looked at again afterwards.
        Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_))))) => {
            Ok(())
        }
        Ok(Err(error)) => Err(TaskError::Membership(crate::error_chain(&error))),
        Err(_) => Err(TaskError::Slow),
    }
}
