//! TCP and small packets: between the bare hosts, over a VXLAN made by hand, and over the overlay.

use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::lab::{LAN_INTERFACE, Lab, Netns, run};
use pontoon_tests::wait_for;
use serde_json::Value;

use crate::stats::{median, number, ratio};
use pontoon_tests::Section;

/// How often the ways take turns.
const ROUNDS: usize = 3;
/// Seconds of each measurement.
const SECONDS: &str = "2";
/// Port of iperf3.
const IPERF: &str = "5201";
/// Port of sockperf.
const SOCKPERF: &str = "11111";
/// How long a way may take until it is there.
const READY: Duration = Duration::from_secs(10);
/// Payload of a small packet, in bytes.
const SMALL: &str = "64";

/// A way from one namespace to another.
struct Way {
    client: Netns,
    address: IpAddr,
    seen: [Vec<f64>; 5],
    // Ended when the way is dropped.
    _servers: [Server; 2],
}

/// A server program.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and the lab's guard ends what is left.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(netns: &Netns, port: &str, program: &str, args: &[&str]) -> Result<Self> {
        let mut command = netns.command(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self(command.spawn().with_context(|| format!("cannot start {program}"))?);
        wait_for(&format!("{program} to listen"), READY, || {
            let listening = netns.run("ss", &["-Hltn", &format!("sport = :{port}")])?;
            ensure!(!listening.is_empty(), "it does not");
            Ok(())
        })?;
        Ok(server)
    }
}

/// Measures and reports.
pub(crate) fn measure() -> Result<Section> {
    // Hosts of their own, without any Pontoon.
    let bare = Lab::new(2)?;
    let mut ways = Vec::new();
    run(|cluster| {
        cluster.cli(0).run("network create my-overlay")?;
        let (client, _) = cluster.attached(0, "c1", "my-overlay")?;
        let (server, to) = cluster.attached(1, "c2", "my-overlay")?;
        wait_for("the overlay", READY, || client.netns.reaches(to.addresses[0], 1))?;
        let hosts = bare.hosts();
        ways.push(Way::new(&hosts[0].netns, &hosts[1].netns, hosts[1].address.into())?);
        let [one, two] = make_by_hand(&bare)?;
        ways.push(Way::new(&one, &two, "10.99.0.2".parse()?)?);
        ways.push(Way::new(&client.netns, &server.netns, to.addresses[0])?);
        for _ in 0..ROUNDS {
            ways.iter_mut().try_for_each(Way::measure)?;
        }
        Ok(())
    })?;
    Ok(section(&ways))
}

fn section(ways: &[Way]) -> Section {
    let what = [
        "TCP, 1 stream, Gbit/s",
        "TCP, 4 streams, Gbit/s",
        "UDP, 64 bytes, packets/s received",
        "TCP, 64 bytes there and back, half of it, p50 µs",
        "the same, p99 µs",
    ];
    let row = |(index, what): (usize, &&str)| {
        let seen: Vec<f64> = ways.iter().map(|way| median(&way.seen[index])).collect();
        let [bare, by_hand, overlay] = seen[..] else { unreachable!("there are three ways") };
        let shown = [bare, by_hand, overlay].map(number);
        let mut row = vec![(*what).to_owned()];
        row.extend(shown);
        row.extend([ratio(overlay, bare), ratio(overlay, by_hand)]);
        row
    };
    Section {
        title: "Traffic",
        how: format!(
            "Between two hosts: their own addresses; a VXLAN device and a bridge made with `ip` in the hosts' namespaces, with one \
             namespace plugged in on each; and two containers on a Pontoon network. The first two on hosts without Pontoon. iperf3 \
             and sockperf, {SECONDS} s each, in turn; medians of {ROUNDS}. Both ends share the machine's cores."
        ),
        header: vec!["", "bare hosts", "VXLAN by hand", "Pontoon", "of bare", "of by hand"],
        rows: what.iter().enumerate().map(row).collect(),
    }
}

