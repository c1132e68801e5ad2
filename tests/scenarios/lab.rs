//! The lab itself: a scenario that passes on a lab without a wire would prove nothing.

use std::fs;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{Daemon, DaemonOptions, Lab, OUTSIDE, OUTSIDE6, Pinger, ROUTER, ROUTER6};
use pontoon_tests::wait_for;

#[test]
fn hosts_reach_each_other_and_the_outside() -> Result<()> {
    let lab = Lab::new(2)?;
    let [one, two] = lab.hosts() else { unreachable!("two were asked for") };
    for address in [two.address.into(), two.address6.into(), ROUTER.into(), ROUTER6.into(), OUTSIDE.into()] {
        wait_for("the way to be up", Duration::from_secs(10), || one.netns.reaches(address, 3))?;
    }
    wait_for("the way to be up", Duration::from_secs(10), || two.netns.reaches(OUTSIDE6.into(), 3))
}

#[test]
fn a_cut_host_is_alone_and_its_loss_is_counted() -> Result<()> {
    let lab = Lab::new(2)?;
    let [one, two] = lab.hosts() else { unreachable!("two were asked for") };
    let pinger = Pinger::start(&one.netns, two.address.into(), lab.dir().join("ping"))?;
    lab.cut(1)?;
    one.netns.cannot_reach(two.address.into())?;
    one.netns.reaches(ROUTER.into(), 3)?;
    lab.heal(1)?;
    wait_for("the host to be back", Duration::from_secs(5), || one.netns.reaches(two.address.into(), 3))?;
    let report = pinger.stop()?;
    ensure!(report.lost() > 0 && report.received > 0, "the cut was not seen: {report:?}");
    Ok(())
}

#[test]
fn a_ping_that_loses_nothing_is_counted_so() -> Result<()> {
    let lab = Lab::new(2)?;
    let [one, two] = lab.hosts() else { unreachable!("two were asked for") };
    let pinger = Pinger::start(&one.netns, two.address.into(), lab.dir().join("ping"))?;
    one.netns.reaches(two.address.into(), 50)?;
    pinger.lost_nothing(20).map(drop)
}

/// The program that a killed daemon was just starting holds its socket for a moment, and answers nothing there.
#[test]
fn a_daemon_is_not_ready_because_another_process_listens_in_its_place() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut daemon = Daemon::new(&lab, &lab.hosts()[0], DaemonOptions::default())?;
    let _other = UnixListener::bind(daemon.socket())?;
    let error = daemon.up().err().context("it counts as ready")?;
    ensure!(error.to_string().contains("another pontoond answers"), "{error:#}");
    Ok(())
}

#[test]
fn nothing_is_left_of_a_lab() -> Result<()> {
    let lab = Lab::new(1)?;
    let (prefix, dir) = (lab.prefix().to_owned(), lab.dir().to_owned());
    let mut process = lab.hosts()[0].netns.command("cat").stdin(std::process::Stdio::piped()).spawn()?;
    drop(lab);
    wait_for("its process to end", Duration::from_secs(5), || {
        ensure!(process.try_wait()?.is_some(), "it runs");
        Ok(())
    })?;
    for entry in fs::read_dir("/run/netns")? {
        let name = entry?.file_name();
        ensure!(!name.to_string_lossy().starts_with(&format!("{prefix}-")), "{name:?} is left");
    }
    ensure!(!dir.exists(), "{} is left", dir.display());
    Ok(())
}
