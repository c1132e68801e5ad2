//! Entries of the log, and what is answered.

use pontoon_proto::v1::{self, command::Kind, outcome::Object, response};
use prost::Message;

use crate::model::command::{
    AdmitNode, Command, ConfigureCluster, CreateEndpoint, CreateNetwork, EngineRef, MoveNode, Outcome, ReportNode,
    WantedSubnet,
};
use crate::model::entry::{Entry, RequestId};
use crate::model::id::{AdminId, EndpointId, NetworkId, NodeId, RaftId};
use crate::model::object::Route;
use crate::model::rejection::Rejection;

use super::error::{ADDRESS, CodecError, ENDPOINT_ADDRESS, MAC, PREFIX, parse, parse_optional, required};
use super::object::{addresses, node_state, prefixes, public_key, texts, vni};
use super::token::{hash, token_id};
use super::voting::voting;

/// The bytes of a log entry.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    v1::Entry::from(entry).encode_to_vec()
}

/// A log entry from its bytes.
///
/// # Errors
///
/// [`CodecError::UnknownCommand`] for a command that a later version wrote; others for bytes
/// that no version wrote.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, CodecError> {
    v1::Entry::decode(bytes).map_err(|source| CodecError::Bytes { what: "entry", source })?.try_into()
}

impl From<&Entry> for v1::Entry {
    fn from(entry: &Entry) -> Self {
        Self {
            time_ms: entry.time_ms,
            request: Some(entry.request.into()),
            command: Some((&entry.command).into()),
            origin: entry.origin.as_ref().map(Into::into),
        }
    }
}

impl From<RequestId> for v1::RequestId {
    fn from(RequestId { node, run, seq }: RequestId) -> Self {
        Self { node: node.0, run, seq }
    }
}

impl TryFrom<v1::Entry> for Entry {
    type Error = CodecError;

    fn try_from(entry: v1::Entry) -> Result<Self, CodecError> {
        let v1::RequestId { node, run, seq } = required("entry", "request", entry.request)?;
        Ok(Self {
            time_ms: entry.time_ms,
            request: RequestId { node: NodeId(node), run, seq },
            command: required("entry", "command", entry.command)?.try_into()?,
            origin: entry.origin.map(Into::into),
        })
    }
}

