//! The daemon as its supervisor sees it: readiness, log lines, the way it ends.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pontoon_tests::lab::{DaemonOptions, Options, run, run_with};
use pontoon_tests::{elapse, socket, wait_for};
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

#[test]
fn a_json_log_is_one_object_a_line() -> Result<()> {
    let args = ["--log-format", "json"].map(str::to_owned).to_vec();
    let daemon = DaemonOptions { args, ..DaemonOptions::default() };
    run_with(Options { hosts: 1, daemon, ..Options::default() }, |cluster| {
        cluster.form()?;
        cluster.cli(0).run("network create n")?;
        // Something to warn of, with the error's text in a field of its own.
        cluster.hosts()[0].netns.ip("link add other type vxlan id 65536 dstport 4789 local 192.168.140.200")?;
        let container = cluster.container(0, "c1")?;
        cluster.cli(0).refused(&container.attach_line("n", ""))?;
        cluster.daemon(0).term()?;
        let log = fs::read_to_string(cluster.daemon(0).log())?;
        let mut levels = Vec::new();
        for line in log.lines() {
            let object: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line:?}"))?;
            for field in ["timestamp", "level", "message", "target"] {
                ensure!(object[field].as_str().is_some_and(|text| !text.is_empty()), "no {field}: {line}");
            }
            levels.push(object["level"].clone());
        }
        ensure!(levels.contains(&"INFO".into()) && levels.contains(&"WARN".into()), "{log}");
        ensure!(log.lines().any(|line| line.contains("SIGTERM: stopping")), "{log}");
        Ok(())
    })
}

#[test]
fn systemd_is_told_when_it_is_ready_and_when_it_stops() -> Result<()> {
    run_with(Options { hosts: 1, ..Options::default() }, |cluster| {
        cluster.daemon(0).term()?;
        let path = cluster.file("notify");
        let supervisor = UnixDatagram::bind(&path)?;
        supervisor.set_read_timeout(Some(Duration::from_secs(20)))?;
        let told = || -> Result<String> {
            let mut buffer = [0; 512];
            let length = supervisor.recv(&mut buffer).context("nothing was told")?;
            Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
        };
        cluster.daemon(0).options_mut().env = vec![("NOTIFY_SOCKET".to_owned(), path.display().to_string())];
        cluster.daemon(0).start()?;
        ensure!(told()? == "READY=1", "the first word was not that it is ready");
        // Not a moment later.
        cluster.status(0)?;
        ensure!(cluster.daemon(0).term()?.success(), "it did not end well");
        ensure!(told()? == "STOPPING=1", "it did not say that it stops");
        Ok(())
    })
}

/// What waits for an answer does not hold up the end, and gets one.
#[test]
fn sigterm_while_a_request_waits() -> Result<()> {
    run(|cluster| {
        wait_for("three voters", Duration::from_secs(20), || {
            let status = cluster.status(0)?;
            ensure!(status["quorum"] == 2, "{status}");
            Ok(())
        })?;
        // From now on a write waits for the others until its time is up.
        cluster.daemon(1).kill9()?;
        cluster.daemon(2).kill9()?;
        let mut command = cluster.cli(0).command("network create n")?;
        let mut asking = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        elapse(Duration::from_millis(500));
        ensure!(asking.try_wait()?.is_none(), "the write did not wait");
        let start = Instant::now();
        let status = cluster.daemon(0).term()?;
        let took = start.elapsed();
        ensure!(status.code() == Some(0), "it ended with {status}");
        ensure!(took < Duration::from_secs(10), "it took {took:?}");
        let asked = wait_for("an answer", Duration::from_secs(5), || asking.try_wait()?.context("it still waits"))?;
        ensure!(asked.code() == Some(1), "the write ended with {asked}");
        Ok(())
    })
}

