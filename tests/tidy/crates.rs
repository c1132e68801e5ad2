//! Which crate may use which, and where versions are said.

use toml::{Table, Value};

use crate::files::Tree;
use crate::{expect_found, expect_none};

/// What each of our crates may use of the others. `tests` may use all.
const MAY_USE: [(&str, &[&str]); 4] = [
    ("proto/Cargo.toml", &[]),
    ("store/Cargo.toml", &["pontoon-proto"]),
    ("node/Cargo.toml", &["pontoon-proto", "pontoon-store"]),
    ("cli/Cargo.toml", &["pontoon-proto"]),
];

/// Dependencies of the programs, and those of the tests beside them.
const ALL: [&str; 3] = ["dependencies", "build-dependencies", "dev-dependencies"];

fn wrong_way(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for (path, allowed) in MAY_USE {
        for (_, text) in tree.all().filter(|(known, _)| *known == path) {
            for (name, _) in dependencies(text, &ALL[..2]) {
                if name.starts_with("pontoon-") && !allowed.contains(&name.as_str()) {
                    offences.push(format!("{path}: {name} is not below it (proto ← store ← node; cli → proto)"));
                }
            }
        }
    }
    offences
}

fn own_versions(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for (path, text) in tree.ending("/Cargo.toml") {
        for (name, value) in dependencies(text, &ALL) {
            let inherited = value.get("workspace").and_then(Value::as_bool) == Some(true);
            if !inherited {
                offences.push(format!("{path}: the version of {name} belongs into the workspace's Cargo.toml"));
            }
        }
    }
    offences
}

fn dependencies(text: &str, kinds: &[&str]) -> Vec<(String, Value)> {
    let manifest: Table = text.parse().expect("a manifest is TOML");
    let tables = kinds.iter().filter_map(|kind| manifest.get(*kind)?.as_table().cloned());
    tables.flatten().collect()
}

#[test]
fn arrows_point_one_way() {
    let tree = Tree::read();
    for (path, _) in MAY_USE {
        assert!(tree.has(path), "there is no {path}: this rule guards nothing");
    }
    expect_none(&wrong_way(&tree));
}

#[test]
fn versions_are_in_the_workspace() {
    expect_none(&own_versions(&Tree::read()));
}

#[test]
fn an_arrow_the_other_way_is_found() {
    let uses = |name: &str| format!("[dependencies]\n{name}.workspace = true\n");
    let (store, node) = (uses("pontoon-store"), uses("pontoon-node"));
    expect_found(wrong_way, ("cli/Cargo.toml", &store), ("node/Cargo.toml", &store));
    expect_found(wrong_way, ("store/Cargo.toml", &node), ("tests/Cargo.toml", &node));
    expect_found(wrong_way, ("proto/Cargo.toml", &store), ("proto/Cargo.toml", "[dependencies]\n"));
}

#[test]
fn a_version_elsewhere_is_found() {
    let inherited = "[dependencies]\nx = { workspace = true, features = [\"y\"] }\n";
    for own in ["[dependencies]\nx = \"1\"\n", "[dev-dependencies]\nx = { git = \"y\" }\n"] {
        expect_found(own_versions, ("node/Cargo.toml", own), ("node/Cargo.toml", inherited));
    }
}
