//! A simulated world, for tests of whole clusters: openraft's simulated runtime, and on it hosts that can be paused and
//! killed ([`host`]), disks that lose what was not synced ([`fs`]), and links that can be slow or cut ([`link`]). All of it
//! runs on one thread and follows from one seed.

mod chance;
pub mod fs;
mod host;
pub mod link;
pub mod watch;

use std::fmt;
use std::io;
use std::time::Duration;

use openraft::async_runtime::AsyncRuntime;
use openraft::{Instant as _, OptionalSend};
pub use openraft_rt_sim::Elapsed;
use openraft_rt_sim::{SimInstant, SimJoinError, SimJoinHandle, SimRuntime, SimSleep, SimTimeout};

pub use chance::Chance;
pub use host::{Host, Run};

/// A moment of the simulated clock.
pub type Instant = SimInstant;
/// A task.
pub type JoinHandle<T> = SimJoinHandle<T>;

/// openraft's simulated runtime, whose tasks belong to the host that began them.
pub struct Runtime(SimRuntime);

impl Runtime {
    /// A runtime in which everything follows from this seed. With `traced`, it notes every step that it takes.
    pub fn with_seed(seed: u64, traced: bool) -> Self {
        let mut runtime = SimRuntime::with_seed(seed);
        runtime.record_trace(traced);
        Self(runtime)
    }

    /// The steps that it has taken so far.
    pub fn take_trace(&self) -> Vec<String> {
        self.0.take_trace()
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = SimJoinError;
    type JoinHandle<T: OptionalSend + 'static> = SimJoinHandle<T>;
    type Sleep = SimSleep;
    type Instant = SimInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = SimTimeout<T>;
    type ThreadLocalRng = <SimRuntime as AsyncRuntime>::ThreadLocalRng;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match Run::current() {
            Some(run) => SimRuntime::spawn(run.scope(future)),
            None => SimRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        SimRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        SimRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        SimRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        SimRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        SimRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SimRuntime::thread_rng()
    }

    type Mpsc = <SimRuntime as AsyncRuntime>::Mpsc;
    type Watch = <SimRuntime as AsyncRuntime>::Watch;
    type Oneshot = <SimRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <SimRuntime as AsyncRuntime>::Mutex<T>;

    fn new(_threads: usize) -> Self {
        Self::with_seed(0, false)
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    async fn spawn_blocking<F, T>(work: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        spawn_blocking(work).await.map_err(io::Error::other)
    }
}

/// This moment.
pub fn now() -> Instant {
    Instant::now()
}

/// When each simulation begins, in milliseconds since the Unix epoch.
pub const EPOCH_MS: u64 = 1_790_000_000_000;

/// What a clock that is right says, in milliseconds since the Unix epoch.
pub fn wall_ms() -> u64 {
    EPOCH_MS + u64::try_from(now().elapsed_since_start().as_millis()).unwrap_or(u64::MAX / 2)
}

/// Begins a task of the host that asks.
pub fn spawn<T>(future: T) -> JoinHandle<T::Output>
where
    T: Future + Send + 'static,
    T::Output: Send + 'static,
{
    Runtime::spawn(future)
}

/// Waits.
pub fn sleep(duration: Duration) -> SimSleep {
    SimRuntime::sleep(duration)
}

/// Waits until a moment.
pub fn sleep_until(deadline: Instant) -> SimSleep {
    SimRuntime::sleep_until(deadline)
}

/// Gives something so much time.
pub fn timeout<F: Future + Send>(duration: Duration, future: F) -> SimTimeout<F> {
    SimRuntime::timeout(duration, future)
}

/// Gives something time until a moment.
pub fn timeout_at<F: Future + Send>(deadline: Instant, future: F) -> SimTimeout<F> {
    SimRuntime::timeout_at(deadline, future)
}

/// Does work that blocks, at once, and ends when it would have.
///
/// # Errors
///
/// None; the real one's is a panic.
pub async fn spawn_blocking<F, T>(work: F) -> Result<T, SimJoinError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let done = work();
    settle().await;
    Ok(done)
}

/// Waits until what was done to the host's files since the last time is over.
pub async fn settle() {
    let Some(run) = Run::current() else { return };
    if let Some(until) = run.busy_until() {
        sleep_until(until).await;
    }
}

/// A thread, which is a task here.
#[derive(Debug)]
pub struct Thread;

impl Thread {
    /// It ends by itself.
    ///
    /// # Errors
    ///
    /// None; the real one's is a panic.
    pub fn join(self) -> Result<(), SimJoinError> {
        Ok(())
    }
}

/// Runs work as a task.
///
/// # Errors
///
/// None; the system may refuse the real one.
pub fn thread(_name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<Thread> {
    drop(spawn(work));
    Ok(Thread)
}