impl From<&Command> for v1::Command {
    fn from(command: &Command) -> Self {
        let kind = match command {
            Command::FoundCluster { cluster, node, sealed_key } => Kind::FoundCluster(v1::FoundCluster {
                cluster: Some(cluster.into()),
                node: Some(node.into()),
                sealed_key: sealed_key.clone(),
            }),
            Command::AdmitNode(admit) => Kind::AdmitNode(admit.into()),
            Command::ReportNode(report) => Kind::ReportNode(report.into()),
            Command::SetNodeState { node, state } => {
                Kind::SetNodeState(v1::SetNodeState { node: node.0, state: v1::NodeState::from(*state).into() })
            }
            Command::LabelNode { node, set, remove } => {
                Kind::LabelNode(v1::LabelNode { node: node.0, set: set.clone(), remove: remove.clone() })
            }
            Command::ConfigureCluster(wanted) => Kind::ConfigureCluster((*wanted).into()),
            Command::SetVoting { node, voting } => {
                Kind::SetVoting(v1::SetVoting { node: node.0, voting: v1::Voting::from(*voting).into() })
            }
            Command::RetireMember { node } => Kind::RetireMember(v1::RetireMember { node: node.0 }),
            Command::RemoveNode { node, force } => Kind::RemoveNode(v1::RemoveNode { node: node.0, force: *force }),
            Command::CreateNetwork(wanted) => Kind::CreateNetwork(wanted.into()),
            Command::RemoveNetwork { network } => Kind::RemoveNetwork(v1::RemoveNetwork { network: network.0 }),
            Command::CreateEndpoint(wanted) => Kind::CreateEndpoint(wanted.into()),
            Command::ActivateEndpoint { endpoint, epoch } => {
                Kind::ActivateEndpoint(v1::ActivateEndpoint { endpoint: endpoint.0, epoch: *epoch })
            }
            Command::RemoveEndpoint { endpoint, epoch } => {
                Kind::RemoveEndpoint(v1::RemoveEndpoint { endpoint: endpoint.0, epoch: *epoch })
            }
            Command::ClaimSubnet(wanted) => Kind::ClaimSubnet(wanted.into()),
            Command::ReleaseClaim { node, cidr } => {
                Kind::ReleaseClaim(v1::ReleaseClaim { node: node.0, cidr: cidr.to_string() })
            }
            Command::NameNetwork { network, name, labels } => {
                Kind::NameNetwork(v1::NameNetwork { network: network.0, name: name.clone(), labels: labels.clone() })
            }
            Command::ReportEngineNetwork(known) => Kind::ReportEngineNetwork(known.into()),
            Command::HoldAddress(wanted) => Kind::HoldAddress(wanted.into()),
            Command::ReleaseAddress { network, address, epoch } => Kind::ReleaseAddress(v1::ReleaseAddress {
                network: network.0,
                address: address.to_string(),
                epoch: *epoch,
            }),
            Command::PlaceEndpoint(placed) => Kind::PlaceEndpoint(placed.into()),
            Command::StopEndpoint { endpoint, epoch } => {
                Kind::StopEndpoint(v1::StopEndpoint { endpoint: endpoint.0, epoch: *epoch })
            }
            Command::RebindEndpoint(rebound) => Kind::RebindEndpoint(rebound.into()),
            Command::CreateToken(wanted) => Kind::CreateToken(wanted.into()),
            Command::RevokeToken { token } => Kind::RevokeToken(v1::RevokeToken { id: token.to_string() }),
            Command::RotateAuthority(new) => Kind::RotateAuthority(new.into()),
            Command::DropAuthorities => Kind::DropAuthorities(v1::DropAuthorities {}),
            Command::ReportCertificate { node, authority, until_ms } => {
                Kind::ReportCertificate(v1::ReportCertificate {
                    node: node.0,
                    authority: *authority,
                    until_ms: *until_ms,
                })
            }
            Command::CreateAdmin(wanted) => Kind::CreateAdmin(wanted.into()),
            Command::RemoveAdmin(admin) => Kind::RemoveAdmin(v1::RemoveAdmin { id: admin.0 }),
            Command::MoveNode(moved) => Kind::MoveNode(moved.into()),
            Command::RotateToken { token, hash } => {
                Kind::RotateToken(v1::RotateToken { id: token.to_string(), hash: hash.to_vec() })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Command> for Command {
    type Error = CodecError;

    fn try_from(command: v1::Command) -> Result<Self, CodecError> {
        Ok(match command.kind.ok_or(CodecError::UnknownCommand)? {
            Kind::FoundCluster(found) => Self::FoundCluster {
                cluster: required("found_cluster", "cluster", found.cluster)?.try_into()?,
                node: required("found_cluster", "node", found.node)?.try_into()?,
                sealed_key: found.sealed_key,
            },
            Kind::AdmitNode(admit) => Self::AdmitNode(admit.try_into()?),
            Kind::ReportNode(report) => Self::ReportNode(report.try_into()?),
            Kind::SetNodeState(set) => {
                Self::SetNodeState { node: NodeId(set.node), state: node_state("set_node_state", set.state)? }
            }
            Kind::LabelNode(label) => {
                Self::LabelNode { node: NodeId(label.node), set: label.set, remove: label.remove }
            }
            Kind::ConfigureCluster(wanted) => Self::ConfigureCluster(wanted.into()),
            Kind::SetVoting(set) => {
                Self::SetVoting { node: NodeId(set.node), voting: voting("set_voting", set.voting)? }
            }
            Kind::RetireMember(retire) => Self::RetireMember { node: NodeId(retire.node) },
            Kind::RemoveNode(remove) => Self::RemoveNode { node: NodeId(remove.node), force: remove.force },
            Kind::CreateNetwork(wanted) => Self::CreateNetwork(wanted.try_into()?),
            Kind::RemoveNetwork(remove) => Self::RemoveNetwork { network: NetworkId(remove.network) },
            Kind::CreateEndpoint(wanted) => Self::CreateEndpoint(wanted.try_into()?),
            Kind::ActivateEndpoint(activate) => {
                Self::ActivateEndpoint { endpoint: EndpointId(activate.endpoint), epoch: activate.epoch }
            }
            Kind::RemoveEndpoint(remove) => {
                Self::RemoveEndpoint { endpoint: EndpointId(remove.endpoint), epoch: remove.epoch }
            }
            Kind::ClaimSubnet(wanted) => Self::ClaimSubnet(wanted.try_into()?),
            Kind::ReleaseClaim(release) => Self::ReleaseClaim {
                node: NodeId(release.node),
                cidr: parse("release_claim", "cidr", &release.cidr, PREFIX)?,
            },
            Kind::NameNetwork(named) => {
                Self::NameNetwork { network: NetworkId(named.network), name: named.name, labels: named.labels }
            }
            Kind::ReportEngineNetwork(known) => Self::ReportEngineNetwork(known.into()),
            Kind::HoldAddress(wanted) => Self::HoldAddress(wanted.try_into()?),
            Kind::ReleaseAddress(release) => Self::ReleaseAddress {
                network: NetworkId(release.network),
                address: parse("release_address", "address", &release.address, ADDRESS)?,
                epoch: release.epoch,
            },
            Kind::PlaceEndpoint(placed) => Self::PlaceEndpoint(placed.try_into()?),
            Kind::StopEndpoint(stop) => Self::StopEndpoint { endpoint: EndpointId(stop.endpoint), epoch: stop.epoch },
            Kind::RebindEndpoint(rebound) => Self::RebindEndpoint(rebound.try_into()?),
            Kind::CreateToken(wanted) => Self::CreateToken(wanted.try_into()?),
            Kind::RevokeToken(revoke) => Self::RevokeToken { token: token_id("revoke_token", &revoke.id)? },
            Kind::RotateAuthority(new) => Self::RotateAuthority(new.into()),
            Kind::DropAuthorities(_) => Self::DropAuthorities,
            Kind::ReportCertificate(report) => Self::ReportCertificate {
                node: NodeId(report.node),
                authority: report.authority,
                until_ms: report.until_ms,
            },
            Kind::CreateAdmin(wanted) => Self::CreateAdmin(wanted.try_into()?),
            Kind::RemoveAdmin(remove) => Self::RemoveAdmin(AdminId(remove.id)),
            Kind::MoveNode(moved) => Self::MoveNode(moved.try_into()?),
            Kind::RotateToken(rotate) => Self::RotateToken {
                token: token_id("rotate_token", &rotate.id)?,
                hash: hash("rotate_token", &rotate.hash)?,
            },
        })
    }
}

impl From<&AdmitNode> for v1::AdmitNode {
    fn from(admit: &AdmitNode) -> Self {
        Self {
            name: admit.name.clone(),
            advertise: admit.advertise.to_string(),
            data_addr: admit.data_addr.to_string(),
            public_key: admit.public_key.to_vec(),
            version: admit.version.clone(),
            feature_level: admit.feature_level,
            raft_id: admit.raft_id.map_or(0, |id| id.0),
            attempt: admit.attempt,
            voter_only: admit.voter_only,
            token: admit.token.map(|hash| hash.to_vec()).unwrap_or_default(),
            replaces: admit.replaces.clone(),
        }
    }
}

impl TryFrom<v1::AdmitNode> for AdmitNode {
    type Error = CodecError;

    fn try_from(admit: v1::AdmitNode) -> Result<Self, CodecError> {
        const WHAT: &str = "admit_node";
        Ok(Self {
            name: admit.name,
            advertise: parse(WHAT, "advertise", &admit.advertise, ENDPOINT_ADDRESS)?,
            data_addr: parse(WHAT, "data_addr", &admit.data_addr, ADDRESS)?,
            public_key: public_key(WHAT, &admit.public_key)?,
            version: admit.version,
            feature_level: admit.feature_level,
            raft_id: (admit.raft_id != 0).then_some(RaftId(admit.raft_id)),
            attempt: admit.attempt,
            voter_only: admit.voter_only,
            token: (!admit.token.is_empty()).then(|| hash("admit_node", &admit.token)).transpose()?,
            replaces: admit.replaces,
        })
    }
}

impl From<ConfigureCluster> for v1::ConfigureCluster {
    fn from(ConfigureCluster { voters, replace_after_ms, lock_off }: ConfigureCluster) -> Self {
        Self { voters, replace_after_ms, lock_off }
    }
}

impl From<v1::ConfigureCluster> for ConfigureCluster {
    fn from(v1::ConfigureCluster { voters, replace_after_ms, lock_off }: v1::ConfigureCluster) -> Self {
        Self { voters, replace_after_ms, lock_off }
    }
}

impl From<&MoveNode> for v1::MoveNode {
    fn from(moved: &MoveNode) -> Self {
        let MoveNode { node, advertise, data_addr } = *moved;
        Self { node: node.0, advertise: advertise.to_string(), data_addr: data_addr.to_string() }
    }
}

impl TryFrom<v1::MoveNode> for MoveNode {
    type Error = CodecError;

    fn try_from(moved: v1::MoveNode) -> Result<Self, CodecError> {
        const WHAT: &str = "move_node";
        Ok(Self {
            node: NodeId(moved.node),
            advertise: parse(WHAT, "advertise", &moved.advertise, ENDPOINT_ADDRESS)?,
            data_addr: parse(WHAT, "data_addr", &moved.data_addr, ADDRESS)?,
        })
    }
}

impl From<&ReportNode> for v1::ReportNode {
    fn from(report: &ReportNode) -> Self {
        Self {
            node: report.node.0,
            version: report.version.clone(),
            feature_level: report.feature_level,
            routes: report.routes.iter().map(Into::into).collect(),
            underlay_mtu: report.underlay_mtu,
            egress_subnets: texts(&report.egress_subnets),
            engine: report.engine.clone(),
        }
    }
}

impl TryFrom<v1::ReportNode> for ReportNode {
    type Error = CodecError;

    fn try_from(report: v1::ReportNode) -> Result<Self, CodecError> {
        Ok(Self {
            node: NodeId(report.node),
            version: report.version,
            feature_level: report.feature_level,
            routes: report.routes.into_iter().map(Route::try_from).collect::<Result<_, _>>()?,
            underlay_mtu: report.underlay_mtu,
            egress_subnets: prefixes("report_node", "egress_subnets", &report.egress_subnets)?,
            engine: report.engine,
        })
    }
}

impl From<&CreateNetwork> for v1::CreateNetwork {
    fn from(wanted: &CreateNetwork) -> Self {
        let reservation = |(name, address): &(String, _)| v1::Reservation {
            name: name.clone(),
            address: ToString::to_string(address),
        };
        Self {
            name: wanted.name.clone(),
            subnets: wanted.subnets.iter().map(Into::into).collect(),
            mtu: wanted.mtu.unwrap_or(0),
            vni: wanted.vni.map_or(0, |vni| vni.get()),
            internal: wanted.internal,
            labels: wanted.labels.clone(),
            ipv6: wanted.ipv6,
            reservations: wanted.reservations.iter().map(reservation).collect(),
            force: wanted.force,
            engine: wanted.engine.as_ref().map(|e| v1::EngineRef { node: e.node.0, id: e.id.clone() }),
        }
    }
}

impl TryFrom<v1::CreateNetwork> for CreateNetwork {
    type Error = CodecError;

    fn try_from(wanted: v1::CreateNetwork) -> Result<Self, CodecError> {
        const WHAT: &str = "create_network";
        let reservation = |kept: v1::Reservation| Ok((kept.name, parse(WHAT, "reservations", &kept.address, ADDRESS)?));
        Ok(Self {
            name: wanted.name,
            subnets: wanted.subnets.into_iter().map(WantedSubnet::try_from).collect::<Result<_, _>>()?,
            mtu: (wanted.mtu != 0).then_some(wanted.mtu),
            vni: (wanted.vni != 0).then(|| vni(WHAT, wanted.vni)).transpose()?,
            internal: wanted.internal,
            labels: wanted.labels,
            ipv6: wanted.ipv6,
            reservations: wanted.reservations.into_iter().map(reservation).collect::<Result<_, CodecError>>()?,
            force: wanted.force,
            engine: wanted.engine.map(|engine| EngineRef { node: NodeId(engine.node), id: engine.id }),
        })
    }
}

impl From<&WantedSubnet> for v1::Subnet {
    fn from(subnet: &WantedSubnet) -> Self {
        Self {
            cidr: subnet.cidr.to_string(),
            gateway: subnet.gateway.map_or_else(String::new, |gateway| gateway.to_string()),
            ip_range: subnet.ip_range.map_or_else(String::new, |range| range.to_string()),
        }
    }
}

impl TryFrom<v1::Subnet> for WantedSubnet {
    type Error = CodecError;

    fn try_from(subnet: v1::Subnet) -> Result<Self, CodecError> {
        Ok(Self {
            cidr: parse("subnet", "cidr", &subnet.cidr, PREFIX)?,
            gateway: parse_optional("subnet", "gateway", &subnet.gateway, ADDRESS)?,
            ip_range: parse_optional("subnet", "ip_range", &subnet.ip_range, PREFIX)?,
        })
    }
}

impl From<&CreateEndpoint> for v1::CreateEndpoint {
    fn from(wanted: &CreateEndpoint) -> Self {
        Self {
            network: wanted.network.0,
            node: wanted.node.0,
            name: wanted.name.clone(),
            container_id: wanted.container_id.clone(),
            aliases: wanted.aliases.clone(),
            mac: wanted.mac.map_or_else(String::new, |mac| mac.to_string()),
            addresses: texts(&wanted.addresses),
            sandbox: Some((&wanted.sandbox).into()),
            ifname: wanted.ifname.clone().unwrap_or_default(),
            engine_id: wanted.engine_id.clone(),
        }
    }
}

impl TryFrom<v1::CreateEndpoint> for CreateEndpoint {
    type Error = CodecError;

    fn try_from(wanted: v1::CreateEndpoint) -> Result<Self, CodecError> {
        const WHAT: &str = "create_endpoint";
        Ok(Self {
            network: NetworkId(wanted.network),
            node: NodeId(wanted.node),
            name: wanted.name,
            container_id: wanted.container_id,
            aliases: wanted.aliases,
            mac: parse_optional(WHAT, "mac", &wanted.mac, MAC)?,
            addresses: addresses(WHAT, &wanted.addresses)?,
            sandbox: required(WHAT, "sandbox", wanted.sandbox)?.into(),
            ifname: (!wanted.ifname.is_empty()).then_some(wanted.ifname),
            engine_id: wanted.engine_id,
        })
    }
}

impl From<&Outcome> for v1::Outcome {
    fn from(outcome: &Outcome) -> Self {
        let object = match outcome {
            Outcome::Done => None,
            Outcome::Node(node) => Some(Object::Node(node.into())),
            Outcome::Network(network) => Some(Object::Network(network.into())),
            Outcome::Endpoint(endpoint) => Some(Object::Endpoint(endpoint.into())),
            Outcome::Claim(claim) => Some(Object::Claim(claim.into())),
            Outcome::Lease(lease) => Some(Object::Lease(lease.into())),
            Outcome::Cluster(cluster) => Some(Object::Cluster(cluster.into())),
            Outcome::Token(token) => Some(Object::Token(token.into())),
            Outcome::Admin(admin) => Some(Object::Admin(admin.into())),
        };
        Self { object }
    }
}

impl TryFrom<v1::Outcome> for Outcome {
    type Error = CodecError;

    fn try_from(outcome: v1::Outcome) -> Result<Self, CodecError> {
        Ok(match outcome.object {
            None => Self::Done,
            Some(Object::Node(node)) => Self::Node(node.try_into()?),
            Some(Object::Network(network)) => Self::Network(network.try_into()?),
            Some(Object::Endpoint(endpoint)) => Self::Endpoint(endpoint.try_into()?),
            Some(Object::Claim(claim)) => Self::Claim(claim.try_into()?),
            Some(Object::Lease(lease)) => Self::Lease(lease.try_into()?),
            Some(Object::Cluster(cluster)) => Self::Cluster(cluster.try_into()?),
            Some(Object::Token(token)) => Self::Token(token.try_into()?),
            Some(Object::Admin(admin)) => Self::Admin(admin.try_into()?),
        })
    }
}

impl From<&Rejection> for v1::Rejection {
    fn from(rejection: &Rejection) -> Self {
        let Rejection { reason, message, hint } = rejection;
        Self { reason: reason.to_string(), message: message.clone(), hint: hint.clone() }
    }
}

impl TryFrom<v1::Rejection> for Rejection {
    type Error = CodecError;

    fn try_from(rejection: v1::Rejection) -> Result<Self, CodecError> {
        let reason = parse("rejection", "reason", &rejection.reason, "a reason")?;
        Ok(Self { reason, message: rejection.message, hint: rejection.hint })
    }
}

/// An answer as a message.
pub fn response(result: &Result<Outcome, Rejection>) -> v1::Response {
    let result = match result {
        Ok(outcome) => response::Result::Outcome(outcome.into()),
        Err(rejection) => response::Result::Rejection(rejection.into()),
    };
    v1::Response { result: Some(result) }
}

/// An answer from its message.
///
/// # Errors
///
/// When no version of this crate made the message.
pub fn result(response: v1::Response) -> Result<Result<Outcome, Rejection>, CodecError> {
    match required("response", "result", response.result)? {
        response::Result::Outcome(outcome) => Ok(Ok(outcome.try_into()?)),
        response::Result::Rejection(rejection) => Ok(Err(rejection.try_into()?)),
    }
}
