use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use proptest::prelude::*;
use tempfile::TempDir;

use super::format::HEADER_BYTES;
use super::*;

const CLUSTER: ClusterId = ClusterId(7);

fn options(dir: &Path, segment_bytes: u64) -> WalOptions {
    let identity = Identity { cluster: CLUSTER, raft_id: RaftId(1) };
    WalOptions { dir: dir.to_owned(), identity, segment_bytes }
}

fn no_fatal() -> Fatal {
    Arc::new(|message| panic!("{message}"))
}

fn open(dir: &Path) -> (Wal, Recovered) {
    Wal::open(options(dir, 4096), no_fatal()).unwrap()
}

fn write(wal: &Wal, writes: Vec<Write>) {
    let (sender, receiver) = mpsc::channel();
    wal.submit(writes, Some(Box::new(move |result| sender.send(result).unwrap())));
    receiver.recv().unwrap().unwrap();
}

fn entry(index: u64) -> Write {
    Write::Entry(index, Bytes::from(format!("entry {index}").into_bytes()))
}

fn vote(number: u64) -> Write {
    Write::Vote(Bytes::from(number.to_le_bytes().to_vec()))
}

fn purge(index: u64) -> Write {
    Write::Purge(index, Bytes::from_static(b"purged"))
}

/// What a log that was given these writes holds.
fn model(writes: &[Write]) -> Recovered {
    let mut state = Recovered::default();
    for write in writes {
        match write.clone() {
            Write::Vote(bytes) => state.vote = Some(bytes),
            Write::Committed(bytes) => state.committed = Some(bytes),
            Write::Entry(index, bytes) => drop(state.entries.insert(index, bytes)),
            Write::Truncate(from) => drop(state.entries.split_off(&from)),
            Write::Purge(index, bytes) => {
                state.entries = state.entries.split_off(&(index + 1));
                state.purged = Some((index, bytes));
            }
        }
    }
    state
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "wal")).collect();
    paths.sort();
    paths
}

/// How many syncs a log has timed.
fn timed(wal: &Wal) -> u64 {
    let mut registry = Registry::default();
    registry.register("sync", "Syncs", wal.sync_seconds());
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let count = text.lines().find_map(|line| line.strip_prefix("sync_count "));
    count.unwrap().parse().unwrap()
}

/// Where the last record of a segment ends.
fn end_of(path: &Path) -> usize {
    let data = fs::read(path).unwrap();
    let mut end = HEADER_BYTES;
    while let Some(record) = format::decode(&data, 1, end) {
        end = record.next;
    }
    end
}

#[test]
fn holds_what_was_written() {
    let dir = TempDir::new().unwrap();
    let writes = vec![
        vote(1),
        entry(0),
        entry(1),
        entry(2),
        entry(3),
        Write::Committed(Bytes::from_static(b"two")),
        Write::Truncate(3),
        vote(2),
        entry(3),
        entry(4),
        purge(1),
    ];
    let (wal, recovered) = open(dir.path());
    assert_eq!(recovered, Recovered::default());
    for one in &writes {
        write(&wal, vec![one.clone()]);
    }
    drop(wal);
    assert_eq!(open(dir.path()).1, model(&writes));
}

#[test]
fn one_sync_for_each_group() {
    let dir = TempDir::new().unwrap();
    let (wal, _) = Wal::open(options(dir.path(), SEGMENT_BYTES), no_fatal()).unwrap();
    let (sender, receiver) = mpsc::channel();
    for index in 0..1000 {
        let sender = sender.clone();
        wal.submit(vec![entry(index)], Some(Box::new(move |result| sender.send(result.map(|()| index)).unwrap())));
    }
    let order: Vec<_> = (0..1000).map(|_| receiver.recv().unwrap().unwrap()).collect();
    assert!(order.is_sorted(), "acknowledged in order");
    let counts = wal.counts();
    assert_eq!(counts.syncs, counts.groups);
    assert_eq!((counts.entries, timed(&wal)), (1000, counts.syncs), "every sync is timed");
    assert!(counts.groups < 1000, "1000 writes in {} groups", counts.groups);
    // What nobody waits for is not synced by itself.
    wal.submit(vec![Write::Committed(Bytes::from_static(b"hint"))], None);
    drop(wal);
    assert_eq!(open(dir.path()).1.committed.as_deref(), Some(&b"hint"[..]));
}

#[test]
fn nothing_is_acknowledged_before_its_sync() {
    let dir = TempDir::new().unwrap();
    let (wal, _) = Wal::open(options(dir.path(), SEGMENT_BYTES), no_fatal()).unwrap();
    for index in 1..=20 {
        let counters = Arc::clone(&wal.counters);
        let (sender, receiver) = mpsc::channel();
        let done: Done = Box::new(move |_| sender.send(counters.syncs.load(Ordering::Relaxed)).unwrap());
        wal.submit(vec![entry(index)], Some(done));
        assert_eq!(receiver.recv().unwrap(), index, "syncs when it is acknowledged");
    }
}

