//! Who believes to be removed, and who is.

use pontoon_proto::v1;

use super::*;

async fn remove(through: &Daemon, node: NodeId, raft_id: RaftId) {
    let store = through.store();
    store.propose(Command::RemoveNode { node, force: true }, PATIENCE).await.unwrap();
    store.expel(raft_id, PATIENCE).await.unwrap();
    until("it is out", || !store.status().members.contains_key(&raft_id)).await;
}

/// The second leaves and comes back as another member while the third is away: the third knows only the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_peer_has_become_another_is_still_one() {
    let mut daemons = three().await;
    let third = daemons[2].kill().await;
    let node = daemons[1].store().node();
    let second = daemons[1].store().id();
    remove(&daemons[0], node, second).await;
    daemons[1].kill().await;
    daemons[1].dir = TempDir::new().unwrap();
    let listener = TcpListener::bind(daemons[1].address).await.unwrap();
    daemons[1].serve(listener);
    daemons[1].join(&daemons[0]).await;
    assert_ne!(daemons[1].store().id(), second);
    daemons[1].report().await;

    daemons[2].restart(third).await;
    let store = daemons[2].store();
    let peer = daemons[1].peer();
    for _ in 0..3 {
        let mut client = store.0.channels.peer(second.0, &peer).unwrap();
        let answer = client.read_index(store.0.channels.request(second.0, v1::ReadIndexRequest {})).await;
        assert_eq!(answer.as_ref().unwrap_err().code(), tonic::Code::PermissionDenied);
        store.0.channels.note(&answer);
        assert_eq!(store.stopped(), None);
    }
    daemons[2].create("from-the-third").await.unwrap();
    store.read_barrier(DEADLINE).await.unwrap();
    assert_eq!(store.stopped(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_removed_while_it_was_away_says_so() {
    let mut daemons = three().await;
    let node = daemons[2].store().node();
    let third = daemons[2].kill().await;
    remove(&daemons[0], node, third).await;
    daemons[2].restart(third).await;
    let store = daemons[2].store();
    until("it knows that it was removed", || store.stopped().is_some()).await;
    let error = daemons[2].create("never").await.unwrap_err().to_string();
    assert!(error.contains("removed from the cluster"), "{error}");
    assert!(matches!(store.read_barrier(DEADLINE).await, Err(ReadError::Stopped { .. })));
}

/// Neither what it has asked for before nor what it asks for now, although it votes until its vote is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_is_told_nothing_more_on_open_connections() {
    let daemons = three().await;
    let first = leader(&daemons);
    let (leader, other) = (&daemons[first], &daemons[(first + 1) % 3]);
    let (store, id) = (other.store(), leader.store().id().0);
    let mut client = store.channels().peer(id, &leader.peer()).unwrap();
    let request = store.channels().request(id, v1::WatchRequest::default());
    let mut told = client.watch(request).await.unwrap().into_inner();
    assert!(told.message().await.unwrap().is_some());
    leader.store().propose(Command::RemoveNode { node: store.node(), force: true }, PATIENCE).await.unwrap();
    let ended = async { while told.message().await.unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_secs(1), ended).await.expect("nothing more is told");
    let asked = client.read_index(store.channels().request(id, v1::ReadIndexRequest {})).await.unwrap_err();
    assert_eq!(asked.code(), tonic::Code::PermissionDenied, "{asked}");
    assert!(asked.message().contains("no longer"), "{asked}");
    let proposal = store.channels().request(id, v1::ProposeRequest::default());
    assert_eq!(client.propose(proposal).await.unwrap_err().code(), tonic::Code::PermissionDenied);
    leader.create("goes-on").await.unwrap();
}

/// A leader that was killed while it left, and started again, took the refusal of the next one for the end of its part: it
/// went with the vote that the change of the membership needed, and the one that stayed had no majority for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_stays_until_its_vote_was_taken() {
    let daemons = three().await;
    let first = leader(&daemons);
    let (leader, other) = (daemons[first].store(), daemons[(first + 1) % 3].store());
    let changing = leader.in_raft().unwrap().changing.lock().await;
    leader.propose(Command::RemoveNode { node: other.node(), force: true }, PATIENCE).await.unwrap();
    let mut client = other.channels().peer(leader.id().0, &daemons[first].peer()).unwrap();
    let asked = client.read_index(other.channels().request(leader.id().0, v1::ReadIndexRequest {})).await;
    assert_eq!(asked.as_ref().unwrap_err().code(), tonic::Code::PermissionDenied);
    other.channels().note(&asked);
    let early = other.expel(other.id(), Duration::from_millis(500)).await;
    assert!(matches!(early, Err(ExpelError::NoQuorum { .. })), "{early:?}");
    drop(changing);
    other.expel(other.id(), PATIENCE).await.unwrap();
    until("it is out", || !leader.status().members.contains_key(&other.id())).await;
}

/// One that does not vote stands for no election, in which it would be told.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_vote_that_was_removed_while_it_was_away_says_so() {
    let daemons = three().await;
    let mut fourth = Daemon::start(4).await;
    fourth.join(&daemons[0]).await;
    fourth.report().await;
    let node = fourth.store().node();
    let id = fourth.kill().await;
    remove(&daemons[0], node, id).await;
    fourth.restart(id).await;
    let store = fourth.store();
    assert!(!store.status().voters.contains(&id));
    until("it knows that it was removed", || store.stopped().is_some()).await;
    let error = fourth.create("never").await.unwrap_err().to_string();
    assert!(error.contains("removed from the cluster"), "{error}");
}

/// What one member says of another does not count against a leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_led_is_none_that_was_removed() {
    let daemons = three().await;
    let first = leader(&daemons);
    for at in [first, (first + 1) % 3] {
        let store = daemons[at].store();
        let mut status = tonic::Status::permission_denied("no member");
        status.metadata_mut().insert(pontoon_proto::metadata::REMOVED, "true".parse().unwrap());
        store.0.channels.note::<()>(&Err(status));
        assert_eq!(store.stopped(), None);
        daemons[at].create(&format!("net-{at}")).await.unwrap();
    }
}
