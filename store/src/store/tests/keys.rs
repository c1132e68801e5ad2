//! Who is at the other end of a connection.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use super::*;
use crate::AdmitError;
use crate::tls::PublicKey;

/// A member's connections, to members that have these keys as far as it knows.
fn channels(me: RaftId, key: &NodeKey, known: Option<PublicKey>) -> Channels {
    Channels::new(CLUSTER, me, key.clone(), Arc::new(move |_| known))
}

async fn read_index(channels: &Channels, to: &Daemon) -> Result<(), tonic::Status> {
    let id = to.store().id().0;
    let mut client = channels.peer(id, &to.address.to_string()).unwrap();
    client.read_index(channels.request(id, pontoon_proto::v1::ReadIndexRequest {})).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admission_needs_the_key() {
    let daemons = [Daemon::start(1).await, Daemon::start(2).await];
    daemons[0].found().await;
    let node = daemons[1].admission();
    let error = admit(&new_key(), daemons[0].address, &node, DEADLINE).await.unwrap_err().to_string();
    assert!(error.contains("has not the key of the node"), "{error}");
    let named = AdmitNode { name: "host-1".into(), ..node };
    let error = admit(&daemons[1].key, daemons[0].address, &named, DEADLINE).await.unwrap_err();
    assert!(matches!(&error, AdmitError::Rejected(rejection) if rejection.reason == Reason::NodeNameTaken));
}

/// A call names the member that it is from, and anybody can write a name.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_needs_the_key_of_the_member_that_it_is_from() {
    let daemons = three().await;
    let leader = &daemons[leader(&daemons)];
    let other = daemons.iter().find(|daemon| daemon.address != leader.address).unwrap();
    let me = other.store().id();
    read_index(&channels(me, &other.key, None), leader).await.unwrap();
    let status = read_index(&channels(me, &new_key(), None), leader).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains(&format!("has not the key of member {me}")), "{status}");
}

/// A member talks to whoever has a member's key, not to whoever has its address.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_not_given_what_is_meant_for_the_owner_of_a_key() {
    let daemons = three().await;
    let leader = &daemons[leader(&daemons)];
    let other = daemons.iter().find(|daemon| daemon.address != leader.address).unwrap();
    let me = other.store().id();
    read_index(&channels(me, &other.key, Some(leader.key.public())), leader).await.unwrap();
    let status = read_index(&channels(me, &other.key, Some(other.key.public())), leader).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let text = crate::error_chain(&status);
    assert!(text.contains("has not the key of member"), "{text}");
    let greeted = hello(&other.key, leader.address, DEADLINE).await.unwrap();
    assert_eq!(greeted.public_key, leader.key.public());
}

/// There is no way in without a key.
#[tokio::test(flavor = "multi_thread")]
async fn plain_http2_is_not_answered() {
    let daemon = Daemon::start(1).await;
    daemon.found().await;
    let mut stream = TcpStream::connect(daemon.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good an end as any.
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the connection is closed");
    // A TLS alert: content type 21 (RFC 8446, section 5.1), 7 bytes. An HTTP/2 server would send its SETTINGS.
    assert!(answer.is_empty() || (answer[0] == 21 && answer.len() == 7), "{answer:?}");
}

/// One that connects and says nothing holds up nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_holds_up_no_other() {
    let daemon = Daemon::start(1).await;
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(daemon.address).await.unwrap());
    }
    hello(&new_key(), daemon.address, Duration::from_secs(2)).await.unwrap();
}
