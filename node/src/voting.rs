//! Who votes, as users ask for it: what is in the way, and what comes of it.

use std::time::Duration;

use pontoon_proto::v1;
use pontoon_store::Outlook;
use pontoon_store::model::command::{Command, ConfigureCluster, Outcome};
use pontoon_store::model::id::{NodeId, RaftId};
use pontoon_store::model::object::{Cluster, Node, Voting};
use pontoon_store::model::state::State;
use tonic::Code;

use crate::api;
use crate::api::error::ApiError;
use crate::member::Member;

/// How long a change of the voters is waited for before it is said that it is not done yet: a learner may have to get the
/// whole log first.
const CARRIED_OUT: Duration = Duration::from_secs(10);

/// How a node ceases to vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Going {
    /// It takes itself out of the cluster.
    Leaves,
    /// Another one takes it out.
    Removed,
    /// It stays a node.
    Demoted,
}

impl Member {
    /// Whether the cluster can spare a node's vote.
    pub(crate) async fn spare(&self, node: NodeId, going: Going) -> Result<(), ApiError> {
        let (name, raft_id) = match self.store().state().nodes.get(&node) {
            Some(node) => (node.name.clone(), node.raft_id),
            // Whoever wants to write finds out.
            None => return Ok(()),
        };
        let needed = match self.store().spare(raft_id, going == Going::Demoted).await {
            Ok(()) => return Ok(()),
            Err(needed) => needed,
        };
        let what = match going {
            Going::Leaves => "leave",
            Going::Removed => "be removed",
            Going::Demoted => "be demoted",
        };
        let back = match needed.down.as_slice() {
            [] => "add a node first (pontoon join)".to_owned(),
            down => {
                format!("bring back {0}, or remove it (pontoon node rm {0} --force); or add a node", down.join(", "))
            }
        };
        let hint = match going {
            Going::Leaves => format!("{back}; --force leaves although nothing can be written then"),
            Going::Removed => back,
            Going::Demoted => format!("{back}; or let fewer nodes vote (pontoon cluster set voters=1)"),
        };
        let message = format!("node {name} cannot {what}: {needed}");
        Err(ApiError::new(Code::FailedPrecondition, "VOTER_NEEDED", message, hint))
    }
}

/// Says whether a node is to vote, and waits a moment until it is so.
pub(crate) async fn set(member: &Member, request: v1::SetVotingRequest) -> Result<v1::SetVotingResponse, ApiError> {
    let voting = v1::Voting::try_from(request.voting).map(Voting::from).map_err(|_| {
        let message = format!("{} does not say whether a node is to vote", request.voting);
        ApiError::new(
            Code::InvalidArgument,
            "INVALID_VOTING",
            message,
            "use VOTING_AUTO, VOTING_PROMOTED or VOTING_DEMOTED",
        )
    })?;
    let write = async |end| {
        let node = api::find_node(&member.store().state(), &request.node)?.id;
        if voting == Voting::Demoted {
            member.spare(node, Going::Demoted).await?;
        }
        member.propose_by(Command::SetVoting { node, voting }, end).await
    };
    let node = match member.write_named(&request.node, write).await? {
        Outcome::Node(node) => node,
        other => return Err(api::unexpected(&other)),
    };
    let mut warnings = Vec::new();
    if voting != Voting::Auto
        && !member.store().wait_voting(node.raft_id, voting == Voting::Promoted, CARRIED_OUT).await
    {
        warnings.push(pending(&node));
    }
    Ok(v1::SetVotingResponse { node: Some((&node).into()), warnings })
}

/// What to say when who votes is not as it was asked for yet.
fn pending(node: &Node) -> String {
    let name = &node.name;
    let waited = CARRIED_OUT.as_secs();
    if node.voting == Voting::Promoted {
        format!(
            "node {name} is promoted, and does not vote yet after {waited} s: it does as soon as it answers and has the log"
        )
    } else {
        format!("node {name} is demoted, and votes still after {waited} s: until another node can take its place")
    }
}

