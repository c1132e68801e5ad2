//! The real kernel.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::KernelError;
use super::execute::Run;
use super::facts;
use pontoon_store::model::object::Family;
use serde_json::Value;

use super::firewall::{self, Table};
use super::generation::Ruleset;
use super::link;
use super::netns::{self, DIRECTORY, Namespace};
use super::observe::{self, Observer};
use super::socket::Netlink;
use super::{Kernel, sysctl};
use crate::plan::desired::{Desired, Names};
use crate::plan::diff::{Step, plan};
use crate::plan::object::{DockerUser, Firewall, Forwarding, Key, Namespace as OurNamespace, Object, Vxlan};
use crate::plan::observed::{HostFacts, Observed};

/// The kernel of the host that it was opened on: the network namespace of the thread that opened it. Every call has to
/// come from a thread in that namespace.
pub struct Linux {
    pub(super) names: Names,
    pub(super) host: Netlink,
    pub(super) table: Table,
    /// Our own namespace, held open: its file may go, it stays.
    overlay: Option<Namespace>,
    ruleset: Ruleset,
    /// The rules as they were listed last, and the generation that they are of: running nft is the slowest part of a pass.
    rules: Option<(u32, Arc<Rules>)>,
    /// What our table was found to be when they were compared with it last; none when they were not, or it was altered.
    in_force: Option<Firewall>,
    /// What our rules in Docker's chain said after they were written last: another version of nft may show them in other
    /// words.
    docker: Option<Vec<Value>>,
    /// Interfaces whose forwarding this process knows to be on because of us: the table, which is the lasting record of them,
    /// may be deleted by somebody else.
    pub(super) opened: BTreeSet<(Family, String)>,
}

/// Rules as nft lists them.
struct Rules {
    /// Our table; none when there is none.
    table: Option<Vec<Value>>,
    /// Our rules in Docker's chain; none when there is no such chain.
    docker: Option<Vec<Value>>,
}

