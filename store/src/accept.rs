//! Taking connections at the port that members reach each other at: none of those who say nothing keeps a member out.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::peer::StoreSlot;
use crate::refusals::What;
use crate::tls::{CONNECT, CertificateError, Connection, NodeKey};

/// How many handshakes may be under way.
pub(crate) const HANDSHAKES: usize = 256;
/// How many strangers may be connected.
pub(crate) const STRANGERS: usize = 64;
/// How many connections there may be of those who administer the cluster from elsewhere.
pub(crate) const ADMINS: usize = 128;
/// How long nobody is accepted after that failed, as it does while no file descriptor is left.
const PAUSE: Duration = Duration::from_millis(100);

/// Where connections go on which somebody has said something.
#[derive(Debug, Clone)]
pub(crate) struct Doors {
    /// Of nodes of the cluster.
    pub(crate) nodes: mpsc::Sender<Connection>,
    /// Of those who administer the cluster from elsewhere; none: they are strangers.
    pub(crate) admins: Option<mpsc::Sender<Connection>>,
    /// Of all others.
    pub(crate) strangers: mpsc::Sender<Connection>,
}

/// Shakes hands with whoever connects, many at once, and passes on those who then say something. It never waits for a
/// handshake: one that is too many ends another. The same goes for strangers that are connected.
pub(crate) async fn accept(listener: TcpListener, slot: StoreSlot, doors: Doors) -> Infallible {
    // They end with this.
    let mut tasks = JoinSet::new();
    let mut under_way: Vec<(IpAddr, AbortHandle)> = Vec::new();
    let (strangers, admins) = (Arc::default(), Arc::default());
    let listener = &listener;
    loop {
        let (stream, address) = next(|| listener.accept()).await;
        while tasks.try_join_next().is_some() {}
        under_way.retain(|(_, task)| !task.is_finished());
        if under_way.len() >= HANDSHAKES {
            let addresses: Vec<_> = under_way.iter().map(|(address, _)| *address).collect();
            let (address, task) = under_way.remove(crowding(&addresses));
            slot.refusals().note(
                address,
                What::Handshake,
                &"too many handshakes are under way, and this one ends for a newer one",
            );
            task.abort();
        }
        let (slot, doors) = (slot.clone(), doors.clone());
        let (strangers, admins) = (Arc::clone(&strangers), Arc::clone(&admins));
        let task = tasks.spawn(async move {
            let refusals = slot.refusals();
            match timeout(CONNECT, shake(stream, address, slot.key())).await {
                // Nobody is there to take it while the port is being closed.
                // A certificate of another cluster, or one that has ended, is worth a word also if nothing is said.
                Ok(Ok((connection, false))) => match connection.certified() {
                    Ok(_) | Err(CertificateError::NoNode) => debug!(%address, "somebody connected and said nothing"),
                    Err(error) => refusals.note(
                        address.ip(),
                        What::Certificate,
                        &format!("its certificate is not believed: {error}"),
                    ),
                },
                Ok(Ok((connection, true))) if connection.certified().is_ok_and(|it| slot.may_be_node(&it.key)) => {
                    drop(doors.nodes.send(connection).await)
                }
                Ok(Ok((connection, true)))
                    if let Some((door, gone)) = doors.admins.zip(slot.without_admin(connection.key())) =>
                {
                    let end = take_in(&admins, connection.key(), ADMINS);
                    let connection = connection.end_with(end, gone);
                    drop(door.send(connection).await)
                }
                Ok(Ok((connection, true))) => {
                    let connection = connection.end_soon(take_in(&strangers, address.ip(), STRANGERS));
                    drop(doors.strangers.send(connection).await);
                }
                Ok(Err(error)) => {
                    refusals.note(address.ip(), What::Handshake, &format!("the handshake has failed: {error}"))
                }
                Err(_) => refusals.note(
                    address.ip(),
                    What::Handshake,
                    &format!("the handshake is not over within {CONNECT:?}"),
                ),
            }
        });
        under_way.push((address.ip(), task));
    }
}

/// Those that are connected: by what they are told apart, and what closes each one's connection.
type Connected<K> = Mutex<Vec<(K, CancellationToken)>>;

/// Takes somebody in. One who is too many takes the place of another.
fn take_in<K: PartialEq + Clone>(connected: &Connected<K>, who: K, most: usize) -> CancellationToken {
    let mut connected = connected.lock().unwrap_or_else(PoisonError::into_inner);
    connected.retain(|(_, end)| !end.is_cancelled());
    if connected.len() >= most {
        let all: Vec<_> = connected.iter().map(|(who, _)| who.clone()).collect();
        connected.remove(crowding(&all)).1.cancel();
    }
    let end = CancellationToken::new();
    connected.push((who, end.clone()));
    end
}

