//! Room on the disk. A member whose log cannot be written ends, and may find no room to start in. So it stops writing before
//! that, and keeps some room for its next start.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;

use super::members::upgrade;
use super::{Store, StoreOptions};
use crate::rt::{self, Instant, JoinHandle, fs, now, sleep};

/// How often a member looks.
const LOOK: Duration = Duration::from_secs(1);
/// How often a leader without room tries to hand over: the others may have no room either.
const HAND_OVER_AGAIN: Duration = Duration::from_secs(30);
/// Name of the file that is given up for room to start in.
const BALLAST: &str = "ballast";

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Enough.
    #[default]
    Ample,
    /// The reserve is touched: as the leader, the member takes no writes.
    Low,
    /// Half of the reserve is gone: the member takes no entries either.
    Full,
}

/// What is known of the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// Bytes that are free on the disk of the data folder.
    pub free: u64,
    /// Bytes that are to stay free.
    pub reserve: u64,
    /// What that means.
    pub level: Level,
}

/// The disk of the data folder cannot be looked at, or the reserve not be made.
#[derive(Debug, Error)]
#[error("cannot {operation}")]
struct RoomError {
    operation: &'static str,
    #[source]
    source: io::Error,
}

impl RoomError {
    fn of(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { operation, source }
    }
}

impl Room {
    /// What these free bytes mean. From less room to more it takes an eighth of the reserve more than the other way, so that
    /// a disk at the limit does not change its mind all the time.
    fn of(free: u64, reserve: u64, before: Level) -> Self {
        let more = |level| if before == level { reserve / 8 } else { 0 };
        let level = if free < reserve / 2 + more(Level::Full) {
            Level::Full
        } else if free < reserve + more(Level::Low).max(more(Level::Full)) {
            Level::Low
        } else {
            Level::Ample
        };
        Self { free, reserve, level }
    }

    /// For people.
    pub fn text(&self) -> String {
        const MB: u64 = 1_000_000;
        format!(
            "{} MB are free on the disk of its data folder, and {} MB are kept",
            self.free / MB,
            self.reserve.div_ceil(MB)
        )
    }
}

/// The latest look, for whoever writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoomWatch(Arc<Mutex<Room>>);

impl RoomWatch {
    pub(crate) fn get(&self) -> Room {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, room: Room) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = room;
    }
}

/// Gives up the ballast if there is no room to start in.
///
/// # Errors
///
/// When the folder cannot be made or looked at.
pub(super) fn prepare(options: &StoreOptions) -> io::Result<()> {
    fs::create_dir_all(&options.dir)?;
    if fs::free(&options.dir)? < options.reserve / 2 {
        match fs::remove_file(options.dir.join(BALLAST)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Looks; where there is plenty of room, makes the ballast anew.
fn look(dir: &Path, reserve: u64, before: Level) -> Result<Room, RoomError> {
    let free = fs::free(dir).map_err(RoomError::of("look how much room the disk of the data folder has"))?;
    let ballast = dir.join(BALLAST);
    if free > reserve * 2 && reserve > 0 {
        let make = || {
            let file = fs::File::options().create(true).write(true).truncate(false).open(&ballast)?;
            fs::allocate(&file, reserve / 4)
        };
        make().map_err(RoomError::of("keep room for the next start"))?;
    }
    Ok(Room::of(free, reserve, before))
}

/// Starts the task.
pub(super) fn spawn(store: &Store) -> JoinHandle<()> {
    let (weak, task) = (Arc::downgrade(&store.0), store.0.options.tasks.task("room"));
    let ending = store.0.ending.clone();
    rt::spawn(async move {
        let mut handed_over = None;
        loop {
            let Some(store) = upgrade(&weak) else { return };
            task.begin();
            let (dir, reserve, before) = (store.0.options.dir.clone(), store.0.options.reserve, store.room().level);
            let looked = rt::spawn_blocking(move || look(&dir, reserve, before)).await;
            let looked = looked.unwrap_or_else(|error| {
                Err(RoomError { operation: "look at the disk of the data folder", source: io::Error::other(error) })
            });
            task.end(looked.map(|room| store.note_room(room)));
            ending.run_until_cancelled(store.leave_to_others(&mut handed_over)).await;
            drop(store);
            if ending.run_until_cancelled(sleep(LOOK)).await.is_none() {
                return;
            }
        }
    })
}

impl Store {
    /// How much room there is on the disk of its folder.
    pub(crate) fn room(&self) -> Room {
        self.0.room.get()
    }

    pub(crate) fn room_watch(&self) -> &RoomWatch {
        &self.0.room
    }

    fn note_room(&self, room: Room) {
        let before = self.room().level;
        self.0.room.set(room);
        match room.level {
            level if level == before => {}
            Level::Ample => tracing::info!("there is room on the disk of the data folder again"),
            level => tracing::warn!(?level, "{}: this node takes no writes", room.text()),
        }
    }

    /// A leader without room lets another one lead.
    async fn leave_to_others(&self, handed_over: &mut Option<Instant>) {
        let lately = handed_over.is_some_and(|last| now() < last + HAND_OVER_AGAIN);
        if self.room().level != Level::Ample && self.leads() && !lately {
            *handed_over = Some(now());
            self.resign().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_at_its_limit_does_not_change_its_mind_all_the_time() {
        use Level::{Ample, Full, Low};
        let cases = [
            (1000, Ample, Ample),
            (800, Ample, Ample),
            (799, Ample, Low),
            (899, Low, Low),
            (900, Low, Ample),
            (400, Ample, Low),
            (399, Ample, Full),
            (499, Full, Full),
            (500, Full, Low),
            (899, Full, Low),
            (900, Full, Ample),
            (0, Low, Full),
        ];
        for (free, before, expected) in cases {
            assert_eq!(Room::of(free, 800, before).level, expected, "{free} after {before:?}");
        }
        assert_eq!(Room::of(0, 0, Ample).level, Ample);
    }
}
