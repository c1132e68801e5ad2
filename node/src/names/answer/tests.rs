//! Messages as they come, and what is said to them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use hickory_proto::op::Query;
use pontoon_store::model::id::EndpointId;
use pontoon_store::model::object::{EndpointState, Lease, LeaseState};
use pontoon_store::model::state::State;
use proptest::prelude::*;

use super::*;
use crate::plan::tests::{network, small_state, state};

/// Two containers here and one there on net1 (both families), of which the first asks; one on net2, where it is not.
fn world() -> State {
    let small = small_state();
    let (net1, net2) = (network(1, true, false), network(2, false, false));
    let mut endpoints: Vec<Endpoint> = small.endpoints.into_values().collect();
    endpoints[1].aliases = vec!["Web".into(), "db.internal".into()];
    endpoints[1].container_id = "0123456789abcdef".repeat(4);
    endpoints[2].aliases = vec!["web".into()];
    let elsewhere = Endpoint { id: EndpointId(20), network: net2.id, name: "c20".into(), ..endpoints[2].clone() };
    endpoints.push(elsewhere);
    let leases: Vec<Lease> = endpoints.iter().flat_map(leases).collect();
    let mut state = state(vec![net1, net2], endpoints);
    state.leases = leases.into_iter().map(|lease| ((lease.network, lease.address), lease)).collect();
    state.reindex();
    state
}

fn leases(endpoint: &Endpoint) -> Vec<Lease> {
    let of = |address: &IpAddr| Lease {
        network: endpoint.network,
        address: *address,
        epoch: 1,
        state: LeaseState::Active,
        endpoint: Some(endpoint.id),
        node: Some(endpoint.node),
        name: endpoint.name.clone(),
        since_ms: 0,
        reserved_for: None,
        previous: vec![],
    };
    endpoint.addresses.iter().map(of).collect()
}

fn question(name: &str, wanted: RecordType) -> Message {
    let mut question = Message::new(4711, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), wanted));
    question
}

/// What is said to the first container; none: whoever would have been asked is to say.
fn say_to(state: &State, message: &[u8], by: Transport) -> Option<Said> {
    say_in_turn(state, message, by, &Turns::default())
}

fn say_in_turn(state: &State, message: &[u8], by: Transport, turns: &Turns) -> Option<Said> {
    let asked = match read(message) {
        Ok(asked) => asked,
        Err(said) => return Some(said),
    };
    let (asker, none) = (BTreeSet::from([EndpointId(11)]), BTreeSet::new());
    let found = find(&asked, &Directory::of_container(state, &asker, &none), turns)?;
    Some(answer(&asked, by, found))
}

/// The answer that a message gets, and its kind.
fn answered(state: &State, message: &[u8], by: Transport) -> (Message, Kind) {
    match say_to(state, message, by) {
        Some(Said::Answer(bytes, kind)) => (Message::from_vec(&bytes).unwrap(), kind),
        other => panic!("{other:?} to {message:?}"),
    }
}

fn ask(state: &State, name: &str, wanted: RecordType) -> (Vec<String>, Kind) {
    let question = question(name, wanted);
    let (answer, kind) = answered(state, &question.to_vec().unwrap(), Transport::Udp);
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (4711, ResponseCode::NoError));
    assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired && !answer.metadata.truncation);
    assert_eq!(answer.queries, question.queries);
    assert!(answer.answers.iter().all(|record| record.ttl == TTL && record.name == question.queries[0].name));
    (answer.answers.iter().map(|record| record.data.to_string()).collect(), kind)
}

