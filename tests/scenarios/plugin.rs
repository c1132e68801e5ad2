//! What a daemon answers at its plugin socket, whatever it is asked there and in whichever order. There is no engine: the
//! scenarios speak for one.

mod fuzz;
mod overlay;

use std::io::Write;
use std::net::IpAddr;
use std::thread;

use anyhow::{Context, Result, ensure};
use pontoon_tests::wait_for;
use serde_json::{Value, json};

use overlay::{Overlay, SOON, in_use, links, nothing_is_left, overlay, with_plugins};

#[test]
fn what_is_no_request_is_answered_all_the_same() -> Result<()> {
    with_plugins(1, |cluster, plugin| {
        let bodies: [&[u8]; 12] = [
            b"{",
            b"\xff\xfe",
            b"null",
            b"17",
            b"[]",
            b"[\"10.9.0.0/24\"]",
            b"{} {}",
            b"{\"Pool\": 17}",
            b"{\"Pool\": null}",
            b"{\"Options\": []}",
            b"{\"V6\": \"yes\"}",
            b"{\"Options\": {\"a\": {}}}",
        ];
        for body in bodies {
            let answer = plugin.post("IpamDriver.RequestPool", body)?;
            let error = answer.error("IpamDriver.RequestPool").unwrap_or_default();
            let text = String::from_utf8_lossy(body);
            ensure!(answer.status == 400 && error.contains("IpamDriver.RequestPool"), "{text}: {answer:?}");
        }
        let wrong = plugin.post("NetworkDriver.CreateEndpoint", b"{\"Interface\": 5}")?;
        ensure!(wrong.status == 400 && wrong.error("NetworkDriver.CreateEndpoint").is_some(), "{wrong:?}");
        for method in ["NetworkDriver.GwAllocCheck", "NetworkDriver.AllocateNetwork", "nonsense", "", "a/b/c", "%ff"] {
            let answer = plugin.post(method, b"{}")?;
            ensure!(answer.status == 404 && answer.error(method).is_some(), "{method}: {answer:?}");
        }
        for verb in ["GET", "PUT", "DELETE"] {
            let answer = plugin.exchange(&format!("{verb} /Plugin.Activate HTTP/1.1\r\n"), b"")?;
            ensure!(answer.status == 404 && answer.error("").is_some(), "{verb}: {answer:?}");
        }
        let large = plugin.post("IpamDriver.RequestPool", &vec![b' '; 10 << 20])?;
        ensure!(large.status == 413 && large.error("IpamDriver.RequestPool").is_some(), "{large:?}");
        let chunked = "POST /NetworkDriver.Join HTTP/1.1\r\nTransfer-Encoding: chunked\r\n";
        let answer = plugin.exchange(chunked, b"2\r\n{}\r\n0\r\n\r\n")?;
        ensure!(answer.status == 200 && answer.error("NetworkDriver.Join").is_some(), "{answer:?}");

        let activated = plugin.post("Plugin.Activate", b"")?;
        ensure!(activated.body["Implements"] == json!(["NetworkDriver", "IpamDriver"]), "{activated:?}");
        let networks = cluster.cli(0).run("network ls")?;
        ensure!(networks["networks"].as_array().is_some_and(Vec::is_empty), "{networks}");
        nothing_is_left(cluster)
    })
}

/// What an engine sends when it asks again.
#[test]
fn a_request_that_says_nothing_is_refused() -> Result<()> {
    with_plugins(1, |cluster, plugin| {
        let ipam = ["RequestPool", "ReleasePool", "RequestAddress", "ReleaseAddress"];
        let network = ["CreateNetwork", "DeleteNetwork", "CreateEndpoint", "DeleteEndpoint", "Join", "Leave"];
        let methods = ipam.map(|name| format!("IpamDriver.{name}")).into_iter();
        for method in methods.chain(network.map(|name| format!("NetworkDriver.{name}"))) {
            let answer = plugin.post(&method, b"")?;
            let error = answer.error(&method).unwrap_or_default();
            let says_why =
                error.starts_with(&method) && error.contains("ended before it had answered; run the command");
            ensure!(answer.status == 200 && says_why, "{method}: {answer:?}");
        }
        nothing_is_left(cluster)?;
        // No subnet was claimed.
        cluster.cli(0).run("network create all --subnet 10.0.0.0/8").map(drop)
    })
}

