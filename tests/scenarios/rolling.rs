//! All daemons are restarted, one after the other, as for an upgrade.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use pontoon_tests::lab::{Cli, Cluster, run};
use pontoon_tests::wait_for;

const SOON: Duration = Duration::from_secs(20);

/// Writes through a node whenever nobody is at work on it. Each must succeed.
fn write(cli: &Cli, node: &Mutex<()>, done: &AtomicU64, over: &AtomicBool) -> Result<()> {
    for number in 0_u64.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let _free = node.lock().map_err(|_| anyhow!("whoever was at work panicked"))?;
        cli.run(&format!("node label h1 rolling={number}"))?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The node that may be restarted next, as `pontoon upgrade check` allows it: never while one is away.
fn may_go_on(cluster: &Cluster) -> Result<()> {
    wait_for("the next one to be allowed", SOON, || cluster.cli(0).run("upgrade check").map(drop))
}

#[test]
fn no_request_through_the_others_fails() -> Result<()> {
    run(|cluster| {
        cluster.cli(0).run("network create pinged")?;
        let (c1, _) = cluster.attached(0, "c1", "pinged")?;
        let (_, to) = cluster.attached(1, "c2", "pinged")?;
        wait_for("three voters", SOON, || {
            let status = cluster.status(0)?;
            ensure!(status["quorum"] == 2, "{status}");
            Ok(())
        })?;
        let pings = cluster.pinger(&c1, &to)?;
        let (nodes, done) = ([(); 3].map(|()| Mutex::new(())), [(); 3].map(|()| AtomicU64::new(0)));
        let over = AtomicBool::new(false);
        let clis: Vec<Cli> = (0..3).map(|host| cluster.cli(host)).collect();
        thread::scope(|scope| {
            let writers = clis.iter().zip(&nodes).zip(&done);
            let writers: Vec<_> =
                writers.map(|((cli, node), done)| scope.spawn(|| write(cli, node, done, &over))).collect();
            let restarted = restart_all(cluster, &nodes, &done);
            over.store(true, Ordering::Relaxed);
            for writer in writers {
                writer.join().map_err(|_| anyhow!("a writer panicked"))??;
            }
            restarted
        })?;
        pings.lost_nothing(50)?;
        cluster.wait_same_state()
    })
}

/// Restarts the daemons, the leader last, while the others go on.
fn restart_all(cluster: &mut Cluster, nodes: &[Mutex<()>; 3], done: &[AtomicU64; 3]) -> Result<()> {
    let leader = cluster.leader()?;
    for step in 1..=3 {
        let host = (leader + step) % 3;
        let _busy = nodes[host].lock().map_err(|_| anyhow!("a writer panicked"))?;
        may_go_on(cluster).with_context(|| format!("before h{} was restarted", host + 1))?;
        let others: Vec<usize> = (0..3).filter(|other| *other != host).collect();
        let before: Vec<u64> = others.iter().map(|other| done[*other].load(Ordering::Relaxed)).collect();
        cluster.daemon(host).term()?;
        wait_for("the others to write without it", SOON, || {
            for (other, before) in others.iter().zip(&before) {
                ensure!(done[*other].load(Ordering::Relaxed) > before + 3, "h{} has not", other + 1);
            }
            Ok(())
        })?;
        cluster.daemon(host).up()?;
    }
    cluster.wait_all_ready()
}
