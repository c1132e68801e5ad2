//! What goes wrong: hosts die and come back, lose their disks, stand still, are cut off, and have slow disks and links.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pontoon_store::model::command::Command;
use pontoon_store::model::object::Voting;
use pontoon_store::model::voters::seats;
use pontoon_store::rt::sim::Chance;
use pontoon_store::rt::sim::fs::Latency;
use pontoon_store::rt::sim::link::Net;
use pontoon_store::rt::{Instant, now, sleep, spawn};
use pontoon_store::{ProposeError, Store};

use crate::clients::Clients;
use crate::daemon::{DEADLINE, Daemon};

/// How long a disk that is well takes for a sync.
const WELL: Latency = Latency(Duration::from_micros(200), Duration::from_millis(2));
/// How long one that is not takes.
const SLOW: Latency = Latency(Duration::from_millis(20), Duration::from_millis(400));
/// How long a message takes on links that are well, and on others.
const NEAR: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(1));
const FAR: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(80));
/// How long an administrator waits before he tries again.
const AGAIN: Duration = Duration::from_millis(200);

/// Does it. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Nemesis {
    daemons: Vec<Arc<Daemon>>,
    net: Net,
    clients: Clients,
    /// What is under way, and ends by itself.
    open: Arc<AtomicUsize>,
    /// Of that, what takes a node's place.
    replacing: Arc<AtomicUsize>,
    reuses_ids: bool,
}

impl Nemesis {
    pub(crate) fn new(daemons: Vec<Arc<Daemon>>, net: Net, clients: Clients, reuses_ids: bool) -> Self {
        Self { daemons, net, clients, open: Arc::default(), replacing: Arc::default(), reuses_ids }
    }

    /// Lets something go wrong again and again, until a moment.
    pub(crate) async fn run(self, mut chance: Chance, end: Instant) {
        while now() < end && !self.clients.notes.is_bad() {
            sleep(Duration::from_millis(50 + chance.below(900))).await;
            let pause = Duration::from_millis(20 + chance.below(1800));
            let daemon = Arc::clone(&self.daemons[chance.below(self.daemons.len() as u64) as usize]);
            match chance.below(18) {
                0..=2 => self.kill(daemon, chance.once_in(2), pause),
                3..=4 => self.kill_all(&mut chance),
                5..=6 => self.cut_off(&daemon, &mut chance, pause),
                7..=8 => self.divide(&mut chance, pause),
                9..=10 => self.stand_still(&daemon, pause),
                11 => self.slow_disk(daemon, pause),
                12 => self.slow_links(pause),
                13..=14 => self.restart(daemon, pause),
                15 => self.replace(daemon, pause),
                _ => self.set_voting(&daemon, chance.once_in(2), chance.below(self.daemons.len() as u64)),
            }
        }
    }

