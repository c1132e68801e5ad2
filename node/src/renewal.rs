//! Certificates renew themselves: at a moment between half and four fifths of their time, so that not all nodes do it at
//! once. A node that was off for longer comes back with the key that the cluster knows it by.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_store::model::command::Command;
use pontoon_store::model::id::{ClusterId, NodeId};
use pontoon_store::{Certificate, Certified};
use tokio::time::sleep;
use tonic::Code;
use tracing::{info, warn};

use crate::api::error::ApiError;
use crate::clock;
use crate::daemon::Daemon;
use crate::host;
use crate::lock;
use crate::member::Member;

/// How often it is looked: a clock may be set, a host suspended, and one that nobody believes is told of no change.
const LOOK: Duration = Duration::from_secs(5);
/// How often a node gets another certificate because the others do not believe the one that it has.
const DOUBT: Duration = Duration::from_secs(60);
/// How long it waits after a failure.
const AGAIN: Duration = Duration::from_secs(2);

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A new certificate.
    Renew,
    /// Believe what the cluster believes now.
    Trust(Certificate),
    /// Tell the cluster.
    Tell(Box<Command>),
}

/// Renews the certificate of a node of a cluster for as long as this daemon is that node, and believes the authorities that the
/// cluster has.
pub(crate) fn follow(daemon: &Arc<Daemon>, cluster: ClusterId, node: NodeId) {
    let renewing = Arc::clone(daemon);
    let task = tokio::spawn(async move {
        let daemon = renewing;
        let task = daemon.tasks.task("certificate");
        // Where in the time of each certificate: the same until this daemon ends.
        let place = rand::random_range(0.5..0.8);
        // That others do not believe it is a reason once in a while: there may be no certificate that they do believe.
        let mut doubted = None::<Instant>;
        // Whether the key of the authority's key is on the disk as the cluster wants it.
        let mut kept = None;
        loop {
            let same = |member: &Arc<Member>| member.cluster() == cluster && member.node() == node;
            let Some(member) = daemon.try_member().filter(same) else { return };
            let mut applied = member.store().applied();
            applied.borrow_and_update();
            let locked = lock::is_locked(&member);
            if let Some(wanted) = locked.filter(|_| kept != locked) {
                match lock::keep(&daemon, &member, wanted).await {
                    Ok(()) => kept = locked,
                    Err(error) => warn!(%error, "the cluster's key is not on the disk as it should be: trying again"),
                }
            }
            let may_doubt = doubted.is_none_or(|since| since.elapsed() >= DOUBT);
            let next = |member: &Member| next(member, place, may_doubt);
            let wait = match next(&member) {
                None => LOOK,
                Some(step) => {
                    if member.store().is_disbelieved() {
                        doubted = Some(Instant::now());
                    }
                    task.begin();
                    let done = carry_out(&daemon, &member, step).await;
                    let wait = if done.is_ok() { Duration::ZERO } else { AGAIN };
                    task.end(done);
                    wait
                }
            };
            // Most changes ask for nothing here.
            let asked = async {
                while applied.changed().await.is_ok() {
                    if wait == LOOK && (next(&member).is_some() || lock::is_locked(&member) != locked) {
                        return;
                    }
                }
                std::future::pending().await
            };
            tokio::select! {
                () = daemon.stop.cancelled() => return,
                () = sleep(wait) => {}
                () = asked => {}
            }
        }
    });
    daemon.set_renewal(task.abort_handle());
}

