//! Cleaning up, whatever happens to the test.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Waits until its standard input closes, then removes everything of the lab. It finds processes by the lab's
/// namespaces and cgroups, so it can end none that is not the lab's. It mounts the cgroups for itself: they may be
/// mounted nowhere. What was mounted in a host's room is gone with the last process there.
const SCRIPT: &str = r#"
cat >/dev/null
for path in /run/netns/"$1"-*; do
    [ -e "$path" ] && ip netns pids "${path##*/}" | xargs -r kill -9
done
unshare --mount sh -c '
mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit
for group in /sys/fs/cgroup/"$1"-*; do
    [ -d "$group" ] || continue
    echo 1 >"$group/cgroup.kill"
    tries=500
    until find "$group" -depth -type d -exec rmdir {} + || [ $((tries -= 1)) -eq 0 ]; do sleep 0.02; done
done' sh "$1"
for path in /run/netns/"$1"-*; do
    [ -e "$path" ] && ip netns del "${path##*/}"
done
rm -rf "$2"
"#;

/// A process that outlives the test, also one killed with SIGKILL, and then cleans up.
#[derive(Debug)]
pub(super) struct Guard {
    process: Child,
}

impl Guard {
    /// Guards the namespaces that begin with `prefix` and the folder `dir`.
    pub(super) fn new(prefix: &str, dir: &Path) -> Result<Self> {
        let process = Command::new("sh")
            .args(["-c", SCRIPT, "pontoon-lab-guard", prefix])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A group of its own: what ends the test's group must not end it.
            .process_group(0)
            .spawn()
            .context("cannot start the lab's guard")?;
        Ok(Self { process })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // Nothing to do about it here: the next lab has other names.
        let _ = self.process.wait();
    }
}
