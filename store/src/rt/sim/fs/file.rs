//! Open files.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::super::Run;
use super::disk::{Disk, Write};

/// An open file, or a folder.
#[derive(Debug)]
pub struct File {
    run: Run,
    opened: Opened,
    position: u64,
}

#[derive(Debug)]
enum Opened {
    File(u64),
    Folder(PathBuf),
}

/// How a file is opened.
#[derive(Debug, Default, Clone)]
pub struct OpenOptions {
    create: bool,
    create_new: bool,
    truncate: bool,
}

/// What is known of a file.
#[derive(Debug)]
pub struct Metadata(u64);

/// Why a file is not locked.
#[derive(Debug)]
pub enum TryLockError {
    /// Somebody else has locked it.
    WouldBlock,
    /// The system refuses.
    Error(io::Error),
}

/// What the real trait of this name does.
pub trait FileExt {
    /// Writes at an offset.
    ///
    /// # Errors
    ///
    /// The host is off.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
}

impl OpenOptions {
    /// Opens what is there.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a file if there is none.
    pub fn create(&mut self, create: bool) -> &mut Self {
        self.create = create;
        self
    }

    /// Makes a file, which must not be there.
    pub fn create_new(&mut self, create_new: bool) -> &mut Self {
        self.create_new = create_new;
        self
    }

    /// Empties it.
    pub fn truncate(&mut self, truncate: bool) -> &mut Self {
        self.truncate = truncate;
        self
    }

    /// For reading, as everything here is.
    pub fn read(&mut self, _read: bool) -> &mut Self {
        self
    }

    /// For writing, as everything here is.
    pub fn write(&mut self, _write: bool) -> &mut Self {
        self
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// It is not there, or it is and must not be; the host is off.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        let run = Run::current().filter(|run| !run.is_over()).ok_or_else(|| io::Error::other("the host is off"))?;
        let mut state = run.host().disk.state();
        let known = state.names.get(path).copied();
        let opened = match known {
            Some(_) if self.create_new => return Err(ErrorKind::AlreadyExists.into()),
            Some(file) => {
                if self.truncate {
                    state.write(file, Write::Length(0));
                }
                Opened::File(file)
            }
            None if self.create || self.create_new => Opened::File(state.create(path)),
            None if state.folders.contains(path) => Opened::Folder(path.to_owned()),
            None => return Err(ErrorKind::NotFound.into()),
        };
        drop(state);
        Ok(File { run, opened, position: 0 })
    }
}

impl File {
    /// How a file is to be opened.
    pub fn options() -> OpenOptions {
        OpenOptions::new()
    }

    /// Opens a file or a folder.
    ///
    /// # Errors
    ///
    /// It is not there; the host is off.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::options().open(path)
    }

    /// Makes a file, or empties it.
    ///
    /// # Errors
    ///
    /// The host is off.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::options().create(true).truncate(true).open(path)
    }

    /// What is known of it.
    ///
    /// # Errors
    ///
    /// The host is off.
    pub fn metadata(&self) -> io::Result<Metadata> {
        let (disk, file) = self.file()?;
        Ok(Metadata(disk.state().files.get(&file).map_or(0, |file| file.data.len() as u64)))
    }

    /// Makes it so long.
    ///
    /// # Errors
    ///
    /// The host is off.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        let (disk, file) = self.file()?;
        disk.state().write(file, Write::Length(length));
        Ok(())
    }

    /// Puts on the disk what was written.
    ///
    /// # Errors
    ///
    /// The host is off.
    pub fn sync_all(&self) -> io::Result<()> {
        let disk = self.disk()?;
        match &self.opened {
            Opened::File(file) => disk.state().sync(*file, &self.run),
            Opened::Folder(folder) => disk.state().sync_folder(folder, &self.run),
        }
        Ok(())
    }

    /// The same.
    ///
    /// # Errors
    ///
    /// The host is off.
    pub fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    /// Locks it until the host is killed.
    ///
    /// # Errors
    ///
    /// Somebody else has; the host is off.
    pub fn try_lock(&self) -> Result<(), TryLockError> {
        let (disk, file) = self.file().map_err(TryLockError::Error)?;
        let mut state = disk.state();
        match state.files.get_mut(&file) {
            Some(file) if file.locked => Err(TryLockError::WouldBlock),
            Some(file) => {
                file.locked = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn disk(&self) -> io::Result<&Disk> {
        if self.run.is_over() {
            return Err(io::Error::other("the host is off"));
        }
        Ok(&self.run.host().disk)
    }

    fn file(&self) -> io::Result<(&Disk, u64)> {
        match self.opened {
            Opened::File(file) => Ok((self.disk()?, file)),
            Opened::Folder(_) => Err(ErrorKind::IsADirectory.into()),
        }
    }
}

impl Metadata {
    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "as the real one has it")]
    pub fn len(&self) -> u64 {
        self.0
    }
}

impl FileExt for File {
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let (disk, file) = self.file()?;
        disk.state().write(file, Write::Data(offset, data.to_vec()));
        Ok(())
    }
}

impl io::Write for File {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.write_all_at(data, self.position)?;
        self.position += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for File {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (disk, file) = self.file()?;
        let state = disk.state();
        let data = state.files.get(&file).map_or(&[][..], |file| &file.data);
        let rest = data.get(self.position as usize..).unwrap_or_default();
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        drop(state);
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(position) => position,
            SeekFrom::Current(by) => self.position.saturating_add_signed(by),
            SeekFrom::End(by) => self.metadata()?.len().saturating_add_signed(by),
        };
        Ok(self.position)
    }
}

/// Makes a file at least so long.
///
/// # Errors
///
/// The host is off.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    if file.metadata()?.len() >= bytes {
        return Ok(());
    }
    file.set_len(bytes)
}
