//! Snapshots on connections that do not last.

use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Bytes that a connection carries to a member before it is cut.
const LASTS: usize = 64 << 10;

/// Lets nothing through to an address but so many bytes on each connection. Counts the connections that it has cut.
async fn cutting(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, cuts) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let all_cuts = cuts.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let cuts = all_cuts.clone();
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(to).await else { return };
                let ((mut from, mut back), (mut answers, mut on)) = (client.into_split(), server.into_split());
                let answering = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
                let (mut buffer, mut carried) = (vec![0; 4096], 0);
                while let Ok(length @ 1..) = from.read(&mut buffer).await {
                    carried += length;
                    if carried > LASTS {
                        cuts.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    if on.write_all(&buffer[..length]).await.is_err() {
                        break;
                    }
                }
                answering.abort();
            });
        }
    });
    (address, cuts)
}

/// Begun anew each time, it would never arrive: no connection carries a quarter of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_cut_off_again_and_again_goes_on_where_it_was() {
    let mut daemons = [Daemon::start(1).await, Daemon::start(2).await];
    for daemon in &mut daemons {
        daemon.snapshot_every = 100;
    }
    daemons[0].found().await;
    daemons[0].create_many(800, 60).await;
    let first = daemons[0].store();
    until("the log is purged", || first.status().purged_index > 0).await;
    let size = first.0.shared.view().snapshot.as_ref().unwrap().1.data_bytes;
    assert!(size > 4 * LASTS as u64, "{size}");
    let real = daemons[1].address;
    let (address, cuts) = cutting(real).await;
    daemons[1].address = address;
    daemons[1].join(&daemons[0]).await;
    until("it has what was in the snapshot", || daemons[1].networks().len() == 800).await;
    assert_eq!(daemons[1].networks(), daemons[0].networks());
    // How many is a matter of chance: a newer snapshot that was made meanwhile begins at its start.
    let cuts = cuts.load(Ordering::Relaxed);
    assert!(cuts >= 4, "{cuts} connections were cut, for a snapshot of {size} bytes");
}
