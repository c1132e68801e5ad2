//! What a certificate says, and whether it is to be believed.

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, UnixTime};
use std::time::Duration;
use thiserror::Error;
use webpki::ring::ED25519;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{PublicKey, public_key_of_info};
use crate::model::id::{ClusterId, NodeId};

/// What the name of a node in its certificate begins with; then come the cluster's id, `/node/` and the node's id.
pub(super) const SCHEME: &str = "pontoon://";

/// What a certificate says of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Its key.
    pub key: PublicKey,
    /// From when on it is good, in milliseconds since the Unix epoch.
    pub from_ms: u64,
    /// Until when.
    pub until_ms: u64,
}

/// Why a certificate is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Bytes that are no certificate, or one without an Ed25519 key.
    #[error("it cannot be understood")]
    Malformed,
    /// It is no node's: daemons that are in no cluster issue such themselves.
    #[error("it is that of a daemon that is in no cluster")]
    NoNode,
    /// Another authority has issued it.
    #[error("no authority of this cluster has issued it")]
    OtherAuthority,
    /// The clock here is before it begins.
    #[error("it begins at {from}")]
    NotYet {
        /// When it begins.
        from: Timestamp,
    },
    /// The clock here is after its end.
    #[error("it ended at {until}")]
    Ended {
        /// When it ended.
        until: Timestamp,
    },
}

impl Certified {
    /// Reads a certificate, whoever has issued it.
    ///
    /// # Errors
    ///
    /// It is none, or no node's.
    pub fn read(certificate: &[u8]) -> Result<Self, CertificateError> {
        let parsed = parse(certificate)?;
        let names = parsed.subject_alternative_name().ok().flatten().ok_or(CertificateError::NoNode)?;
        let ids = names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => ids(uri),
            _ => None,
        });
        let (cluster, node) = ids.ok_or(CertificateError::NoNode)?;
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000);
        let (from, until) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        Ok(Self { cluster, node, key: key_of(&parsed)?, from_ms: ms(from), until_ms: ms(until) })
    }

    /// Reads a certificate, the first of these, that one of these authorities must have issued, or one that it has certified,
    /// of which there is a certificate among the others.
    ///
    /// # Errors
    ///
    /// None of them has, it does not begin or has ended, or it is no node's.
    pub fn verify(shown: &[Vec<u8>], authorities: &[Vec<u8>], now_ms: u64) -> Result<Self, CertificateError> {
        let (certificate, issuers) = shown.split_first().ok_or(CertificateError::Malformed)?;
        let certified = Self::read(certificate)?;
        // Whether the clocks are right, is said only of what they are right about.
        let seconds = now_ms.max(certified.from_ms).min(certified.until_ms) / 1_000;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let der = CertificateDer::from(certificate.as_slice());
        // As many as a node shows: whoever shows more makes more work.
        let between: Vec<_> = issuers.iter().take(2).map(|issuer| CertificateDer::from(issuer.as_slice())).collect();
        let end = EndEntityCert::try_from(&der).map_err(|_| CertificateError::Malformed)?;
        let issued = authorities.iter().any(|authority| {
            let authority = CertificateDer::from(authority.as_slice());
            let Ok(anchor) = anchor_from_trusted_cert(&authority) else { return false };
            end.verify_for_usage(&[ED25519], &[anchor], &between, time, KeyUsage::client_auth(), None, None).is_ok()
        });
        if !issued {
            return Err(CertificateError::OtherAuthority);
        }
        certified.check_time(now_ms)?;
        Ok(certified)
    }

    /// Whether it is good at a time.
    ///
    /// # Errors
    ///
    /// It does not begin before, or has ended.
    pub fn check_time(&self, now_ms: u64) -> Result<(), CertificateError> {
        if now_ms < self.from_ms {
            return Err(CertificateError::NotYet { from: timestamp(self.from_ms) });
        }
        if now_ms > self.until_ms {
            return Err(CertificateError::Ended { until: timestamp(self.until_ms) });
        }
        Ok(())
    }
}

/// A time, in milliseconds since the Unix epoch, as messages show it: in whole seconds.
pub fn timestamp(ms: u64) -> Timestamp {
    let ms = i64::try_from(ms - ms % 1_000).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}

/// The Ed25519 key that a certificate is about.
pub(super) fn public_key(certificate: &[u8]) -> Result<PublicKey, CertificateError> {
    key_of(&parse(certificate)?)
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    X509Certificate::from_der(certificate).map(|(_, parsed)| parsed).map_err(|_| CertificateError::Malformed)
}

fn key_of(parsed: &X509Certificate<'_>) -> Result<PublicKey, CertificateError> {
    public_key_of_info(parsed.public_key().raw).ok_or(CertificateError::Malformed)
}

/// The ids that a node's name in its certificate tells.
fn ids(uri: &str) -> Option<(ClusterId, NodeId)> {
    let (cluster, node) = uri.strip_prefix(SCHEME)?.split_once("/node/")?;
    Some((cluster.parse().ok()?, NodeId(node.parse().ok()?)))
}
