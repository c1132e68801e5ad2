//! `pontoon admin`, `audit` and `context`.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pontoon_proto::v1::{
    CreateAdminRequest, CreateAdminResponse, ListAdminsRequest, ListAuditRequest, ReadOptions, RemoveAdminRequest, Role,
};

use super::{each, line};
use crate::args::{AdminCommand, AuditArgs, CertCommand, ContextCommand};
use crate::context::{self, Context};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use crate::session::{Kind, Session};

pub(super) async fn run(command: &AdminCommand, session: &Session, output: &Output) -> Result<(), Failure> {
    let AdminCommand::Cert(command) = command;
    match command {
        CertCommand::Create { name, role, ttl, out } => {
            let out = out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.context")));
            let life_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            let request = CreateAdminRequest { name: name.clone(), role: Role::from(*role).into(), life_ms };
            create(request, &out, session, output).await
        }
        CertCommand::Ls { quiet, read } => list(*quiet, (*read).into(), session, output).await,
        CertCommand::Rm { names } => {
            each(names, output, async |name| remove(name, session, output).await).await;
            Ok(())
        }
    }
}

async fn create(request: CreateAdminRequest, out: &Path, session: &Session, output: &Output) -> Result<(), Failure> {
    let to_stdout = out == Path::new("-");
    if !to_stdout && out.exists() {
        let message = format!("there is a file {} already", out.display());
        return Err(Failure::local("FILE_EXISTS", message, "name another with --out, or - for the standard output"));
    }
    let waiting = format!("letting {} in", request.name);
    let mut answer = session.call(Kind::WRITE, &waiting, session.admins().create_admin(request)).await?;
    if to_stdout {
        return output.message(&answer, || answer.context.clone());
    }
    if let Err(failure) = context::write(out, answer.context.as_bytes()) {
        // Nobody has his key.
        let request = RemoveAdminRequest { admin: answer.admin.unwrap_or_default().id.to_string() };
        session.call(Kind::WRITE, "undoing it", session.admins().remove_admin(request)).await?;
        return Err(failure);
    }
    answer.context.clear();
    let CreateAdminResponse { admin, .. } = &answer;
    output.message(&answer, || render::admin::made(admin.as_ref(), out, Timestamp::now()))
}

async fn list(quiet: bool, read: ReadOptions, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = ListAdminsRequest { read: Some(read) };
    let answer = session.call(Kind::READ, "listing admins", session.admins().list_admins(request)).await?;
    output.freshness(answer.freshness.as_ref());
    output.message(&answer, || {
        if quiet {
            answer.admins.iter().map(|admin| line(&admin.name)).collect()
        } else {
            render::admin::list(&answer.admins, Timestamp::now())
        }
    })
}

async fn remove(name: &str, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = RemoveAdminRequest { admin: name.to_owned() };
    let waiting = format!("locking {name} out");
    let answer = session.call(Kind::WRITE, &waiting, session.admins().remove_admin(request)).await?;
    output.message(&answer, || line(answer.admin.as_ref().map_or(name, |admin| &admin.name)))
}

/// `pontoon audit`.
pub(super) async fn audit(args: &AuditArgs, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = ListAuditRequest { limit: args.limit, read: Some(args.read.into()) };
    let answer = session.call(Kind::READ, "reading who has done what", session.admins().list_audit(request)).await?;
    output.freshness(answer.freshness.as_ref());
    output.message(&answer, || render::admin::audit(&answer.audit))
}

/// `pontoon context`, which needs no daemon.
///
/// # Errors
///
/// What ended it.
pub(crate) fn context(command: &ContextCommand, output: &Output) -> Result<(), Failure> {
    match command {
        ContextCommand::Add { name, file } => {
            let context = Context::add(name, file)?;
            let used = context::current()?.as_deref() == Some(name);
            output.bytes(render::admin::added(&context, used).as_bytes())
        }
        ContextCommand::Ls => {
            let contexts = context::list()?;
            output.message(&contexts, || render::admin::contexts(&contexts, Timestamp::now()))
        }
        ContextCommand::Use { name } => {
            context::use_from_now_on(name)?;
            output.bytes(line(name).as_bytes())
        }
        ContextCommand::Rm { names } => {
            for name in names {
                match context::remove(name) {
                    Ok(()) => output.bytes(line(name).as_bytes())?,
                    Err(failure) => output.failure(&failure),
                }
            }
            Ok(())
        }
    }
}
