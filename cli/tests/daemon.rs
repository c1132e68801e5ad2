//! Runs the real `pontoon` against a real gRPC server on a unix socket, whose answers are canned.

#![allow(clippy::unwrap_used, reason = "a test that cannot start its parts fails")]

mod fake;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering;

use fake::Daemon;
use pontoon_proto::v1::{
    AttachRequest, Check, ConfigureRequest, CreateNetworkRequest, DetachRequest, Finding, InitRequest,
    LabelNodeRequest, Level, Pool, Reservation, SetVotingRequest, Voting,
};

/// What the program did.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn command(socket: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
    command.args(line.split_whitespace()).env("PONTOON_HOST", format!("unix://{}", socket.display()));
    command
}

fn run(daemon: &Daemon, line: &str) -> Done {
    command(daemon.socket(), line).output().unwrap().into()
}

/// The same, with a text on the standard input.
fn run_with(daemon: &Daemon, line: &str, stdin: &str) -> Done {
    let mut command = command(daemon.socket(), line);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it is built");
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn create_prints_the_name_and_passes_everything_on() {
    let daemon = Daemon::start();
    let line = "network create my-overlay --subnet 10.1.0.0/24 --subnet fd00::/64 --gateway 10.1.0.1 \
                --ip-range 10.1.0.128/25 --reserve db=10.1.0.200 --mtu 1400 --vni 70000 --internal --label a=b \
                --ipv6 --force --wait";
    let done = run(&daemon, line);
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (Some(0), "my-overlay\n", ""));
    let expected = CreateNetworkRequest {
        name: "my-overlay".into(),
        subnets: vec!["10.1.0.0/24".into(), "fd00::/64".into()],
        gateways: vec!["10.1.0.1".into()],
        ip_ranges: vec!["10.1.0.128/25".into()],
        reservations: vec![Reservation { name: "db".into(), address: "10.1.0.200".into() }],
        mtu: 1400,
        vni: 70000,
        internal: true,
        labels: [("a".into(), "b".into())].into(),
        ipv6: true,
        force: true,
        wait: true,
    };
    assert_eq!(*daemon.seen.create.lock().unwrap(), Some(expected));
}

#[test]
fn what_is_not_given_is_empty_on_the_wire() {
    let daemon = Daemon::start();
    assert_eq!(run(&daemon, "network create n").code, Some(0));
    let expected = CreateNetworkRequest { name: "n".into(), ..Default::default() };
    assert_eq!(*daemon.seen.create.lock().unwrap(), Some(expected));

    assert_eq!(run(&daemon, "init --advertise 192.168.140.200").code, Some(0));
    let mut expected = InitRequest { advertise: "192.168.140.200".into(), ..Default::default() };
    assert_eq!(*daemon.seen.init.lock().unwrap(), Some(expected.clone()));

    assert_eq!(run(&daemon, "init --advertise 192.168.140.200 --pool 10.8.0.0/16 --pool-prefix 26").code, Some(0));
    expected.pools = vec![Pool { cidr: "10.8.0.0/16".into(), prefix: 26 }];
    assert_eq!(*daemon.seen.init.lock().unwrap(), Some(expected));
}

#[test]
fn settings_and_votes_reach_the_daemon() {
    let daemon = Daemon::start();
    let done = run(&daemon, "cluster set voters=3 replace-after=90s");
    assert_eq!(done.stdout, "Voters: 3 at most; replaced after 1m 30s without an answer\n");
    let expected = ConfigureRequest { voters: Some(3), replace_after_ms: Some(90_000) };
    assert_eq!(daemon.seen.configure.lock().unwrap().take(), Some(expected));
    let done = run(&daemon, "cluster set replace-after=default");
    assert_eq!(done.stdout, "Voters: by the number of nodes; replaced after 5m without an answer\n");
    let expected = ConfigureRequest { voters: None, replace_after_ms: Some(0) };
    assert_eq!(daemon.seen.configure.lock().unwrap().take(), Some(expected));
    for (line, voting) in
        [("promote h1 h2", Voting::Promoted), ("demote h1 h2", Voting::Demoted), ("auto h1 h2", Voting::Auto)]
    {
        let done = run(&daemon, &format!("node {line}"));
        assert_eq!((done.stdout.as_str(), done.code), ("h1\nh2\n", Some(0)));
        assert!(done.stderr.contains("warning: it does not vote yet"), "{}", done.stderr);
        let expected = ["h1", "h2"].map(|node| SetVotingRequest { node: node.into(), voting: voting.into() });
        assert_eq!(std::mem::take(&mut *daemon.seen.voting.lock().unwrap()), expected);
    }
    run(&daemon, "init --advertise h1 --voter-only");
    assert!(daemon.seen.init.lock().unwrap().as_ref().is_some_and(|init| init.voter_only));
}