#[test]
fn an_answer_does_not_repeat_all_of_a_long_request() -> Result<()> {
    with_plugins(1, |_, plugin| {
        let long = "x".repeat(100_000);
        let table = [
            ("IpamDriver.RequestPool", json!({ "Pool": long })),
            ("IpamDriver.ReleasePool", json!({ "PoolID": long })),
            ("IpamDriver.RequestAddress", json!({ "PoolID": "10.9.0.0/24", "Address": long })),
            ("NetworkDriver.CreateNetwork", json!({ "NetworkID": long })),
            ("NetworkDriver.Join", json!({ "NetworkID": long, "EndpointID": long })),
            ("NetworkDriver.CreateEndpoint", json!({ "NetworkID": long, "EndpointID": long })),
            ("NetworkDriver.CreateEndpoint", json!({ "Interface": long })),
        ];
        for (method, request) in table {
            let answer = plugin.call(method, &request)?;
            let error = answer.error(method).with_context(|| format!("{method} was not refused"))?;
            ensure!(error.len() < 2000, "{method}: {} bytes", error.len());
        }
        Ok(())
    })
}

#[test]
fn calls_that_come_out_of_order() -> Result<()> {
    with_plugins(1, |cluster, plugin| {
        let (web, db) =
            (overlay(cluster, plugin, "web", "10.7.0.0/24")?, overlay(cluster, plugin, "db", "10.8.0.0/24")?);
        let nowhere = Overlay { engine_id: "f".repeat(64), subnet: "10.9.0.0/24".to_owned(), ..web.clone() };
        let endpoint = "e".repeat(64);
        // Before anything was made.
        plugin.refuses("NetworkDriver.Join", &web.of_endpoint(&endpoint), &["eeeeeeeeeeee", "create the endpoint"])?;
        for method in ["NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint", "NetworkDriver.EndpointOperInfo"] {
            plugin.ask(method, &web.of_endpoint(&endpoint))?;
            plugin.ask(method, &nowhere.of_endpoint(&endpoint))?;
        }
        let unknown = nowhere.create_endpoint(&endpoint, "10.9.0.2/24");
        plugin.refuses("NetworkDriver.CreateEndpoint", &unknown, &["ffffffffffff", "pontoon network ls"])?;
        plugin.refuses("IpamDriver.RequestAddress", &nowhere.address(""), &["10.9.0.0/24", "pontoon network ls"])?;
        plugin.ask("IpamDriver.ReleaseAddress", &nowhere.address("10.9.0.2"))?;
        plugin.ask("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": nowhere.engine_id }))?;

        // Addresses that it cannot have.
        let table = [
            ("10.8.0.9/24", &["10.8.0.9", "web", "10.7.0.0/24"][..]),
            ("10.7.0.1/24", &["10.7.0.1", "gateway"]),
            ("10.7.0.0/24", &["10.7.0.0", "network address"]),
            ("10.7.0.255/24", &["10.7.0.255", "broadcast"]),
            ("ten", &["ten", "no address"]),
        ];
        for (address, words) in table {
            plugin.refuses("NetworkDriver.CreateEndpoint", &web.create_endpoint(&endpoint, address), words)?;
        }
        plugin.refuses("IpamDriver.RequestAddress", &web.address("10.8.0.9"), &["10.8.0.9", "10.7.0.0/24"])?;
        nothing_is_left(cluster)?;

        // Twice.
        let address = web.start(plugin, &endpoint)?;
        plugin.ask("NetworkDriver.CreateEndpoint", &web.create_endpoint(&endpoint, &address))?;
        let joined = plugin.ask("NetworkDriver.Join", &web.of_endpoint(&endpoint))?["InterfaceName"].clone();
        let offered = links(&cluster.hosts()[0].netns)?;
        ensure!(joined["DstPrefix"] == "eth" && joined["SrcName"] == *offered.concat(), "{joined}: {offered:?}");
        let other = web.create_endpoint(&endpoint, "10.7.0.99/24");
        plugin.refuses("NetworkDriver.CreateEndpoint", &other, &["eeeeeeeeeeee", "there already"])?;
        for method in ["NetworkDriver.Join", "NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint"] {
            plugin.refuses(method, &db.of_endpoint(&endpoint), &["eeeeeeeeeeee", "not on network db"])?;
        }
        ensure!(in_use(cluster)?.len() == 1, "{:?}", in_use(cluster)?);
        web.stop(plugin, &endpoint, &address)?;
        web.stop(plugin, &endpoint, &address)?;
        plugin.refuses("NetworkDriver.Join", &web.of_endpoint(&endpoint), &["eeeeeeeeeeee"])?;
        nothing_is_left(cluster)
    })
}

