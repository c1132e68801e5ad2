//! What somebody deletes comes back, a restart changes nothing, and what is not ours stays.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};

use pontoon_node::kernel::Kernel;
use pontoon_node::plan::desired::Desired;
use pontoon_node::plan::observed::SandboxState;

use crate::lab::{Cluster1, Host, Lan, Netns, run, try_run, unique, wait_for};

/// Two hosts with a container each.
pub(crate) struct Pair {
    pub(crate) one: Host,
    _two: Host,
    pub(crate) c1: Netns,
    _c2: Netns,
    pub(crate) cluster: Cluster1,
    _lan: Lan,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let lan = Lan::new();
        let (one, two) = (Host::on(&lan, 1), Host::on(&lan, 2));
        let (c1, c2) = (Netns::new("c"), Netns::new("c"));
        let mut cluster = Cluster1::new(&[&one, &two]);
        cluster.network(10, 65_536, &["10.0.0.0/24", "fd00:10::/64"], false);
        cluster.endpoint(11, 10, one.id, &["10.0.0.2", "fd00:10::2"], &c1);
        cluster.endpoint(12, 10, two.id, &["10.0.0.3", "fd00:10::3"], &c2);
        one.settle(&cluster.state);
        two.settle(&cluster.state);
        Self { one, _two: two, c1, _c2: c2, cluster, _lan: lan }
    }

    #[track_caller]
    pub(crate) fn works(&self, when: &str) {
        assert!(self.c1.pings("10.0.0.3"), "IPv4 {when}");
        assert!(self.c1.pings("fd00:10::3"), "IPv6 {when}");
        assert!(self.c1.pings("192.168.140.1"), "the way out {when}");
    }
}

/// Pings every 10 ms until it is ended, and then tells how many were lost.
pub(crate) struct Traffic {
    ping: Child,
    output: PathBuf,
}

impl Traffic {
    pub(crate) fn start(from: &Netns, to: &str) -> Self {
        let net = format!("--net={}", from.path());
        let output = std::env::temp_dir().join(unique("pontoon-ping-"));
        let mut command = Command::new("nsenter");
        command.args([&net, "ping", "-i", "0.01", to]).stdout(File::create(&output).unwrap());
        Self { ping: command.spawn().unwrap(), output }
    }

    /// Waits until some packets have been answered since now.
    pub(crate) fn goes_on(from: &Netns) {
        let before = from.received();
        wait_for("answers", || from.received() > before + 10);
    }

    /// How many were answered, and how many before the last of them were not: later ones may be under way.
    pub(crate) fn end(mut self) -> (usize, usize) {
        run(&format!("kill -INT {}", self.ping.id()));
        self.ping.wait().unwrap();
        let output = std::fs::read_to_string(&self.output).unwrap();
        std::fs::remove_file(&self.output).unwrap();
        let number = |line: &str| line.split("icmp_seq=").nth(1)?.split_whitespace().next()?.parse().ok();
        let answered: BTreeSet<usize> =
            output.lines().filter(|l| l.contains("bytes from")).filter_map(number).collect();
        let last = answered.last().copied().unwrap_or(0);
        (answered.len(), last - answered.len())
    }
}

