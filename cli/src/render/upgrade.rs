//! `pontoon upgrade check`.

use pontoon_proto::v1::{Freshness, Member, Node, NodeState, StatusResponse};

use super::{name, or_none, table};

/// Whether a rolling upgrade can go on, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Why no node should be stopped now.
    pub(crate) in_the_way: Vec<String>,
    /// What somebody should know.
    pub(crate) remarks: Vec<String>,
    /// Who does not run the latest version that some node runs, in the order in which to upgrade.
    pub(crate) next: Vec<String>,
}

/// Where a node comes in the order: those first whose stop is noticed least.
fn place(member: &Member) -> u8 {
    match member.role() {
        "observer" => 0,
        "learner" => 1,
        "voter" => 2,
        _ => 3,
    }
}

fn version(node: &Node) -> Vec<u64> {
    node.version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

/// What a status, and what a read was worth, say of it.
pub(crate) fn outlook(status: &StatusResponse, read: &Freshness) -> Outlook {
    let nodes = || status.members.iter().filter_map(|member| Some((member, member.node.as_ref()?)));
    let mut in_the_way = Vec::new();
    if status.cluster_id.is_empty() {
        in_the_way.push("this daemon is in no cluster".to_owned());
    } else if !read.linearizable {
        in_the_way.push(format!("no majority of the voters answers: {}", or_none(&read.reason)));
    }
    let away = nodes().filter(|(_, node)| node.state() != NodeState::Ready);
    in_the_way.extend(away.map(|(_, node)| format!("node {} is {}", node.name, name::<NodeState>(node.state))));
    let mut remarks = Vec::new();
    if status.tolerates == 0 && status.members.len() > 1 {
        remarks.push("nothing can be written while a voter is stopped: there are too few of them".to_owned());
    }
    let latest = nodes().map(|(_, node)| version(node)).max().unwrap_or_default();
    let mut behind: Vec<_> = nodes().filter(|(_, node)| version(node) < latest).collect();
    behind.sort_by_key(|(member, node)| (place(member), node.id));
    let level = status.cluster.as_ref().map_or(0, |cluster| cluster.feature_level);
    let most = nodes().map(|(_, node)| node.feature_level).max().unwrap_or(level);
    if most > level {
        let waited_for: Vec<&str> =
            nodes().filter(|(_, node)| node.feature_level < most).map(|(_, node)| node.name.as_str()).collect();
        remarks.push(format!(
            "feature level {level} is in use; {most} switches on by itself once {} know it",
            waited_for.join(", ")
        ));
    }
    Outlook { in_the_way, remarks, next: behind.into_iter().map(|(_, node)| node.name.clone()).collect() }
}

/// The nodes and what follows.
pub(crate) fn text(status: &StatusResponse, outlook: &Outlook) -> String {
    let rows = status.members.iter().filter_map(|member| {
        let node = member.node.as_ref()?;
        let level = node.feature_level.to_string();
        let state = name::<NodeState>(node.state);
        Some([node.id.to_string(), node.name.clone(), state, member.role().to_owned(), or_none(&node.version), level])
    });
    let mut text = table(&["ID", "NAME", "STATE", "ROLE", "VERSION", "FEATURE LEVEL"], rows);
    text.push('\n');
    match outlook.next.as_slice() {
        [] => text.push_str("All nodes run the same version.\n"),
        [next, rest @ ..] => {
            text.push_str(&format!("Next: {next}\n"));
            if !rest.is_empty() {
                text.push_str(&format!("Then: {}\n", rest.join(", ")));
            }
        }
    }
    outlook.remarks.iter().for_each(|remark| text.push_str(&format!("- {remark}\n")));
    text
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::Cluster;

    use super::*;

    fn member(id: u64, version: &str, feature_level: u32) -> Member {
        let state = NodeState::Ready.into();
        let node =
            Node { id, name: format!("h{id}"), version: version.into(), feature_level, state, ..Node::default() };
        Member { node: Some(node), voter: true, leader: id == 1, ..Member::default() }
    }

    fn status(members: Vec<Member>) -> StatusResponse {
        let cluster = Some(Cluster { feature_level: 4, ..Cluster::default() });
        StatusResponse { cluster_id: "00ff".into(), leader: 1, tolerates: 1, members, cluster, ..Default::default() }
    }

    fn answered() -> Freshness {
        Freshness { linearizable: true, ..Freshness::default() }
    }

    #[test]
    fn the_leader_is_last_and_versions_are_numbers() {
        let observer = Member { voter: false, observer: true, ..member(4, "0.9.0", 4) };
        let nodes = vec![member(1, "0.9.0", 4), member(2, "0.10.0", 5), member(3, "0.9.0", 4), observer];
        let found = outlook(&status(nodes.clone()), &answered());
        assert_eq!(found.next, ["h4", "h3", "h1"]);
        assert_eq!(found.in_the_way, Vec::<String>::new());
        assert_eq!(found.remarks, ["feature level 4 is in use; 5 switches on by itself once h1, h3, h4 know it"]);
        let text = text(&status(nodes), &found);
        assert!(text.contains("Next: h4\nThen: h3, h1\n"), "{text}");
    }

    #[test]
    fn nothing_is_stopped_while_somebody_is_away() {
        let mut nodes = vec![member(1, "0.9.0", 4), member(2, "0.9.0", 4)];
        assert_eq!(outlook(&status(nodes.clone()), &answered()).next, Vec::<String>::new());
        nodes[1].node.as_mut().unwrap().state = NodeState::Down.into();
        let alone = Freshness { reason: "h2 is away".into(), ..Freshness::default() };
        let found = outlook(&StatusResponse { tolerates: 0, ..status(nodes) }, &alone);
        assert_eq!(found.in_the_way, ["no majority of the voters answers: h2 is away", "node h2 is down"]);
        assert_eq!(found.remarks.len(), 1);
    }
}
