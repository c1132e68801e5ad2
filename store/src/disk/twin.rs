//! sled's twin in the simulated world, as far as sled is used here: a table in memory, and a file to which each batch is
//! appended. Like sled's, its files are never synced: a crash leaves the first few batches, and the next start reads them.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::RangeFrom;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::rt::fs::{self, File, FileExt};

type Result<T> = std::result::Result<T, Error>;
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Why it failed.
#[derive(Debug)]
pub(crate) enum Error {
    Io(io::Error),
    /// A batch that is whole makes no sense.
    Corruption,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Corruption => f.write_str("a batch makes no sense"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What sled prefers; all the same here.
pub(super) enum Mode {
    HighThroughput,
}

/// How it is opened.
#[derive(Default)]
pub(super) struct Config(PathBuf);

impl Config {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn path(self, path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn cache_capacity(self, _bytes: u64) -> Self {
        self
    }

    pub(super) fn flush_every_ms(self, _interval: Option<u64>) -> Self {
        self
    }

    pub(super) fn mode(self, _mode: Mode) -> Self {
        self
    }

    pub(super) fn open(self) -> Result<Db> {
        fs::create_dir_all(&self.0)?;
        let path = self.0.join("db");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let (rows, end) = replay(&bytes)?;
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        file.set_len(end as u64)?;
        Ok(Db(Tree(Arc::new(Mutex::new(Table { rows, file, end: end as u64 })))))
    }
}

/// An open database.
#[derive(Debug, Clone)]
pub(super) struct Db(Tree);

impl Db {
    pub(super) fn open_tree(&self, _name: &str) -> Result<Tree> {
        Ok(self.0.clone())
    }

    pub(super) fn flush(&self) -> Result<usize> {
        self.0.table().file.sync_all()?;
        Ok(0)
    }
}

/// Its table.
#[derive(Debug, Clone)]
pub(super) struct Tree(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    rows: Rows,
    file: File,
    end: u64,
}

impl Tree {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        Ok(self.table().rows.get(key.as_ref()).cloned())
    }

    pub(super) fn range(&self, range: RangeFrom<Vec<u8>>) -> std::vec::IntoIter<Result<(Vec<u8>, Vec<u8>)>> {
        let rows: Vec<_> = self.table().rows.range(range).map(|(key, row)| Ok((key.clone(), row.clone()))).collect();
        rows.into_iter()
    }

    pub(super) fn iter(&self) -> Iter {
        Iter(self.table().rows.keys().cloned().collect())
    }

    pub(super) fn apply_batch(&self, batch: Batch) -> Result<()> {
        let mut table = self.table();
        let record = encode(&batch);
        table.file.write_all_at(&record, table.end)?;
        table.end += record.len() as u64;
        batch.apply(&mut table.rows);
        Ok(())
    }
}

/// Its keys.
pub(super) struct Iter(Vec<Vec<u8>>);

impl Iter {
    pub(super) fn keys(self) -> impl Iterator<Item = Result<Vec<u8>>> {
        self.0.into_iter().map(Ok)
    }
}

/// Changes that are made together.
#[derive(Debug, Default)]
pub(super) struct Batch(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Batch {
    pub(super) fn insert(&mut self, key: impl AsRef<[u8]>, row: impl Into<Vec<u8>>) {
        self.0.push((key.as_ref().to_vec(), Some(row.into())));
    }

    pub(super) fn remove(&mut self, key: impl AsRef<[u8]>) {
        self.0.push((key.as_ref().to_vec(), None));
    }

    fn apply(self, rows: &mut Rows) {
        for (key, row) in self.0 {
            match row {
                Some(row) => drop(rows.insert(key, row)),
                None => drop(rows.remove(&key)),
            }
        }
    }
}

/// Length (4), CRC-32C (4), then for each change: length of the key (4), key, 1 or 0, length of the row (4), row.
fn encode(batch: &Batch) -> Vec<u8> {
    let mut body = Vec::new();
    let mut put = |bytes: &[u8]| {
        body.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        body.extend_from_slice(bytes);
    };
    for (key, row) in &batch.0 {
        put(key);
        put(&[u8::from(row.is_some())]);
        put(row.as_deref().unwrap_or_default());
    }
    let mut record = (body.len() as u32).to_le_bytes().to_vec();
    record.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    record.extend_from_slice(&body);
    record
}

/// The rows after every batch up to the first that is not whole, and where that one begins.
fn replay(bytes: &[u8]) -> Result<(Rows, usize)> {
    let (mut rows, mut end) = (Rows::new(), 0);
    while let Some(body) = body(bytes, end) {
        decode(body).ok_or(Error::Corruption)?.apply(&mut rows);
        end += 8 + body.len();
    }
    Ok((rows, end))
}

/// The batch that begins at a place, if it is whole.
fn body(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let number = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?));
    let (length, crc) = (number(at)? as usize, number(at + 4)?);
    bytes.get(at + 8..at + 8 + length).filter(|body| !body.is_empty() && crc32c::crc32c(body) == crc)
}

fn decode(body: &[u8]) -> Option<Batch> {
    let (mut fields, mut rest) = (Vec::new(), body);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (field, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        fields.push(field.to_vec());
        rest = after;
    }
    let changes = fields.chunks_exact(3).map(|field| (field[0].clone(), (field[1] == [1]).then(|| field[2].clone())));
    (fields.len() % 3 == 0).then(|| Batch(changes.collect()))
}
