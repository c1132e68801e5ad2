//! Members compare the hashes of their states. One whose copy has gone astray must not lead others astray.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::v1;
use thiserror::Error;

use super::members::upgrade;
use super::{Store, voting};
use crate::model::agreement::{Difference, StateHash, odd_one_out};
use crate::model::id::RaftId;
use crate::rt::{self, JoinHandle, fs, sleep, timeout};

/// How often a member compares.
const COMPARE: Duration = Duration::from_secs(10);
/// How long another may take to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// Name of the file that says why a member's copy is not used any more.
const MARK: &str = "differs";

/// This member's copy is not what the others have.
#[derive(Debug, Error)]
#[error("{0}")]
struct Differs(String);

/// Starts the task.
pub(super) fn spawn(store: &Store) -> JoinHandle<()> {
    let (weak, task) = (Arc::downgrade(&store.0), store.0.options.tasks.task("compare"));
    let ending = store.0.ending.clone();
    rt::spawn(async move {
        while ending.run_until_cancelled(sleep(COMPARE)).await.is_some() {
            let Some(store) = upgrade(&weak) else { return };
            task.begin();
            let compared = ending.run_until_cancelled(store.compare()).await;
            task.end(match compared.flatten() {
                Some(reason) => Err(Differs(reason)),
                None => Ok(()),
            });
        }
    })
}

/// Why the copy in a folder is not to be used, if it is not.
///
/// # Errors
///
/// When the folder cannot be read.
pub(super) fn mark_of(dir: &Path) -> io::Result<Option<String>> {
    match fs::read(dir.join(MARK)) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn mark(dir: &Path, reason: &str) -> io::Result<()> {
    let mut file = fs::File::options().create(true).write(true).truncate(true).open(dir.join(MARK))?;
    file.write_all(reason.as_bytes())?;
    file.sync_all()?;
    fs::File::open(dir)?.sync_all()
}

impl Store {
    /// Compares with all other members; tells why this one has stopped, if it has.
    pub(super) async fn compare(&self) -> Option<String> {
        let membership = self.metrics().membership_config;
        let mut others = BTreeMap::new();
        for (id, peer) in membership.nodes().filter(|(id, _)| **id != self.id().0) {
            let Ok(mut client) = self.0.channels.peer(*id, peer) else { continue };
            let asked = client.hashes(self.0.channels.request(*id, v1::HashesRequest {}));
            if let Ok(Ok(answer)) = timeout(ANSWER, asked).await {
                let known = answer.into_inner().hashes.iter().filter_map(hash_in).collect();
                others.insert(RaftId(*id), known);
            }
        }
        let leader = self.metrics().current_leader.map(RaftId);
        let found = odd_one_out(&self.hashes(), &others, membership.nodes().count(), leader)?;
        let reason = self.difference(&found);
        tracing::error!(reason);
        let (dir, text) = (self.0.options.dir.clone(), reason.clone());
        let marked = rt::spawn_blocking(move || mark(&dir, &text)).await;
        if let Err(error) = marked.map_err(io::Error::other).and_then(|marked| marked) {
            tracing::error!(%error, "cannot write down that the copy of this member is not to be used any more");
        }
        self.0.shared.view().stopped = Some(reason.clone());
        if self.consensus()?.raft.shutdown().await.is_err() {
            tracing::debug!("Raft has ended by itself");
        }
        Some(reason)
    }

    fn difference(&self, found: &Difference) -> String {
        let state = self.state();
        let others = found.others.iter().map(|id| voting::name(&state, *id)).collect::<Vec<_>>().join(", ");
        let me = voting::name(&state, self.id());
        format!(
            "what this node has made of the log up to entry {} differs from what {others} made of it: its copy is not used any \
             more, and its containers' traffic goes on. Run pontoon node rm --force {me} on another node, clear the data folder \
             of this one, and let it join again",
            found.index
        )
    }

    /// The hashes of the states that this member was in lately, oldest first.
    pub(crate) fn hashes(&self) -> Vec<StateHash> {
        self.0.shared.view().hashes()
    }
}

/// In a message.
pub(crate) fn hash_out(known: &StateHash) -> v1::StateHash {
    v1::StateHash { index: known.index, hash: known.hash.to_be_bytes().to_vec() }
}

fn hash_in(known: &v1::StateHash) -> Option<StateHash> {
    Some(StateHash { index: known.index, hash: u128::from_be_bytes(known.hash.as_slice().try_into().ok()?) })
}