#[test]
fn an_endpoint_for_a_network_that_is_gone() -> Result<()> {
    with_plugins(1, |cluster, plugin| {
        let web = overlay(cluster, plugin, "web", "10.7.0.0/24")?;
        plugin.ask("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": web.engine_id }))?;
        plugin.ask("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": web.engine_id }))?;
        // `docker network rm` takes it from this engine only: the cluster's users made it.
        cluster.cli(0).run("network inspect web")?;
        plugin.refuses("NetworkDriver.CreateEndpoint", &web.create_endpoint("e1", "10.7.0.2/24"), &["web000000000"])?;
        cluster.cli(0).run("network rm web")?;
        plugin.refuses("IpamDriver.RequestAddress", &web.address(""), &["10.7.0.0/24"])?;
        plugin.refuses("NetworkDriver.CreateEndpoint", &web.create_endpoint("e1", "10.7.0.2/24"), &["web000000000"])?;
        let again = web.create(&json!({ "pontoon.network": web.id }));
        plugin.refuses("NetworkDriver.CreateNetwork", &again, &[&web.id])?;
        nothing_is_left(cluster)
    })
}

#[test]
fn an_address_that_is_taken_stays_with_the_one_that_has_it() -> Result<()> {
    with_plugins(2, |cluster, plugin| {
        let web = overlay(cluster, plugin, "web", "10.7.0.0/24")?;
        // Somebody on the other host sees who comes and goes.
        cluster.attached(1, "watcher", "web")?;
        let first = web.start(plugin, "first")?;
        ensure!(first == "10.7.0.3/24", "{first}");
        // `docker run --ip` of another container: a restarted engine would ask for the first one's address just so.
        let answer = plugin.ask("IpamDriver.RequestAddress", &web.address("10.7.0.3"))?;
        ensure!(answer["Address"] == "10.7.0.3/24", "{answer}");
        let second = web.create_endpoint("second", &first);
        plugin.refuses("NetworkDriver.CreateEndpoint", &second, &["10.7.0.3", "first", "h1"])?;
        plugin.ask("IpamDriver.ReleaseAddress", &web.address("10.7.0.3"))?;
        let lease = cluster.cli(0).run("lease inspect 10.7.0.3")?["lease"]["lease"].clone();
        ensure!(lease["state"] == "pending" && lease["name"] == "first", "{lease}");
        // The other host's is not given at all.
        plugin.refuses("IpamDriver.RequestAddress", &web.address("10.7.0.2"), &["10.7.0.2", "watcher", "h2"])?;
        let third = web.create_endpoint("third", "10.7.0.2/24");
        plugin.refuses("NetworkDriver.CreateEndpoint", &third, &["10.7.0.2", "watcher", "h2"])?;

        let entry = |there: bool| {
            wait_for("the other host to know", SOON, || {
                let shown = cluster.overlay(1).run("bridge", &["fdb", "show"])?;
                ensure!(shown.contains("02:42:0a:07:00:03") == there, "{shown}");
                Ok(())
            })
        };
        entry(true)?;
        web.stop(plugin, "first", &first)?;
        entry(false)?;
        cluster.cli(1).run("detach --name watcher")?;
        nothing_is_left(cluster)
    })
}

#[test]
fn sixty_four_ask_for_an_address_at_once() -> Result<()> {
    with_plugins(1, |cluster, plugin| {
        let web = overlay(cluster, plugin, "web", "10.7.0.0/24")?;
        let ask = || plugin.ask("IpamDriver.RequestAddress", &web.address(""));
        let answers: Vec<Result<Value>> = thread::scope(|scope| {
            let asking: Vec<_> = (0..64).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|one| one.join().expect("it does not panic")).collect()
        });
        let mut addresses = Vec::new();
        for answer in answers {
            let answer = answer?;
            let text = answer["Address"].as_str().and_then(|text| text.strip_suffix("/24"));
            addresses.push(text.with_context(|| format!("no address: {answer}"))?.parse::<IpAddr>()?);
        }
        addresses.sort();
        let lowest: Vec<IpAddr> = (2..66).map(|last| [10, 7, 0, last].into()).collect();
        ensure!(addresses == lowest, "{addresses:?}");
        ensure!(in_use(cluster)?.len() == 64, "{:?}", in_use(cluster)?);

        // Nobody takes them. Only an engine can say that no container is about to: as long as none answers, they are held,
        // also by a daemon that starts again. With an engine they are released after half a minute.
        cluster.daemon(0).kill9()?;
        cluster.daemon(0).up()?;
        ensure!(in_use(cluster)?.len() == 64, "{:?}", in_use(cluster)?);
        for address in addresses {
            plugin.ask("IpamDriver.ReleaseAddress", &web.address(&address.to_string()))?;
        }
        nothing_is_left(cluster)
    })
}

