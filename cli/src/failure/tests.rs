use std::collections::HashMap;

use tonic_types::ErrorDetails;

use super::*;

fn host() -> Host {
    "unix:///tmp/p.sock".parse().unwrap()
}

fn refusal(domain: &str, hint: Option<&str>) -> Status {
    let metadata: HashMap<_, _> = hint.map(|hint| ("hint".to_owned(), hint.to_owned())).into_iter().collect();
    let details = ErrorDetails::with_error_info("NETWORK_NOT_FOUND", domain, metadata);
    Status::with_error_details(Code::NotFound, "network x does not exist", details)
}

#[test]
fn a_refusal_keeps_its_reason_message_and_hint() {
    let failure = Failure::from_status(&refusal(DOMAIN, Some("see `pontoon network ls`")), &host(), Effect::Read);
    assert_eq!(failure.text(), "error: network x does not exist\nhint: see `pontoon network ls`\n");
    assert_eq!(
        failure.json(),
        concat!(
            r#"{"error":{"reason":"NETWORK_NOT_FOUND","message":"network x does not exist","#,
            r#""hint":"see `pontoon network ls`"}}"#,
            "\n"
        )
    );
}

#[test]
fn no_hint_no_hint_line() {
    let failure = Failure::from_status(&refusal(DOMAIN, None), &host(), Effect::Read);
    assert_eq!(failure.text(), "error: network x does not exist\n");
}

#[test]
fn a_reason_of_another_domain_is_not_ours() {
    let failure = Failure::from_status(&refusal("example.com", Some("?")), &host(), Effect::Read);
    assert_eq!((failure.reason.as_str(), failure.hint.as_str()), ("NOT_FOUND", "see the daemon's log"));
}

#[test]
fn a_bare_status_is_told_by_its_code() {
    let failure = Failure::from_status(&Status::unimplemented(""), &host(), Effect::Read);
    assert_eq!(failure.reason, "UNIMPLEMENTED");
    assert!(failure.message.starts_with("pontoond at unix:///tmp/p.sock answered: "), "{}", failure.message);
    assert!(failure.hint.contains("different versions"), "{}", failure.hint);
}

#[test]
fn an_io_error_says_how_to_get_to_the_daemon() {
    let cases = [
        (2, "DAEMON_UNREACHABLE", "No such file or directory", "systemctl start pontoond"),
        (111, "DAEMON_UNREACHABLE", "Connection refused", "systemctl start pontoond"),
        (13, "DAEMON_DENIED", "Permission denied", "sudo"),
    ];
    for (number, reason, text, hint) in cases {
        let failure = Failure::unreachable(&host(), &io::Error::from_raw_os_error(number));
        assert_eq!(failure.reason, reason);
        assert_eq!(failure.message, format!("cannot reach pontoond at unix:///tmp/p.sock: {text}"));
        assert!(failure.hint.contains(hint), "{}", failure.hint);
    }
}

#[test]
fn a_missing_answer_to_a_write_is_not_called_a_failure_of_the_write() {
    let failure = Failure::timeout(&host(), Duration::from_secs(10), Effect::Write);
    assert_eq!(failure.message, "pontoond at unix:///tmp/p.sock did not answer within 10s");
    assert!(failure.hint.contains("not known whether the request was carried out"), "{}", failure.hint);
    let failure = Failure::timeout(&host(), Duration::from_millis(1500), Effect::Read);
    assert_eq!(failure.message, "pontoond at unix:///tmp/p.sock did not answer within 1.5s");
}
