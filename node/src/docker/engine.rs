//! What is asked of Docker's engine, over its API.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{
    ContainerSummaryStateEnum, EndpointSettings, EventMessage, Ipam, IpamConfig, NetworkConnectRequest,
    NetworkCreateRequest, PortSummary,
};
use bollard::query_parameters::{EventsOptions, ListContainersOptions, ListNetworksOptions};
use futures::Stream;
use ipnet::IpNet;
use pontoon_store::model::id::NetworkId;
use pontoon_store::model::object::{Endpoint, LeaseState, Network};
use pontoon_store::model::state::State;
use thiserror::Error;
use tracing::warn;

use super::{CLUSTER_OPTION, DRIVER, NETWORK_OPTION};
use crate::plan::desired::host_of;
use crate::plan::doctor::DOCKER_GATEWAY;
use crate::plan::engine::{Seen, SeenAttachment, SeenContainer, SeenNetwork};

/// How long the engine may take to answer, in seconds: it may be busy starting many containers.
const TIMEOUT_S: u64 = 60;

/// The engine cannot be asked, or refuses.
#[derive(Debug, Error)]
#[error("cannot {operation}: {source}")]
pub(super) struct EngineError {
    operation: String,
    #[source]
    source: Error,
}

fn failed(operation: impl Into<String>) -> impl FnOnce(Error) -> EngineError {
    let operation = operation.into();
    move |source| EngineError { operation, source }
}

/// What of an engine is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Networks and containers.
    Everything,
    /// Containers, when no network has come or gone since. An engine such as 20.10 opens the file of its networks anew for
    /// each look at them, and a container that starts meanwhile waits 50 ms before it tries the file again (bbolt: flock in
    /// `bolt_unix.go`).
    Containers,
}

/// A connection to an engine.
#[derive(Debug, Clone)]
pub(super) struct Engine(Docker);

impl Engine {
    /// Connects, and agrees on a version of the API.
    pub(super) async fn connect(socket: &Path) -> Result<Self, EngineError> {
        let path = socket.display().to_string();
        let what = || format!("reach Docker at {path}");
        let docker =
            Docker::connect_with_unix(&path, TIMEOUT_S, bollard::API_DEFAULT_VERSION).map_err(failed(what()))?;
        Ok(Self(docker.negotiate_version().await.map_err(failed(what()))?))
    }

    /// What happens in the engine from now on.
    pub(super) fn events(&self) -> impl Stream<Item = Result<EventMessage, Error>> + use<> {
        let kinds = ["network", "container"].map(str::to_owned).to_vec();
        let filters = HashMap::from([("type".to_owned(), kinds)]);
        self.0.events(Some(EventsOptions { filters: Some(filters), ..EventsOptions::default() }))
    }

    /// Its version, and the newest version of its API.
    pub(super) async fn version(&self) -> Result<(String, String), EngineError> {
        let version = self.0.version().await.map_err(failed("ask for the version"))?;
        Ok((version.version.unwrap_or_default(), version.api_version.unwrap_or_default()))
    }

    /// Networks.
    pub(super) async fn networks(&self) -> Result<Vec<SeenNetwork>, EngineError> {
        let networks = self.0.list_networks(None::<ListNetworksOptions>).await.map_err(failed("list networks"))?;
        Ok(networks.into_iter().map(network).collect())
    }

    /// Networks and containers, and the other names that those have which run on networks of ours. The engine's list does
    /// not have these; each endpoint's are asked for once.
    pub(super) async fn observe_after(&self, before: &Seen, look: Look) -> Result<Seen, EngineError> {
        let networks = match look {
            Look::Everything => self.networks().await?,
            Look::Containers => before.networks.clone(),
        };
        let mut seen = self.containers(networks).await?;
        let known = before.containers.iter().flat_map(|container| &container.attachments);
        let known = known.filter(|known| !before.unasked.contains(&known.endpoint));
        let known: HashMap<&str, &Vec<String>> = known.map(|known| (known.endpoint.as_str(), &known.aliases)).collect();
        let ours: BTreeSet<&str> = seen.networks.iter().filter(|net| net.ours).map(|net| net.id.as_str()).collect();
        for container in &mut seen.containers {
            let mut asked = None;
            let on_ours = |on: &&mut SeenAttachment| !on.endpoint.is_empty() && ours.contains(on.network.as_str());
            for on in container.attachments.iter_mut().filter(on_ours) {
                if let Some(aliases) = known.get(on.endpoint.as_str()) {
                    on.aliases = (*aliases).clone();
                    continue;
                }
                if asked.is_none() {
                    asked = Some(self.aliases(&container.id).await);
                }
                match asked.as_ref().and_then(Option::as_ref) {
                    Some(aliases) => on.aliases = aliases.get(&on.name).cloned().unwrap_or_default(),
                    None => drop(seen.unasked.insert(on.endpoint.clone())),
                }
            }
        }
        Ok(seen)
    }

