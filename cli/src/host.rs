//! Where the daemon listens.

use std::path::PathBuf;
use std::str::FromStr;
use std::{env, fmt};

use crate::args::Global;
use crate::context::{self, Context, HERE};
use crate::failure::Failure;

/// The admin socket of a daemon that was not told otherwise.
const DEFAULT: &str = "/run/pontoon/pontoon.sock";

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// A unix socket of this host, by its absolute path.
    Socket(PathBuf),
    /// Nodes of a cluster, from elsewhere.
    Elsewhere(Box<Context>),
}

impl Host {
    /// The one that the user means: what he says counts, then his environment, then the context that he uses, then this host.
    ///
    /// # Errors
    ///
    /// There is no such context, or the environment names no place.
    pub(crate) fn of(global: &Global) -> Result<Self, Failure> {
        let environment = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let host = match (&global.host, &global.context) {
            (None, None) => environment("PONTOON_HOST").map(|text| text.parse()).transpose(),
            (host, _) => Ok(host.clone()),
        };
        let host = host.map_err(|error| {
            Failure::local("LOCAL", format!("PONTOON_HOST names no place: {error}"), "set it right, or use --host")
        })?;
        if let Some(host) = host {
            return Ok(host);
        }
        let name = match global.context.clone().or_else(|| environment("PONTOON_CONTEXT")) {
            Some(name) => Some(name).filter(|name| name != HERE),
            None => context::current()?,
        };
        match name {
            Some(name) => Ok(Self::Elsewhere(Context::named(&name)?.into())),
            None => Ok(Self::Socket(PathBuf::from(DEFAULT))),
        }
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') && path.len() > 1 => Ok(Self::Socket(PathBuf::from(path))),
            Some(_) => Err(format!("the path must be absolute, as in unix://{DEFAULT}")),
            None => Err(format!("only unix:///PATH is supported, as in unix://{DEFAULT}")),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix://{}", path.display()),
            Self::Elsewhere(context) => write!(f, "{} (context {})", context.addresses.join(", "), context.name),
        }
    }
}
