//! Times of ours and of etcd's, taken in turn on the same hosts.

use std::time::Duration;

use anyhow::{Context, Result};
use pontoon_tests::lab::{Cluster, run};
use tokio::runtime::Runtime;

use crate::etcd::Etcd;
use crate::stats::{ms, number, percentile, ratio};

/// Head of each column of [`Times::rows`].
pub(crate) const HEADER: [&str; 4] = ["", "Pontoon", "etcd", "ratio"];

/// What was measured, sorted.
#[derive(Debug, Default)]
pub(crate) struct Times {
    ours: Vec<Duration>,
    /// Those of etcd.
    pub(crate) theirs: Vec<Duration>,
}

impl Times {
    /// Takes ours so many times, and etcd's after every so many of these.
    pub(crate) fn take(
        runtime: &Runtime,
        (runs, every): (usize, usize),
        ours: impl Fn(&mut Cluster, &Runtime) -> Result<Duration>,
        theirs: impl Fn(&mut Etcd, &Runtime) -> Result<Duration>,
    ) -> Result<Self> {
        let mut times = Self::default();
        run(|cluster| {
            let mut etcd = Etcd::start(cluster, runtime)?;
            for number in 0..runs {
                times.ours.push(ours(cluster, runtime).with_context(|| format!("run {}", number + 1))?);
                if number % every == 0 {
                    let taken = theirs(&mut etcd, runtime).with_context(|| format!("etcd, run {}", number + 1))?;
                    times.theirs.push(taken);
                }
            }
            Ok(())
        })?;
        times.ours.sort_unstable();
        times.theirs.sort_unstable();
        Ok(times)
    }

    /// Their spread, in milliseconds.
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        let row = |(what, percent): (&str, usize)| {
            let (ours, theirs) = (ms(percentile(&self.ours, percent)), ms(percentile(&self.theirs, percent)));
            vec![what.to_owned(), number(ours), number(theirs), ratio(ours, theirs)]
        };
        [("least", 0), ("p50", 50), ("p99", 99), ("most", 100)].map(row).to_vec()
    }
}
