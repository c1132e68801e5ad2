//! Whoever comes to the port and is no node: refused with a reason in the log that names him, at bounded memory, while
//! those who may go on writing.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use data_encoding::BASE64;
use http_body_util::Full;
use pontoon_proto::v1::entrance_client::EntranceClient;
use pontoon_proto::v1::peer_client::PeerClient;
use pontoon_proto::v1::{AdmitRequest, ReadIndexRequest};
use pontoon_store::NodeKey;
use pontoon_tests::lab::{Cluster, Netns, run, while_writing};
use pontoon_tests::{resident, socket, wait_for};
use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, http};
use tonic::transport::Channel;
use tonic::{Code, Request};

const SOON: Duration = Duration::from_secs(10);
/// Half-open connections.
const HALF_OPEN: usize = 1_000;
/// How much the daemon may grow meanwhile, in a debug build that takes writes.
const GROWTH: u64 = 64 << 20;

/// The host that they come from, and where they go.
struct Place {
    from: Netns,
    to: SocketAddr,
}

impl Place {
    fn of(cluster: &Cluster, from: usize, to: usize) -> Result<Self> {
        let to = SocketAddr::new(cluster.advertise(to).parse()?, 7300);
        Ok(Self { from: cluster.hosts()[from].netns.clone(), to })
    }

    fn tcp(&self) -> Result<TcpStream> {
        let stream = socket::connect_from(&self.from.path(), self.to)?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    }

    /// Sends bytes and returns what is answered until the connection is closed.
    fn send(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut stream = self.tcp()?;
        stream.write_all(bytes)?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => bail!("it is not closed"),
            // A reset is as good an end as any.
            _ => Ok(answer),
        }
    }

    async fn channel(&self, key: &NodeKey) -> Result<Channel> {
        socket::connect_in(&self.from, self.to, key.clone()).await
    }
}

/// Waits for a line in a daemon's log that names an address and says this.
fn told(cluster: &mut Cluster, host: usize, address: &str, text: &str) -> Result<()> {
    let log = cluster.daemon(host).log();
    wait_for(&format!("{text:?} in the log"), SOON * 2, || {
        let log = fs::read_to_string(&log)?;
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("refused")).collect();
        let found = lines.iter().any(|line| line.contains(address) && line.contains(text));
        ensure!(found, "only {lines:#?}");
        Ok(())
    })
}

/// A TLS 1.2 ClientHello (RFC 5246, section 7.4.1.2) without extensions.
fn hello_of_tls12() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, no compression.
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let length = body.len() as u8;
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], body.as_slice()].concat()
}

/// A TLS alert that says why (RFC 8446, section 6), if anything.
fn is_alert(answer: &[u8]) -> bool {
    answer.is_empty() || answer[0] == 21
}

/// Asks for a read index as a member would.
async fn ask(channel: Channel, cluster: &str, from: u64, to: u64) -> tonic::Status {
    let mut request = Request::new(ReadIndexRequest {});
    for (name, value) in
        [("pontoon-cluster", cluster), ("pontoon-from", &from.to_string()), ("pontoon-to", &to.to_string())]
    {
        request.metadata_mut().insert(name, value.parse().expect("digits are ASCII"));
    }
    match PeerClient::new(channel).read_index(request).await {
        Ok(_) => tonic::Status::ok("it was answered"),
        Err(status) => status,
    }
}

/// Sends a body as it is to a method, and returns the status of the answer.
async fn send_body(mut channel: Channel, method: &str, body: Vec<u8>, encoding: &str) -> Result<String> {
    let request = http::Request::post(format!("http://pontoon/pontoon.v1.{method}"))
        .header("content-type", "application/grpc")
        .header("grpc-encoding", encoding)
        .header("te", "trailers")
        .body(Body::new(Full::new(Bytes::from(body))))?;
    std::future::poll_fn(|context| channel.poll_ready(context)).await?;
    let answer = channel.call(request).await?;
    let status = answer.headers().get("grpc-status").context("it was not refused at once")?;
    Ok(status.to_str()?.to_owned())
}

/// A gRPC message: a flag, its length and its bytes.
fn message(compressed: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[compressed], length.as_slice(), bytes].concat()
}

fn scanners(place: &Place) -> Result<()> {
    for scanner in [b"GET / HTTP/1.0\r\n\r\n".as_slice(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0; 64], &[0xff; 64]] {
        let answer = place.send(scanner)?;
        ensure!(is_alert(&answer), "{scanner:?}: {answer:?}");
    }
    let answer = place.send(&hello_of_tls12())?;
    // A fatal one (2): handshake_failure (40) or protocol_version (70).
    ensure!(answer.ends_with(&[2, 40]) || answer.ends_with(&[2, 70]), "TLS 1.2: {answer:?}");
    Ok(())
}