fn next(member: &Member, place: f64, may_doubt: bool) -> Option<Step> {
    let key = member.store().key();
    let (own, certificate) = (key.certified()?, key.certificate()?);
    let disbelieved = may_doubt && member.store().is_disbelieved();
    let due = host::now_ms() >= due_ms(&own, place);
    let state = member.store().state();
    let cluster = state.cluster.as_ref().filter(|cluster| !cluster.authorities.is_empty());
    let Some(cluster) = cluster else { return (due || disbelieved).then_some(Step::Renew) };
    if due || disbelieved || certificate.authority < cluster.authority {
        return Some(Step::Renew);
    }
    if certificate.authority > cluster.authority {
        // The others have exchanged it, and the log of that has not come here yet.
        return None;
    }
    if certificate.authorities != cluster.authorities || certificate.crossed != cluster.crossed {
        let (authorities, crossed) = (cluster.authorities.clone(), cluster.crossed.clone());
        return Some(Step::Trust(Certificate { authorities, crossed, ..certificate }));
    }
    let (node, authority, until_ms) = (member.node(), cluster.authority, own.until_ms);
    let known = state.nodes.get(&node)?;
    if (known.authority, known.certificate_until_ms) != (authority, until_ms) {
        return Some(Step::Tell(Box::new(Command::ReportCertificate { node, authority, until_ms })));
    }
    let over = cluster.authorities.len() > 1 && state.without_new_certificate().next().is_none();
    drop(state);
    // This is looked at after every change: who leads, only when there is something to do.
    (over && member.store().status().is_leader).then(|| Step::Tell(Box::new(Command::DropAuthorities)))
}

/// When a certificate is to be renewed, in milliseconds since the Unix epoch.
fn due_ms(own: &Certified, place: f64) -> u64 {
    let time = own.until_ms.saturating_sub(own.from_ms);
    own.from_ms + (time as f64 * place) as u64
}

async fn carry_out(daemon: &Daemon, member: &Member, step: Step) -> Result<(), ApiError> {
    let certificate = match step {
        Step::Tell(command) => return member.propose(*command).await.map(drop),
        Step::Trust(certificate) => certificate,
        Step::Renew => member.store().certificate_of(member.node()).await.map_err(|status| {
            let hint = "pontoon status on a member says how the cluster is; it is tried again";
            ApiError::new(Code::Unavailable, "CERTIFICATE", status.message(), hint)
        })?,
    };
    let mut data = daemon.data.lock().await;
    // It may have left meanwhile.
    if data.membership().is_some_and(|known| known.cluster == member.cluster() && known.node == member.node()) {
        data.renew(certificate)?;
        let until = member.store().key().certified().map_or(0, |own| own.until_ms);
        info!(until = clock::text(until), "what this node shows and believes is renewed");
    }
    Ok(())
}

/// What somebody should know of a node's certificate; none as long as it is renewed in time.
pub(crate) fn warning(own: Option<&Certified>, now_ms: u64) -> Option<String> {
    let own = own?;
    let left_ms = own.until_ms.saturating_sub(now_ms);
    let now = clock::text(now_ms);
    if now_ms < own.from_ms {
        let from = clock::text(own.from_ms);
        return Some(format!("this node's certificate begins at {from}, and the clock here says {now}: set it right"));
    }
    if left_ms == 0 {
        let until = clock::text(own.until_ms);
        return Some(format!(
            "this node's certificate ended at {until}, and the clock here says {now}: the other nodes do not deal with this one \
             until it is renewed, which the task certificate tries"
        ));
    }
    let tenth = own.until_ms.saturating_sub(own.from_ms) / 10;
    (left_ms < tenth).then(|| {
        let until = clock::text(own.until_ms);
        format!("this node's certificate ends at {until} and could not be renewed: the task certificate says why")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Certified {
        Certified { cluster: ClusterId(1), node: NodeId(2), key: [3; 32], from_ms: 1_000_000, until_ms: 2_000_000 }
    }

    #[test]
    fn it_is_due_between_half_and_four_fifths_of_its_time() {
        assert_eq!([0.5, 0.8].map(|place| due_ms(&own(), place)), [1_500_000, 1_800_000]);
    }

    #[test]
    fn it_is_warned_of_what_was_not_renewed_with_the_clock() {
        let warned = |now_ms| warning(Some(&own()), now_ms);
        assert_eq!(warning(None, 0), None);
        assert_eq!([1_000_000, 1_850_000].map(warned), [None, None]);
        for (now_ms, text) in [(999_999, "begins at"), (1_950_000, "could not be renewed"), (2_000_001, "ended at")] {
            let warning = warned(now_ms).unwrap();
            assert!(warning.contains(text), "{warning}");
            assert!(now_ms == 1_950_000 || warning.contains(&clock::text(now_ms)), "{warning}");
        }
    }
}
