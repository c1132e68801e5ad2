//! The way out.

use std::net::IpAddr;

use pontoon_node::kernel::Kernel;
use pontoon_node::plan::egress::{choose, choose6};

use crate::lab::{Cluster1, Host, Lan, Netns};

/// An outside network behind the LAN's router: it knows no way back to any container.
fn outside(lan: &Lan) -> Netns {
    let outside = Netns::new("x");
    let (lan_name, name) = (&lan.0.0, &outside.0);
    crate::lab::run(&format!("ip link add out netns {lan_name} type veth peer name eth0 netns {name}"));
    lan.0.run("ip addr add 10.99.0.1/24 dev out && ip link set out up && sysctl -qw net.ipv4.ip_forward=1");
    outside
        .run("ip addr add 10.99.0.2/24 dev eth0 && ip link set eth0 up && ip route add 192.168.140.0/24 via 10.99.0.1");
    outside
}

#[test]
fn a_container_reaches_the_outside_and_the_outside_not_the_container() {
    let lan = Lan::new();
    let _outside = outside(&lan);
    let one = Host::on(&lan, 1);
    one.netns.run("ip route add default via 192.168.140.1");
    // Another network of the host, which it must not begin to route to.
    let inner = Netns::new("n");
    crate::lab::run(&format!("ip link add ens34 netns {} type veth peer name eth0 netns {}", one.netns.0, inner.0));
    one.netns.run("ip addr add 10.77.0.1/24 dev ens34 && ip link set ens34 up");
    inner.run("ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up && ip route add default via 10.77.0.1");
    lan.0.run("ip route add 10.77.0.0/24 via 192.168.140.200 && ip route add 172.18.0.0/16 via 192.168.140.200");

    let (c1, c2) = (Netns::new("c"), Netns::new("c"));
    let mut cluster = Cluster1::new(&[&one]);
    let v6 = choose6("fd00:1234:5678::/48".parse().unwrap(), one.id);
    cluster.state.nodes.get_mut(&one.id).unwrap().egress_subnets.push(v6);
    cluster.network(10, 65_536, &["10.0.0.0/24"], false);
    cluster.endpoint(11, 10, one.id, &["10.0.0.2"], &c1);
    cluster.endpoint(12, 10, one.id, &["10.0.0.3"], &c2);
    one.settle(&cluster.state);

    assert!(c1.pings("10.99.0.2"), "what lies behind the LAN");
    assert!(c1.pings("192.168.140.1"), "the LAN");
    assert!(c1.pings("fd00:140::1"), "the LAN over IPv6");
    assert!(c1.pings("192.168.140.200") && c1.pings("172.18.0.1"), "its host");
    assert!(c1.pings("10.77.0.2"), "another network of its host");
    assert!(c1.pings("10.0.0.3"), "the other container over the overlay");
    assert!(!c1.pings("172.18.0.3"), "the other container over the gateway bridge");
    assert!(!lan.0.pings("172.18.0.2"), "a container from the LAN");
    assert!(!lan.0.pings("10.77.0.2"), "the host does not forward for strangers");
    assert!(!inner.pings("192.168.140.1"), "nor the other way");
}

#[test]
fn docker_is_let_through_by_one_marked_pair_of_rules() {
    let lan = Lan::new();
    let one = Host::on(&lan, 1);
    // What Docker leaves on a host.
    one.netns.run(
        "sysctl -qw net.ipv4.ip_forward=1 && nft add table ip filter && \
         nft \"add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }\" && \
         nft add chain ip filter DOCKER-USER && nft add rule ip filter FORWARD jump DOCKER-USER && \
         nft add rule ip filter DOCKER-USER counter return",
    );
    let c1 = Netns::new("c");
    let mut cluster = Cluster1::new(&[&one]);
    cluster.network(10, 65_536, &["10.0.0.0/24"], false);
    cluster.endpoint(11, 10, one.id, &["10.0.0.2"], &c1);
    one.settle(&cluster.state);
    assert!(c1.pings("192.168.140.1"), "the LAN, past Docker's FORWARD DROP");
    assert_eq!(one.netns.run("sysctl -n net.ipv4.conf.ens33.forwarding"), "1\n");
    one.netns.run("nft flush chain ip filter DOCKER-USER");
    one.settle(&cluster.state);
    assert!(c1.pings("192.168.140.1"));
    one.with(|kernel| kernel.remove_all().unwrap());
    assert!(!one.netns.run("nft list chain ip filter DOCKER-USER").contains("pontoon"));
    assert_eq!(
        one.netns.run("sysctl -n net.ipv4.ip_forward net.ipv4.conf.ens33.forwarding"),
        "1\n1\n",
        "Docker's, not ours"
    );
}

