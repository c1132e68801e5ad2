//! Who is at the other end of a connection between members: TLS 1.3 (RFC 8446) with the nodes' own Ed25519 keys as raw
//! public keys (RFC 7250). Both ends prove in the handshake that they have the key they show; whether it is the right
//! one is known by whoever asked for the connection, and by whoever serves a call that says from which member it is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::ring::{default_provider, sign::any_eddsa_type};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, PeerIncompatible, ServerConfig,
    SignatureScheme,
};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// How long setting up a connection may take, handshake and all, at either end.
pub(crate) const CONNECT: Duration = Duration::from_secs(1);

/// An Ed25519 public key (RFC 8032).
pub type PublicKey = [u8; 32];

/// A node's key pair. Clones share it; it is never shown.
#[derive(Clone)]
pub struct NodeKey {
    public: PublicKey,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Bytes that are no key pair.
#[derive(Debug, Error)]
#[error("this is no Ed25519 key pair in PKCS #8")]
pub struct KeyError(#[source] rustls::Error);

impl NodeKey {
    /// Reads a key pair from its PKCS #8 document (RFC 5958).
    ///
    /// # Errors
    ///
    /// Anything but an Ed25519 key pair.
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, KeyError> {
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(document)).map_err(KeyError)?;
        let spki = key.public_key().ok_or(KeyError(rustls::Error::General("it has no public half".into())))?;
        let shown = CertificateDer::from(spki.to_vec());
        let public = public_key(&shown).map_err(KeyError)?;
        let shown = Arc::new(CertifiedKey::new(vec![shown], key));
        let provider = Arc::new(default_provider());
        let any = Arc::new(AnyKey(Arc::clone(&provider)));
        let mut accept = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(KeyError)?
            .with_client_cert_verifier(Arc::clone(&any) as Arc<dyn ClientCertVerifier>)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&shown))));
        accept.send_tls13_tickets = 0;
        let mut connect = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(KeyError)?
            .dangerous()
            .with_custom_certificate_verifier(any)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(shown)));
        // A resumed session would prove that there was a key once.
        connect.resumption = Resumption::disabled();
        connect.enable_sni = false;
        Ok(Self { public, acceptor: Arc::new(accept).into(), connector: Arc::new(connect).into() })
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Shakes hands with whoever connected.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// Connects to an address and tells whose key answers.
    #[cfg_attr(feature = "sim", allow(dead_code, reason = "simulated links have no handshake"))]
    pub(crate) async fn connect(&self, address: &str) -> io::Result<(client::TlsStream<TcpStream>, PublicKey)> {
        timeout(CONNECT, self.shake(address)).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, format!("no connection to {address} within {CONNECT:?}"))
        })?
    }

    async fn shake(&self, address: &str) -> io::Result<(client::TlsStream<TcpStream>, PublicKey)> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        self.connect_over(stream).await
    }

    /// Shakes hands over a connection that was made already, and tells whose key answers.
    ///
    /// # Errors
    ///
    /// The connection broke, or the other end is no daemon of Pontoon.
    pub async fn connect_over(&self, stream: TcpStream) -> io::Result<(client::TlsStream<TcpStream>, PublicKey)> {
        let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
        let stream = self.connector.connect(name, stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let key = shown.ok_or_else(no_key).and_then(|shown| public_key(shown).map_err(io::Error::other))?;
        Ok((stream, key))
    }
}

fn no_key() -> io::Error {
    io::Error::other("the other end showed no key")
}

/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410, section 4).
const ED25519_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The key that somebody showed, from its SubjectPublicKeyInfo.
pub(crate) fn public_key(shown: &CertificateDer<'_>) -> Result<PublicKey, rustls::Error> {
    let key = shown.strip_prefix(&ED25519_HEAD).and_then(|key| key.try_into().ok());
    key.ok_or(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// Takes any Ed25519 key whose owner has signed the handshake.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl AnyKey {
    fn signed(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.0.signature_verification_algorithms)
    }
}

/// Only TLS 1.3 is offered.
fn too_old() -> rustls::Error {
    rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled)
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
        public_key(end_entity).map(|_| ServerCertVerified::assertion())
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

    fn requires_raw_public_keys(&self) -> bool {
        true
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
        public_key(end_entity).map(|_| ClientCertVerified::assertion())
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

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
