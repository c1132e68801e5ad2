//! What a newcomer is told that is not admitted.

use tonic::Code;

use tokio::io::AsyncReadExt;

use super::super::propose::was_not_sent;
use super::*;
use crate::AdmitError;
use crate::raft::channel::Channels;

/// No answer of the daemon may take longer.
const LIMIT: Duration = Duration::from_secs(5);

async fn ask(newcomer: &Daemon, node: AdmitNode, through: &Daemon) -> AdmitError {
    let begun = Instant::now();
    let error = admit(&newcomer.key, through.address, &node, PATIENCE).await.unwrap_err();
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_called_back_is_told_so() {
    let daemons = [Daemon::start(1).await, Daemon::start(2).await];
    daemons[0].found().await;
    // Nobody listens there.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let error = ask(&daemons[1], AdmitNode { advertise: free, ..daemons[1].admission() }, &daemons[0]).await;
    assert!(matches!(error, AdmitError::AdvertiseUnreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&free.to_string()), "{error}");
    // It accepts and says nothing.
    let silent = full_listener().await;
    let node = AdmitNode { advertise: silent.address, ..daemons[1].admission() };
    let error = ask(&daemons[1], node, &daemons[0]).await;
    assert!(matches!(error, AdmitError::AdvertiseUnreachable { .. }), "{error:?}");
    assert_eq!(daemons[0].store().state().nodes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_quorum_it_is_told_whether_something_may_have_been_written() {
    let newcomer = Daemon::start(9).await;
    for through_leader in [false, true] {
        let mut daemons = three().await;
        let first = leader(&daemons);
        let asked = if through_leader { first } else { (first + 1) % 3 };
        for other in [(asked + 1) % 3, (asked + 2) % 3] {
            daemons[other].kill().await;
        }
        let error = ask(&newcomer, newcomer.admission(), &daemons[asked]).await;
        let fits = match &error {
            AdmitError::NoQuorum { .. } => !through_leader,
            // It may have been sent to the leader that was just killed.
            AdmitError::Unknown { .. } => true,
            _ => false,
        };
        assert!(fits, "{error:?}");
        assert!(error.to_string().contains(&daemons[(asked + 1) % 3].name), "{error}");
    }
}

/// A listener whose queue is full: connections to it are not made.
struct FullListener {
    address: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<tokio::net::TcpStream>,
}

async fn full_listener() -> FullListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    let attempt = || tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(address));
    while let Ok(stream) = attempt().await {
        queue.push(stream.unwrap());
    }
    FullListener { address, _listener: listener, _queue: queue }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_connection_was_not_sent() {
    let full = full_listener().await;
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let channels = Channels::new(CLUSTER, RaftId(1), new_key());
    for address in [full.address, free] {
        let mut client = channels.peer(2, &Peer { address: address.to_string(), key: [0; 32] }).unwrap();
        let request = channels.request(2, pontoon_proto::v1::ReadIndexRequest {});
        let status = client.read_index(request).await.unwrap_err();
        assert!(was_not_sent(&status), "{address}: {status:?}");
    }
    assert!(was_not_sent(&tonic::Status::invalid_argument("it cannot be read")));
    for code in [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::DeadlineExceeded] {
        assert!(!was_not_sent(&tonic::Status::new(code, "the connection broke")), "{code:?}");
    }
}

/// A write was given up in the middle of the last of many connections that all were in vain, and then nobody knew whether it
/// was done.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_no_leader_can_have_got_is_not_unknown() {
    let mut daemons = three().await;
    let first = leader(&daemons);
    let last = (first + 1) % 3;
    for gone in [first, (first + 2) % 3] {
        daemons[gone].kill().await;
    }
    // Whoever has the address of the leader takes a while to hang up: it is given up in the middle of that.
    let listener = TcpListener::bind(daemons[first].address).await.unwrap();
    let hangs_up = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = tokio::time::timeout(Duration::from_millis(300), stream.read_to_end(&mut Vec::new())).await;
        }
    });
    let error = daemons[last].create("never").await.unwrap_err();
    assert!(matches!(&error, ProposeError::NoQuorum { missing } if missing.len() == 2), "{error:?}");
    hangs_up.abort();
}

/// Another daemon that answers at a voter's address is not that voter.
#[tokio::test(flavor = "multi_thread")]
async fn a_voter_whose_address_another_has_is_missing() {
    let mut daemons = three().await;
    let last = (leader(&daemons) + 1) % 3;
    let others = [(last + 1) % 3, (last + 2) % 3];
    for other in others {
        daemons[other].kill().await;
        let listener = TcpListener::bind(daemons[other].address).await.unwrap();
        daemons[other].serve(listener);
        hello(&daemons[last].key, daemons[other].address, DEADLINE).await.unwrap();
    }
    let text = daemons[last].create("never").await.unwrap_err().to_string();
    for other in others {
        assert!(text.contains(&daemons[other].name), "{text}");
    }
}
