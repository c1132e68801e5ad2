//! Attaching network namespaces of this host.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use pontoon_proto::v1;
use pontoon_proto::v1::endpoint_service_server::EndpointService;
use pontoon_store::model::id::Mac;
use pontoon_store::model::rejection::Reason;
use tonic::{Code, Request, Response, Status};

use super::error::ApiError;
use crate::attach::{self, Attachment, Selection};
use crate::daemon::Daemon;

/// The service, answered by this daemon.
#[derive(Debug)]
pub struct Endpoints(pub Arc<Daemon>);

#[tonic::async_trait]
impl EndpointService for Endpoints {
    async fn attach(&self, request: Request<v1::AttachRequest>) -> Result<Response<v1::AttachResponse>, Status> {
        let attachment = parse_attach(request.into_inner())?;
        let member = self.0.member()?;
        let answer = super::to_the_end(async move { attach::attach(&member, attachment).await }).await?;
        Ok(Response::new(answer))
    }

    async fn detach(&self, request: Request<v1::DetachRequest>) -> Result<Response<v1::DetachResponse>, Status> {
        let selection = parse_detach(request.into_inner())?;
        let member = self.0.member()?;
        let endpoints = super::to_the_end(async move { attach::detach(&member, selection).await }).await?;
        Ok(Response::new(v1::DetachResponse { endpoints }))
    }
}

fn parse_attach(request: v1::AttachRequest) -> Result<Attachment, ApiError> {
    let netns = netns_path(&request.netns, request.pid)?;
    let addresses = request.addresses.iter().map(|text| {
        text.parse::<IpAddr>().map_err(|_| {
            let hint = "give one such as 10.0.0.2, without prefix length";
            ApiError::invalid(Reason::InvalidAddress, format!("{text:?} is not an address"), hint)
        })
    });
    let mac = (!request.mac.is_empty()).then(|| {
        request.mac.parse::<Mac>().map_err(|error| {
            ApiError::new(Code::InvalidArgument, "INVALID_MAC", error.to_string(), "leave --mac out to have one chosen")
        })
    });
    let name = if request.name.is_empty() { default_name(&netns, request.pid) } else { request.name };
    Ok(Attachment {
        network: request.network,
        netns,
        name,
        addresses: addresses.collect::<Result<_, _>>()?,
        mac: mac.transpose()?,
        ifname: (!request.ifname.is_empty()).then_some(request.ifname),
        aliases: request.aliases,
    })
}

fn parse_detach(request: v1::DetachRequest) -> Result<Selection, ApiError> {
    let network = (!request.network.is_empty()).then_some(request.network);
    if !request.name.is_empty() {
        return Ok(Selection { network, netns: None, name: Some(request.name) });
    }
    Ok(Selection { network, netns: Some(netns_path(&request.netns, request.pid)?), name: None })
}

fn netns_path(netns: &str, pid: u32) -> Result<String, ApiError> {
    let invalid = |message: &str, hint: &str| Err(ApiError::new(Code::InvalidArgument, "INVALID_NETNS", message, hint));
    match (netns, pid) {
        ("", 0) => {
            invalid("no network namespace was given", "name its file with --netns, or a process in it with --pid")
        }
        ("", pid) => Ok(format!("/proc/{pid}/ns/net")),
        (path, 0) if Path::new(path).is_absolute() => Ok(path.to_owned()),
        (path, 0) => invalid(
            &format!("{path:?} is not an absolute path"),
            "the daemon does not know your working folder: give the whole path, such as /run/netns/NAME",
        ),
        _ => invalid("both --netns and --pid were given", "give one of them"),
    }
}

fn default_name(netns: &str, pid: u32) -> String {
    let file = Path::new(netns).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if pid != 0 { format!("pid-{pid}") } else { file.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_named_by_path_or_process() {
        assert_eq!(netns_path("/run/netns/c1", 0).unwrap(), "/run/netns/c1");
        assert_eq!(netns_path("", 4711).unwrap(), "/proc/4711/ns/net");
        for (path, pid) in [("", 0), ("c1", 0), ("/run/netns/c1", 4711)] {
            assert_eq!(netns_path(path, pid).unwrap_err().reason, "INVALID_NETNS", "{path:?} {pid}");
        }
    }

    #[test]
    fn a_container_is_named_after_its_namespace() {
        assert_eq!(default_name("/run/netns/c1", 0), "c1");
        assert_eq!(default_name("/proc/4711/ns/net", 4711), "pid-4711");
    }
}
