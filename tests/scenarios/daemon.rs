//! The daemon by itself: where it cannot start it says why and what to do.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Cli, Daemon, DaemonOptions, Lab, Options, run_with};
use serde_json::Value;

fn alone() -> Options {
    Options { hosts: 1, ..Options::default() }
}

/// Checks that a daemon that cannot start says each of these words.
fn says(log: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(log.contains(word), "it does not say {word:?}: {log}");
    }
    Ok(())
}

/// A lab with a daemon that was not started.
fn stopped() -> Result<(Lab, Daemon)> {
    let lab = Lab::new(1)?;
    let daemon = Daemon::new(&lab, &lab.hosts()[0], DaemonOptions::default())?;
    Ok((lab, daemon))
}

#[test]
fn one_that_does_not_run() -> Result<()> {
    let cli = Cli::new(Path::new("/nowhere/pontoon.sock"));
    cli.refuses("status", "DAEMON_UNREACHABLE", &["/nowhere/pontoon.sock", "systemctl start pontoond"])?;
    ensure!(cli.refused("status")?.code == 1, "not exit code 1");
    Ok(())
}

#[test]
fn sigterm_ends_it_and_leaves_the_network() -> Result<()> {
    run_with(alone(), |cluster| {
        cluster.form()?;
        cluster.cli(0).run("network create n")?;
        let (one, _) = cluster.attached(0, "c1", "n")?;
        let (_, second) = cluster.attached(0, "c2", "n")?;
        let way = cluster.pinger(&one, &second)?;
        let start = Instant::now();
        let status = cluster.daemon(0).term()?;
        ensure!(status.success(), "it ended with {status}");
        ensure!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
        one.netns.reaches(second.addresses[0], 30)?;
        cluster.daemon(0).up()?;
        way.lost_nothing(20).map(drop)
    })
}

#[test]
fn the_socket_is_for_root_and_its_group() -> Result<()> {
    run_with(alone(), |cluster| {
        let metadata = fs::metadata(cluster.daemon(0).socket())?;
        ensure!(metadata.file_type().is_socket() && metadata.permissions().mode() & 0o777 == 0o660, "{metadata:?}");
        ensure!(metadata.uid() == 0, "it belongs to {}", metadata.uid());
        Ok(())
    })
}

#[test]
fn a_socket_that_was_left_by_a_killed_one_is_no_obstacle() -> Result<()> {
    run_with(alone(), |cluster| {
        cluster.daemon(0).kill9()?;
        ensure!(cluster.daemon(0).socket().exists(), "a killed daemon cannot have removed it");
        cluster.daemon(0).up()
    })
}

#[test]
fn a_port_in_use() -> Result<()> {
    run_with(alone(), |cluster| {
        let host = &cluster.hosts()[0];
        let mut second = Daemon::named(cluster, host, "second", DaemonOptions::default())?;
        says(&second.fails_to_start()?, &["7300", "in use", "--listen"])
    })
}

#[test]
fn a_vni_that_the_host_uses_already() -> Result<()> {
    run_with(alone(), |cluster| {
        // Somebody else's VXLAN device: one VNI on one port can exist once per host.
        let host = cluster.hosts()[0].netns.clone();
        host.ip("link add other type vxlan id 65536 dstport 4789 local 192.168.140.200")?;
        cluster.form()?;
        cluster.cli(0).run("network create n --vni 65536")?;
        let container = cluster.container(0, "c1")?;
        let error = cluster.cli(0).refused(&container.attach_line("n", ""))?;
        ensure!(error.reason == "KERNEL" && error.text().contains("65536"), "{error}");
        ensure!(container.interface("eth0")?.is_none(), "eth0 is left");
        let leases = cluster.cli(0).run("lease ls --state active")?;
        ensure!(leases["leases"].as_array().is_some_and(Vec::is_empty), "a lease is left: {leases}");
        Ok(())
    })
}

#[test]
fn a_data_folder_that_is_in_use() -> Result<()> {
    run_with(alone(), |cluster| {
        let data = cluster.daemon(0).data_dir();
        let args = ["--listen", "[::]:7301"].map(str::to_owned).to_vec();
        let options = DaemonOptions { data_dir: Some(data.clone()), args, ..DaemonOptions::default() };
        let mut second = Daemon::named(cluster, &cluster.hosts()[0], "second", options)?;
        says(&second.fails_to_start()?, &[&data.display().to_string(), "in use", "--data-dir"])
    })
}

#[test]
fn a_data_folder_that_cannot_be_written() -> Result<()> {
    let (_lab, mut daemon) = stopped()?;
    // Root may write everywhere, but not into a file as if it were a folder.
    fs::write(daemon.data_dir(), "")?;
    says(&daemon.fails_to_start()?, &[&daemon.data_dir().display().to_string(), "--data-dir"])
}