#[test]
fn any_prefix_of_the_file_is_a_prefix_of_the_writes() {
    let dir = TempDir::new().unwrap();
    let writes = [vote(1), entry(0), entry(1), vote(2), Write::Truncate(1), entry(1), entry(2)];
    let (wal, _) = open(dir.path());
    let path = segments(dir.path())[0].clone();
    let begin = end_of(&path);
    let mut ends = vec![begin];
    for one in &writes {
        write(&wal, vec![one.clone()]);
        ends.push(end_of(&path));
    }
    drop(wal);
    let whole = fs::read(&path).unwrap();
    for length in begin..=*ends.last().unwrap() {
        let copy = TempDir::new().unwrap();
        fs::write(copy.path().join(path.file_name().unwrap()), &whole[..length]).unwrap();
        let (wal, mut recovered) = open(copy.path());
        recovered.torn = false;
        // A record's padding may be missing.
        let count = ends.iter().filter(|&&end| end < length + 8).count() - 1;
        let fewer = ends.iter().filter(|&&end| end <= length).count() - 1;
        let expected = [model(&writes[..count]), model(&writes[..fewer])];
        assert!(expected.contains(&recovered), "{length} bytes: {recovered:?}");
        // It goes on from there, and nothing of the cut end comes back.
        let next = recovered.entries.last_key_value().map_or(0, |(index, _)| index + 1);
        write(&wal, vec![entry(next)]);
        drop(wal);
        assert_eq!(open(copy.path()).1.entries.len(), recovered.entries.len() + 1, "{length} bytes");
    }
}

#[test]
fn a_flipped_bit_is_refused_in_the_middle_and_cut_off_at_the_end() {
    let dir = TempDir::new().unwrap();
    let (wal, _) = open(dir.path());
    let path = segments(dir.path())[0].clone();
    let mut ends = vec![end_of(&path)];
    for index in 0..4 {
        write(&wal, vec![entry(index)]);
        ends.push(end_of(&path));
    }
    drop(wal);
    let whole = fs::read(&path).unwrap();
    for position in 0..ends[4] {
        let copy = TempDir::new().unwrap();
        let mut data = whole.clone();
        data[position] ^= 0x10;
        fs::write(copy.path().join(path.file_name().unwrap()), &data).unwrap();
        let opened = Wal::open(options(copy.path(), 4096), no_fatal());
        if position < ends[3] {
            // Padding behind a record is not looked at.
            match opened {
                Ok((_, recovered)) => assert_eq!(recovered.entries.len(), 4, "byte {position}"),
                Err(WalError::Corrupt { .. } | WalError::Newer { .. }) => {}
                Err(error) => panic!("byte {position}: {error}"),
            }
        } else {
            let (_, recovered) = opened.unwrap();
            assert!(recovered.entries.len() >= 3, "byte {position}");
        }
    }
}

#[test]
fn a_torn_batch_is_cut_off_although_its_end_was_written() {
    let dir = TempDir::new().unwrap();
    let (wal, _) = open(dir.path());
    let path = segments(dir.path())[0].clone();
    write(&wal, vec![entry(0)]);
    let end = end_of(&path);
    write(&wal, vec![entry(1), entry(2), entry(3)]);
    drop(wal);
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0; 8], end as u64).unwrap();
    let (wal, recovered) = open(dir.path());
    assert!(recovered.torn);
    assert_eq!(recovered.entries.len(), 1);
    // The cut records do not come back behind new ones of the same size.
    write(&wal, vec![entry(1)]);
    drop(wal);
    assert_eq!(open(dir.path()).1.entries.len(), 2);
}

#[test]
fn segments_follow_each_other_and_go_when_purged() {
    let dir = TempDir::new().unwrap();
    let (wal, _) = open(dir.path());
    write(&wal, vec![vote(9)]);
    for index in 0..=300 {
        write(&wal, vec![entry(index)]);
    }
    let before = segments(dir.path()).len();
    assert!(before > 3, "{before} segments");
    write(&wal, vec![purge(290)]);
    assert!(segments(dir.path()).len() <= 2);
    drop(wal);
    let (wal, recovered) = open(dir.path());
    assert_eq!(recovered.entries.keys().copied().collect::<Vec<_>>(), (291..=300).collect::<Vec<_>>());
    assert_eq!(recovered.vote, Some(Bytes::from(9_u64.to_le_bytes().to_vec())));
    assert_eq!(recovered.purged.unwrap().0, 290);
    // A snapshot may take the log beyond its last entry.
    write(&wal, vec![purge(1000), entry(1001)]);
    drop(wal);
    assert_eq!(open(dir.path()).1.entries.keys().copied().collect::<Vec<_>>(), [1001]);
}