/// The text of a unit file.
fn unit(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/dist").join(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Everything that the daemon runs works with no more than the unit file leaves it.
#[test]
fn the_unit_files_capabilities_are_enough() -> Result<()> {
    let unit = unit("pontoond.service")?;
    let kept = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).context("all are kept")?;
    let kept = kept.to_lowercase().replace("cap_", "+").replace(' ', ",");
    run_with(Options { hosts: 1, ..Options::default() }, |cluster| {
        cluster.daemon(0).term()?;
        cluster.daemon(0).start_through(&["setpriv", &format!("--bounding-set=-all,{kept}"), "--inh-caps=-all"]);
        cluster.daemon(0).up()?;
        cluster.form()?;
        cluster.cli(0).run("network create my-overlay")?;
        let (container, _) = cluster.attached(0, "c1", "my-overlay")?;
        // It hears of that, and does not wait for its next look in half a minute.
        container.netns.ip("link set eth0 down")?;
        wait_for("the interface to be up again", Duration::from_secs(5), || {
            let shown = container.netns.run("ip", &["link", "show", "dev", "eth0"])?;
            ensure!(shown.contains(",UP"), "{shown}");
            Ok(())
        })?;
        for task in cluster.status(0)?["tasks"].as_array().context("no tasks")? {
            ensure!(task["failures"].as_u64().unwrap_or_default() == 0, "{task}");
        }
        let log = fs::read_to_string(cluster.daemon(0).log())?;
        ensure!(!log.contains("WARN"), "{log}");
        Ok(())
    })
}

#[test]
fn the_unit_files_are_understood() -> Result<()> {
    let units = ["pontoond.service", "pontoond-docker.socket"];
    let dir = tempfile::tempdir()?;
    for name in units {
        // The daemon need not be installed.
        fs::write(dir.path().join(name), unit(name)?.replace("/usr/local/bin/pontoond", "/bin/true"))?;
    }
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).args(units.map(|name| dir.path().join(name)));
    let output = command.output().context("cannot run systemd-analyze: run tests/setup.sh")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // What it does not know, it only warns of.
    ensure!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
    Ok(())
}

/// What tells an orchestrator, and a program that has not the proto files.
#[test]
fn health_and_reflection_are_served() -> Result<()> {
    let runtime = Runtime::new()?;
    run_with(Options { hosts: 1, ..Options::default() }, |cluster| {
        let socket = cluster.daemon(0).socket();
        let health = |service: &str| {
            let request = HealthCheckRequest { service: service.to_owned() };
            runtime.block_on(async {
                let mut client = HealthClient::new(socket::connect(&socket).await?);
                Ok::<_, anyhow::Error>(client.check(request).await?.into_inner().status())
            })
        };
        ensure!(health("")? == ServingStatus::Serving, "the daemon answers");
        let writing = "pontoon.v1.NetworkService";
        wait_for("nothing to be written", Duration::from_secs(10), || {
            ensure!(health(writing)? == ServingStatus::NotServing, "it is in no cluster");
            Ok(())
        })?;
        cluster.form()?;
        wait_for("something to be written", Duration::from_secs(10), || {
            ensure!(health(writing)? == ServingStatus::Serving, "it leads");
            Ok(())
        })?;
        let names = runtime.block_on(async {
            let mut client = ServerReflectionClient::new(socket::connect(&socket).await?);
            let message_request = Some(MessageRequest::ListServices(String::new()));
            let asked = futures::stream::iter([ServerReflectionRequest { host: String::new(), message_request }]);
            let mut answers = client.server_reflection_info(asked).await?.into_inner();
            let answer = answers.message().await?.context("no answer")?.message_response;
            let Some(MessageResponse::ListServicesResponse(listed)) = answer else { bail!("{answer:?}") };
            Ok::<_, anyhow::Error>(listed.service.into_iter().map(|service| service.name).collect::<Vec<_>>())
        })?;
        for service in ["pontoon.v1.ClusterService", "pontoon.v1.TokenService", "grpc.health.v1.Health"] {
            ensure!(names.iter().any(|name| name == service), "{service} is not among {names:?}");
        }
        Ok(())
    })
}
