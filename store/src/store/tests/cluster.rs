use std::sync::atomic::AtomicUsize;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn one_member_takes_writes_and_comes_back() {
    let mut daemon = Daemon::start(1).await;
    daemon.found().await;
    daemon.create("one").await.unwrap();
    let before = daemon.store().status();
    let id = daemon.kill().await;
    daemon.restart(id).await;
    daemon.store().read_barrier(DEADLINE).await.unwrap();
    assert_eq!(daemon.networks(), ["one"]);
    assert_eq!(daemon.store().status().state_hash, before.state_hash);
    daemon.create("two").await.unwrap();
    let ProposeError::Rejected(rejection) = daemon.create("two").await.unwrap_err() else { panic!("not rejected") };
    assert_eq!(rejection.reason, Reason::NetworkNameTaken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_on_any_member_is_there_on_every_member() {
    let daemons = three().await;
    for (number, daemon) in daemons.iter().enumerate() {
        daemon.create(&format!("net-{number}")).await.unwrap();
        assert!(daemon.networks().contains(&format!("net-{number}")), "applied where it was asked");
    }
    for daemon in &daemons {
        daemon.store().read_barrier(DEADLINE).await.unwrap();
        assert_eq!(daemon.networks().len(), 3);
    }
    let hashes: Vec<_> = daemons.iter().map(|daemon| daemon.store().status().state_hash).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_write_after_the_leaders_death_takes_about_a_second() {
    let mut daemons = three().await;
    daemons[0].create("before").await.unwrap();
    let dead = leader(&daemons);
    let id = daemons[dead].kill().await;
    let alive = (dead + 1) % 3;
    let begun = Instant::now();
    daemons[alive].create("after").await.unwrap();
    let took = begun.elapsed();
    println!("failover: {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    daemons[dead].restart(id).await;
    daemons[dead].store().read_barrier(DEADLINE).await.unwrap();
    assert_eq!(daemons[dead].networks(), ["before", "after"]);
    let store = daemons[alive].store();
    let names = || store.state().nodes.values().filter(|node| node.state == NodeState::Ready).count();
    until("everybody is ready", || names() == 3).await;
}

/// A leader that was killed and back before anybody had noticed went on in its term. What it had sent to another and
/// not written yet had the places in the log that it then gave to other entries: the states differed.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_restarted_does_not_go_on_in_its_term() {
    for _ in 0..3 {
        let mut daemons = three().await;
        daemons[0].create("before").await.unwrap();
        let first = leader(&daemons);
        let term = daemons[first].store().status().term;
        let id = daemons[first].kill().await;
        daemons[first].restart(id).await;
        daemons[first].create("after").await.unwrap();
        let now = daemons[first].store().status().term;
        assert!(now > term, "in term {now}, and it had led in {term}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_is_down_and_one_that_returns_is_ready() {
    let mut daemons = three().await;
    let gone = (leader(&daemons) + 1) % 3;
    let node = daemons[gone].store().node();
    let id = daemons[gone].kill().await;
    let other = daemons[(gone + 1) % 3].store();
    let state = |store: &Store| store.state().nodes[&node].state;
    until("it is down", || state(&other) == NodeState::Down).await;
    daemons[gone].restart(id).await;
    until("it is ready", || state(&other) == NodeState::Ready).await;
}

/// A daemon answers before it has opened its store: entries are refused until then, and must not be kept from it after.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_has_refused_entries_gets_them_as_soon_as_it_takes_them() {
    let mut daemons = three().await;
    let gone = (leader(&daemons) + 1) % 3;
    let id = daemons[gone].kill().await;
    let listener = TcpListener::bind(daemons[gone].address).await.unwrap();
    daemons[gone].serve(listener);
    let begun = Instant::now();
    for number in 0.. {
        daemons[(gone + 1) % 3].create(&format!("missed-{number}")).await.unwrap();
        if begun.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    let opened = Store::open(daemons[gone].options(id)).await.unwrap();
    daemons[gone].slot.set(Some(opened));
    let begun = Instant::now();
    let all = daemons[(gone + 1) % 3].networks().len();
    until("it has what it has missed", || daemons[gone].networks().len() == all).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn handing_over_at_the_end_is_quick() {
    let mut daemons = three().await;
    daemons[0].create("before").await.unwrap();
    let first = leader(&daemons);
    let begun = Instant::now();
    let store = daemons[first].store();
    daemons[first].slot.set(None);
    store.shutdown().await;
    println!("shutdown of the leader: {:?}", begun.elapsed());
    daemons[first].stop = None;
    let begun = Instant::now();
    daemons[(first + 1) % 3].create("after").await.unwrap();
    let took = begun.elapsed();
    println!("first write after handing over: {took:?}");
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_quorum_it_says_who_is_missing_within_five_seconds() {
    let mut daemons = three().await;
    let last = (leader(&daemons) + 1) % 3;
    for other in [(last + 1) % 3, (last + 2) % 3] {
        daemons[other].kill().await;
    }
    let begun = Instant::now();
    let error = daemons[last].create("never").await.unwrap_err();
    assert!(begun.elapsed() <= DEADLINE + Duration::from_millis(200), "{:?}", begun.elapsed());
    let text = error.to_string();
    for other in [(last + 1) % 3, (last + 2) % 3] {
        assert!(text.contains(&daemons[other].name), "{text}");
    }
    let begun = Instant::now();
    let text = daemons[last].store().read_barrier(DEADLINE).await.unwrap_err().to_string();
    assert!(begun.elapsed() <= DEADLINE + Duration::from_millis(200), "{:?}", begun.elapsed());
    assert!(text.contains(&daemons[(last + 1) % 3].name), "{text}");
    // By now it knows that nobody leads.
    let error = daemons[last].create("never").await.unwrap_err();
    println!("{error}");
    assert!(daemons[last].networks().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_request_is_not_applied_twice() {
    let daemons = three().await;
    let store = daemons[leader(&daemons)].store();
    let request = crate::model::entry::RequestId { node: store.node(), run: 77, seq: 1 };
    let network = CreateNetwork { name: "once".into(), ..CreateNetwork::default() };
    let entry =
        crate::model::entry::Entry { time_ms: 0, request, command: Command::CreateNetwork(network), origin: None };
    let open = std::sync::atomic::AtomicBool::new(false);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let Proposed::Done { result, .. } = store.propose_here(entry.clone(), &open).await else {
            panic!("not done");
        };
        answers.push(result.unwrap());
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(store.state().networks.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_catches_up_by_snapshot() {
    let mut daemons = [Daemon::start(1).await, Daemon::start(2).await];
    daemons[0].snapshot_every = 50;
    daemons[1].snapshot_every = 50;
    daemons[0].found().await;
    for number in 0..120 {
        daemons[0].create(&format!("net-{number}")).await.unwrap();
    }
    let first = daemons[0].store();
    until("the log is purged behind a snapshot", || {
        let status = first.status();
        status.snapshot_index > 0 && status.purged_index > 20
    })
    .await;
    daemons[1].join(&daemons[0]).await;
    let second = daemons[1].store();
    until("the second has everything", || second.state().networks.len() == 120).await;
    until("the hashes agree", || first.status().state_hash == second.status().state_hash).await;
    assert!(second.status().snapshot_index > 0, "it came by snapshot");
    // From the snapshot and the log alone.
    let id = daemons[1].kill().await;
    drop(second);
    std::fs::remove_dir_all(daemons[1].dir.path().join("state")).unwrap();
    daemons[1].restart(id).await;
    let second = daemons[1].store();
    until("it is built again", || first.status().state_hash == second.status().state_hash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_cluster_is_refused() {
    let daemons = three().await;
    let key = daemons[1].key.clone();
    let channels = Channels::new(ClusterId(99), RaftId(1), key.clone());
    let mut client = channels.peer(1, &daemons[0].peer()).unwrap();
    let ask = |channels: &Channels, to: u64| channels.request(to, pontoon_proto::v1::ReadIndexRequest {});
    let status = client.read_index(ask(&channels, 1)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert!(status.message().contains(&CLUSTER.to_string()), "{status}");
    assert!(status.message().contains(&ClusterId(99).to_string()), "{status}");
    let ours = Channels::new(CLUSTER, RaftId(2), key);
    let status = client.read_index(ask(&ours, 55)).await.unwrap_err();
    assert!(status.message().contains("member 55") && status.message().contains("member 1"), "{status}");
    // 2 was never anybody's id, and is older than the membership.
    let status = client.read_index(ask(&ours, 1)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_in_no_cluster_says_hello_and_nothing_else() {
    let daemon = Daemon::start(7).await;
    let identified = hello(&daemon.key, daemon.address, DEADLINE).await.unwrap();
    assert_eq!(identified.cluster, None);
    assert_eq!(identified.name, "host-7");
    let node = daemon.admission();
    let error = admit(&daemon.key, daemon.address, &node, DEADLINE).await.unwrap_err().to_string();
    assert!(error.contains("in no cluster"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_can_be_taken_out_through_any_other_and_also_the_leader() {
    let daemons = three().await;
    let first = leader(&daemons);
    let (out, asked) = (daemons[first].store(), daemons[(first + 1) % 3].store());
    let node = out.node();
    asked.propose(Command::RemoveNode { node, force: false }, DEADLINE).await.unwrap();
    asked.expel(out.id(), DEADLINE).await.unwrap();
    let status = || asked.status();
    until("it is out", || !status().members.contains_key(&out.id())).await;
    until("two nodes have one voter", || status().voters.len() == 1).await;
    asked
        .propose(
            Command::LabelNode { node: asked.node(), set: [("a".into(), "b".into())].into(), remove: vec![] },
            DEADLINE,
        )
        .await
        .unwrap();
    let only = *asked.status().voters.first().unwrap();
    let alone = daemons.iter().map(Daemon::store).find(|store| store.id() == only).unwrap();
    let last = daemons.iter().map(Daemon::store).find(|store| ![only, out.id()].contains(&store.id())).unwrap();
    alone.propose(Command::RemoveNode { node: last.node(), force: false }, DEADLINE).await.unwrap();
    alone.expel(last.id(), DEADLINE).await.unwrap();
    assert!(matches!(alone.expel(only, DEADLINE).await, Err(ExpelError::OnlyVoter { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_voter_of_two_nodes_makes_the_other_one_a_voter_before_it_goes() {
    let daemons = three().await;
    let [first, second, third] = [0, 1, 2].map(|i| daemons[i].store());
    first.propose(Command::RemoveNode { node: third.node(), force: false }, DEADLINE).await.unwrap();
    first.expel(third.id(), DEADLINE).await.unwrap();
    until("two nodes have one voter", || first.status().voters.len() == 1).await;
    let only = *first.status().voters.first().unwrap();
    let (going, staying) = if only == first.id() { (first, second) } else { (second, first) };
    going.propose(Command::RemoveNode { node: going.node(), force: false }, DEADLINE).await.unwrap();
    going.expel(going.id(), DEADLINE).await.unwrap();
    until("the other one votes alone", || staying.status().voters.iter().eq([&staying.id()])).await;
    until("and leads", || staying.status().is_leader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_write_of_one_member_was_synced() {
    let daemon = Daemon::start(1).await;
    daemon.found().await;
    let store = daemon.store();
    let before = store.status();
    for number in 0..20 {
        daemon.create(&format!("net-{number}")).await.unwrap();
    }
    let after = store.status();
    let (groups, syncs) = (after.log_groups - before.log_groups, after.log_syncs - before.log_syncs);
    println!("20 writes: {groups} groups, {syncs} syncs");
    assert!(groups >= 20, "one after the other: each needs a group of its own");
    assert!(syncs >= groups && syncs <= groups + 2, "one sync for each group, and one for each new segment");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_a_command_is_refused() {
    let daemon = Daemon::start(1).await;
    daemon.found().await;
    let error = daemon.create(&"x".repeat(300_000)).await.unwrap_err();
    assert!(matches!(error, ProposeError::TooLarge { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_at_once_and_back_again() {
    let mut daemons = three().await;
    for number in 0..10 {
        daemons[number % 3].create(&format!("net-{number}")).await.unwrap();
    }
    let mut ids = Vec::new();
    for daemon in &mut daemons {
        ids.push(daemon.kill().await);
    }
    for (daemon, id) in daemons.iter_mut().zip(ids) {
        daemon.restart(id).await;
    }
    for daemon in &daemons {
        daemon.store().read_barrier(PATIENCE).await.unwrap();
        assert_eq!(daemon.networks().len(), 10);
    }
    daemons[1].create("again").await.unwrap();
}

/// Writes from every member while leaders die: what was acknowledged is there, and once.
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_while_leaders_die() {
    let mut daemons = three().await;
    let stop = CancellationToken::new();
    let count = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = daemons
        .iter()
        .enumerate()
        .map(|(at, daemon)| {
            let (slot, stop, count) = (daemon.slot.clone(), stop.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    if stop.is_cancelled() {
                        break;
                    }
                    let Some(store) = slot.get() else {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    };
                    let name = format!("net-{at}-{number}");
                    let network = CreateNetwork { name: name.clone(), ..CreateNetwork::default() };
                    match store.propose(Command::CreateNetwork(network), DEADLINE).await {
                        Ok(_) => {
                            acknowledged.push(name);
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        // A second application would be refused: the name is taken.
                        Err(ProposeError::Rejected(rejection)) => panic!("{rejection}"),
                        Err(_) => {}
                    }
                }
                acknowledged
            })
        })
        .collect();
    for round in 1..=3 {
        until("there are writes", || count.load(Ordering::Relaxed) > round * 15).await;
        until("somebody leads", || daemons.iter().any(|daemon| daemon.store().status().is_leader)).await;
        let dead = leader(&daemons);
        let id = daemons[dead].kill().await;
        let other = daemons[(dead + 1) % 3].store();
        until("somebody else leads", || {
            let leader = other.status().leader;
            leader.is_some() && leader != Some(id)
        })
        .await;
        daemons[dead].restart(id).await;
    }
    stop.cancel();
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    for daemon in &daemons {
        daemon.store().read_barrier(PATIENCE).await.unwrap();
        let present = daemon.networks();
        let lost: Vec<_> = acknowledged.iter().filter(|name| !present.contains(name)).collect();
        assert!(lost.is_empty(), "{} lacks {lost:?}", daemon.name);
    }
    let hash = daemons[0].store().status().state_hash;
    until("the same everywhere", || daemons.iter().all(|daemon| daemon.store().status().state_hash == hash)).await;
}
