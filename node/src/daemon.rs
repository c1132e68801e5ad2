//! The daemon: what its services share.

use std::sync::{Arc, PoisonError, RwLock};

use pontoon_store::StoreSlot;
use pontoon_store::tasks::TaskBoard;
use tokio::sync::{Mutex, SetOnce};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::api::error::ApiError;
use crate::config::Config;
use crate::docker::Containers;
use crate::host;
use crate::identity::DataDir;
use crate::member::Member;
use crate::names::Names;

type Renewing = std::sync::Mutex<Option<AbortHandle>>;

/// A daemon, in a cluster or not yet.
#[derive(Debug)]
pub struct Daemon {
    /// Options.
    pub config: Config,
    /// Background tasks, for `pontoon status`.
    pub tasks: TaskBoard,
    /// What the peer port serves.
    pub slot: StoreSlot,
    /// Ends the daemon.
    pub stop: CancellationToken,
    /// What is known of Docker's containers.
    pub(crate) containers: Arc<Containers>,
    /// Names of containers.
    pub(crate) names: Arc<Names>,
    /// Data folder. Whoever has it may enter or leave a cluster: one at a time.
    pub(crate) data: Mutex<DataDir>,
    member: RwLock<Option<Arc<Member>>>,
    /// Renews the certificate of the member that this is.
    renewal: Renewing,
    settled: SetOnce<()>,
}

impl Daemon {
    /// A daemon that is in no cluster yet.
    pub fn new(config: Config, data: DataDir, slot: StoreSlot, stop: CancellationToken) -> Self {
        Self {
            config,
            tasks: TaskBoard::new(host::now_ms),
            slot,
            stop,
            containers: Arc::default(),
            names: Arc::default(),
            data: Mutex::new(data),
            member: RwLock::new(None),
            renewal: Renewing::default(),
            settled: SetOnce::new(),
        }
    }

    /// This daemon as a member.
    pub fn member(&self) -> Result<Arc<Member>, ApiError> {
        self.try_member().ok_or_else(|| {
            ApiError::new(
                Code::FailedPrecondition,
                "NOT_IN_CLUSTER",
                "this node is in no cluster",
                "pontoon init --advertise ADDR makes one; pontoon join TOKEN enters one",
            )
        })
    }

    /// This daemon as a member, if it is one.
    pub fn try_member(&self) -> Option<Arc<Member>> {
        self.member.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What renews its certificate from now on; what did before ends.
    pub(crate) fn set_renewal(&self, task: AbortHandle) {
        if let Some(before) = self.renewal.lock().unwrap_or_else(PoisonError::into_inner).replace(task) {
            before.abort();
        }
    }

    /// This node's name in its cluster, or what it would be.
    pub(crate) fn name(&self) -> String {
        let named = |member: &Member| {
            let state = member.store().state();
            state.nodes.get(&member.node()).map(|node| node.name.clone())
        };
        self.try_member().and_then(|member| named(&member)).or_else(|| host::name().ok()).unwrap_or_default()
    }

    /// Waits until the daemon has found out whether it is a member: for a moment after its start, it may be one and not
    /// know it yet.
    pub(crate) async fn settled(&self) {
        self.settled.wait().await;
    }

    /// It is what its data folder says, from now on.
    pub(crate) fn settle(&self) {
        // Once more changes nothing.
        let _ = self.settled.set(());
    }

    /// Becomes a member, or ceases to be one; returns what it was.
    pub(crate) fn set_member(&self, member: Option<Arc<Member>>) -> Option<Arc<Member>> {
        self.slot.set(member.as_ref().map(|member| member.store().clone()));
        std::mem::replace(&mut *self.member.write().unwrap_or_else(PoisonError::into_inner), member)
    }
}
