//! `pontoon node`.

use jiff::Timestamp;
use pontoon_proto::v1::{
    InspectNodeRequest, LabelNodeRequest, ListNodesRequest, Member, MoveRequest, ReadOptions, RemoveNodeRequest,
    SetVotingRequest, Voting,
};

use super::{each, line};
use crate::args::{LabelChange, NodeCommand};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use crate::session::{Kind, Session};

pub(super) async fn run(command: &NodeCommand, session: &Session, output: &Output) -> Result<(), Failure> {
    match command {
        NodeCommand::Ls { quiet, read } => list(*quiet, (*read).into(), session, output).await,
        NodeCommand::Inspect { nodes, read } => {
            each(nodes, output, async |node| inspect(node, (*read).into(), session, output).await).await;
            Ok(())
        }
        NodeCommand::Rm { nodes, force } => {
            each(nodes, output, async |node| remove(node, *force, session, output).await).await;
            Ok(())
        }
        NodeCommand::Label { node, changes, rm } => label(node, changes, rm, session, output).await,
        NodeCommand::Promote { nodes } => vote(nodes, Voting::Promoted, session, output).await,
        NodeCommand::Demote { nodes } => vote(nodes, Voting::Demoted, session, output).await,
        NodeCommand::Drain { nodes } => drain(nodes, session, output).await,
        NodeCommand::Move { advertise, data_addr } => {
            move_to(advertise.as_ref(), data_addr.as_ref(), session, output).await
        }
        NodeCommand::Auto { nodes } => vote(nodes, Voting::Auto, session, output).await,
    }
}

async fn vote(nodes: &[String], voting: Voting, session: &Session, output: &Output) -> Result<(), Failure> {
    each(nodes, output, async |node| {
        let request = SetVotingRequest { node: node.to_owned(), voting: voting.into() };
        let waiting = format!("changing whether node {node} votes");
        let answer = session.call(Kind::WORK, &waiting, session.nodes().set_voting(request)).await?;
        output.warnings(&answer.warnings);
        output.message(&answer, || line(answer.node.as_ref().map_or(node, |node| &node.name)))
    })
    .await;
    Ok(())
}

/// As demote, and a failure as long as it is not so: whoever stops the host next relies on it.
async fn drain(nodes: &[String], session: &Session, output: &Output) -> Result<(), Failure> {
    each(nodes, output, async |node| {
        let request = SetVotingRequest { node: node.to_owned(), voting: Voting::Demoted.into() };
        let waiting = format!("moving leadership and the vote away from node {node}");
        let answer = session.call(Kind::WORK, &waiting, session.nodes().set_voting(request)).await?;
        if let Some(pending) = answer.warnings.first() {
            return Err(Failure::local("NOT_DRAINED", pending, "pontoon status shows who votes; run it again"));
        }
        output.message(&answer, || line(answer.node.as_ref().map_or(node, |node| &node.name)))
    })
    .await;
    Ok(())
}

async fn move_to(
    advertise: Option<&String>,
    data_addr: Option<&String>,
    session: &Session,
    output: &Output,
) -> Result<(), Failure> {
    let given = |address: Option<&String>| address.cloned().unwrap_or_default();
    let request = MoveRequest { advertise: given(advertise), data_addr: given(data_addr) };
    let answer = session.call(Kind::WORK, "moving this node", session.cluster().r#move(request)).await?;
    output.message(&answer, || line(answer.node.as_ref().map_or("", |node| &node.name)))
}

async fn list(quiet: bool, read: ReadOptions, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = ListNodesRequest { read: Some(read) };
    let answer = session.call(Kind::READ, "listing nodes", session.nodes().list_nodes(request)).await?;
    output.freshness(answer.freshness.as_ref());
    output.message(&answer, || {
        if quiet {
            answer.nodes.iter().filter_map(|Member { node, .. }| Some(line(&node.as_ref()?.name))).collect()
        } else {
            render::node::list(&answer.nodes, Timestamp::now())
        }
    })
}

async fn inspect(node: &str, read: ReadOptions, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = InspectNodeRequest { node: node.to_owned(), read: Some(read) };
    let waiting = format!("reading node {node}");
    let answer = session.call(Kind::READ, &waiting, session.nodes().inspect_node(request)).await?;
    output.freshness(answer.freshness.as_ref());
    output.message(&answer, || render::node::inspect(&answer, Timestamp::now()))
}

async fn remove(node: &str, force: bool, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = RemoveNodeRequest { node: node.to_owned(), force };
    let waiting = format!("removing node {node}");
    let answer = session.call(Kind::WORK, &waiting, session.nodes().remove_node(request)).await?;
    output.warnings(&answer.warnings);
    output.message(&answer, || line(answer.node.as_ref().map_or(node, |node| &node.name)))
}

async fn label(
    node: &str,
    changes: &[LabelChange],
    rm: &[String],
    session: &Session,
    output: &Output,
) -> Result<(), Failure> {
    let mut request = LabelNodeRequest { node: node.to_owned(), remove: rm.to_vec(), ..Default::default() };
    for change in changes {
        match change {
            LabelChange::Set(pair) => {
                request.set.insert(pair.key.clone(), pair.value.clone());
            }
            LabelChange::Remove(key) => request.remove.push(key.clone()),
        }
    }
    let waiting = format!("changing the labels of node {node}");
    let answer = session.call(Kind::WRITE, &waiting, session.nodes().label_node(request)).await?;
    output.message(&answer, || line(answer.node.as_ref().map_or(node, |node| &node.name)))
}
