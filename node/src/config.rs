//! Options of the daemon: a flag beats an environment variable, which beats the file, which
//! beats the default.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, ValueEnum};
use ipnet::IpNet;
use pontoon_proto::{DEFAULT_PEER_PORT, DEFAULT_VXLAN_PORT};
use serde::Deserialize;
use thiserror::Error;

use crate::plan::desired::Names;

/// Where the configuration file is, unless given. It need not exist.
pub const DEFAULT_FILE: &str = "/etc/pontoon/pontoon.toml";

/// Port of the page, unless given: the one after [`DEFAULT_PEER_PORT`].
const DEFAULT_PAGE_PORT: u16 = DEFAULT_PEER_PORT + 1;

/// The command line of `pontoond`.
#[derive(Debug, Parser)]
#[command(name = "pontoond", version, about = "Pontoon's daemon: one on each host")]
pub struct CommandLine {
    /// Configuration file (TOML; keys as the options below, with _ for -)
    #[arg(long, env = "PONTOON_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Everything that the file can set too.
    #[command(flatten)]
    pub options: Options,
}

/// What flags, environment and file can set; unset means "not here".
#[derive(Debug, Default, Clone, Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Folder that everything durable is kept in [default: /var/lib/pontoon]
    #[arg(long, env = "PONTOON_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Admin socket [default: /run/pontoon/pontoon.sock]
    #[arg(long, env = "PONTOON_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Address and port that other members reach this daemon at, 7300 on every address unless given
    #[arg(long, env = "PONTOON_LISTEN", value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,

    /// UDP port of VXLAN, for a cluster that this daemon founds [default: 4789]
    #[arg(long, env = "PONTOON_VXLAN_PORT", value_name = "PORT")]
    pub vxlan_port: Option<u16>,

    /// Network namespace that overlay bridges live in [default: pontoon]
    #[arg(long, env = "PONTOON_NETNS", value_name = "NAME")]
    pub netns: Option<String>,

    /// Bridge that containers leave the overlay by [default: pontoon_gw]
    #[arg(long, env = "PONTOON_GATEWAY_BRIDGE", value_name = "NAME")]
    pub gateway_bridge: Option<String>,

    /// Subnet of the gateway bridge [default: the first free of 172.18.0.0/16 to 172.31.0.0/16, then of the /20s of 192.168.0.0/16]
    #[arg(long, env = "PONTOON_EGRESS_SUBNET", value_name = "CIDR")]
    pub egress_subnet: Option<IpNet>,

    /// Socket of Docker's API; "off": this daemon has nothing to do with Docker [default: /run/docker.sock]
    #[arg(long, env = "PONTOON_DOCKER", value_name = "PATH|off")]
    pub docker: Option<PathBuf>,

    /// Socket that Docker finds this daemon's drivers at; the file's name is theirs [default: /run/docker/plugins/pontoon.sock]
    #[arg(long, env = "PONTOON_DOCKER_PLUGIN", value_name = "PATH")]
    pub docker_plugin: Option<PathBuf>,

    /// Address and port of the page that a browser shows; "off": there is none [default: 127.0.0.1:7301]
    #[arg(long, env = "PONTOON_PAGE", value_name = "ADDR:PORT|off")]
    pub page: Option<String>,

    /// Address and port that Prometheus reads metrics at; "off": there are none [default: off]
    #[arg(long, env = "PONTOON_METRICS", value_name = "ADDR:PORT|off")]
    pub metrics: Option<String>,

    /// How log lines look [default: text]
    #[arg(long, env = "PONTOON_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// What is logged: a level, or directives such as info,pontoon_store=debug [default: info,openraft=error]
    #[arg(long, env = "PONTOON_LOG_LEVEL", value_name = "SPEC")]
    pub log_level: Option<String>,
}

/// How log lines look.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The options that hold.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder that everything durable is kept in.
    pub data_dir: PathBuf,
    /// Admin socket.
    pub socket: PathBuf,
    /// Where the peer port listens; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// UDP port of VXLAN, for a cluster that this daemon founds.
    pub vxlan_port: u16,
    /// Network namespace of the overlay bridges.
    pub netns: String,
    /// Gateway bridge.
    pub gateway_bridge: String,
    /// Subnet of the gateway bridge; none: chosen.
    pub egress_subnet: Option<IpNet>,
    /// Docker; none: nothing to do with it.
    pub docker: Option<DockerConfig>,
    /// The page; none: it is not served.
    pub page: Option<PageConfig>,
    /// Where the metrics are served; port 0 lets the kernel choose. None: nowhere.
    pub metrics: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_level: String,
}

