//! House rules. Each rule is a function from the repository's files to what breaks it, and has a test that it finds
//! what it should: a rule that nothing can break guards nothing.

#[path = "tidy/crates.rs"]
mod crates;
#[path = "tidy/docs.rs"]
mod docs;
#[path = "tidy/files.rs"]
mod files;
#[path = "tidy/length.rs"]
mod length;
#[path = "tidy/words.rs"]
mod words;

use files::Tree;

/// Fails with a line for each offence.
fn expect_none(offences: &[String]) {
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

/// Fails unless the rule finds exactly one offence in the sample, and none in the other.
fn expect_found(rule: fn(&Tree) -> Vec<String>, bad: (&str, &str), good: (&str, &str)) {
    let found = rule(&Tree::sample(&[bad]));
    assert_eq!(found.len(), 1, "in {bad:?}: {found:?}");
    assert!(found[0].starts_with(bad.0), "it does not name the file: {found:?}");
    let found = rule(&Tree::sample(&[good]));
    assert!(found.is_empty(), "in {good:?}: {found:?}");
}
