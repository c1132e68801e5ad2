//! `std::fs`, as far as it is used here, on a simulated host's disk. What was written is there for whoever reads, and on
//! the disk only once it was synced, which takes a while. A host that is killed before loses it: any sectors of what was
//! written since, and the latest changes of names.

mod disk;
mod file;

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

pub use disk::{Disk, Latency};
pub use file::{File, FileExt, Metadata, OpenOptions, TryLockError, allocate};

use super::Run;
use disk::Name;

/// The run of the host that asks.
///
/// # Errors
///
/// The host is off.
fn here() -> io::Result<Run> {
    Run::current().filter(|run| !run.is_over()).ok_or_else(|| io::Error::other("the host is off"))
}

/// Bytes that are free: as many as are asked for.
///
/// # Errors
///
/// The host is off.
pub fn free(_: impl AsRef<Path>) -> io::Result<u64> {
    here().map(|_| u64::MAX)
}

/// Makes a folder and those above it. It lasts at once.
///
/// # Errors
///
/// The host is off.
pub fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let run = here()?;
    let mut state = run.host().disk.state();
    let all = path.as_ref().ancestors().filter(|path| !path.as_os_str().is_empty());
    state.folders.extend(all.map(Path::to_owned));
    Ok(())
}

/// Everything in a file.
///
/// # Errors
///
/// There is none; the host is off.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let run = here()?;
    let state = run.host().disk.state();
    let file = state.names.get(path.as_ref()).ok_or(ErrorKind::NotFound)?;
    Ok(state.files[file].data.clone())
}

/// Gives a file another name, or a folder and what is in it.
///
/// # Errors
///
/// There is none; the host is off.
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (run, from, to) = (here()?, from.as_ref(), to.as_ref());
    let mut state = run.host().disk.state();
    if state.folders.contains(from) {
        let inside: Vec<PathBuf> = state.names.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in inside {
            let moved = path.strip_prefix(from).map_or_else(|_| to.to_owned(), |rest| to.join(rest));
            state.change(Name::Move(path, moved), &run);
        }
        state.folders.remove(from);
        state.folders.insert(to.to_owned());
        return Ok(());
    }
    if !state.names.contains_key(from) {
        return Err(ErrorKind::NotFound.into());
    }
    state.change(Name::Move(from.to_owned(), to.to_owned()), &run);
    Ok(())
}

/// Removes a file.
///
/// # Errors
///
/// There is none; the host is off.
pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    let run = here()?;
    let mut state = run.host().disk.state();
    if !state.names.contains_key(path.as_ref()) {
        return Err(ErrorKind::NotFound.into());
    }
    state.change(Name::Remove(path.as_ref().to_owned()), &run);
    Ok(())
}

/// Removes a folder and what is in it.
///
/// # Errors
///
/// There is none; the host is off.
pub fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let run = here()?;
    let mut state = run.host().disk.state();
    if !state.folders.remove(path.as_ref()) {
        return Err(ErrorKind::NotFound.into());
    }
    state.change(Name::RemoveFolder(path.as_ref().to_owned()), &run);
    Ok(())
}

/// Something in a folder.
#[derive(Debug)]
pub struct DirEntry(PathBuf);

impl DirEntry {
    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.0.clone()
    }

    /// Its name.
    pub fn file_name(&self) -> OsString {
        self.0.file_name().map(ToOwned::to_owned).unwrap_or_default()
    }
}

/// The files in a folder.
///
/// # Errors
///
/// There is none; the host is off.
pub fn read_dir(path: impl AsRef<Path>) -> io::Result<std::vec::IntoIter<io::Result<DirEntry>>> {
    let (run, path) = (here()?, path.as_ref());
    let state = run.host().disk.state();
    if !state.folders.contains(path) {
        return Err(ErrorKind::NotFound.into());
    }
    let inside = state.names.keys().filter(|name| name.parent() == Some(path));
    Ok(inside.map(|name| Ok(DirEntry(name.clone()))).collect::<Vec<_>>().into_iter())
}
