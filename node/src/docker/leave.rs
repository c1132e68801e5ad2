//! What is done in the engine when this node leaves its cluster.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::engine::{Engine, EngineError};
use crate::plan::engine::{Step, leaving, left_behind};

/// How long all of it may take: an engine has some hundred networks at most, and removes one in some milliseconds. An
/// engine that hangs does not hold up who leaves.
const DEADLINE: Duration = Duration::from_secs(15);

/// Removes the cluster's networks from the engine; tells what is left there, and how to remove it. `known`: the networks
/// that it had, as the cluster knew.
pub(crate) async fn clean_up(socket: &Path, known: &[String]) -> Vec<String> {
    let why = match timeout(DEADLINE, remove_all(socket)).await {
        Ok(Ok(left)) => return left,
        Ok(Err(_)) if known.is_empty() && !socket.exists() => return Vec::new(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("Docker at {} was not done within {} s", socket.display(), DEADLINE.as_secs()),
    };
    let left = format!("{why}; {}", left_behind(known));
    warn!("{left}");
    vec![left]
}

async fn remove_all(socket: &Path) -> Result<Vec<String>, EngineError> {
    let engine = Engine::connect(socket).await?;
    let planned = leaving(&engine.observe().await?);
    let mut left = planned.problems;
    for step in planned.steps {
        let Step::Remove { id, name, .. } = step else { continue };
        match engine.remove(&id, &name).await {
            Ok(()) => info!(name, "removed a network from the engine: this node has left its cluster"),
            Err(error) => left.push(format!("{error}; try docker network rm {name}")),
        }
    }
    for what in &left {
        warn!("{what}");
    }
    Ok(left)
}
