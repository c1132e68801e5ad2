//! What is wrong with this host or its cluster.

use std::sync::Arc;

use pontoon_proto::v1;
use pontoon_proto::v1::diagnosis_service_server::DiagnosisService;
use tonic::{Request, Response, Status};

use crate::daemon::Daemon;
use crate::doctor;
use crate::plan::doctor::{Check, Finding, Level};

/// The service, answered by this daemon.
#[derive(Debug)]
pub struct Diagnosis(pub Arc<Daemon>);

#[tonic::async_trait]
impl DiagnosisService for Diagnosis {
    async fn examine(&self, _: Request<v1::ExamineRequest>) -> Result<Response<v1::ExamineResponse>, Status> {
        let findings = doctor::examine(&self.0).await.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ExamineResponse { findings }))
    }
}

impl From<Finding> for v1::Finding {
    fn from(finding: Finding) -> Self {
        let check = match finding.check {
            Check::Cluster => v1::Check::Cluster,
            Check::Quorum => v1::Check::Quorum,
            Check::Engine => v1::Check::Engine,
            Check::Driver => v1::Check::Driver,
            Check::Kernel => v1::Check::Kernel,
            Check::Ports => v1::Check::Ports,
            Check::Peers => v1::Check::Peers,
            Check::Mtu => v1::Check::Mtu,
            Check::Forwarding => v1::Check::Forwarding,
            Check::Routes => v1::Check::Routes,
            Check::Clock => v1::Check::Clock,
            Check::Reconcile => v1::Check::Reconcile,
        };
        let level = match finding.level {
            Level::Ok => v1::Level::Ok,
            Level::Warning => v1::Level::Warning,
            Level::Failure => v1::Level::Failure,
        };
        Self {
            check: check.into(),
            level: level.into(),
            subject: finding.subject,
            evidence: finding.evidence,
            cure: finding.cure,
        }
    }
}