#[test]
fn labels_and_namespaces_reach_the_daemon() {
    let daemon = Daemon::start();
    let done = run(&daemon, "node label host1 rack=a zone= old- --rm older");
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "host1\n"));
    let expected = LabelNodeRequest {
        node: "host1".into(),
        set: [("rack".into(), "a".into()), ("zone".into(), String::new())].into(),
        remove: vec!["older".into(), "old".into()],
    };
    assert_eq!(*daemon.seen.label.lock().unwrap(), Some(expected));

    // The daemon has another working directory.
    let mut attach = command(daemon.socket(), "attach --network n --netns c1 --ip 10.0.0.7 --alias db");
    let done: Done = attach.current_dir("/run").output().unwrap().into();
    assert_eq!(done.code, Some(0), "{done:?}");
    let expected = AttachRequest {
        network: "n".into(),
        netns: "/run/c1".into(),
        addresses: vec!["10.0.0.7".into()],
        aliases: vec!["db".into()],
        ..Default::default()
    };
    assert_eq!(*daemon.seen.attach.lock().unwrap(), Some(expected));

    let done = run(&daemon, "detach --name c1");
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "c1 n\n"));
    let expected = DetachRequest { name: "c1".into(), ..Default::default() };
    assert_eq!(*daemon.seen.detach.lock().unwrap(), Some(expected));
}

#[test]
fn a_refusal_is_told_with_its_hint() {
    let daemon = Daemon::start();
    let done = run(&daemon, "network inspect missing");
    assert_eq!(done.code, Some(1));
    assert_eq!(done.stdout, "");
    assert_eq!(done.stderr, "error: there is no network missing\nhint: see `pontoon network ls`\n");

    let done = run(&daemon, "network inspect missing -o json");
    assert_eq!(done.code, Some(1));
    let error: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(error["error"]["reason"], "NETWORK_NOT_FOUND");
    assert_eq!(error["error"]["message"], "there is no network missing");
    assert_eq!(error["error"]["hint"], "see `pontoon network ls`");
}

#[test]
fn the_others_go_on_after_a_failure() {
    let daemon = Daemon::start();
    let done = run(&daemon, "network rm a missing b");
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), "a\nb\n"));
    assert_eq!(done.stderr, "error: there is no network missing\nhint: see `pontoon network ls`\n");
    assert_eq!(run(&daemon, "network rm a b").code, Some(0));
}

#[test]
fn lists_come_as_names_as_tables_and_as_json() {
    let daemon = Daemon::start();
    assert_eq!(run(&daemon, "network ls -q").stdout, "a\nb\n");
    let done = run(&daemon, "network ls");
    assert!(done.stdout.starts_with("ID   NAME   VNI"), "{done:?}");
    assert_eq!(done.stdout.lines().count(), 3, "{done:?}");
    let json: serde_json::Value = serde_json::from_str(&run(&daemon, "network ls -o json").stdout).unwrap();
    assert_eq!(json["networks"][1]["network"]["name"], "b");
    assert_eq!(json["freshness"]["linearizable"], true);
}

#[test]
fn a_stale_answer_is_told_on_standard_error() {
    let daemon = Daemon::start();
    let done = run(&daemon, "network ls -q --stale");
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "a\nb\n"));
    assert!(done.stderr.starts_with("warning: this is the node's own copy as of index 42"), "{done:?}");
    assert_eq!(run(&daemon, "network ls -q").stderr, "");
}

#[test]
fn keys_and_states_are_readable_in_json() {
    let daemon = Daemon::start();
    let json: serde_json::Value = serde_json::from_str(&run(&daemon, "node label n a=b -o json").stdout).unwrap();
    assert_eq!(json["node"]["public_key"], "00ff10");
    assert_eq!(json["node"]["state"], "ready");
}

#[test]
fn leave_prints_what_remains_to_be_done() {
    let done = run(&Daemon::start(), "leave");
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "This node has left its cluster.\n"));
    assert_eq!(done.stderr, "warning: remove it by hand\n");
}

