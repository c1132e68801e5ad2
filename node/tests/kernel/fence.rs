//! Who is no member gets no frame into a container.

use pontoon_store::model::id::NodeId;

use crate::lab::{Cluster1, Host, Lan, Netns, node};

#[test]
fn a_stranger_gets_no_frame_into_a_container() {
    let lan = Lan::new();
    let (one, stranger) = (Host::on(&lan, 1), Host::on(&lan, 3));
    let c1 = Netns::new("c");
    let mut cluster = Cluster1::new(&[&one]);
    cluster.network(10, 65_536, &["10.0.0.0/24"], false);
    cluster.network(20, 70_000, &["10.0.1.0/24"], false);
    cluster.endpoint(11, 10, one.id, &["10.0.0.2"], &c1);
    cluster.endpoint(12, 20, one.id, &["10.0.1.2"], &c1);
    one.settle(&cluster.state);
    // What a stranger on the LAN needs to send frames into the overlay, and somebody else's VXLAN on the same port.
    stranger.netns.run(
        "ip link add vx type vxlan id 65536 dstport 4789 remote 192.168.140.200 local 192.168.140.202 && \
         ip addr add 10.0.0.66/24 dev vx && ip link set vx up && \
         ip neigh add 10.0.0.2 lladdr 02:42:0a:00:00:02 dev vx nud permanent && \
         ip link add swarm type vxlan id 4096 dstport 4789 remote 192.168.140.200 local 192.168.140.202 && \
         ip addr add 10.200.0.3/24 dev swarm && ip link set swarm up",
    );
    one.netns.run(
        "ip link add swarm type vxlan id 4096 dstport 4789 remote 192.168.140.202 local 192.168.140.200 && \
         ip addr add 10.200.0.1/24 dev swarm && ip link set swarm up",
    );
    // The underlay's neighbour entries are there before frames are counted.
    assert!(stranger.netns.pings("192.168.140.200"));
    let before = c1.received();
    let knock = "ping -c 5 -i 0.01 -W 1 10.0.0.2";
    assert!(!stranger.netns.try_run(knock).status.success());
    assert_eq!(c1.received(), before, "a stranger's frames got in");
    assert!(stranger.netns.pings("10.200.0.1"), "VXLAN of others on the same port passes");

    // The same frames from a member do get in: it is the filter that keeps the stranger out.
    cluster.state.nodes.insert(NodeId(3), node(NodeId(3), stranger.address));
    one.settle(&cluster.state);
    stranger.netns.try_run(knock);
    assert!(c1.received() >= before + 5, "a member's frames do not get in");
}
