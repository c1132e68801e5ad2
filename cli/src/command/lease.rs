//! `pontoon lease`.

use jiff::Timestamp;
use pontoon_proto::v1::{InspectLeaseRequest, LeaseState, LeaseView, ListLeasesRequest, ReadOptions};

use super::{each, line};
use crate::args::LeaseCommand;
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use crate::session::{Kind, Session};

pub(super) async fn run(command: &LeaseCommand, session: &Session, output: &Output) -> Result<(), Failure> {
    match command {
        LeaseCommand::Ls { network, node, state, quiet, read } => {
            let request = ListLeasesRequest {
                network: network.clone().unwrap_or_default(),
                node: node.clone().unwrap_or_default(),
                state: state.map_or(LeaseState::Unspecified, LeaseState::from).into(),
                read: Some((*read).into()),
            };
            list(request, *quiet, session, output).await
        }
        LeaseCommand::Inspect { addresses, read } => {
            each(addresses, output, async |address| inspect(address, (*read).into(), session, output).await).await;
            Ok(())
        }
    }
}

async fn list(request: ListLeasesRequest, quiet: bool, session: &Session, output: &Output) -> Result<(), Failure> {
    let answer = session.call(Kind::READ, "listing leases", session.networks().list_leases(request)).await?;
    output.freshness(answer.freshness.as_ref());
    output.message(&answer, || {
        if quiet {
            answer.leases.iter().filter_map(|LeaseView { lease, .. }| Some(line(&lease.as_ref()?.address))).collect()
        } else {
            render::lease::list(&answer.leases, Timestamp::now())
        }
    })
}

async fn inspect(address: &str, read: ReadOptions, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = InspectLeaseRequest { address: address.to_owned(), read: Some(read) };
    let waiting = format!("reading the lease of {address}");
    let answer = session.call(Kind::READ, &waiting, session.networks().inspect_lease(request)).await?;
    output.freshness(answer.freshness.as_ref());
    output.message(&answer, || render::lease::inspect(&answer, Timestamp::now()))
}