#[test]
fn an_internal_network_has_no_second_interface() {
    let lan = Lan::new();
    let one = Host::on(&lan, 1);
    let c1 = Netns::new("c");
    let mut cluster = Cluster1::new(&[&one]);
    cluster.network(10, 65_536, &["10.0.0.0/24"], true);
    cluster.endpoint(11, 10, one.id, &["10.0.0.2"], &c1);
    one.settle(&cluster.state);
    let links = c1.run("ip -br link");
    assert!(links.contains("eth0@") && !links.contains("eth1"), "{links}");
    assert_eq!(c1.run("ip route show default"), "");
    assert!(!one.netns.run("ip -br link").contains("pontoon_gw"));
}

#[test]
fn one_container_on_two_networks_has_one_way_out() {
    let lan = Lan::new();
    let (one, two) = (Host::on(&lan, 1), Host::on(&lan, 2));
    let (c1, c2, c3) = (Netns::new("c"), Netns::new("c"), Netns::new("c"));
    let mut cluster = Cluster1::new(&[&one, &two]);
    cluster.network(10, 65_536, &["10.0.0.0/24"], false);
    cluster.network(20, 65_537, &["10.0.1.0/24"], false);
    cluster.endpoint(11, 10, one.id, &["10.0.0.2"], &c1);
    cluster.endpoint(12, 20, one.id, &["10.0.1.2"], &c1);
    cluster.endpoint(13, 10, two.id, &["10.0.0.3"], &c2);
    cluster.endpoint(14, 20, two.id, &["10.0.1.3"], &c3);
    one.settle(&cluster.state);
    two.settle(&cluster.state);
    assert!(c1.pings("10.0.0.3") && c1.pings("10.0.1.3") && c1.pings("192.168.140.1"));
    assert!(!c2.pings("10.0.1.3"), "there is no routing between networks");
}

#[test]
fn an_occupied_subnet_is_not_chosen() {
    let lan = Lan::new();
    let one = Host::on(&lan, 1);
    one.netns.run("ip route add 172.18.0.0/16 via 192.168.140.1 && ip route add 10.0.0.0/8 via 192.168.140.1");
    let address = one.address;
    let facts = one.with(move |kernel| kernel.facts(Some(address)).unwrap());
    assert_eq!(facts.underlay_mtu, 1500);
    let routes: Vec<String> = facts.routes.iter().map(|r| format!("{} {}", r.destination, r.device)).collect();
    let expected = ["10.0.0.0/8 ens33", "172.18.0.0/16 ens33", "192.168.140.0/24 ens33", "fd00:140::/64 ens33"];
    assert_eq!(routes, expected);
    let chosen = choose(&facts, &[], &[]).unwrap();
    assert_eq!(chosen, "172.19.0.0/16".parse().unwrap());

    let c1 = Netns::new("c");
    let mut cluster = Cluster1::new(&[&one]);
    cluster.state.nodes.get_mut(&one.id).unwrap().egress_subnets = vec![chosen];
    cluster.network(10, 65_536, &["10.0.0.0/24"], false);
    cluster.endpoint(11, 10, one.id, &["10.0.0.2"], &c1);
    one.settle(&cluster.state);
    assert!(c1.pings("192.168.140.1"));
    let facts = one.with(|kernel| kernel.facts(None::<IpAddr>).unwrap());
    assert_eq!(facts.gateway_subnets, [chosen]);
    assert!(!facts.routes.iter().any(|r| r.destination == chosen), "our own bridge's route is none of the host's");
    assert_eq!(choose(&facts, &[], &[]), Some(chosen), "the bridge keeps what it has");
}
