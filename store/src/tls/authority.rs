//! Who issues the certificates of a cluster's nodes.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::PrivatePkcs8KeyDer;
use sha2::{Digest, Sha256};
use thiserror::Error;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::PublicKey;
use crate::model::id::{ClusterId, NodeId};

/// How long a node's certificate is good.
pub(super) const LIFE_MS: u64 = 90 * 24 * 3_600_000;
/// How long before it was issued a certificate begins, in milliseconds: clocks differ, and a host whose clock is behind must
/// be able to join (docker/for-linux#400). A day is more than a wrong time zone.
pub(super) const BACKDATE_MS: u64 = 24 * 3_600_000;

/// Bytes of a cluster's key.
const KEY: usize = 32;

/// The key that the authority's is encrypted with (ChaCha20-Poly1305, RFC 8439). It is wiped from memory once it is not
/// needed, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey(Zeroizing<[u8; KEY]>);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey")
    }
}

impl ClusterKey {
    /// A key of these random bytes.
    pub fn new(bytes: [u8; KEY]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A new key.
    ///
    /// # Errors
    ///
    /// The system gave no random numbers.
    pub fn random() -> Result<Self, AuthorityError> {
        let mut key = Self::new([0; KEY]);
        SystemRandom::new().fill(&mut *key.0).map_err(|_| AuthorityError::NoRandom)?;
        Ok(key)
    }

    /// Its bytes, for the disk and for members.
    pub fn bytes(&self) -> &[u8; KEY] {
        &self.0
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*self.0);
        LessSafeKey::new(key.expect("a key of this cipher has 32 bytes"))
    }
}

/// Where a cluster's key is kept while a daemon runs. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct HeldKey(Arc<RwLock<Option<ClusterKey>>>);

impl From<Option<ClusterKey>> for HeldKey {
    fn from(key: Option<ClusterKey>) -> Self {
        Self(Arc::new(RwLock::new(key)))
    }
}

