//! Whether what was sampled is flat. Knows nothing but values.

use std::time::Duration;

use crate::churn::NETWORKS;
use crate::sample::Sample;
use crate::slot::OF_EACH_NODE;

/// Interfaces on a node when all networks and containers are there: that on the LAN and the gateway bridge; a bridge and a
/// VXLAN device for each network; for each container a veth to the network and one out.
const INTERFACES: u64 = 2 + (NETWORKS * (2 + 2 * OF_EACH_NODE)) as u64;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A median of fewer samples says little.
const ENOUGH: usize = 3;

/// Something that a daemon takes.
#[derive(Debug)]
pub(crate) struct Quantity {
    /// Its name, as in "resident memory".
    pub(crate) name: &'static str,
    /// Whether it is counted in bytes.
    pub(crate) bytes: bool,
    /// How it is read.
    pub(crate) of: fn(&Sample) -> u64,
}

/// How much a quantity may grow.
#[derive(Debug)]
pub(crate) struct Limit {
    /// The quantity.
    pub(crate) quantity: Quantity,
    /// The last quarter's median may be above the second quarter's by so many percent of that, or by `slack`, whichever
    /// is more.
    percent: u64,
    /// In bytes, or as a number.
    slack: u64,
    /// No sample may be above this.
    most: u64,
}

/// What only a process that has run all the time tells of. What a daemon keeps within bounds, one that was just started has
/// yet to take.
pub(crate) const OF_A_PROCESS: Limit = Limit {
    quantity: Quantity { name: "resident memory", bytes: true, of: |sample| sample.resident },
    percent: 10,
    slack: 16 * MIB,
    most: u64::MAX,
};

/// What is judged of every daemon. Where the tolerances come from, that of memory included:
///
/// - Memory: it goes to and fro by some MiB with the entries that are not purged, 1,000 to 11,000 of up to 1 KB. In a run of
///   minutes it is the 16 MiB that count; in one of an hour they find a leak of 50 bytes with each write.
/// - The log is in segments of 16 MiB, allocated at once, and begins a new one every few minutes: a median may fall on
///   either side of that. What is kept is in two at most, and two more may be there until the purge is done.
/// - A snapshot of what lives here takes some 100 KiB. While one is written, there are two.
/// - sled has cleaned up behind itself when it has some MiB; it is more while its segments are half empty.
/// - Descriptors: a connection for each client and each watcher, and watchers come and go.
/// - Threads: the runtime starts some for blocking work, and ends them after ten seconds.
/// - Interfaces: as many as what lives at a time has at most, and some that are just going. Their number goes up and down.
pub(crate) const OF_EACH: [Limit; 6] = [
    Limit {
        quantity: Quantity { name: "log on disk", bytes: true, of: |sample| sample.log },
        percent: 0,
        slack: 17 * MIB,
        most: 65 * MIB,
    },
    Limit {
        quantity: Quantity { name: "snapshots on disk", bytes: true, of: |sample| sample.snapshots },
        percent: 20,
        slack: 512 * KIB,
        most: 8 * MIB,
    },
    Limit {
        quantity: Quantity { name: "state on disk", bytes: true, of: |sample| sample.state },
        percent: 20,
        slack: 8 * MIB,
        most: 64 * MIB,
    },
    Limit {
        quantity: Quantity { name: "open descriptors", bytes: false, of: |sample| sample.descriptors },
        percent: 0,
        slack: 12,
        most: u64::MAX,
    },
    Limit {
        quantity: Quantity { name: "threads", bytes: false, of: |sample| sample.threads },
        percent: 0,
        slack: 6,
        most: u64::MAX,
    },
    Limit {
        quantity: Quantity { name: "interfaces", bytes: false, of: |sample| sample.interfaces },
        percent: 0,
        slack: u64::MAX,
        most: INTERFACES + 8,
    },
];

/// What was sampled of one node.
#[derive(Debug)]
pub(crate) struct Course {
    /// Its name.
    pub(crate) node: String,
    /// Samples, in the order of their time.
    pub(crate) samples: Vec<Sample>,
}

