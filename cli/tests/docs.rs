//! What docs/api.md must have.

const DOCS: &str = include_str!("../../docs/api.md");
const ADMIN: &str = include_str!("../../proto/pontoon/v1/admin.proto");

/// The word after `keyword` in every line that begins with it.
fn declared(keyword: &str) -> Vec<&'static str> {
    let lines = ADMIN.lines().filter_map(|line| line.trim_start().strip_prefix(keyword));
    lines.filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next()).collect()
}

#[test]
fn every_service_and_method_is_listed() {
    let (services, methods) = (declared("service "), declared("rpc "));
    assert!(services.len() >= 4 && methods.len() >= 16, "{services:?} {methods:?}");
    for name in services.into_iter().chain(methods) {
        assert!(DOCS.contains(&format!("| `{name}` |")), "docs/api.md does not list {name}");
    }
}

#[test]
fn the_commands_own_reasons_are_listed() {
    for reason in ["CONNECTION_LOST", "DAEMON_DENIED", "DAEMON_UNREACHABLE", "LOCAL", "TIMEOUT"] {
        assert!(DOCS.contains(&format!("| `{reason}` | none |")), "docs/api.md does not list {reason}");
    }
}

#[test]
fn no_reason_is_listed_twice() {
    let reasons = DOCS.lines().filter_map(|line| {
        let (reason, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let is_reason = reason.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        (is_reason && rest.starts_with(['`', 'n'])).then_some(reason)
    });
    let mut reasons: Vec<_> = reasons.collect();
    assert!(reasons.len() > 50, "{reasons:?}");
    reasons.sort_unstable();
    for pair in reasons.windows(2) {
        assert_ne!(pair[0], pair[1]);
    }
}
