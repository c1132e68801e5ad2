//! What may be named only in its own place, or nowhere.

use crate::files::{Tree, code};
use crate::{expect_found, expect_none};

/// The folders that decide, and know nothing but values.
const PURE: [&str; 2] = ["store/src/model/", "node/src/plan/"];

/// What has no place in them: it waits, asks the clock or chance, reads or writes, or has no order.
const IMPURE: [&str; 22] = [
    "async",
    "await",
    "tokio",
    "tonic",
    "sled",
    "rtnetlink",
    "nftables",
    "netlink_packet_route",
    "SystemTime",
    "Instant",
    "rand",
    "std::fs",
    "std::io",
    "std::process",
    "std::env",
    "thread",
    "HashMap",
    "HashSet",
    "TcpStream",
    "UdpSocket",
    "TcpListener",
    "println",
];

/// Names, and the only folder that may have them.
const OWN_PLACE: [(&str, &str); 6] = [
    ("sled", "store/src/disk"),
    ("rtnetlink", "node/src/kernel"),
    ("netlink_packet_core", "node/src/kernel"),
    ("netlink_packet_route", "node/src/kernel"),
    ("netlink_sys", "node/src/kernel"),
    ("nftables", "node/src/kernel"),
];

/// What is nowhere in this repository: unfinished code, and tests that are switched off.
const NOWHERE: [&str; 4] = ["todo!", "unimplemented!", "#[ignore", "dbg!"];

/// The only file that may sleep.
const SLEEPS: &str = "tests/src/wait.rs";

fn impure(tree: &Tree) -> Vec<String> {
    let pure = tree.ending(".rs").filter(|(path, _)| PURE.iter().any(|folder| path.starts_with(folder)));
    find(pure, &IMPURE, "has no place in a pure folder")
}

fn misplaced(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for (name, place) in OWN_PLACE {
        let programs = tree.ending(".rs").filter(|(path, _)| !path.starts_with("tests/") && !path.starts_with(place));
        offences.extend(find(programs, &[name], &format!("is only for {place}")));
    }
    offences
}

fn unfinished(tree: &Tree) -> Vec<String> {
    find(tree.ending(".rs"), &NOWHERE, "is not for the repository")
}

fn sleeping(tree: &Tree) -> Vec<String> {
    let others = tree.ending(".rs").filter(|(path, _)| *path != SLEEPS);
    find(others, &["thread::sleep"], "waits for nothing in particular: use wait_for")
}

/// Where the code of these files has one of these words.
fn find<'a>(files: impl Iterator<Item = (&'a str, &'a str)>, words: &[&str], why: &str) -> Vec<String> {
    let mut offences = Vec::new();
    for (path, text) in files {
        for (number, line) in code(text).lines().enumerate() {
            for word in words.iter().filter(|word| has_word(line, word)) {
                offences.push(format!("{path}:{}: {word} {why}", number + 1));
            }
        }
    }
    offences
}

/// Whether a line has this word, and not only as a part of another.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let starts = !line[..at].ends_with(part) || !word.starts_with(part);
        let ends = !line[at + word.len()..].starts_with(part) || !word.ends_with(part);
        starts && ends
    })
}

#[test]
fn pure_folders_are_pure() {
    let tree = Tree::read();
    for folder in PURE {
        assert!(tree.has(folder.trim_end_matches('/')), "there is no {folder}: this rule guards nothing");
    }
    expect_none(&impure(&tree));
}

#[test]
fn names_stay_in_their_places() {
    expect_none(&misplaced(&Tree::read()));
}

#[test]
fn nothing_is_unfinished_or_switched_off() {
    expect_none(&unfinished(&Tree::read()));
}

#[test]
fn only_waiting_sleeps() {
    expect_none(&sleeping(&Tree::read()));
}

#[test]
fn impurity_is_found() {
    for word in IMPURE {
        let line = format!("use x::{word}::y;");
        let other = format!("// {word}\nuse x::a{word}::y;");
        expect_found(impure, ("node/src/plan/a.rs", &line), ("store/src/model/a.rs", &other));
    }
    expect_found(impure, ("store/src/model/deep/a.rs", "async fn f() {}"), ("store/src/raft/a.rs", "async fn f() {}"));
}

#[test]
fn a_misplaced_name_is_found() {
    for (name, place) in OWN_PLACE {
        let line = format!("use {name}::x;");
        expect_found(misplaced, ("node/src/reconcile.rs", &line), (&format!("{place}/a.rs"), &line));
    }
}

#[test]
fn unfinished_code_is_found() {
    for word in NOWHERE {
        expect_found(unfinished, ("a.rs", &format!("fn f() {{ {word}(1) }}")), ("a.rs", &format!("/// {word}")));
    }
}

#[test]
fn a_sleep_is_found() {
    expect_found(sleeping, ("store/src/a.rs", "std::thread::sleep(d);"), (SLEEPS, "thread::sleep(d);"));
}
