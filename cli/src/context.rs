//! Where the daemon is, and who asks: contexts, as `pontoon admin cert create` makes them, kept in the user's configuration.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{env, fmt, fs};

use jiff::Timestamp;
use serde::Serialize;

use crate::failure::Failure;

/// The name of the context that is this host's own daemon.
pub(crate) const HERE: &str = "default";
/// What a file of one begins with.
const HEAD: &str = "Pontoon-Context: 1";
/// What is wrong with a file that is none.
const HINT: &str = "give a file that pontoon admin cert create has written";

/// How a cluster is administered from elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Context {
    /// What the user calls it.
    pub(crate) name: String,
    /// Id of the cluster.
    pub(crate) cluster: String,
    /// What the cluster calls the user.
    pub(crate) admin: String,
    /// What he may do.
    pub(crate) role: String,
    /// Until when.
    pub(crate) until: Timestamp,
    /// Where nodes are, addresses and ports.
    pub(crate) addresses: Vec<String>,
    /// The user's certificate (PEM).
    pub(crate) certificate: String,
    /// The certificates that nodes are believed by (PEM).
    pub(crate) authorities: String,
    /// The user's private key (PEM).
    pub(crate) key: String,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("name", &self.name).field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// A context as it is listed.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    /// Its name.
    pub(crate) name: String,
    /// Whether it is used unless another is named.
    pub(crate) current: bool,
    /// Id of the cluster; empty: whichever this host's daemon is in.
    pub(crate) cluster: String,
    /// What the cluster calls the user.
    pub(crate) admin: String,
    /// What he may do.
    pub(crate) role: String,
    /// Until when, in milliseconds since the Unix epoch; 0: for ever.
    pub(crate) until_ms: u64,
}

impl Context {
    /// Reads what `pontoon admin cert create` has written.
    fn parse(name: &str, text: &str) -> Option<Self> {
        let rest = text.strip_prefix(HEAD)?;
        let (head, pem) = rest.split_at(rest.find("-----BEGIN")?);
        let values = |key: &'static str| {
            head.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix(": ").map(str::to_owned))
        };
        let blocks = |label: &str| -> Vec<String> {
            let (begin, end) = (format!("-----BEGIN {label}-----\n"), format!("-----END {label}-----\n"));
            let bodies = pem.split(begin.as_str()).skip(1).filter_map(|body| Some(body.split_once(&end)?.0));
            bodies.map(|body| format!("{begin}{body}{end}")).collect()
        };
        let certificates = blocks("CERTIFICATE");
        let (certificate, authorities) = certificates.split_first()?;
        let context = Self {
            name: name.to_owned(),
            cluster: values("Cluster").next()?,
            admin: values("Name").next()?,
            role: values("Role").next()?,
            until: values("Until").next()?.parse().ok()?,
            addresses: values("Address").collect(),
            certificate: certificate.clone(),
            authorities: authorities.concat(),
            key: blocks("PRIVATE KEY").pop()?,
        };
        (!context.addresses.is_empty() && !context.authorities.is_empty()).then_some(context)
    }

    /// Keeps a file as a context. The first one is used from then on.
    ///
    /// # Errors
    ///
    /// The file is none, or there is a context of this name.
    pub(crate) fn add(name: &str, file: &Path) -> Result<Self, Failure> {
        check_name(name)?;
        let read = |file: &Path| {
            if file == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) }
        };
        let text = read(file).map_err(|error| cannot("read", file, &error))?;
        let context = Self::parse(name, &text)
            .ok_or_else(|| Failure::local("INVALID_CONTEXT", format!("{} is no context", file.display()), HINT))?;
        let path = folder()?.join(name);
        if path.exists() {
            let message = format!("there is a context {name} already");
            let hint = format!("use another name, or remove that one: pontoon context rm {name}");
            return Err(Failure::local("CONTEXT_EXISTS", message, hint));
        }
        let first = names()?.is_empty() && current()?.is_none();
        write(&path, text.as_bytes())?;
        if first {
            use_from_now_on(name)?;
        }
        Ok(context)
    }

    /// The context of a name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(crate) fn named(name: &str) -> Result<Self, Failure> {
        check_name(name)?;
        let path = folder()?.join(name);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_context(name)),
            read => read.map_err(|error| cannot("read", &path, &error))?,
        };
        Self::parse(name, &text).ok_or_else(|| {
            Failure::local("INVALID_CONTEXT", format!("{} is no context any more", path.display()), HINT)
        })
    }
}

