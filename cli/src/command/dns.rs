//! `pontoon dns`.

use jiff::Timestamp;
use pontoon_proto::v1::QueryNameRequest;

use crate::args::DnsCommand;
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use crate::session::{Kind, Session};

pub(super) async fn run(command: &DnsCommand, session: &Session, output: &Output) -> Result<(), Failure> {
    let DnsCommand::Query { name, network } = command;
    let request = QueryNameRequest { name: name.clone(), network: network.clone() };
    let waiting = format!("looking for {name}");
    let answer = session.call(Kind::READ, &waiting, session.names().query_name(request)).await?;
    output.message(&answer, || render::dns::query(&answer, Timestamp::now()))
}
