//! The called side of sending a snapshot. One that was cut off goes on from where it was, whoever sends it: the same
//! entries give the same bytes.

use std::sync::Arc;

use pontoon_proto::v1;
use pontoon_proto::v1::snapshot_chunk::Part;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tonic::{Status, Streaming};

use crate::disk::snapshot::{Incoming, SnapshotDir, SnapshotError, SnapshotFile};
use crate::rt;

/// What has arrived of a snapshot.
#[derive(Debug)]
struct Begun {
    header: v1::SnapshotHeader,
    incoming: Incoming,
}

/// The snapshot that is arriving, if one is. While its sender is connected it is locked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrival(Arc<Mutex<Option<Begun>>>);

impl Arrival {
    /// How many bytes of a snapshot are here already.
    pub(crate) async fn bytes_of(&self, header: v1::SnapshotHeader) -> u64 {
        let (begun, header) = (self.0.lock().await, without_vote(header));
        begun.as_ref().filter(|begun| begun.header == header).map_or(0, |begun| begun.incoming.data_bytes())
    }

    /// Takes what is sent of a snapshot, until it is whole and on disk. What has arrived of one that is cut off stays.
    ///
    /// # Errors
    ///
    /// When it ends too early, is not what was announced, or cannot be written.
    pub(crate) async fn receive(
        &self,
        snapshots: &SnapshotDir,
        header: v1::SnapshotHeader,
        mut chunks: Streaming<v1::SnapshotChunk>,
    ) -> Result<SnapshotFile, Status> {
        let (mut begun, header) = (self.0.clone().lock_owned().await, without_vote(header));
        if begun.as_ref().is_none_or(|begun| begun.header != header) {
            *begun = Some(begin(snapshots, &header)?);
        }
        while let Some(chunk) = chunks.message().await? {
            let Some(Part::Data(data)) = chunk.part else {
                return Err(Status::invalid_argument("a snapshot has one description"));
            };
            begun = append(begun, chunk.offset, data).await?;
        }
        let arrived = begun.as_ref().map_or(0, |begun| begun.incoming.data_bytes());
        if arrived != header.size {
            let message = format!("the snapshot has {} bytes, and {arrived} arrived", header.size);
            return Err(Status::data_loss(message));
        }
        let Some(whole) = begun.take() else { return Err(Status::internal("the snapshot is gone")) };
        let finished = rt::spawn_blocking(|| whole.incoming.finish()).await;
        finished.map_err(|error| Status::unavailable(error.to_string()))?.map_err(|error| unwritten(&error))
    }
}

/// Which snapshot it is does not depend on who sends it.
fn without_vote(header: v1::SnapshotHeader) -> v1::SnapshotHeader {
    v1::SnapshotHeader { vote: None, ..header }
}

fn begin(snapshots: &SnapshotDir, header: &v1::SnapshotHeader) -> Result<Begun, Status> {
    let incoming = snapshots.receive(header.clone()).map_err(|error| unwritten(&error))?;
    Ok(Begun { header: header.clone(), incoming })
}

/// Writes a part. It is written whole also when whoever waits for it is gone.
async fn append(
    mut begun: OwnedMutexGuard<Option<Begun>>,
    offset: u64,
    data: Vec<u8>,
) -> Result<OwnedMutexGuard<Option<Begun>>, Status> {
    let write = move || -> Result<_, Status> {
        let Some(Begun { header, incoming }) = begun.as_mut() else {
            return Err(Status::internal("the snapshot is gone"));
        };
        let (arrived, end) = (incoming.data_bytes(), offset + data.len() as u64);
        if offset != arrived || end > header.size {
            let message = format!("bytes {offset} to {end} of a snapshot of {} come after byte {arrived}", header.size);
            return Err(Status::out_of_range(message));
        }
        if let Err(error) = incoming.append(&data) {
            // How much of the part is in the file, nobody knows.
            *begun = None;
            return Err(unwritten(&error));
        }
        Ok(begun)
    };
    rt::spawn_blocking(write).await.map_err(|error| Status::unavailable(error.to_string()))?
}

fn unwritten(error: &SnapshotError) -> Status {
    Status::internal(crate::error_chain(error))
}
