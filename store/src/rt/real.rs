//! The real world: tokio and the system.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

pub use openraft::impls::TokioRuntime as Runtime;
pub use tokio::spawn;
pub use tokio::sync::watch;
pub use tokio::task::{JoinHandle, spawn_blocking};
pub use tokio::time::error::Elapsed;
pub use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// This moment.
pub fn now() -> Instant {
    Instant::now()
}

/// What this host's clock says, in milliseconds since the Unix epoch.
pub fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(now).unwrap_or(u64::MAX)
}

/// Work that blocks, on a thread of its own.
pub type Thread = std::thread::JoinHandle<()>;

/// Runs work that blocks on a thread of its own. Awaiting blocks the thread.
///
/// # Errors
///
/// When the system gives no thread.
pub fn thread(name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<Thread> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || futures::executor::block_on(work))
}

/// Waits until what was done to files since the last time is over: it is.
pub async fn settle() {}

/// The system's files.
pub mod fs {
    use std::io;
    use std::path::Path;

    use nix::errno::Errno;
    use nix::fcntl::{FallocateFlags, fallocate};
    use nix::sys::statvfs::statvfs;

    pub use std::fs::*;
    pub use std::os::unix::fs::FileExt;

    /// Bytes that are free for us on the disk of a folder.
    ///
    /// # Errors
    ///
    /// When the system does not tell.
    pub fn free(dir: &Path) -> io::Result<u64> {
        let found = statvfs(dir)?;
        Ok(found.blocks_available().saturating_mul(found.fragment_size()))
    }

    /// Allocates blocks, so that appending does not change a file's size and a full disk is met early.
    ///
    /// # Errors
    ///
    /// When there is no space.
    pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
        if file.metadata()?.len() >= bytes {
            return Ok(());
        }
        let length = i64::try_from(bytes).map_err(io::Error::other)?;
        match fallocate(file, FallocateFlags::empty(), 0, length) {
            // Some file systems cannot.
            Err(Errno::EOPNOTSUPP) => file.set_len(bytes),
            other => other.map_err(io::Error::from),
        }
    }
}
