//! Hosts and containers as network namespaces.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use pontoon_node::kernel::{self, Kernel, KernelError, Linux};
use pontoon_node::plan::desired::{Names, desired};
use pontoon_node::plan::diff::{Step, plan};
use pontoon_node::plan::observed::Observed;
use pontoon_store::model::id::{ClusterId, EndpointId, Mac, NetworkId, NodeId, RaftId, Vni};
use pontoon_store::model::object::{
    Cluster, EgressInterface, Endpoint, EndpointState, Family, Network, Node, NodeState, Sandbox, Subnet, Voting,
};
use pontoon_store::model::state::State;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A name that no other test of this machine uses.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}{:x}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Runs a command and returns its output.
#[track_caller]
pub(crate) fn run(command: &str) -> String {
    let output = try_run(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}` failed: {stderr}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn try_run(command: &str) -> Output {
    Command::new("sh").args(["-c", command]).output().unwrap()
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// A network namespace, gone with the value.
pub(crate) struct Netns(pub(crate) String);

impl Netns {
    pub(crate) fn new(prefix: &str) -> Self {
        let name = unique(prefix);
        run(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        Self(name)
    }

    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    #[track_caller]
    pub(crate) fn run(&self, command: &str) -> String {
        run(&self.command(command))
    }

    pub(crate) fn try_run(&self, command: &str) -> Output {
        try_run(&self.command(command))
    }

    fn command(&self, command: &str) -> String {
        format!("nsenter --net={} sh -c '{command}'", self.path())
    }

    /// Frames that its eth0 has received.
    pub(crate) fn received(&self) -> u64 {
        let text = self.run("ip -s link show eth0");
        let counters = text.lines().skip_while(|l| !l.contains("RX:")).nth(1).unwrap();
        counters.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Whether an address answers.
    pub(crate) fn pings(&self, address: &str) -> bool {
        self.try_run(&format!("ping -c 1 -W 1 {address}")).status.success()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = try_run(&format!("ip netns del {}", self.0));
    }
}

/// Enters a namespace with the calling thread.
pub(crate) fn enter(path: &str) {
    setns(File::open(path).unwrap().as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
}

type Job = Box<dyn FnOnce(&mut Linux) + Send>;

/// A host: its namespace, and a thread in it that has its kernel.
pub(crate) struct Host {
    pub(crate) netns: Netns,
    pub(crate) names: Names,
    pub(crate) id: NodeId,
    pub(crate) address: IpAddr,
    /// The namespace that its daemon runs in.
    place: String,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// A host on a LAN.
    pub(crate) fn on(lan: &Lan, id: u64) -> Self {
        let netns = Netns::new("h");
        let (host, lan_name, port) = (&netns.0, &lan.0.0, format!("p{id}"));
        run(&format!("ip link add ens33 netns {host} type veth peer name {port} netns {lan_name}"));
        run(&format!("ip -n {lan_name} link set {port} master br0 up"));
        let address = Ipv4Addr::new(192, 168, 140, 199 + u8::try_from(id).unwrap());
        run(&format!("ip -n {host} addr add {address}/24 dev ens33"));
        run(&format!("ip -n {host} addr add fd00:140::{id}/64 dev ens33 nodad"));
        run(&format!("ip -n {host} link set ens33 up"));
        let names = Names { netns: unique("o"), gateway: "pontoon_gw".into() };
        let place = netns.path();
        let mut host = Self { netns, names, id: NodeId(id), address: address.into(), place, jobs: None, thread: None };
        host.start();
        host
    }

    /// Starts this host's daemon on another host, with a gateway bridge and a VTEP of its own.
    pub(crate) fn move_to(&mut self, host: &Host, address: IpAddr) {
        self.place = host.netns.path();
        self.names.gateway = "other_gw".into();
        self.address = address;
        self.start();
    }

    /// Starts a daemon's kernel, in place of the one that runs.
    pub(crate) fn start(&mut self) {
        self.stop();
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (path, names) = (self.place.clone(), self.names.clone());
        self.thread = Some(std::thread::spawn(move || {
            enter(&path);
            let mut kernel = Linux::open(names).unwrap();
            for job in inbox {
                job(&mut kernel);
            }
        }));
        self.jobs = Some(jobs);
    }

    /// Ends the daemon's kernel, as a kill does.
    pub(crate) fn stop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub(crate) fn with<T: Send + 'static>(&self, work: impl FnOnce(&mut Linux) -> T + Send + 'static) -> T {
        let (answer, result) = mpsc::channel();
        let job: Job = Box::new(move |kernel| answer.send(work(kernel)).unwrap());
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result.recv().unwrap()
    }

    /// One pass of the loop, without the loop.
    pub(crate) fn pass(&self, state: &State) -> Pass {
        let (state, id, names, address) = (state.clone(), self.id, self.names.clone(), self.address);
        self.with(move |kernel| {
            let facts = kernel.facts(Some(address)).unwrap();
            let desired = desired(&state, id, &names, &facts);
            let observed = kernel.observe(&desired).unwrap();
            let steps = plan(&desired, &observed);
            let outcomes = kernel.execute(&steps);
            Pass { observed, steps, outcomes }
        })
    }

    /// Passes until nothing is left to do.
    #[track_caller]
    pub(crate) fn settle(&self, state: &State) -> Pass {
        let first = self.pass(state);
        first.check();
        let second = self.pass(state);
        assert!(second.steps.is_empty(), "the second pass is to be empty:\n{}", second.text());
        first
    }

    /// A command in the host's overlay namespace.
    #[track_caller]
    pub(crate) fn overlay(&self, command: &str) -> String {
        run(&format!("nsenter --net=/run/netns/{} sh -c '{command}'", self.names.netns))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
        let _ = try_run(&format!("ip netns del {}", self.names.netns));
    }
}

/// What a pass did.
pub(crate) struct Pass {
    pub(crate) observed: Observed,
    pub(crate) steps: Vec<Step>,
    pub(crate) outcomes: Vec<Result<(), KernelError>>,
}

impl Pass {
    pub(crate) fn text(&self) -> String {
        let lines = self.steps.iter().zip(&self.outcomes).map(|(step, outcome)| match outcome {
            Ok(()) => format!("{step}\n"),
            Err(error) => format!("{step}: {error}\n"),
        });
        lines.collect()
    }

    #[track_caller]
    pub(crate) fn check(&self) {
        assert!(self.outcomes.iter().all(Result::is_ok), "steps failed:\n{}", self.text());
    }
}

/// A LAN that hosts are on.
pub(crate) struct Lan(pub(crate) Netns);

impl Lan {
    pub(crate) fn new() -> Self {
        let netns = Netns::new("l");
        netns.run("ip link add br0 type bridge && ip link set br0 up");
        netns.run("ip addr add 192.168.140.1/24 dev br0 && ip addr add fd00:140::1/64 dev br0 nodad");
        Self(netns)
    }
}

/// A cluster's state, written by hand.
#[derive(Default)]
pub(crate) struct Cluster1 {
    pub(crate) state: State,
}

impl Cluster1 {
    pub(crate) fn new(hosts: &[&Host]) -> Self {
        let mut state = State::default();
        state.cluster = Some(Cluster {
            id: ClusterId(1),
            created_ms: 0,
            pools: vec![],
            pool6: "fd00:1234:5678::/48".parse().unwrap(),
            vxlan_port: 4789,
            feature_level: 1,
            underlay: Family::V4,
            voters: None,
            replace_after_ms: None,
            authorities: Vec::new(),
            crossed: Vec::new(),
            authority: 1,
            locked: false,
        });
        for host in hosts {
            let node = node(host.id, host.address);
            state.nodes.insert(host.id, node);
        }
        Self { state }
    }

    pub(crate) fn network(&mut self, id: u64, vni: u32, subnets: &[&str], internal: bool) {
        let subnets = subnets.iter().map(|s| s.parse().unwrap()).map(|cidr: ipnet::IpNet| Subnet {
            cidr,
            gateway: cidr.hosts().next().unwrap(),
            ip_range: None,
        });
        let network = Network {
            id: NetworkId(id),
            name: format!("net{id}"),
            vni: Vni::new(vni).unwrap(),
            subnets: subnets.collect(),
            mtu: 1450,
            internal,
            labels: BTreeMap::new(),
            created_ms: 0,
            engine: None,
            provisional: false,
        };
        self.state.networks.insert(network.id, network);
        self.state.applied_index += 1;
    }

    pub(crate) fn endpoint(&mut self, id: u64, network: u64, node: NodeId, addresses: &[&str], sandbox: &Netns) {
        let sandbox = kernel::sandbox(&sandbox.path()).unwrap();
        self.endpoint_in(id, network, node, addresses, sandbox);
    }

    pub(crate) fn endpoint_in(&mut self, id: u64, network: u64, node: NodeId, addresses: &[&str], sandbox: Sandbox) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let mac = match addresses[0] {
            IpAddr::V4(a) => Mac::of_ipv4(a),
            IpAddr::V6(_) => Mac::new([2, 0x42, 0xfd, 0, 0, u8::try_from(id).unwrap()]).unwrap(),
        };
        let internal = self.state.networks[&NetworkId(network)].internal;
        let others = self.state.endpoints.values().filter(|e| e.sandbox == sandbox).count();
        let first_way_out = !self.state.endpoints.values().any(|e| e.sandbox == sandbox && e.egress.is_some());
        let on_node = self.state.endpoints.values().filter(|e| e.node == node && e.egress.is_some()).count();
        let egress = (!internal && first_way_out)
            .then(|| EgressInterface { ifname: "eth1".into(), host: u32::try_from(on_node).unwrap() + 2 });
        let endpoint = Endpoint {
            id: EndpointId(id),
            network: NetworkId(network),
            node,
            name: format!("c{id}"),
            container_id: String::new(),
            aliases: vec![],
            mac,
            addresses,
            state: EndpointState::Pending,
            sandbox,
            ifname: if others == 0 { "eth0".into() } else { format!("eth{}", others + 1) },
            egress,
            created_ms: 0,
            epoch: 1,
            engine_id: String::new(),
            ports: vec![],
        };
        self.state.endpoints.insert(endpoint.id, endpoint);
        self.state.reindex();
        self.state.applied_index += 1;
    }
}

pub(crate) fn node(id: NodeId, address: IpAddr) -> Node {
    Node {
        id,
        raft_id: RaftId(id.0),
        name: format!("node{id}"),
        advertise: SocketAddr::new(address, 7300),
        data_addr: address,
        public_key: [0; 32],
        labels: BTreeMap::new(),
        version: String::new(),
        feature_level: 1,
        state: NodeState::Ready,
        joined_ms: 0,
        routes: vec![],
        underlay_mtu: 1500,
        egress_subnets: vec!["172.18.0.0/16".parse().unwrap()],
        attempt: 0,
        engine: String::new(),
        voting: Voting::Auto,
        voter_only: false,
        authority: 0,
        certificate_until_ms: 0,
    }
}
