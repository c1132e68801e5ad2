//! What is on a simulated disk, and what is only about to be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::chance::Chance;
use super::super::{Instant, Run, now};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// How long a sync takes, at least and at most.
#[derive(Debug, Clone, Copy)]
pub struct Latency(pub Duration, pub Duration);

/// A disk. Clones are the same.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) folders: BTreeSet<PathBuf>,
    /// Names as everybody sees them.
    pub(super) names: BTreeMap<PathBuf, u64>,
    /// Names as they are on the disk.
    lasting: BTreeMap<PathBuf, u64>,
    /// Changes of names that may not be on the disk yet.
    changes: Vec<Pending<Name>>,
    pub(super) files: BTreeMap<u64, Contents>,
    next: u64,
    latency: Latency,
    /// A sync of data is said to be over, and is not.
    pub(super) lies: bool,
    /// Decides how long a sync takes, and what a crash leaves.
    chance: Chance,
}

/// Something that may not be on the disk yet.
#[derive(Debug, Clone)]
struct Pending<T> {
    what: T,
    /// When it is asked for. What comes behind a sync is, once that is over.
    begins: Instant,
    /// When a sync that covers it is over; none: it was not synced.
    lasts: Option<Instant>,
}

impl<T> Pending<T> {
    fn new(what: T, run: &Run) -> Self {
        Self { what, begins: run.busy_until().unwrap_or_else(now), lasts: None }
    }

    fn is_lasting(&self) -> bool {
        self.lasts.is_some_and(|lasts| lasts <= now())
    }
}

/// A change of names.
#[derive(Debug, Clone)]
pub(super) enum Name {
    Give(PathBuf, u64),
    Move(PathBuf, PathBuf),
    Remove(PathBuf),
    RemoveFolder(PathBuf),
}

/// What is in a file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// As everybody sees it.
    pub(super) data: Vec<u8>,
    /// As it is on the disk.
    lasting: Vec<u8>,
    /// What may not be on the disk yet.
    writes: Vec<Pending<Write>>,
    /// Whether somebody has locked it.
    pub(super) locked: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Write {
    Data(u64, Vec<u8>),
    Length(u64),
}

impl Write {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Self::Length(length) => data.resize(*length as usize, 0),
            Self::Data(offset, bytes) => {
                let (begin, end) = (*offset as usize, *offset as usize + bytes.len());
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[begin..end].copy_from_slice(bytes);
            }
        }
    }

    /// Its parts that reach the disk whole or not at all.
    fn sectors(&self) -> Vec<Self> {
        let Self::Data(offset, bytes) = self else { return vec![self.clone()] };
        let (mut parts, mut done) = (Vec::new(), 0);
        while done < bytes.len() {
            let at = *offset as usize + done;
            let length = (SECTOR - at % SECTOR).min(bytes.len() - done);
            parts.push(Self::Data(at as u64, bytes[done..done + length].to_vec()));
            done += length;
        }
        parts
    }
}