#[test]
fn whatever_is_deleted_by_hand_comes_back() {
    let pair = Pair::new();
    let (one, c1, gateway) = (&pair.one, &pair.c1, "pontoon_gw");
    let overlay = format!("nsenter --net=/run/netns/{}", one.names.netns);
    let host = format!("nsenter --net={}", one.netns.path());
    let container = format!("nsenter --net={}", c1.path());
    let table = one.names.table();
    let port = one.names.port(true, pontoon_store::model::id::EndpointId(11));
    let damages = [
        ("neighbour", format!("{overlay} ip neigh del 10.0.0.3 dev vx65536")),
        ("neighbour", format!("{overlay} ip neigh del fd00:10::3 dev vx65536")),
        (
            "neighbour",
            format!("{overlay} ip neigh replace 10.0.0.3 lladdr 02:00:00:00:00:01 dev vx65536 nud permanent"),
        ),
        ("fdb", format!("{overlay} bridge fdb del 02:42:0a:00:00:03 dev vx65536 self")),
        ("fdb", format!("{overlay} bridge fdb del 02:42:0a:00:00:03 dev vx65536 master")),
        ("fdb", format!("{overlay} bridge fdb replace 02:42:0a:00:00:03 dev vx65536 self dst 192.168.140.77")),
        ("fdb", format!("{overlay} bridge fdb add 02:42:0a:00:00:77 dev vx65536 self dst 192.168.140.77 permanent")),
        ("device", format!("{overlay} ip link del vx65536")),
        ("device", format!("{overlay} ip link set vx65536 down")),
        ("device", format!("{overlay} ip link set vx65536 nomaster")),
        ("device", format!("{overlay} ip link set vx65536 type bridge_slave learning on")),
        ("device", format!("{overlay} ip link set vx65536 type vxlan learning")),
        ("bridge", format!("{overlay} ip link del br65536")),
        ("bridge", format!("{overlay} ip link set br65536 down")),
        ("veth", format!("{overlay} ip link del vb")),
        ("veth", format!("{overlay} ip link set vb nomaster")),
        ("veth", format!("{container} ip link del eth0")),
        ("veth", format!("{container} ip link del eth1")),
        ("veth", format!("{container} ip link set eth0 down")),
        ("veth", format!("{container} ip link set eth0 mtu 1300")),
        ("veth", format!("{container} ip link set eth0 address 02:00:00:00:00:05")),
        ("veth", format!("{host} ip link set {port} type bridge_slave isolated off")),
        ("address", format!("{container} ip addr del 10.0.0.2/24 dev eth0")),
        ("address", format!("{container} ip addr del fd00:10::2/64 dev eth0")),
        ("address", format!("{container} ip addr del 172.18.0.2/16 dev eth1")),
        ("address", format!("{host} ip addr del 172.18.0.1/16 dev {gateway}")),
        ("route", format!("{container} ip route del default")),
        ("route", format!("{container} ip route replace default via 172.18.0.99 dev eth1")),
        ("gateway", format!("{host} ip link del {gateway}")),
        ("rule", format!("{host} nft delete table inet {table}")),
        ("rule", format!("{host} nft flush chain inet {table} nat")),
        ("rule", format!("{host} nft add element inet {table} members4 {{ 192.168.140.77 }}")),
        ("rule", format!("{host} nft insert rule inet {table} vtep accept")),
        ("rule", format!("{host} nft flush chain inet {table} vtep_out")),
        ("forwarding", format!("{host} sysctl -qw net.ipv4.conf.{gateway}.forwarding=0")),
    ];
    for (kind, damage) in damages {
        run(&damage);
        let pass = one.pass(&pair.cluster.state);
        pass.check();
        assert!(!pass.steps.is_empty(), "{kind}: `{damage}` was not noticed");
        one.settle(&pair.cluster.state);
        pair.works(&format!("after `{damage}`"));
    }
}

#[test]
fn without_its_file_the_namespace_goes_on_and_gets_it_back() {
    let pair = Pair::new();
    let traffic = Traffic::start(&pair.c1, "10.0.0.3");
    run(&format!("ip netns del {}", pair.one.names.netns));
    let pass = pair.one.settle(&pair.cluster.state);
    assert_eq!(pass.text(), "change our namespace without its file to our namespace\n");
    assert!(pair.one.overlay("ip link show vx65536").contains("vx65536"));
    // Somebody else's namespace under its name loses the name.
    let name = &pair.one.names.netns;
    run(&format!("ip netns del {name} && ip netns add {name}"));
    pair.one.settle(&pair.cluster.state);
    assert!(pair.one.overlay("ip link show vx65536").contains("vx65536"));
    Traffic::goes_on(&pair.c1);
    let (sent, lost) = traffic.end();
    assert!(sent > 10 && lost == 0, "{lost} of {sent} lost");
}

#[test]
fn a_namespace_that_is_gone_is_made_again() {
    let mut pair = Pair::new();
    pair.one.stop();
    run(&format!("ip netns del {}", pair.one.names.netns));
    wait_for("eth0 to go with its other end", || !pair.c1.try_run("ip link show eth0").status.success());
    pair.one.start();
    pair.one.settle(&pair.cluster.state);
    pair.works("after the namespace was made again");
}

#[test]
fn a_restart_changes_nothing_and_loses_nothing() {
    let mut pair = Pair::new();
    let traffic = Traffic::start(&pair.c1, "10.0.0.3");
    for _ in 0..3 {
        pair.one.stop();
        pair.one.start();
        let pass = pair.one.pass(&pair.cluster.state);
        assert!(pass.steps.is_empty(), "the first pass after a restart:\n{}", pass.text());
    }
    Traffic::goes_on(&pair.c1);
    let (_, lost) = traffic.end();
    assert_eq!(lost, 0);
}