#[test]
fn a_node_moves_to_what_is_given() {
    let daemon = Daemon::start();
    assert_eq!(run(&daemon, "node move --advertise 192.168.140.9").stdout, "192.168.140.9+\n");
    assert_eq!(run(&daemon, "node move --data-addr 10.9.0.1").stdout, "+10.9.0.1\n");
    assert_eq!(run(&daemon, "node move").code, Some(2));
}

#[test]
fn what_a_cluster_was_locked_with_unlocks_it() {
    let daemon = Daemon::start();
    let printed = run(&daemon, "cluster lock").stdout;
    let key = printed.split_whitespace().find(|word| word.starts_with("PTNK1-")).expect("the key is printed");
    assert!(printed.contains("pontoon cluster unlock"), "{printed}");
    let unlocked = run_with(&daemon, "cluster unlock", &format!("{key}\n"));
    assert_eq!((unlocked.code, unlocked.stderr.as_str()), (Some(0), ""));
    let json: serde_json::Value = serde_json::from_str(&run(&daemon, "cluster lock -o json").stdout).unwrap();
    let other = json["unlock_key"].as_str().unwrap();
    assert_ne!(other, key, "each is another one");
    assert_eq!(run_with(&daemon, "cluster unlock", key).code, Some(1), "the one before");
    assert_eq!(run_with(&daemon, "cluster unlock", other).code, Some(0));
    for wrong in ["", "PTN1-ABC\n", &key[..key.len() - 1]] {
        let refused = run_with(&daemon, "cluster unlock", wrong);
        assert!(
            refused.code == Some(1) && refused.stderr.contains("no unlock key on the standard input"),
            "{refused:?}"
        );
    }
}

#[test]
fn a_node_that_still_votes_is_removed_with_a_warning() {
    let done = run(&Daemon::start(), "node rm host3");
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "host3\n"));
    assert_eq!(done.stderr, "warning: it still votes\n");
}

#[test]
fn a_diagnosis_ends_with_1_only_if_something_fails() {
    let daemon = Daemon::start();
    let finding = |level: Level| Finding { check: Check::Mtu.into(), level: level.into(), ..Default::default() };
    for (level, code, sum) in [
        (Level::Ok, 0, "0 failures, 0 warnings, 1 ok\n"),
        (Level::Warning, 0, "0 failures, 1 warning, 0 ok\n"),
        (Level::Failure, 1, "1 failure, 0 warnings, 0 ok\n"),
    ] {
        *daemon.seen.findings.lock().unwrap() = vec![finding(level)];
        let done = run(&daemon, "doctor");
        assert_eq!((done.code, done.stderr.as_str()), (Some(code), ""), "{done:?}");
        assert!(done.stdout.ends_with(sum), "{done:?}");
        let done = run(&daemon, "doctor -o json");
        assert_eq!((done.code, done.stderr.as_str()), (Some(code), ""), "{done:?}");
        let json: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        assert_eq!(json["findings"][0]["check"], "mtu");
    }
}

#[test]
fn no_answer_in_time() {
    let daemon = Daemon::start();
    let done = run(&daemon, "--timeout 100ms network create slow");
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""));
    let socket = daemon.socket().display();
    assert!(
        done.stderr.starts_with(&format!("error: pontoond at unix://{socket} did not answer within 100ms\nhint: ")),
        "{done:?}"
    );
    assert!(done.stderr.contains("not known whether the request was carried out"), "{done:?}");
}

#[test]
fn the_daemon_dies_meanwhile() {
    let daemon = Daemon::start();
    let mut line = command(daemon.socket(), "-o json network create slow");
    let child = line.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    daemon.wait_for_request();
    drop(daemon);
    let done: Done = child.wait_with_output().unwrap().into();
    assert_eq!(done.code, Some(1), "{done:?}");
    let error: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(error["error"]["reason"], "CONNECTION_LOST", "{done:?}");
}

#[test]
fn no_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("pontoon.sock");
    let done: Done = command(&socket, "status").output().unwrap().into();
    assert_eq!(done.code, Some(1));
    let error = format!("error: cannot reach pontoond at unix://{}: No such file or directory\n", socket.display());
    assert!(done.stderr.starts_with(&error), "{done:?}");
    assert!(done.stderr.contains("hint: start it with `systemctl start pontoond`"), "{done:?}");

    // A socket that nobody listens on any more.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let done: Done = command(&socket, "status").output().unwrap().into();
    assert!(done.stderr.contains(": Connection refused\n"), "{done:?}");
}

