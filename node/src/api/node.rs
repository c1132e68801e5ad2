//! The members.

use std::sync::Arc;

use pontoon_proto::v1;
use pontoon_proto::v1::node_service_server::NodeService;
use pontoon_store::model::command::{Command, Outcome};
use tonic::{Code, Request, Response, Status};

use super::error::ApiError;
use super::view;
use crate::daemon::Daemon;
use crate::lifecycle;
use crate::tokens;
use crate::voting::{self, Going};

/// The service, answered by this daemon.
#[derive(Debug)]
pub struct Nodes(pub Arc<Daemon>);

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let member = self.0.member()?;
        let freshness = member.read_own(request.into_inner().read).await;
        let status = member.store().status();
        let state = member.store().state();
        let nodes = state.nodes.values().map(|node| super::member(node, &status));
        Ok(Response::new(v1::ListNodesResponse { nodes: nodes.collect(), freshness: Some(freshness.of(&state)) }))
    }

    async fn inspect_node(
        &self,
        request: Request<v1::InspectNodeRequest>,
    ) -> Result<Response<v1::InspectNodeResponse>, Status> {
        let request = request.into_inner();
        let member = self.0.member()?;
        let freshness = member.read(request.read).await;
        let status = member.store().status();
        let state = freshness.look(&member);
        let node = view::find_node(&state, &request.node)?;
        let endpoints = state.endpoints_of_node(node.id).map(|endpoint| view::endpoint(&state, endpoint));
        Ok(Response::new(v1::InspectNodeResponse {
            node: Some(super::member(node, &status)),
            endpoints: endpoints.collect(),
            freshness: Some(freshness.of(&state)),
        }))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let request = request.into_inner();
        let member = self.0.member()?;
        let write = async |end| {
            let node = view::find_node(&member.store().state(), &request.node)?.id;
            if node == member.node() {
                return Err(ApiError::new(
                    Code::FailedPrecondition,
                    "NODE_IS_SELF",
                    format!("{:?} is this node", request.node),
                    "pontoon leave takes this node out of the cluster and cleans up its host",
                ));
            }
            member.spare(node, Going::Removed).await?;
            member.propose_by(Command::RemoveNode { node, force: request.force }, end).await
        };
        match member.write_named(&request.node, write).await? {
            Outcome::Node(node) => {
                let voting = member.expel(node.raft_id).await.map_err(|error| lifecycle::still_voting(&error)).err();
                let tokens = if request.force { tokens::warning(&member, &node.name) } else { None };
                let warnings = voting.into_iter().chain(tokens);
                Ok(Response::new(v1::RemoveNodeResponse { node: Some((&node).into()), warnings: warnings.collect() }))
            }
            other => Err(super::unexpected(&other).into()),
        }
    }

    async fn label_node(
        &self,
        request: Request<v1::LabelNodeRequest>,
    ) -> Result<Response<v1::LabelNodeResponse>, Status> {
        let request = request.into_inner();
        let member = self.0.member()?;
        let write = async |end| {
            let node = view::find_node(&member.store().state(), &request.node)?.id;
            let (set, remove) = (request.set.clone(), request.remove.clone());
            member.propose_by(Command::LabelNode { node, set, remove }, end).await
        };
        match member.write_named(&request.node, write).await? {
            Outcome::Node(node) => Ok(Response::new(v1::LabelNodeResponse { node: Some((&node).into()) })),
            other => Err(super::unexpected(&other).into()),
        }
    }

    async fn set_voting(
        &self,
        request: Request<v1::SetVotingRequest>,
    ) -> Result<Response<v1::SetVotingResponse>, Status> {
        let member = self.0.member()?;
        Ok(Response::new(voting::set(&member, request.into_inner()).await?))
    }
}
