use pontoon_proto::v1::{
    AttachResponse, Cluster, DataPlane, DetachResponse, EgressInterface, Endpoint, EndpointState, EndpointView,
    InspectLeaseResponse, InspectNetworkResponse, InspectNodeResponse, Lease, LeaseState, LeaseView, Member, NameMatch,
    Network, NetworkView, Node, NodeState, PastHolder, Pool, QueryNameResponse, Route, Sandbox, StatusResponse, Subnet,
    TaskState, TaskStatus, Voting,
};

use super::*;

/// 2026-03-01T12:00:00Z.
const NOW_MS: u64 = 1_772_366_400_000;
const MINUTE: u64 = 60_000;

fn now() -> Timestamp {
    timestamp(NOW_MS).unwrap()
}

/// Compares line by line, so that a difference is easy to see, and looks for trailing blanks.
pub(super) fn golden(actual: &str, expected: &str) {
    assert_eq!(actual, expected.trim_start_matches('\n'), "\n{actual}");
    for line in actual.lines() {
        assert_eq!(line, line.trim_end(), "trailing blanks");
    }
}

fn node(id: u64) -> Node {
    Node {
        id,
        raft_id: id,
        name: format!("host{id}"),
        advertise: format!("192.168.140.{}:7300", 199 + id),
        data_addr: format!("192.168.140.{}", 199 + id),
        version: "0.1.0".into(),
        feature_level: 1,
        state: NodeState::Ready.into(),
        joined_ms: NOW_MS - 3 * MINUTE,
        engine: "Docker 26.1.5".into(),
        ..Default::default()
    }
}

fn member(id: u64) -> Member {
    Member { node: Some(node(id)), voter: true, leader: id == 1, matched_index: 0, ..Default::default() }
}

fn endpoint(id: u64) -> EndpointView {
    EndpointView {
        endpoint: Some(Endpoint {
            id: 20 + id,
            network: 7,
            node: id,
            name: format!("centos{id}"),
            mac: format!("02:42:0a:00:00:0{}", id + 1),
            addresses: vec![format!("10.0.0.{}", id + 1)],
            state: EndpointState::Active.into(),
            sandbox: Some(Sandbox { netns: "/run/netns/c1".into(), key: String::new() }),
            ifname: "eth0".into(),
            egress: Some(EgressInterface { ifname: "eth1".into(), host: 2 }),
            ports: if id == 1 { vec!["0.0.0.0:8080->80/tcp".into()] } else { Vec::new() },
            ..Default::default()
        }),
        network_name: "my-overlay".into(),
        node_name: format!("host{id}"),
        vtep: format!("192.168.140.{}", 199 + id),
    }
}

fn network() -> Network {
    Network {
        id: 7,
        name: "my-overlay".into(),
        vni: 65536,
        subnets: vec![
            Subnet { cidr: "10.0.0.0/24".into(), gateway: "10.0.0.1".into(), ip_range: "10.0.0.128/25".into() },
            Subnet { cidr: "fd00::/64".into(), gateway: "fd00::1".into(), ip_range: String::new() },
        ],
        mtu: 1450,
        internal: false,
        labels: [("team".to_owned(), "a".to_owned()), ("zone".to_owned(), "b".to_owned())].into(),
        created_ms: NOW_MS - 49 * 60 * MINUTE,
        ..Network::default()
    }
}