#[test]
fn a_daemon_that_does_not_know_the_request() {
    let done = run(&Daemon::start(), "node ls");
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("of different versions"), "{done:?}");
}

#[test]
fn wrong_usage_is_2_and_asks_no_daemon() {
    let daemon = Daemon::start();
    for line in ["", "network", "network create n --reserve db", "--host tcp://10.0.0.1 status", "network rm"] {
        let done = run(&daemon, line);
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{line}: {done:?}");
    }
    assert!(run(&daemon, "--host tcp://10.0.0.1 status").stderr.contains("only unix:///PATH is supported"));
    assert_eq!(daemon.seen.requests.load(Ordering::SeqCst), 0);
}

#[test]
fn version_and_completion_need_no_daemon() {
    let nowhere = Path::new("/nonexistent/pontoon.sock");
    let done: Done = command(nowhere, "--version").output().unwrap().into();
    assert_eq!((done.code, done.stdout), (Some(0), format!("pontoon {}\n", env!("CARGO_PKG_VERSION"))));
    for shell in ["bash", "zsh", "fish"] {
        let done: Done = command(nowhere, &format!("completion {shell}")).output().unwrap().into();
        assert_eq!(done.code, Some(0));
        assert!(done.stdout.contains("pontoon"), "{shell}");
    }
}

#[test]
fn nobody_reads_the_output() {
    let daemon = Daemon::start();
    let mut line = command(daemon.socket(), "network ls");
    let mut child = line.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let done: Done = child.wait_with_output().unwrap().into();
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_name_is_explained() {
    let daemon = Daemon::start();
    let done = run(&daemon, "dns query centos2 --network my-overlay");
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    assert!(done.stdout.contains("10.0.0.3") && done.stdout.contains("centos2"), "{}", done.stdout);
    let done = run(&daemon, "dns query centos2 --network my-overlay -o json");
    let answer: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(answer["matches"][0]["leases"][0]["epoch"], 24);
    let done = run(&daemon, "dns query missing --network my-overlay");
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""));
    assert!(done.stderr.starts_with("error:") && done.stderr.contains("hint:"), "{}", done.stderr);
    assert_eq!(run(&daemon, "dns query centos2").code, Some(2));
}

#[test]
fn manual_pages_are_written_without_a_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("no-daemon");
    let pages = folder.path().join("man1");
    let done: Done = command(&nowhere, &format!("man {}", pages.display())).output().unwrap().into();
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    let page = std::fs::read_to_string(pages.join("pontoon-network-create.1")).unwrap();
    assert!(page.contains("Create a network") && page.contains("\\-\\-subnet"), "{page}");
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let done: Done = command(&nowhere, &format!("man {}", file.display())).output().unwrap().into();
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains(&file.display().to_string()) && done.stderr.contains("hint:"), "{}", done.stderr);
}

#[test]
fn a_backup_is_a_file_that_is_whole_and_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Daemon::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    let ran = run(&daemon, &format!("backup {}", file.display()));
    assert_eq!(ran.code, Some(0));
    assert!(ran.stdout.contains("13 bytes, as of index 118"), "{}", ran.stdout);
    assert_eq!(std::fs::read(&file).unwrap(), b"what there is");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(run(&daemon, "backup -").stdout, "what there is");
    let ran = run(&daemon, "backup /nonexistent/folder/backup");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("/nonexistent/folder/backup"), "{}", ran.stderr);

    assert_eq!(run(&daemon, &format!("restore {} --advertise h1", file.display())).code, Some(0));
    let (init, sent) = daemon.seen.restore.lock().unwrap().take().unwrap();
    assert_eq!(init.unwrap().advertise, "h1");
    assert_eq!(sent, b"what there is");
    assert_eq!(run(&daemon, "restore /nonexistent --advertise h1").code, Some(1));
}

#[test]
fn a_recovery_has_to_be_forced() {
    let daemon = Daemon::start();
    let ran = run(&daemon, "recover");
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.stdout.contains("Nothing was done") && ran.stderr.contains("look out"),
        "{} {}",
        ran.stdout,
        ran.stderr
    );
    assert!(run(&daemon, "recover --force").stdout.contains("goes on in cluster"));
}