#[test]
fn a_sandbox_that_vanished_is_told_and_one_that_hides_is_left_alone() {
    let mut pair = Pair::new();
    // Its file is gone, but a process lives in it.
    let net = format!("--net={}", pair.c1.path());
    let mut process = Command::new("nsenter").args([&net, "sleep", "60"]).spawn().unwrap();
    let pid = process.id();
    wait_for("the process to be in the namespace", || {
        let inode = |path: &str| run(&format!("stat -Lc %i {path}"));
        inode(&pair.c1.path()) == inode(&format!("/proc/{pid}/ns/net"))
    });
    run(&format!("ip netns del {}", pair.c1.0));
    let pass = pair.one.pass(&pair.cluster.state);
    assert!(
        matches!(pass.observed.sandboxes.values().next(), Some(SandboxState::Hidden(_))),
        "{:?}",
        pass.observed.sandboxes
    );
    assert!(pass.steps.is_empty(), "{}", pass.text());
    assert!(run(&format!("nsenter --net=/proc/{pid}/ns/net ping -c 1 -W 1 10.0.0.3")).contains("1 received"));

    process.kill().unwrap();
    process.wait().unwrap();
    wait_for("the sandbox to be told as vanished", || {
        let pass = pair.one.pass(&pair.cluster.state);
        assert!(pass.steps.iter().all(|s| s.object().sandbox().is_none()), "{}", pass.text());
        matches!(pass.observed.sandboxes.values().next(), Some(SandboxState::Vanished(_)))
    });
    // Another namespace under the same path is another sandbox.
    run(&format!("ip netns add {}", pair.c1.0));
    let pass = pair.one.pass(&pair.cluster.state);
    let state = pass.observed.sandboxes.values().next().unwrap();
    assert!(
        matches!(state, SandboxState::Vanished(text) if text.contains("is not the network namespace")),
        "{state:?}"
    );
    assert_eq!(pair.c1.run("ip -br link").lines().count(), 1);
    // Released, its rest goes.
    pair.cluster.state.endpoints.remove(&pontoon_store::model::id::EndpointId(11));
    pair.cluster.state.reindex();
    pair.one.settle(&pair.cluster.state);
    assert!(!pair.one.overlay("ip link").contains("vx65536"));
}

#[test]
fn what_is_in_the_way_is_named() {
    let lan = Lan::new();
    let one = Host::on(&lan, 1);
    let (c1, c2) = (Netns::new("c"), Netns::new("c"));
    let mut cluster = Cluster1::new(&[&one]);
    cluster.network(10, 65_536, &["10.0.0.0/24"], true);
    cluster.network(20, 65_537, &["10.0.1.0/24"], true);
    cluster.endpoint(11, 10, one.id, &["10.0.0.2"], &c1);
    cluster.endpoint(21, 20, one.id, &["10.0.1.2"], &c2);
    one.netns.run("ip link add theirs type vxlan id 65536 dstport 4789 dev ens33");
    c2.run("ip link add eth0 type bridge");
    let pass = one.pass(&cluster.state);
    let text = pass.text();
    for part in ["VNI 65536 on UDP port 4789 is in use by another program", "has an interface of that name already"] {
        assert!(text.contains(part), "{text}");
    }
    one.netns.run("ip link del theirs");
    c2.run("ip link del eth0");
    one.settle(&cluster.state);
}

#[test]
fn what_the_container_or_the_host_has_of_its_own_stays() {
    let pair = Pair::new();
    pair.c1
        .run("ip addr add 10.0.0.200/24 dev eth0 && ip link add own type bridge && ip route add 10.50.0.0/16 dev eth0");
    pair.one.netns.run("ip link add own type bridge && nft add table inet own");
    let pass = pair.one.pass(&pair.cluster.state);
    assert!(pass.steps.is_empty(), "{}", pass.text());
}

