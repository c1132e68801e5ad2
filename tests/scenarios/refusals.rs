//! What cannot be is refused, with a reason for programs and a sentence for people.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use pontoon_tests::lab::{Cluster, Options, ROUTER, run_with};
use pontoon_tests::wait_for;

/// A cluster of one, to ask in.
fn alone(scenario: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    run_with(Options { hosts: 1, ..Options::default() }, |cluster| {
        cluster.form()?;
        scenario(cluster)
    })
}

/// Gives the host a route, and waits until the cluster knows of it.
fn routed_elsewhere(cluster: &Cluster, prefix: &str) -> Result<()> {
    cluster.hosts()[0].netns.ip(&format!("route add {prefix} via {ROUTER}"))?;
    wait_for("the route to be reported", Duration::from_secs(10), || {
        let node = cluster.cli(0).run("node inspect h1")?;
        ensure!(node.to_string().contains(prefix), "{node}");
        Ok(())
    })
}

/// Refuses each line for this reason, and names what is in the way.
fn all_refused(cluster: &Cluster, table: &[(&str, &str, &[&str])]) -> Result<()> {
    let before = cluster.cli(0).run("network ls")?["networks"].clone();
    for (line, reason, words) in table {
        cluster.cli(0).refuses(line, reason, words)?;
    }
    let after = cluster.cli(0).run("network ls")?["networks"].clone();
    ensure!(before == after, "a refused request has changed something: {before} became {after}");
    Ok(())
}

#[test]
fn subnets() -> Result<()> {
    alone(|cluster| {
        cluster.cli(0).run("network create first --subnet 10.1.0.0/16")?;
        routed_elsewhere(cluster, "10.77.0.0/16")?;
        all_refused(
            cluster,
            &[
                ("network create n --subnet 10.1.2.0/24", "SUBNET_OVERLAP", &["10.1.2.0/24", "first", "10.1.0.0/16"]),
                ("network create n --subnet 10.0.0.0/8", "SUBNET_OVERLAP", &["first"]),
                ("network create n --subnet 10.2.0.0", "INVALID_SUBNET", &["10.2.0.0"]),
                ("network create n --subnet ten", "INVALID_SUBNET", &["ten"]),
                ("network create n --subnet 10.2.0.0/33", "INVALID_SUBNET", &["10.2.0.0/33"]),
                ("network create n --subnet 10.2.0.1/24", "INVALID_SUBNET", &["10.2.0.1/24"]),
                ("network create n --subnet 10.2.0.0/31", "INVALID_SUBNET", &["10.2.0.0/31"]),
                ("network create n --subnet 10.2.0.0/32", "INVALID_SUBNET", &["10.2.0.0/32"]),
                ("network create n --subnet 10.2.0.0/24 --subnet 10.3.0.0/24", "INVALID_SUBNET", &[]),
                ("network create n --subnet 224.0.0.0/24", "INVALID_SUBNET", &["224.0.0.0/24"]),
                ("network create n --subnet 127.0.0.0/24", "INVALID_SUBNET", &["127.0.0.0/24"]),
                ("network create n --subnet fd01::/64", "INVALID_SUBNET", &["fd01::/64"]),
                ("network create n --subnet 10.77.5.0/24", "ROUTE_OVERLAP", &["10.77.5.0/24", "10.77.0.0/16", "h1"]),
                // Packets to the host itself would go into the overlay: that cannot be meant, and is not overruled.
                ("network create n --subnet 192.168.140.0/24 --force", "INVALID_SUBNET", &["192.168.140.200", "h1"]),
                ("network create n --subnet 10.2.0.0/24 --gateway 10.3.0.1", "INVALID_GATEWAY", &["10.3.0.1"]),
                ("network create n --subnet 10.2.0.0/24 --gateway 10.2.0.0", "INVALID_GATEWAY", &["10.2.0.0"]),
                ("network create n --subnet 10.2.0.0/24 --gateway 10.2.0.255", "INVALID_GATEWAY", &["10.2.0.255"]),
                ("network create n --subnet 10.2.0.0/24 --gateway fd01::1", "INVALID_GATEWAY", &["fd01::1"]),
                ("network create n --subnet 10.2.0.0/24 --ip-range 10.3.0.0/28", "INVALID_RANGE", &["10.3.0.0/28"]),
                ("network create n --subnet 10.2.0.0/24 --ip-range 10.2.0.0/16", "INVALID_RANGE", &["10.2.0.0/16"]),
                ("network create n --mtu 67", "INVALID_MTU", &["67"]),
                ("network create n --mtu 70000", "INVALID_MTU", &["70000"]),
                ("network create n --vni 16777216", "INVALID_VNI", &["16777216"]),
            ],
        )?;
        // Overruled, where that can be meant.
        cluster.cli(0).run("network create forced --subnet 10.77.5.0/24 --force").map(drop)
    })
}