    /// A container's other names, by the names of its networks: empty if it is gone, none if the engine does not tell.
    async fn aliases(&self, container: &str) -> Option<HashMap<String, Vec<String>>> {
        let found = match self.0.inspect_container(container, None).await {
            Ok(found) => found,
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Some(HashMap::new()),
            Err(error) => {
                // Its network is more than its other names.
                warn!(container, %error, "the other names of a container stay unknown");
                return None;
            }
        };
        let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let of = |(name, settings): (String, EndpointSettings)| (name, aliases_of(container, settings.aliases));
        Some(networks.into_iter().map(of).collect())
    }

    /// Networks and containers.
    pub(super) async fn observe(&self) -> Result<Seen, EngineError> {
        let networks = self.networks().await?;
        self.containers(networks).await
    }

    /// Containers, and these networks.
    async fn containers(&self, networks: Vec<SeenNetwork>) -> Result<Seen, EngineError> {
        let all = ListContainersOptions { all: true, ..ListContainersOptions::default() };
        let containers = self.0.list_containers(Some(all)).await.map_err(failed("list containers"))?;
        let containers = containers.into_iter().map(|found| container(found, &networks)).collect();
        Ok(Seen { networks, containers, ..Seen::default() })
    }

    /// Puts a container that does not run on a network, in the place of one of the same name, with the `--ip`, the aliases
    /// and the options that it had there. By its name: if the network is gone by now, the container is on whichever has
    /// the name when it starts.
    pub(super) async fn reconnect(&self, container: &str, network: &str) -> Result<(), EngineError> {
        let found = self.0.inspect_container(container, None).await.map_err(failed(format!("inspect {container}")))?;
        let mut networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let (stopped, was) = (found.state.and_then(|state| state.running) == Some(false), networks.remove(network));
        let Some(was) = was.filter(|_| stopped) else { return Ok(()) };
        // The rest of it is of the time when it ran there.
        let settings = EndpointSettings {
            ipam_config: was.ipam_config,
            links: was.links,
            aliases: was.aliases,
            driver_opts: was.driver_opts,
            gw_priority: was.gw_priority,
            ..EndpointSettings::default()
        };
        let request = NetworkConnectRequest { container: container.to_owned(), endpoint_config: Some(settings) };
        let operation = format!("connect {container} to {network}");
        self.0.connect_network(network, request).await.map_err(failed(operation))
    }

    /// File that names a running container's network namespace.
    pub(super) async fn sandbox(&self, container: &str) -> Result<Option<String>, EngineError> {
        let found = self.0.inspect_container(container, None).await.map_err(failed(format!("inspect {container}")))?;
        Ok(found.network_settings.and_then(|settings| settings.sandbox_key).filter(|key| !key.is_empty()))
    }

    /// Makes a network of the cluster.
    pub(super) async fn create(&self, request: NetworkCreateRequest) -> Result<(), EngineError> {
        let operation = format!("make network {}", request.name);
        self.0.create_network(request).await.map(drop).map_err(failed(operation))
    }

    /// Removes a network. One that is not there is as good.
    pub(super) async fn remove(&self, id: &str, name: &str) -> Result<(), EngineError> {
        match self.0.remove_network(id).await {
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            result => result.map_err(failed(format!("remove network {name}"))),
        }
    }