/// Compressed, deep and huge.
async fn bombs(place: &Place, stranger: &NodeKey, member: &NodeKey) -> Result<()> {
    let compressed = message(1, &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    // Groups in groups, in a field that there is not (wire type 3).
    let deep = message(0, &[0x7b; 60_000]);
    let huge = message(0, &vec![0; 9 << 20]);
    for (who, key, method) in [
        ("a stranger", stranger, "Entrance/Admit"),
        ("a member", member, "Entrance/Admit"),
        ("a member", member, "Peer/Propose"),
    ] {
        for (bomb, encoding, what) in
            [(&compressed, "gzip", "compressed"), (&deep, "identity", "deep"), (&huge, "identity", "huge")]
        {
            let status = send_body(place.channel(key).await?, method, bomb.clone(), encoding).await;
            let status = status.with_context(|| format!("{what}, of {who}, to {method}"))?;
            // UNIMPLEMENTED, INTERNAL, OUT_OF_RANGE, PERMISSION_DENIED (there is no metadata).
            ensure!(["12", "13", "11", "7"].contains(&status.as_str()), "{what}, of {who}, to {method}: {status}");
        }
    }
    Ok(())
}

#[test]
fn they_are_refused_and_the_others_go_on() -> Result<()> {
    let runtime = Runtime::new()?;
    run(|cluster| {
        let leader = cluster.leader()?;
        let (from, writer) = ((leader + 1) % 3, (leader + 2) % 3);
        let place = Place::of(cluster, from, leader)?;
        let address = cluster.advertise(from);
        let pid = cluster.daemon(leader).pid().context("it does not run")?.as_raw().cast_unsigned();
        let stranger = cluster.daemon(from).node_key()?;
        stranger.decertify();
        let member = cluster.daemon(from).node_key()?;
        let status = cluster.status(leader)?;
        let id = status["cluster_id"].as_str().context("no cluster")?.to_owned();
        let before = resident(pid)?;
        let journal = while_writing(cluster, &[writer], |cluster, journal| {
            let written = || journal.acknowledged.load(Ordering::Relaxed);
            scanners(&place)?;
            told(cluster, leader, &address, "the handshake has failed")?;
            let idle = (0..HALF_OPEN).map(|_| place.tcp()).collect::<Result<Vec<_>>>()?;
            // One that sends a byte now and then after its handshake is closed in the end all the same.
            let slow = runtime.block_on(slowloris(&place, &stranger));
            let so_far = written();
            wait_for("writes to go on", SOON, || {
                ensure!(written() > so_far + 20, "{} since", written() - so_far);
                Ok(())
            })?;
            drop(idle);
            let refused = runtime
                .block_on(async { Ok::<_, anyhow::Error>(ask(place.channel(&stranger).await?, &id, 1, 2).await) })?;
            ensure!(
                refused.code() == Code::Unauthenticated && refused.message().contains("in no cluster"),
                "{refused}"
            );
            told(cluster, leader, &address, "in no cluster")?;
            runtime.block_on(bombs(&place, &stranger, &member))?;
            slow?;
            let grown = resident(pid)?.saturating_sub(before);
            ensure!(grown < GROWTH, "it has grown by {} MiB", grown >> 20);
            Ok(())
        })?;
        journal.check(cluster, 50)
    })
}

/// Says a byte of a request every now and then.
async fn slowloris(place: &Place, stranger: &NodeKey) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stream = socket::connect_from(&place.from.path(), place.to)?;
    let (mut stream, _) = stranger.connect_over(tokio::net::TcpStream::from_std(stream)?).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    let (mut answers, mut words) = tokio::io::split(stream);
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    let trickle = async {
        // A frame of 16 KiB headers that is never whole (RFC 9113, section 4.1).
        for byte in [0, 0x40, 0, 1, 4, 0, 0, 0, 1].into_iter().chain(std::iter::repeat(0)) {
            if words.write_all(&[byte]).await.is_err() {
                break;
            }
            pace.tick().await;
        }
    };
    let read = async { while answers.read(&mut [0; 256]).await.is_ok_and(|read| read > 0) {} };
    let closed = async {
        tokio::select! { () = trickle => {}, () = read => {} }
    };
    tokio::time::timeout(Duration::from_secs(45), closed).await.context("it is not closed")
}

