//! What the user sees.

use std::env;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::Cluster;

use super::{Interrupted, around};

/// What a ping counted.
#[derive(Debug)]
struct Way {
    from: String,
    to: String,
    what: String,
    sent: u32,
    received: u32,
}

impl Way {
    fn is_whole(&self) -> bool {
        self.sent > 0 && self.sent == self.received
    }
}

/// Shows steps and commands as they happen, and keeps what the pings counted.
#[derive(Debug)]
pub(super) struct Screen {
    colours: bool,
    interrupted: Interrupted,
    ways: Vec<Way>,
}

impl Screen {
    pub(super) fn new(interrupted: Interrupted) -> Self {
        let colours = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colours, interrupted, ways: Vec::new() }
    }

    /// Prints a line. It fails when nobody reads it any more.
    pub(super) fn say(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot print")
    }

    pub(super) fn step(&self, title: &str) -> Result<()> {
        self.say(&self.coloured("1", &format!("\n== {title}")))
    }

    fn coloured(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Prints a command as the administrator types it on a host, runs it there, and prints its output as it comes.
    pub(super) fn run(&self, cluster: &Cluster, host: usize, line: &str) -> Result<String> {
        self.run_with_remark(cluster, host, line, "")
    }

    fn run_with_remark(&self, cluster: &Cluster, host: usize, line: &str, remark: &str) -> Result<String> {
        ensure!(self.interrupted.borrow().is_none(), "interrupted");
        let name = &cluster.hosts()[host].name;
        self.say(&self.coloured("36", &format!("\n[{name}] $ {line}{remark}")))?;
        let mut command = around::on_host(cluster, host)?;
        command.args(["-c", &format!("exec 2>&1; {line}")]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("cannot run {line:?} on {name}"))?;
        let mut printed = String::new();
        for text in BufReader::new(process.stdout.take().context("no output")?).lines() {
            let text = text.with_context(|| format!("cannot read what {line:?} prints"))?;
            self.say(&text)?;
            printed.push_str(&text);
            printed.push('\n');
        }
        let status = process.wait()?;
        ensure!(status.success() || line.contains(" ping "), "{line:?} on {name} ended with {status}");
        Ok(printed)
    }

    /// Pings from a container, and counts.
    pub(super) fn ping(&mut self, cluster: &Cluster, from: (usize, &str), to: &str, what: &str) -> Result<()> {
        let (host, container) = from;
        let line = format!("docker exec {container} ping -q -c 10 -i 0.02 -W 1 {to}");
        let printed = self.run_with_remark(cluster, host, &line, &format!("    # {what}"))?;
        let count = |what: &str| counted(&printed, what).unwrap_or_default();
        let (sent, received) = (count("transmitted"), count("received"));
        self.ways.push(Way { from: container.to_owned(), to: to.to_owned(), what: what.to_owned(), sent, received });
        Ok(())
    }

    /// Whether every ping was answered.
    pub(super) fn lost_nothing(&self) -> bool {
        self.ways.iter().all(Way::is_whole)
    }

    /// What the pings counted, in a table.
    pub(super) fn summary(&self, keep: bool) -> Result<()> {
        self.step("Summary")?;
        for way in &self.ways {
            let Way { from, to, what, sent, received } = way;
            let verdict = if way.is_whole() {
                self.coloured("32", "0 % loss")
            } else {
                self.coloured("31", &format!("{} lost", sent - received))
            };
            self.say(&format!("  {from} -> {to:<15}  {what:<40} {sent:>5} sent {received:>5} received  {verdict}"))?;
        }
        let verdict = if self.lost_nothing() {
            self.coloured("32", "Nothing was lost.")
        } else {
            self.coloured("31", "Packets were lost.")
        };
        self.say(&format!("\n{verdict}"))?;
        if !keep {
            self.say("To look around, run it with KEEP=1: make demo-docker KEEP=1")?;
        }
        Ok(())
    }
}

/// The number before this word in the totals of `ping`.
fn counted(printed: &str, what: &str) -> Option<u32> {
    let totals = printed.lines().find(|line| line.contains("packets transmitted"))?;
    totals.split(',').find(|part| part.contains(what))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn totals_are_read() {
        for totals in
            ["10 packets transmitted, 9 packets received, 10% packet loss", "10 packets transmitted, 9 received"]
        {
            let printed = format!("PING 10.0.0.3\n\n{totals}\n");
            assert_eq!((counted(&printed, "transmitted"), counted(&printed, "received")), (Some(10), Some(9)));
        }
        assert_eq!(counted("ping: bad address", "received"), None);
    }
}
