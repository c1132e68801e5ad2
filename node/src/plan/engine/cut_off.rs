//! Containers that do not run, and whose network was removed under them.

use super::{EnginePlan, SeenAttachment, SeenContainer, SeenNetwork, Step, View};

impl View<'_> {
    /// `docker network rm` takes a network that only containers are on that do not run. It is made again under another id,
    /// and they speak of the old one: they could not be started. Those of a network of the cluster are put on it
    /// again; whose it was in other cases, somebody else has to know.
    pub(super) fn plan_cut_off(&self, plan: &mut EnginePlan) {
        for container in self.seen.containers.iter().filter(|container| container.stopped) {
            for attachment in &container.attachments {
                if let Some(net) = self.made_again(attachment) {
                    self.plan_reconnect(plan, container, attachment, net);
                }
            }
        }
    }

    /// The network of the cluster that has the name of one that is gone.
    fn made_again(&self, attachment: &SeenAttachment) -> Option<&SeenNetwork> {
        if self.seen.networks.iter().any(|net| net.id == attachment.network) {
            return None;
        }
        let named = self.here.iter().filter(|(id, _)| self.state.networks.get(id).is_some_and(|net| !net.provisional));
        named.map(|(_, net)| *net).find(|net| net.name == attachment.name)
    }

    fn plan_reconnect(
        &self,
        plan: &mut EnginePlan,
        container: &SeenContainer,
        attachment: &SeenAttachment,
        net: &SeenNetwork,
    ) {
        if self.seen.past.contains(&attachment.network) {
            plan.steps.push(Step::Reconnect {
                name: net.name.clone(),
                container_id: container.id.clone(),
                container: container.name.clone(),
            });
            return;
        }
        plan.problems.push(format!(
            "container {} cannot be started: the network {} that it was on is gone, and the cluster's has its name: put it \
             on that one (docker network disconnect --force {1} {0}; docker network connect {1} {0}, with its --ip and \
             --alias), or remove it",
            container.name, net.name
        ));
    }
}