#[test]
fn every_name_of_a_container_is_known() {
    let state = world();
    let (v4, v6) = (RecordType::A, RecordType::AAAA);
    let cases: &[(&str, RecordType, &[&str])] = &[
        ("c12.", v4, &["10.0.1.14"]),
        ("c12.net1.", v4, &["10.0.1.14"]),
        ("C12.Net1.", v4, &["10.0.1.14"]),
        ("c12.", v6, &["fd00:1::e"]),
        ("c13.", v4, &["10.0.1.15"]),
        ("c11.", v4, &["10.0.1.13"]),
        ("web.", v4, &["10.0.1.14", "10.0.1.15"]),
        ("WEB.net1.", v4, &["10.0.1.14", "10.0.1.15"]),
        ("db.internal.", v4, &["10.0.1.14"]),
        ("db.internal.net1.", v4, &["10.0.1.14"]),
        ("0123456789ab.", v4, &["10.0.1.14"]),
        ("0123456789abcd.net1.", v4, &["10.0.1.14"]),
        ("c12.", RecordType::ANY, &["10.0.1.14", "fd00:1::e"]),
    ];
    for (name, wanted, expected) in cases {
        assert_eq!(
            ask(&state, name, *wanted),
            (expected.iter().map(|a| (*a).to_owned()).collect(), Kind::Address),
            "{name}"
        );
    }
    for wanted in [RecordType::MX, RecordType::TXT, RecordType::PTR, RecordType::NS, RecordType::SOA] {
        assert_eq!(ask(&state, "c12.", wanted), (vec![], Kind::NoData), "{wanted}");
    }
}

#[test]
fn addresses_lead_back_to_names() {
    let state = world();
    for address in ["10.0.1.14", "fd00:1::e"] {
        let name = Name::from(address.parse::<IpAddr>().unwrap()).to_ascii();
        assert_eq!(ask(&state, &name, RecordType::PTR), (vec!["c12.net1.".to_owned()], Kind::Name));
        assert_eq!(ask(&state, &name, RecordType::A), (vec![], Kind::NoData));
    }
}

#[test]
fn what_is_not_known_is_passed_on() {
    let mut state = world();
    state.endpoints.get_mut(&EndpointId(13)).unwrap().state = EndpointState::Stopped;
    let unknown = [
        "example.com.",
        "c12.example.com.",
        ".",
        "c20.", // on another network
        "c20.net2.",
        "c12.net2.",
        "net1.",
        ".net1.",
        "c13.",                    // stopped
        "0123456789a.",            // too short for an id
        "23456789abcdef01.",       // not its beginning
        "1.0.10.in-addr.arpa.",    // no address
        "15.1.0.10.in-addr.arpa.", // of who is stopped
        "99.1.0.10.in-addr.arpa.", // of nobody
        "22.2.0.10.in-addr.arpa.", // on another network
    ];
    for name in unknown.iter().filter(|name| !name.starts_with(".n")) {
        for wanted in [RecordType::A, RecordType::PTR, RecordType::MX] {
            let said = say_to(&state, &question(name, wanted).to_vec().unwrap(), Transport::Udp);
            assert_eq!(said, None, "{name} {wanted}");
        }
    }
    // A dot within a label, and bytes that are no letters.
    for labels in [&[&b"c12.net1"[..]][..], &[b"db.internal"], &[b"c\x0012"], &[b"c12", b"\xff"], &[b"c12 "]] {
        let mut question = question("x.", RecordType::A);
        question.queries[0].set_name(Name::from_labels(labels.iter().copied()).unwrap());
        assert_eq!(say_to(&state, &question.to_vec().unwrap(), Transport::Udp), None, "{labels:?}");
    }
    let mut chaos = question("c12.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(say_to(&state, &chaos.to_vec().unwrap(), Transport::Udp), None);
}

#[test]
fn each_turn_begins_with_another_address() {
    let state = world();
    let turns = Turns::default();
    let first = |wanted| {
        let message = question("web.", wanted).to_vec().unwrap();
        let Some(Said::Answer(bytes, _)) = say_in_turn(&state, &message, Transport::Udp, &turns) else { panic!() };
        let answers = Message::from_vec(&bytes).unwrap().answers;
        assert_eq!(answers.len(), 2);
        answers[0].data.to_string()
    };
    // Programs ask for both families in turn.
    for expected in [["10.0.1.14", "fd00:1::e"], ["10.0.1.15", "fd00:1::f"], ["10.0.1.14", "fd00:1::e"]] {
        assert_eq!([first(RecordType::A), first(RecordType::AAAA)], expected);
    }
}

#[test]
fn what_does_not_fit_is_marked_and_whole_by_tcp() {
    let mut state = world();
    let one = state.endpoints[&EndpointId(12)].clone();
    for number in 0..200u8 {
        let id = EndpointId(1000 + u64::from(number));
        let addresses = vec![Ipv4Addr::new(10, 0, 1, number).into()];
        state.endpoints.insert(
            id,
            Endpoint { id, addresses, name: format!("many{number}"), aliases: vec!["many".into()], ..one.clone() },
        );
    }
    state.reindex();
    let asked = question("many.", RecordType::A);
    let by_udp = |question: &Message| {
        let Some(Said::Answer(bytes, _)) = say_to(&state, &question.to_vec().unwrap(), Transport::Udp) else {
            panic!()
        };
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.edns.is_some(), question.edns.is_some());
        (bytes.len(), answer.metadata.truncation, answer.answers.len())
    };
    // Each takes 16 bytes, behind a header and a question of 22.
    assert_eq!(by_udp(&asked), (502, true, 30));
    for (offered, expected) in [(100, 29), (512, 29), (1232, 74), (4096, 200), (65535, 200)] {
        let mut asked = asked.clone();
        asked.set_edns(Edns::new().set_max_payload(offered).to_owned());
        let (length, truncated, answers) = by_udp(&asked);
        assert!(length <= usize::from(offered.clamp(512, 4096)), "{offered}: {length}");
        assert_eq!((truncated, answers), (expected < 200, expected), "{offered}");
    }
    let (whole, _) = answered(&state, &asked.to_vec().unwrap(), Transport::Tcp);
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 200));
}