    /// Makes the bridge for the way out, unless it is there.
    pub(super) async fn ensure_gateway_bridge(&self, seen: &Seen, subnet: Option<IpNet>) -> Result<(), EngineError> {
        if seen.networks.iter().any(|network| network.name == DOCKER_GATEWAY) {
            return Ok(());
        }
        let options = [("name", DOCKER_GATEWAY), ("enable_icc", "false"), ("enable_ip_masquerade", "true")];
        let options = options.map(|(key, value)| (format!("com.docker.network.bridge.{key}"), value.to_owned()));
        let config = subnet.map(|subnet| IpamConfig {
            subnet: Some(subnet.to_string()),
            gateway: host_of(subnet, 1).map(|gateway| gateway.to_string()),
            ..IpamConfig::default()
        });
        let request = NetworkCreateRequest {
            name: DOCKER_GATEWAY.to_owned(),
            driver: Some("bridge".to_owned()),
            // With its driver, as the command sends it: without, the engine logs an error about a plugin without a name.
            ipam: Some(Ipam {
                driver: Some("default".to_owned()),
                config: config.map(|config| vec![config]),
                ..Ipam::default()
            }),
            options: Some(options.into()),
            ..NetworkCreateRequest::default()
        };
        match self.0.create_network(request).await {
            // The engine has made it for a container in the meantime.
            Err(Error::DockerResponseServerError { status_code: 409 | 403, .. }) => Ok(()),
            result => result.map(drop).map_err(failed(format!("make {DOCKER_GATEWAY}"))),
        }
    }
}

/// How a network of the cluster is made.
pub(super) fn request(state: &State, wanted: &Network) -> NetworkCreateRequest {
    let cluster = state.cluster.as_ref().map(|cluster| (CLUSTER_OPTION.to_owned(), cluster.id.to_string()));
    let network = (NETWORK_OPTION.to_owned(), wanted.id.to_string());
    let options: HashMap<String, String> = cluster.into_iter().chain([network]).collect();
    let config = |subnet: &pontoon_store::model::object::Subnet| {
        let leases = state.leases_of_network(wanted.id).filter(|lease| subnet.cidr.contains(&lease.address));
        // Those that are kept for names and that nobody has: the engine asks for them at once, and again when it restarts.
        let kept = leases.filter(|lease| lease.state == LeaseState::Reserved && lease.reserved_for.is_some());
        let kept: HashMap<String, String> = kept.map(|l| (l.name.clone(), l.address.to_string())).collect();
        IpamConfig {
            subnet: Some(subnet.cidr.to_string()),
            ip_range: subnet.ip_range.map(|range| range.to_string()),
            gateway: Some(subnet.gateway.to_string()),
            auxiliary_addresses: (!kept.is_empty()).then_some(kept),
        }
    };
    NetworkCreateRequest {
        name: wanted.name.clone(),
        driver: Some(DRIVER.to_owned()),
        internal: Some(wanted.internal),
        enable_ipv6: Some(wanted.subnets.iter().any(|subnet| subnet.cidr.addr().is_ipv6())),
        ipam: Some(Ipam {
            driver: Some(DRIVER.to_owned()),
            config: Some(wanted.subnets.iter().map(config).collect()),
            options: Some(options.clone()),
        }),
        options: Some(options),
        labels: Some(wanted.labels.clone().into_iter().collect()),
        ..NetworkCreateRequest::default()
    }
}

fn network(found: bollard::models::Network) -> SeenNetwork {
    let option = |name: &str| found.options.as_ref().and_then(|options| options.get(name)).cloned();
    SeenNetwork {
        made_for: option(NETWORK_OPTION).and_then(|id| id.parse().ok()).map(NetworkId),
        cluster: option(CLUSTER_OPTION).and_then(|id| id.parse().ok()),
        ours: found.driver.as_deref() == Some(DRIVER),
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default(),
        labels: found.labels.unwrap_or_default().into_iter().collect(),
    }
}

