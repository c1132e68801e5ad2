//! Founding a cluster.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ipnet::{Ipv4Net, Ipv6Net};
use pontoon_proto::{DEFAULT_PEER_PORT, JoinToken, v1};
use pontoon_store::model::command::{Command, FEATURE_LEVEL, Outcome};
use pontoon_store::model::id::{ClusterId, FOUNDER, NodeId};
use pontoon_store::model::object::{Cluster, Family, Node, Pool, TokenRole};
use pontoon_store::model::rejection::Reason;
use pontoon_store::{Authority, AuthorityError, Certificate, ClusterKey, Store, hello};
use tonic::Code;
use tracing::info;

use super::{Entrant, admission, enter, entrant, listening_port, open_store, outside_any_cluster, parse_address};
use crate::api::error::ApiError;
use crate::daemon::Daemon;
use crate::identity::{Credentials, DataDir, Membership};
use crate::tokens;

/// How long founding may take: one node's election and one write.
const FOUND_DEADLINE: Duration = Duration::from_secs(10);

/// How long a host may take to tell whether it has a cluster already.
const SEED_DEADLINE: Duration = Duration::from_secs(2);

/// What a new cluster has that no other has.
pub(super) struct New {
    pub(super) id: ClusterId,
    pub(super) authority: Authority,
    pub(super) cluster_key: ClusterKey,
}

impl New {
    pub(super) fn random() -> Result<Self, ApiError> {
        let id = ClusterId(rand::random());
        Ok(Self { id, authority: Authority::found(id)?, cluster_key: ClusterKey::random()? })
    }

    pub(super) fn sealed_key(&self) -> Vec<u8> {
        self.authority.seal(&self.cluster_key)
    }

    pub(super) fn membership(&self, node: &Node) -> Membership {
        Membership { cluster: self.id, node: node.id, raft_id: node.raft_id, observer: false }
    }

    pub(super) fn token(&self, advertise: SocketAddr) -> JoinToken {
        tokens::random(self.authority.certificate(), vec![advertise])
    }

    pub(super) fn credentials(self, certificate: Certificate) -> Credentials {
        Credentials { certificate, cluster_key: Some(self.cluster_key) }
    }
}

/// Makes a new cluster with this node as its first member.
pub async fn init(daemon: &Arc<Daemon>, request: v1::InitRequest) -> Result<v1::InitResponse, ApiError> {
    let mut data = outside_any_cluster(daemon).await?;
    let advertise = parse_address(&request.advertise, listening_port(daemon))?;
    let entrant = Entrant { voter_only: request.voter_only, ..entrant(&request.name, advertise, &request.data_addr)? };
    refuse_a_second(&data, &request.seeds).await?;
    let new = New::random()?;
    let cluster = Cluster {
        id: new.id,
        created_ms: 0,
        pools: parse_pools(&request.pools)?,
        pool6: random_ula(),
        vxlan_port: daemon.config.vxlan_port,
        feature_level: FEATURE_LEVEL,
        underlay: Family::of(entrant.data_addr),
        voters: None,
        replace_after_ms: None,
        authorities: vec![new.authority.certificate().to_vec()],
        crossed: Vec::new(),
        authority: 1,
        locked: false,
    };
    let token = new.token(entrant.advertise);
    data.remove_store()?;
    data.set_cluster_key(new.cluster_key.clone());
    let unnamed = Membership { cluster: new.id, node: NodeId(0), raft_id: FOUNDER, observer: false };
    let store = open_store(daemon, &data, unnamed).await?;
    let founding = Founding { cluster, sealed_key: new.sealed_key(), token: &token, uses: request.token_uses };
    let founded = found(&store, &data, founding, &entrant).await;
    let (store, (node, certificate)) = kept_if_begun(store, &data, founded).await?;
    let membership = new.membership(&node);
    data.enter(membership, BTreeMap::new(), new.credentials(certificate))?;
    info!(cluster = %membership.cluster, node = %node.id, name = node.name, "founded a cluster");
    enter(daemon, &mut data, store)?;
    let cluster_id = membership.cluster.to_string();
    Ok(v1::InitResponse { cluster_id, node: Some((&node).into()), join_token: token.to_string() })
}

