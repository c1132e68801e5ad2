//! Where an engine has put an interface.

use std::path::Path;

use pontoon_store::model::id::EndpointId;
use pontoon_store::model::object::Sandbox;

use super::error::KernelError;
use super::link;
use super::netns::{DIRECTORY, Namespace};
use crate::plan::desired::Names;

/// The sandbox that a file names, and the name that an endpoint's interface has there; none when it is not there.
///
/// # Errors
/// When a namespace is not there or cannot be looked into.
pub fn placed(names: &Names, endpoint: EndpointId, netns: &str) -> Result<Option<(Sandbox, String)>, KernelError> {
    let mut overlay = Namespace::open(&Path::new(DIRECTORY).join(&names.netns))?;
    let name = names.port(false, endpoint);
    let port = link::find(&mut overlay.netlink, &name);
    let Some(port) = port.map_err(KernelError::netlink(format!("look for interface {name}")))? else { return Ok(None) };
    let mut inside = Namespace::open(Path::new(netns))?;
    let links = link::list(&mut inside.netlink).map_err(KernelError::netlink(format!("list the links in {netns}")))?;
    let Some(peer) = links.into_iter().find(|peer| port.link == Some(peer.index) && peer.is_pair(&port)) else {
        return Ok(None);
    };
    Ok(Some((Sandbox { netns: netns.to_owned(), key: inside.key()? }, peer.name)))
}
