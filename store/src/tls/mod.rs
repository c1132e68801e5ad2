//! Who is at the other end of a connection between nodes: TLS 1.3 (RFC 8446) with a certificate at both ends. Both prove in
//! the handshake that they have the key that theirs is about. Whether it is to be believed is known by whoever asked for the
//! connection, and by whoever serves a call that says from which member it is: a certificate of an authority that the
//! cluster has now, for a node that the cluster has now, with the key that the cluster knows that node by.

mod authority;
mod certificate;
mod connection;
#[cfg_attr(feature = "plaintext", path = "plaintext.rs")]
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use pontoon_proto::v1;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::ring::{default_provider, sign::any_eddsa_type};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, PeerIncompatible, ServerConfig, SignatureScheme};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use authority::{Authority, AuthorityError, ClusterKey, HeldKey, server_name};
pub use certificate::{CertificateError, Certified, timestamp};
pub use connection::{Connection, Shown};
use stream::{Accepted, Made};

use crate::rt::wall_ms;

/// How long setting up a connection may take, handshake and all, at either end.
pub(crate) const CONNECT: Duration = Duration::from_secs(1);

/// An Ed25519 public key (RFC 8032).
pub type PublicKey = [u8; 32];

/// A node's key pair, and what it shows and believes. Clones share it; it is never shown.
#[derive(Clone)]
pub struct NodeKey {
    public: PublicKey,
    /// What it shows while it is in no cluster.
    own: Vec<u8>,
    credentials: Arc<Credentials>,
    #[cfg_attr(feature = "plaintext", allow(dead_code, reason = "nobody shakes hands"))]
    acceptor: TlsAcceptor,
    #[cfg_attr(feature = "plaintext", allow(dead_code, reason = "nobody shakes hands"))]
    connector: TlsConnector,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A node's certificate, and what goes with it (X.509, DER).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The node's own.
    pub own: Vec<u8>,
    /// Those of the authorities to believe others from. The last one issues.
    pub authorities: Vec<Vec<u8>>,
    /// That of the one that issues, by the one before it; empty: there was none.
    pub crossed: Vec<u8>,
    /// Number of the authority that has issued it.
    pub authority: u32,
}

impl From<Certificate> for v1::Certificate {
    fn from(certificate: Certificate) -> Self {
        let Certificate { own, authorities, crossed, authority } = certificate;
        Self { own, authorities, crossed, authority }
    }
}

impl From<v1::Certificate> for Certificate {
    fn from(certificate: v1::Certificate) -> Self {
        let v1::Certificate { own, authorities, crossed, authority } = certificate;
        Self { own, authorities, crossed, authority }
    }
}

/// What a node shows and what it believes, which change while connections are there.
#[derive(Debug)]
struct Credentials {
    key: Arc<dyn SigningKey>,
    now: RwLock<Now>,
    /// Counts the changes.
    generation: watch::Sender<u64>,
}

#[derive(Debug)]
struct Now {
    shown: Arc<CertifiedKey>,
    /// What its certificate says, and the certificate; none: it is in no cluster.
    certified: Option<(Certified, Certificate)>,
    authorities: Vec<Vec<u8>>,
}