/// Makes no cluster where a host that may have one already has one.
async fn refuse_a_second(data: &DataDir, seeds: &[String]) -> Result<(), ApiError> {
    let seeds = seeds.iter().map(|seed| parse_address(seed, DEFAULT_PEER_PORT));
    let seeds = seeds.collect::<Result<Vec<_>, _>>()?;
    let asked = seeds.iter().map(|seed| hello(data.key(), *seed, SEED_DEADLINE));
    let answers = join_all(asked).await;
    let found = seeds.iter().zip(answers).find_map(|(seed, answer)| Some((seed, answer.as_ref().ok()?.cluster?)));
    let Some((seed, cluster)) = found else { return Ok(()) };
    let message = format!("no cluster is made: the node at {seed} is in cluster {cluster} already");
    let hint = "join that one: pontoon token create there prints the command";
    Err(ApiError::new(Code::FailedPrecondition, "CLUSTER_EXISTS", message, hint))
}

/// What a cluster begins with.
struct Founding<'a> {
    cluster: Cluster,
    sealed_key: Vec<u8>,
    /// What the next hosts join with, and how many.
    token: &'a JoinToken,
    uses: u32,
}

async fn found(
    store: &Store,
    data: &DataDir,
    founding: Founding<'_>,
    entrant: &Entrant,
) -> Result<(Node, Certificate), ApiError> {
    store.initialize(entrant.advertise).await?;
    let node = admission(data, entrant, Some(FOUNDER), 0);
    let Founding { cluster, sealed_key, token, uses } = founding;
    let node = match store.propose(Command::FoundCluster { cluster, node, sealed_key }, FOUND_DEADLINE).await? {
        Outcome::Node(node) => node,
        other => return Err(crate::api::unexpected(&other)),
    };
    let certificate = welcome(store, &node, token, uses).await?;
    Ok((node, certificate))
}

/// All of a new cluster, or nothing that is kept: its store goes if it could not be begun.
pub(super) async fn kept_if_begun<T>(
    store: Store,
    data: &DataDir,
    begun: Result<T, ApiError>,
) -> Result<(Store, T), ApiError> {
    match begun {
        Ok(begun) => Ok((store, begun)),
        Err(error) => {
            store.shutdown().await;
            data.remove_store()?;
            Err(error)
        }
    }
}

/// Lets the next hosts join a cluster that was just made, and gives its first node its certificate.
pub(super) async fn welcome(store: &Store, node: &Node, token: &JoinToken, uses: u32) -> Result<Certificate, ApiError> {
    store.propose(tokens::creation(token, TokenRole::Voter, uses, 0), FOUND_DEADLINE).await?;
    store.certify(node.id).map_err(|error| {
        ApiError::bug(format!("this node gets no certificate: {}", pontoon_store::error_chain(&error)))
    })
}

impl From<AuthorityError> for ApiError {
    fn from(error: AuthorityError) -> Self {
        Self::bug(format!("no authority can be made for the cluster: {}", pontoon_store::error_chain(&error)))
    }
}

fn parse_pools(pools: &[v1::Pool]) -> Result<Vec<Pool>, ApiError> {
    if pools.is_empty() {
        let cidr = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8);
        return Ok(vec![Pool { cidr, prefix: 24 }]);
    }
    let parse = |pool: &v1::Pool| {
        let invalid = |what: String| {
            ApiError::invalid(Reason::InvalidCluster, what, "give one such as --pool 10.0.0.0/8 --pool-prefix 24")
        };
        let cidr = pool.cidr.parse().map_err(|_| invalid(format!("{:?} is not an IPv4 prefix", pool.cidr)))?;
        let prefix =
            u8::try_from(pool.prefix).map_err(|_| invalid(format!("{} is not a prefix length", pool.prefix)))?;
        Ok(Pool { cidr, prefix })
    };
    pools.iter().map(parse).collect()
}

/// A /48 of fd00::/8 with 40 random bits (RFC 4193, section 3.2).
fn random_ula() -> Ipv6Net {
    let [a, b, c, d, e] = rand::random::<[u8; 5]>();
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Net::new_assert(Ipv6Addr::new(pair(0xfd, a), pair(b, c), pair(d, e), 0, 0, 0, 0, 0), 48)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_pool_is_a_unique_local_prefix() {
        let (first, second) = (random_ula(), random_ula());
        assert_eq!((first.addr().segments()[0] >> 8, first.prefix_len()), (0xfd, 48));
        assert_eq!(first.trunc(), first);
        assert_ne!(first, second);
    }
}