/// How this daemon and Docker reach each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerConfig {
    /// Socket of Docker's API.
    pub socket: PathBuf,
    /// Socket that Docker calls this daemon at.
    pub plugin: PathBuf,
}

/// Where the page is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageConfig {
    /// Address and port; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Somebody has asked for it there: the daemon does not start where it cannot be.
    pub given: bool,
}

impl Config {
    /// Names that this daemon uses in its host's kernel.
    pub fn names(&self) -> Names {
        Names { netns: self.netns.clone(), gateway: self.gateway_bridge.clone() }
    }
}

/// The configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}; give another with --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or has a key that is none.
    #[error("the configuration file {path} cannot be used: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why; names an unknown key and lists the known ones.
        source: Box<toml::de::Error>,
    },
    /// An option has a value that it cannot have.
    #[error("{option} cannot be {value:?}: {why}")]
    Value {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        why: &'static str,
    },
}

/// Reads the file that the command line names, or the default one if it exists, and puts both together.
pub fn load(command_line: CommandLine) -> Result<Config, ConfigError> {
    let file = match &command_line.config {
        Some(path) => read_file(path)?,
        None if Path::new(DEFAULT_FILE).exists() => read_file(Path::new(DEFAULT_FILE))?,
        None => Options::default(),
    };
    resolve(command_line.options, file)
}

fn read_file(path: &Path) -> Result<Options, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })
}

fn resolve(given: Options, file: Options) -> Result<Config, ConfigError> {
    let config = Config {
        data_dir: given.data_dir.or(file.data_dir).unwrap_or_else(|| "/var/lib/pontoon".into()),
        socket: given.socket.or(file.socket).unwrap_or_else(|| "/run/pontoon/pontoon.sock".into()),
        listen: given.listen.or(file.listen).unwrap_or_else(|| ([0u16; 8], DEFAULT_PEER_PORT).into()),
        vxlan_port: given.vxlan_port.or(file.vxlan_port).unwrap_or(DEFAULT_VXLAN_PORT),
        netns: given.netns.or(file.netns).unwrap_or_else(|| "pontoon".into()),
        gateway_bridge: given.gateway_bridge.or(file.gateway_bridge).unwrap_or_else(|| "pontoon_gw".into()),
        egress_subnet: given.egress_subnet.or(file.egress_subnet),
        docker: docker(given.docker.or(file.docker), given.docker_plugin.or(file.docker_plugin)),
        page: page(given.page.or(file.page))?,
        metrics: metrics(given.metrics.or(file.metrics))?,
        log_format: given.log_format.or(file.log_format).unwrap_or_default(),
        log_level: given.log_level.or(file.log_level).unwrap_or_else(|| "info,openraft=error".into()),
    };
    check(&config)?;
    Ok(config)
}

fn docker(socket: Option<PathBuf>, plugin: Option<PathBuf>) -> Option<DockerConfig> {
    let socket = socket.unwrap_or_else(|| "/run/docker.sock".into());
    let plugin = plugin.unwrap_or_else(|| "/run/docker/plugins/pontoon.sock".into());
    (socket != Path::new("off")).then_some(DockerConfig { socket, plugin })
}

fn page(given: Option<String>) -> Result<Option<PageConfig>, ConfigError> {
    let Some(value) = given else {
        return Ok(Some(PageConfig { address: (Ipv4Addr::LOCALHOST, DEFAULT_PAGE_PORT).into(), given: false }));
    };
    let why = "it must be an address and a port, such as 127.0.0.1:7301, or off";
    Ok(address("page", value, why)?.map(|address| PageConfig { address, given: true }))
}

fn metrics(given: Option<String>) -> Result<Option<SocketAddr>, ConfigError> {
    let why = "it must be an address and a port, such as 127.0.0.1:7302, or off";
    given.map_or(Ok(None), |value| address("metrics", value, why))
}

/// An address and a port; none when it is off.
fn address(option: &'static str, value: String, why: &'static str) -> Result<Option<SocketAddr>, ConfigError> {
    if value == "off" {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|_| ConfigError::Value { option, value, why })
}

