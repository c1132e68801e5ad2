//! The founding of a cluster, and its settings.

use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv6Net};

use crate::model::command::{AdmitNode, ConfigureCluster, Outcome};
use crate::model::id::ClusterId;
use crate::model::object::{Cluster, Family, Pool};
use crate::model::rejection::{Reason, Rejection};
use crate::model::subnet::overlap;

use super::{Change, Changing};

/// How many pools a cluster may have.
const MAX_POOLS: usize = 16;
/// Longest prefix that a pool may be cut into: there must be room for containers.
const MAX_POOL_PREFIX: u8 = 30;
/// Shortest prefix that a pool may be cut into.
const MIN_POOL_PREFIX: u8 = 8;
/// How long a voter may not answer before another one takes its place: 5 s to 30 days.
const REPLACE_AFTER_MS: RangeInclusive<u64> = 5_000..=2_592_000_000;

impl Changing<'_> {
    pub(super) fn found_cluster(
        &mut self,
        wanted: &Cluster,
        node: &AdmitNode,
        sealed_key: &[u8],
    ) -> Result<Outcome, Rejection> {
        if let Some(cluster) = &self.state.cluster {
            return Err(Rejection::new(
                Reason::AlreadyFounded,
                format!("there is a cluster already: {}", cluster.id),
                "see `pontoon status`; `pontoon leave` takes this node out of it",
            ));
        }
        check_settings(wanted)?;
        let cluster = Cluster {
            created_ms: self.state.clock_ms,
            feature_level: node.feature_level,
            underlay: Family::of(node.data_addr),
            ..wanted.clone()
        };
        let node = self.checked_node(node, &cluster, None)?;
        self.put_cluster(cluster);
        if !sealed_key.is_empty() {
            self.state.sealed_key = sealed_key.to_vec();
            self.changes.insert(Change::SealedKey);
        }
        self.put_node(node.clone());
        Ok(Outcome::Node(node))
    }
}

impl Changing<'_> {
    pub(super) fn configure_cluster(&mut self, wanted: ConfigureCluster) -> Result<Outcome, Rejection> {
        let Some(mut cluster) = self.state.cluster.clone() else {
            return Err(Rejection::new(Reason::NotFounded, "there is no cluster yet", "use `pontoon init`"));
        };
        if let Some(voters) = wanted.voters {
            let known = u8::try_from(voters).ok().filter(|voters| [0, 1, 3, 5].contains(voters));
            let refused = || {
                let hint = "use auto, 1, 3 or 5: an even number stands no more losses than one less";
                Rejection::new(Reason::InvalidCluster, format!("a cluster cannot have {voters} voters"), hint)
            };
            cluster.voters = Some(known.ok_or_else(refused)?).filter(|voters| *voters != 0);
        }
        if let Some(millis) = wanted.replace_after_ms {
            if millis != 0 && !REPLACE_AFTER_MS.contains(&millis) {
                let message = format!("a voter cannot be replaced after {millis} ms without an answer");
                let hint = "use 5s to 720h: one that restarts must not be replaced";
                return Err(Rejection::new(Reason::InvalidCluster, message, hint));
            }
            cluster.replace_after_ms = Some(millis).filter(|millis| *millis != 0);
        }
        cluster.locked &= !wanted.lock_off;
        if self.state.cluster.as_ref() != Some(&cluster) {
            self.put_cluster(cluster.clone());
        }
        Ok(Outcome::Cluster(cluster))
    }
}

fn check_settings(cluster: &Cluster) -> Result<(), Rejection> {
    let refuse = |message: String, hint: &str| Err(Rejection::new(Reason::InvalidCluster, message, hint));
    if cluster.id == ClusterId(0) {
        return refuse("a cluster's id cannot be 0".to_owned(), "use a random one");
    }
    if cluster.vxlan_port == 0 {
        return refuse("VXLAN cannot use UDP port 0".to_owned(), "use 4789 or another free port");
    }
    if cluster.pools.is_empty() || cluster.pools.len() > MAX_POOLS {
        let message = format!("a cluster cannot have {} pools", cluster.pools.len());
        return refuse(message, "use 1 to 16, such as 10.0.0.0/8 in /24s");
    }
    for (at, pool) in cluster.pools.iter().enumerate() {
        check_pool(pool)?;
        let meets = |other: &&Pool| overlap(IpNet::V4(other.cidr), IpNet::V4(pool.cidr));
        if let Some(other) = cluster.pools.iter().take(at).find(meets) {
            return refuse(format!("pool {} overlaps pool {}", pool.cidr, other.cidr), "leave one of them out");
        }
    }
    check_pool6(cluster.pool6)
}

fn check_pool(pool: &Pool) -> Result<(), Rejection> {
    let Pool { cidr, prefix } = *pool;
    let refuse = |message: String, hint: String| Err(Rejection::new(Reason::InvalidCluster, message, hint));
    if cidr.trunc() != cidr {
        return refuse(format!("pool {cidr} has host bits set"), format!("use {}", cidr.trunc()));
    }
    let special = cidr.network().is_loopback()
        || cidr.network().is_link_local()
        || cidr.network().octets()[0] == 0
        || cidr.network().octets()[0] >= 224;
    if special || cidr.prefix_len() < MIN_POOL_PREFIX {
        let hint = "use a private range, such as 10.0.0.0/8".to_owned();
        return refuse(format!("pool {cidr} has addresses that containers cannot have"), hint);
    }
    if prefix < cidr.prefix_len() || prefix > MAX_POOL_PREFIX {
        let hint = format!("use a prefix length of {} to {MAX_POOL_PREFIX}", cidr.prefix_len().min(MAX_POOL_PREFIX));
        return refuse(format!("pool {cidr} cannot be cut into /{prefix}s"), hint);
    }
    Ok(())
}

fn check_pool6(pool: Ipv6Net) -> Result<(), Rejection> {
    let local = pool.network().octets()[0] == 0xfd;
    if local && pool.prefix_len() == 48 && pool.trunc() == pool {
        return Ok(());
    }
    let message = format!("IPv6 pool {pool} is not a /48 of fd00::/8 (RFC 4193)");
    Err(Rejection::new(Reason::InvalidCluster, message, "use one with 40 random bits, such as fd12:3456:789a::/48"))
}
