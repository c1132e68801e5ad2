//! The data folder: who this daemon is. It makes a key pair at its first start; a cluster gives it its ids.
//!
//! ```text
//! node.key       PKCS #8 key pair (Ed25519), readable by its owner only
//! identity.json  format, public key and, once in a cluster, cluster id, node id, Raft id, who else was in it and whether it
//!                observes, its certificate and those of the cluster's authorities; before, the join's attempt, and whether
//!                a cluster that it has left is still seen on the host
//! cluster.key    what the key of the cluster's authority is encrypted with, readable by its owner only
//! lock           held while a daemon uses the folder
//! store/         the replicated store
//! store.old-N/   the one of a cluster that was recovered from, for whoever wants to look; nothing reads it
//! journal        what this node does with its own endpoints before the cluster is told
//! ```

mod file;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use pontoon_store::model::id::{ClusterId, NodeId, RaftId};
use pontoon_store::{Certificate, ClusterKey, HeldKey, NodeKey, Peer, PublicKey};
use thiserror::Error;
use zeroize::Zeroizing;

pub(crate) use file::write_durably;
use file::{IdentityFile, PeerFile, lock, read_cluster_key, read_identity, read_or_make_key, record_of};

/// Name of the file with the cluster's key.
const CLUSTER_KEY: &str = "cluster.key";

/// The same, of a recovery that is not finished.
const NEXT_CLUSTER_KEY: &str = "cluster.key.next";

/// Version of the data folder's format. A newer one is refused.
const FORMAT: u32 = 1;

/// The data folder cannot be used.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// Reading or writing failed.
    #[error("cannot {operation} {path}: {source}; the data folder must be writable by pontoond (--data-dir)")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error("the data folder {path} is in use by another pontoond; stop that one, or give another with --data-dir")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// Made by a later version.
    #[error(
        "the data folder {path} has format {found} and this pontoond knows {FORMAT}; run the version that wrote it, or a later one"
    )]
    NewerFormat {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Key and identity do not belong together.
    #[error(
        "the data folder {path} belongs to another node: node.key is not the key that identity.json names ({named}); restore both files from one node"
    )]
    OtherNode {
        /// The folder.
        path: PathBuf,
        /// Public key that the identity names, in hexadecimal.
        named: String,
    },
    /// It entered its cluster before there were certificates.
    #[error(
        "the node of the data folder {path} has no certificate: it entered its cluster with a version before there were any; \
         move the folder away, and make the cluster anew (pontoon init, pontoon join)"
    )]
    NoCertificate {
        /// The folder.
        path: PathBuf,
    },
    /// A file's content makes no sense.
    #[error("{path} cannot be understood: {why}; restore it, or move the data folder away and join the cluster anew")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// This daemon's place in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Its Raft id.
    pub raft_id: RaftId,
    /// It is an observer: outside the Raft membership, where its Raft id was never used.
    pub observer: bool,
}

/// The data folder, locked for as long as this lives.
pub struct DataDir {
    path: PathBuf,
    key: NodeKey,
    cluster_key: HeldKey,
    record: Record,
    _lock: File,
}

/// What is kept of this daemon beside its key.
#[derive(Debug, Clone, Default)]
struct Record {
    membership: Option<Membership>,
    /// Who was a member at its admission.
    members: BTreeMap<RaftId, Peer>,
    attempt: Option<u64>,
    unclean: bool,
    begun: bool,
    reached: u64,
    certificate: Option<Certificate>,
    /// The store that belongs to this is beside the one before still.
    recovering: bool,
}

/// What a node shows and believes, and what lets it issue certificates.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Its certificate, and those of the authorities.
    pub certificate: Certificate,
    /// What the authority's key is encrypted with, if it was told.
    pub cluster_key: Option<ClusterKey>,
}

impl std::fmt::Debug for DataDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataDir")
            .field("path", &self.path)
            .field("membership", &self.record.membership)
            .finish_non_exhaustive()
    }
}