    /// Whether everything that it did has come to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    fn begin(&self, name: &'static str, what: String) {
        self.clients.notes.count(name);
        self.clients.notes.event(format!("{name}{what}"));
    }

    /// Something that ends by itself.
    fn meanwhile(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.open.fetch_add(1, Ordering::Relaxed);
        let open = Arc::clone(&self.open);
        drop(spawn(async move {
            work.await;
            open.fetch_sub(1, Ordering::Relaxed);
        }));
    }

    fn kill(&self, daemon: Arc<Daemon>, reboot: bool, pause: Duration) {
        if !daemon.is_on() {
            return;
        }
        self.begin("kills", format!(": {}, its host {reboot}", daemon.number));
        daemon.kill(reboot);
        self.meanwhile(async move {
            sleep(pause).await;
            daemon.start();
        });
    }

    fn kill_all(&self, chance: &mut Chance) {
        self.begin("kills of all at once", String::new());
        for daemon in &self.daemons {
            self.kill(Arc::clone(daemon), true, Duration::from_millis(20 + chance.below(600)));
        }
    }

    fn cut_off(&self, daemon: &Daemon, chance: &mut Chance, pause: Duration) {
        let me = daemon.number;
        let others = self.daemons.iter().map(|daemon| daemon.number).filter(|other| *other != me);
        let pairs: Vec<(u64, u64)> = match chance.below(3) {
            0 => others.map(|other| (me, other)).collect(),
            1 => others.map(|other| (other, me)).collect(),
            _ => others.flat_map(|other| [(me, other), (other, me)]).collect(),
        };
        self.begin("cuts", format!(": {pairs:?}"));
        self.cut(pairs, pause);
    }

    fn divide(&self, chance: &mut Chance, pause: Duration) {
        let sides: Vec<bool> = self.daemons.iter().map(|_| chance.once_in(2)).collect();
        let mut pairs = Vec::new();
        for (from, side) in self.daemons.iter().zip(&sides) {
            let others = self.daemons.iter().zip(&sides).filter(|(_, other)| *other != side);
            pairs.extend(others.map(|(to, _)| (from.number, to.number)));
        }
        self.begin("divisions", format!(": {pairs:?}"));
        self.cut(pairs, pause);
    }

    fn cut(&self, pairs: Vec<(u64, u64)>, pause: Duration) {
        pairs.iter().for_each(|(from, to)| self.net.cut(*from, *to));
        let net = self.net.clone();
        self.meanwhile(async move {
            sleep(pause).await;
            pairs.iter().for_each(|(from, to)| net.mend(*from, *to));
        });
    }

    fn stand_still(&self, daemon: &Daemon, pause: Duration) {
        let Some((run, _)) = daemon.up() else { return };
        self.begin("pauses", format!(": {}", daemon.number));
        run.pause();
        self.meanwhile(async move {
            sleep(pause).await;
            run.resume();
        });
    }

    fn slow_disk(&self, daemon: Arc<Daemon>, pause: Duration) {
        self.begin("slow disks", format!(": {}", daemon.number));
        daemon.host.disk.set_latency(SLOW);
        self.meanwhile(async move {
            sleep(pause).await;
            daemon.host.disk.set_latency(WELL);
        });
    }

    fn slow_links(&self, pause: Duration) {
        self.begin("slow links", String::new());
        self.net.set_latency(FAR.0, FAR.1);
        let net = self.net.clone();
        self.meanwhile(async move {
            sleep(pause).await;
            net.set_latency(NEAR.0, NEAR.1);
        });
    }

    /// Ends a daemon in good order, and starts it again.
    fn restart(&self, daemon: Arc<Daemon>, pause: Duration) {
        if daemon.up().is_none() {
            return;
        }
        self.begin("restarts", format!(": {}", daemon.number));
        self.meanwhile(async move {
            daemon.stop().await;
            sleep(pause / 4).await;
            daemon.start();
        });
    }

    /// An administrator says whether a node is to vote.
    fn set_voting(&self, daemon: &Daemon, demote: bool, through: u64) {
        let (Some(node), through) = (daemon.node(), Arc::clone(&self.daemons[through as usize])) else { return };
        let voting = if demote { Voting::Demoted } else { Voting::Auto };
        self.begin("promotions and demotions", format!(": {} {voting:?}", daemon.number));
        self.meanwhile(async move {
            let command = Command::SetVoting { node, voting };
            through.on(|store| async move { store.propose(command, DEADLINE).await }).await;
        });
    }

    /// Whether everybody is there, and knows as many voters as there are to be, of which one can go.
    fn is_complete(&self) -> bool {
        let stands_a_loss = |store: &Store| has_its_members(store) && store.status().voters.len() >= 3;
        self.daemons.iter().all(|daemon| daemon.up().is_some_and(|(_, store)| stands_a_loss(&store)))
    }

    /// A host loses its disk. Its node is removed, and it joins anew.
    fn replace(&self, daemon: Arc<Daemon>, pause: Duration) {
        let (Some(node), Some(raft_id)) = (daemon.node(), daemon.raft_id()) else { return };
        // The founder's labels are the registers. A majority of the voters must be left.
        if daemon.number == 1 || !self.is_complete() || self.replacing.swap(1, Ordering::Relaxed) > 0 {
            return;
        }
        self.begin("lost disks", format!(": {}", daemon.number));
        self.clients.give_up(node);
        daemon.kill(true);
        daemon.wipe();
        let this = self.clone();
        self.meanwhile(async move {
            sleep(pause / 4).await;
            daemon.start();
            if !this.reuses_ids {
                let others = || this.daemons.iter().filter(|other| other.number != daemon.number);
                let remove = Command::RemoveNode { node, force: true };
                let mut through = others().cycle();
                for other in through.by_ref() {
                    let remove = remove.clone();
                    let removed = other.on(|store| async move { store.propose(remove, DEADLINE).await }).await;
                    // Refused: it is no node any more.
                    if let Some(Ok(_) | Err(ProposeError::Rejected(_))) = removed {
                        break;
                    }
                    sleep(AGAIN).await;
                }
                for other in through.by_ref() {
                    let expelled = other.on(|store| async move { store.expel(raft_id, DEADLINE).await }).await;
                    if let Some(Ok(())) = expelled {
                        break;
                    }
                    sleep(AGAIN).await;
                }
                while daemon.node().is_none() {
                    if let Some(other) = through.next() {
                        daemon.join(other.address()).await;
                    }
                    sleep(AGAIN).await;
                }
                this.clients.notes.event(format!("{} has joined anew", daemon.number));
            }
            this.replacing.store(0, Ordering::Relaxed);
        });
    }
}

/// Whether all nodes that may vote are members, and as many of them vote as are to, as far as a node knows. Where those that
/// may are too few to stand a loss, those that were demoted go on.
pub(crate) fn has_its_members(store: &Store) -> bool {
    let status = store.status();
    let state = store.state();
    let (nodes, demoted): (Vec<_>, Vec<_>) = state.nodes.values().partition(|node| node.voting != Voting::Demoted);
    let still = demoted.iter().filter(|node| status.voters.contains(&node.raft_id)).count();
    let all = seats(None, nodes.len() + demoted.len());
    let few = seats(None, nodes.len()) < all.min(3);
    let most = all.min(nodes.len() + still);
    let odd = most - usize::from(most > 0 && most.is_multiple_of(2));
    let (voters, more) = if few { (odd, still) } else { (seats(None, nodes.len()), 0) };
    status.voters.len() == voters && status.members.len() == nodes.len() + more
}
