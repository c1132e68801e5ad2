//! `pontoon network`.

use jiff::Timestamp;
use pontoon_proto::v1::{
    CreateNetworkRequest, InspectNetworkRequest, ListNetworksRequest, NetworkView, ReadOptions, RemoveNetworkRequest,
    Reservation,
};

use super::{each, line};
use crate::args::{CreateArgs, NetworkCommand, Pair, map};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use crate::session::{Kind, Session};

pub(super) async fn run(command: &NetworkCommand, session: &Session, output: &Output) -> Result<(), Failure> {
    match command {
        NetworkCommand::Create(args) => create(args, session, output).await,
        NetworkCommand::Ls { quiet, read } => list(*quiet, (*read).into(), session, output).await,
        NetworkCommand::Inspect { networks, read } => {
            each(networks, output, async |network| inspect(network, (*read).into(), session, output).await).await;
            Ok(())
        }
        NetworkCommand::Rm { networks } => {
            each(networks, output, async |network| remove(network, session, output).await).await;
            Ok(())
        }
    }
}

async fn create(args: &CreateArgs, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = CreateNetworkRequest {
        name: args.name.clone(),
        subnets: args.subnets.clone(),
        gateways: args.gateways.clone(),
        ip_ranges: args.ip_ranges.clone(),
        reservations: args.reservations.iter().map(reservation).collect(),
        mtu: args.mtu.unwrap_or_default(),
        vni: args.vni.unwrap_or_default(),
        internal: args.internal,
        labels: map(&args.labels),
        ipv6: args.ipv6,
        force: args.force,
        wait: args.wait,
    };
    let waiting = format!("creating network {}", args.name);
    let kind = if args.wait { Kind::WORK } else { Kind::WRITE };
    let answer = session.call(kind, &waiting, session.networks().create_network(request)).await?;
    output.message(&answer, || line(answer.network.as_ref().map_or(&args.name, |network| &network.name)))
}

fn reservation(pair: &Pair) -> Reservation {
    Reservation { name: pair.key.clone(), address: pair.value.clone() }
}

async fn list(quiet: bool, read: ReadOptions, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = ListNetworksRequest { read: Some(read) };
    let answer = session.call(Kind::READ, "listing networks", session.networks().list_networks(request)).await?;
    output.freshness(answer.freshness.as_ref());
    output.message(&answer, || {
        if quiet {
            answer
                .networks
                .iter()
                .filter_map(|NetworkView { network, .. }| Some(line(&network.as_ref()?.name)))
                .collect()
        } else {
            render::network::list(&answer.networks, Timestamp::now())
        }
    })
}

async fn inspect(network: &str, read: ReadOptions, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = InspectNetworkRequest { network: network.to_owned(), read: Some(read) };
    let waiting = format!("reading network {network}");
    let answer = session.call(Kind::READ, &waiting, session.networks().inspect_network(request)).await?;
    output.freshness(answer.freshness.as_ref());
    output.message(&answer, || render::network::inspect(&answer, Timestamp::now()))
}

async fn remove(network: &str, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = RemoveNetworkRequest { network: network.to_owned() };
    let waiting = format!("removing network {network}");
    let answer = session.call(Kind::WRITE, &waiting, session.networks().remove_network(request)).await?;
    output.message(&answer, || line(answer.network.as_ref().map_or(network, |network| &network.name)))
}
