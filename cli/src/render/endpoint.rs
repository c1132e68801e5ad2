//! Endpoints: `attach`, `detach`, and the containers in an `inspect`.

use pontoon_proto::v1::{AttachResponse, DetachResponse, EndpointState, EndpointView};

use super::{list, name, or_none, table};

/// The interfaces of a namespace that was attached.
pub(crate) fn attached(answer: &AttachResponse) -> String {
    let EndpointView { endpoint, network_name, .. } = answer.endpoint.clone().unwrap_or_default();
    let endpoint = endpoint.unwrap_or_default();
    let mut rows =
        vec![[endpoint.name.clone(), network_name, endpoint.ifname, list(&endpoint.addresses), or_none(&endpoint.mac)]];
    if !answer.egress_addresses.is_empty() {
        let ifname = endpoint.egress.unwrap_or_default().ifname;
        let addresses = list(&answer.egress_addresses);
        rows.push([endpoint.name, "(egress)".to_owned(), or_none(&ifname), addresses, or_none("")]);
    }
    table(&["NAME", "NETWORK", "INTERFACE", "ADDRESS", "MAC"], rows)
}

/// What was detached: one line for each, the container and the network.
pub(crate) fn detached(answer: &DetachResponse) -> String {
    let lines = answer.endpoints.iter().map(|view| {
        let endpoint = view.endpoint.clone().unwrap_or_default();
        format!("{} {}\n", endpoint.name, view.network_name)
    });
    lines.collect()
}

/// The containers of a network.
pub(super) fn on_network(endpoints: &[EndpointView]) -> String {
    let rows = endpoints.iter().map(|view| {
        let endpoint = view.endpoint.clone().unwrap_or_default();
        let (address, state) = (list(&endpoint.addresses), name::<EndpointState>(endpoint.state));
        let ports = list(&endpoint.ports);
        [endpoint.name, address, endpoint.mac, view.node_name.clone(), view.vtep.clone(), state, ports]
    });
    table(&["NAME", "ADDRESS", "MAC", "NODE", "VTEP", "STATE", "PORTS"], rows)
}

/// The containers of a node.
pub(super) fn on_node(endpoints: &[EndpointView]) -> String {
    let rows = endpoints.iter().map(|view| {
        let endpoint = view.endpoint.clone().unwrap_or_default();
        let (address, state) = (list(&endpoint.addresses), name::<EndpointState>(endpoint.state));
        let netns = endpoint.sandbox.unwrap_or_default().netns;
        [endpoint.name, view.network_name.clone(), address, endpoint.mac, endpoint.ifname, state, or_none(&netns)]
    });
    table(&["NAME", "NETWORK", "ADDRESS", "MAC", "INTERFACE", "STATE", "NAMESPACE"], rows)
}
