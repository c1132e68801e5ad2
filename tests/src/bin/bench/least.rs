//! A network driver that does the least that an engine asks of one: it answers each call at once, with an interface that was
//! made before anybody asked. What a container takes longer on its network than on the bridge is the engine's own.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use axum::extract::State;
use axum::http::Uri;
use axum::{Json, Router};
use pontoon_tests::lab::Engine;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;

/// Its name for the engine.
pub(crate) const DRIVER: &str = "least";
/// Where the engine looks for it.
const SOCKET: &str = "/run/docker/plugins/least.sock";
/// Addresses for measuring networks (RFC 2544, appendix C.2.2).
const POOL: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const PREFIX: u8 = 24;

/// How far it is.
#[derive(Debug, Default)]
struct Given {
    addresses: AtomicU32,
    interfaces: AtomicU32,
}

/// The driver, which answers until this is dropped.
#[derive(Debug)]
pub(crate) struct Least(#[expect(dead_code, reason = "it is there to be dropped")] Runtime);

impl Least {
    /// Starts it beside an engine, with interfaces for so many containers.
    pub(crate) fn start(engine: &Engine, containers: u32) -> Result<Self> {
        for n in 0..containers {
            let made = format!("link add least{n} up type veth peer name inside{n}");
            let mut command = engine.room().command("ip");
            ensure!(command.args(made.split_whitespace()).status()?.success(), "cannot make an interface: {made}");
        }
        let runtime = Runtime::new()?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(engine.room().path(SOCKET)).context("cannot listen for the engine")?
        };
        let driver = Router::new().fallback(answer).with_state(Arc::<Given>::default());
        runtime.spawn(async move { axum::serve(listener, driver).await });
        Ok(Self(runtime))
    }
}

/// Reads what it is asked to the end, so that the engine can ask again on the same connection.
async fn answer(State(given): State<Arc<Given>>, method: Uri, _: String) -> Json<Value> {
    Json(match method.path() {
        "/Plugin.Activate" => json!({"Implements": ["NetworkDriver", "IpamDriver"]}),
        "/NetworkDriver.GetCapabilities" => json!({"Scope": "local"}),
        "/IpamDriver.RequestPool" => json!({"PoolID": DRIVER, "Pool": format!("{POOL}/{PREFIX}")}),
        "/IpamDriver.RequestAddress" => {
            // The first is the gateway's.
            let last = given.addresses.fetch_add(1, Ordering::Relaxed) + 1;
            json!({"Address": format!("{}/{PREFIX}", Ipv4Addr::from_bits(POOL.to_bits() + last))})
        }
        "/NetworkDriver.Join" => {
            let n = given.interfaces.fetch_add(1, Ordering::Relaxed);
            json!({"InterfaceName": {"SrcName": format!("inside{n}"), "DstPrefix": "eth"}})
        }
        _ => json!({}),
    })
}
