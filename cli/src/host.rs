//! Where the daemon listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The admin socket of a daemon that was not told otherwise.
pub(crate) const DEFAULT_HOST: &str = "unix:///run/pontoon/pontoon.sock";

/// Where the daemon listens: a unix socket of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Absolute path of the socket.
    pub(crate) socket: PathBuf,
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') && path.len() > 1 => Ok(Self { socket: PathBuf::from(path) }),
            Some(_) => Err(format!("the path must be absolute, as in {DEFAULT_HOST}")),
            None => Err(format!("only unix:///PATH is supported, as in {DEFAULT_HOST}")),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.socket.display())
    }
}
