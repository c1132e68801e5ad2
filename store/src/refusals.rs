//! Who was refused at the port, and why, in the log: each address at once, and then no more often than is useful.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;

use crate::rt::{Instant, now};

/// How long nothing more is said of an address.
const QUIET: Duration = Duration::from_secs(10);
/// How many addresses are told apart. The rest count together.
const MOST: usize = 256;

/// Who was refused lately. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusals(Arc<Mutex<BTreeMap<Option<Whom>, Lately>>>);

/// Somebody, and what he was refused for.
type Whom = (IpAddr, What);

/// What somebody is refused for. Each is said by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// The handshake.
    Handshake,
    /// His certificate.
    Certificate,
    /// Who he says he is.
    Caller,
    /// His token, or what he wants to be.
    Admission,
}

#[derive(Debug)]
struct Lately {
    said: Instant,
    unsaid: u64,
}

impl Refusals {
    /// Says who was refused and why, unless it was said of the same address a moment ago.
    pub(crate) fn note(&self, address: IpAddr, what: What, why: &dyn Display) {
        if let Some(unsaid) = self.count((address, what), now()) {
            let before =
                if unsaid == 0 { String::new() } else { format!(", and {unsaid} times since the last such line") };
            warn!(address = %address.to_canonical(), "a caller is refused: {why}{before}");
        }
    }

    /// Counts one. If something is to be said: how many there were that nothing was said of.
    fn count(&self, whom: Whom, now: Instant) -> Option<u64> {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lately.contains_key(&Some(whom));
        if !known && lately.len() >= MOST {
            lately.retain(|_, lately| now - lately.said < QUIET);
        }
        let place = if known || lately.len() < MOST { Some(whom) } else { None };
        match lately.get_mut(&place) {
            Some(lately) if now - lately.said < QUIET => {
                lately.unsaid += 1;
                None
            }
            Some(lately) => {
                lately.said = now;
                Some(std::mem::take(&mut lately.unsaid))
            }
            None => {
                lately.insert(place, Lately { said: now, unsaid: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_address_is_named_and_none_fills_the_log() {
        let (refusals, start) = (Refusals::default(), now());
        let address = |number: u32| (IpAddr::V4(Ipv4Addr::from(number)), What::Caller);
        assert_eq!(refusals.count(address(1), start), Some(0));
        assert_eq!([(); 1_000].map(|()| refusals.count(address(1), start)), [None; 1_000]);
        assert_eq!(refusals.count(address(2), start), Some(0));
        assert_eq!(refusals.count((address(1).0, What::Certificate), start), Some(0), "for something else");
        assert_eq!(refusals.count(address(1), start + QUIET), Some(1_000));
        assert_eq!(refusals.count(address(1), start + QUIET), None);
    }

    #[test]
    fn many_addresses_take_no_more_memory() {
        let (refusals, start) = (Refusals::default(), now());
        let said = (0..100_000)
            .filter(|&number| refusals.count((IpAddr::V4(Ipv4Addr::from(number)), What::Caller), start).is_some());
        assert_eq!(said.count(), MOST + 1);
        assert!(refusals.0.lock().unwrap().len() <= MOST + 1);
        assert!(
            refusals.count((IpAddr::V4(Ipv4Addr::from(7_000_000)), What::Caller), start + QUIET).is_some(),
            "there is room again"
        );
    }
}
