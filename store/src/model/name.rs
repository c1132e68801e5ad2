//! What names and labels may look like.

use super::object::Labels;
use super::rejection::{Reason, Rejection};

/// Longest name of a node or a network.
pub(super) const MAX_NAME: usize = 63;
/// Longest name of a container (one DNS name, RFC 1035).
pub(super) const MAX_CONTAINER_NAME: usize = 255;
/// Longest name of a network interface (`IFNAMSIZ` of linux/if.h, less the final zero).
const MAX_IFNAME: usize = 15;
/// How many labels an object may have.
const MAX_LABELS: usize = 64;
/// Longest key of a label, in bytes.
const MAX_LABEL_KEY: usize = 128;
/// Longest value of a label, in bytes.
const MAX_LABEL_VALUE: usize = 512;
/// How much of a wrong text a message repeats, in characters.
const SHOWN: usize = 80;

/// A text as messages show it: quoted, without control characters, shortened.
pub(super) fn shown(text: &str) -> String {
    let mut start: String = text.chars().take(SHOWN).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{start:?}")
}

/// Checks a name. `what` says whose, such as "network".
pub(super) fn check(what: &str, name: &str, max: usize) -> Result<(), Rejection> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let why = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > max {
        format!("it has {} bytes", name.len())
    } else if let Some(wrong) = name.chars().find(|&c| !allowed(c)) {
        format!("{wrong:?} is not allowed")
    } else if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        "it does not begin with a letter or digit".to_owned()
    } else {
        return Ok(());
    };
    Err(Rejection::new(
        Reason::InvalidName,
        format!("{} cannot be a {what}'s name: {why}", shown(name)),
        format!("use 1 to {max} of a-z A-Z 0-9 . _ -, beginning with a letter or digit"),
    ))
}

/// Checks a free text of an object: bounded, without control characters.
pub(super) fn check_text(what: &str, text: &str, max: usize) -> Result<(), Rejection> {
    if text.len() > max {
        let message = format!("{what} {} has {} bytes", shown(text), text.len());
        return Err(Rejection::new(Reason::TooLarge, message, format!("use {max} at most")));
    }
    if text.chars().any(char::is_control) {
        let message = format!("{what} {} has a control character", shown(text));
        return Err(Rejection::new(Reason::InvalidName, message, "use printable characters"));
    }
    Ok(())
}

/// Checks the labels of an object. `what` names it, such as `network "web"`.
pub(super) fn check_labels(what: &str, labels: &Labels) -> Result<(), Rejection> {
    let refuse = |message: String, hint: String| Err(Rejection::new(Reason::InvalidLabel, message, hint));
    if labels.len() > MAX_LABELS {
        return refuse(format!("{what} would have {} labels", labels.len()), format!("use {MAX_LABELS} at most"));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > MAX_LABEL_KEY || key.chars().any(|c| c.is_control() || c == '=') {
            let hint = format!("use a key of 1 to {MAX_LABEL_KEY} bytes without = and control characters");
            return refuse(format!("{} cannot be the key of a label of {what}", shown(key)), hint);
        }
        if value.len() > MAX_LABEL_VALUE || value.chars().any(char::is_control) {
            let hint = format!("use a value of up to {MAX_LABEL_VALUE} bytes without control characters");
            return refuse(format!("label {} of {what} cannot have the value {}", shown(key), shown(value)), hint);
        }
    }
    Ok(())
}

/// Checks an interface name as Linux does (`dev_valid_name` of net/core/dev.c).
pub(super) fn check_ifname(name: &str) -> Result<(), Rejection> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_IFNAME {
        "it is too long"
    } else if matches!(name, "." | "..") {
        "Linux does not allow it"
    } else if name.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%')) {
        "it has a character that interface names do not have"
    } else {
        return Ok(());
    };
    Err(Rejection::new(
        Reason::InvalidIfname,
        format!("{} cannot be an interface's name: {why}", shown(name)),
        format!("use 1 to {MAX_IFNAME} characters without / : % and blanks, such as eth0"),
    ))
}
