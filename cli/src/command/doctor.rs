//! `pontoon doctor`.

use pontoon_proto::v1::{ExamineRequest, Finding, Level};

use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use crate::session::{Kind, Session};

pub(super) async fn run(session: &Session, output: &Output) -> Result<(), Failure> {
    let waiting = "looking at this host and its cluster";
    let answer = session.call(Kind::READ, waiting, session.diagnosis().examine(ExamineRequest {})).await?;
    output.message(&answer, || render::doctor::findings(&answer.findings))?;
    if answer.findings.iter().any(|Finding { level, .. }| *level == i32::from(Level::Failure)) {
        output.bad_news();
    }
    Ok(())
}
