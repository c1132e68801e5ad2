//! Forwarding switches of the calling thread's network namespace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pontoon_store::model::object::Family;

use super::error::KernelError;
use crate::plan::observed::Forwarding6;

const ROOT: &str = "/proc/sys/net";

/// Whether a switch is on; none when there is no such switch.
fn read(path: &Path) -> Result<Option<bool>, KernelError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim() != "0")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KernelError::Sysctl { operation: "read", path: path.to_owned(), source }),
    }
}

fn write(path: &Path, on: bool) -> Result<(), KernelError> {
    let failed = |source| KernelError::Sysctl { operation: "write", path: path.to_owned(), source };
    fs::write(path, if on { "1" } else { "0" }).map_err(failed)
}

fn switch(family: Family, ifname: &str) -> PathBuf {
    let (family, name) = match family {
        Family::V4 => ("ipv4", "forwarding"),
        Family::V6 => ("ipv6", "force_forwarding"),
    };
    Path::new(ROOT).join(family).join("conf").join(ifname).join(name)
}

/// Whether packets that come in by the interface are forwarded: `sysctl net.ipv4.conf.NAME.forwarding`, or
/// `net.ipv6.conf.NAME.force_forwarding`. An interface that is gone forwards nothing.
pub(super) fn forwards(family: Family, ifname: &str) -> Result<bool, KernelError> {
    Ok(read(&switch(family, ifname))?.unwrap_or(false))
}

/// Switches it: `sysctl -w net.ipv4.conf.NAME.forwarding=1`. Off does nothing while the whole host
/// forwards: the switch is then not ours alone.
pub(super) fn set_forwarding(family: Family, ifname: &str, on: bool) -> Result<(), KernelError> {
    let path = switch(family, ifname);
    if !on && (host_forwards(family)? || read(&path)?.is_none()) {
        return Ok(());
    }
    write(&path, on)
}

fn host_forwards(family: Family) -> Result<bool, KernelError> {
    match family {
        Family::V4 => forwarding4(),
        Family::V6 => Ok(forwarding6()? == Forwarding6::On),
    }
}

/// `sysctl net.ipv4.ip_forward`
pub(super) fn forwarding4() -> Result<bool, KernelError> {
    Ok(read(&Path::new(ROOT).join("ipv4/ip_forward"))?.unwrap_or(false))
}

/// `sysctl net.ipv6.conf.all.forwarding`, and whether single interfaces can be switched.
pub(super) fn forwarding6() -> Result<Forwarding6, KernelError> {
    let all = Path::new(ROOT).join("ipv6/conf/all");
    Ok(match (read(&all.join("forwarding"))?, read(&all.join("force_forwarding"))?) {
        (Some(true), _) => Forwarding6::On,
        (_, Some(_)) => Forwarding6::PerInterface,
        _ => Forwarding6::Off,
    })
}

/// Switches IPv6 on for an interface of the calling thread's namespace, where an engine had switched it off:
/// `sysctl -w net.ipv6.conf.NAME.disable_ipv6=0`.
pub(super) fn enable_ipv6(ifname: &str) -> Result<(), KernelError> {
    let path = Path::new(ROOT).join("ipv6/conf").join(ifname).join("disable_ipv6");
    if read(&path)? == Some(true) { write(&path, false) } else { Ok(()) }
}