#[test]
fn a_data_folder_of_a_newer_version() -> Result<()> {
    run_with(alone(), |cluster| {
        cluster.form()?;
        cluster.daemon(0).term()?;
        let path = cluster.daemon(0).data_dir().join("identity.json");
        let mut identity: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        ensure!(identity["format"].is_number(), "{identity}");
        identity["format"] = 99.into();
        fs::write(&path, identity.to_string())?;
        says(
            &cluster.daemon(0).fails_to_start()?,
            &["99", "later", &cluster.daemon(0).data_dir().display().to_string()],
        )
    })
}

/// Files of two nodes in one folder: whichever of them it ran as, there would be two of that one.
#[test]
fn a_data_folder_of_another_node() -> Result<()> {
    run_with(Options { hosts: 2, ..Options::default() }, |cluster| {
        cluster.form()?;
        for daemon in cluster.daemons() {
            daemon.term()?;
        }
        let (from, to) = (cluster.daemon(0).data_dir(), cluster.daemon(1).data_dir());
        fs::rename(to.join("identity.json"), to.join("own.json"))?;
        fs::copy(from.join("identity.json"), to.join("identity.json"))?;
        says(&cluster.daemon(1).fails_to_start()?, &["another node", &to.display().to_string()])?;
        fs::rename(to.join("own.json"), to.join("identity.json"))?;
        // The right identity, beside the log and the state of the other.
        for entry in fs::read_dir(&from)?.collect::<Result<Vec<_>, _>>()? {
            if entry.file_type()?.is_dir() {
                let target = to.join(entry.file_name());
                fs::remove_dir_all(&target)?;
                ensure!(Command::new("cp").arg("-a").arg(entry.path()).arg(&target).status()?.success(), "cp failed");
            }
        }
        says(&cluster.daemon(1).fails_to_start()?, &["another node"])
    })
}

/// A node of another cluster may have the same numbers.
#[test]
fn a_log_of_another_cluster() -> Result<()> {
    run_with(Options { hosts: 2, ..Options::default() }, |cluster| {
        let own = cluster.init()?["cluster_id"].as_str().context("no cluster id")?.to_owned();
        let other = cluster.cli(1).run(&format!("init --advertise {} --name h2", cluster.advertise(1)))?;
        let other = other["cluster_id"].as_str().context("no cluster id")?.to_owned();
        for daemon in cluster.daemons() {
            daemon.term()?;
        }
        let (from, to) = (cluster.daemon(1).data_dir().join("store"), cluster.daemon(0).data_dir().join("store"));
        fs::rename(&to, to.with_extension("own"))?;
        fs::rename(&from, &to)?;
        let path = to.display().to_string();
        says(&cluster.daemon(0).fails_to_start()?, &["belongs to", &own, &other, &path])?;
        // Nothing of either is touched: each in its place, both go on.
        fs::rename(&to, &from)?;
        fs::rename(to.with_extension("own"), &to)?;
        for host in 0..2 {
            cluster.daemon(host).up()?;
            cluster.cli(host).run("network create n")?;
        }
        Ok(())
    })
}

#[test]
fn without_root() -> Result<()> {
    let (lab, mut daemon) = stopped()?;
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o777))?;
    let folder = daemon.log().parent().context("no folder")?.to_owned();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
    // Everything but the capabilities is as for root: 65534 is nobody.
    daemon.start_through(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    says(&daemon.fails_to_start()?, &["CAP_NET_ADMIN", "root"])
}

#[test]
fn with_root_and_without_the_right_to_change_the_network() -> Result<()> {
    let (_lab, mut daemon) = stopped()?;
    daemon.start_through(&["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
    let log = daemon.fails_to_start()?;
    says(&log, &["lacks CAP_NET_ADMIN;", "root"])?;
    ensure!(!daemon.data_dir().exists(), "it has made its data folder all the same");
    Ok(())
}

#[test]
fn an_unknown_key_in_the_file_is_refused_by_name() -> Result<()> {
    let (_lab, mut daemon) = stopped()?;
    fs::write(daemon.config(), "lisen = \"[::]:7300\"\n")?;
    says(&daemon.fails_to_start()?, &["lisen", "listen", &daemon.config().display().to_string()])
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() -> Result<()> {
    let (lab, mut daemon) = stopped()?;
    fs::write(daemon.config(), "listen = \"[::]:7401\"\nlog_level = \"debug\"\n")?;
    let listens = |port: &str| -> Result<bool> {
        let sockets = lab.hosts()[0].netns.run("ss", &["-Hltn"])?;
        Ok(sockets.contains(&format!(":{port} ")))
    };
    daemon.up()?;
    ensure!(listens("7401")?, "the file does not count");
    daemon.term()?;
    daemon.options_mut().env = vec![("PONTOON_LISTEN".to_owned(), "[::]:7402".to_owned())];
    daemon.up()?;
    ensure!(listens("7402")?, "the environment does not beat the file");
    daemon.term()?;
    daemon.options_mut().args = ["--listen", "[::]:7403"].map(str::to_owned).to_vec();
    daemon.up()?;
    ensure!(listens("7403")?, "the flag does not beat the environment");
    Ok(())
}
