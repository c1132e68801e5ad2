//! What a process takes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Resident memory of a process, in bytes (`VmRSS`, proc_pid_status(5)).
///
/// # Errors
///
/// There is no such process.
pub fn resident(pid: u32) -> Result<u64> {
    let path = Path::new("/proc").join(pid.to_string()).join("status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? << 10)
}