#[test]
fn a_client_that_hangs_up() -> Result<()> {
    with_plugins(1, |cluster, plugin| {
        let web = overlay(cluster, plugin, "web", "10.7.0.0/24")?;
        let body = web.address("10.7.0.9").to_string();
        let head = format!("POST /IpamDriver.RequestAddress HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
        // In the middle of the request: nothing was asked for.
        let mut stream = plugin.open(&head)?;
        stream.write_all(&body.as_bytes()[..body.len() / 2])?;
        drop(stream);
        // Before the answer: it is done all the same.
        let mut stream = plugin.open(&head)?;
        stream.write_all(body.as_bytes())?;
        drop(stream);
        wait_for("the address to be held", SOON, || {
            let used = in_use(cluster)?;
            ensure!(used == ["pending \"10.7.0.9\""], "{used:?}");
            Ok(())
        })?;
        plugin.ask("IpamDriver.ReleaseAddress", &web.address("10.7.0.9"))?;
        nothing_is_left(cluster)
    })
}

#[test]
fn pools_are_asked_for_and_given_back() -> Result<()> {
    with_plugins(1, |cluster, plugin| {
        let web = overlay(cluster, plugin, "web", "10.7.0.0/24")?;
        let pool = |pool: &str| json!({ "AddressSpace": "pontoon", "Pool": pool, "Options": null });
        let (request, release) = ("IpamDriver.RequestPool", "IpamDriver.ReleasePool");
        // A restarted engine asks again for what it has.
        for _ in 0..2 {
            ensure!(plugin.ask(request, &pool("10.7.0.0/24"))?["PoolID"] == "10.7.0.0/24", "not the same");
            plugin.ask(release, &json!({ "PoolID": "10.7.0.0/24" }))?;
        }
        cluster.cli(0).run("network inspect web")?;
        let table = [
            ("10.7.0.0/25", &["10.7.0.0/25", "web"][..]),
            ("10.9.0.1/24", &["10.9.0.1/24", "host bits"]),
            ("10.9.0.0/31", &["10.9.0.0/31"]),
            ("127.0.0.0/24", &["127.0.0.0/24", "loopback"]),
            ("192.168.140.0/24", &["192.168.140.0/24", "h1"]),
            ("nonsense", &["nonsense", "10.0.0.0/24"]),
        ];
        for (cidr, words) in table {
            plugin.refuses(request, &pool(cidr), words)?;
        }
        let option = |id: &str| json!({ "Pool": "", "Options": { "pontoon.network": id } });
        plugin.refuses(request, &option("999"), &["999"])?;
        plugin.refuses(
            request,
            &json!({ "V6": true, "Options": { "pontoon.network": web.id } }),
            &["web", "10.7.0.0/24"],
        )?;
        // Any will do: a different one each time, until they are given back.
        let first = plugin.ask(request, &pool(""))?["PoolID"].clone();
        let second = plugin.ask(request, &pool(""))?["PoolID"].clone();
        ensure!(first == "10.0.0.0/24" && second == "10.0.1.0/24", "{first} {second}");
        plugin.refuses(request, &pool("10.0.0.0/24"), &["10.0.0.0/24", "h1"])?;
        for pool in [&first, &first, &second, &json!("10.200.0.0/24")] {
            plugin.ask(release, &json!({ "PoolID": pool }))?;
        }
        ensure!(plugin.ask(request, &pool("10.0.0.0/24"))?["PoolID"] == first, "it was not given back");
        plugin.ask(release, &json!({ "PoolID": first }))?;
        plugin.refuses(release, &json!({ "PoolID": "nonsense" }), &["nonsense"])?;
        nothing_is_left(cluster)
    })
}

#[test]
fn networks_that_are_not_made() -> Result<()> {
    with_plugins(1, |cluster, plugin| {
        let web = overlay(cluster, plugin, "web", "10.7.0.0/24")?;
        let wanted = Overlay { engine_id: "a".repeat(64), subnet: "10.9.0.0/24".to_owned(), ..web.clone() };
        let create = "NetworkDriver.CreateNetwork";
        // The other half of the driver was forgotten.
        let hint = "docker network create -d pontoon --ipam-driver pontoon NAME";
        let mut foreign = wanted.create(&json!({}));
        foreign["IPv4Data"][0]["AddressSpace"] = json!("LocalDefault");
        plugin.refuses(create, &foreign, &[hint])?;
        plugin.refuses(create, &json!({ "NetworkID": wanted.engine_id, "IPv4Data": null }), &[hint])?;
        let v6 = json!([{ "AddressSpace": "pontoon", "Pool": "fd00:9::/64", "Gateway": "fd00:9::1/64" }]);
        plugin.refuses(
            create,
            &json!({ "NetworkID": "a", "IPv6Data": v6 }),
            &[&hint.replace("NAME", "--ipv6 NAME")],
        )?;

        let table = [
            (json!({ "encrypted": "" }), &["encrypted", "-o mtu=N", "-o vni=N"][..]),
            (json!({ "mtu": "many" }), &["mtu", "many"]),
            (json!({ "mtu": "99999" }), &["99999", "1450"]),
            (json!({ "mtu": {} }), &["mtu"]),
            (json!({ "vni": "0" }), &["vni", "16777215"]),
            (json!({ "vni": -1 }), &["vni", "-1"]),
            (json!({ "pontoon.network": "nobody" }), &["nobody"]),
            (json!({ "pontoon.network": web.id }), &["web", "10.7.0.0/24", "10.9.0.0/24"]),
        ];
        for (options, words) in table {
            plugin.refuses(create, &wanted.create(&options), words)?;
        }
        for (id, why) in [("", "empty"), ("a b", "not allowed")] {
            let unnamed = Overlay { engine_id: id.to_owned(), ..wanted.clone() };
            plugin.refuses(create, &unnamed.create(&json!({})), &[why])?;
            let unnamed = Overlay { engine_id: id.to_owned(), ..web.clone() };
            plugin.refuses(create, &unnamed.create(&json!({ "pontoon.network": web.id })), &[why])?;
        }
        // It is in the engine as before.
        let answer = plugin.ask("IpamDriver.RequestAddress", &web.address("10.7.0.77"))?;
        plugin.ask("NetworkDriver.CreateEndpoint", &web.create_endpoint("e1", "10.7.0.77/24"))?;
        plugin.ask("NetworkDriver.DeleteEndpoint", &web.of_endpoint("e1"))?;
        ensure!(answer["Address"] == "10.7.0.77/24", "{answer}");
        let networks = cluster.cli(0).run("network ls")?;
        ensure!(networks["networks"].as_array().is_some_and(|all| all.len() == 1), "{networks}");
        nothing_is_left(cluster)
    })
}

/// The options of a network say which cluster it was made for.
#[test]
fn a_network_of_another_cluster() -> Result<()> {
    with_plugins(1, |cluster, plugin| {
        let web = overlay(cluster, plugin, "web", "10.7.0.0/24")?;
        let own = cluster.status(0)?["cluster_id"].clone();
        let options = |cluster: &Value| json!({ "pontoon.network": web.id, "pontoon.cluster": cluster });
        for other in [json!("00000000000000000000000000000007"), json!(""), json!("web")] {
            let words = [other.as_str().unwrap_or_default(), own.as_str().unwrap_or_default(), "docker network rm"];
            let pool = json!({ "Pool": web.subnet, "Options": options(&other) });
            plugin.refuses("IpamDriver.RequestPool", &pool, &words)?;
            plugin.refuses("NetworkDriver.CreateNetwork", &web.create(&options(&other)), &words)?;
        }
        let pool = json!({ "Pool": web.subnet, "Options": options(&own) });
        plugin.ask("IpamDriver.RequestPool", &pool)?;
        plugin.ask("NetworkDriver.CreateNetwork", &web.create(&options(&own)))?;
        // Without a network it says nothing.
        let alone = web.create(&json!({ "pontoon.cluster": own }));
        plugin.refuses("NetworkDriver.CreateNetwork", &alone, &["pontoon.cluster"])?;
        nothing_is_left(cluster)
    })
}

/// An option names a network by its id, also when that is another one's name.
#[test]
fn a_network_that_is_called_like_the_id_of_another() -> Result<()> {
    with_plugins(1, |cluster, plugin| {
        let web = overlay(cluster, plugin, "web", "10.7.0.0/24")?;
        cluster.cli(0).run(&format!("network create {} --subnet 10.8.0.0/24", web.id))?;
        let option = json!({ "pontoon.network": web.id });
        let pool = plugin.ask("IpamDriver.RequestPool", &json!({ "Options": option }))?["PoolID"].clone();
        ensure!(pool == "10.7.0.0/24", "{pool}");
        plugin.ask("NetworkDriver.CreateNetwork", &web.create(&option)).map(drop)
    })
}

#[test]
fn an_endpoint_on_both_families() -> Result<()> {
    with_plugins(1, |cluster, plugin| {
        let made = cluster.cli(0).run("network create both --ipv6 --subnet 10.7.0.0/24 --subnet fd00:7::/64")?;
        let id = made["network"]["id"].to_string().trim_matches('"').to_owned();
        let both = Overlay { id, engine_id: "b".repeat(64), subnet: "10.7.0.0/24".to_owned() };
        let mut create = both.create(&json!({ "pontoon.network": both.id }));
        create["IPv6Data"] = json!([{ "AddressSpace": "pontoon", "Pool": "fd00:7::/64" }]);
        plugin.ask("NetworkDriver.CreateNetwork", &create)?;
        let address = |pool: &str, address: &str| json!({ "PoolID": pool, "Address": address });
        let request = "IpamDriver.RequestAddress";
        for (pool, other) in [("10.7.0.0/24", "fd00:7::9"), ("fd00:7::/64", "10.7.0.9")] {
            plugin.refuses(request, &address(pool, other), &[pool, other])?;
        }
        ensure!(plugin.ask(request, &address("fd00:7::/64", ""))?["Address"] == "fd00:7::2/64", "not the lowest");
        plugin.ask("IpamDriver.ReleaseAddress", &address("fd00:7::/64", "fd00:7::2"))?;
        // The engine is told what it has not said, and nothing else.
        let table = [
            (
                json!(null),
                json!({ "Address": "10.7.0.2/24", "AddressIPv6": "fd00:7::2/64", "MacAddress": "02:42:0a:07:00:02" }),
            ),
            (
                json!({ "Address": "10.7.0.9/24", "MacAddress": "02:42:0a:07:00:63" }),
                json!({ "AddressIPv6": "fd00:7::3/64" }),
            ),
            (
                json!({ "Address": "10.7.0.8/24", "AddressIPv6": "fd00:7::8/64" }),
                json!({ "MacAddress": "02:42:0a:07:00:08" }),
            ),
        ];
        for ((interface, chosen), id) in table.into_iter().zip(["e1", "e2", "e3"]) {
            let wanted = json!({ "NetworkID": both.engine_id, "EndpointID": id, "Interface": interface });
            let answer = plugin.ask("NetworkDriver.CreateEndpoint", &wanted)?;
            ensure!(answer == json!({ "Interface": chosen }), "{wanted}: {answer}");
        }
        for id in ["e1", "e2", "e3"] {
            plugin.ask("NetworkDriver.DeleteEndpoint", &both.of_endpoint(id))?;
        }
        nothing_is_left(cluster)
    })
}

#[test]
fn a_network_whose_name_is_not_told() -> Result<()> {
    with_plugins(1, |cluster, plugin| {
        let subnet = plugin.ask("IpamDriver.RequestPool", &json!({ "AddressSpace": "pontoon" }))?["PoolID"].clone();
        let subnet = subnet.as_str().context("no pool")?.to_owned();
        let made = Overlay { id: String::new(), engine_id: "a".repeat(64), subnet };
        let mut gateway = made.address("");
        gateway["Options"] = json!({ "RequestAddressType": "com.docker.network.gateway" });
        for _ in 0..2 {
            let answer = plugin.ask("IpamDriver.RequestAddress", &gateway)?;
            ensure!(answer["Address"] == "10.0.0.1/24", "{answer}");
            plugin.ask("NetworkDriver.CreateNetwork", &made.create(&json!({})))?;
        }
        // No engine tells the name: it cannot be used, and whoever waits is told why.
        let words = ["name", "4 s", "pontoon status"];
        plugin.refuses("IpamDriver.RequestAddress", &made.address(""), &words)?;
        let endpoint = made.create_endpoint("e1", "10.0.0.2/24");
        plugin.refuses("NetworkDriver.CreateEndpoint", &endpoint, &["aaaaaaaaaaaa", "name"])?;
        for _ in 0..2 {
            plugin.ask("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": made.engine_id }))?;
        }
        let networks = cluster.cli(0).run("network ls")?;
        ensure!(networks["networks"].as_array().is_some_and(Vec::is_empty), "{networks}");
        nothing_is_left(cluster)
    })
}