/// Each is told why, and the log says who that was.
#[test]
fn certificates_that_are_not_good_here() -> Result<()> {
    let runtime = Runtime::new()?;
    run(|cluster| {
        let leader = cluster.leader()?;
        let (other, removed) = ((leader + 1) % 3, (leader + 2) % 3);
        let to = cluster.status(leader)?;
        let (id, raft_id) = (to["cluster_id"].as_str().context("no cluster")?.to_owned(), raft_id_of(&to, leader)?);
        let (theirs, own) = (raft_id_of(&to, removed)?, raft_id_of(&to, other)?);
        let place = Place::of(cluster, removed, leader)?;
        let key = cluster.daemon(removed).node_key()?;
        let call = |key: &NodeKey, from| {
            runtime.block_on(async { Ok::<_, anyhow::Error>(ask(place.channel(key).await?, &id, from, raft_id).await) })
        };
        ensure!(call(&key, theirs)?.code() == Code::Ok, "it is a member still");
        // It says that it is another.
        let refused = call(&key, own)?;
        ensure!(refused.message().contains("has not the key of member"), "{refused}");
        // On a connection that is there, and on a new one.
        let open = runtime.block_on(place.channel(&key))?;
        let name = cluster.hosts()[removed].name.clone();
        cluster.daemon(removed).kill9()?;
        cluster.cli(leader).run(&format!("node rm {name} --force"))?;
        let refused = runtime.block_on(ask(open, &id, theirs, raft_id));
        ensure!(refused.code() == Code::PermissionDenied && refused.message().contains("no longer"), "{refused}");
        ensure!(call(&key, theirs)?.message().contains("no longer"), "a new connection");
        // Its frames are taken no more: the filter is in the same commit.
        let filter = cluster.hosts()[leader].netns.run("nft", &["list", "ruleset"])?;
        let address = cluster.advertise(removed);
        ensure!(!filter.contains(&address), "its VTEP is still let in: {filter}");
        // It founds a cluster of its own, and shows the certificate of that.
        cluster.daemon(removed).up()?;
        cluster.cli(removed).run("leave --force")?;
        cluster.cli(removed).run(&format!("init --advertise {address} --name {name}"))?;
        let foreign = cluster.daemon(removed).node_key()?;
        let refused = call(&foreign, theirs)?;
        ensure!(
            refused.code() == Code::Unauthenticated && refused.message().contains("no authority of this"),
            "{refused}"
        );
        told(cluster, leader, &address, "no authority of this cluster")
    })
}

/// What lets somebody administer the cluster makes him no node of it.
#[test]
fn an_admin_says_nothing_that_nodes_say() -> Result<()> {
    let runtime = Runtime::new()?;
    run(|cluster| {
        let leader = cluster.leader()?;
        let to = cluster.status(leader)?;
        let (id, raft_id) = (to["cluster_id"].as_str().context("no cluster")?.to_owned(), raft_id_of(&to, leader)?);
        let made = cluster.cli(leader).run("admin cert create alice --role admin --out -")?;
        let context = made["context"].as_str().context("no context")?;
        let key = context.split("PRIVATE KEY-----").nth(1).context("no key")?.trim_end_matches("-----END ");
        let key: String = key.split_whitespace().collect();
        let key = NodeKey::from_pkcs8(&BASE64.decode(key.as_bytes())?)?;
        let place = Place::of(cluster, (leader + 1) % 3, leader)?;
        for as_member in [raft_id, raft_id_of(&to, (leader + 1) % 3)?] {
            let refused = runtime.block_on(async {
                Ok::<_, anyhow::Error>(ask(place.channel(&key).await?, &id, as_member, raft_id).await)
            })?;
            ensure!([Code::Unimplemented, Code::PermissionDenied].contains(&refused.code()), "{refused}");
        }
        let joined = runtime.block_on(async {
            let mut client = EntranceClient::new(place.channel(&key).await?);
            Ok::<_, anyhow::Error>(client.admit(AdmitRequest::default()).await.map(drop))
        })?;
        ensure!(joined.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied), "{joined:?}");
        Ok(())
    })
}

fn raft_id_of(status: &serde_json::Value, host: usize) -> Result<u64> {
    let name = format!("h{}", host + 1);
    let members = status["members"].as_array().context("no members")?;
    let member = members.iter().find(|member| member["node"]["name"] == name.as_str()).context("no such member")?;
    member["node"]["raft_id"].as_u64().context("no Raft id")
}
