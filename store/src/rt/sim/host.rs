//! Simulated hosts. Everything that one begins is a task of its present run, which can be paused, and which ends all at
//! once when the host is killed: nothing of it is polled again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::fs::Disk;
use super::link::Net;

thread_local! {
    static CURRENT: RefCell<Option<Run>> = const { RefCell::new(None) };
}

/// A host: its number, and its disk, which outlives its runs.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its number.
    pub number: u64,
    /// Its disk.
    pub disk: Disk,
    /// The links between it and all others.
    pub net: Net,
}

impl Host {
    /// Switches it on. The run before, if there was one, must have ended.
    pub fn start(&self) -> Run {
        let run = Inner { host: self.clone(), life: Mutex::default(), over: CancellationToken::new() };
        Run(Arc::new(run))
    }
}

/// One run of a host, from its start until it is killed. Clones are the same.
#[derive(Debug, Clone)]
pub struct Run(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Host,
    life: Mutex<Life>,
    over: CancellationToken,
}

#[derive(Debug, Default)]
struct Life {
    paused: bool,
    killed: bool,
    /// What wakes its tasks.
    tasks: BTreeMap<u64, Waker>,
    next_task: u64,
    /// How long what was done to its files takes that nobody has waited for yet.
    busy: Duration,
}

impl Run {
    /// The run that whatever is polled at this moment belongs to.
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// Whether it is the same.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether it was killed.
    pub fn is_over(&self) -> bool {
        self.life().killed
    }

    /// Ends when it is killed.
    pub async fn over(&self) {
        self.0.over.cancelled().await;
    }

    /// Ends it: its tasks are gone before anything else happens to them, and its disk loses what it may lose.
    pub fn kill(&self) {
        let tasks = {
            let mut life = self.life();
            life.killed = true;
            std::mem::take(&mut life.tasks)
        };
        self.0.host.disk.crash();
        self.0.over.cancel();
        tasks.into_values().for_each(Waker::wake);
    }

    /// Stops its clock-hand, as it were: nothing of it is polled until it is resumed. Its timers go on.
    pub fn pause(&self) {
        self.life().paused = true;
    }

    /// Lets it go on.
    pub fn resume(&self) {
        let tasks: Vec<Waker> = {
            let mut life = self.life();
            life.paused = false;
            life.tasks.values().cloned().collect()
        };
        tasks.into_iter().for_each(Waker::wake);
    }

    /// A future that is polled as a part of this run, or never ends once that is over.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        let mut scoped = Scoped { run: self.clone(), task: None, future: Some(Box::pin(future)) };
        poll_fn(move |context| scoped.poll(context))
    }

    /// Something that is done at once, as a part of this run.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(self.clone()));
        let _restored = Restored(before);
        work()
    }

    /// Adds to how long its files keep it busy, and tells when that is over.
    pub(super) fn add_busy(&self, time: Duration) -> super::Instant {
        let mut life = self.life();
        life.busy += time;
        super::now() + life.busy
    }

    pub(super) fn take_busy(&self) -> Duration {
        std::mem::take(&mut self.life().busy)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.0.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Restored(Option<Run>);

impl Drop for Restored {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

struct Scoped<F> {
    run: Run,
    task: Option<u64>,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Scoped<F> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut life = self.run.life();
            if !life.killed && self.task.is_none() {
                let task = life.next_task;
                life.next_task += 1;
                // One waker serves for the whole life of a task.
                life.tasks.insert(task, context.waker().clone());
                self.task = Some(task);
            }
            if life.paused && !life.killed {
                return Poll::Pending;
            }
        }
        if self.run.is_over() {
            let future = self.future.take();
            self.run.within(|| drop(future));
            return Poll::Pending;
        }
        let Some(future) = &mut self.future else { return Poll::Pending };
        self.run.within(|| future.as_mut().poll(context))
    }
}

impl<F> Drop for Scoped<F> {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            self.run.life().tasks.remove(&task);
        }
        let future = self.future.take();
        self.run.within(|| drop(future));
    }
}
