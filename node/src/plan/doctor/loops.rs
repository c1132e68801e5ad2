//! The loop that keeps this host's kernel as the cluster wants it.

use super::{Check, Finding, count};

/// Steps that failed are told one by one up to this many.
const MAX_FAILURES: usize = 10;

/// Whether the latest pass did all that it had to. `done`: the first pass is over; `steps`: how many it planned; `failures`:
/// those that failed, or why there was no pass.
pub fn reconcile(done: bool, steps: u64, failures: &[String]) -> Vec<Finding> {
    let cure = "do what it says, if it says what to do: the loop tries again by itself (pontoon status shows it, and the log \
                of pontoond what was before)";
    let shown = failures.iter().take(MAX_FAILURES).cloned();
    let more = failures.len().checked_sub(MAX_FAILURES).filter(|more| *more > 0);
    let more = more.map(|more| format!("and {more} more"));
    let found: Vec<Finding> = shown
        .chain(more)
        .map(|failure| Finding::failure(Check::Reconcile, format!("the latest pass failed: {failure}"), cure))
        .collect();
    if !found.is_empty() {
        return found;
    }
    if !done {
        let evidence =
            "the first pass after the start of pontoond is not over: this host may not be as the cluster wants it";
        return vec![Finding::warning(Check::Reconcile, evidence, "wait a moment; then look at pontoon status")];
    }
    let steps = count(usize::try_from(steps).unwrap_or(usize::MAX), "step");
    vec![Finding::ok(Check::Reconcile, format!("the latest pass had {steps} to take, and none failed"))]
}