/// What is wrong; nothing if all is flat. `length` is what was churned for, from the first sample's time 0 on.
pub(crate) fn judge(courses: &[Course], length: Duration) -> Vec<String> {
    let mut wrong: Vec<String> = courses.iter().flat_map(|course| course.judge(length)).collect();
    if courses.iter().all(|course| !course.is_unbroken()) {
        wrong.push("every daemon was started again: nothing can be said about memory".to_owned());
    }
    wrong
}

impl Course {
    /// Samples of a part of the time, given in quarters of it from 0 on.
    pub(crate) fn part(&self, length: Duration, from: u32, to: u32) -> impl Iterator<Item = &Sample> {
        let (from, to) = (length * from / 4, length * to / 4);
        self.samples.iter().filter(move |sample| sample.at >= from && sample.at < to)
    }

    /// Median of a quantity in a quarter of the time, given from 0 to 3; 0 when there is no sample.
    pub(crate) fn median(&self, length: Duration, quarter: u32, quantity: &Quantity) -> u64 {
        let mut values: Vec<u64> = self.part(length, quarter, quarter + 1).map(quantity.of).collect();
        values.sort_unstable();
        values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
    }

    /// The greatest value of a quantity.
    pub(crate) fn greatest(&self, quantity: &Quantity) -> u64 {
        self.samples.iter().map(quantity.of).max().unwrap_or_default()
    }

    /// Whether the same process ran all the time, the warm-up included. One that was started since fills what it keeps
    /// within bounds anew, for a minute or more, and that looks like a leak.
    fn is_unbroken(&self) -> bool {
        let mut starts = self.samples.iter().map(|sample| sample.starts);
        starts.next().is_some_and(|first| starts.all(|next| next == first))
    }

    fn judge(&self, length: Duration) -> Vec<String> {
        let node = &self.node;
        let few = [1, 3].into_iter().find(|&quarter| self.part(length, quarter, quarter + 1).count() < ENOUGH);
        if let Some(quarter) = few {
            return vec![format!(
                "{node}: fewer than {ENOUGH} samples in quarter {}: nothing can be said",
                quarter + 1
            )];
        }
        let unbroken = self.is_unbroken();
        let judged = [OF_A_PROCESS].into_iter().filter(|_| unbroken).chain(OF_EACH);
        let mut wrong: Vec<String> = judged.flat_map(|limit| self.judge_one(length, &limit)).collect();
        let mut written = self.part(length, 3, 4).map(|sample| sample.entries);
        if written.next() == written.last() {
            wrong.push(format!("{node}: nothing was written in the last quarter, so nothing is proved"));
        }
        wrong
    }

    fn judge_one(&self, length: Duration, limit: &Limit) -> Vec<String> {
        let (node, quantity) = (&self.node, &limit.quantity);
        let name = quantity.name;
        let (before, after) = (self.median(length, 1, quantity), self.median(length, 3, quantity));
        let allowed = limit.slack.max(before * limit.percent / 100);
        let mut wrong = Vec::new();
        if after > before.saturating_add(allowed) {
            let [before, after, allowed] = [before, after, allowed].map(|value| quantity.show(value));
            wrong.push(format!(
                "{node}: {name} grew from {before} to {after} (medians of the second and the last quarter); {allowed} more \
                 are allowed"
            ));
        }
        let greatest = self.greatest(quantity);
        if greatest > limit.most {
            let [greatest, most] = [greatest, limit.most].map(|value| quantity.show(value));
            wrong.push(format!("{node}: {name} has been {greatest}; {most} is the bound"));
        }
        wrong
    }
}

impl Quantity {
    /// A value of it, for people.
    pub(crate) fn show(&self, value: u64) -> String {
        if !self.bytes {
            return value.to_string();
        }
        // Whole numbers keep it exact: one digit behind the point is enough.
        let (unit, name) = if value < MIB { (KIB, "KiB") } else { (MIB, "MiB") };
        let tenths = value * 10 / unit;
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests;
