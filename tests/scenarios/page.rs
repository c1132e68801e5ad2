//! The page, as a browser on the host gets it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use pontoon_tests::lab::{Cluster, Netns, Options, run_with};
use pontoon_tests::wait_for;

/// Where the page is, unless it is asked for elsewhere.
const DEFAULT: &str = "127.0.0.1:7301";
/// How long the page may take: without quorum it waits 2 s for a leader.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a change may take until the page shows it.
const SHOWN: Duration = Duration::from_secs(20);

fn hosts(hosts: usize) -> Options {
    Options { hosts, ..Options::default() }
}

/// Does something in a network namespace. What it opens there stays there.
fn inside<T: Send>(netns: &Netns, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let enter = || {
        setns(File::open(netns.path())?, CloneFlags::CLONE_NEWNET)?;
        work()
    };
    // A thread of its own, which ends there.
    thread::scope(|scope| scope.spawn(enter).join()).map_err(|_| anyhow!("the thread in {} panicked", netns.name()))?
}

/// What a browser in a namespace gets for the beginning of a request.
pub(super) fn ask(netns: &Netns, address: &str, request: &str) -> Result<String> {
    let address: SocketAddr = address.parse()?;
    inside(netns, || {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        write!(stream, "{request}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("no answer")?;
        Ok(answer)
    })
}

/// The page of a host.
fn page(cluster: &Cluster, host: usize) -> Result<String> {
    let answer = ask(&cluster.hosts()[host].netns, DEFAULT, &format!("GET / HTTP/1.1\r\nHost: {DEFAULT}"))?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    Ok(answer)
}

/// The rows of one of its tables, cells with a blank between them.
fn rows(page: &str, section: &str) -> Result<Vec<String>> {
    let (_, rest) = page.split_once(&format!("<section id=\"{section}\">")).with_context(|| page.to_owned())?;
    let table = rest.split("</section>").next().unwrap_or_default();
    Ok(table.split("<tr>").skip(1).map(text).collect())
}

/// The text between the tags.
fn text(html: &str) -> String {
    let parts: String = html
        .split('<')
        .map(|part| part.split_once('>').map_or(part, |(_, text)| text))
        .fold(String::new(), |text, part| text + " " + part);
    parts.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Checks that one row has each of these words.
fn has_row(rows: &[String], words: &[&str]) -> Result<()> {
    ensure!(rows.iter().any(|row| words.iter().all(|word| row.contains(word))), "none of {rows:#?} has {words:?}");
    Ok(())
}

#[test]
fn it_shows_nodes_networks_leases_and_who_leads() -> Result<()> {
    run_with(hosts(2), |cluster| {
        let page_of_none = page(cluster, 0)?;
        ensure!(page_of_none.contains("pontoon init") && page_of_none.contains("pontoon join"), "{page_of_none}");
        cluster.form()?;
        cluster.cli(0).run("network create my-overlay")?;
        let (_, first) = cluster.attached(0, "centos1", "my-overlay")?;
        let (_, second) = cluster.attached(1, "centos2", "my-overlay")?;
        let leader = &cluster.hosts()[cluster.leader()?].name;
        for host in 0..2 {
            let page = wait_for("the page to show the cluster", SHOWN, || {
                let page = page(cluster, host)?;
                ensure!(page.contains(&format!("<dt>Leader</dt><dd><strong>{leader}</strong>")), "{page}");
                let containers = rows(&page, "containers")?;
                has_row(&containers, &["centos1 10.0.0.2", &first.mac, "h1 192.168.140.200 active"])?;
                has_row(&containers, &["centos2 10.0.0.3", &second.mac, "h2 192.168.140.201 active"])?;
                Ok(page)
            })?;
            let nodes = rows(&page, "nodes")?;
            // As `pontoon node ls` has them. Of two nodes one votes: a second vote would stand no loss more.
            for member in cluster.cli(host).run("node ls")?["nodes"].as_array().context("no nodes")? {
                let word = |key: &str| member["node"][key].as_str().unwrap_or_default();
                let role = if member["leader"] == true { "leader" } else { "learner" };
                let row = format!("ready {role} {} {} {}", word("advertise"), word("data_addr"), word("version"));
                has_row(&nodes, &[word("name"), &row])?;
            }
            ensure!(nodes.len() == 3 && nodes.iter().any(|row| row.starts_with("h2")), "{nodes:?}");
            has_row(&rows(&page, "networks")?, &["my-overlay", "65536 10.0.0.0/24 1450 2 no"])?;
            let leases = rows(&page, "leases")?;
            has_row(&leases, &["10.0.0.1 my-overlay reserved gateway"])?;
            has_row(&leases, &["10.0.0.3 my-overlay active centos2 h2"])?;
            has_row(&rows(&page, "tasks")?, &["page running"])?;
            ensure!(page.contains("1 of 1 voter; none may fail") && !page.contains("own copy"), "{page}");
        }
        Ok(())
    })
}

#[test]
fn without_quorum_it_shows_the_local_copy_and_says_so() -> Result<()> {
    run_with(hosts(2), |cluster| {
        cluster.form()?;
        cluster.cli(0).run("network create my-overlay")?;
        let leader = cluster.leader()?;
        cluster.daemon(leader).kill9()?;
        wait_for("the page to say so", SHOWN, || {
            let page = page(cluster, 1 - leader)?;
            ensure!(page.contains("own copy as of index"), "{page}");
            has_row(&rows(&page, "networks")?, &["my-overlay"])
        })
    })
}

#[test]
fn it_is_for_browsers_on_this_host_and_can_only_be_read() -> Result<()> {
    run_with(hosts(2), |cluster| {
        cluster.form()?;
        let host = &cluster.hosts()[0].netns;
        let begins = |request: &str, start: &str| -> Result<String> {
            let answer = ask(host, DEFAULT, request)?;
            ensure!(answer.starts_with(&format!("HTTP/1.1 {start} ")), "{request:?}: {answer}");
            Ok(answer)
        };
        for name in ["localhost", "localhost:7301", "h1:7301", "[::1]:7301"] {
            begins(&format!("GET / HTTP/1.1\r\nHost: {name}"), "200")?;
        }
        for (name, path) in [("evil.example:7301", "/"), ("evil.example", "/other"), ("h2", "/")] {
            let answer = begins(&format!("GET {path} HTTP/1.1\r\nHost: {name}"), "403")?;
            ensure!(answer.contains(name) && answer.contains("localhost") && !answer.contains("192.168"), "{answer}");
        }
        begins("GET / HTTP/1.1", "403")?;
        begins("GET /other HTTP/1.1\r\nHost: localhost", "404")?;
        for method in ["POST", "PUT", "DELETE"] {
            begins(&format!("{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0"), "405")?;
        }
        let head = begins("HEAD / HTTP/1.1\r\nHost: localhost", "200")?;
        ensure!(head.ends_with("\r\n\r\n") && head.contains("text/html"), "{head}");
        let neighbour = &cluster.hosts()[1].netns;
        let answer = ask(neighbour, "192.168.140.200:7301", "GET / HTTP/1.1\r\nHost: 192.168.140.200");
        ensure!(answer.is_err(), "another host gets {answer:?}");
        Ok(())
    })
}

#[test]
fn a_default_address_in_use_is_told_and_tried_again() -> Result<()> {
    run_with(hosts(1), |cluster| {
        cluster.daemon(0).term()?;
        let host = cluster.hosts()[0].netns.clone();
        let other =
            wait_for("the port", SHOWN, || inside(&host, || Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 7301))?)))?;
        cluster.daemon(0).up()?;
        let page_task = || -> Result<(String, String)> {
            let status = cluster.status(0)?;
            let tasks = status["tasks"].as_array().context("no tasks")?;
            let task = tasks.iter().find(|task| task["name"] == "page").context("no such task")?;
            let word = |key: &str| task[key].as_str().unwrap_or_default().to_owned();
            Ok((word("state"), word("last_error")))
        };
        wait_for("the failure to be shown", SHOWN, || {
            let (state, error) = page_task()?;
            ensure!(state == "failing", "it is {state}");
            ensure!([DEFAULT, "in use", "--page"].iter().all(|word| error.contains(word)), "{error}");
            Ok(())
        })?;
        drop(other);
        wait_for("the page", SHOWN, || {
            page(cluster, 0)?;
            ensure!(page_task()? == ("running".to_owned(), String::new()), "{:?}", page_task()?);
            Ok(())
        })
    })
}

