//! A lab with a daemon on each host, in one cluster.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pontoon_proto::{JoinToken, Secret};
use serde_json::Value;

use super::daemon::tail;
use super::{Attached, Cli, Container, Daemon, DaemonOptions, Engine, EngineKind, Lab, Pinger};
use crate::wait_for;

/// How long the cluster may take to agree on something.
const AGREE: Duration = Duration::from_secs(20);

/// What a cluster is made like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Hosts.
    pub hosts: usize,
    /// Whether the daemons and VXLAN speak IPv6 to each other.
    pub underlay6: bool,
    /// More arguments for `pontoon init`.
    pub init: String,
    /// How the daemons are started.
    pub daemon: DaemonOptions,
    /// The Docker Engines of the first hosts. The others have none.
    pub engines: Vec<EngineKind>,
    /// When they are started.
    pub engines_start: EnginesStart,
}

/// When the Docker Engines of a cluster are started.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum EnginesStart {
    /// Before the daemons.
    First,
    /// Once the daemons answer.
    #[default]
    Last,
    /// By the scenario.
    ByHand,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hosts: 3,
            underlay6: false,
            init: String::new(),
            daemon: DaemonOptions::default(),
            engines: Vec::new(),
            engines_start: EnginesStart::default(),
        }
    }
}

/// A lab with a daemon on each host.
#[derive(Debug)]
pub struct Cluster {
    daemons: Vec<Daemon>,
    engines: Vec<Engine>,
    options: Options,
    /// What hosts join with, from the latest `pontoon init` on.
    token: Mutex<Option<String>>,
    // Removes what the daemons are in, so it goes after them.
    lab: Lab,
}

/// Runs a scenario on a cluster of three. If it fails, the daemons' logs are printed.
///
/// # Errors
///
/// The scenario's.
pub fn run(scenario: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    run_with(Options::default(), |cluster| {
        cluster.form()?;
        scenario(cluster)
    })
}

/// Runs a scenario on daemons that are in no cluster yet. If it fails, their logs are printed.
///
/// # Errors
///
/// The scenario's.
pub fn run_with(options: Options, scenario: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let mut cluster = Cluster::start(options)?;
    let result = scenario(&mut cluster);
    if result.is_err() {
        for (index, daemon) in cluster.daemons.iter().enumerate() {
            eprintln!("--- log of h{}\n{}", index + 1, tail(&daemon.log()));
        }
        for (index, engine) in cluster.engines.iter().enumerate() {
            eprintln!("--- log of the engine of h{}\n{}", index + 1, tail(&engine.log()));
        }
    }
    result
}

impl Cluster {
    /// Makes the hosts and starts the daemons, and the engines as it is asked for.
    fn start(options: Options) -> Result<Self> {
        let lab = Lab::new(options.hosts)?;
        let engine = |(&kind, host)| Engine::new(&lab, host, kind);
        let engines = options.engines.iter().zip(lab.hosts()).map(engine).collect::<Result<Vec<_>>>()?;
        let daemon = |host| Daemon::new(&lab, host, options.daemon.clone());
        let daemons = lab.hosts().iter().map(daemon).collect::<Result<Vec<_>>>()?;
        let mut cluster = Self { daemons, engines, options, token: Mutex::default(), lab };
        if cluster.options.engines_start == EnginesStart::First {
            cluster.start_engines()?;
        }
        cluster.daemons.iter_mut().try_for_each(Daemon::start)?;
        cluster.daemons.iter_mut().try_for_each(Daemon::wait_ready)?;
        if cluster.options.engines_start == EnginesStart::Last {
            cluster.start_engines()?;
        }
        Ok(cluster)
    }

    /// Starts the Docker Engines, all at once.
    ///
    /// # Errors
    ///
    /// One of them runs already, or does not start.
    pub fn start_engines(&mut self) -> Result<()> {
        self.engines.iter_mut().try_for_each(Engine::spawn)?;
        self.engines.iter_mut().try_for_each(Engine::wait_ready)
    }

    /// `pontoon init` on the first host, `pontoon join` on the others; waits until every node is ready.
    ///
    /// # Errors
    ///
    /// One of them failed.
    pub fn form(&mut self) -> Result<()> {
        self.init()?;
        for host in 1..self.daemons.len() {
            self.join(host, 0)?;
        }
        self.wait_all_ready()
    }

