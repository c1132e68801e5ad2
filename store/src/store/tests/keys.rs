//! Who is at the other end of a connection.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use super::super::propose::was_not_sent;
use super::*;
use crate::AdmitError;
use crate::raft::channel::Purpose;

/// A time as messages show it.
fn timestamp(ms: u64) -> String {
    crate::tls::timestamp(ms).to_string()
}

fn channels(me: RaftId, key: &NodeKey) -> Channels {
    Channels::new(CLUSTER, me, key.clone())
}

async fn read_index(channels: &Channels, to: &Daemon, peer: &Peer) -> Result<(), tonic::Status> {
    let id = to.store().id().0;
    let mut client = channels.peer(id, peer).unwrap();
    client.read_index(channels.request(id, v1::ReadIndexRequest {})).await.map(drop)
}

/// What every method that only members may call answers.
async fn call_everything(channels: &Channels, to: &Daemon) -> Vec<(&'static str, tonic::Status)> {
    let id = to.store().id().0;
    let mut peer = channels.peer(id, &to.peer()).unwrap();
    let mut raft = channels.raft(id, &to.peer(), Purpose::Control).unwrap();
    let appended = raft.append(channels.request(id, futures::stream::empty())).await.map(drop);
    let installed = raft.install_snapshot(channels.request(id, futures::stream::empty())).await.map(drop);
    let answers = [
        ("append", appended),
        ("install_snapshot", installed),
        ("vote", raft.vote(channels.request(id, v1::VoteRequest::default())).await.map(drop)),
        ("pre_vote", raft.pre_vote(channels.request(id, v1::VoteRequest::default())).await.map(drop)),
        ("transfer", raft.transfer_leader(channels.request(id, v1::TransferLeaderRequest::default())).await.map(drop)),
        ("propose", peer.propose(channels.request(id, v1::ProposeRequest::default())).await.map(drop)),
        ("read_index", peer.read_index(channels.request(id, v1::ReadIndexRequest {})).await.map(drop)),
        ("expel", peer.expel(channels.request(id, v1::ExpelRequest { raft_id: id })).await.map(drop)),
        ("key_of", peer.key_of(channels.request(id, v1::KeyOfRequest { raft_id: id })).await.map(drop)),
    ];
    answers.map(|(method, answer)| (method, answer.unwrap_err())).into()
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

/// A call names the member that it is from, and anybody can write a name: that of a member, of one that may have come
/// later than this one knows, or of one that was removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_needs_the_key_of_the_member_that_it_is_from() {
    let daemons = three().await;
    let leader = &daemons[leader(&daemons)];
    let other = daemons.iter().find(|daemon| daemon.address != leader.address).unwrap();
    let me = other.store().id();
    read_index(&channels(me, &other.key), leader, &leader.peer()).await.unwrap();
    for named in [me, leader.store().id(), RaftId(u64::MAX), RaftId(2)] {
        for (method, status) in call_everything(&channels(named, &certified_key(named.0)), leader).await {
            assert_eq!(status.code(), Code::PermissionDenied, "{method} as {named}: {status}");
        }
    }
    let status = read_index(&channels(me, &certified_key(me.0)), leader, &leader.peer()).await.unwrap_err();
    assert!(status.message().contains(&format!("has not the key of member {me}")), "{status}");
}

/// Its key alone is not enough: whatever it sends is not even read.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_needs_a_certificate_of_the_cluster_for_the_node_that_calls() {
    let daemons = three().await;
    let leader = &daemons[leader(&daemons)];
    let other = daemons.iter().find(|daemon| daemon.address != leader.address).unwrap();
    let (me, node) = (other.store().id(), other.store().node());
    // The member's key, whatever it shows: nobody who has it is anybody else.
    let shows = async |certificate: Option<(&Authority, NodeId, u64)>| {
        let key = NodeKey::from_pkcs8(&std::fs::read(other.dir.path().join(KEY)).unwrap()).unwrap();
        if let Some((authority, node, issued_ms)) = certificate {
            let own = authority.issue(node, &key.public(), issued_ms).unwrap();
            let authorities = vec![authority.certificate().to_vec()];
            key.certify(Certificate { own, authorities: authorities.clone(), crossed: Vec::new(), authority: 1 })
                .unwrap();
            // It believes the others, so that it is they who refuse.
            key.trust(vec![authorities[0].clone(), super::authority().certificate().to_vec()]);
        } else {
            key.trust(vec![super::authority().certificate().to_vec()]);
        }
        let answers = call_everything(&channels(me, &key), leader).await;
        for (method, status) in &answers {
            assert!(was_not_sent(status), "{method}: {status}");
        }
        answers.into_iter().map(|(_, status)| (status.code(), status.message().to_owned())).next_back().unwrap()
    };
    let (ours, now) = (authority(), clock());
    let day = 24 * 3_600_000;
    let theirs = authority_of(CLUSTER, 9);
    let elsewhere = authority_of(ClusterId(99), 255);
    let other_node = NodeId(node.0 + 1);
    let cases = [
        (None, Code::Unauthenticated, "in no cluster"),
        (Some((&theirs, node, now)), Code::Unauthenticated, "no authority of this cluster"),
        (Some((&elsewhere, node, now)), Code::Unauthenticated, "no authority of this cluster"),
        (Some((&ours, node, now - 91 * day)), Code::Unauthenticated, "it ended at"),
        (Some((&ours, node, now + 2 * day)), Code::Unauthenticated, "it begins at"),
        (Some((&ours, other_node, now)), Code::PermissionDenied, "and the member is node"),
    ];
    for (certificate, code, text) in cases {
        let (answered, message) = shows(certificate).await;
        assert_eq!(answered, code, "{text}: {message}");
        assert!(message.contains(text), "{text}: {message}");
        if text.starts_with("it ") {
            let clocks = message.split("the clocks: ").nth(1).unwrap_or_default();
            assert_eq!(clocks.matches(&timestamp(now)[..16]).count(), 2, "both clocks: {message}");
        }
    }
    read_index(&channels(me, &other.key), leader, &leader.peer()).await.unwrap();
}