#[test]
fn nodes() {
    let mut second = member(2);
    second.node.as_mut().unwrap().state = NodeState::Down.into();
    let third = Member { voter: false, node: Some(Node { version: String::new(), ..node(3) }), ..Default::default() };
    let fourth = Member { observer: true, node: Some(node(4)), ..Default::default() };
    golden(
        &node::list(&[member(1), second, third, fourth], now()),
        "
ID   NAME    STATE   ROLE       ADDRESS                VTEP              VERSION   JOINED
1    host1   ready   leader     192.168.140.200:7300   192.168.140.200   0.1.0     3 minutes ago
2    host2   down    voter      192.168.140.201:7300   192.168.140.201   0.1.0     3 minutes ago
3    host3   ready   learner    192.168.140.202:7300   192.168.140.202   -         3 minutes ago
4    host4   ready   observer   192.168.140.203:7300   192.168.140.203   0.1.0     3 minutes ago
",
    );
    golden(&node::list(&[], now()), "ID   NAME   STATE   ROLE   ADDRESS   VTEP   VERSION   JOINED\n");
}

#[test]
fn what_was_said_of_votes() {
    let cluster =
        |voters, replace_after_ms| cluster::voters(&Cluster { voters, replace_after_ms, ..Default::default() });
    assert_eq!(cluster(0, 0), "by the number of nodes; replaced after 5m without an answer");
    assert_eq!(cluster(3, 5_000), "3 at most; replaced after 5s without an answer");
    assert_eq!(cluster(1, 5_400_000), "1 at most; replaced after 1h 30m without an answer");
    let role = |voting: Voting, voter_only| {
        let node = Some(Node { voting: voting.into(), voter_only, ..node(1) });
        let answer = InspectNodeResponse { node: Some(Member { node, ..member(1) }), ..Default::default() };
        let text = node::inspect(&answer, now());
        text.lines().find_map(|line| line.strip_prefix("Role:")).unwrap().trim().to_owned()
    };
    assert_eq!(role(Voting::Auto, false), "leader");
    assert_eq!(role(Voting::Auto, true), "leader, only votes");
    assert_eq!(role(Voting::Promoted, true), "leader, promoted, only votes");
    assert_eq!(role(Voting::Demoted, false), "leader, demoted");
}

#[test]
fn one_node() {
    let route = |destination: &str, device: &str| Route { destination: destination.into(), device: device.into() };
    let node = Node {
        public_key: vec![0xab; 4],
        underlay_mtu: 1500,
        egress_subnets: vec!["172.18.0.0/16".into()],
        routes: vec![route("192.168.140.0/24", "ens33"), route("172.17.0.0/16", "docker0")],
        ..node(1)
    };
    let answer = InspectNodeResponse {
        node: Some(Member { node: Some(node), ..member(1) }),
        endpoints: vec![endpoint(1)],
        freshness: None,
    };
    golden(
        &node::inspect(&answer, now()),
        "
Name:           host1
Id:             1
State:          ready
Role:           leader
Address:        192.168.140.200:7300
VTEP:           192.168.140.200
Underlay MTU:   1500
Egress subnets: 172.18.0.0/16
Labels:         -
Engine:         Docker 26.1.5
Version:        0.1.0, feature level 1
Raft id:        1
Public key:     abababab
Joined:         2026-03-01T11:57:00Z (3 minutes ago)
Routes:         192.168.140.0/24 dev ens33
                172.17.0.0/16 dev docker0

Containers:
NAME      NETWORK      ADDRESS    MAC                 INTERFACE   STATE    NAMESPACE
centos1   my-overlay   10.0.0.2   02:42:0a:00:00:02   eth0        active   /run/netns/c1
",
    );
}

#[test]
fn networks() {
    let internal = Network { id: 12, name: "db".into(), internal: true, vni: 65537, ..network() };
    let views =
        [NetworkView { network: Some(network()), endpoints: 2 }, NetworkView { network: Some(internal), endpoints: 0 }];
    golden(
        &network::list(&views, now()),
        "
ID   NAME         VNI     SUBNET                   MTU    INTERNAL   CONTAINERS   CREATED
7    my-overlay   65536   10.0.0.0/24, fd00::/64   1450   no         2            2 days ago
12   db           65537   10.0.0.0/24, fd00::/64   1450   yes        0            2 days ago
",
    );
}

