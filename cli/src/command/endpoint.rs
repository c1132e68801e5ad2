//! `pontoon attach` and `detach`.

use std::path;

use pontoon_proto::v1::{AttachRequest, DetachRequest};

use crate::args::{AttachArgs, DetachArgs};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use crate::session::{Kind, Session};

pub(super) async fn attach(args: &AttachArgs, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = AttachRequest {
        network: args.network.clone(),
        netns: absolute(args.netns.as_deref())?,
        pid: args.pid.unwrap_or_default(),
        name: args.name.clone().unwrap_or_default(),
        addresses: args.addresses.clone(),
        mac: args.mac.clone().unwrap_or_default(),
        ifname: args.ifname.clone().unwrap_or_default(),
        aliases: args.aliases.clone(),
    };
    let waiting = format!("attaching to network {}", args.network);
    let answer = session.call(Kind::WORK, &waiting, session.endpoints().attach(request)).await?;
    output.message(&answer, || render::endpoint::attached(&answer))
}

pub(super) async fn detach(args: &DetachArgs, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = DetachRequest {
        network: args.network.clone().unwrap_or_default(),
        netns: absolute(args.netns.as_deref())?,
        pid: args.pid.unwrap_or_default(),
        name: args.name.clone().unwrap_or_default(),
    };
    let answer = session.call(Kind::WORK, "detaching", session.endpoints().detach(request)).await?;
    output.message(&answer, || render::endpoint::detached(&answer))
}

/// The daemon has another working directory.
fn absolute(netns: Option<&str>) -> Result<String, Failure> {
    let Some(netns) = netns else { return Ok(String::new()) };
    let path = path::absolute(netns).map_err(|error| {
        let message = format!("cannot make {netns} an absolute path: {error}");
        Failure::local("LOCAL", message, "give --netns an absolute path")
    })?;
    Ok(path.to_string_lossy().into_owned())
}
