//! Snapshot files: magic (8), format (4), CRC-32C of what follows (4), length of the description (4), a `SnapshotHeader`
//! (peer.proto), an encoded `Snapshot` (store.proto). A file appears under its name only when it is on disk.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use pontoon_proto::v1;
use prost::Message;
use thiserror::Error;

use crate::rt::fs::{self, File};

const MAGIC: [u8; 8] = *b"PONTSNAP";
const FORMAT: u32 = 1;
const PREFIX_BYTES: usize = 20;

/// A snapshot on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotFile {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Where the encoded `Snapshot` begins in it.
    pub(crate) data_offset: u64,
    /// Bytes of the encoded `Snapshot`.
    pub(crate) data_bytes: u64,
}

/// The folder of snapshots. It holds one, and those that are being written.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotDir {
    dir: PathBuf,
}

/// Why a snapshot cannot be read or written.
#[derive(Debug, Error)]
pub(crate) enum SnapshotError {
    /// An I/O error.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Its contents are not what was written.
    #[error("the snapshot {} is damaged: {detail}", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// What is wrong.
        detail: &'static str,
    },
    /// Written by a later version.
    #[error("the snapshot {} has format {found}, and this version knows formats up to {FORMAT}: install a version that knows it", path.display())]
    Newer {
        /// File.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

impl SnapshotDir {
    /// Makes the folder if there is none, and removes files that were never finished.
    pub(crate) fn open(dir: PathBuf) -> Result<Self, SnapshotError> {
        fs::create_dir_all(&dir).map_err(|source| io_error("create", &dir, source))?;
        let this = Self { dir };
        for path in this.files("tmp")? {
            fs::remove_file(&path).map_err(|source| io_error("remove", &path, source))?;
        }
        Ok(this)
    }

    /// The latest snapshot, if there is one: its description, and where it is.
    pub(crate) fn current(&self) -> Result<Option<(v1::SnapshotHeader, SnapshotFile)>, SnapshotError> {
        let Some(path) = self.files("snap")?.pop() else { return Ok(None) };
        let (header, file, _) = read(&path)?;
        Ok(Some((header, file)))
    }

    /// Writes a snapshot, which replaces the one before.
    pub(crate) fn write(&self, header: &v1::SnapshotHeader, data: &[u8]) -> Result<SnapshotFile, SnapshotError> {
        let mut incoming = self.receive(header.clone())?;
        incoming.append(data)?;
        self.keep(incoming.finish()?, header)
    }

    /// Begins a snapshot that arrives in parts.
    pub(crate) fn receive(&self, header: v1::SnapshotHeader) -> Result<Incoming, SnapshotError> {
        let index = header.last_log_id.as_ref().map_or(0, |id| id.index);
        let mut counter = 0;
        let (path, file) = loop {
            let path = self.dir.join(format!("{index:020}-{counter}.tmp"));
            match File::options().create_new(true).read(true).write(true).open(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => counter += 1,
                Err(source) => return Err(io_error("create", &path, source)),
            }
        };
        let encoded = v1::SnapshotHeader { vote: None, ..header }.encode_to_vec();
        let mut rest = u32::try_from(encoded.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        rest.extend_from_slice(&encoded);
        let mut incoming =
            Incoming { path, file, crc: 0, data_offset: (16 + rest.len()) as u64, data_bytes: 0, kept: false };
        incoming.put(&[0; 16])?;
        incoming.crc = 0;
        incoming.put(&rest)?;
        Ok(incoming)
    }

    /// Gives a finished snapshot its name and removes older ones.
    pub(crate) fn keep(&self, file: SnapshotFile, header: &v1::SnapshotHeader) -> Result<SnapshotFile, SnapshotError> {
        let id = header.last_log_id.as_ref();
        let term = id.and_then(|id| id.leader.as_ref()).map_or(0, |leader| leader.term);
        let name = format!("{:020}-{term:020}.snap", id.map_or(0, |id| id.index));
        let path = self.dir.join(name);
        if file.path != path {
            fs::rename(&file.path, &path).map_err(|source| io_error("rename to", &path, source))?;
            self.sync()?;
        }
        for old in self.files("snap")?.into_iter().filter(|old| *old < path) {
            fs::remove_file(&old).map_err(|source| io_error("remove", &old, source))?;
        }
        Ok(SnapshotFile { path, ..file })
    }

    /// Moves a file out of the way that cannot be used.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<(), SnapshotError> {
        let aside = path.with_extension("bad");
        fs::rename(path, &aside).map_err(|source| io_error("rename to", &aside, source))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        let sync = File::open(&self.dir).and_then(|folder| folder.sync_all());
        sync.map_err(|source| io_error("sync the folder", &self.dir, source))
    }

    /// Files with an extension, by name.
    fn files(&self, extension: &str) -> Result<Vec<PathBuf>, SnapshotError> {
        let list = |source| io_error("list", &self.dir, source);
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(list)? {
            let path = entry.map_err(list)?.path();
            if path.extension().is_some_and(|found| found == extension) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }
}

/// A snapshot that is being written. Dropped before it is finished, it goes.
#[derive(Debug)]
pub(crate) struct Incoming {
    path: PathBuf,
    file: File,
    crc: u32,
    data_offset: u64,
    data_bytes: u64,
    kept: bool,
}

impl Incoming {
    /// Adds a part of the encoded `Snapshot`.
    pub(crate) fn append(&mut self, data: &[u8]) -> Result<(), SnapshotError> {
        self.data_bytes += data.len() as u64;
        self.put(data)
    }

    /// How much there is of the encoded `Snapshot`.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Makes it durable, under a name of its own for now.
    pub(crate) fn finish(mut self) -> Result<SnapshotFile, SnapshotError> {
        let mut prefix = MAGIC.to_vec();
        prefix.extend_from_slice(&FORMAT.to_le_bytes());
        prefix.extend_from_slice(&self.crc.to_le_bytes());
        let write = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&prefix));
        write.and_then(|()| self.file.sync_all()).map_err(|source| io_error("write", &self.path, source))?;
        self.kept = true;
        Ok(SnapshotFile { path: self.path.clone(), data_offset: self.data_offset, data_bytes: self.data_bytes })
    }

    fn put(&mut self, data: &[u8]) -> Result<(), SnapshotError> {
        self.crc = crc32c::crc32c_append(self.crc, data);
        self.file.write_all(data).map_err(|source| io_error("write", &self.path, source))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.kept {
            // What stays behind is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Reads a snapshot: its description, where it is, and the encoded `Snapshot`.
pub(crate) fn read(path: &Path) -> Result<(v1::SnapshotHeader, SnapshotFile, Vec<u8>), SnapshotError> {
    let damaged = |detail| SnapshotError::Damaged { path: path.to_owned(), detail };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|source| io_error("read", path, source))?;
    if bytes.len() < PREFIX_BYTES || bytes[..8] != MAGIC {
        return Err(damaged("it does not begin like one"));
    }
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let found = number(8);
    if found > FORMAT {
        return Err(SnapshotError::Newer { path: path.to_owned(), found });
    }
    if number(12) != crc32c::crc32c(&bytes[16..]) {
        return Err(damaged("its checksum does not match"));
    }
    let offset = PREFIX_BYTES.saturating_add(number(16) as usize);
    let header = bytes.get(PREFIX_BYTES..offset).ok_or_else(|| damaged("its description is cut off"))?;
    let header = v1::SnapshotHeader::decode(header).map_err(|_| damaged("its description cannot be decoded"))?;
    let data = bytes.split_off(offset);
    let file = SnapshotFile { path: path.to_owned(), data_offset: offset as u64, data_bytes: data.len() as u64 };
    Ok((header, file, data))
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> SnapshotError {
    SnapshotError::Io { operation, path: path.to_owned(), source }
}
