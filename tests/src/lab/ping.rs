//! Counting packets.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Netns;
use crate::wait_for;

/// Seconds between two packets.
const INTERVAL: &str = "0.01";

/// What a ping counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingReport {
    /// Packets sent.
    pub sent: u64,
    /// Of them, answered.
    pub received: u64,
}

impl PingReport {
    /// Packets without an answer.
    pub fn lost(self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// Reads the closing lines of `ping`.
    fn parse(text: &str) -> Result<Self> {
        let line = text.lines().find(|line| line.contains("packets transmitted"));
        let line = line.with_context(|| format!("ping printed no totals: {text:?}"))?;
        let number = |what: &str| {
            let part = line.split(',').find(|part| part.contains(what));
            let number = part.and_then(|part| part.split_whitespace().next()?.parse().ok());
            number.with_context(|| format!("no number of packets {what} in {line:?}"))
        };
        Ok(Self { sent: number("transmitted")?, received: number("received")? })
    }
}

impl Netns {
    /// Sends `count` packets, one every 10 ms, and counts the answers. No answer is not an error.
    ///
    /// # Errors
    ///
    /// `ping` cannot be run, or not to this address.
    pub fn ping(&self, address: IpAddr, count: u32) -> Result<PingReport> {
        let count = count.to_string();
        let output = self
            .command("ping")
            .args(["-n", "-q", "-i", INTERVAL, "-c", &count, "-W", "1", &address.to_string()])
            .output()
            .context("cannot run ping: is iputils-ping installed?")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        PingReport::parse(&text).with_context(|| format!("ping {address} from {}: {errors}", self.name()))
    }

    /// Whether `address` answers each of `count` packets.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn reaches(&self, address: IpAddr, count: u32) -> Result<()> {
        let report = self.ping(address, count)?;
        ensure!(report.lost() == 0, "{} to {address}: {} of {} packets lost", self.name(), report.lost(), report.sent);
        Ok(())
    }

    /// Whether nothing answers at `address`.
    ///
    /// # Errors
    ///
    /// Something does.
    pub fn cannot_reach(&self, address: IpAddr) -> Result<()> {
        // No route, or no source address: ping says so without sending.
        let Ok(report) = self.ping(address, 5) else { return Ok(()) };
        ensure!(report.received == 0, "{} reaches {address}, which it must not", self.name());
        Ok(())
    }
}

/// A ping that goes on, 100 packets a second, until it is stopped.
#[derive(Debug)]
pub struct Pinger {
    process: Child,
    output: PathBuf,
    what: String,
}

impl Pinger {
    /// Pings `address` from `from`, once it answers. `output` is a file for what ping prints.
    ///
    /// # Errors
    ///
    /// It does not answer within 10 s, or ping cannot be run.
    pub fn start(from: &Netns, address: IpAddr, output: PathBuf) -> Result<Self> {
        let what = format!("{} to {address}", from.name());
        wait_for(&format!("an answer on the way from {what}"), Duration::from_secs(10), || from.reaches(address, 3))?;
        let file = fs::File::create(&output).with_context(|| format!("cannot write {}", output.display()))?;
        let mut command = from.command("ping");
        command.args(["-n", "-i", INTERVAL, &address.to_string()]);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let process = command.spawn().context("cannot run ping")?;
        let pinger = Self { process, output, what };
        wait_for("ping to be ready to be stopped", Duration::from_secs(5), || pinger.catches_interrupts())?;
        Ok(pinger)
    }

    /// Before it does, SIGINT would end it without its totals.
    fn catches_interrupts(&self) -> Result<()> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).context("no SigCgt in /proc")?;
        let mask = u64::from_str_radix(mask.trim(), 16)?;
        ensure!(mask & 1 << (Signal::SIGINT as u32 - 1) != 0, "it does not catch SIGINT");
        Ok(())
    }

    /// Stops it and counts. The very last packet may be on its way just then, and is left out if so.
    ///
    /// # Errors
    ///
    /// Ping had ended before, or printed no totals.
    pub fn stop(mut self) -> Result<PingReport> {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGINT).context("ping has ended by itself")?;
        self.process.wait()?;
        let text = fs::read_to_string(&self.output)?;
        let mut report = PingReport::parse(&text).with_context(|| self.what.clone())?;
        // Sequence numbers begin at 1 and have 16 bits.
        let last = format!("icmp_seq={} ", report.sent & 0xffff);
        if report.lost() == 1 && !text.contains(&last) {
            report.sent -= 1;
        }
        Ok(report)
    }

    /// Stops it once `at_least` packets were answered, or 10 s are over, and fails if one was lost or fewer were sent.
    ///
    /// # Errors
    ///
    /// As said.
    pub fn lost_nothing(self, at_least: u64) -> Result<PingReport> {
        let (what, output) = (self.what.clone(), self.output.clone());
        // What it was to outlast may have been over sooner than that. If packets are lost, the report says so.
        let enough = || {
            let answered = fs::read_to_string(&output)?.matches("icmp_seq=").count();
            ensure!(answered as u64 >= at_least, "{answered} answers");
            Ok(())
        };
        let _ = wait_for("enough answers", Duration::from_secs(10), enough);
        let report = self.stop()?;
        let gaps = gaps(&fs::read_to_string(output)?);
        ensure!(
            report.lost() == 0,
            "{what}: {} of {} packets lost, after the sequence numbers {gaps:?}",
            report.lost(),
            report.sent
        );
        ensure!(report.sent >= at_least, "{what}: only {} packets were sent: too few to tell", report.sent);
        Ok(report)
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        // It may have been stopped already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sequence numbers before which answers are missing, the first ten.
fn gaps(text: &str) -> Vec<u64> {
    let sequence = |line: &str| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse::<u64>().ok();
    let seen: Vec<u64> = text.lines().filter_map(sequence).collect();
    seen.windows(2).filter(|pair| pair[1] > pair[0] + 1).map(|pair| pair[0]).take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTALS: &str =
        "--- 10.0.0.3 ping statistics ---\n7 packets transmitted, 5 received, 28% packet loss, time 60ms";

    #[test]
    fn totals_are_read() {
        let report = PingReport::parse(TOTALS).unwrap();
        assert_eq!(report, PingReport { sent: 7, received: 5 });
        assert_eq!(report.lost(), 2);
        assert!(PingReport::parse("ping: connect: Network is unreachable").is_err());
    }

    #[test]
    fn totals_with_errors_are_read() {
        let text = "5 packets transmitted, 0 received, +3 errors, 100% packet loss, time 4076ms";
        assert_eq!(PingReport::parse(text).unwrap(), PingReport { sent: 5, received: 0 });
    }

    #[test]
    fn gaps_are_found() {
        assert_eq!(gaps("a icmp_seq=1 t\nb icmp_seq=2 t\nc icmp_seq=5 t\n"), [2]);
    }
}
