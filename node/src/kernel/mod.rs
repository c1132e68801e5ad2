//! This host's kernel: namespaces, links, addresses, neighbours, forwarding entries and the firewall. The only place
//! that speaks netlink and nftables. It decides nothing: it tells what there is and carries out steps.
//!
//! Everything here blocks; the reconcile loop calls it on a thread that may.

mod address;
mod echo;
mod error;
mod examine;
mod execute;
mod facts;
mod firewall;
mod generation;
mod link;
mod linux;
#[cfg(any(test, feature = "memory-kernel"))]
pub mod memory;
mod neighbour;
mod netns;
mod observe;
mod placed;
mod ports;
mod privileges;
mod socket;
mod steer;
mod sysctl;
pub mod watch;

use std::net::IpAddr;

pub use echo::answered;
pub use error::{KernelError, Refusal};
pub use examine::{look, release, trials};
pub use facts::facts_now;
pub use linux::Linux;
pub use netns::sandbox;
pub use placed::placed;
pub use privileges::check_privileges;
pub use steer::{Door, Program, Steered, answer_from_docker};

use crate::plan::desired::Desired;
use crate::plan::diff::Step;
use crate::plan::observed::{HostFacts, Observed};

/// A kernel that steps can be carried out in.
pub trait Kernel: Send + 'static {
    /// Facts about the host that are not ours to decide. `vtep`: this node's data address.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    fn facts(&mut self, vtep: Option<IpAddr>) -> Result<HostFacts, KernelError>;

    /// What it holds of ours. `desired` tells which sandboxes to look into and what the firewall is compared with.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    fn observe(&mut self, desired: &Desired) -> Result<Observed, KernelError>;

    /// Carries out steps in their order, also after one has failed, and tells how each went.
    fn execute(&mut self, steps: &[Step]) -> Vec<Result<(), KernelError>>;
}