/// A VXLAN device and a bridge on each of two hosts, and a namespace behind each: 10.99.0.1 and 10.99.0.2.
fn make_by_hand(lab: &Lab) -> Result<[Netns; 2]> {
    let mut made = Vec::new();
    for (index, host) in lab.hosts().iter().enumerate() {
        let peer = lab.hosts()[1 - index].address;
        let container = lab.netns(&format!("by-hand-{index}"))?;
        let netns = &host.netns;
        let local = host.address;
        netns.ip("link add br0 type bridge")?;
        let vxlan = format!("type vxlan id 100 local {local} remote {peer} dev {LAN_INTERFACE} dstport 4789");
        netns.ip(&format!("link add vx0 mtu 1450 {vxlan}"))?;
        netns.ip(&format!("link add port0 mtu 1450 type veth peer name eth0 mtu 1450 netns {}", container.name()))?;
        for device in ["vx0", "port0"] {
            netns.ip(&format!("link set {device} master br0 up"))?;
        }
        netns.ip("link set br0 up")?;
        container.ip(&format!("addr add 10.99.0.{}/24 dev eth0", index + 1))?;
        container.ip("link set eth0 up")?;
        made.push(container);
    }
    let [one, two] = <[Netns; 2]>::try_from(made).map_err(|_| anyhow::anyhow!("not two hosts"))?;
    wait_for("the VXLAN made by hand", READY, || one.reaches("10.99.0.2".parse()?, 1))?;
    Ok([one, two])
}

impl Way {
    fn new(client: &Netns, server: &Netns, address: IpAddr) -> Result<Self> {
        let servers = [
            Server::start(server, IPERF, "iperf3", &["--server", "--port", IPERF])?,
            Server::start(server, SOCKPERF, "sockperf", &["server", "--tcp", "--ip", "0.0.0.0", "--port", SOCKPERF])?,
        ];
        Ok(Self { client: client.clone(), address, seen: Default::default(), _servers: servers })
    }

    fn measure(&mut self) -> Result<()> {
        let [p50, p99] = self.ping_pong()?;
        let values = [self.tcp("1")?, self.tcp("4")?, self.udp()?, p50, p99];
        for (seen, value) in self.seen.iter_mut().zip(values) {
            seen.push(value);
        }
        Ok(())
    }

    /// Gbit/s received.
    fn tcp(&self, streams: &str) -> Result<f64> {
        let answer = self.iperf(&["--parallel", streams])?;
        let bits = answer["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(bits.with_context(|| format!("iperf3 printed {answer}"))? / 1e9)
    }

    /// Packets/s received.
    fn udp(&self) -> Result<f64> {
        let answer = self.iperf(&["--udp", "--length", SMALL, "--bitrate", "0"])?;
        let sum = &answer["end"]["sum"];
        let field = |name: &str| sum[name].as_f64().with_context(|| format!("iperf3 printed no {name}: {sum}"));
        Ok((field("packets")? - field("lost_packets")?) / field("seconds")?)
    }

    fn iperf(&self, args: &[&str]) -> Result<Value> {
        let address = self.address.to_string();
        let mut all = vec!["--client", &address, "--port", IPERF, "--time", SECONDS, "--json"];
        all.extend(args);
        let text = self.client.run("iperf3", &all)?;
        serde_json::from_str(&text).with_context(|| format!("iperf3 printed {text:?}"))
    }

    /// Microseconds one way: p50 and p99.
    fn ping_pong(&self) -> Result<[f64; 2]> {
        let address = self.address.to_string();
        let args = ["ping-pong", "--tcp", "--ip", &address, "--port", SOCKPERF, "--msg-size", SMALL, "--time", SECONDS];
        let text = self.client.run("sockperf", &args)?;
        let percentile = |name: &str| -> Result<f64> {
            let line = text.lines().find(|line| line.contains(&format!("percentile {name} =")));
            let value =
                line.and_then(|line| line.rsplit('=').next()).with_context(|| format!("sockperf printed {text}"))?;
            Ok(value.trim().parse()?)
        };
        Ok([percentile("50.000")?, percentile("99.000")?])
    }
}
