//! Voters that are replaced, promoted and demoted, and leadership that is handed over.

use crate::model::command::ConfigureCluster;
use crate::model::object::Voting;

use super::*;

/// How often leadership is handed over to find out how long it takes.
const HAND_OVERS: usize = 10;
/// What the quickest of these stays below: an election would begin after 600 ms without a leader.
const QUICK: Duration = Duration::from_millis(300);
/// The shortest time that can be set.
const REPLACE_AFTER_MS: u64 = 5_000;

async fn four() -> Vec<Daemon> {
    let mut daemons = Vec::from(three().await);
    let fourth = Daemon::start(4).await;
    fourth.join(&daemons[0]).await;
    fourth.report().await;
    daemons.push(fourth);
    daemons
}

async fn vote(through: &Store, node: &Store, voting: Voting) {
    through.propose(Command::SetVoting { node: node.node(), voting }, DEADLINE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_without_an_election() {
    let daemons = three().await;
    let mut took = Vec::new();
    for _ in 0..HAND_OVERS {
        let first = daemons[leader(&daemons)].store();
        let start = Instant::now();
        first.resign().await;
        took.push(start.elapsed());
        assert!(!first.status().is_leader);
        until("all know the new leader", || {
            daemons.iter().all(|daemon| daemon.store().status().leader.is_some_and(|id| id != first.id()))
        })
        .await;
        daemons[1].store().read_barrier(DEADLINE).await.unwrap();
    }
    took.sort();
    println!("{took:?}");
    assert!(took[0] < QUICK, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_is_gone_is_replaced_and_comes_back_without_a_vote() {
    let mut daemons = four().await;
    let first = leader(&daemons[..3]);
    let (lead, fourth) = (daemons[first].store(), daemons[3].store());
    until("there are three voters", || lead.status().voters.len() == 3).await;
    let settings = ConfigureCluster { voters: None, replace_after_ms: Some(REPLACE_AFTER_MS), lock_off: false };
    lead.propose(Command::ConfigureCluster(settings), DEADLINE).await.unwrap();
    let gone = (first + 1) % 3;
    let node = daemons[gone].store().node();
    let killed = Instant::now();
    let id = daemons[gone].kill().await;
    until("it is seen to be down", || !lead.outlook().is_empty()).await;
    let outlook = lead.outlook();
    assert_eq!((outlook[0].voter, outlook[0].heir, outlook[0].demoted), (id, Some(fourth.id()), false));
    assert!(outlook[0].silent.is_some(), "the leader counts");
    until("the fourth votes", || lead.status().voters.contains(&fourth.id())).await;
    until("it is counted", || lead.status().replaced_voters == 1).await;
    assert!(killed.elapsed() > Duration::from_millis(REPLACE_AFTER_MS), "{:?}", killed.elapsed());
    let status = lead.status();
    assert_eq!((status.voters.len(), status.voters.contains(&id)), (3, false));
    assert!(lead.state().nodes.contains_key(&node), "it is a node of the cluster still");
    daemons[gone].restart(id).await;
    until("it is back", || lead.state().nodes[&node].state == NodeState::Ready).await;
    let back = daemons[gone].store();
    back.read_barrier(DEADLINE).await.unwrap();
    assert!(!back.status().voters.contains(&id) && lead.outlook().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_demoted_hands_over_and_votes_no_more() {
    let daemons = four().await;
    let first = leader(&daemons[..3]);
    let (lead, other, fourth) = (daemons[first].store(), daemons[(first + 1) % 3].store(), daemons[3].store());
    until("there are three voters", || other.status().voters.len() == 3).await;
    vote(&fourth, &lead, Voting::Demoted).await;
    assert!(other.wait_voting(lead.id(), false, PATIENCE).await && !lead.status().is_leader);
    let status = other.status();
    assert!(status.voters.len() == 3 && status.voters.contains(&fourth.id()), "{status:?}");
    until("it is to be an observer", || lead.0.role.borrow().is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_is_not_spared_while_the_rest_would_not_go_on() {
    let mut daemons = four().await;
    let first = leader(&daemons[..3]);
    let (lead, other) = (daemons[first].store(), daemons[(first + 1) % 3].store());
    until("there are three voters", || lead.status().voters.len() == 3).await;
    for stays in [false, true] {
        lead.spare(other.id(), stays).await.unwrap();
        other.spare(other.id(), stays).await.unwrap();
    }
    daemons[3].kill().await;
    let third = (first + 2) % 3;
    daemons[third].kill().await;
    until("the fourth is down", || lead.state().nodes.values().filter(|n| n.state == NodeState::Down).count() == 2)
        .await;
    for stays in [false, true] {
        for asked in [&lead, &other] {
            let error = asked.spare(other.id(), stays).await.unwrap_err();
            assert_eq!(error.down, [daemons[third].name.clone()]);
            assert!(error.to_string().contains("no other node"), "{error}");
        }
    }
    // It goes on as it is, also when it is asked for all the same.
    vote(&lead, &other, Voting::Demoted).await;
    until("it is known", || lead.outlook().iter().any(|outlook| outlook.demoted)).await;
    let outlook = lead.outlook().into_iter().find(|outlook| outlook.demoted).unwrap();
    assert_eq!((outlook.voter, outlook.heir), (other.id(), None));
    assert!(lead.status().voters.contains(&other.id()));
}
