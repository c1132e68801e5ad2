//! What the background tasks of a daemon are doing, for `pontoon status`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a task is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Waits for something to do.
    Idle,
    /// Is doing it.
    Running,
    /// Failed last time, will try again.
    Failing,
    /// Ended.
    Stopped,
}

/// A background task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskReport {
    /// Name.
    pub name: String,
    /// State.
    pub state: TaskState,
    /// How often it ran.
    pub runs: u64,
    /// How often it failed.
    pub failures: u64,
    /// Its last error; none since it last succeeded.
    pub last_error: Option<String>,
    /// When it last ran, in milliseconds since the Unix epoch; 0: not yet.
    pub last_run_ms: u64,
}

/// Every task of a daemon. Clones share it.
#[derive(Clone)]
pub struct TaskBoard {
    tasks: Arc<Mutex<BTreeMap<String, TaskReport>>>,
    clock: fn() -> u64,
}

impl fmt::Debug for TaskBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskBoard").finish_non_exhaustive()
    }
}

impl TaskBoard {
    /// A board without tasks. The clock gives milliseconds since the Unix epoch.
    pub fn new(clock: fn() -> u64) -> Self {
        Self { tasks: Arc::default(), clock }
    }

    /// Adds a task, or takes up one that has ended.
    pub fn task(&self, name: &str) -> Task {
        let fresh = || TaskReport {
            name: name.to_owned(),
            state: TaskState::Idle,
            runs: 0,
            failures: 0,
            last_error: None,
            last_run_ms: 0,
        };
        self.lock().entry(name.to_owned()).or_insert_with(fresh).state = TaskState::Idle;
        Task { board: self.clone(), name: name.to_owned() }
    }

    /// Every task, by name.
    pub fn reports(&self) -> Vec<TaskReport> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, TaskReport>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One task's place on the board. It is shown as stopped once this is dropped.
#[derive(Debug)]
pub struct Task {
    board: TaskBoard,
    name: String,
}

impl Task {
    /// The task begins to do something.
    pub fn begin(&self) {
        let now = (self.board.clock)();
        self.change(|report| {
            report.state = TaskState::Running;
            report.runs += 1;
            report.last_run_ms = now;
        });
    }

    /// It is done, and how it went.
    pub fn end<E: std::error::Error>(&self, result: Result<(), E>) {
        self.change(|report| match result {
            Ok(()) => {
                report.state = TaskState::Idle;
                report.last_error = None;
            }
            Err(error) => {
                report.state = TaskState::Failing;
                report.failures += 1;
                report.last_error = Some(crate::error_chain(&error));
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut TaskReport)) {
        if let Some(report) = self.board.lock().get_mut(&self.name) {
            change(report);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.change(|report| report.state = TaskState::Stopped);
    }
}
