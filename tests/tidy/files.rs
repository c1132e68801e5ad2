//! The repository's files, and their code without comments and text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files by their path from the root of the repository.
#[derive(Debug)]
pub(crate) struct Tree(BTreeMap<String, String>);

impl Tree {
    /// The repository: what git tracks, and what is new and not ignored. Files that are not text are left out.
    pub(crate) fn read() -> Self {
        let root = root();
        let output = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root)
            .output()
            .expect("git can be run");
        assert!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
        let list = String::from_utf8(output.stdout).expect("file names are UTF-8");
        let files =
            list.lines().filter_map(|path| Some((path.to_owned(), std::fs::read_to_string(root.join(path)).ok()?)));
        Self(files.collect())
    }

    /// Some files, to try a rule on.
    pub(crate) fn sample(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    /// Every file.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Files whose names end so.
    pub(crate) fn ending(&self, end: &str) -> impl Iterator<Item = (&str, &str)> {
        self.all().filter(move |(path, _)| path.ends_with(end))
    }

    /// Whether there is such a file or folder.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.keys().any(|known| known == path || known.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')))
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_root.parent().expect("the crate is in the repository").to_owned()
}

/// Rust code with blanks for comments, and for what is in quotes. Every line stays where it is.
pub(crate) fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = skipped(rest, out.chars().next_back());
        let (part, blank) = if skipped == 0 { (first.len_utf8(), false) } else { (skipped, true) };
        out.extend(rest[..part].chars().map(|c| if blank && c != '\n' { ' ' } else { c }));
        rest = &rest[part..];
    }
    out
}

/// Length of the comment, string or character that `rest` begins with; 0 if it begins with code.
fn skipped(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if !in_word && (rest.starts_with("r\"") || rest.starts_with("r#")) {
        return raw(rest);
    }
    let mut chars = rest.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('\''), Some('\\'), _) => quoted(rest, '\''),
        // Not a lifetime.
        (Some('\''), Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

/// Length of what is quoted, with its quotes.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return index + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Length of a raw string; 0 for a raw identifier such as `r#type`.
fn raw(rest: &str) -> usize {
    let hashes = rest[1..].chars().take_while(|&c| c == '#').count();
    if !rest[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let start = 2 + hashes;
    rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
}

#[test]
fn comments_and_text_are_blanked() {
    let text = "a // b\nc /* d\n */ \"e\\\"f\" 'g' '\\'' &'h r\"i\" r#\"j\"k\"# var\"l\" r#type";
    let code = code(text);
    let left: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(left, "a c &'h var r#type");
    assert_eq!(code.lines().count(), text.lines().count());
    assert_eq!(code.chars().count(), text.chars().count());
}

#[test]
fn the_repository_is_found() {
    let tree = Tree::read();
    assert!(tree.has("Cargo.toml") && tree.has("store/src/model") && !tree.has("target"));
}