/// What a company's network often does: the usual pool goes elsewhere.
#[test]
fn a_pool_that_is_routed_elsewhere() -> Result<()> {
    alone(|cluster| {
        routed_elsewhere(cluster, "10.0.0.0/8")?;
        cluster.cli(0).refuses("network create n", "POOL_EXHAUSTED", &["10.0.0.0/8", "h1"])?;
        cluster.cli(0).run("network create n --subnet 100.64.1.0/24").map(drop)
    })
}

#[test]
fn names() -> Result<()> {
    alone(|cluster| {
        let first = cluster.cli(0).run("network create first --vni 70000")?;
        let vni = &first["network"]["vni"];
        ensure!(*vni == 70000, "{first}");
        all_refused(
            cluster,
            &[
                ("network create first", "NETWORK_NAME_TAKEN", &["first"]),
                ("network create other --vni 70000", "VNI_TAKEN", &["70000", "first"]),
                ("network inspect nobody", "NETWORK_NOT_FOUND", &["nobody"]),
                ("network rm nobody", "NETWORK_NOT_FOUND", &["nobody"]),
                ("lease inspect 10.9.9.9", "LEASE_NOT_FOUND", &["10.9.9.9"]),
                ("lease ls --network nobody", "NETWORK_NOT_FOUND", &["nobody"]),
                ("lease ls --node nobody", "NODE_NOT_FOUND", &["nobody"]),
            ],
        )?;
        for name in ["", "two words", "tab\there", "bell\u{7}", "-dash", ".dot", "naïve", &"x".repeat(300)] {
            let mut command = cluster.cli(0).command("network create --")?;
            command.arg(name);
            match cluster.cli(0).finish("network create", command)? {
                Err(error) => ensure!(error.reason == "INVALID_NAME", "{name:?}: {error}"),
                Ok(answer) => bail!("{name:?} was taken as a name: {answer}"),
            }
        }
        Ok(())
    })
}

#[test]
fn a_message_over_the_size_limit_is_refused() -> Result<()> {
    alone(|cluster| {
        // As much as one argument may have: 128 KiB (MAX_ARG_STRLEN).
        let value = "x".repeat(100_000);
        let mut command = cluster.cli(0).command("network create large --label")?;
        command.arg(format!("k={value}"));
        let Err(error) = cluster.cli(0).finish("network create", command)? else { bail!("100 kB of label were taken") };
        ensure!(["INVALID_LABEL", "TOO_LARGE"].contains(&error.reason.as_str()), "{error}");
        ensure!(!error.message.contains(&value), "the message repeats all of it");
        too_large_for_grpc(cluster)?;
        cluster.cli(0).run("network create after").map(drop)
    })
}

/// What the command line cannot carry, a program can send: a request has at most 1 MiB.
fn too_large_for_grpc(cluster: &mut Cluster) -> Result<()> {
    use pontoon_proto::v1::CreateNetworkRequest;
    use pontoon_proto::v1::network_service_client::NetworkServiceClient;

    let socket = cluster.daemon(0).socket();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_static("http://pontoond");
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector(connector).await?;
        let mut client = NetworkServiceClient::new(channel);
        let mut ask = async |bytes: usize| {
            let request = CreateNetworkRequest { name: "x".repeat(bytes), ..CreateNetworkRequest::default() };
            client
                .create_network(request)
                .await
                .map(drop)
                .map_err(|status| (status.code(), status.message().to_owned()))
        };
        // It is read, and refused for what it says.
        let read = ask((1 << 20) - 100).await;
        ensure!(read.as_ref().is_err_and(|(code, _)| *code == tonic::Code::InvalidArgument), "{read:?}");
        let refused = ask(1 << 20).await;
        let says = |(code, message): &(tonic::Code, String)| {
            *code == tonic::Code::OutOfRange && message.contains("too large") && message.contains("1048576")
        };
        ensure!(refused.as_ref().is_err_and(says), "{refused:?}");
        Ok(())
    })
}

#[test]
fn wrong_usage_ends_with_2() -> Result<()> {
    alone(|cluster| {
        let attach = "attach --network n";
        for line in ["network create", "network", "attach", attach, "network ls --nonsense", "join", "lease inspect"] {
            let error = cluster.cli(0).refused(line)?;
            ensure!(error.code == 2, "`pontoon {line}`: {error}");
        }
        Ok(())
    })
}