/// Changes settings of the cluster.
pub(crate) async fn configure(
    member: &Member,
    request: v1::ConfigureRequest,
) -> Result<v1::ConfigureResponse, ApiError> {
    let v1::ConfigureRequest { voters, replace_after_ms } = request;
    let command = Command::ConfigureCluster(ConfigureCluster { voters, replace_after_ms, lock_off: false });
    match member.propose(command).await? {
        Outcome::Cluster(cluster) => Ok(v1::ConfigureResponse { cluster: Some((&cluster).into()) }),
        other => Err(api::unexpected(&other)),
    }
}

/// What becomes of the voters that do not answer, or that are to vote no more.
pub(crate) fn warnings(state: &State, outlook: &[Outlook]) -> Vec<String> {
    let after = state.cluster.as_ref().map_or(Cluster::REPLACE_AFTER, Cluster::replace_after);
    outlook.iter().filter_map(|outlook| warning(state, outlook, after)).collect()
}

fn warning(state: &State, outlook: &Outlook, after: Duration) -> Option<String> {
    let name = |id: RaftId| state.node_with_raft_id(id).map(|node| node.name.as_str());
    let voter = name(outlook.voter)?;
    let heir = outlook.heir.and_then(name);
    let silent = match outlook.silent {
        Some(silent) => format!("voter {voter} has not answered for {}", rounded(silent)),
        None => format!("voter {voter} does not answer"),
    };
    Some(match (outlook.demoted, heir) {
        // That is under way.
        (true, Some(_)) => return None,
        (true, None) => format!("voter {voter} is demoted and votes still: no other node can take its place"),
        (false, Some(heir)) => format!("{silent}: after {} node {heir} takes its place", rounded(after)),
        (false, None) => format!("{silent}; no other node can take its place: bring it back, or add a node"),
    })
}

/// A time as people say it: in whole seconds, or minutes from two on.
fn rounded(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds if seconds % 60 == 0 || seconds > 600 => format!("{} min", seconds / 60),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::small_state;

    fn outlook(voter: u64, silent: Option<u64>, heir: Option<u64>) -> Outlook {
        let silent = silent.map(Duration::from_secs);
        Outlook { voter: RaftId(voter), demoted: false, silent, heir: heir.map(RaftId) }
    }

    #[test]
    fn what_becomes_of_voters_is_told() {
        let mut state = small_state();
        let demoted = |heir| Outlook { demoted: true, ..outlook(2, None, heir) };
        let cases = [
            (
                outlook(3, Some(130), Some(2)),
                "voter node3 has not answered for 2 min 10 s: after 5 min node node2 takes its place",
            ),
            (
                outlook(3, Some(360), None),
                "voter node3 has not answered for 6 min; no other node can take its place: bring it back, or add a node",
            ),
            (
                outlook(3, None, None),
                "voter node3 does not answer; no other node can take its place: bring it back, or add a node",
            ),
            (demoted(None), "voter node2 is demoted and votes still: no other node can take its place"),
        ];
        let looks: Vec<Outlook> = cases.iter().map(|(outlook, _)| outlook.clone()).collect();
        assert_eq!(warnings(&state, &looks), cases.map(|(_, told)| told));
        assert!(warnings(&state, &[demoted(Some(3)), outlook(99, None, None)]).is_empty());
        state.cluster.as_mut().unwrap().replace_after_ms = Some(5_000);
        let [told] = <[String; 1]>::try_from(warnings(&state, &[outlook(3, None, Some(2))])).unwrap();
        assert_eq!(told, "voter node3 does not answer: after 5 s node node2 takes its place");
    }

    #[test]
    fn times_are_readable() {
        let told = [0, 5, 119, 120, 300, 301, 615, 86_400].map(|seconds| rounded(Duration::from_secs(seconds)));
        assert_eq!(told, ["0 s", "5 s", "119 s", "2 min", "5 min", "5 min 1 s", "10 min", "1440 min"]);
    }
}
