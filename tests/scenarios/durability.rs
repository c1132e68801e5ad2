//! Nothing is acknowledged before it is on a majority's disks: counted at the system calls, from outside.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cluster, Options, run_with};
use pontoon_tests::wait_for;

/// Writes that are acknowledged one after the other. A member that gets two of them together syncs once for both, so each is
/// looked at by itself.
const WRITES: usize = 20;

/// Watches a daemon's syncs.
struct Watched {
    strace: Child,
    trace: PathBuf,
}

impl Watched {
    fn start(cluster: &mut Cluster, host: usize) -> Result<Self> {
        let trace = cluster.file(&format!("strace-{host}"));
        let pid = cluster.daemon(host).pid().context("the daemon does not run")?;
        let strace = Command::new("strace")
            .args(["-f", "-q", "-e", "trace=fdatasync", "-o"])
            .arg(&trace)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run strace")?;
        let watched = Self { strace, trace };
        // A heartbeat of writes: it watches once it has seen one of their syncs.
        wait_for("strace to watch", Duration::from_secs(20), || {
            cluster.cli(host).run("node label h1 watched=yes")?;
            ensure!(watched.syncs()? > 0, "no sync seen yet");
            Ok(())
        })?;
        Ok(watched)
    }

    /// Syncs that have ended well so far.
    fn syncs(&self) -> Result<usize> {
        let text = fs::read_to_string(&self.trace).unwrap_or_default();
        // Split over two lines when another thread's call comes between.
        let ended = |line: &&str| line.contains("fdatasync") && line.trim_end().ends_with("= 0");
        Ok(text.lines().filter(ended).count())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

#[test]
fn each_acknowledged_write_was_synced_on_a_majority() -> Result<()> {
    run_with(Options::default(), |cluster| {
        cluster.form()?;
        // A newcomer that does not vote yet is waited for by nobody.
        wait_for("all three to vote", Duration::from_secs(20), || {
            let status = cluster.status(0)?;
            ensure!(status["quorum"] == 2, "{status}");
            Ok(())
        })?;
        let watched = (0..3).map(|host| Watched::start(cluster, host)).collect::<Result<Vec<_>>>()?;
        for number in 0..WRITES {
            // Nothing of an earlier one is on its way to a disk, which could be taken for this one's sync.
            cluster.wait_same_state()?;
            let before = watched.iter().map(Watched::syncs).collect::<Result<Vec<_>>>()?;
            cluster.cli(0).run(&format!("node label h1 number={number}"))?;
            let after = watched.iter().map(Watched::syncs).collect::<Result<Vec<_>>>()?;
            let count = before.iter().zip(&after).filter(|(before, after)| after > before).count();
            ensure!(
                count >= 2,
                "write {number} was acknowledged with {count} of 3 disks synced: {before:?}, {after:?}"
            );
        }
        Ok(())
    })
}
