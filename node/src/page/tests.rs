//! The page of clusters that are made up.

use pontoon_proto::v1;

use super::view::{MOST, View, page};

/// 2026-03-01T12:00:00Z.
const NOW_MS: u64 = 1_772_366_400_000;

fn member(id: u64, leader: bool) -> v1::Member {
    let node = v1::Node {
        id,
        name: format!("host{id}"),
        advertise: format!("192.168.140.20{id}:7300"),
        data_addr: format!("192.168.140.20{id}"),
        version: "0.1.0".into(),
        state: v1::NodeState::Ready.into(),
        ..Default::default()
    };
    v1::Member { node: Some(node), voter: true, leader, ..Default::default() }
}

fn endpoint(id: u64, name: &str) -> v1::EndpointView {
    let endpoint = v1::Endpoint {
        id,
        network: 7,
        name: name.into(),
        addresses: vec![format!("10.0.0.{}", id + 1)],
        mac: format!("02:42:0a:00:00:0{}", id + 1),
        state: v1::EndpointState::Active.into(),
        ..Default::default()
    };
    v1::EndpointView {
        endpoint: Some(endpoint),
        network_name: "my-overlay".into(),
        node_name: format!("host{id}"),
        vtep: format!("192.168.140.20{id}"),
    }
}

fn lease(last: usize, name: &str) -> v1::LeaseView {
    let lease = v1::Lease {
        network: 7,
        address: format!("10.0.0.{last}"),
        state: v1::LeaseState::Active.into(),
        name: name.into(),
        since_ms: NOW_MS,
        ..Default::default()
    };
    v1::LeaseView {
        lease: Some(lease),
        network_name: "my-overlay".into(),
        node_name: "host1".into(),
        ..Default::default()
    }
}

/// Two nodes, a network and two containers.
fn two_nodes() -> View {
    let network = v1::Network {
        id: 7,
        name: "my-overlay".into(),
        vni: 65536,
        mtu: 1450,
        subnets: vec![v1::Subnet { cidr: "10.0.0.0/24".into(), ..Default::default() }],
        ..Default::default()
    };
    let task = v1::TaskStatus {
        name: "report".into(),
        state: v1::TaskState::Failing.into(),
        last_error: "no leader".into(),
        ..Default::default()
    };
    View {
        node: "host1".into(),
        now_ms: NOW_MS,
        status: v1::StatusResponse {
            version: "0.1.0".into(),
            cluster_id: "00ff".into(),
            node_id: 1,
            term: 4,
            leader: 2,
            applied_index: 118,
            members: vec![member(1, false), member(2, true)],
            quorum: 2,
            tasks: vec![task],
            ..Default::default()
        },
        freshness: Some(v1::Freshness { linearizable: true, ..Default::default() }),
        networks: vec![v1::NetworkView { network: Some(network), endpoints: 2 }],
        endpoints: vec![endpoint(1, "centos1"), endpoint(2, "centos2")],
        leases: vec![lease(2, "centos1"), lease(3, "centos2")],
    }
}

/// Checks that the page has all of these, one after the other.
fn shows(html: &str, parts: &[&str]) {
    let mut rest = html;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { panic!("no {part:?} where it should be in {html}") };
        rest = after;
    }
}

#[test]
fn two_nodes_are_ready() {
    let html = page(&two_nodes());
    shows(&html, &["<!DOCTYPE html>", "on node <strong>host1</strong>", "2026-03-01T12:00:00Z"]);
    shows(&html, &["Leader", "host2", "2 of 2 voters; none may fail", "Term", "4", "index 118"]);
    let ready = r#"<span class="state ready">ready</span>"#;
    shows(&html, &["<h2>Nodes", "host1<span class=\"quiet\"> (this node)", ready, "voter", "192.168.140.201:7300"]);
    shows(&html, &["<h2>Nodes", "host2", ready, "leader", "192.168.140.202:7300", "192.168.140.202", "0.1.0"]);
    shows(&html, &["<h2>Networks", "my-overlay", "7", "65536", "10.0.0.0/24", "1450", "2", "no"]);
    shows(&html, &["<h2>Containers", "<h3>my-overlay", "centos2", "10.0.0.3", "02:42:0a:00:00:03", "host2", "active"]);
    shows(&html, &["<h2>Leases", "10.0.0.2", "my-overlay", "active", "centos1", "host1", "2026-03-01T12:00:00Z"]);
    shows(&html, &["<h2>Background tasks", "report", "failing", "no leader"]);
    assert!(!html.contains("own copy") && !html.contains("pontoon init"), "{html}");
}

#[test]
fn a_node_in_no_cluster_says_how_it_gets_into_one() {
    let status = v1::StatusResponse { version: "0.1.0".into(), ..Default::default() };
    let html = page(&View { node: "host1".into(), status, ..View::default() });
    shows(
        &html,
        &["host1", "in no cluster", "pontoon init --advertise ADDR", "pontoon join TOKEN", "Background tasks"],
    );
    assert!(!html.contains("<h2>Nodes"), "{html}");
}

#[test]
fn without_quorum_it_says_so() {
    let mut view = two_nodes();
    view.status.warnings = vec!["no leader: nothing can be changed".into()];
    view.freshness = Some(v1::Freshness {
        linearizable: false,
        applied_index: 118,
        applied_ms: NOW_MS,
        reason: "host2 does not answer".into(),
    });
    let html = page(&view);
    shows(&html, &["own copy as of index 118", "2026-03-01T12:00:00Z", "missing: host2 does not answer"]);
    shows(&html, &["no leader: nothing can be changed", "host2", "as last known", "not reached now", "<h2>Nodes"]);
    assert!(!html.contains("may fail"), "{html}");
    view.status.leader = 0;
    shows(&page(&view), &["Leader", "none known: nothing can be written"]);
}

#[test]
fn what_users_write_is_text_and_nothing_else() {
    let evil = "<script>alert(\"1\")</script>&'";
    let mut view = two_nodes();
    view.node = evil.into();
    view.status.warnings = vec![evil.into()];
    view.status.tasks[0].last_error = evil.into();
    view.freshness = Some(v1::Freshness { reason: evil.into(), ..Default::default() });
    for member in &mut view.status.members {
        member.node.as_mut().unwrap().name = evil.into();
    }
    view.networks[0].network.as_mut().unwrap().name = evil.into();
    for view in &mut view.endpoints {
        view.node_name = evil.into();
        view.endpoint.as_mut().unwrap().name = evil.into();
    }
    view.leases.push(v1::LeaseView { network_name: evil.into(), node_name: evil.into(), ..lease(4, evil) });
    let html = page(&view);
    assert!(!html.contains("<script"), "{html}");
    assert_eq!(html.matches("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;").count(), 18, "{html}");
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    let html = page(&two_nodes());
    for word in ["http:", "https:", "//", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!html.contains(word), "{word} in {html}");
    }
}

#[test]
fn of_very_many_rows_the_first_are_shown() {
    let leases = (0..MOST + 5).map(|number| lease(number, "c")).collect();
    let html = page(&View { leases, ..two_nodes() });
    shows(&html, &["<h2>Leases", "10.0.0.0", "10.0.0.999", "and 5 more: <code>pontoon lease ls</code>"]);
    assert!(!html.contains("10.0.0.1000"));
}
