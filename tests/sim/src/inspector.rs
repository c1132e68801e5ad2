//! Looks at every daemon again and again: whether Raft keeps its promises, and we ours.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use pontoon_store::model::id::RaftId;
use pontoon_store::rt::sim::Run;
use pontoon_store::rt::{Instant, now, sleep};
use pontoon_store::{Logged, Probe, Store};

use crate::daemon::Daemon;
use crate::notes::Notes;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(40);
/// How many entries at the end of each log it looks at.
const TAIL: u64 = 32;
/// After how many looks the objects are checked, too.
const OBJECTS_EACH: u64 = 6;

/// Term and leader of the entry before another; none: it was not looked at.
type Maker = Option<(u64, u64)>;

/// Its Raft id, and whether it observes.
type Part = (RaftId, bool);

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Inspector {
    /// Entries that somebody has applied, and the term that he was in when that was first seen.
    committed: BTreeMap<u64, (Logged, u64)>,
    /// Every entry by index, term and leader, with that before it.
    entries: BTreeMap<(u64, u64, u64), (Logged, Maker)>,
    /// Hash of the state by index.
    hashes: BTreeMap<u64, u128>,
    /// Term, committed and applied, by daemon, its run and what it is in the cluster.
    latest: BTreeMap<u64, (Run, Part, [u64; 3])>,
}

impl Inspector {
    /// Looks until a moment.
    pub(crate) async fn run(mut self, daemons: Vec<Arc<Daemon>>, notes: Notes, end: Instant) -> Self {
        let mut looks = 0;
        while now() < end && !notes.is_bad() {
            looks += 1;
            for daemon in &daemons {
                if let Some((run, store)) = daemon.up() {
                    self.look(daemon.number, &run, &store, &notes);
                    if store.observes() {
                        check_copy(daemon.number, &store, &daemons, &notes);
                    }
                    if looks % OBJECTS_EACH == 0 {
                        check_objects(daemon.number, &store, &notes);
                    }
                } else {
                    self.latest.remove(&daemon.number);
                }
            }
            sleep(LOOK).await;
        }
        self
    }

    /// Looks at one daemon.
    pub(crate) fn look(&mut self, number: u64, run: &Run, store: &Store, notes: &Notes) {
        let (probe, status) = (store.probe(TAIL), store.status());
        let figures = [probe.term, probe.committed, status.applied_index];
        let part = (store.id(), store.observes());
        let before = self.latest.insert(number, (run.clone(), part, figures));
        if let Some((known, earlier, before)) = before
            && known.is(run)
            && earlier == part
            && before.iter().zip(figures).any(|(before, after)| *before > after)
        {
            notes.violation(format!("daemon {number}: term, committed or applied fell from {before:?} to {figures:?}"));
        }
        // Raft's own figure runs ahead of the log on a slow disk, and a snapshot that was installed of one that is to be purged.
        let applied = status.snapshot_index + 1..=status.applied_index;
        self.compare_log(number, &probe, &applied, notes);
        if probe.leads {
            self.check_leader(number, &probe, notes);
        }
        let Some(hash) = status.state_hash else { return };
        if *self.hashes.entry(status.applied_index).or_insert(hash) != hash {
            let index = status.applied_index;
            notes.violation(format!("daemon {number}: its state at index {index} is not that of another"));
        }
    }

    fn compare_log(&mut self, number: u64, probe: &Probe, applied: &RangeInclusive<u64>, notes: &Notes) {
        let mut previous = None;
        for (index, entry) in &probe.log {
            let id = (*index, entry.term, entry.leader);
            let known = self.entries.entry(id).or_insert_with(|| (entry.clone(), previous));
            let same_before = previous.is_none() || known.1.is_none() || known.1 == previous;
            if known.0 != *entry || !same_before {
                notes.violation(format!(
                    "daemon {number}: entry {id:?} is another one elsewhere, or follows another one"
                ));
            }
            if known.1.is_none() {
                known.1 = previous;
            }
            previous = Some((entry.term, entry.leader));
            if applied.contains(index) {
                let (known, _) = self.committed.entry(*index).or_insert_with(|| (entry.clone(), probe.term));
                if known != entry {
                    notes.violation(format!("daemon {number}: entry {index} was committed as something else"));
                }
            }
        }
    }

    /// A leader has all that was committed in earlier terms.
    fn check_leader(&self, number: u64, probe: &Probe, notes: &Notes) {
        let Some((first, _)) = probe.log.first() else { return };
        let log: BTreeMap<u64, &Logged> = probe.log.iter().map(|(index, entry)| (*index, entry)).collect();
        let mut earlier = self.committed.range(first..).filter(|(_, (_, term))| *term < probe.term);
        if let Some((index, _)) = earlier.find(|(index, (entry, _))| log.get(index) != Some(&entry)) {
            notes.violation(format!(
                "daemon {number} leads term {} without entry {index}, which is committed",
                probe.term
            ));
        }
    }
}

/// Looks whether the objects of a daemon's state go together.
pub(crate) fn check_objects(number: u64, store: &Store, notes: &Notes) {
    for violation in store.state().check() {
        notes.violation(format!("daemon {number}: {violation}"));
    }
}

/// Looks whether an observer has what of a member's state concerns it, and nothing else.
pub(crate) fn check_copy(number: u64, store: &Store, daemons: &[Arc<Daemon>], notes: &Notes) {
    let members = daemons.iter().filter_map(|daemon| daemon.up());
    let index = store.state().applied_index;
    let same = |member: &Store| !member.observes() && member.state().applied_index == index;
    let Some((_, member)) = members.into_iter().find(|(_, member)| same(member)) else { return };
    notes.count("comparisons of observers");
    let (node, there, here) = (store.node(), member.state(), store.state());
    let networks = there.networks_of_node(node);
    let wanted: BTreeSet<_> = there.objects().filter(|object| there.concerns(object, node, &networks)).collect();
    let mut wrong = wanted.iter().filter(|object| there.watched(object) != here.watched(object));
    let more = here.objects().find(|object| !wanted.contains(object));
    if let Some(object) = wrong.next().copied().or(more) {
        notes.violation(format!("observer {number} is wrong about {object:?} at index {index}"));
    }
}
