//! `pontoon admin`, `audit` and `context`.

use std::path::Path;

use jiff::Timestamp;
use pontoon_proto::v1::{Admin, Audited, Role};

use super::{ago, name, or_none, table, time};
use crate::context::{Context, Listed};

/// A new admin, and what to do with his file.
pub(crate) fn made(admin: Option<&Admin>, file: &Path, now: Timestamp) -> String {
    let admin = admin.cloned().unwrap_or_default();
    let (role, ends) = (name::<Role>(admin.role), ago(admin.until_ms, now));
    let file = file.display();
    format!(
        "{0} may administer this cluster as {role}; that ends {ends}. {file} has a private key: give it to {0} alone, who runs\n\n    \
         pontoon context add NAME {file}\n",
        admin.name
    )
}

/// Those who may administer the cluster from elsewhere.
pub(crate) fn list(admins: &[Admin], now: Timestamp) -> String {
    let rows = admins.iter().map(|admin| {
        let state = state(admin.until_ms, now);
        [admin.id.to_string(), admin.name.clone(), name::<Role>(admin.role), state, ago(admin.created_ms, now)]
    });
    table(&["ID", "NAME", "ROLE", "STATE", "CREATED"], rows)
}

fn state(until_ms: u64, now: Timestamp) -> String {
    let now_ms = u64::try_from(now.as_millisecond()).unwrap_or(0);
    format!("{} {}", if until_ms <= now_ms { "ended" } else { "ends" }, ago(until_ms, now))
}

/// Who has done what.
pub(crate) fn audit(audit: &[Audited]) -> String {
    let rows = audit.iter().map(|audited| {
        let origin = audited.origin.clone().unwrap_or_default();
        let from = format!("{} (node {})", origin.from, audited.node);
        [audited.index.to_string(), time(audited.time_ms), origin.who, from, audited.what.clone()]
    });
    table(&["INDEX", "TIME", "WHO", "FROM", "WHAT"], rows)
}

/// A context that was added.
pub(crate) fn added(context: &Context, used: bool) -> String {
    let Context { name, cluster, admin, role, .. } = context;
    let next =
        if used { "It is used from now on".to_owned() } else { format!("To use it: pontoon context use {name}") };
    format!("{name} is cluster {cluster}, as {admin} ({role}). {next}.\n")
}

/// Contexts.
pub(crate) fn contexts(contexts: &[Listed], now: Timestamp) -> String {
    let rows = contexts.iter().map(|context| {
        let current = if context.current { "*" } else { "" };
        let state = if context.until_ms == 0 { or_none("") } else { state(context.until_ms, now) };
        let [cluster, admin, role] = [&context.cluster, &context.admin, &context.role].map(|text| or_none(text));
        [format!("{}{current}", context.name), cluster, admin, role, state]
    });
    table(&["NAME", "CLUSTER", "ADMIN", "ROLE", "STATE"], rows)
}