/// The next connection. What keeps one from being accepted passes, or is over with it: the port stays open.
async fn next<T, F>(accept: impl Fn() -> F) -> T
where
    F: Future<Output = io::Result<T>>,
{
    loop {
        match accept().await {
            Ok(connection) => return connection,
            Err(error) => {
                warn!(%error, "a connection of another node cannot be accepted: trying again");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Which handshake or connection gives way, of those of these addresses or keys, the oldest first: the oldest of the one that
/// has the most. A flood gives way to itself, and a member takes milliseconds.
fn crowding<K: PartialEq>(all: &[K]) -> usize {
    let count = |one: &K| all.iter().filter(|other| *other == one).count();
    let most = all.iter().map(count).max();
    all.iter().position(|one| Some(count(one)) == most).unwrap_or(0)
}

/// Shakes hands. Tells whether something was said then: whoever has a call begins at once, and keepalive begins only then.
async fn shake(stream: TcpStream, address: SocketAddr, key: &NodeKey) -> io::Result<(Connection, bool)> {
    stream.set_nodelay(true)?;
    let (mut stream, chain) = key.accept(stream).await?;
    let silent = match stream.fill_buf().await {
        Ok(said) => said.is_empty(),
        // However it ended.
        Err(_) => true,
    };
    Ok((Connection::new(stream, chain, address, key)?, !silent))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::Ipv4Addr;

    use ring::rand::SystemRandom;
    use ring::signature::Ed25519KeyPair;
    use tokio::io::AsyncReadExt;

    use pontoon_proto::v1::HelloRequest;

    use super::*;
    use crate::raft::channel::dial;
    use crate::{PeerServer, StoreSlot, hello};

    fn key() -> NodeKey {
        NodeKey::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref()).unwrap()
    }

    async fn serving() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(PeerServer::new(StoreSlot::new("a".into(), key(), || 0)).serve(listener, std::future::pending()));
        address
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn those_who_say_nothing_keep_nobody_out() {
        let address = serving().await;
        let mut silent = Vec::new();
        for round in 0..3 {
            // More each time than may be under way, in place of those that were.
            let before = std::mem::take(&mut silent);
            for _ in 0..HANDSHAKES + 44 {
                silent.push(TcpStream::connect(address).await.unwrap());
            }
            drop(before);
            let gave_way = timeout(CONNECT / 2, silent[0].read(&mut [0])).await;
            assert!(gave_way.is_ok_and(|read| read.unwrap_or(0) == 0), "the oldest is still under way");
            let answer = hello(&key(), address, CONNECT).await;
            assert_eq!(answer.map(|hello| hello.name).map_err(|error| (round, error.to_string())), Ok("a".into()));
        }
    }

    /// Neither before the handshake nor after it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_on_which_nothing_is_said_ends() {
        let address = serving().await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let (mut shaken, _) = key().connect(&address.to_string()).await.unwrap();
        let ended = timeout(CONNECT * 5, async { (silent.read(&mut [0]).await, shaken.read(&mut [0]).await) });
        let (silent, shaken) = ended.await.expect("both end");
        assert_eq!(silent.unwrap_or(0), 0);
        assert_eq!(shaken.unwrap_or(0), 0);
    }

    /// Nor do those who say that they are somebody, and then nothing more.
    #[tokio::test(flavor = "multi_thread")]
    async fn strangers_keep_nobody_out() {
        let address = serving().await;
        let anybody = |_: &[Vec<u8>]| Ok::<_, tonic::Status>(());
        let mut strangers = Vec::new();
        for _ in 0..STRANGERS + 10 {
            let (mut client, ()) = dial(&key(), address, anybody).await.unwrap();
            client.hello(HelloRequest {}).await.unwrap();
            strangers.push(client);
        }
        let hung_up = async {
            while strangers[0].hello(HelloRequest {}).await.is_ok() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(CONNECT * 5, hung_up).await.expect("the first has made room");
        strangers[STRANGERS + 9].hello(HelloRequest {}).await.unwrap();
        // Those who go make room, too.
        strangers.truncate(1);
        for _ in 0..STRANGERS {
            let answer = hello(&key(), address, CONNECT).await;
            assert_eq!(answer.map(|hello| hello.name).map_err(|error| error.to_string()), Ok("a".into()));
        }
    }

    #[tokio::test]
    async fn an_error_in_accepting_passes() {
        let tries = Cell::new(0);
        let accepted = next(|| {
            tries.set(tries.get() + 1);
            std::future::ready(match tries.get() {
                1 => Err(io::Error::from_raw_os_error(nix::libc::EMFILE)),
                2 => Err(io::ErrorKind::ConnectionAborted.into()),
                tries => Ok(tries),
            })
        });
        assert_eq!(accepted.await, 3);
    }

    #[test]
    fn the_oldest_of_the_address_that_has_the_most_gives_way() {
        let address = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
        let cases: [(&[u8], usize); 4] = [(&[1], 0), (&[1, 2, 3], 0), (&[1, 2, 3, 2], 1), (&[1, 2, 2, 3, 3, 3], 3)];
        for (addresses, expected) in cases {
            let given: Vec<_> = addresses.iter().copied().map(address).collect();
            assert_eq!(crowding(&given), expected, "{addresses:?}");
        }
    }
}
