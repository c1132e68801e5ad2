//! Certificates, and what is believed.

use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::model::id::{ClusterId, NodeId};
use crate::rt::wall_ms;
use crate::{AdmitError, knock};
use pontoon_proto::{JoinToken, Secret};

const CLUSTER: ClusterId = ClusterId(0xabc);
const DEADLINE: Duration = Duration::from_secs(5);
const DAY: u64 = 24 * 3_600_000;

fn document() -> Vec<u8> {
    Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref().to_vec()
}

fn key() -> NodeKey {
    NodeKey::from_pkcs8(&document()).unwrap()
}

fn token(authority: &Authority) -> JoinToken {
    let digest = JoinToken::digest_of(authority.certificate());
    JoinToken { digest, secret: Secret::new([9; 16]), addresses: Vec::new() }
}

fn with(own: Vec<u8>, authorities: Vec<Vec<u8>>) -> Certificate {
    Certificate { own, authorities, crossed: Vec::new(), authority: 1 }
}

/// Who was away while it was exchanged believes the next authority by the one that he knows, and not one that says so itself.
#[test]
fn the_next_authority_is_believed_by_the_one_before() {
    let [before, next, other] = [(); 3].map(|()| Authority::found(CLUSTER).unwrap());
    let key = key();
    let own = next.issue(NodeId(7), &key.public(), wall_ms()).unwrap();
    let known = [before.certificate().to_vec()];
    let verify = |chain: &[Vec<u8>]| Certified::verify(chain, &known, wall_ms()).map(|certified| certified.node);
    let crossed = before.cross(&next).unwrap();
    let self_made = next.certificate().to_vec();
    assert_eq!(verify(&[own.clone(), self_made.clone(), crossed.clone()]), Ok(NodeId(7)));
    assert_eq!(verify(&[own.clone(), crossed.clone()]), Ok(NodeId(7)));
    assert_eq!(verify(&[own.clone(), self_made.clone()]), Err(CertificateError::OtherAuthority));
    let by_another = other.cross(&next).unwrap();
    assert_eq!(verify(&[own.clone(), self_made, by_another]), Err(CertificateError::OtherAuthority));
    // It does not make the others of the one before believable to those who believe the next one only.
    let old = before.issue(NodeId(7), &key.public(), wall_ms()).unwrap();
    let only_next = [next.certificate().to_vec()];
    let shown = [old, before.certificate().to_vec(), crossed];
    assert_eq!(Certified::verify(&shown, &only_next, wall_ms()), Err(CertificateError::OtherAuthority));
    // A node is no authority.
    let node = Authority::of_pkcs8(CLUSTER, &document()).unwrap();
    let forged = node.issue(NodeId(8), &key.public(), wall_ms()).unwrap();
    assert_eq!(verify(&[forged, own]), Err(CertificateError::OtherAuthority));
}

#[test]
fn a_certificate_says_which_node_of_which_cluster_it_is_about() {
    let (authority, key) = (Authority::found(CLUSTER).unwrap(), key());
    let now = wall_ms();
    let issued = authority.issue(NodeId(7), &key.public(), now).unwrap();
    let certified = Certified::verify(std::slice::from_ref(&issued), &[authority.certificate().to_vec()], now).unwrap();
    assert_eq!((certified.cluster, certified.node, certified.key), (CLUSTER, NodeId(7), key.public()));
    // Whole seconds, a day before and 90 days behind.
    assert_eq!(certified.from_ms, (now - DAY) / 1_000 * 1_000);
    assert_eq!(certified.until_ms, (now + 90 * DAY) / 1_000 * 1_000);
    // Two of the same node at two times differ, and the same at the same time do not.
    assert_eq!(authority.issue(NodeId(7), &key.public(), now).unwrap(), issued);
    assert_ne!(authority.issue(NodeId(7), &key.public(), now + 1_000).unwrap(), issued);
}

#[test]
fn a_certificate_is_believed_of_its_authority_in_its_time_alone() {
    let (ours, theirs, key) = (Authority::found(CLUSTER).unwrap(), Authority::found(CLUSTER).unwrap(), key());
    let (now, authorities) = (wall_ms(), [ours.certificate().to_vec()]);
    let issue = |authority: &Authority| authority.issue(NodeId(7), &key.public(), now).unwrap();
    let verify = |certificate: &[u8], at| Certified::verify(&[certificate.to_vec()], &authorities, at).map(drop);
    assert_eq!(verify(&issue(&ours), now), Ok(()));
    assert_eq!(verify(&issue(&theirs), now), Err(CertificateError::OtherAuthority));
    assert!(matches!(verify(&issue(&ours), now - 2 * DAY), Err(CertificateError::NotYet { .. })));
    assert!(matches!(verify(&issue(&ours), now + 91 * DAY), Err(CertificateError::Ended { .. })));
    // Who has issued it is looked at first: a wrong clock excuses nobody.
    assert_eq!(verify(&issue(&theirs), now + 91 * DAY), Err(CertificateError::OtherAuthority));
    // An authority is no node, and neither is a daemon that is in no cluster.
    assert_eq!(verify(ours.certificate(), now), Err(CertificateError::NoNode));
    assert_eq!(verify(&key.own, now), Err(CertificateError::NoNode));
    // While it is exchanged, both are believed.
    let both = [theirs.certificate().to_vec(), ours.certificate().to_vec()];
    for authority in [&ours, &theirs] {
        assert!(Certified::verify(&[issue(authority)], &both, now).is_ok());
    }
}