    /// `pontoon init` on the first host, with a token that is good for all others.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn init(&self) -> Result<Value> {
        let line = format!("init --advertise {} --name h1 --token-uses 1000 {}", self.advertise(0), self.options.init);
        let answer = self.cli(0).run(&line)?;
        self.set_token(answer["join_token"].as_str().context("init prints no token")?);
        Ok(answer)
    }

    /// What hosts join with from now on.
    pub fn set_token(&self, token: &str) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.to_owned());
    }

    /// What hosts join with: a token of a cluster that is none, before there is one.
    pub fn token(&self) -> String {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let nowhere = || JoinToken { digest: [0; 32], secret: Secret::new([0; 16]), addresses: Vec::new() };
        token.unwrap_or_else(|| nowhere().to_string())
    }

    /// The arguments that make a host join through another.
    pub fn join_line(&self, host: usize, through: usize) -> String {
        let (token, name) = (self.token(), &self.lab.hosts()[host].name);
        format!("join {token} {} --advertise {} --name {name}", self.advertise(through), self.advertise(host))
    }

    /// `pontoon join` on a host, through another.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn join(&self, host: usize, through: usize) -> Result<Value> {
        self.cli(host).run(&self.join_line(host, through))
    }

    /// The address that others reach a host's daemon at.
    pub fn advertise(&self, host: usize) -> String {
        self.lab.hosts()[host].address_of(self.options.underlay6).to_string()
    }

    /// A daemon.
    pub fn daemon(&mut self, host: usize) -> &mut Daemon {
        &mut self.daemons[host]
    }

    /// All daemons.
    pub fn daemons(&mut self) -> &mut [Daemon] {
        &mut self.daemons
    }

    /// The Docker Engine of a host.
    pub fn engine(&self, host: usize) -> &Engine {
        &self.engines[host]
    }

    /// The Docker Engine of a host, to start and stop.
    pub fn engine_mut(&mut self, host: usize) -> &mut Engine {
        &mut self.engines[host]
    }

    /// The `pontoon` command on a host.
    pub fn cli(&self, host: usize) -> Cli {
        self.daemons[host].cli()
    }

    /// The namespace that a host's overlay bridges are in.
    pub fn overlay(&self, host: usize) -> &super::Netns {
        self.daemons[host].overlay()
    }

    /// `pontoon status` on a host.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn status(&self, host: usize) -> Result<Value> {
        self.cli(host).run("status")
    }

    /// Makes a container on a host, attached to nothing.
    ///
    /// # Errors
    ///
    /// Its namespace cannot be made.
    pub fn container(&self, host: usize, name: &str) -> Result<Container> {
        let netns = self.lab.netns(&format!("c-{name}"))?;
        Ok(Container { name: name.to_owned(), netns, host })
    }

    /// `pontoon attach`, with more arguments.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn attach(&self, container: &Container, network: &str, more: &str) -> Result<Attached> {
        let answer = self.cli(container.host).run(&container.attach_line(network, more))?;
        Attached::parse(&answer)
    }

    /// Makes a container on a host and attaches it.
    ///
    /// # Errors
    ///
    /// One of them failed.
    pub fn attached(&self, host: usize, name: &str, network: &str) -> Result<(Container, Attached)> {
        let container = self.container(host, name)?;
        let attached = self.attach(&container, network, "")?;
        Ok((container, attached))
    }

    /// Starts pinging from one container to another one's first address.
    ///
    /// # Errors
    ///
    /// There is no answer.
    pub fn pinger(&self, from: &Container, to: &Attached) -> Result<Pinger> {
        let address = *to.addresses.first().context("it has no address")?;
        Pinger::start(&from.netns, address, self.file(&format!("ping-{}-{address}", from.name)))
    }

    /// A file of this lab.
    pub fn file(&self, name: &str) -> PathBuf {
        self.lab.dir().join(name)
    }

    /// The host that leads, as the daemons that run see it: they agree, and it is one of them.
    ///
    /// # Errors
    ///
    /// They do not within 20 s.
    pub fn leader(&self) -> Result<usize> {
        let running: Vec<usize> = (0..self.daemons.len()).filter(|&host| self.daemons[host].pid().is_some()).collect();
        wait_for("one leader", AGREE, || {
            let mut seen = Vec::new();
            let mut leader = None;
            for &host in &running {
                let status = self.status(host)?;
                seen.push(status["leader"].as_u64().unwrap_or_default());
                if status["leader"] == status["node_id"] && status["leader"] != 0 {
                    leader = Some(host);
                }
            }
            ensure!(seen.windows(2).all(|pair| pair[0] == pair[1]), "they do not agree: {seen:?}");
            leader.context("the leader is none that runs")
        })
    }

    /// Waits until every daemon sees every node ready, and has carried out what it knows.
    ///
    /// # Errors
    ///
    /// Not within 20 s.
    pub fn wait_all_ready(&self) -> Result<()> {
        wait_for("all nodes to be ready", AGREE, || {
            for host in 0..self.daemons.len() {
                let status = self.status(host)?;
                let members = status["members"].as_array().context("no members")?;
                ensure!(members.len() == self.daemons.len(), "h{} knows {} members", host + 1, members.len());
                for member in members {
                    ensure!(member["node"]["state"] == "ready", "h{} sees {}", host + 1, member["node"]);
                }
                ensure!(status["data_plane"]["first_pass_done"] == true, "h{}: {}", host + 1, status["data_plane"]);
            }
            Ok(())
        })
    }

    /// Waits until all nodes have applied the same entries, and checks that they made the same of them.
    ///
    /// # Errors
    ///
    /// Not within 20 s, or the states differ.
    pub fn wait_same_state(&self) -> Result<()> {
        let (index, hashes) = wait_for("all nodes to have applied the same", AGREE, || {
            let statuses = (0..self.daemons.len()).map(|host| self.status(host)).collect::<Result<Vec<_>>>()?;
            let indices: Vec<&Value> = statuses.iter().map(|status| &status["applied_index"]).collect();
            ensure!(indices.windows(2).all(|pair| pair[0] == pair[1]), "they have applied {indices:?}");
            // Observers have none.
            let hashes = statuses.iter().map(|status| status["state_hash"].to_string());
            let hashes: Vec<String> = hashes.filter(|hash| hash != "\"\"").collect();
            Ok((indices[0].clone(), hashes))
        })?;
        if hashes.windows(2).any(|pair| pair[0] != pair[1]) {
            bail!("the nodes' states differ at index {index}: {hashes:?}");
        }
        Ok(())
    }
}

impl Deref for Cluster {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}
