//! Tables: what each command does and why it is refused.

mod admins;
mod endpoints;
mod engines;
mod leases;
mod networks;
mod nodes;
mod requests;
mod tokens;
mod voters;
mod voting;

use std::net::{IpAddr, SocketAddr};

use crate::model::apply::{Applied, Change};
use crate::model::command::{
    AdmitNode, Command, CreateEndpoint, CreateNetwork, FEATURE_LEVEL, Outcome, ReportNode, WantedSubnet,
};
use crate::model::entry::{Entry, RequestId};
use crate::model::id::{ClusterId, NodeId, RaftId};
use crate::model::object::{Cluster, Endpoint, Family, Network, Node, Pool, Route, Sandbox};
use crate::model::rejection::{Reason, Rejection};
use crate::model::state::State;

/// A state with a clock and a log.
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) index: u64,
    pub(crate) now_ms: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { state: State::empty(), index: 1, now_ms: 1_000_000_000 }
    }

    /// A cluster of `n1` alone.
    pub(crate) fn founded() -> Self {
        let mut world = Self::new();
        world.ok(Command::FoundCluster { cluster: settings(), node: admission(1), sealed_key: Vec::new() });
        world
    }

    /// A cluster with nodes `n1` to `n3` that reported an underlay MTU of 1500, and network `web`.
    pub(crate) fn with_network() -> (Self, Network) {
        let mut world = Self::founded();
        world.ok(Command::AdmitNode(admission(2)));
        world.ok(Command::AdmitNode(admission(3)));
        for n in 1..=3 {
            let node = world.node(n).id;
            world.ok(Command::ReportNode(report(node)));
        }
        let network = world.network(named("web"));
        (world, network)
    }

    /// Applies a command as a new request, and checks what must hold whatever it is.
    pub(crate) fn apply(&mut self, command: Command) -> Applied {
        self.index += 1;
        let request = RequestId { node: NodeId(0), run: 7, seq: self.index };
        let before = self.state.clone();
        let applied = self.state.apply(self.index, &Entry { time_ms: self.now_ms, request, command, origin: None });
        assert_eq!(self.state.check(), [], "{applied:?}");
        if applied.result.is_err() {
            let objects = |state: &State| {
                let State { cluster, nodes, networks, endpoints, leases, tokens, .. } = state.clone();
                (cluster, nodes, networks, endpoints, leases, tokens)
            };
            assert_eq!(objects(&before), objects(&self.state), "a refused command changed something");
            assert!(applied.changes.iter().all(|change| matches!(change, Change::Answer(..))), "{applied:?}");
        }
        applied
    }

    #[track_caller]
    pub(crate) fn ok(&mut self, command: Command) -> Outcome {
        self.apply(command).result.expect("accepted")
    }

    /// Applies a command that is refused for this reason; message and hint together hold these texts.
    #[track_caller]
    pub(crate) fn refused(&mut self, command: Command, reason: Reason, texts: &[&str]) -> Rejection {
        let rejection = self.apply(command).result.expect_err("refused");
        assert_eq!(rejection.reason, reason, "{rejection:?}");
        let told = format!("{} / {}", rejection.message, rejection.hint);
        texts.iter().for_each(|text| assert!(told.contains(text), "{text:?} is not in {told:?}"));
        assert!(!rejection.hint.is_empty());
        rejection
    }

    #[track_caller]
    pub(crate) fn network(&mut self, wanted: CreateNetwork) -> Network {
        match self.ok(Command::CreateNetwork(wanted)) {
            Outcome::Network(network) => network,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn endpoint(&mut self, wanted: CreateEndpoint) -> Endpoint {
        match self.ok(Command::CreateEndpoint(wanted)) {
            Outcome::Endpoint(endpoint) => endpoint,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn node(&self, n: u8) -> Node {
        self.state.node_named(&format!("n{n}")).expect("admitted").clone()
    }

    /// A container on node `n`, in a sandbox of its own.
    pub(crate) fn container(&self, network: &Network, n: u8, name: &str) -> CreateEndpoint {
        container(network, &self.node(n), name)
    }

    pub(crate) fn remove(&mut self, endpoint: &Endpoint) {
        self.ok(Command::RemoveEndpoint { endpoint: endpoint.id, epoch: endpoint.epoch });
    }
}

pub(crate) fn settings() -> Cluster {
    Cluster {
        id: ClusterId(0xabc),
        created_ms: 0,
        pools: vec![Pool { cidr: "10.0.0.0/8".parse().unwrap(), prefix: 24 }],
        pool6: "fd12:3456:789a::/48".parse().unwrap(),
        vxlan_port: 4789,
        feature_level: 0,
        underlay: Family::V4,
        voters: None,
        replace_after_ms: None,
        authorities: Vec::new(),
        crossed: Vec::new(),
        authority: 1,
        locked: false,
    }
}

/// Node `nN` at 192.168.140.N.
pub(crate) fn admission(n: u8) -> AdmitNode {
    AdmitNode {
        name: format!("n{n}"),
        advertise: SocketAddr::from(([192, 168, 140, n], 7300)),
        data_addr: IpAddr::from([192, 168, 140, n]),
        public_key: [n; 32],
        version: "0.1.0".to_owned(),
        feature_level: FEATURE_LEVEL,
        raft_id: (n == 1).then_some(RaftId(1)),
        attempt: 1000 + u64::from(n),
        voter_only: false,
        token: None,
        replaces: String::new(),
    }
}

pub(crate) fn report(node: NodeId) -> ReportNode {
    ReportNode {
        node,
        version: "0.1.0".to_owned(),
        feature_level: FEATURE_LEVEL,
        routes: vec![
            Route { destination: "192.168.140.0/24".parse().unwrap(), device: "ens33".to_owned() },
            Route { destination: "172.17.0.0/16".parse().unwrap(), device: "docker0".to_owned() },
        ],
        underlay_mtu: 1500,
        egress_subnets: vec!["172.18.0.0/16".parse().unwrap()],
        engine: "Docker 20.10.24".to_owned(),
    }
}

pub(crate) fn named(name: &str) -> CreateNetwork {
    CreateNetwork { name: name.to_owned(), ..CreateNetwork::default() }
}

pub(crate) fn on(cidr: &str) -> WantedSubnet {
    WantedSubnet { cidr: cidr.parse().unwrap(), gateway: None, ip_range: None }
}

pub(crate) fn with_subnets(name: &str, cidrs: &[&str]) -> CreateNetwork {
    CreateNetwork { subnets: cidrs.iter().map(|cidr| on(cidr)).collect(), ..named(name) }
}

pub(crate) fn container(network: &Network, node: &Node, name: &str) -> CreateEndpoint {
    CreateEndpoint {
        network: network.id,
        node: node.id,
        name: name.to_owned(),
        container_id: String::new(),
        aliases: Vec::new(),
        mac: None,
        addresses: Vec::new(),
        sandbox: Sandbox { netns: format!("/run/netns/{name}"), key: format!("{}-{name}", node.name) },
        ifname: None,
        engine_id: String::new(),
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