/// One that ends before it begins made the daemon panic that looked at it.
#[test]
fn a_certificate_with_a_wrong_byte_is_not_believed() {
    let (authority, key) = (Authority::found(CLUSTER).unwrap(), key());
    let now = wall_ms();
    let issued = authority.issue(NodeId(7), &key.public(), now).unwrap();
    for at in 0..issued.len() {
        let mut wrong = issued.clone();
        wrong[at] ^= 1;
        let read = Certified::verify(&[wrong], &[authority.certificate().to_vec()], now);
        assert!(read.is_err(), "byte {at}");
        assert!(
            Certified::verify(&[issued[..at].to_vec()], &[authority.certificate().to_vec()], now).is_err(),
            "cut at {at}"
        );
    }
}

#[test]
fn the_key_of_an_authority_needs_the_key_that_it_was_encrypted_with() {
    let authority = Authority::found(CLUSTER).unwrap();
    let cluster_key = ClusterKey::random().unwrap();
    let sealed = authority.seal(&cluster_key);
    assert_eq!(authority.seal(&cluster_key), sealed);
    let opened = Authority::open(CLUSTER, &sealed, &cluster_key).unwrap();
    assert_eq!(opened.certificate(), authority.certificate());
    let refused = |cluster, sealed: &[u8], key: &ClusterKey| {
        matches!(Authority::open(cluster, sealed, key), Err(AuthorityError::OtherKey))
    };
    assert!(refused(CLUSTER, &sealed, &ClusterKey::random().unwrap()));
    assert!(refused(ClusterId(1), &sealed, &cluster_key), "of another cluster");
    for at in 0..sealed.len() {
        let mut wrong = sealed.clone();
        wrong[at] ^= 1;
        assert!(refused(CLUSTER, &wrong, &cluster_key), "byte {at}");
        assert!(refused(CLUSTER, &sealed[..at], &cluster_key), "cut at {at}");
    }
    let shown = format!("{cluster_key:?} {authority:?}");
    assert_eq!(shown, format!("ClusterKey Authority {{ cluster: {CLUSTER:?}, .. }}"));
}

#[test]
fn a_key_shows_its_own_certificates_alone() {
    let (authority, mine, other) = (Authority::found(CLUSTER).unwrap(), key(), key());
    let authorities = vec![authority.certificate().to_vec()];
    let foreign = authority.issue(NodeId(7), &other.public(), wall_ms()).unwrap();
    assert_eq!(mine.certify(with(foreign, authorities.clone())), Err(CertificateError::Malformed));
    let own = authority.issue(NodeId(7), &mine.public(), wall_ms()).unwrap();
    assert_eq!(mine.certify(with(own.clone(), Vec::new())), Err(CertificateError::OtherAuthority));
    assert_eq!(mine.certified(), None);
    // One that has ended is shown: it can still be renewed.
    let old = authority.issue(NodeId(7), &mine.public(), wall_ms() - 400 * DAY).unwrap();
    for certificate in [own, old] {
        mine.certify(with(certificate, authorities.clone())).unwrap();
        assert_eq!(mine.certified().map(|own| own.node), Some(NodeId(7)));
    }
    mine.decertify();
    assert_eq!(mine.certified(), None);
}

/// Whoever stands in between has an authority of his own, or the certificate of the right one without its key.
#[tokio::test]
async fn nothing_is_told_to_somebody_in_between() {
    let (ours, theirs) = (Authority::found(CLUSTER).unwrap(), Authority::found(CLUSTER).unwrap());
    let between = key();
    let forged = theirs.issue(NodeId(1), &between.public(), wall_ms()).unwrap();
    between.certify(with(forged, vec![theirs.certificate().to_vec()])).unwrap();
    let with_ours_beside = key();
    let forged = theirs.issue(NodeId(1), &with_ours_beside.public(), wall_ms()).unwrap();
    with_ours_beside.credentials.set(&[&forged, ours.certificate()], None, Vec::new());
    let in_no_cluster = key();
    for impostor in [between, with_ours_beside, in_no_cluster] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            let (mut stream, _) = impostor.accept(stream).await.unwrap();
            // However it ends.
            let _ = stream.read_to_end(&mut heard).await;
            heard
        });
        let error = knock(&key(), address, &token(&ours), DEADLINE).await.unwrap_err();
        assert!(matches!(error, AdmitError::OtherCluster { .. } | AdmitError::NoCluster { .. }), "{error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        let heard = heard.await.unwrap();
        assert_eq!(heard, Vec::<u8>::new(), "not even that this is HTTP/2");
    }
}