#[test]
fn edns_is_answered_with_edns_and_other_versions_are_refused() {
    let state = world();
    let mut asked = question("c12.", RecordType::A);
    asked.set_edns(Edns::new().set_max_payload(1232).to_owned());
    let (reply, _) = answered(&state, &asked.to_vec().unwrap(), Transport::Udp);
    assert_eq!((reply.edns.unwrap().max_payload(), reply.answers.len()), (LARGEST, 1));
    asked.set_edns(Edns::new().set_version(1).to_owned());
    let (reply, kind) = answered(&state, &asked.to_vec().unwrap(), Transport::Udp);
    // BADVERS (RFC 6891, section 9).
    assert_eq!((u16::from(reply.metadata.response_code), kind, reply.answers.len()), (16, Kind::Refused, 0));
    assert!(reply.edns.is_some());
}

#[test]
fn what_no_resolver_answers_is_refused() {
    let state = world();
    let usual = question("c12.", RecordType::A).to_vec().unwrap();
    // Inverse queries, status, notify, update, stateful operations, and what is none.
    for op_code in [1, 2, 3, 4, 5, 6, 15] {
        let mut message = usual.clone();
        message[2] = op_code << 3;
        let (reply, kind) = answered(&state, &message, Transport::Udp);
        assert_eq!(
            (reply.metadata.id, reply.metadata.response_code, kind),
            (4711, ResponseCode::NotImp, Kind::Refused)
        );
    }
    for wanted in [RecordType::AXFR, RecordType::IXFR, RecordType::OPT] {
        for name in ["c12.", "net1.", "example.com."] {
            let (reply, kind) = answered(&state, &question(name, wanted).to_vec().unwrap(), Transport::Tcp);
            assert_eq!((reply.metadata.response_code, kind), (ResponseCode::Refused, Kind::Refused));
        }
    }
    // An answer is no question: two resolvers would go on for ever.
    let mut answer = usual.clone();
    answer[2] |= 0x80;
    assert_eq!(say_to(&state, &answer, Transport::Udp), Some(Said::Nothing));
}

