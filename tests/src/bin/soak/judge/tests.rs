use super::*;

const LENGTH: Duration = Duration::from_secs(120);
const COUNT: u32 = 60;

/// A sample of a daemon that is well, with the number of those before it.
fn sample(number: u32) -> Sample {
    let number = u64::from(number);
    Sample {
        at: Duration::from_secs(2 * number),
        starts: 1,
        // To and fro, as the log is purged.
        resident: 80 * MIB + number % 10 * MIB / 2,
        // A segment that comes and goes.
        log: 16 * MIB * (1 + u64::from(number % 20 > 15)),
        snapshots: 100 * KIB,
        state: 2 * MIB + number % 7 * 100 * KIB,
        descriptors: 60 + number % 5,
        threads: 10 + number % 3,
        interfaces: 80 + number % 13,
        entries: 25_000 + 500 * number,
    }
}

/// What is wrong with a daemon whose samples are changed so; it gets their numbers.
fn wrong(change: impl Fn(u64, &mut Sample)) -> Vec<String> {
    judge(&[course(change)], LENGTH)
}

fn course(change: impl Fn(u64, &mut Sample)) -> Course {
    let changed = |number| {
        let mut sample = sample(number);
        change(number.into(), &mut sample);
        sample
    };
    Course { node: "h1".to_owned(), samples: (0..COUNT).map(changed).collect() }
}

fn only(wrong: &[String], words: &str) {
    assert!(wrong.len() == 1 && wrong[0].contains(words) && wrong[0].starts_with("h1: "), "{words}: {wrong:?}");
}

#[test]
fn what_goes_up_and_down_is_flat() {
    assert_eq!(wrong(|_, _| ()), Vec::<String>::new());
}

#[test]
fn what_grew_before_the_second_quarter_is_no_matter() {
    assert_eq!(wrong(|number, sample| sample.resident = (40 + number.min(15) * 4) * MIB), Vec::<String>::new());
}

#[test]
fn a_leak_in_memory_is_found() {
    only(&wrong(|number, sample| sample.resident += number * MIB), "resident memory grew from 10");
    assert_eq!(wrong(|number, sample| sample.resident += number * MIB / 5), Vec::<String>::new(), "within 16 MiB");
}

#[test]
fn a_greater_memory_may_differ_by_more() {
    let grown =
        |percent: u64| wrong(move |number, sample| sample.resident = (400 + 400 * percent * number / 6_000) * MIB);
    assert_eq!(grown(18), Vec::<String>::new());
    only(&grown(25), "resident memory");
}

#[test]
fn a_growing_disk_is_found() {
    only(&wrong(|number, sample| sample.state += number * MIB / 2), "state on disk grew");
    only(&wrong(|number, sample| sample.snapshots += number * 20 * KIB), "snapshots on disk grew");
    let segments = wrong(|number, sample| sample.log = 16 * MIB * (1 + number / 10));
    assert_eq!(segments.len(), 2, "it grows, and is more than it may ever be: {segments:?}");
}

#[test]
fn a_log_that_is_too_large_is_found_even_when_it_is_flat() {
    only(&wrong(|_, sample| sample.log = 80 * MIB), "log on disk has been 80.0 MiB; 65.0 MiB is the bound");
}

#[test]
fn a_leak_of_descriptors_or_threads_is_found() {
    only(&wrong(|number, sample| sample.descriptors += number / 2), "open descriptors grew");
    only(&wrong(|number, sample| sample.threads += number / 4), "threads grew");
}

#[test]
fn interfaces_of_what_is_gone_are_found() {
    assert_eq!(wrong(|number, sample| sample.interfaces = 40 + number), Vec::<String>::new(), "there may be so many");
    only(&wrong(|number, sample| sample.interfaces += number * 2), "interfaces has been");
}

#[test]
fn memory_is_not_compared_across_a_restart() {
    let restarted = course(|number, sample| {
        sample.starts += u32::from(number > 40);
        sample.resident = if number > 40 { 200 * MIB } else { 80 * MIB };
    });
    let other = course(|_, _| ());
    assert_eq!(judge(&[restarted, other], LENGTH), Vec::<String>::new());
    let all = wrong(|number, sample| sample.starts += u32::from(number > 40));
    assert_eq!(all, ["every daemon was started again: nothing can be said about memory"]);
}

#[test]
fn a_daemon_that_fills_its_buffers_anew_does_not_leak() {
    let early = course(|number, sample| {
        sample.starts += u32::from(number > 12);
        sample.resident = if number > 12 { (90 + number) * MIB } else { 140 * MIB };
    });
    assert_eq!(judge(&[early, course(|_, _| ())], LENGTH), Vec::<String>::new());
}

#[test]
fn descriptors_are_compared_across_a_restart() {
    let restarted = course(|number, sample| {
        sample.starts += u32::from(number > 40);
        sample.descriptors += number;
    });
    only(&judge(&[restarted, course(|_, _| ())], LENGTH), "open descriptors");
}

#[test]
fn nothing_is_proved_by_a_daemon_that_did_nothing() {
    only(&wrong(|_, sample| sample.entries = 25_000), "nothing was written");
    let few = Course { node: "h1".to_owned(), samples: (0..5).map(|number| sample(number * 12)).collect() };
    let wrong = judge(&[few], LENGTH);
    only(&wrong, "fewer than 3 samples in quarter 2");
}
