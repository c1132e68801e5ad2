//! Certificates of nodes.

use std::time::Duration;

use pontoon_proto::v1;
use thiserror::Error;
use tonic::Status;

use super::Store;
use crate::model::admin::Admin;
use crate::model::command::RotateAuthority;
use crate::model::id::NodeId;
use crate::model::object::Cluster;
use crate::model::state::State;
use crate::rt::timeout;
use crate::tls::{Authority, AuthorityError, Certificate, ClusterKey};

/// How long a member may take to issue a certificate.
const ISSUING: Duration = Duration::from_secs(1);

/// Why a certificate was not issued.
#[derive(Debug, Error)]
pub enum CertifyError {
    /// Observers have no authority's key.
    #[error("this node is an observer, and does not have the key of the cluster's authority: ask a member")]
    Observer,
    /// The key that the authority's is encrypted with is not here.
    #[error(
        "this node does not have the key that the key of the cluster's authority is encrypted with: if the cluster is locked, \
         pontoon cluster unlock tells it"
    )]
    NoKey,
    /// The cluster was founded before there were certificates.
    #[error("this cluster has no authority: it was founded by a version before there were certificates")]
    NoAuthority,
    /// No such node.
    #[error("there is no node {0} in this cluster, or no longer")]
    NoNode(NodeId),
    /// The authority cannot issue it.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl Store {
    /// Issues a certificate for a node, for the key that the cluster knows it by.
    ///
    /// # Errors
    ///
    /// It is no node of the cluster, or this one does not have the authority's key.
    pub fn certify(&self, node: NodeId) -> Result<Certificate, CertifyError> {
        let key = self.issuing_key()?;
        let public = self.state().nodes.get(&node).map(|node| node.public_key).ok_or(CertifyError::NoNode(node))?;
        let (authority, cluster) = self.open_authority(&key)?;
        Ok(with_authorities(authority.issue(node, &public, (self.0.options.clock)())?, cluster))
    }

    /// Whether this node can issue certificates.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn can_certify(&self) -> Result<(), CertifyError> {
        self.open_authority(&self.issuing_key()?).map(drop)
    }

    /// Issues a certificate for an admin.
    ///
    /// # Errors
    ///
    /// This node does not have the authority's key.
    pub fn certify_admin(&self, admin: &Admin) -> Result<Certificate, CertifyError> {
        let (authority, cluster) = self.open_authority(&self.issuing_key()?)?;
        let Admin { name, public_key, until_ms, .. } = admin;
        let own = authority.issue_to_admin(name, public_key, (self.0.options.clock)(), *until_ms)?;
        Ok(with_authorities(own, cluster))
    }

    /// The same from whichever member can issue it: this one, unless the others do not believe this node any more. Then the
    /// authority that it knows may not be theirs.
    ///
    /// # Errors
    ///
    /// None does.
    pub async fn certificate_of(&self, node: NodeId) -> Result<Certificate, Status> {
        let issued = self.certify(node).map_err(|error| Status::unavailable(crate::error_chain(&error)));
        match issued {
            Ok(certificate) if !self.is_disbelieved() => Ok(certificate),
            issued => {
                let late = format!("no member issues a certificate for node {node} in time");
                let asked = timeout(ISSUING * 3, self.certificate_of_others(node)).await;
                asked.unwrap_or_else(|_| Err(Status::unavailable(late))).or(issued)
            }
        }
    }

    /// Whether the latest member that answered did not believe this node's certificate.
    pub fn is_disbelieved(&self) -> bool {
        self.channels().is_disbelieved()
    }

    async fn certificate_of_others(&self, node: NodeId) -> Result<Certificate, Status> {
        let mut reason = "there is no other".to_owned();
        for (id, peer) in self.peers() {
            if id == self.id() {
                continue;
            }
            let Ok(mut client) = self.channels().entrance(id.0, &peer) else { continue };
            match timeout(ISSUING, client.certify(v1::CertifyRequest { node_id: node.0 })).await {
                Ok(Ok(answer)) => {
                    let certificate = answer.into_inner().certificate;
                    return certificate.map(Into::into).ok_or_else(|| Status::internal("a member sent no certificate"));
                }
                Ok(Err(status)) => reason = format!("{}: {}", peer.address, status.message()),
                Err(_) => reason = format!("{} does not answer", peer.address),
            }
        }
        Err(Status::unavailable(format!("no member issues a certificate for node {node}: {reason}")))
    }

    /// Makes an authority that is to take the place of the one that issues, for the log. Its key is encrypted as the one before,
    /// or with a new key that is to be on no disk.
    ///
    /// # Errors
    ///
    /// This node does not have the authority's key.
    pub fn next_authority(&self, locks: Option<&ClusterKey>) -> Result<RotateAuthority, CertifyError> {
        let key = self.issuing_key()?;
        let ((before, _), next) = (self.open_authority(&key)?, Authority::found(self.cluster())?);
        let (certificate, crossed) = (next.certificate().to_vec(), before.cross(&next)?);
        let sealed_key = next.seal(locks.unwrap_or(&key));
        Ok(RotateAuthority { certificate, crossed, sealed_key, locks: locks.is_some() })
    }

    /// The key that the authority's is encrypted with, on a node that issues certificates.
    fn issuing_key(&self) -> Result<ClusterKey, CertifyError> {
        if self.observes() {
            return Err(CertifyError::Observer);
        }
        self.cluster_key().ok_or(CertifyError::NoKey)
    }

    /// The authority, and the settings that name it.
    fn open_authority(&self, key: &ClusterKey) -> Result<(Authority, Cluster), CertifyError> {
        let (sealed, cluster) = {
            let state = self.state();
            (state.sealed_key.clone(), state.cluster.clone().ok_or(CertifyError::NoAuthority)?)
        };
        if sealed.is_empty() {
            return Err(CertifyError::NoAuthority);
        }
        Ok((Authority::open(self.cluster(), &sealed, key)?, cluster))
    }

    /// The key that the authority's is encrypted with, if it is here.
    fn cluster_key(&self) -> Option<ClusterKey> {
        self.0.options.cluster_key.get()
    }

    /// The same, for a newcomer: none where it is to be on no disk.
    pub(crate) fn cluster_key_of_newcomers(&self) -> Option<ClusterKey> {
        let locked = self.state().cluster.as_ref().is_some_and(|cluster| cluster.locked);
        self.cluster_key().filter(|_| !locked)
    }

    /// Whether a key is the one that the authority's is encrypted with.
    pub fn opens(&self, key: &ClusterKey) -> bool {
        self.open_authority(key).is_ok()
    }

    /// Whether this node is to issue certificates, and cannot before it is told the key. `state` is this store's.
    pub fn is_locked(&self, state: &State) -> bool {
        let locked = state.cluster.as_ref().is_some_and(|cluster| cluster.locked);
        locked && !self.observes() && self.cluster_key().is_none()
    }
}

/// A certificate with what goes with it.
fn with_authorities(own: Vec<u8>, cluster: Cluster) -> Certificate {
    let Cluster { authorities, crossed, authority, .. } = cluster;
    Certificate { own, authorities, crossed, authority }
}
