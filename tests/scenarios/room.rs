//! A disk that is full: the node reads on, says so, and starts again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;
use pontoon_tests::lab::{Cluster, Options, run_with};
use pontoon_tests::wait_for;

const SOON: Duration = Duration::from_secs(20);
const MB: u64 = 1_000_000;
/// Bytes of a daemon's disk.
const SIZE: u64 = 1000 * MB;

/// A disk of its own under a daemon's data folder.
struct Disk(PathBuf);

impl Disk {
    /// The daemon is in no cluster yet.
    fn under(cluster: &mut Cluster, host: usize) -> Result<Self> {
        let daemon = cluster.daemon(host);
        daemon.kill9()?;
        let dir = daemon.data_dir();
        fs::create_dir_all(&dir)?;
        let size = format!("size={SIZE},mode=0700");
        mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .context("cannot mount a tmpfs")?;
        let disk = Self(dir);
        daemon.up()?;
        Ok(disk)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("of-somebody-else")
    }

    /// Leaves about so many bytes free.
    fn leave(&self, bytes: u64) -> Result<()> {
        self.empty()?;
        let found = statvfs(&self.0)?;
        let free = found.blocks_available() * found.fragment_size();
        let take = i64::try_from(free.saturating_sub(bytes))?;
        fallocate(File::create(self.filler())?, FallocateFlags::empty(), 0, take).context("cannot fill the disk")?;
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        if Path::exists(&self.filler()) {
            fs::remove_file(self.filler())?;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.display());
        }
    }
}

fn warns(cluster: &Cluster, host: usize, text: &str) -> Result<()> {
    wait_for("a warning", SOON, || {
        let status = cluster.status(host)?;
        let warnings = status["warnings"].as_array().context("no warnings")?;
        let found = warnings.iter().any(|warning| warning.as_str().is_some_and(|warning| warning.contains(text)));
        ensure!(found, "{warnings:?}");
        Ok(())
    })
}

#[test]
fn the_only_node_reads_on_and_starts_again() -> Result<()> {
    run_with(Options { hosts: 1, ..Options::default() }, |cluster| {
        let disk = Disk::under(cluster, 0)?;
        cluster.form()?;
        cluster.cli(0).run("network create before")?;
        disk.leave(200 * MB)?;
        warns(cluster, 0, "this node takes no writes")?;
        for full in [false, true] {
            if full {
                cluster.daemon(0).kill9()?;
                disk.leave(0)?;
                cluster.daemon(0).up()?;
                warns(cluster, 0, "this node takes no writes")?;
            }
            cluster.cli(0).refuses(
                "network create late",
                "DISK_FULL",
                &["the leader takes no writes: node h1:", "MB are free"],
            )?;
            let networks = cluster.cli(0).run("network ls")?;
            ensure!(networks["networks"][0]["network"]["name"] == "before", "{networks}");
        }
        disk.empty()?;
        wait_for("writes to go on", SOON, || cluster.cli(0).run("network create after").map(drop))
    })
}

#[test]
fn a_leader_lets_another_one_lead_and_a_follower_takes_nothing_more() -> Result<()> {
    run_with(Options::default(), |cluster| {
        let disk = Disk::under(cluster, 0)?;
        cluster.form()?;
        ensure!(cluster.leader()? == 0, "the founder leads");
        disk.leave(200 * MB)?;
        wait_for("another one to lead", SOON, || {
            ensure!(cluster.leader()? != 0, "h1 leads");
            Ok(())
        })?;
        cluster.cli(0).run("network create one")?;
        cluster.wait_same_state()?;
        disk.leave(60 * MB)?;
        let mut tick = 0;
        wait_for("it to take nothing more", SOON, || {
            tick += 1;
            cluster.cli(1).run(&format!("node label h1 tick={tick}"))?;
            let [here, there] = [0, 1].map(|host| cluster.status(host));
            let (here, there) = (here?["applied_index"].to_string(), there?["applied_index"].to_string());
            ensure!(here != there, "it has applied {here}");
            Ok(())
        })?;
        cluster.daemon(0).kill9()?;
        cluster.cli(1).run("network create two")?;
        disk.leave(0)?;
        cluster.daemon(0).up()?;
        warns(cluster, 0, "this node takes no writes")?;
        cluster.cli(0).run("network ls --stale")?;
        disk.empty()?;
        cluster.wait_same_state()
    })
}

/// It goes on in memory, and starts with what it had.
#[test]
fn an_observer_goes_on_and_starts_again() -> Result<()> {
    run_with(Options { hosts: 4, ..Options::default() }, |cluster| {
        let disk = Disk::under(cluster, 3)?;
        cluster.form()?;
        cluster.cli(0).run("node demote h4")?;
        wait_for("it to observe", SOON, || {
            let node = cluster.cli(3).run("node inspect h4")?["node"].clone();
            ensure!(node["observer"] == true, "{node}");
            Ok(())
        })?;
        cluster.cli(3).run("network create before")?;
        let (here, there) = (cluster.attached(3, "c1", "before")?, cluster.attached(0, "c2", "before")?);
        let way = cluster.pinger(&here.0, &there.1)?;
        disk.leave(0)?;
        warns(cluster, 3, "what changes is lost here")?;
        cluster.cli(3).run("network create meanwhile")?;
        let networks = cluster.cli(3).run("network ls --stale")?["networks"].to_string();
        ensure!(networks.contains("meanwhile"), "{networks}");
        cluster.daemon(3).kill9()?;
        disk.leave(0)?;
        cluster.daemon(3).up()?;
        warns(cluster, 3, "what changes is lost here")?;
        wait_for("it to follow again", SOON, || {
            let networks = cluster.cli(3).run("network ls --stale")?["networks"].to_string();
            ensure!(networks.contains("meanwhile"), "{networks}");
            Ok(())
        })?;
        cluster.cli(3).run("network create with-nothing-left")?;
        way.lost_nothing(20)?;
        disk.empty()?;
        wait_for("no warning", SOON, || {
            let warnings = cluster.status(3)?["warnings"].to_string();
            ensure!(!warnings.contains("is lost here"), "{warnings}");
            Ok(())
        })?;
        cluster.cli(3).run("network create after")?;
        // With nobody to ask, it has what was written since.
        (0..3).try_for_each(|host| cluster.daemon(host).kill9())?;
        cluster.daemon(3).kill9()?;
        cluster.daemon(3).up()?;
        let networks = cluster.cli(3).run("network ls --stale")?["networks"].to_string();
        ensure!(["before", "meanwhile", "after"].iter().all(|name| networks.contains(name)), "{networks}");
        Ok(())
    })
}
