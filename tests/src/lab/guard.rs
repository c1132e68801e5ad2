//! Cleaning up, whatever happens to the test.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Waits until its standard input closes, then removes everything of the lab. It finds processes by the lab's
/// namespaces, so it can end none that is not the lab's.
const SCRIPT: &str = r#"
cat >/dev/null
for path in /run/netns/"$1"-*; do
    [ -e "$path" ] && ip netns pids "${path##*/}" | xargs -r kill -9
done
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