#[test]
fn what_cannot_be_read_is_said_to_be_so() {
    let state = world();
    let usual = question("c12.", RecordType::A).to_vec().unwrap();
    for length in 0..HEADER {
        assert_eq!(say_to(&state, &usual[..length], Transport::Udp), Some(Said::Nothing));
    }
    let header = |counts: [u8; 8]| [&[0x12, 0x67, 1, 0], &counts[..]].concat();
    let name_of = |labels: &[usize]| -> Vec<u8> {
        labels.iter().flat_map(|length| [vec![u8::try_from(*length).unwrap()], vec![b'a'; *length]].concat()).collect()
    };
    let with_name = |name: &[u8]| [&header([0, 1, 0, 0, 0, 0, 0, 0]), name, &[0, 1, 0, 1]].concat();
    let malformed = [
        header([0, 0, 0, 0, 0, 0, 0, 0]),
        header([0, 1, 0, 0, 0, 0, 0, 0]),
        header([255, 255, 255, 255, 255, 255, 255, 255]),
        [&header([0, 2, 0, 0, 0, 0, 0, 0])[..], &usual[HEADER..], &usual[HEADER..]].concat(),
        // Names that refer to themselves, to each other, forwards and beyond the end.
        with_name(&[0xc0, 12]),
        with_name(&[1, b'a', 0xc0, 12]),
        with_name(&[0xc0, 14, 0xc0, 12]),
        with_name(&[0xc0, 255]),
        with_name(&[0xff, 0xff]),
        // Labels of a kind that there is not (RFC 6891, section 5), and names of 256 bytes.
        with_name(&[0x41, b'a', 0]),
        with_name(&[name_of(&[63, 63, 63, 62]), vec![0]].concat()),
        [&usual[..], &[1, 2, 3]].concat()[..usual.len() - 1].to_vec(),
        // An option record that is cut off.
        [&header([0, 1, 0, 0, 0, 0, 0, 1])[..], &usual[HEADER..], &[0, 0, 41]].concat(),
    ];
    for message in malformed {
        let (reply, kind) = answered(&state, &message, Transport::Udp);
        assert_eq!((reply.metadata.response_code, kind), (ResponseCode::FormErr, Kind::Malformed), "{message:?}");
    }
    // 255 bytes are a name.
    let longest = with_name(&[name_of(&[63, 63, 63, 61]), vec![0]].concat());
    assert_eq!(say_to(&state, &longest, Transport::Udp), None);
    assert_eq!(failure(&longest).map(|bytes| bytes[3] & 0xf), Some(2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    /// Whatever comes, nothing breaks, and what is said is an answer to it that fits.
    #[test]
    fn any_bytes_are_met(
        mut message in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..600),
            prop_oneof![Just("c12."), Just("web.net1."), Just("14.1.0.10.in-addr.arpa."), Just("example.com.")]
                .prop_map(|name| question(name, RecordType::A).to_vec().unwrap()),
        ],
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        more in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        for (at, byte) in changes {
            if !message.is_empty() {
                let at = at.index(message.len());
                message[at] = byte;
            }
        }
        message.extend(more);
        let state = world();
        for by in [Transport::Udp, Transport::Tcp] {
            match say_to(&state, &message, by) {
                Some(Said::Answer(bytes, _)) => {
                    prop_assert_eq!(&bytes[..2], &message[..2]);
                    prop_assert!(bytes[2] & 0x80 != 0 && bytes.len() >= HEADER);
                    prop_assert!(by == Transport::Tcp || bytes.len() <= usize::from(LARGEST));
                    prop_assert!(Message::from_vec(&bytes).is_ok());
                }
                None => prop_assert!(message.len() > HEADER && failure(&message).is_some_and(|failure| Message::from_vec(&failure).is_ok())),
                Some(Said::Nothing) => prop_assert!(message.len() < HEADER || message[2] & 0x80 != 0),
            }
        }
    }
}