#[test]
fn one_network() {
    let gateway = Lease { address: "10.0.0.1".into(), name: "gateway".into(), ..Default::default() };
    let kept = Lease { address: "10.0.0.9".into(), reserved_for: "db".into(), ..Default::default() };
    let answer = InspectNetworkResponse {
        network: Some(network()),
        endpoints: vec![endpoint(1), endpoint(2)],
        reserved: vec![gateway, kept],
        freshness: None,
    };
    golden(
        &network::inspect(&answer, now()),
        "
Name:     my-overlay
Id:       7
VNI:      65536
Subnets:  10.0.0.0/24, gateway 10.0.0.1, hands out 10.0.0.128/25
          fd00::/64, gateway fd00::1
MTU:      1450
Internal: no
Labels:   team=a, zone=b
Created:  2026-02-27T11:00:00Z (2 days ago)

Containers:
NAME      ADDRESS    MAC                 NODE    VTEP              STATE    PORTS
centos1   10.0.0.2   02:42:0a:00:00:02   host1   192.168.140.200   active   0.0.0.0:8080->80/tcp
centos2   10.0.0.3   02:42:0a:00:00:03   host2   192.168.140.201   active   -

Reserved:
ADDRESS    FOR
10.0.0.1   gateway
10.0.0.9   db
",
    );
}

#[test]
fn leases() {
    let lease = |address: &str, state: LeaseState, name: &str, node: u64| Lease {
        network: 7,
        address: address.into(),
        epoch: 3,
        state: state.into(),
        node,
        name: name.into(),
        since_ms: NOW_MS - 20_000,
        ..Default::default()
    };
    let view = |lease: Lease, node_name: &str, mac: &str| LeaseView {
        lease: Some(lease),
        network_name: "my-overlay".into(),
        node_name: node_name.into(),
        mac: mac.into(),
        previous_nodes: [(9, "host9".to_owned())].into(),
    };
    let views = [
        view(lease("10.0.0.1", LeaseState::Reserved, "gateway", 0), "", ""),
        view(lease("10.0.0.2", LeaseState::Active, "centos1", 1), "host1", "02:42:0a:00:00:02"),
    ];
    golden(
        &lease::list(&views, now()),
        "
NETWORK      ADDRESS    STATE      NAME      NODE    MAC                 SINCE
my-overlay   10.0.0.1   reserved   gateway   -       -                   20 seconds ago
my-overlay   10.0.0.2   active     centos1   host1   02:42:0a:00:00:02   20 seconds ago
",
    );
    let before = PastHolder { name: "old".into(), node: 9, from_ms: NOW_MS - 2 * MINUTE, to_ms: NOW_MS - MINUTE };
    let cooling = Lease {
        until_ms: NOW_MS + 40_000,
        previous: vec![before],
        reserved_for: "db".into(),
        ..lease("10.0.0.2", LeaseState::Cooling, "centos1", 4)
    };
    golden(
        &lease::inspect(&InspectLeaseResponse { lease: Some(view(cooling, "", "")), freshness: None }, now()),
        "
Address:      10.0.0.2
Network:      my-overlay (id 7)
State:        cooling
Since:        2026-03-01T11:59:40Z (20 seconds ago)
Until:        2026-03-01T12:00:40Z (in 40 seconds)
Name:         centos1
Node:         id 4, removed
MAC:          -
Reserved for: db
Epoch:        3

Before:
NAME   NODE    FROM                   TO
old    host9   2026-03-01T11:58:00Z   2026-03-01T11:59:00Z
",
    );
}

