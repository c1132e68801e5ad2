//! What the benchmark prints and docs/benchmarks.md keeps.

use std::fmt::Write;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::utsname::uname;
use pontoon_tests::Section;

use crate::stats::{ms, number, percentile};

/// Synced appends that tell what the disk can do.
const SYNCS: usize = 300;
/// Size of each, in bytes.
const SYNC_BYTES: usize = 256;

/// What the figures depend on: cores, kernel, memory and the disk under `dir`.
///
/// # Errors
///
/// `dir` cannot be written to, or the kernel does not say.
pub(crate) fn machine(dir: &Path) -> Result<String> {
    let cores = thread::available_parallelism()?;
    let system = uname()?;
    let meminfo = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or("0 kB");
    let kib: f64 = total.trim().trim_end_matches("kB").trim().parse()?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    let syncs = sync_times(dir)?;
    let filesystem = Command::new("stat").args(["--file-system", "--format=%T"]).arg(dir).output()?;
    Ok(format!(
        "Machine: {cores} cores, {} GB, Linux {}, load {load} before the start; data on {}, where an append of \
         {SYNC_BYTES} bytes and fdatasync takes {} ms (p50) and {} ms (p99).",
        number(kib / 1e6),
        system.release().to_string_lossy(),
        String::from_utf8_lossy(&filesystem.stdout).trim(),
        number(ms(percentile(&syncs, 50))),
        number(ms(percentile(&syncs, 99))),
    ))
}

fn sync_times(dir: &Path) -> Result<Vec<std::time::Duration>> {
    let path = dir.join("fdatasync");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let mut times = (0..SYNCS).map(|_| sync_once(&mut file)).collect::<Result<Vec<_>>>()?;
    times.sort();
    fs::remove_file(path)?;
    Ok(times)
}

fn sync_once(file: &mut File) -> Result<std::time::Duration> {
    let start = Instant::now();
    file.write_all(&[0x5a; SYNC_BYTES])?;
    file.sync_data().context("cannot sync")?;
    Ok(start.elapsed())
}

/// Head of what `make soak` has measured, which takes an hour and is not measured here.
const KEPT: &str = "\n## An hour of churn\n";

/// What of an earlier report stays.
pub(crate) fn kept(old: &str) -> &str {
    old.find(KEPT).map_or("", |at| &old[at..])
}

/// The text of docs/benchmarks.md.
pub(crate) fn document(machine: &str, sections: &[Section]) -> String {
    let mut text = String::from(
        "# Benchmarks\n\nWritten by `make bench`; do not edit. Hosts are network namespaces of one machine, so all nodes, the \
         clients and the peers share its cores\nand its disk: trust the ratios, not the absolute figures. Everything is \
         measured beside its peer in the same run.\n\n",
    );
    text.push_str(machine);
    text.push('\n');
    for section in sections {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{section}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_an_hour_is_kept() {
        let hour = "\n## An hour of churn\n\nFlat.\n";
        assert_eq!(kept(&format!("# Benchmarks\n\n## Traffic\n\n1\n{hour}")), hour);
        assert_eq!(kept("# Benchmarks\n"), "");
    }
}
