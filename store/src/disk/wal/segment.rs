//! Segment files.

use std::path::{Path, PathBuf};

use super::format::{self, Checkpoint, HEADER_BYTES, Place};
use super::{Identity, WalError};
use crate::rt::fs::{self, File, FileExt, OpenOptions, TryLockError, allocate};

/// A segment that is open for writing.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    path: PathBuf,
    pub(super) number: u64,
}

impl Segment {
    /// Makes a segment that holds a header and a checkpoint, and is on disk under its name when this returns.
    /// Also returns where its next record goes.
    pub(super) fn create(
        dir: &Path,
        identity: Identity,
        number: u64,
        bytes: u64,
        batch: u64,
        checkpoint: &Checkpoint,
    ) -> Result<(Self, u64), WalError> {
        let path = path_of(dir, number);
        let unfinished = path.with_extension("tmp");
        let mut data = format::encode_header(identity, number).to_vec();
        let place = Place { segment: number, batch, batch_start: HEADER_BYTES as u64, base: 0 };
        format::encode_checkpoint(&mut data, place, checkpoint);
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&unfinished)
            .map_err(|source| WalError::io("create", &unfinished, source))?;
        allocate(&file, bytes).map_err(|source| WalError::io("allocate space for", &unfinished, source))?;
        file.write_all_at(&data, 0).map_err(|source| WalError::io("write", &unfinished, source))?;
        file.sync_all().map_err(|source| WalError::io("sync", &unfinished, source))?;
        fs::rename(&unfinished, &path).map_err(|source| WalError::io("rename to", &path, source))?;
        sync_dir(dir)?;
        Ok((Self { file, path, number }, data.len() as u64))
    }

    /// Opens the last segment of a log for more. What is behind `end` is cut off when it is damaged.
    pub(super) fn reopen(dir: &Path, number: u64, bytes: u64, end: u64, damaged: bool) -> Result<Self, WalError> {
        let path = path_of(dir, number);
        let open = OpenOptions::new().read(true).write(true).open(&path);
        let file = open.map_err(|source| WalError::io("open", &path, source))?;
        if damaged {
            file.set_len(end).map_err(|source| WalError::io("cut the unfinished end of", &path, source))?;
        }
        allocate(&file, bytes).map_err(|source| WalError::io("allocate space for", &path, source))?;
        // What was read may not have been synced before; it counts as acknowledged from now on.
        file.sync_all().map_err(|source| WalError::io("sync", &path, source))?;
        Ok(Self { file, path, number })
    }

    pub(super) fn write(&self, data: &[u8], offset: u64) -> Result<(), WalError> {
        self.file.write_all_at(data, offset).map_err(|source| WalError::io("write", &self.path, source))
    }

    pub(super) fn sync(&self) -> Result<(), WalError> {
        self.file.sync_data().map_err(|source| WalError::io("sync", &self.path, source))
    }
}

/// Keeps other processes out of the folder for as long as the file is open.
pub(super) fn lock(dir: &Path) -> Result<File, WalError> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|source| WalError::io("create", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(WalError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(WalError::io("lock", &path, source)),
    }
}

/// Path of a segment.
pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.wal"))
}

/// Numbers of the segments in a folder, ascending. Removes segments that were never finished.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, WalError> {
    let mut numbers = Vec::new();
    let entries = fs::read_dir(dir).map_err(|source| WalError::io("list", dir, source))?;
    for entry in entries {
        let path = entry.map_err(|source| WalError::io("list", dir, source))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("tmp") => fs::remove_file(&path).map_err(|source| WalError::io("remove", &path, source))?,
            Some("wal") => {
                let stem = path.file_stem().and_then(|stem| stem.to_str());
                let number = stem.and_then(|stem| stem.parse().ok());
                numbers.push(number.ok_or_else(|| WalError::corrupt(&path, 0, "its name is not a number"))?);
            }
            _ => {}
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes a segment. The caller syncs the folder.
pub(super) fn remove(dir: &Path, number: u64) -> Result<(), WalError> {
    let path = path_of(dir, number);
    fs::remove_file(&path).map_err(|source| WalError::io("remove", &path, source))
}

/// Makes names in a folder durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), WalError> {
    let sync = File::open(dir).and_then(|folder| folder.sync_all());
    sync.map_err(|source| WalError::io("sync the folder", dir, source))
}
