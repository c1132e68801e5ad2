//! How often what was asked and answered.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// What has become of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Answered with addresses.
    Address,
    /// Answered with a name.
    Name,
    /// Answered: the name is there, and has nothing of this type.
    NoData,
    /// Answered by Docker's resolver, or whoever that has asked.
    PassedOn,
    /// Refused: nothing that a resolver answers.
    Refused,
    /// Refused: it cannot be read.
    Malformed,
    /// Not answered: the container has more questions under way than it may.
    Busy,
    /// Not answered: Docker's resolver has not answered in time, or is away.
    Failed,
}

impl Kind {
    /// All, in their order.
    const ALL: [Self; 8] = [
        Self::Address,
        Self::Name,
        Self::NoData,
        Self::PassedOn,
        Self::Refused,
        Self::Malformed,
        Self::Busy,
        Self::Failed,
    ];

    /// As metrics call it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Name => "name",
            Self::NoData => "nodata",
            Self::PassedOn => "passed-on",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Busy => "busy",
            Self::Failed => "failed",
        }
    }
}

type Labels = [(&'static str, &'static str); 1];

/// Counted since the daemon was started. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    /// Questions, by how they came.
    pub(crate) queries: Family<Labels, Counter>,
    /// Answers, by kind.
    pub(crate) answers: Family<Labels, Counter>,
    /// How long an answer took, in seconds, by who has given it.
    pub(crate) seconds: Family<Labels, Histogram, fn() -> Histogram>,
    // The same counters, at hand without a lock.
    udp: Counter,
    tcp: Counter,
    kinds: [Counter; Kind::ALL.len()],
    by_pontoon: Histogram,
    by_docker: Histogram,
}

/// 8 us to 8 s.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(8e-6, 4.0, 11))
}

impl Default for Counts {
    fn default() -> Self {
        let (queries, answers) = (Family::<Labels, Counter>::default(), Family::<Labels, Counter>::default());
        let by = |transport| queries.get_or_create(&[("transport", transport)]).clone();
        let (udp, tcp) = (by("udp"), by("tcp"));
        let kinds = Kind::ALL.map(|kind| answers.get_or_create(&[("kind", kind.as_str())]).clone());
        let seconds = Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(buckets);
        let of = |who| seconds.get_or_create(&[("by", who)]).clone();
        let (by_pontoon, by_docker) = (of("pontoon"), of("docker"));
        Self { queries, answers, seconds, udp, tcp, kinds, by_pontoon, by_docker }
    }
}

impl Counts {
    pub(super) fn asked_by_udp(&self) {
        self.udp.inc();
    }

    pub(super) fn asked_by_tcp(&self) {
        self.tcp.inc();
    }

    pub(super) fn answered(&self, kind: Kind, took: Duration) {
        self.kinds[kind as usize].inc();
        match kind {
            Kind::PassedOn => self.by_docker.observe(took.as_secs_f64()),
            Kind::Busy | Kind::Failed => {}
            _ => self.by_pontoon.observe(took.as_secs_f64()),
        }
    }
}
