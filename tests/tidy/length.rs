//! What does not fit on a screen or two is two things.

use crate::files::{Tree, code};
use crate::{expect_found, expect_none};

const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 500;

fn long_files(tree: &Tree) -> Vec<String> {
    let long = tree.ending(".rs").map(|(path, text)| (path, text.lines().count()));
    let long = long.filter(|&(_, lines)| lines > FILE_LINES);
    long.map(|(path, lines)| format!("{path}: {lines} lines; {FILE_LINES} are the limit")).collect()
}

fn long_functions(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for (path, text) in tree.ending(".rs") {
        for (line, name, length) in functions(&code(text)) {
            if length > FUNCTION_LINES {
                offences.push(format!("{path}:{line}: {name} has {length} lines; {FUNCTION_LINES} are the limit"));
            }
        }
    }
    offences
}

/// Line, name and number of lines of each function with a body.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let in_word = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(length) = body(&code[at..]) else { continue };
        if !in_word && !name.is_empty() {
            found.push((code[..at].lines().count().max(1), name, length));
        }
    }
    found
}

/// Lines from the signature to the end of the body; `None` without one.
fn body(code: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut brackets = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            ';' if depth == 0 && brackets == 0 => return None,
            '{' => depth += 1,
            '}' if depth <= 1 => return Some(code[..=at].lines().count()),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[test]
fn files_are_short() {
    expect_none(&long_files(&Tree::read()));
}

#[test]
fn functions_are_short() {
    expect_none(&long_functions(&Tree::read()));
}

#[test]
fn a_long_file_is_found() {
    let (long, short) = ("x\n".repeat(501), "x\n".repeat(500));
    expect_found(long_files, ("a/b.rs", &long), ("a/b.rs", &short));
}

#[test]
fn a_long_function_is_found() {
    let function =
        |lines: usize| format!("trait T {{ fn none(a: [u8; 3]); }}\nfn f() {{\n{}}}\n", "g(\"}\");\n".repeat(lines));
    let (long, short) = (function(69), function(68));
    expect_found(long_functions, ("a.rs", &long), ("a.rs", &short));
}