#[test]
fn a_missing_or_damaged_old_segment_is_refused() {
    let dir = TempDir::new().unwrap();
    let (wal, _) = open(dir.path());
    for index in 0..=300 {
        write(&wal, vec![entry(index)]);
    }
    drop(wal);
    let paths = segments(dir.path());
    let second = fs::read(&paths[1]).unwrap();
    let mut cut = second.clone();
    cut[3000..].fill(0);
    fs::write(&paths[1], &cut).unwrap();
    assert!(matches!(Wal::open(options(dir.path(), 4096), no_fatal()), Err(WalError::Corrupt { .. })));
    fs::remove_file(&paths[1]).unwrap();
    assert!(matches!(Wal::open(options(dir.path(), 4096), no_fatal()), Err(WalError::Corrupt { .. })));
    fs::write(&paths[1], &second).unwrap();
    assert_eq!(open(dir.path()).1.entries.len(), 301);
}

#[test]
fn a_log_without_its_beginning_is_refused() {
    let refused = |dir: &Path| {
        let error = Wal::open(options(dir, 4096), no_fatal()).unwrap_err();
        assert!(matches!(error, WalError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("entries are missing"), "{error}");
    };
    let dir = TempDir::new().unwrap();
    write(&open(dir.path()).0, vec![entry(1)]);
    refused(dir.path());
    let dir = TempDir::new().unwrap();
    let (wal, _) = open(dir.path());
    for index in 0..=300 {
        write(&wal, vec![entry(index)]);
    }
    drop(wal);
    fs::remove_file(&segments(dir.path())[0]).unwrap();
    refused(dir.path());
    let dir = TempDir::new().unwrap();
    write(&open(dir.path()).0, vec![purge(4), entry(6)]);
    refused(dir.path());
}

#[test]
fn a_foreign_log_is_refused_and_both_are_named() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()));
    let mut other = options(dir.path(), 4096);
    other.identity.raft_id = RaftId(23);
    let error = Wal::open(other, no_fatal()).unwrap_err().to_string();
    assert!(error.contains("member 1 of") && error.contains("member 23 of"), "{error}");
    let mut other = options(dir.path(), 4096);
    other.identity.cluster = ClusterId(8);
    let error = Wal::open(other, no_fatal()).unwrap_err().to_string();
    assert!(error.contains(&CLUSTER.to_string()) && error.contains(&ClusterId(8).to_string()), "{error}");
}

#[test]
fn only_one_process_has_it_open() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path());
    assert!(matches!(Wal::open(options(dir.path(), 4096), no_fatal()), Err(WalError::InUse { .. })));
    drop(first);
    open(dir.path());
}

#[test]
fn a_newer_format_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()));
    let path = segments(dir.path())[0].clone();
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[9], 8).unwrap();
    let error = Wal::open(options(dir.path(), 4096), no_fatal()).unwrap_err().to_string();
    assert!(error.contains("format 9"), "{error}");
}

#[test]
fn a_write_that_fails_is_fatal() {
    let dir = TempDir::new().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let fatal: Fatal = {
        let told = Arc::clone(&told);
        Arc::new(move |message| told.lock().unwrap().push(message.to_owned()))
    };
    let (wal, _) = Wal::open(options(dir.path(), 4096), fatal).unwrap();
    write(&wal, vec![entry(1)]);
    // The next segment cannot be made: the folder is gone.
    fs::remove_dir_all(dir.path()).unwrap();
    let big = Write::Entry(2, Bytes::from(vec![0; 8192]));
    for one in [big, entry(3)] {
        let (sender, receiver) = mpsc::channel();
        wal.submit(vec![one], Some(Box::new(move |result| sender.send(result).unwrap())));
        assert!(receiver.recv().unwrap().is_err());
    }
    assert_eq!(told.lock().unwrap().len(), 1, "told once, and not tried again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reopening_gives_back_the_model(steps in prop::collection::vec((0_u8..6, 0_u64..20), 1..80)) {
        let dir = TempDir::new().unwrap();
        let mut done: Vec<Write> = Vec::new();
        let mut wal = open(dir.path()).0;
        for (kind, number) in steps {
            let state = model(&done);
            let begin = state.purged.as_ref().map_or(0, |(index, _)| index + 1);
            let next = state.entries.last_key_value().map_or(begin, |(index, _)| index + 1);
            let purged = state.purged.as_ref().map_or(0, |(index, _)| *index);
            let last = state.entries.last_key_value().map_or(purged, |(index, _)| *index);
            let one = match kind {
                0 => vote(number),
                1 => Write::Truncate((purged + 1 + number).min(last + 1)),
                2 => purge((purged + number / 4).min(last).max(purged)),
                3 => {
                    drop(wal);
                    let (again, recovered) = open(dir.path());
                    prop_assert_eq!(recovered, state);
                    wal = again;
                    continue;
                }
                _ => entry(next),
            };
            write(&wal, vec![one.clone()]);
            done.push(one);
        }
        drop(wal);
        prop_assert_eq!(open(dir.path()).1, model(&done));
    }
}
