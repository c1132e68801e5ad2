//! `pontoon watch`.

use pontoon_proto::v1::{ObjectKind, WatchRequest};

use crate::args::WatchArgs;
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use crate::session::{Kind, Session};

pub(super) async fn run(args: &WatchArgs, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = WatchRequest {
        cluster_id: String::new(),
        from_index: args.from,
        networks: args.networks.clone(),
        kinds: args.kinds.iter().map(|kind| ObjectKind::from(*kind).into()).collect(),
    };
    let mut events = session.call(Kind::READ, "beginning to watch", session.watch().watch(request)).await?;
    while let Some(event) = session.next(&mut events).await? {
        output.one_of_many(&event, || render::watch::event(&event))?;
    }
    Ok(())
}
