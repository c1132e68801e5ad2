//! The lowest free of things.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::id::Vni;
use super::object::Family;
use super::subnet::{address, span};

/// The lowest prefix of this length in `pool` that meets none of the obstacles.
pub(super) fn free_subnet(pool: IpNet, prefix: u8, obstacles: &[IpNet]) -> Option<IpNet> {
    let family = Family::of(pool.addr());
    let bits = pool.max_prefix_len().checked_sub(prefix)?;
    let size = 1u128.checked_shl(bits.into())?;
    let (mut candidate, end) = span(pool);
    let same_family = obstacles.iter().filter(|o| Family::of(o.addr()) == family);
    let mut spans: Vec<(u128, u128)> = same_family.map(|o| span(*o)).collect();
    spans.sort_unstable();
    for (first, last) in spans {
        if last < candidate {
            continue;
        }
        if first >= candidate.checked_add(size)? {
            break;
        }
        candidate = last.checked_add(1)?.checked_next_multiple_of(size)?;
    }
    let fits = candidate.checked_add(size - 1).is_some_and(|last| last <= end);
    fits.then(|| IpNet::new(address(family, candidate), prefix).ok()).flatten()
}

/// The lowest VNI from [`Vni::FIRST_FREE`] that is not used.
pub(super) fn free_vni(used: &BTreeSet<Vni>) -> Option<Vni> {
    (Vni::FIRST_FREE..=Vni::MAX).filter_map(Vni::new).find(|vni| !used.contains(vni))
}

/// The first of ethN, ethN+1, … that is not used.
pub(super) fn free_ethernet_name(from: u32, used: &[&str]) -> String {
    let mut number = from;
    loop {
        let name = format!("eth{number}");
        if !used.contains(&name.as_str()) {
            return name;
        }
        number = number.wrapping_add(1);
    }
}

/// The number after "eth" in an interface's name.
pub(super) fn ethernet_number(name: &str) -> Option<u32> {
    name.strip_prefix("eth").filter(|digits| digits.len() <= 6)?.parse().ok()
}
