//! Which steps repair what somebody else changed.

use std::collections::BTreeMap;

use super::diff::Step;
use super::object::{Key, Kind, Object};
use super::observed::Observed;

/// The steps that are repairs: `established` is what an earlier pass had brought about or found
/// in place. Such a step gives back what was established and is no longer observed, or
/// takes away what an earlier pass would have taken away had it been there.
pub fn drift<'a>(established: &BTreeMap<Key, Object>, observed: &Observed, steps: &'a [Step]) -> Vec<(Kind, &'a Step)> {
    let repairs = |step: &&Step| {
        let key = step.object().key();
        let before = established.get(&key);
        match step.target() {
            Some(target) => before == Some(target) && observed.objects.get(&key) != before,
            // Removed by plan to be made again: the creation tells.
            None => before.is_none(),
        }
    };
    steps.iter().filter(repairs).map(|step| (step.object().kind(), step)).collect()
}
