//! `pontoon backup`, `restore` and `recover`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use futures::stream;
use jiff::Timestamp;
use pontoon_proto::BACKUP_PART_BYTES;
use pontoon_proto::v1::{BackupRequest, Freshness, InitRequest, RecoverRequest, RestoreRequest};

use crate::args::{BackupArgs, RecoverArgs, RestoreArgs};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use crate::session::{Kind, Session};

pub(super) async fn backup(args: &BackupArgs, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = BackupRequest { stale: args.stale };
    let mut parts = session.call(Kind::READ, "reading the state", session.cluster().backup(request)).await?;
    let (mut file, mut freshness) = (Vec::new(), Freshness::default());
    while let Some(part) = session.next(&mut parts).await? {
        freshness = part.freshness.unwrap_or(freshness);
        file.extend(part.data);
    }
    output.freshness(Some(&freshness));
    if args.file == Path::new("-") {
        return io::stdout().write_all(&file).map_err(|error| unusable("write to", &args.file, &error));
    }
    write(&args.file, &file).map_err(|error| unusable("write", &args.file, &error))?;
    output.message(&freshness, || render::backup::written(&args.file, file.len(), &freshness))
}

/// Writes a file that is whole or not there, and its owner's alone: it tells where everything is.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    // Somebody else may have made one of this name, which would be his, or lead elsewhere.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

pub(super) async fn restore(args: &RestoreArgs, session: &Session, output: &Output) -> Result<(), Failure> {
    let file = read(&args.file).map_err(|error| unusable("read", &args.file, &error))?;
    let init = InitRequest::from(&args.first);
    let first = RestoreRequest { init: Some(init), data: Vec::new() };
    let parts: Vec<_> =
        file.chunks(BACKUP_PART_BYTES).map(|part| RestoreRequest { init: None, data: part.to_vec() }).collect();
    let request = stream::iter(std::iter::once(first).chain(parts));
    let answer = session.call(Kind::WORK, "making a cluster of the backup", session.cluster().restore(request)).await?;
    output.message(&answer, || render::backup::restored(&answer, args.first.token_uses.unwrap_or(1), Timestamp::now()))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    if path == Path::new("-") {
        io::stdin().read_to_end(&mut content)?;
    } else {
        File::open(path)?.read_to_end(&mut content)?;
    }
    Ok(content)
}

pub(super) async fn recover(args: &RecoverArgs, session: &Session, output: &Output) -> Result<(), Failure> {
    let request = RecoverRequest { force: args.force };
    let answer = session.call(Kind::WORK, "recovering", session.cluster().recover(request)).await?;
    output.warnings(&answer.warnings);
    output.message(&answer, || render::backup::recovered(&answer, Timestamp::now()))
}

fn unusable(operation: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::local("FILE", format!("cannot {operation} {}: {error}", path.display()), "give another file")
}