impl fmt::Debug for Linux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linux").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Linux {
    /// Opens the kernel.
    ///
    /// # Errors
    /// When there are no netlink sockets to be had.
    pub fn open(names: Names) -> Result<Self, KernelError> {
        let host = Netlink::open().map_err(|e| KernelError::netlink("open a netlink socket")(e.into()))?;
        let ruleset = Ruleset::open().map_err(|e| KernelError::netlink("open a netfilter socket")(e.into()))?;
        let table = Table::new(names.table());
        Ok(Self {
            names,
            host,
            table,
            overlay: None,
            ruleset,
            rules: None,
            in_force: None,
            docker: None,
            opened: BTreeSet::new(),
        })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(DIRECTORY).join(&self.names.netns)
    }

    pub(super) fn overlay(&mut self) -> Result<&mut Namespace, KernelError> {
        self.overlay.as_mut().ok_or_else(|| KernelError::NoOverlay(self.names.netns.clone()))
    }

    /// Takes up our namespace where an earlier daemon has left it.
    fn adopt(&mut self) -> Result<(), KernelError> {
        if self.overlay.is_some() {
            return Ok(());
        }
        match Namespace::open(&self.path()) {
            Ok(namespace) if namespace.is_at(&PathBuf::from("/proc/thread-self/ns/net")) => {
                Err(KernelError::Impossible(format!(
                    "{} names the host's own network namespace; name another with --netns",
                    self.path().display()
                )))
            }
            Ok(mut namespace) => {
                self.require_ours(&mut namespace)?;
                self.overlay = Some(namespace);
                Ok(())
            }
            // No file, or one that names nothing: made anew.
            Err(KernelError::NoNamespace { .. }) => Ok(()),
            Err(KernelError::Namespace { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Refuses a namespace of our name that somebody else uses: it would be taken apart on `pontoon leave`. One without
    /// interfaces that are up can be taken; the kernel makes some that are down in each namespace.
    fn require_ours(&self, namespace: &mut Namespace) -> Result<(), KernelError> {
        let links = link::list(&mut namespace.netlink);
        let links = links.map_err(KernelError::netlink(format!("list the links in {}", self.path().display())))?;
        let marked = links.iter().any(|link| link.is_bridge_of(self.names.group()));
        let foreign = |l: &&link::Link| l.up && !l.loopback && !observe::is_our_name(&self.names, &l.name);
        match links.iter().find(foreign) {
            Some(link) if !marked => Err(KernelError::Impossible(format!(
                "the network namespace {} is in use by somebody else: it has the interface {}, and nothing of Pontoon's; \
                 name another with --netns, or remove that one",
                self.path().display(),
                link.name
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn put_namespace(&mut self) -> Result<(), KernelError> {
        let path = self.path();
        match &self.overlay {
            Some(namespace) => namespace.mount(&path),
            None => {
                self.overlay = Some(Namespace::create(&path)?);
                Ok(())
            }
        }
    }

    pub(super) fn remove_namespace(&mut self) -> Result<(), KernelError> {
        self.overlay = None;
        netns::remove(&self.path())
    }

    pub(super) fn write_firewall(&mut self, firewall: &Firewall) -> Result<(), KernelError> {
        let before = self.rules.take();
        let listed = self.table.write(firewall)?;
        // What was opened before and is not to be any more, an earlier step has closed.
        self.opened.clone_from(&firewall.opened);
        let Some((generation, rules)) = before else { return Ok(()) };
        // Nothing else has changed since they were listed: they need not be listed again.
        let next = generation.wrapping_add(1);
        if self.generation()? == next {
            let rules = Rules { table: listed, docker: rules.docker.clone() };
            self.rules = Some((next, Arc::new(rules)));
            self.in_force = Some(firewall.clone());
        } else {
            self.table.forget();
        }
        Ok(())
    }

    pub(super) fn write_docker_rules(&mut self, gateway: Option<&str>) -> Result<(), KernelError> {
        let mark = self.names.mark();
        firewall::write_docker_rules(&mark, gateway)?;
        let shown = firewall::docker_rules(&mark)?;
        self.docker = shown.filter(|_| gateway.is_some()).map(|rules| firewall::expressions(&rules));
        Ok(())
    }

    pub(super) fn remove_firewall(&mut self) -> Result<(), KernelError> {
        self.opened.clear();
        self.table.remove()
    }

    pub(super) fn add_vxlan(&mut self, vxlan: &Vxlan) -> Result<(), KernelError> {
        let overlay = self.overlay.as_ref().ok_or_else(|| KernelError::NoOverlay(self.names.netns.clone()))?;
        let result = link::add_vxlan(&mut self.host, overlay, vxlan);
        result.map_err(|refusal| match refusal.errno {
            libc::EEXIST => {
                KernelError::VniTaken { device: vxlan.name.clone(), vni: vxlan.vni.get(), port: vxlan.tunnel.port }
            }
            _ => KernelError::netlink(format!("create VXLAN device {}", vxlan.name))(refusal),
        })
    }

    fn generation(&mut self) -> Result<u32, KernelError> {
        self.ruleset.generation().map_err(|e| KernelError::netlink("ask whether rules have changed")(e.into()))
    }

    /// The rules that are in force: listed again only when some have changed since.
    fn rules(&mut self) -> Result<Arc<Rules>, KernelError> {
        let generation = self.generation()?;
        if let Some((_, rules)) = self.rules.as_ref().filter(|(of, _)| *of == generation) {
            return Ok(rules.clone());
        }
        // What changes while they are listed has a later generation, and has them listed again.
        let docker = firewall::docker_rules(&self.names.mark())?;
        let rules = Arc::new(Rules { table: self.table.list()?, docker });
        self.rules = Some((generation, rules.clone()));
        self.in_force = None;
        Ok(rules)
    }

    /// Removes everything of ours and nothing else: our namespace and with it the containers' interfaces, the gateway bridge,
    /// the rules, and the forwarding that we switched on. Steps that fail are told; the others are carried out.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn remove_all(&mut self) -> Result<Vec<KernelError>, KernelError> {
        // First what is in the namespace: the kernel takes it apart some time after its last user is gone, and the
        // containers' interfaces would stay for as long.
        let mut empty = Desired::default();
        empty.insert(Object::Namespace(OurNamespace { mounted: true }));
        let mut outcomes = Vec::new();
        for nothing in [empty, Desired::default()] {
            let observed = self.observe(&nothing)?;
            outcomes.extend(self.execute(&plan(&nothing, &observed)));
        }
        Ok(outcomes.into_iter().filter_map(Result::err).collect())
    }
}

impl Kernel for Linux {
    fn facts(&mut self, vtep: Option<IpAddr>) -> Result<HostFacts, KernelError> {
        let rules = self.rules()?;
        self.opened.extend(firewall::opened(rules.table.as_deref().unwrap_or_default()));
        facts::gather(&mut self.host, &self.names, self.opened.clone(), rules.docker.is_some(), vtep)
    }

    fn observe(&mut self, desired: &Desired) -> Result<Observed, KernelError> {
        self.adopt()?;
        let (path, rules) = (self.path(), self.rules()?);
        let mut observer = Observer::new(&self.names, desired);
        if let Some(overlay) = &mut self.overlay {
            observer.insert(Object::Namespace(OurNamespace { mounted: overlay.is_at(&path) }));
            observer.overlay(&mut overlay.netlink)?;
        }
        observer.host(&mut self.host)?;
        for sandbox in desired.sandboxes.keys() {
            observer.sandbox(sandbox);
        }
        if let Some(listed) = &rules.table {
            let known = self.in_force.take().filter(|known| desired.firewall() == Some(known));
            let seen = known.unwrap_or_else(|| self.table.compare(listed, desired.firewall()));
            self.in_force = seen.altered.is_none().then(|| seen.clone());
            observer.insert(Object::Firewall(Box::new(seen)));
        }
        if let Some(docker) = rules.docker.as_deref().filter(|rules| !rules.is_empty()) {
            let gateway = self.names.gateway.clone();
            let complete = firewall::docker_rules_complete(docker, &gateway, self.docker.as_deref());
            observer.insert(Object::DockerUser(DockerUser { gateway, complete }));
        }
        let wanted = desired.objects.keys().filter_map(|key| match key {
            Key::Forwarding(family, ifname) => Some((*family, ifname.clone())),
            _ => None,
        });
        self.opened.extend(firewall::opened(rules.table.as_deref().unwrap_or_default()));
        for (family, ifname) in self.opened.iter().cloned().chain(wanted) {
            let theirs = ifname == self.names.gateway && !observer.has_gateway();
            if !theirs && sysctl::forwards(family, &ifname)? {
                observer.insert(Object::Forwarding(Forwarding { family, ifname }));
            }
        }
        Ok(observer.finish())
    }

    fn execute(&mut self, steps: &[Step]) -> Vec<Result<(), KernelError>> {
        Run::new(self).all(steps)
    }
}
