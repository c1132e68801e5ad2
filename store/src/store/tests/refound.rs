//! A new cluster that goes on with what another had.

use super::*;
use crate::model::apply::{FirstNode, Refounding};

const OTHER: ClusterId = ClusterId(0xf00d);

/// Two of three are gone for good. What the third has is the beginning of another cluster, in which it leads at once, also
/// after a restart, and which takes in others.
#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_goes_on_in_a_new_cluster() {
    let mut daemons = three().await;
    daemons[0].create("before").await.unwrap();
    until("all have it", || daemons.iter().all(|daemon| daemon.networks() == ["before"])).await;
    let store = daemons[2].store();
    let (state, _) = store.latest().unwrap();
    let node = store.node();
    for daemon in &mut daemons {
        daemon.kill().await;
    }
    let authority = authority_of(OTHER, 77);
    let new = Refounding {
        asked: None,
        cluster: OTHER,
        authority: authority.certificate().to_vec(),
        sealed_key: authority.seal(&cluster_key()),
        first: FirstNode::Stays(node),
        now_ms: clock(),
    };
    let old_index = state.applied_index;
    let (state, first) = state.refound(new).unwrap();
    assert_eq!(state.check(), []);
    assert_eq!((state.nodes.len(), first.id), (1, node));
    assert!(first.raft_id.0 > old_index);
    let mut survivor = Daemon::start(3).await;
    let options = StoreOptions { cluster: OTHER, ..survivor.options(first.raft_id) };
    survivor.key = daemons[2].key.clone();
    let options = StoreOptions { key: survivor.key.clone(), ..options };
    let new = Store::open(options.clone()).await.unwrap();
    new.begin_with(&state, survivor.address).await.unwrap();
    assert_eq!(new.state().networks.len(), 1);
    let write = |name: &str| Command::CreateNetwork(CreateNetwork { name: name.into(), ..CreateNetwork::default() });
    new.propose(write("after"), DEADLINE).await.unwrap();
    let certificate = new.certify(node).unwrap();
    survivor.key.certify(certificate).unwrap();
    assert_eq!(survivor.key.certified().unwrap().cluster, OTHER);
    new.shutdown().await;
    let again = Store::open(StoreOptions { begun: true, ..options }).await.unwrap();
    until("it leads again", || again.status().is_leader).await;
    again.propose(write("later"), DEADLINE).await.unwrap();
    assert_eq!(again.state().networks.len(), 3);
    assert_eq!(again.status().voters.len(), 1);
    again.shutdown().await;
}

/// Nothing of the nodes that there were is in a cluster that begins with a backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_begins_with_what_another_cluster_had() {
    let daemons = three().await;
    daemons[0].create("before").await.unwrap();
    let (state, _) = daemons[leader(&daemons)].store().latest().unwrap();
    let authority = authority_of(OTHER, 77);
    // Under the name of one that there was.
    let founder = Daemon::start(1).await;
    let new = Refounding {
        asked: None,
        cluster: OTHER,
        authority: authority.certificate().to_vec(),
        sealed_key: authority.seal(&cluster_key()),
        first: FirstNode::Enters(founder.admission().into()),
        now_ms: clock(),
    };
    let (state, first) = state.refound(new).unwrap();
    assert_eq!(state.check(), []);
    let names: Vec<_> = state.nodes.values().map(|node| (node.id, node.name.as_str())).collect();
    assert_eq!(names, [(first.id, "host-1")]);
    assert_eq!((state.tokens.len(), state.sessions.len()), (0, 0));
    let store = Store::open(StoreOptions { cluster: OTHER, ..founder.options(first.raft_id) }).await.unwrap();
    store.begin_with(&state, founder.address).await.unwrap();
    assert_eq!(store.state().networks.values().next().unwrap().name, "before");
    store.shutdown().await;
}
