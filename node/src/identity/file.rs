//! What is in the data folder's files.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pontoon_store::model::id::{NodeId, RaftId};
use pontoon_store::{Certificate, ClusterKey, NodeKey, Peer, PublicKey};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{DataDirError, FORMAT, Membership, Record, io_error};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct IdentityFile {
    pub(super) format: u32,
    pub(super) public_key: String,
    pub(super) cluster_id: Option<String>,
    pub(super) node_id: Option<u64>,
    pub(super) raft_id: Option<u64>,
    #[serde(default)]
    pub(super) members: BTreeMap<u64, PeerFile>,
    #[serde(default)]
    pub(super) attempt: Option<u64>,
    #[serde(default)]
    pub(super) unclean: bool,
    #[serde(default)]
    pub(super) begun: bool,
    #[serde(default)]
    pub(super) observer: bool,
    #[serde(default)]
    pub(super) reached: u64,
    #[serde(default, with = "hex::serde")]
    pub(super) certificate: Vec<u8>,
    #[serde(default)]
    pub(super) authorities: Vec<String>,
    #[serde(default, with = "hex::serde")]
    pub(super) crossed: Vec<u8>,
    #[serde(default)]
    pub(super) authority: u32,
    #[serde(default)]
    pub(super) recovering: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PeerFile {
    pub(super) address: String,
    pub(super) public_key: String,
}

pub(super) fn lock(dir: &Path) -> Result<File, DataDirError> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(&path).map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { path: dir.into() }),
        Err(TryLockError::Error(source)) => Err(DataDirError::Io { operation: "lock", path, source }),
    }
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, DataDirError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

pub(super) fn read_identity(dir: &Path) -> Result<Option<IdentityFile>, DataDirError> {
    #[derive(Deserialize)]
    struct Header {
        format: u32,
    }
    let path = dir.join("identity.json");
    let Some(bytes) = read_optional(&path)? else { return Ok(None) };
    let corrupt = |error: serde_json::Error| DataDirError::Corrupt { path: path.clone(), why: error.to_string() };
    let header: Header = serde_json::from_slice(&bytes).map_err(corrupt)?;
    if header.format > FORMAT {
        return Err(DataDirError::NewerFormat { path: dir.into(), found: header.format });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(corrupt)
}

pub(super) fn record_of(file: &IdentityFile, dir: &Path) -> Result<Record, DataDirError> {
    let member = |(id, peer): (&u64, &PeerFile)| {
        let mut key = PublicKey::default();
        let decoded = hex::decode_to_slice(&peer.public_key, &mut key);
        decoded.map(|()| (RaftId(*id), Peer { address: peer.address.clone(), key })).map_err(|error| {
            DataDirError::Corrupt { path: dir.join("identity.json"), why: format!("the key of member {id}: {error}") }
        })
    };
    Ok(Record {
        membership: membership_of(file, dir)?,
        members: file.members.iter().map(member).collect::<Result<_, _>>()?,
        attempt: file.attempt,
        unclean: file.unclean,
        begun: file.begun,
        reached: file.reached,
        certificate: certificate_of(file, dir)?,
        recovering: file.recovering,
    })
}

fn certificate_of(file: &IdentityFile, dir: &Path) -> Result<Option<Certificate>, DataDirError> {
    if file.certificate.is_empty() {
        return Ok(None);
    }
    let authorities = file.authorities.iter().map(hex::decode).collect::<Result<_, _>>();
    let authorities = authorities.map_err(|error| DataDirError::Corrupt {
        path: dir.join("identity.json"),
        why: format!("an authority's certificate: {error}"),
    })?;
    let (own, crossed) = (file.certificate.clone(), file.crossed.clone());
    Ok(Some(Certificate { own, authorities, crossed, authority: file.authority }))
}

fn membership_of(file: &IdentityFile, dir: &Path) -> Result<Option<Membership>, DataDirError> {
    let corrupt = |why: String| DataDirError::Corrupt { path: dir.join("identity.json"), why };
    match (&file.cluster_id, file.node_id, file.raft_id) {
        (None, None, None) => Ok(None),
        (Some(cluster), Some(node), Some(raft_id)) => {
            let cluster = cluster.parse().map_err(|error| corrupt(format!("{error}")))?;
            Ok(Some(Membership { cluster, node: NodeId(node), raft_id: RaftId(raft_id), observer: file.observer }))
        }
        _ => Err(corrupt("it has some of cluster_id, node_id and raft_id, but not all".into())),
    }
}

pub(super) fn read_cluster_key(path: &Path) -> Result<Option<ClusterKey>, DataDirError> {
    let Some(text) = read_optional(path)?.map(Zeroizing::new) else { return Ok(None) };
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim_ascii(), &mut *key)
        .map_err(|error| DataDirError::Corrupt { path: path.into(), why: error.to_string() })?;
    Ok(Some(ClusterKey::new(*key)))
}

pub(super) fn read_or_make_key(dir: &Path) -> Result<NodeKey, DataDirError> {
    let path = dir.join("node.key");
    let pkcs8 = match read_optional(&path)? {
        Some(bytes) => bytes,
        None => {
            let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| DataDirError::Io {
                operation: "make a key for",
                path: path.clone(),
                source: io::Error::other("the system gave no random numbers"),
            })?;
            write_durably(&path, made.as_ref(), 0o600).map_err(io_error("write", &path))?;
            made.as_ref().to_vec()
        }
    };
    NodeKey::from_pkcs8(&pkcs8).map_err(|error| DataDirError::Corrupt { path, why: pontoon_store::error_chain(&error) })
}

/// Writes a file so that after a crash either the old or the new content is there.
pub(crate) fn write_durably(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // Of a file in the data folder, which is never the root.
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(dir)?.sync_all()
}