#[test]
fn it_is_where_it_was_asked_for_or_the_daemon_does_not_start() -> Result<()> {
    run_with(hosts(1), |cluster| {
        let host = cluster.hosts()[0].netns.clone();
        let listening = || host.run("ss", &["-Hltn"]);
        cluster.daemon(0).term()?;
        cluster.daemon(0).options_mut().args = ["--page", "192.168.140.200:7380"].map(str::to_owned).to_vec();
        cluster.daemon(0).up()?;
        let answer = ask(&host, "192.168.140.200:7380", "GET / HTTP/1.1\r\nHost: 192.168.140.200:7380")?;
        ensure!(answer.contains("in no cluster"), "{answer}");
        ensure!(!listening()?.contains(":7301"), "it is at the default address too");
        cluster.daemon(0).term()?;
        cluster.daemon(0).options_mut().args = ["--page", "off"].map(str::to_owned).to_vec();
        cluster.daemon(0).up()?;
        ensure!(!listening()?.contains(":7301"), "there is a page: {}", listening()?);
        ensure!(!cluster.status(0)?["tasks"].to_string().contains("\"page\""), "there is a task");
        cluster.daemon(0).term()?;
        // Not an address of this host.
        cluster.daemon(0).options_mut().args = ["--page", "192.0.2.1:7301"].map(str::to_owned).to_vec();
        let log = cluster.daemon(0).fails_to_start()?;
        for word in ["192.0.2.1:7301", "assign", "--page"] {
            ensure!(log.contains(word), "it does not say {word:?}: {log}");
        }
        Ok(())
    })
}