/// All contexts, that of this host first.
///
/// # Errors
///
/// The folder cannot be read.
pub(crate) fn list() -> Result<Vec<Listed>, Failure> {
    let current = current()?;
    let here = Listed {
        name: HERE.to_owned(),
        current: current.is_none(),
        cluster: String::new(),
        admin: String::new(),
        role: String::new(),
        until_ms: 0,
    };
    // Whatever else is in the folder is nobody's context.
    let kept = names()?.into_iter().filter_map(|name| {
        let Context { cluster, admin, role, until, .. } = Context::named(&name).ok()?;
        let until_ms = u64::try_from(until.as_millisecond()).unwrap_or(0);
        Some(Listed { current: current.as_ref() == Some(&name), name, cluster, admin, role, until_ms })
    });
    Ok(std::iter::once(here).chain(kept).collect())
}

/// The context that is used unless another is named; none: this host's daemon.
///
/// # Errors
///
/// It cannot be read.
pub(crate) fn current() -> Result<Option<String>, Failure> {
    let Ok(path) = current_path() else { return Ok(None) };
    match fs::read_to_string(&path) {
        Ok(name) => Ok(Some(name.trim().to_owned()).filter(|name| name != HERE && !name.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", &path, &error)),
    }
}

/// Uses a context unless another is named.
///
/// # Errors
///
/// There is none of this name.
pub(crate) fn use_from_now_on(name: &str) -> Result<(), Failure> {
    if name != HERE {
        Context::named(name)?;
    }
    let path = current_path()?;
    // A new file, so that nobody reads half a name.
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    write(&new, format!("{name}\n").as_bytes())?;
    fs::rename(&new, &path).map_err(|error| cannot("write", &path, &error))
}

/// Forgets a context, and the key in it.
///
/// # Errors
///
/// There is none of this name.
pub(crate) fn remove(name: &str) -> Result<(), Failure> {
    check_name(name)?;
    let path = folder()?.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_context(name)),
        removed => removed.map_err(|error| cannot("remove", &path, &error))?,
    }
    if current()?.as_deref() == Some(name) {
        use_from_now_on(HERE)?;
    }
    Ok(())
}

/// Writes a secret, for nobody else to read; there must be no such file yet.
///
/// # Errors
///
/// It cannot be written.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| cannot("make", folder, &error))?;
    }
    let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.and_then(|mut file| file.write_all(bytes)).map_err(|error| cannot("write", path, &error))
}

fn names() -> Result<Vec<String>, Failure> {
    let folder = folder()?;
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| cannot("read", &folder, &error))?,
    };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn configuration() -> Result<PathBuf, Failure> {
    let given = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = given("XDG_CONFIG_HOME").or_else(|| given("HOME").map(|home| home.join(".config")));
    folder.map(|folder| folder.join("pontoon")).ok_or_else(|| {
        Failure::local("LOCAL", "nobody says where your configuration is", "set HOME, or XDG_CONFIG_HOME")
    })
}

fn folder() -> Result<PathBuf, Failure> {
    Ok(configuration()?.join("contexts"))
}

fn current_path() -> Result<PathBuf, Failure> {
    Ok(configuration()?.join("context"))
}

fn check_name(name: &str) -> Result<(), Failure> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name != HERE && !name.is_empty() && !name.starts_with('.') && name.len() <= 64 && name.chars().all(fits) {
        return Ok(());
    }
    let message = format!("{name:?} cannot be the name of a context");
    Err(Failure::local("INVALID_NAME", message, "use up to 64 letters, digits, -, _ and ., and not \"default\""))
}

fn no_context(name: &str) -> Failure {
    Failure::local("CONTEXT_NOT_FOUND", format!("there is no context {name}"), "see `pontoon context ls`")
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::local("LOCAL", format!("cannot {what} {}: {error}", path.display()), "name a file that you may use")
}
