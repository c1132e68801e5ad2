//! Medians, percentiles and how numbers are shown.

use std::time::Duration;

/// The value that `percent` % of `sorted` are at or below (nearest rank). Zero when there are none.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// The middle of a few repetitions; the lower middle when their number is even. Zero when there are none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// How many there were in a second. Zero when no time went by.
pub(crate) fn per_second(count: u64, elapsed: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let count = count as f64;
    if elapsed.is_zero() { 0.0 } else { count / elapsed.as_secs_f64() }
}

/// A duration in milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// About three significant digits, thousands apart: 0.17, 1.25, 43.1, 670, 12,300.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v < 10.0 => format!("{value:.2}"),
        v if v < 100.0 => format!("{value:.1}"),
        v if v < 1000.0 => format!("{value:.0}"),
        _ => thousands(value),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Ours by theirs, with two digits; a dash when there is nothing to compare with.
pub(crate) fn ratio(ours: f64, theirs: f64) -> String {
    if theirs == 0.0 { "-".to_owned() } else { format!("{:.2}", ours / theirs) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let hundred: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        for (percent, expected) in [(0, 1), (1, 1), (50, 50), (99, 99), (100, 100)] {
            assert_eq!(percentile(&hundred, percent), Duration::from_millis(expected), "{percent} %");
        }
        assert_eq!(percentile(&hundred[..1], 99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn the_median_is_a_value_that_was_seen() {
        for (values, expected) in [(&[3.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0], 1.0), (&[], 0.0)] {
            assert_eq!(median(values).total_cmp(&expected), std::cmp::Ordering::Equal, "{values:?}");
        }
    }

    #[test]
    fn numbers_are_short_and_readable() {
        for (value, expected) in
            [(0.174, "0.17"), (43.14, "43.1"), (669.7, "670"), (12_300.4, "12,300"), (1e6, "1,000,000")]
        {
            assert_eq!(number(value), expected);
        }
        assert_eq!(ratio(1.0, 2.0), "0.50");
        assert_eq!(ratio(1.0, 0.0), "-");
    }
}
