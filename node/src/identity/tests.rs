use pontoon_store::Authority;

use super::*;

const MEMBERSHIP: Membership =
    Membership { cluster: ClusterId(7), node: NodeId(2), raft_id: RaftId(1), observer: false };

fn members() -> BTreeMap<RaftId, Peer> {
    let peer = |key| Peer { address: "192.0.2.1:7300".to_owned(), key: [key; 32] };
    [(RaftId(1), peer(7)), (RaftId(9), peer(0xfe))].into()
}

/// What its cluster would give a node.
fn credentials(data: &DataDir) -> Credentials {
    let authority = Authority::found(MEMBERSHIP.cluster).unwrap();
    let own = authority.issue(MEMBERSHIP.node, &data.public_key(), crate::host::now_ms()).unwrap();
    let certificate =
        Certificate { own, authorities: vec![authority.certificate().to_vec()], crossed: Vec::new(), authority: 1 };
    Credentials { certificate, cluster_key: Some(ClusterKey::new([5; 32])) }
}

fn rewrite(dir: &Path, from: &str, to: &str) {
    let path = dir.join("identity.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replace(from, to)).unwrap();
}

#[test]
fn a_new_folder_gets_a_key_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = DataDir::open(dir.path()).unwrap().public_key();
    assert_eq!(DataDir::open(dir.path()).unwrap().public_key(), first);
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(dir.path().join("node.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_membership_survives_a_restart_and_ends_with_leave() {
    let dir = tempfile::tempdir().unwrap();
    let mut data = DataDir::open(dir.path()).unwrap();
    let entered = credentials(&data);
    data.enter(MEMBERSHIP, members(), entered).unwrap();
    drop(data);
    let mut data = DataDir::open(dir.path()).unwrap();
    assert_eq!((data.membership(), data.members()), (Some(MEMBERSHIP), &members()));
    assert!(!data.begun());
    data.begin().unwrap();
    drop(data);
    let mut data = DataDir::open(dir.path()).unwrap();
    assert_eq!((data.membership(), data.members(), data.begun()), (Some(MEMBERSHIP), &members(), true));
    fs::create_dir(data.store_path()).unwrap();
    data.leave(false).unwrap();
    assert!(!data.store_path().exists());
    drop(data);
    let data = DataDir::open(dir.path()).unwrap();
    assert_eq!((data.membership(), data.begun()), (None, false));
}

#[test]
fn credentials_survive_a_restart_and_are_gone_after_leave() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mut data = DataDir::open(dir.path()).unwrap();
    assert_eq!(data.key().certified(), None);
    let entered = credentials(&data);
    data.enter(MEMBERSHIP, members(), entered).unwrap();
    let shown = data.key().certified();
    drop(data);
    let secret = dir.path().join("cluster.key");
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    let mut data = DataDir::open(dir.path()).unwrap();
    let certified = data.key().certified();
    assert_eq!(certified, shown);
    assert_eq!(certified.map(|own| (own.cluster, own.node)), Some((MEMBERSHIP.cluster, MEMBERSHIP.node)));
    assert_eq!(data.cluster_key().get(), Some(ClusterKey::new([5; 32])));
    let other = Membership { raft_id: RaftId(77), observer: true, ..MEMBERSHIP };
    data.become_other(other, members(), 3).unwrap();
    drop(data);
    let mut data = DataDir::open(dir.path()).unwrap();
    assert_eq!(data.key().certified(), shown);
    data.leave(false).unwrap();
    assert_eq!((data.key().certified(), data.cluster_key().get()), (None, None));
    assert!(!secret.exists());
}

/// Nobody would believe it.
#[test]
fn a_certificate_of_another_key_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut data = DataDir::open(dir.path()).unwrap();
    let foreign = credentials(&DataDir::open(other.path()).unwrap());
    assert!(data.enter(MEMBERSHIP, members(), foreign).unwrap_err().to_string().contains("the node's certificate"));
    assert_eq!(data.membership(), None);
}

#[test]
fn a_folder_from_before_there_were_certificates_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut data = DataDir::open(dir.path()).unwrap();
    let entered = credentials(&data);
    let own = hex::encode(&entered.certificate.own);
    data.enter(MEMBERSHIP, members(), entered).unwrap();
    drop(data);
    rewrite(dir.path(), &own, "");
    let error = DataDir::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("has no certificate") && error.to_string().contains("pontoon join"), "{error}");
}

#[test]
fn a_host_that_is_not_clean_is_remembered_until_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut data = DataDir::open(dir.path()).unwrap();
    assert!(!data.unclean());
    data.leave(true).unwrap();
    data.attempt().unwrap();
    drop(data);
    let mut data = DataDir::open(dir.path()).unwrap();
    assert!(data.unclean());
    let attempt = data.attempt().unwrap();
    data.cleaned().unwrap();
    drop(data);
    let mut data = DataDir::open(dir.path()).unwrap();
    assert_eq!((data.unclean(), data.attempt().unwrap()), (false, attempt));
}

#[test]
fn an_attempt_keeps_its_name_until_one_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let first = DataDir::open(dir.path()).unwrap().attempt().unwrap();
    let mut data = DataDir::open(dir.path()).unwrap();
    assert_eq!(data.attempt().unwrap(), first);
    let entered = credentials(&data);
    data.enter(MEMBERSHIP, members(), entered).unwrap();
    data.leave(false).unwrap();
    assert_ne!(data.attempt().unwrap(), first);
}

#[test]
fn a_folder_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = DataDir::open(dir.path()).unwrap();
    let error = DataDir::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("in use by another pontoond"), "{error}");
}

#[test]
fn a_newer_format_is_refused_before_anything_else_is_read() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataDir::open(dir.path()).unwrap());
    fs::write(dir.path().join("identity.json"), r#"{"format": 2, "something": "new"}"#).unwrap();
    let error = DataDir::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("has format 2 and this pontoond knows 1"), "{error}");
}

#[test]
fn a_key_of_another_node_is_refused() {
    let (mine, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(DataDir::open(mine.path()).unwrap());
    drop(DataDir::open(other.path()).unwrap());
    fs::copy(other.path().join("node.key"), mine.path().join("node.key")).unwrap();
    let error = DataDir::open(mine.path()).unwrap_err();
    assert!(error.to_string().contains("belongs to another node"), "{error}");
}

#[test]
fn half_an_identity_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut data = DataDir::open(dir.path()).unwrap();
    let entered = credentials(&data);
    data.enter(MEMBERSHIP, members(), entered).unwrap();
    drop(data);
    rewrite(dir.path(), "\"node_id\": 2", "\"node_id\": null");
    let error = DataDir::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("identity.json cannot be understood"), "{error}");
}

#[test]
fn a_path_that_is_a_file_is_refused_by_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = DataDir::open(file.path()).unwrap_err().to_string();
    assert!(error.starts_with("cannot create") && error.contains("--data-dir"), "{error}");
}
