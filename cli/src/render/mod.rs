//! Answers as text: pure functions from a message to what is printed.

pub(crate) mod admin;
pub(crate) mod backup;
pub(crate) mod cluster;
pub(crate) mod dns;
pub(crate) mod doctor;
pub(crate) mod endpoint;
pub(crate) mod lease;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod token;
pub(crate) mod upgrade;
pub(crate) mod watch;

use std::collections::BTreeMap;

use comfy_table::{Row, Table, presets};
use jiff::fmt::friendly::{Designator, Spacing, SpanPrinter};
use jiff::{Span, Timestamp};
use pontoon_proto::ShortName;
use pontoon_proto::v1::Freshness;

/// Blanks between columns, as many as Docker has.
const GAP: u16 = 3;

/// What stands for a value that is not there.
const NONE: &str = "-";

/// What an answer is worth; nothing when it holds every write acknowledged before the request.
pub(crate) fn banner(freshness: &Freshness) -> Option<String> {
    if freshness.linearizable {
        return None;
    }
    let reason = if freshness.reason.is_empty() { "as asked for" } else { &freshness.reason };
    let Freshness { applied_index, applied_ms, .. } = freshness;
    let time = time(*applied_ms);
    Some(format!(
        "warning: this is the node's own copy as of index {applied_index}, {time}; later writes are missing: {reason}\n"
    ))
}

/// Rows under headings, aligned, without borders and without trailing blanks.
fn table<R: Into<Row>>(headings: &[&str], rows: impl IntoIterator<Item = R>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    format!("{}\n", table.trim_fmt())
}

/// `Key: value` lines with the values below each other. A value of several lines keeps its column.
fn block(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(key, _)| key.len()).max().unwrap_or_default() + 1;
    let mut text = String::new();
    for (key, value) in lines {
        let value = value.trim_end().replace('\n', &format!("\n{:width$} ", ""));
        text += format!("{:width$} {value}", format!("{key}:")).trim_end();
        text.push('\n');
    }
    text
}

/// A heading and what is under it, after a blank line; nothing when nothing is.
fn section(heading: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("\n{heading}:\n{text}") }
}

/// A point in time, RFC 3339 in UTC.
fn time(ms: u64) -> String {
    if ms == 0 {
        return NONE.to_owned();
    }
    match timestamp(ms) {
        Some(time) => format!("{time:.0}"),
        None => format!("{ms} ms"),
    }
}

/// A point in time as seen from `now`: `3 minutes ago`.
fn ago(ms: u64, now: Timestamp) -> String {
    if ms == 0 {
        return NONE.to_owned();
    }
    let Some(then) = timestamp(ms) else { return format!("{ms} ms") };
    let seconds = now.duration_since(then).as_secs();
    let printer = SpanPrinter::new().designator(Designator::Verbose).spacing(Spacing::BetweenUnitsAndDesignators);
    let text = printer.span_to_string(&largest_unit(seconds.abs()));
    if seconds < 0 { format!("in {text}") } else { format!("{text} ago") }
}

/// Both forms.
fn since(ms: u64, now: Timestamp) -> String {
    if ms == 0 { NONE.to_owned() } else { format!("{} ({})", time(ms), ago(ms, now)) }
}

fn timestamp(ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}

/// Seconds in the largest unit that they fill; hours up to two days.
fn largest_unit(seconds: i64) -> Span {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let span = Span::new();
    if seconds < MINUTE {
        span.seconds(seconds)
    } else if seconds < HOUR {
        span.minutes(seconds / MINUTE)
    } else if seconds < 2 * DAY {
        span.hours(seconds / HOUR)
    } else {
        span.days(seconds / DAY)
    }
}

/// Texts in one cell.
fn list(texts: &[String]) -> String {
    or_none(&texts.join(", "))
}

/// Labels in one cell.
fn labels(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    list(&pairs)
}

/// A text, or the sign that there is none.
fn or_none(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { text.to_owned() }
}

/// An enumeration's short name; its number when this program is too old to know it.
fn name<E: TryFrom<i32> + ShortName>(number: i32) -> String {
    E::try_from(number).map_or_else(|_| number.to_string(), |value| value.short_name())
}

#[cfg(test)]
mod tests;