fn container(found: bollard::models::ContainerSummary, networks: &[SeenNetwork]) -> SeenContainer {
    let id = found.id.unwrap_or_default();
    let attachment = |(name, settings): (String, bollard::models::EndpointSettings)| {
        // A container that has never run names its networks only.
        let by_name = || networks.iter().find(|network| network.name == name).map(|network| network.id.clone());
        let network = settings.network_id.filter(|id| !id.is_empty()).or_else(by_name).unwrap_or_default();
        let given = settings.ipam_config.unwrap_or_default();
        let fixed = [given.ipv4_address, given.ipv6_address].iter().flatten().any(|address| !address.is_empty());
        SeenAttachment { network, name, endpoint: settings.endpoint_id.unwrap_or_default(), aliases: Vec::new(), fixed }
    };
    let attachments = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    // Links give a container other containers' names, with a slash in the middle. An engine allows longer ones than the
    // cluster does, which would refuse all that is said of the network.
    let names = found.names.unwrap_or_default();
    let name = names.iter().filter_map(|name| name.strip_prefix('/')).find(|name| is_name(name));
    let stopped = [ContainerSummaryStateEnum::CREATED, ContainerSummaryStateEnum::EXITED];
    SeenContainer {
        name: name.map_or_else(|| Endpoint::short_id(&id), str::to_owned),
        stopped: found.state.is_some_and(|state| stopped.contains(&state)),
        attachments: attachments.into_iter().map(attachment).collect(),
        ports: published(found.ports.unwrap_or_default()),
        id,
    }
}

/// The other names that the cluster can keep of a container. Engines count the first digits of its id among them.
fn aliases_of(container: &str, aliases: Option<Vec<String>>) -> Vec<String> {
    let mut aliases = aliases.unwrap_or_default();
    aliases.retain(|alias| is_name(alias) && *alias != Endpoint::short_id(container));
    aliases.sort();
    aliases.dedup();
    // More would be refused, and the container never placed.
    aliases.truncate(Endpoint::MAX_ALIASES);
    aliases
}

/// Ports as `docker ps` shows them, of those that are published.
fn published(ports: Vec<PortSummary>) -> Vec<String> {
    let text = |port: PortSummary| {
        let kind = port.typ.map_or_else(String::new, |kind| format!("/{kind}"));
        let ip = port.ip.unwrap_or_default();
        let ip = if ip.contains(':') { format!("[{ip}]") } else { ip };
        Some(format!("{ip}:{}->{}{kind}", port.public_port?, port.private_port))
    };
    let mut ports: Vec<String> = ports.into_iter().filter_map(text).collect();
    ports.sort();
    ports
}

/// Whether a container can have a name or an alias in the cluster.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() <= 255 && name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerSummary, ContainerSummaryNetworkSettings};

    use super::*;

    fn seen(names: &[&str]) -> SeenContainer {
        let networks = Some(HashMap::from([("web".to_owned(), EndpointSettings::default())]));
        let found = ContainerSummary {
            id: Some("0123456789abcdef".to_owned()),
            names: Some(names.iter().map(|&name| name.to_owned()).collect()),
            network_settings: Some(ContainerSummaryNetworkSettings { networks }),
            ..ContainerSummary::default()
        };
        container(found, &[SeenNetwork { id: "w".to_owned(), name: "web".to_owned(), ..SeenNetwork::default() }])
    }

    #[test]
    fn a_name_that_the_cluster_would_refuse_is_left_out() {
        let long = format!("/{}", "x".repeat(256));
        for (names, expected) in
            [(&["/c1"][..], "c1"), (&["/other/c1", "/c1"], "c1"), (&[&long], "0123456789ab"), (&[], "0123456789ab")]
        {
            assert_eq!(seen(names).name, expected, "{names:?}");
        }
        assert_eq!(seen(&["/c1"]).attachments[0].network, "w", "it has never run, and names its network only");
        let aliases = ["web", "a b", "", "-x", "0123456789ab", "db", "web"].map(str::to_owned).to_vec();
        assert_eq!(aliases_of("0123456789abcdef", Some(aliases)), ["db", "web"]);
        assert_eq!(aliases_of("0123456789abcdef", None), [""; 0]);
        let many = (0..40).map(|n| format!("alias{n:02}")).collect();
        assert_eq!(aliases_of("0123456789abcdef", Some(many)).len(), Endpoint::MAX_ALIASES);
    }
}
