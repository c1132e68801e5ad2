//! `pontoon backup`, `restore` and `recover`.

use std::path::Path;

use jiff::Timestamp;
use pontoon_proto::v1::{Freshness, RecoverResponse, RestoreResponse};

use super::token::invite;
use super::{list, since};

/// What was written.
pub(crate) fn written(path: &Path, bytes: usize, freshness: &Freshness) -> String {
    format!("{}: {bytes} bytes, as of index {}\n", path.display(), freshness.applied_index)
}

/// The new cluster, and what it has of the old one.
pub(crate) fn restored(answer: &RestoreResponse, uses: u32, now: Timestamp) -> String {
    let node = answer.node.clone().unwrap_or_default();
    format!(
        "Cluster {} is made of a backup of cluster {}, as of index {}, written {}: {} networks, with node {} (id {}).\n\
         The {} nodes that there were join anew.\n\n{}\n\nThis is good for 24 hours. pontoon token create makes more.\n",
        answer.cluster_id,
        answer.old_cluster_id,
        answer.index,
        since(answer.time_ms, now),
        answer.networks,
        node.name,
        node.id,
        answer.nodes,
        invite(&answer.join_token, uses)
    )
}

/// What was done, or would be.
pub(crate) fn recovered(answer: &RecoverResponse, now: Timestamp) -> String {
    let has = format!(
        "This node has everything up to index {}, written {} ({} entries of it unconfirmed): {} networks, and {} of its own \
         containers on them.\nNodes that are removed, with their containers: {}\n",
        answer.index,
        since(answer.time_ms, now),
        answer.unconfirmed,
        answer.networks,
        answer.endpoints,
        list(&answer.removed)
    );
    if !answer.done {
        return format!("{has}\nNothing was done. To go on with this in a new cluster: pontoon recover --force\n");
    }
    format!("{has}\nIt goes on in cluster {}.\n\n{}\n", answer.cluster_id, invite(&answer.join_token, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_772_366_400_000;

    fn now() -> Timestamp {
        Timestamp::from_millisecond(NOW_MS.cast_signed()).unwrap()
    }

    #[test]
    fn a_recovery_says_first_what_would_come_of_it() {
        let told = RecoverResponse {
            index: 118,
            time_ms: NOW_MS - 60_000,
            unconfirmed: 1,
            networks: 2,
            endpoints: 3,
            removed: vec!["h1".into(), "h2".into()],
            ..RecoverResponse::default()
        };
        let text = recovered(&told, now());
        for part in ["index 118", "1 minute ago", "2 networks", "3 of its own", "h1, h2", "Nothing was done", "--force"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let done = RecoverResponse { done: true, cluster_id: "00ff".into(), join_token: "PTN1-ABC".into(), ..told };
        let text = recovered(&done, now());
        for part in ["cluster 00ff", "pontoon join PTN1-ABC", "h1, h2"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("Nothing was done"), "{text}");
    }
}
