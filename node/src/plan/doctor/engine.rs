//! Docker: its engine, and our drivers in it.

use pontoon_store::model::id::NodeId;
use pontoon_store::model::object::Network;
use pontoon_store::model::state::State;

use super::{Check, Finding, count};
use crate::plan::engine::SeenNetwork;

/// Where engines look for the drivers (moby: pkg/plugins/discovery.go).
const SOUGHT: &str = "/run/docker/plugins/pontoon.sock";

/// What was seen of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineLook {
    /// It answers.
    Answers {
        /// Its version.
        version: String,
        /// The newest version of its API.
        api: String,
        /// Its networks.
        networks: Vec<SeenNetwork>,
    },
    /// It does not.
    Silent {
        /// Why.
        why: String,
        /// Whether its socket is there.
        socket: bool,
        /// Where its program was found.
        program: Option<String>,
    },
}

impl EngineLook {
    /// Whether this host has Docker, be it that it does not answer now. `used`: the cluster knows networks that this
    /// engine has.
    pub fn is_here(&self, used: bool) -> bool {
        used || !matches!(self, Self::Silent { socket: false, program: None, .. })
    }
}

/// Whether the engine answers at its socket; `look` is none when the daemon has nothing to do with Docker. `used`: as
/// for [`EngineLook::is_here`].
pub fn engine(socket: &str, look: Option<&EngineLook>, used: bool) -> Finding {
    match look {
        None => Finding::ok(Check::Engine, "switched off (--docker off)"),
        Some(EngineLook::Answers { version, api, .. }) => {
            Finding::ok(Check::Engine, format!("Docker {version} (API {api}) answers at {socket}"))
        }
        Some(look @ EngineLook::Silent { why, .. }) if !look.is_here(used) => {
            let evidence = format!("Docker is not installed: there is no dockerd and no {socket}: {why}");
            let cure = "start pontoond with --docker off if this host is to have no Docker, or with --docker PATH if its \
                        socket is elsewhere";
            Finding::warning(Check::Engine, evidence, cure)
        }
        Some(EngineLook::Silent { why, program, .. }) => {
            let program = program.as_deref().map(|path| format!(" ({path} is installed)")).unwrap_or_default();
            let cure = "systemctl start docker (journalctl -u docker says why it ended); start pontoond with --docker PATH if \
                        its socket is elsewhere, or with --docker off to leave Docker alone";
            Finding::failure(Check::Engine, format!("Docker does not answer at {socket}: {why}{program}"), cure)
        }
    }
}

/// What was seen of our drivers' socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginLook {
    /// Its path, without symbolic links in its folder.
    pub path: String,
    /// None: this daemon answers there as a driver. Else what is there instead.
    pub problem: Option<String>,
    /// A file tells Docker of a socket that is elsewhere.
    pub told: bool,
}

/// Whether Docker finds our drivers and has the cluster's networks. `cluster`: what is known and which node this is;
/// `trouble`: what the loop that makes them there says.
pub fn driver(
    plugin: &PluginLook,
    engine: &EngineLook,
    cluster: Option<(&State, NodeId)>,
    trouble: Option<&str>,
) -> Finding {
    let path = &plugin.path;
    if let Some(problem) = &plugin.problem {
        let evidence = format!("this daemon does not answer at {path}: {problem}");
        let cure = "systemctl restart pontoond makes the socket again; stop whatever else uses the path";
        return Finding::failure(Check::Driver, evidence, cure);
    }
    if path != SOUGHT && !plugin.told {
        let evidence = format!("this daemon answers at {path}, but Docker looks for it at {SOUGHT}");
        let cure = format!(
            "leave --docker-plugin out of pontoond's options, or tell Docker: echo unix://{path} \
             >/etc/docker/plugins/pontoon.spec"
        );
        return Finding::failure(Check::Driver, evidence, cure);
    }
    let mut evidence = format!("this daemon answers at {path}");
    let EngineLook::Answers { networks, .. } = engine else { return Finding::ok(Check::Driver, evidence) };
    let ours: Vec<&SeenNetwork> = networks.iter().filter(|network| network.ours).collect();
    let missing: Vec<&str> = cluster.map_or_else(Vec::new, |(state, me)| {
        let wanted = state.networks.values().filter(|network| !network.provisional);
        wanted.filter(|network| !is_there(state, me, network, &ours)).map(|network| network.name.as_str()).collect()
    });
    evidence += &format!("; Docker has {} of the driver pontoon", count(ours.len(), "network"));
    if missing.is_empty() {
        return Finding::ok(Check::Driver, evidence);
    }
    let evidence = match trouble {
        Some(trouble) => format!("{evidence} and lacks {}: {trouble}", missing.join(", ")),
        None => format!("{evidence} and lacks {}", missing.join(", ")),
    };
    let cure = "a new network is there after a moment; if it stays away, remove what is in its way in Docker (docker network \
                ls: a network of the same name or subnet), and the log of pontoond says more";
    Finding::warning(Check::Driver, evidence, cure)
}

fn is_there(state: &State, me: NodeId, network: &Network, ours: &[&SeenNetwork]) -> bool {
    let known = |seen: &SeenNetwork| state.network_of_engine(me, &seen.id).is_some_and(|known| known.id == network.id);
    ours.iter().any(|seen| seen.is_for(state, network.id) || known(seen))
}