#[test]
fn leaving_takes_away_all_of_ours_and_nothing_else() {
    let pair = Pair::new();
    let (one, c1) = (&pair.one, &pair.c1);
    one.netns.run("nft add table inet own");
    let failures = one.with(|kernel| kernel.remove_all().unwrap());
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(one.netns.run("nft list tables").trim(), "table inet own");
    let links = one.netns.run("ip -br link");
    assert!(links.contains("ens33") && links.lines().count() == 2, "{links}");
    assert_eq!(
        one.netns.run("sysctl -n net.ipv4.conf.ens33.forwarding net.ipv6.conf.ens33.force_forwarding"),
        "0\n0\n"
    );
    assert!(!try_run(&format!("ls /run/netns/{}", one.names.netns)).status.success());
    wait_for("the container's interfaces to go", || c1.run("ip -br link").lines().count() == 1);
    let observed = one.with(|kernel| kernel.observe(&Desired::default()).unwrap());
    assert!(observed.objects.is_empty(), "{:?}", observed.objects);
}

#[test]
fn an_interface_of_the_containers_own_gets_no_address_of_ours() {
    let lan = Lan::new();
    let one = Host::on(&lan, 1);
    let mut cluster = Cluster1::new(&[&one]);
    cluster.network(10, 65_536, &["10.0.0.0/24", "fd00:10::/64"], false);
    // One that has a bridge where ours is to be, and one with a veth of its own there.
    let own = ["ip link add eth0 type bridge", "ip link add eth0 type veth peer name other"];
    for (number, own) in own.into_iter().enumerate() {
        let c = Netns::new("c");
        // Its way out is no less in the way.
        c.run(&format!("{own} && ip link add eth1 type bridge"));
        let id = 11 + u64::try_from(number).unwrap();
        cluster.endpoint(id, 10, one.id, &[&format!("10.0.0.{id}"), &format!("fd00:10::{id}")], &c);
        let show = "ip -br link && ip -br -4 address && ip -br -6 address show scope global && ip route && ip -6 route";
        let before = c.run(show);
        for _ in 0..2 {
            let pass = one.pass(&cluster.state);
            let text = pass.text();
            for part in ["cannot create interface eth0", "interface eth0 in ", "interface eth1 in ", "is not ours"] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert_eq!(c.run(show), before, "{text}");
        }
        cluster.state.endpoints.remove(&pontoon_store::model::id::EndpointId(id));
        cluster.state.reindex();
        one.settle(&cluster.state);
        assert_eq!(c.run(show), before, "after it was given up");
    }
}

#[test]
fn a_bridge_of_the_hosts_own_under_our_name_is_left_alone() {
    let lan = Lan::new();
    let one = Host::on(&lan, 1);
    let c1 = Netns::new("c");
    let mut cluster = Cluster1::new(&[&one]);
    cluster.network(10, 65_536, &["10.0.0.0/24"], false);
    cluster.endpoint(11, 10, one.id, &["10.0.0.2"], &c1);
    one.netns.run("ip link add pontoon_gw type bridge && ip addr add 10.77.0.1/24 dev pontoon_gw");
    let show = "ip -d link show pontoon_gw && ip addr show pontoon_gw && sysctl -a --pattern conf.pontoon_gw";
    let before = one.netns.run(show);
    for _ in 0..2 {
        let pass = one.pass(&cluster.state);
        let text = pass.text();
        assert!(text.contains("interface pontoon_gw of the host is not ours"), "{text}");
        assert!(text.contains("--gateway-bridge"), "{text}");
        assert_eq!(one.netns.run(show), before, "{text}");
        let table = one.netns.run(&format!("nft list table inet {}", one.names.table()));
        assert!(!table.contains("pontoon_gw"), "{table}");
    }
    let failures = one.with(|kernel| kernel.remove_all().unwrap());
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(one.netns.run(show), before, "after leaving");
    // Given back, the name is used.
    one.netns.run("ip link del pontoon_gw");
    one.settle(&cluster.state);
    assert!(c1.pings("192.168.140.1"));
}

#[test]
fn a_namespace_that_somebody_else_uses_is_not_taken() {
    let lan = Lan::new();
    let host = Host::on(&lan, 1);
    let name = host.names.netns.clone();
    run(&format!("ip netns add {name}"));
    run(&format!("ip -n {name} link add eth7 type bridge"));
    run(&format!("ip -n {name} link set eth7 up"));
    let refusal = host.with(|linux| linux.observe(&Desired::default()).map(drop).map_err(|error| error.to_string()));
    let refusal = refusal.unwrap_err();
    assert!(refusal.contains("eth7") && refusal.contains("--netns"), "{refusal}");
    assert!(host.with(|linux| linux.remove_all().is_err()));
    run(&format!("ip -n {name} link show eth7"));
    run(&format!("ip -n {name} link del eth7"));
    host.with(|linux| linux.observe(&Desired::default()).map(drop).unwrap());
}
