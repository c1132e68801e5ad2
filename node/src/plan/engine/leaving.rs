//! What becomes of an engine's networks when its node leaves the cluster.

use super::{EnginePlan, Seen, Step, names_on};

/// Removes the networks of our driver, for which nobody answers any more, and tells of those that containers are on. They
/// stay, also when the containers do not run: whose they are decides what becomes of them.
pub fn leaving(seen: &Seen) -> EnginePlan {
    let mut plan = EnginePlan::default();
    for net in seen.networks.iter().filter(|net| net.ours) {
        let containers = names_on(seen, net);
        if containers.is_empty() {
            plan.steps.push(Step::remove(net));
            continue;
        }
        let each =
            containers.iter().map(|container| format!("docker network disconnect --force {} {container}", net.name));
        plan.problems.push(format!(
            "network {} stays in Docker, because {} on it: remove what is on it, or put it on another network ({}), and \
             then docker network rm {0}",
            net.name,
            are(&containers),
            each.collect::<Vec<_>>().join("; ")
        ));
    }
    plan
}

/// Which networks of the engine `known` are left there when it cannot be asked; none when none are known.
pub fn left_behind(known: &[String]) -> String {
    let (which, what) = if known.is_empty() {
        ("networks of the driver pontoon".to_owned(), "NAME (docker network ls --filter driver=pontoon)".to_owned())
    } else {
        (format!("networks of the cluster ({})", known.join(", ")), known.join(" "))
    };
    format!("so the {which} may still be there: once it runs, remove them with docker network rm {what}")
}

fn are(names: &[String]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.join(", "))
}