#[test]
fn attach_and_detach() {
    let answer = AttachResponse { endpoint: Some(endpoint(1)), egress_addresses: vec!["172.18.0.2/16".into()] };
    golden(
        &endpoint::attached(&answer),
        "
NAME      NETWORK      INTERFACE   ADDRESS         MAC
centos1   my-overlay   eth0        10.0.0.2        02:42:0a:00:00:02
centos1   (egress)     eth1        172.18.0.2/16   -
",
    );
    golden(
        &endpoint::attached(&AttachResponse { egress_addresses: vec![], ..answer }),
        "
NAME      NETWORK      INTERFACE   ADDRESS    MAC
centos1   my-overlay   eth0        10.0.0.2   02:42:0a:00:00:02
",
    );
    golden(&endpoint::detached(&DetachResponse { endpoints: vec![endpoint(1)] }), "centos1 my-overlay\n");
}

fn status() -> StatusResponse {
    let follower = Member { matched_index: 119, heard_ms: Some(40), ..member(2) };
    StatusResponse {
        version: "0.1.0".into(),
        cluster_id: "00ff".into(),
        node_id: 1,
        term: 4,
        leader: 1,
        last_index: 120,
        committed_index: 120,
        applied_index: 118,
        applied_ms: NOW_MS - MINUTE,
        members: vec![member(1), follower, member(3)],
        quorum: 2,
        tolerates: 1,
        tasks: vec![
            TaskStatus {
                name: "reconcile".into(),
                state: TaskState::Idle.into(),
                runs: 12,
                last_run_ms: NOW_MS - 1000,
                ..Default::default()
            },
            TaskStatus {
                name: "report".into(),
                state: TaskState::Failing.into(),
                runs: 9,
                failures: 2,
                last_error: "no leader".into(),
                last_run_ms: NOW_MS,
            },
        ],
        data_plane: Some(DataPlane {
            passes: 12,
            first_pass_done: true,
            last_pass_steps: 1,
            reconciled_index: 118,
            drift: [("fdb".to_owned(), 2), ("link".to_owned(), 1)].into(),
            last_drift: "link br-7 was gone".into(),
            failures: vec!["add a".into(), "add b".into()],
            ..Default::default()
        }),
        warnings: vec!["host2 has MTU 1400, network my-overlay needs 1500".into()],
        cluster: Some(Cluster {
            pools: vec![Pool { cidr: "10.0.0.0/8".into(), prefix: 24 }],
            pool6: "fd12::/48".into(),
            vxlan_port: 4789,
            feature_level: 1,
            underlay: 1,
            created_ms: NOW_MS - 60 * MINUTE,
            ..Default::default()
        }),
        state_hash: "abcd".into(),
        certificate_until_ms: NOW_MS + 90 * 24 * 60 * MINUTE,
    }
}

#[test]
fn the_status() {
    golden(
        &cluster::status(&status(), now()),
        "
Version:       0.1.0
Cluster:       00ff
Node:          host1 (id 1)
Leader:        host1 (id 1), this node
Term:          4
Applied:       index 118, written 1 minute ago; 2 more to apply
State hash:    abcd
Certificate:   renews itself, ends 2026-05-30T12:00:00Z (in 90 days)
Quorum:        2 of 3 voters; 1 more may fail
Authority:     number 0
Voters:        by the number of nodes; replaced after 5m without an answer
Pools:         10.0.0.0/8 in /24, fd12::/48
Underlay:      ipv4, VXLAN port 4789
Feature level: 1
Created:       2026-03-01T11:00:00Z (1 hour ago)

Members:
ID   NAME    ROLE     STATE   ADDRESS                VTEP              STORED   HEARD
1    host1   leader   ready   192.168.140.200:7300   192.168.140.200
2    host2   voter    ready   192.168.140.201:7300   192.168.140.201   119      40 ms ago
3    host3   voter    ready   192.168.140.202:7300   192.168.140.202

Background tasks:
NAME        STATE     RUNS   FAILURES   LAST RUN        LAST ERROR
reconcile   idle      12     0          1 second ago    -
report      failing   9      2          0 seconds ago   no leader

Data plane:
Passes:           12
First pass:       planned 0 steps
Latest pass:      planned 1 step, state of index 118
Repairs:          3 (fdb 2, link 1); latest: link br-7 was gone
Reclaimed leases: 0
Failed steps:     add a
                  add b

Warnings:
- host2 has MTU 1400, network my-overlay needs 1500
",
    );
}

