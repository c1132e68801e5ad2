//! What the documents say is there.

use std::collections::BTreeSet;

use pontoon_store::model::rejection::Reason;

use crate::files::Tree;
use crate::{expect_found, expect_none};

const API: &str = "docs/api.md";

/// Relative links that lead nowhere.
fn broken_links(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for (path, text) in tree.ending(".md") {
        for (number, line) in text.lines().enumerate() {
            for target in links(line).filter(|target| !tree.has(&resolve(path, target))) {
                offences.push(format!("{path}:{}: {target} is not there", number + 1));
            }
        }
    }
    offences
}

/// Targets of a line's links within the repository, without their anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .filter(|target| !target.contains("://"))
        .filter_map(|target| target.split('#').next())
        .filter(|t| !t.is_empty())
}

/// The path that a link in the file `from` leads to.
fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Reasons that the daemon gives and docs/api.md does not list, or the other way round.
fn wrong_reasons(tree: &Tree) -> Vec<String> {
    let Some((_, api)) = tree.all().find(|(path, _)| *path == API) else { return Vec::new() };
    let listed = listed(api);
    let mut given: BTreeSet<String> = Reason::ALL.iter().map(|reason| reason.as_str().to_owned()).collect();
    for (_, text) in tree.ending(".rs").filter(|(path, _)| path.starts_with("node/src/")) {
        given.extend(reasons(text));
    }
    let missing = given.difference(&listed).map(|reason| format!("{API}: does not list {reason}"));
    let surplus = listed.difference(&given).map(|reason| format!("{API}: lists {reason}, which no daemon gives"));
    missing.chain(surplus).collect()
}

/// Reasons that rows of docs/api.md list: the first cell of tables whose first column is `reason`. Those without
/// a gRPC code ("none") are the command's own.
fn listed(api: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut in_table = false;
    for line in api.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        in_table = line.starts_with('|') && (in_table || cells[1] == "reason");
        if in_table && cells[1].starts_with('`') && cells[2] != "none" {
            found.insert(cells[1].trim_matches('`').to_owned());
        }
    }
    found
}

/// Reasons that code gives beside a gRPC code, as in `Code::NotFound, "LEASE_NOT_FOUND"`.
fn reasons(text: &str) -> impl Iterator<Item = String> {
    text.split("Code::").skip(1).filter_map(|rest| {
        let (_, rest) = rest.split_once(',')?;
        let reason = rest.trim_start().strip_prefix('"')?.split('"').next()?;
        let is_reason = reason.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        is_reason.then(|| reason.to_owned())
    })
}

#[test]
fn links_lead_somewhere() {
    expect_none(&broken_links(&Tree::read()));
}

#[test]
fn api_lists_every_reason() {
    let tree = Tree::read();
    assert!(tree.has(API), "there is no {API}: this rule guards nothing");
    expect_none(&wrong_reasons(&tree));
}

#[test]
fn a_broken_link_is_found() {
    let good = "[a](api.md#x) [b](../docs/api.md) [c](https://x.example/y) [d](#here)";
    expect_found(broken_links, ("docs/api.md", "see [a](gone.md)"), ("docs/api.md", good));
}

#[test]
fn a_wrong_reason_is_found() {
    let rows: Vec<String> = Reason::ALL.iter().map(|reason| format!("| `{reason}` | `X` | y |\n")).collect();
    let api =
        format!("| `OTHER` | of another table |\n\n| reason | code | meaning |\n|---|---|---|\n{}", rows.concat());
    let surplus = format!("{api}| `NO_SUCH` | `X` | y |\n");
    let own = format!("{api}| `LOCAL` | none | y |\n");
    expect_found(wrong_reasons, (API, &surplus), (API, &own));
    let code = "ApiError::new(\n    Code::Unavailable,\n    \"BUSY\", \"text\")";
    let found = wrong_reasons(&Tree::sample(&[(API, &api), ("node/src/a.rs", code)]));
    assert_eq!(found, ["docs/api.md: does not list BUSY"]);
}