impl Disk {
    /// An empty disk, whose luck follows from the seed.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            folders: BTreeSet::new(),
            names: BTreeMap::new(),
            lasting: BTreeMap::new(),
            changes: Vec::new(),
            files: BTreeMap::new(),
            next: 1,
            latency: Latency(Duration::from_micros(200), Duration::from_millis(2)),
            lies: false,
            chance: Chance::new(seed),
        })))
    }

    /// How long syncs take from now on.
    pub fn set_latency(&self, latency: Latency) {
        self.state().latency = latency;
    }

    /// From now on a sync of data is said to be over while nothing is on the disk: so it is for a program that does not wait
    /// for it.
    pub fn lie(&self) {
        self.state().lies = true;
    }

    /// Removes everything.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.folders.clear();
        state.names.clear();
        state.lasting.clear();
        state.changes.clear();
        state.files.clear();
    }

    /// Whether there is nothing on it.
    pub fn is_empty(&self) -> bool {
        self.state().names.is_empty()
    }

    /// Leaves of what was not synced what chance leaves.
    pub(in super::super) fn crash(&self) {
        let mut state = self.state();
        state.settle();
        let mut changes = std::mem::take(&mut state.changes);
        changes.retain(|change| change.begins <= now());
        let kept = state.chance_below(changes.len() + 1);
        let mut lasting = std::mem::take(&mut state.lasting);
        changes.iter().take(kept).for_each(|change| change.what.apply(&mut lasting));
        let used: BTreeSet<u64> = lasting.values().copied().collect();
        state.files.retain(|id, _| used.contains(id));
        for id in used {
            // None of it, what came first, any of it, or all of it.
            let luck = state.chance_below(4);
            let writes = state.files.get_mut(&id).map(|file| std::mem::take(&mut file.writes)).unwrap_or_default();
            let asked = writes.iter().filter(|write| write.begins <= now());
            let parts: Vec<Write> = asked.flat_map(|write| write.what.sectors()).collect();
            let first = state.chance_below(parts.len() + 1);
            let kept = |state: &mut State, at: usize| match luck {
                0 => false,
                1 => at < first,
                2 => state.chance_below(2) == 0,
                _ => true,
            };
            let kept: Vec<bool> = (0..parts.len()).map(|at| kept(&mut state, at)).collect();
            let Some(file) = state.files.get_mut(&id) else { continue };
            let parts = parts.iter().zip(kept).filter(|(_, kept)| *kept);
            parts.for_each(|(write, _)| write.apply(&mut file.lasting));
            file.data = file.lasting.clone();
            file.locked = false;
        }
        // A folder that was removed is there again with what is in it.
        let folders: Vec<PathBuf> = lasting.keys().filter_map(|name| name.parent().map(Path::to_owned)).collect();
        state.folders.extend(folders);
        state.names = lasting.clone();
        state.lasting = lasting;
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Name {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Give(path, file) => drop(names.insert(path.clone(), *file)),
            Self::Remove(path) => drop(names.remove(path)),
            Self::RemoveFolder(folder) => names.retain(|path, _| !path.starts_with(folder)),
            Self::Move(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }

    fn concerns(&self, folder: &Path) -> bool {
        let (Self::Give(path, _) | Self::Move(_, path) | Self::Remove(path) | Self::RemoveFolder(path)) = self;
        path.parent() == Some(folder)
    }
}

impl State {
    /// Changes a name.
    pub(super) fn change(&mut self, change: Name, run: &Run) {
        change.apply(&mut self.names);
        self.changes.push(Pending::new(change, run));
    }

    /// Makes an empty file.
    pub(super) fn create(&mut self, path: &Path, run: &Run) -> u64 {
        let id = self.next;
        self.next += 1;
        self.files.insert(id, Contents::default());
        self.change(Name::Give(path.to_owned(), id), run);
        id
    }

    pub(super) fn write(&mut self, file: u64, write: Write, run: &Run) {
        if let Some(file) = self.files.get_mut(&file) {
            write.apply(&mut file.data);
            file.writes.push(Pending::new(write, run));
        }
    }

    /// What was written to a file so far will be on the disk after a while.
    pub(super) fn sync(&mut self, file: u64, run: &Run) {
        self.settle();
        let due = Some(self.due(run));
        if let Some(file) = self.files.get_mut(&file) {
            file.writes.iter_mut().filter(|write| write.lasts.is_none()).for_each(|write| write.lasts = due);
        }
    }

    /// The same for names in a folder.
    pub(super) fn sync_folder(&mut self, folder: &Path, run: &Run) {
        self.settle();
        let due = Some(self.due(run));
        let changes = self.changes.iter_mut();
        let changes = changes.filter(|change| change.lasts.is_none() && change.what.concerns(folder));
        changes.for_each(|change| change.lasts = due);
    }

    fn due(&mut self, run: &Run) -> Instant {
        let Latency(least, most) = self.latency;
        let span = (most - least).as_micros() as usize;
        let latency = least + Duration::from_micros(self.chance_below(span + 1) as u64);
        run.add_busy(latency)
    }

    /// Puts on the disk what lasts by now.
    fn settle(&mut self) {
        // Names in a folder are kept in the order in which they were changed: a sync takes all of them.
        for change in self.changes.extract_if(.., |change| change.is_lasting()) {
            change.what.apply(&mut self.lasting);
        }
        for file in self.files.values_mut() {
            let lasting = file.writes.iter().take_while(|write| write.is_lasting()).count();
            for write in file.writes.drain(..lasting) {
                write.what.apply(&mut file.lasting);
            }
        }
    }

    /// A number below `limit`, which is not 0.
    fn chance_below(&mut self, limit: usize) -> usize {
        self.chance.below(limit as u64) as usize
    }
}