#[test]
fn the_status_of_a_node_alone_or_without_leader() {
    let text = cluster::status(&StatusResponse { version: "0.1.0".into(), ..Default::default() }, now());
    golden(&text, "Version: 0.1.0\nCluster: none yet: `pontoon init` makes one, `pontoon join` enters one\n");
    let alone = StatusResponse { members: vec![member(1)], quorum: 1, tolerates: 0, leader: 0, ..status() };
    let text = cluster::status(&alone, now());
    assert!(text.contains("\nQuorum:        1 of 1 voter; none may fail\n"), "{text}");
    assert!(text.contains("\nLeader:        none known: nothing can be written\n"), "{text}");
}

#[test]
fn a_stale_answer_has_a_banner() {
    let mut freshness =
        Freshness { applied_index: 118, applied_ms: NOW_MS, reason: "no leader".into(), ..Default::default() };
    let text = "warning: this is the node's own copy as of index 118, 2026-03-01T12:00:00Z; later writes are missing: ";
    assert_eq!(banner(&freshness), Some(format!("{text}no leader\n")));
    freshness.reason.clear();
    assert_eq!(banner(&freshness), Some(format!("{text}as asked for\n")));
    freshness.linearizable = true;
    assert_eq!(banner(&freshness), None);
}

#[test]
fn times() {
    let cases = [
        (0, "-"),
        (NOW_MS, "0 seconds ago"),
        (NOW_MS - 59_999, "59 seconds ago"),
        (NOW_MS - MINUTE, "1 minute ago"),
        (NOW_MS - 90 * MINUTE, "1 hour ago"),
        (NOW_MS - 47 * 60 * MINUTE, "47 hours ago"),
        (NOW_MS - 72 * 60 * MINUTE, "3 days ago"),
        (NOW_MS + 60 * MINUTE, "in 1 hour"),
        (u64::MAX, "18446744073709551615 ms"),
    ];
    for (ms, text) in cases {
        assert_eq!(ago(ms, now()), text, "{ms}");
    }
    assert_eq!(time(NOW_MS + 999), "2026-03-01T12:00:00Z");
    assert_eq!(time(0), "-");
}

#[test]
fn an_enumeration_of_a_newer_daemon_is_shown_by_number() {
    assert_eq!(name::<LeaseState>(LeaseState::Cooling.into()), "cooling");
    assert_eq!(name::<LeaseState>(77), "77");
}

#[test]
fn what_a_name_stands_for() {
    let lease = |id: u64| Lease {
        address: format!("10.0.0.{}", id + 1),
        epoch: 20 + id,
        since_ms: NOW_MS - MINUTE,
        ..Default::default()
    };
    let found = |id: u64, aliases: &[&str]| {
        let mut view = endpoint(id);
        if let Some(endpoint) = &mut view.endpoint {
            endpoint.aliases = aliases.iter().map(|&alias| alias.to_owned()).collect();
            endpoint.epoch = 24 + id;
        }
        NameMatch { endpoint: Some(view), leases: vec![lease(id)] }
    };
    let answer = QueryNameResponse {
        network_name: "my-overlay".into(),
        matches: vec![found(1, &["web"]), found(2, &["db", "web"])],
        ttl_s: 5,
        freshness: Some(Freshness { applied_index: 31, ..Default::default() }),
    };
    golden(
        &dns::query(&answer, now()),
        "
ADDRESS    CONTAINER   ALIASES   NODE    SINCE          INDEX   LEASE EPOCH
10.0.0.2   centos1     web       host1   1 minute ago   25      21
10.0.0.3   centos2     db, web   host2   1 minute ago   26      22

Network:     my-overlay
As of index: 31
TTL:         5 s
",
    );
}