impl Credentials {
    fn now(&self) -> RwLockReadGuard<'_, Now> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, chain: &[&[u8]], certified: Option<(Certified, Certificate)>, authorities: Vec<Vec<u8>>) {
        let chain = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let shown = Arc::new(CertifiedKey::new(chain, Arc::clone(&self.key)));
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Now { shown, certified, authorities };
        self.generation.send_modify(|count| *count += 1);
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.now().shown))
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.now().shown))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Bytes that are no key pair.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Not to TLS.
    #[error("this is no Ed25519 key pair in PKCS #8")]
    Tls(#[source] rustls::Error),
    /// Not to whatever issues certificates.
    #[error("this is no Ed25519 key pair in PKCS #8")]
    Certificate(#[from] rcgen::Error),
}

impl NodeKey {
    /// Reads a key pair from its PKCS #8 document (RFC 5958).
    ///
    /// # Errors
    ///
    /// Anything but an Ed25519 key pair.
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, KeyError> {
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(document)).map_err(KeyError::Tls)?;
        let own = authority::own(&authority::key_pair(document)?)?;
        let none = || KeyError::Tls(rustls::Error::General("it has no public half".into()));
        let public = certificate::public_key(&own).map_err(|_| none())?;
        let shown = Arc::new(CertifiedKey::new(vec![CertificateDer::from(own.clone())], Arc::clone(&key)));
        let now = RwLock::new(Now { shown, certified: None, authorities: Vec::new() });
        let credentials = Arc::new(Credentials { key, now, generation: watch::channel(0).0 });
        let provider = Arc::new(default_provider());
        let any = Arc::new(AnyKey(Arc::clone(&provider)));
        let mut accept = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(KeyError::Tls)?
            .with_client_cert_verifier(Arc::clone(&any) as Arc<dyn ClientCertVerifier>)
            .with_cert_resolver(Arc::clone(&credentials) as Arc<dyn ResolvesServerCert>);
        accept.send_tls13_tickets = 0;
        let mut connect = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(KeyError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(any)
            .with_client_cert_resolver(Arc::clone(&credentials) as Arc<dyn ResolvesClientCert>);
        // A resumed session would prove that there was a key once.
        connect.resumption = Resumption::disabled();
        connect.enable_sni = false;
        Ok(Self { public, own, credentials, acceptor: Arc::new(accept).into(), connector: Arc::new(connect).into() })
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Shows this certificate from now on, and believes the nodes that its authorities have certified. One that has ended is
    /// shown, too: it can still be renewed.
    ///
    /// # Errors
    ///
    /// It is none, is not about this key, or was issued by another authority.
    pub fn certify(&self, certificate: Certificate) -> Result<(), CertificateError> {
        let Certificate { own, authorities, crossed, .. } = &certificate;
        let certified = Certified::read(own)?;
        if certified.key != self.public {
            return Err(CertificateError::Malformed);
        }
        let issued = |authority: &&Vec<u8>| {
            let (own, authority) = (std::slice::from_ref(own), std::slice::from_ref(*authority));
            Certified::verify(own, authority, certified.from_ms).is_ok()
        };
        let issuer = authorities.iter().find(issued).ok_or(CertificateError::OtherAuthority)?;
        // Who has not heard of its issuer yet believes it by the one before.
        let chain: Vec<&[u8]> = [own.as_slice(), issuer, crossed].into_iter().filter(|der| !der.is_empty()).collect();
        self.credentials.set(&chain, Some((certified, certificate.clone())), authorities.clone());
        Ok(())
    }

    /// Believes the nodes that these authorities have certified from now on.
    #[cfg(test)]
    pub(crate) fn trust(&self, authorities: Vec<Vec<u8>>) {
        self.credentials.now.write().unwrap_or_else(PoisonError::into_inner).authorities = authorities;
        self.credentials.generation.send_modify(|count| *count += 1);
    }

    /// Shows that this daemon is in no cluster, and believes no node.
    pub fn decertify(&self) {
        self.credentials.set(&[&self.own], None, Vec::new());
    }

    /// What its certificate says; none: it is in no cluster.
    pub fn certified(&self) -> Option<Certified> {
        self.credentials.now().certified.as_ref().map(|(certified, _)| certified.clone())
    }

    /// Its certificate, and what goes with it; none: it is in no cluster.
    pub fn certificate(&self) -> Option<Certificate> {
        self.credentials.now().certified.as_ref().map(|(_, certificate)| certificate.clone())
    }

    /// Counts the changes of what it shows or believes.
    pub(crate) fn generation(&self) -> u64 {
        *self.credentials.generation.borrow()
    }

    /// Changes each time with what it shows or believes.
    fn changes(&self) -> watch::Receiver<u64> {
        self.credentials.generation.subscribe()
    }

    /// What it shows.
    #[cfg(feature = "sim")]
    pub(crate) fn chain(&self) -> Vec<Vec<u8>> {
        self.credentials.now().shown.cert.iter().map(|certificate| certificate.to_vec()).collect()
    }

    /// Reads the certificate that somebody has shown, with those of his issuers, if an authority that is believed has issued it
    /// and it is good now.
    pub(crate) fn verify(&self, shown: &[Vec<u8>]) -> Result<Certified, CertificateError> {
        Certified::verify(shown, &self.credentials.now().authorities, wall_ms())
    }

    /// Shakes hands with whoever connected. Tells what he has shown: his certificate, and those of his issuers.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<(Accepted, Vec<Vec<u8>>)> {
        stream::accept(self, stream).await
    }

    /// Connects to an address and tells what whoever answers has shown: his certificate, and those of his issuers.
    #[cfg_attr(feature = "sim", allow(dead_code, reason = "simulated links have no handshake"))]
    pub(crate) async fn connect(&self, address: &str) -> io::Result<(Made, Vec<Vec<u8>>)> {
        timeout(CONNECT, self.shake(address)).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, format!("no connection to {address} within {CONNECT:?}"))
        })?
    }

    async fn shake(&self, address: &str) -> io::Result<(Made, Vec<Vec<u8>>)> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream::make(self, stream).await
    }

    /// Shakes hands over a connection that was made already, and tells whose key answers.
    ///
    /// # Errors
    ///
    /// The connection broke, or the other end is no daemon of Pontoon.
    pub async fn connect_over(&self, stream: TcpStream) -> io::Result<(Made, PublicKey)> {
        let (stream, shown) = stream::make(self, stream).await?;
        let key = public_key(shown.first().ok_or_else(no_key)?).map_err(io::Error::other)?;
        Ok((stream, key))
    }
}

fn no_key() -> io::Error {
    io::Error::other("the other end showed no certificate")
}

/// The key that a certificate is about.
pub(crate) fn public_key(certificate: &[u8]) -> Result<PublicKey, CertificateError> {
    certificate::public_key(certificate)
}

/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410, section 4).
const ED25519_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The key of a SubjectPublicKeyInfo.
fn public_key_of_info(info: &[u8]) -> Option<PublicKey> {
    info.strip_prefix(&ED25519_HEAD)?.try_into().ok()
}

/// Takes any certificate about an Ed25519 key whose owner has signed the handshake.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl AnyKey {
    fn signed(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, shown, signature, &self.0.signature_verification_algorithms)
    }
}

/// Only TLS 1.3 is offered.
fn too_old() -> rustls::Error {
    rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled)
}

fn has_key(shown: &CertificateDer<'_>) -> Result<(), rustls::Error> {
    let malformed = |_| rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
    public_key(shown).map(|_| ()).map_err(malformed)
}

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        has_key(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        has_key(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