/// What it has sent is not read, and the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_before_his_message_is_read() {
    let daemons = three().await;
    let leader = &daemons[leader(&daemons)];
    let stranger = new_key();
    stranger.trust(vec![authority().certificate().to_vec()]);
    let channels = channels(RaftId(2), &stranger);
    let id = leader.store().id().0;
    let mut raft = channels.raft(id, &leader.peer(), Purpose::Control).unwrap();
    let endless = futures::stream::repeat_with(|| v1::SnapshotChunk {
        part: Some(v1::snapshot_chunk::Part::Data(vec![0; 1 << 20])),
        offset: 0,
    });
    let request = channels.request(id, endless);
    let answer = tokio::time::timeout(DEADLINE, raft.install_snapshot(request)).await.expect("it is refused at once");
    assert_eq!(answer.unwrap_err().code(), Code::Unauthenticated);
    // A member's messages may be 8 MiB, but not those of whoever comes.
    let mut entrance = channels.entrance(id, &leader.peer()).unwrap();
    let node = v1::AdmitNode { name: "x".repeat(70_000), ..v1::AdmitNode::default() };
    let status = entrance.admit(v1::AdmitRequest { node: Some(node), secret: Vec::new() }).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}

/// A newcomer that is led by somebody it has not been told of asks those that it has been told of.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_came_later_is_believed_if_a_known_member_vouches_for_it() {
    let daemons = three().await;
    let leader = &daemons[leader(&daemons)];
    let sponsor = daemons.iter().find(|daemon| daemon.address != leader.address).unwrap();
    let newcomer = Daemon::start(4).await;
    let admitted = admit(&newcomer.key, sponsor.address, &newcomer.admission(), DEADLINE).await.unwrap();
    assert_eq!(admitted.members.len(), 3);
    newcomer.key.certify(admitted.certificate).unwrap();
    let only = |daemon: &Daemon| [(daemon.store().id(), daemon.peer())].into();
    let options = |members| StoreOptions { members, ..newcomer.options(admitted.raft_id) };
    newcomer.slot.set(Some(Store::open(options(only(sponsor))).await.unwrap()));
    until("it has the log", || newcomer.store().node() != NodeId(0)).await;
    // The sponsor vouches for nobody who is none.
    assert_eq!(newcomer.store().vouched_key_of(RaftId(u64::MAX)).await, None);
}

/// A member talks to whoever has a member's key, not to whoever has its address.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_not_given_what_is_meant_for_the_owner_of_a_key() {
    let daemons = three().await;
    let leader = &daemons[leader(&daemons)];
    let other = daemons.iter().find(|daemon| daemon.address != leader.address).unwrap();
    let channels = channels(other.store().id(), &other.key);
    read_index(&channels, leader, &leader.peer()).await.unwrap();
    let mistaken = Peer { key: other.key.public(), ..leader.peer() };
    let status = read_index(&channels, leader, &mistaken).await.unwrap_err();
    assert!(was_not_sent(&status), "{status:?}");
    let text = crate::error_chain(&status);
    assert!(text.contains("has not the key of member"), "{text}");
    let greeted = hello(&other.key, leader.address, DEADLINE).await.unwrap();
    assert_eq!(greeted.public_key, leader.key.public());
}

/// A removed id with an empty log could vote twice, and one that is still to come could be somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_does_not_choose_its_raft_id() {
    let daemons = [Daemon::start(1).await, Daemon::start(2).await];
    daemons[0].found().await;
    let node = AdmitNode { raft_id: Some(RaftId(99)), ..daemons[1].admission() };
    let admitted = admit(&daemons[1].key, daemons[0].address, &node, DEADLINE).await.unwrap();
    assert_eq!(admitted.raft_id.0, admitted.node.0);
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

/// Connections last for months. One that was kept although the certificate that it was made with had been renewed ended with
/// that, and the node was shut out.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_made_anew_once_the_certificate_is_another() {
    let daemons = three().await;
    let leader = &daemons[leader(&daemons)];
    let other = daemons.iter().find(|daemon| daemon.address != leader.address).unwrap();
    let (me, node) = (other.store().id(), other.store().node());
    let key = NodeKey::from_pkcs8(&std::fs::read(other.dir.path().join(KEY)).unwrap()).unwrap();
    let issued = |at_ms| {
        let own = authority().issue(node, &key.public(), at_ms).unwrap();
        let authorities = vec![authority().certificate().to_vec()];
        Certificate { own, authorities, crossed: Vec::new(), authority: 1 }
    };
    key.certify(issued(clock())).unwrap();
    let channels = channels(me, &key);
    read_index(&channels, leader, &leader.peer()).await.unwrap();
    // What it shows from now on has ended: only a new connection shows it.
    key.certify(issued(clock() - 91 * 24 * 3_600_000)).unwrap();
    let refused = read_index(&channels, leader, &leader.peer()).await;
    assert_eq!(refused.as_ref().unwrap_err().code(), Code::Unauthenticated, "{refused:?}");
    channels.note(&refused);
    assert!(channels.is_disbelieved());
    key.certify(issued(clock())).unwrap();
    assert!(!channels.is_disbelieved(), "it shows another");
    read_index(&channels, leader, &leader.peer()).await.unwrap();
}