impl HeldKey {
    /// The key, if it is known here.
    pub fn get(&self) -> Option<ClusterKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has another key there, or none.
    pub fn set(&self, key: Option<ClusterKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

/// The name of every node of a cluster in its certificate, for programs that look for one (.internal is nobody's).
pub fn server_name(cluster: ClusterId) -> String {
    format!("{cluster}.pontoon.internal")
}

/// Something is wrong with an authority or its key.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// No random numbers.
    #[error("the system gave no random numbers")]
    NoRandom,
    /// Not encrypted with this key.
    #[error("the key of the cluster's authority cannot be decrypted: it was encrypted with another key")]
    OtherKey,
    /// No certificate could be made.
    #[error("no certificate can be made")]
    Certificate(#[from] rcgen::Error),
}

/// The authority of a cluster. It is never shown.
pub struct Authority {
    cluster: ClusterId,
    certificate: Vec<u8>,
    key: KeyPair,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    ///
    /// The system gave no random numbers.
    pub fn found(cluster: ClusterId) -> Result<Self, AuthorityError> {
        Self::with_key(cluster, KeyPair::generate_for(&PKCS_ED25519)?)
    }

    /// An authority with a key that was made already (Ed25519, PKCS #8).
    ///
    /// # Errors
    ///
    /// Another kind of key.
    pub fn of_pkcs8(cluster: ClusterId, document: &[u8]) -> Result<Self, AuthorityError> {
        Self::with_key(cluster, key_pair(document)?)
    }

    fn with_key(cluster: ClusterId, key: KeyPair) -> Result<Self, AuthorityError> {
        let certificate = of_authority(cluster, key.public_key_raw(), 0).self_signed(&key)?.der().to_vec();
        Ok(Self { cluster, certificate, key })
    }

    /// The certificate (DER) of the authority that comes after this one, by this one: who believes this one only can believe
    /// that one's, too.
    ///
    /// # Errors
    ///
    /// None that a key can cause.
    pub fn cross(&self, next: &Self) -> Result<Vec<u8>, AuthorityError> {
        let key = next.key.public_key_raw();
        let subject: &PublicKey = key.try_into().map_err(|_| AuthorityError::OtherKey)?;
        Ok(of_authority(self.cluster, key, 1).signed_by(&Subject(subject), &self.issuer())?.der().to_vec())
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(self.cluster);
        Issuer::new(params, &self.key)
    }

    /// Its certificate (DER). It does not end: a new authority takes its place when somebody wants one.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Issues a certificate (DER) for a node's key, good from a day before now on for 90 days.
    ///
    /// # Errors
    ///
    /// None that a time and a key can cause.
    pub fn issue(&self, node: NodeId, key: &PublicKey, now_ms: u64) -> Result<Vec<u8>, AuthorityError> {
        let mut params = self.leaf("node", &node.to_string(), key, now_ms)?;
        params.not_after = at(now_ms + LIFE_MS);
        // Admins' programs compare names only.
        params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(server_name(self.cluster))?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params.signed_by(&Subject(key), &self.issuer())?.der().to_vec())
    }

    /// Issues a certificate (DER) for the key of an admin, good from a day before now on until a time in milliseconds since the
    /// Unix epoch.
    ///
    /// # Errors
    ///
    /// A name that cannot be in one.
    pub fn issue_to_admin(
        &self,
        name: &str,
        key: &PublicKey,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<Vec<u8>, AuthorityError> {
        let mut params = self.leaf("admin", name, key, now_ms)?;
        params.not_after = at(until_ms);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params.signed_by(&Subject(key), &self.issuer())?.der().to_vec())
    }

    /// What certificates have in common that are no authority's.
    fn leaf(&self, kind: &str, id: &str, key: &PublicKey, now_ms: u64) -> Result<CertificateParams, AuthorityError> {
        let uri = format!("{}{}/{kind}/{id}", super::certificate::SCHEME, self.cluster);
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, self.cluster.to_string());
        subject.push(DnType::CommonName, format!("{kind} {id}"));
        let mut params = CertificateParams::default();
        params.not_before = at(now_ms.saturating_sub(BACKDATE_MS));
        params.serial_number = Some(serial(key, now_ms));
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri)?)];
        params.distinguished_name = subject;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    /// Its key, encrypted. The nonce follows from what is encrypted, so that no two texts have the same.
    pub fn seal(&self, key: &ClusterKey) -> Vec<u8> {
        let plain = Zeroizing::new(self.key.serialize_der());
        let digest = Sha256::new().chain_update(key.bytes()).chain_update(&*plain).finalize();
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&digest[..NONCE_LEN]);
        let mut sealed = plain.to_vec();
        let about = Aad::from(self.cluster.0.to_be_bytes());
        let done = key.cipher().seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), about, &mut sealed);
        done.expect("a key of some dozen bytes is no longer than the cipher takes");
        [nonce.as_slice(), &sealed].concat()
    }

    /// The authority of a cluster whose key was encrypted.
    ///
    /// # Errors
    ///
    /// It was encrypted with another key, or has changed since.
    pub fn open(cluster: ClusterId, sealed: &[u8], key: &ClusterKey) -> Result<Self, AuthorityError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(AuthorityError::OtherKey)?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let about = Aad::from(cluster.0.to_be_bytes());
        let opened = key.cipher().open_in_place(Nonce::assume_unique_for_key(*nonce), about, &mut sealed);
        let plain = opened.map_err(|_| AuthorityError::OtherKey)?;
        Self::of_pkcs8(cluster, plain)
    }
}

/// A key pair of a PKCS #8 document.
pub(super) fn key_pair(document: &[u8]) -> Result<KeyPair, rcgen::Error> {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(document), &PKCS_ED25519)
}

/// What a daemon shows that is in no cluster: a certificate (DER) that says only that it has its key.
pub(super) fn own(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "pontoond in no cluster");
    params.serial_number = Some(serial(key.public_key_raw(), 0));
    Ok(params.self_signed(key)?.der().to_vec())
}

/// What is said of an authority with this key.
fn of_authority(cluster: ClusterId, key: &[u8], number: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(cluster);
    // Itself, and the one that comes after it.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.serial_number = Some(serial(key, number));
    params
}

fn name(cluster: ClusterId) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, cluster.to_string());
    name.push(DnType::CommonName, "authority");
    name
}

/// 16 bytes that no other certificate of the cluster has (RFC 5280, section 4.1.2.2).
fn serial(key: &[u8], now_ms: u64) -> SerialNumber {
    let digest = Sha256::new().chain_update(key).chain_update(now_ms.to_be_bytes()).finalize();
    let mut serial = [0; 16];
    serial.copy_from_slice(&digest[..16]);
    // Positive, and not shorter than the others.
    serial[0] = serial[0] & 0x7f | 0x40;
    SerialNumber::from(serial.to_vec())
}

/// A time of a certificate, which has whole seconds.
fn at(ms: u64) -> OffsetDateTime {
    let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// The key that a certificate is about.
struct Subject<'a>(&'a PublicKey);

impl PublicKeyData for Subject<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}
