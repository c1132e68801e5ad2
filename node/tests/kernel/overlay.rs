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

#[test]
fn the_underlay_may_be_ipv6() {
    let lan = Lan::new();
    let (mut one, mut two) = (Host::on(&lan, 1), Host::on(&lan, 2));
    one.address = "fd00:140::1:1".parse().unwrap();
    two.address = "fd00:140::1:2".parse().unwrap();
    for host in [&one, &two] {
        host.netns.run(&format!("ip addr add {}/64 dev ens33 nodad", host.address));
    }
    let (c1, c2) = (Netns::new("c"), Netns::new("c"));
    let mut cluster = Cluster1::new(&[&one, &two]);
    cluster.network(10, 65_536, &["10.0.0.0/24", "fd00:10::/64"], true);
    cluster.endpoint(11, 10, one.id, &["10.0.0.2", "fd00:10::2"], &c1);
    cluster.endpoint(12, 10, two.id, &["10.0.0.3", "fd00:10::3"], &c2);
    one.settle(&cluster.state);
    two.settle(&cluster.state);
    assert!(c1.pings("10.0.0.3") && c1.pings("fd00:10::3"));
}

/// How many packets a host has taken in and sent, by a word that is in the comments of the rules that count them.
fn counted(host: &Host, word: &str) -> Vec<u64> {
    let rules = host.netns.run("nft list table inet watch");
    let packets = |line: &str| line.split("packets ").nth(1)?.split_whitespace().next()?.parse().ok();
    rules.lines().filter(|line| line.contains(word)).map(|line| packets(line).unwrap()).collect()
}

#[test]
fn connections_of_the_overlay_are_not_tracked() {
    for v6 in [false, true] {
        let lan = Lan::new();
        let (mut one, mut two) = (Host::on(&lan, 1), Host::on(&lan, 2));
        if v6 {
            one.address = "fd00:140::1".parse().unwrap();
            two.address = "fd00:140::2".parse().unwrap();
        }
        let (c1, c2) = (Netns::new("c"), Netns::new("c"));
        let mut cluster = Cluster1::new(&[&one, &two]);
        cluster.network(10, 65_536, &["10.0.0.0/24"], false);
        cluster.endpoint(11, 10, one.id, &["10.0.0.2"], &c1);
        cluster.endpoint(12, 10, two.id, &["10.0.0.3"], &c2);
        one.settle(&cluster.state);
        two.settle(&cluster.state);
        // Somebody else's VXLAN on the same port, between the same hosts.
        for (host, other, last) in [(&one, &two, 1), (&two, &one, 2)] {
            let (local, remote) = (host.address, other.address);
            host.netns.run(&format!(
                "ip link add swarm type vxlan id 4096 dstport 4789 remote {remote} local {local} && \
                 ip addr add 10.200.0.{last}/24 dev swarm && ip link set swarm up"
            ));
        }
        let rules = [("ours", 65_536), ("theirs", 4096)].map(|(whose, vni)| {
            let of_vni = format!("udp dport 4789 @th,96,24 {vni} ct state");
            format!(
                "{of_vni} untracked counter comment {whose}_untracked; \
                 {of_vni} new,established counter comment {whose}_tracked;"
            )
        });
        let chain = |hook| format!("chain {hook} {{ type filter hook {hook} priority 0; {} }};", rules.concat());
        one.netns.run(&format!("nft \"table inet watch {{ {} {} }}\"", chain("input"), chain("output")));
        assert!(c1.pings("10.0.0.3"), "over the overlay");
        assert!(one.netns.pings("10.200.0.2"), "over the other VXLAN");
        for (word, none) in
            [("ours_tracked", true), ("ours_untracked", false), ("theirs_tracked", false), ("theirs_untracked", true)]
        {
            let packets = counted(&one, word);
            assert_eq!(packets.len(), 2, "{word}");
            assert!(packets.iter().all(|count| (*count == 0) == none), "{word}, in and out: {packets:?}");
        }
    }
}

#[test]
fn two_daemons_share_a_host() {
    let lan = Lan::new();
    let one = Host::on(&lan, 1);
    let mut other = Host::on(&lan, 2);
    // The second daemon moves to the first one's host, with names and a VTEP of its own.
    one.netns.run("ip addr add 192.168.140.210/24 dev ens33");
    other.move_to(&one, "192.168.140.210".parse().unwrap());
    let (c1, c2) = (Netns::new("c"), Netns::new("c"));
    let mut clusters = [Cluster1::new(&[&one]), Cluster1::new(&[&other])];
    let egress = &mut clusters[1].state.nodes.get_mut(&other.id).unwrap().egress_subnets;
    *egress = vec!["172.19.0.0/16".parse().unwrap()];
    // The same ids in both: they are two clusters.
    clusters[0].network(10, 65_536, &["10.0.0.0/24"], false);
    clusters[1].network(10, 65_537, &["10.1.0.0/24"], false);
    clusters[0].endpoint(11, 10, one.id, &["10.0.0.2"], &c1);
    clusters[1].endpoint(11, 10, other.id, &["10.1.0.2"], &c2);
    one.settle(&clusters[0].state);
    other.settle(&clusters[1].state);
    for (host, cluster) in [(&one, &clusters[0]), (&other, &clusters[1])] {
        let pass = host.pass(&cluster.state);
        assert!(pass.steps.is_empty(), "the other daemon's work is none of this one's:\n{}", pass.text());
    }
    assert!(c1.pings("192.168.140.1") && c2.pings("192.168.140.1"));
    other.with(|kernel| kernel.remove_all().unwrap());
    assert!(one.pass(&clusters[0].state).steps.is_empty());
    assert!(c1.pings("192.168.140.1"));
}
