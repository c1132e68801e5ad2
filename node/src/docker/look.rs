//! A look at the engine and at our own socket, for a diagnosis.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::engine::Engine;
use crate::plan::doctor::{EngineLook, PluginLook};

/// How long the engine has to answer.
const ENGINE: Duration = Duration::from_secs(3);
/// How long our own socket has to answer.
const PLUGIN: Duration = Duration::from_secs(2);
/// Where distributions and Docker's own packages put its engine.
const PROGRAMS: [&str; 4] = ["/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd", "/snap/bin/dockerd"];
/// Files that tell engines of our socket when it is elsewhere (moby: pkg/plugins/discovery.go).
const SPECS: [&str; 2] = ["/etc/docker/plugins/pontoon.spec", "/usr/lib/docker/plugins/pontoon.spec"];

/// Asks the engine for its version and its networks.
pub(crate) async fn engine(socket: &Path) -> EngineLook {
    let asked = async {
        let engine = Engine::connect(socket).await?;
        let (version, api) = engine.version().await?;
        Ok::<_, super::engine::EngineError>(EngineLook::Answers { version, api, networks: engine.networks().await? })
    };
    let why = match timeout(ENGINE, asked).await {
        Ok(Ok(look)) => return look,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", ENGINE.as_secs()),
    };
    let program = PROGRAMS.into_iter().find(|path| Path::new(path).exists());
    EngineLook::Silent { why, socket: socket.exists(), program: program.map(str::to_owned) }
}

/// Asks our own socket what an engine asks first.
pub(crate) async fn plugin(socket: &Path) -> PluginLook {
    let path = resolved(socket).display().to_string();
    let address = format!("unix://{path}");
    let told = |spec: &&str| std::fs::read_to_string(spec).is_ok_and(|text| text.trim() == address);
    let problem = match timeout(PLUGIN, activate(socket)).await {
        Ok(Ok(problem)) => problem,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {} s", PLUGIN.as_secs())),
    };
    PluginLook { path, problem, told: SPECS.iter().any(told) }
}

/// None: this process answers as a driver.
async fn activate(socket: &Path) -> io::Result<Option<String>> {
    let mut stream = UnixStream::connect(socket).await?;
    if let Some(pid) = stream.peer_cred()?.pid()
        && pid.cast_unsigned() != std::process::id()
    {
        return Ok(Some(format!("process {pid} listens there")));
    }
    stream.write_all(b"POST /Plugin.Activate HTTP/1.0\r\nContent-Length: 0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let whole = answer.starts_with("HTTP/1.0 200") && answer.contains("NetworkDriver") && answer.contains("IpamDriver");
    Ok((!whole).then(|| format!("it answers {answer:?}")))
}

/// The path with its folder's links followed: `/var/run` is `/run`.
fn resolved(socket: &Path) -> PathBuf {
    let folder = socket.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, socket.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => socket.to_owned(),
    }
}
