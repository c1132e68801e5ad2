//! Ten thousand endpoints of other nodes.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Instant;

use pontoon_store::model::id::{EndpointId, Mac, NodeId};

use crate::lab::{Cluster1, Host, Lan, Netns, run, unique};

#[test]
fn ten_thousand_remote_endpoints_are_programmed_about_as_fast_as_by_ip_and_bridge() {
    const COUNT: u64 = 10_000;
    let lan = Lan::new();
    let one = Host::on(&lan, 1);
    let c1 = Netns::new("c");
    let mut cluster = Cluster1::new(&[&one]);
    for id in 2..12 {
        let address = format!("192.168.140.{}", 199 + id).parse().unwrap();
        cluster.state.nodes.insert(NodeId(id), crate::lab::node(NodeId(id), address));
    }
    cluster.network(10, 65_536, &["10.0.0.0/16"], true);
    cluster.endpoint(11, 10, one.id, &["10.0.255.1"], &c1);
    let (mut fdb, mut neighbours) = (String::new(), String::new());
    for id in 100..100 + COUNT {
        let address = format!("10.0.{}.{}", id / 250, id % 250 + 1);
        let address: Ipv4Addr = address.parse().unwrap();
        let mut endpoint = cluster.state.endpoints[&EndpointId(11)].clone();
        endpoint.id = EndpointId(id);
        endpoint.node = NodeId(2 + id % 10);
        endpoint.addresses = vec![address.into()];
        endpoint.mac = Mac::of_ipv4(address);
        cluster.state.endpoints.insert(endpoint.id, endpoint);
        let [a, b] = [id / 250, id % 250 + 1];
        let mac = format!("02:42:0a:00:{a:02x}:{b:02x}");
        writeln!(fdb, "fdb replace {mac} dev vx65536 self permanent dst 192.168.140.{}", 201 + id % 10).unwrap();
        writeln!(fdb, "fdb replace {mac} dev vx65536 master static").unwrap();
        writeln!(neighbours, "neigh replace {address} lladdr {mac} dev vx65536 nud permanent").unwrap();
    }
    cluster.state.reindex();
    let begin = Instant::now();
    let pass = one.pass(&cluster.state);
    let ours = begin.elapsed();
    pass.check();
    assert!(pass.steps.len() as u64 > 2 * COUNT);
    let begin = Instant::now();
    assert!(one.pass(&cluster.state).steps.is_empty());
    let idle = begin.elapsed();

    // The same by hand, in a namespace of its own.
    let by_hand = Netns::new("b");
    by_hand.run(
        "ip link add br65536 type bridge && ip link set br65536 up && \
         ip link add vx65536 type vxlan id 65536 dstport 4789 nolearning proxy local 192.168.140.200 && \
         ip link set vx65536 master br65536 up",
    );
    let directory = std::env::temp_dir().join(unique("pontoon-batch-"));
    std::fs::create_dir(&directory).unwrap();
    let (fdb_file, neighbour_file) = (directory.join("fdb"), directory.join("neighbours"));
    std::fs::write(&fdb_file, fdb).unwrap();
    std::fs::write(&neighbour_file, neighbours).unwrap();
    // Both commands take a line of a batch without the first word.
    run(&format!("sed -i s/^neigh/neighbour/ {}", neighbour_file.display()));
    let begin = Instant::now();
    by_hand.run(&format!("bridge -batch {} && ip -batch {}", fdb_file.display(), neighbour_file.display()));
    let theirs = begin.elapsed();
    std::fs::remove_dir_all(&directory).unwrap();
    eprintln!(
        "{COUNT} remote endpoints: {ours:?} (whole first pass), {idle:?} (empty pass), {theirs:?} (batches by hand)"
    );
    assert!(ours < theirs * 10, "{ours:?} against {theirs:?}");
}