fn check(config: &Config) -> Result<(), ConfigError> {
    let refuse = |option, value: &dyn ToString, why| Err(ConfigError::Value { option, value: value.to_string(), why });
    if config.vxlan_port == 0 {
        return refuse("vxlan-port", &config.vxlan_port, "it must be 1 to 65535");
    }
    if !is_plain_name(&config.netns, 200) {
        return refuse("netns", &config.netns, "it must be a file name of letters, digits, '.', '_' and '-'");
    }
    // IFNAMSIZ is 16 with the closing zero (linux/if.h).
    if !is_plain_name(&config.gateway_bridge, 15) {
        return refuse("gateway-bridge", &config.gateway_bridge, "it must be an interface name of at most 15 bytes");
    }
    match config.egress_subnet {
        Some(IpNet::V4(net)) if net.trunc() == net && (8..=28).contains(&net.prefix_len()) => Ok(()),
        Some(net) => refuse("egress-subnet", &net, "it must be an IPv4 prefix of /8 to /28 without host bits"),
        None => Ok(()),
    }
}

fn is_plain_name(name: &str, max: usize) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= max && !name.starts_with('.') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn given_beats_file_beats_default() {
        let file = parse("netns = 'from-file'\nvxlan_port = 8472\nlog_format = 'json'").unwrap();
        let given = Options { netns: Some("given".into()), ..Options::default() };
        let config = resolve(given, file).unwrap();
        assert_eq!((config.netns.as_str(), config.vxlan_port), ("given", 8472));
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.listen.to_string(), "[::]:7300");
        assert_eq!(config.data_dir, Path::new("/var/lib/pontoon"));
    }

    #[test]
    fn a_flag_beats_its_environment_variable() {
        let line = CommandLine::try_parse_from(["pontoond", "--netns", "flag"]).unwrap();
        assert_eq!(line.options.netns.as_deref(), Some("flag"));
        let names: Vec<_> = <CommandLine as clap::CommandFactory>::command()
            .get_arguments()
            .filter_map(|arg| Some((arg.get_long()?.to_owned(), arg.get_env().map(ToOwned::to_owned))))
            .filter(|(long, env)| env.is_none() && !matches!(long.as_str(), "help" | "version"))
            .collect();
        assert!(names.is_empty(), "options without an environment variable: {names:?}");
    }

    #[test]
    fn the_page_is_at_loopback_elsewhere_or_nowhere() {
        let page = |given: Option<&str>, file: &str| {
            let given = Options { page: given.map(str::to_owned), ..Options::default() };
            let page = resolve(given, parse(file).unwrap()).unwrap().page;
            page.map(|page| (page.address.to_string(), page.given))
        };
        let at = |address: &str, given| Some((address.to_owned(), given));
        assert_eq!(page(None, ""), at("127.0.0.1:7301", false));
        assert_eq!(page(None, "page = '0.0.0.0:80'"), at("0.0.0.0:80", true));
        assert_eq!(page(Some("127.0.0.1:7301"), "page = 'off'"), at("127.0.0.1:7301", true));
        assert_eq!(page(Some("[::1]:0"), "page = '0.0.0.0:80'"), at("[::1]:0", true));
        assert_eq!(page(Some("off"), "page = '0.0.0.0:80'"), None);
        assert_eq!(page(None, "page = 'off'"), None);
    }

    #[test]
    fn metrics_are_nowhere_unless_asked_for() {
        let metrics = |given: Option<&str>, file: &str| {
            let given = Options { metrics: given.map(str::to_owned), ..Options::default() };
            resolve(given, parse(file).unwrap()).unwrap().metrics.map(|address| address.to_string())
        };
        assert_eq!(metrics(None, ""), None);
        assert_eq!(metrics(None, "metrics = '[::]:7302'").as_deref(), Some("[::]:7302"));
        assert_eq!(metrics(Some("127.0.0.1:0"), "metrics = 'off'").as_deref(), Some("127.0.0.1:0"));
        assert_eq!(metrics(Some("off"), "metrics = '[::]:7302'"), None);
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = parse("netns = 'a'\nnetnz = 'b'").unwrap_err().to_string();
        assert!(error.contains("netnz") && error.contains("netns"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let wrong = [
            ("vxlan_port = 0", "vxlan-port"),
            ("netns = '../x'", "netns"),
            ("netns = ''", "netns"),
            ("gateway_bridge = 'much-too-long-name'", "gateway-bridge"),
            ("egress_subnet = '172.18.0.1/16'", "egress-subnet"),
            ("egress_subnet = '172.18.0.0/30'", "egress-subnet"),
            ("egress_subnet = 'fd00::/64'", "egress-subnet"),
            ("page = 'localhost:7301'", "page"),
            ("page = '7301'", "page"),
            ("page = ''", "page"),
            ("metrics = '7302'", "metrics"),
            ("metrics = 'localhost:7302'", "metrics"),
        ];
        for (text, option) in wrong {
            let error = resolve(Options::default(), parse(text).unwrap()).unwrap_err().to_string();
            assert!(error.starts_with(option), "{text}: {error}");
        }
    }
}