impl DataDir {
    /// Opens the folder, and makes it and a key pair if there are none.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        fs::create_dir_all(path).map_err(io_error("create", path))?;
        let lock = lock(path)?;
        // The header comes first: a newer format may have another key file.
        let identity = read_identity(path)?;
        let key = read_or_make_key(path)?;
        let public = hex::encode(key.public());
        let record = match &identity {
            Some(file) if file.public_key != public => {
                return Err(DataDirError::OtherNode { path: path.into(), named: file.public_key.clone() });
            }
            Some(file) => record_of(file, path)?,
            None => Record::default(),
        };
        match (&record.certificate, record.membership) {
            (Some(certificate), Some(_)) => show(&key, certificate, path)?,
            (None, Some(_)) => return Err(DataDirError::NoCertificate { path: path.into() }),
            (_, None) => {}
        }
        // The key of a recovery that is not finished is beside the one before.
        let cluster_key = read_cluster_key(&path.join(if record.recovering { NEXT_CLUSTER_KEY } else { CLUSTER_KEY }))?;
        let mut dir = Self { path: path.into(), key, cluster_key: cluster_key.into(), record, _lock: lock };
        if identity.is_none() {
            dir.write(Record::default())?;
        }
        Ok(dir)
    }

    /// This daemon's place in a cluster, if it is in one.
    pub fn membership(&self) -> Option<Membership> {
        self.record.membership
    }

    /// The members, as the one told that admitted this one.
    pub fn members(&self) -> &BTreeMap<RaftId, Peer> {
        &self.record.members
    }

    /// The key pair.
    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    /// Public half of the key pair.
    pub fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// What the key of the cluster's authority is encrypted with, if it is known here.
    pub fn cluster_key(&self) -> &HeldKey {
        &self.cluster_key
    }

    /// Has that key on the disk as it is in memory, durably; or on no disk.
    pub fn keep_cluster_key(&self, keep: bool) -> Result<(), DataDirError> {
        let path = self.path.join(CLUSTER_KEY);
        match self.cluster_key.get().filter(|_| keep) {
            Some(key) if read_cluster_key(&path)?.as_ref() == Some(&key) => Ok(()),
            Some(key) => self.write_cluster_key(CLUSTER_KEY, &key),
            None => remove_if_there(&path),
        }
    }

    /// The same, while a cluster is founded: it is on the disk from [`DataDir::enter`] on.
    pub fn set_cluster_key(&mut self, key: ClusterKey) {
        self.cluster_key = Some(key).into();
    }

    /// Folder of the replicated store.
    pub fn store_path(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Journal of what this node does before the cluster is told.
    pub fn journal_path(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Whether this member has had a log: without one it must not go on.
    pub fn begun(&self) -> bool {
        self.record.begun
    }

    /// Records that this member has its log, durably. To be called before it takes part in anything.
    pub fn begin(&mut self) -> Result<(), DataDirError> {
        if self.record.begun { Ok(()) } else { self.write(Record { begun: true, ..self.record.clone() }) }
    }

    /// Records the place in a cluster and who else is in it, durably. From here on a restart goes on as this member.
    pub fn enter(
        &mut self,
        membership: Membership,
        members: BTreeMap<RaftId, Peer>,
        credentials: Credentials,
    ) -> Result<(), DataDirError> {
        let Credentials { certificate, cluster_key } = credentials;
        show(&self.key, &certificate, &self.path)?;
        match &cluster_key {
            Some(key) => self.write_cluster_key(CLUSTER_KEY, key)?,
            None => remove_if_there(&self.path.join(CLUSTER_KEY))?,
        }
        self.cluster_key.set(cluster_key);
        let certificate = Some(certificate);
        // What an earlier membership has left on the host, the first pass of this one removes.
        self.write(Record { membership: Some(membership), members, certificate, ..Record::default() })
    }

    fn write_cluster_key(&self, name: &str, key: &ClusterKey) -> Result<(), DataDirError> {
        let (path, text) = (self.path.join(name), Zeroizing::new(hex::encode(key.bytes())));
        write_durably(&path, text.as_bytes(), 0o600).map_err(io_error("write", &path))
    }

    /// Folder of the store of a cluster that is to go on with what this node has.
    pub fn recovered_path(&self) -> PathBuf {
        self.path.join("store.new")
    }

    /// Removes what a recovery that did not finish left there.
    pub fn remove_recovered(&self) -> Result<(), DataDirError> {
        remove_if_there(&self.path.join(NEXT_CLUSTER_KEY))?;
        remove_folder(&self.recovered_path())
    }

    /// Records the place in the cluster whose store is at [`DataDir::recovered_path`], durably. From here on a restart goes on
    /// as its member, once [`DataDir::finish_recovery`] has put that store in its place.
    pub fn begin_recovery(&mut self, membership: Membership, credentials: Credentials) -> Result<(), DataDirError> {
        let Credentials { certificate, cluster_key } = credentials;
        // What is there stays as it is until the record says otherwise.
        if let Some(key) = &cluster_key {
            self.write_cluster_key(NEXT_CLUSTER_KEY, key)?;
        }
        let (membership, known) = (Some(membership), Some(certificate.clone()));
        self.write(Record { membership, certificate: known, recovering: true, begun: true, ..Record::default() })?;
        self.cluster_key = cluster_key.into();
        show(&self.key, &certificate, &self.path)
    }

    /// Puts the store of a recovery in the place of the one before, which stays beside it, if there is a recovery to finish.
    pub fn finish_recovery(&mut self) -> Result<(), DataDirError> {
        if !self.record.recovering {
            return Ok(());
        }
        let (new, store) = (self.recovered_path(), self.store_path());
        if new.exists() {
            let old = (1..).map(|number| self.path.join(format!("store.old-{number}"))).find(|path| !path.exists());
            if let Some(old) = old.filter(|_| store.exists()) {
                fs::rename(&store, &old).map_err(io_error("rename to", &old))?;
            }
            fs::rename(&new, &store).map_err(io_error("rename to", &store))?;
        }
        let (next, key) = (self.path.join(NEXT_CLUSTER_KEY), self.path.join(CLUSTER_KEY));
        if next.exists() {
            fs::rename(&next, &key).map_err(io_error("rename to", &key))?;
        }
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(io_error("sync", &self.path))?;
        self.write(Record { recovering: false, ..self.record.clone() })
    }

    /// Records that the node is something else in its cluster, durably, and up to which index it had carried out the state.
    pub fn become_other(
        &mut self,
        membership: Membership,
        members: BTreeMap<RaftId, Peer>,
        reached: u64,
    ) -> Result<(), DataDirError> {
        let certificate = self.record.certificate.clone();
        self.write(Record { membership: Some(membership), members, reached, certificate, ..Record::default() })
    }

    /// Shows and believes something else from now on, durably.
    pub fn renew(&mut self, certificate: Certificate) -> Result<(), DataDirError> {
        show(&self.key, &certificate, &self.path)?;
        self.write(Record { certificate: Some(certificate), ..self.record.clone() })
    }

    /// The index that the node had carried out the state up to when it became what it is; 0: it has always been that.
    pub fn reached(&self) -> u64 {
        self.record.reached
    }

    /// Names the attempt to enter a cluster, durably and the same until one has succeeded: a daemon that is killed
    /// between its admission and [`DataDir::enter`] gets its ids when it asks again, and only then, for nothing was
    /// ever kept under them.
    pub fn attempt(&mut self) -> Result<u64, DataDirError> {
        if let Some(attempt) = self.record.attempt {
            return Ok(attempt);
        }
        // 0 stands for none.
        let attempt = rand::random::<u64>().max(1);
        self.write(Record { attempt: Some(attempt), ..self.record.clone() })?;
        Ok(attempt)
    }

    /// Forgets the cluster and removes its store. The key pair stays; and, if it is `unclean`, that the host still has
    /// something of the cluster.
    pub fn leave(&mut self, unclean: bool) -> Result<(), DataDirError> {
        self.write(Record { unclean, ..Record::default() })?;
        self.key.decertify();
        self.cluster_key = HeldKey::default();
        self.remove_store()
    }

    /// Whether the host still has something of a cluster that was left.
    pub fn unclean(&self) -> bool {
        self.record.unclean
    }

    /// Records that it has nothing of it any more.
    pub fn cleaned(&mut self) -> Result<(), DataDirError> {
        self.write(Record { unclean: false, ..self.record.clone() })
    }

    /// Removes a store, a journal and a key that no membership goes with: what an init or join that did not finish left behind.
    pub fn remove_store(&self) -> Result<(), DataDirError> {
        remove_if_there(&self.path.join(CLUSTER_KEY))?;
        self.remove_recovered()?;
        remove_folder(&self.store_path())?;
        remove_if_there(&self.journal_path())
    }

    /// Removes what an observer keeps of a log that it had: it must not vote by it again.
    pub fn remove_log(&self) -> Result<(), DataDirError> {
        // It is another copy from now on.
        let differs = self.store_path().join("differs");
        remove_if_there(&differs)?;
        ["log", "state", "snapshots"].iter().try_for_each(|part| self.remove_from_store(part))
    }

    /// Removes what a member keeps of the copy that it had as an observer.
    pub fn remove_copy(&self) -> Result<(), DataDirError> {
        self.remove_from_store("observed")
    }

    /// Durably: after a power cut it must not be there again, beside what came after it.
    fn remove_from_store(&self, part: &str) -> Result<(), DataDirError> {
        let (store, path) = (self.store_path(), self.store_path().join(part));
        let sync = || File::open(&store).and_then(|dir| dir.sync_all());
        match fs::remove_dir_all(&path).and_then(|()| sync()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn write(&mut self, record: Record) -> Result<(), DataDirError> {
        let membership = record.membership;
        let member = |(id, peer): (&RaftId, &Peer)| {
            (id.0, PeerFile { address: peer.address.clone(), public_key: hex::encode(peer.key) })
        };
        let file = IdentityFile {
            format: FORMAT,
            public_key: hex::encode(self.public_key()),
            cluster_id: membership.map(|m| m.cluster.to_string()),
            node_id: membership.map(|m| m.node.0),
            raft_id: membership.map(|m| m.raft_id.0),
            members: record.members.iter().map(member).collect(),
            attempt: record.attempt,
            unclean: record.unclean,
            begun: record.begun,
            observer: membership.is_some_and(|m| m.observer),
            reached: record.reached,
            recovering: record.recovering,
            certificate: record.certificate.as_ref().map(|known| known.own.clone()).unwrap_or_default(),
            authority: record.certificate.as_ref().map_or(0, |known| known.authority),
            crossed: record.certificate.as_ref().map(|known| known.crossed.clone()).unwrap_or_default(),
            authorities: record.certificate.iter().flat_map(|known| &known.authorities).map(hex::encode).collect(),
        };
        let text = serde_json::to_string_pretty(&file).expect("strings and numbers always serialise");
        let path = self.path.join("identity.json");
        write_durably(&path, text.as_bytes(), 0o644).map_err(io_error("write", &path))?;
        self.record = record;
        Ok(())
    }
}

/// Has a key show its node's certificate.
fn show(key: &NodeKey, certificate: &Certificate, dir: &Path) -> Result<(), DataDirError> {
    key.certify(certificate.clone()).map_err(|error| DataDirError::Corrupt {
        path: dir.join("identity.json"),
        why: format!("the node's certificate: {error}"),
    })
}

fn remove_if_there(path: &Path) -> Result<(), DataDirError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

fn remove_folder(path: &Path) -> Result<(), DataDirError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io { operation, path, source }
}

#[cfg(test)]
mod tests;
