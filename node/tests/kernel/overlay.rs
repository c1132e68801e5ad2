//! Containers on two hosts reach each other.

use crate::lab::{Cluster1, Host, Lan, Netns};

#[test]
fn containers_on_two_hosts_reach_each_other() {
    let lan = Lan::new();
    let (one, two) = (Host::on(&lan, 1), Host::on(&lan, 2));
    let (c1, c2) = (Netns::new("c"), Netns::new("c"));
    let mut cluster = Cluster1::new(&[&one, &two]);
    cluster.network(10, 65_536, &["10.0.0.0/24", "fd00:10::/64"], false);
    cluster.endpoint(11, 10, one.id, &["10.0.0.2", "fd00:10::2"], &c1);
    cluster.endpoint(12, 10, two.id, &["10.0.0.3", "fd00:10::3"], &c2);
    one.settle(&cluster.state);
    two.settle(&cluster.state);

    assert!(c1.pings("10.0.0.3"), "IPv4 over the overlay");
    assert!(c2.pings("fd00:10::2"), "IPv6 over the overlay");
    let addr = c1.run("ip addr show eth0");
    for part in ["inet 10.0.0.2/24 brd 10.0.0.255", "link/ether 02:42:0a:00:00:02", "mtu 1450", "inet6 fd00:10::2/64"] {
        assert!(addr.contains(part), "{part} in {addr}");
    }
    let addr = c1.run("ip addr show eth1");
    for part in ["inet 172.18.0.2/16 brd 172.18.255.255", "link/ether 02:42:ac:12:00:02"] {
        assert!(addr.contains(part), "{part} in {addr}");
    }
    assert!(c1.pings("172.18.0.1"), "its own host");
    assert!(c1.pings("192.168.140.201"), "another host, by NAT");
    let links = one.netns.run("ip -br link");
    assert!(!links.contains("vx65536") && !links.contains("br65536"), "the host stays clean: {links}");
    assert!(one.netns.run("ss -Hulpn").contains(":4789"), "the UDP socket is the host's");
    assert!(!one.overlay("ss -Hulpn").contains(":4789"));
}
