//! The page as HTML: a pure function of what is known. Names come from users; the templates escape every text.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use pontoon_proto::{ShortName, v1};

/// How it looks.
const STYLE: &str = include_str!("page.css");
/// A browser loads the page again after so many seconds.
const REFRESH_S: u32 = 5;
/// Rows that a table shows at most: what a browser shows at once, every few seconds.
pub(super) const MOST: usize = 1000;

/// What the page shows.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Name of this node.
    pub(super) node: String,
    /// When this is, in milliseconds since the Unix epoch.
    pub(super) now_ms: u64,
    /// This daemon and its cluster.
    pub(super) status: v1::StatusResponse,
    /// What the rest is worth; none in no cluster.
    pub(super) freshness: Option<v1::Freshness>,
    /// Networks, by id.
    pub(super) networks: Vec<v1::NetworkView>,
    /// Endpoints of all networks, by id.
    pub(super) endpoints: Vec<v1::EndpointView>,
    /// Leases, by network and address.
    pub(super) leases: Vec<v1::LeaseView>,
}

/// The whole page.
pub(super) fn page(view: &View) -> String {
    let status = &view.status;
    let html = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="refresh" content=(REFRESH_S);
                title { (view.node) " – Pontoon" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Pontoon" }
                    p { "on node " strong { (view.node) } ", at " (time(view.now_ms)) }
                }
                main {
                    (banner(view.freshness.as_ref()))
                    (warnings(&status.warnings))
                    @if status.cluster_id.is_empty() {
                        (no_cluster())
                    } @else {
                        (cluster(status, is_old(view)))
                        (nodes(status))
                        (networks(&view.networks))
                        (containers(view))
                        (leases(&view.leases))
                    }
                    (tasks(&status.tasks))
                }
                footer { "pontoond " (status.version) " – loaded again every " (REFRESH_S) " s" }
            }
        }
    };
    html.into_string()
}

/// Whether there may be later writes than this shows.
fn is_old(view: &View) -> bool {
    view.freshness.as_ref().is_some_and(|freshness| !freshness.linearizable)
}

/// What an answer is worth, when it may lack something.
fn banner(freshness: Option<&v1::Freshness>) -> Markup {
    let Some(freshness) = freshness.filter(|freshness| !freshness.linearizable) else { return html! {} };
    html! {
        p.notice.stale {
            "This is the node's own copy as of index " (freshness.applied_index) ", " (time(freshness.applied_ms))
            "; later writes are missing: " (freshness.reason)
        }
    }
}

fn warnings(warnings: &[String]) -> Markup {
    html! {
        @if !warnings.is_empty() {
            ul.notice { @for warning in warnings { li { (warning) } } }
        }
    }
}

fn no_cluster() -> Markup {
    html! {
        section {
            h2 { "No cluster" }
            p { "This node is in no cluster yet. On this host," }
            dl {
                dt { code { "pontoon init --advertise ADDR" } }
                dd { "makes a cluster; ADDR is where other hosts reach this one" }
                dt { code { "pontoon join TOKEN" } }
                dd { "enters the cluster that pontoon token create there made TOKEN for" }
            }
        }
    }
}

fn cluster(status: &v1::StatusResponse, is_old: bool) -> Markup {
    let voters = status.members.iter().filter(|member| member.voter).count();
    html! {
        section {
            h2 { "Cluster" }
            dl {
                dt { "Leader" }
                dd {
                    @match status.leader {
                        0 => strong.bad { "none known: nothing can be written" },
                        id => { strong { (node_name(status, id)) } @if id == status.node_id { ", this node" } @if is_old { ", as last known" } }
                    }
                }
                dt { "Quorum" }
                dd {
                    (status.quorum) " of " (counted(voters, "voter")) "; "
                    @if is_old { strong.bad { "not reached now" } } @else { (losses(status.tolerates)) }
                }
                dt { "Term" }
                dd { (status.term) }
                dt { "Applied" }
                dd { "index " (status.applied_index) ", written " (time(status.applied_ms)) }
                dt { "Cluster" }
                dd { code { (status.cluster_id) } }
                dt { "This node" }
                dd { (node_name(status, status.node_id)) " (id " (status.node_id) ")" }
            }
        }
    }
}

fn losses(tolerates: u32) -> Markup {
    html! {
        @match tolerates {
            0 => "none may fail",
            more => { (more) " more may fail" }
        }
    }
}

fn node_name(status: &v1::StatusResponse, id: u64) -> String {
    let node = status.members.iter().filter_map(|member| member.node.as_ref()).find(|node| node.id == id);
    node.map_or_else(|| format!("id {id}"), |node| node.name.clone())
}

fn nodes(status: &v1::StatusResponse) -> Markup {
    let row = |member: &v1::Member| {
        let node = member.node.as_ref()?;
        Some(html! {
            td { (node.name) @if node.id == status.node_id { span.quiet { " (this node)" } } }
            td { (state(&node.state())) }
            td { (member.role()) }
            td { (node.advertise) }
            td { (node.data_addr) }
            td { (or_none(&node.version)) }
        })
    };
    let headings = ["Name", "State", "Role", "Address", "VTEP", "Version"];
    html! {
        section id="nodes" {
            h2 { "Nodes" }
            (table(&headings, &status.members, row, "node ls"))
        }
    }
}

fn networks(networks: &[v1::NetworkView]) -> Markup {
    let row = |view: &v1::NetworkView| {
        let network = view.network.as_ref()?;
        Some(html! {
            td { (network.name) }
            td { (network.id) }
            td { (network.vni) }
            td { (lines(network.subnets.iter().map(|subnet| subnet.cidr.as_str()))) }
            td { (network.mtu) }
            td { (view.endpoints) }
            td { @if network.internal { "yes" } @else { "no" } }
        })
    };
    let headings = ["Name", "Id", "VNI", "Subnets", "MTU", "Containers", "Internal"];
    html! {
        section id="networks" {
            h2 { "Networks" }
            (table(&headings, networks, row, "network ls"))
        }
    }
}

fn containers(view: &View) -> Markup {
    let row = |view: &&v1::EndpointView| {
        let endpoint = view.endpoint.as_ref()?;
        Some(html! {
            td { (endpoint.name) }
            td { (lines(endpoint.addresses.iter().map(String::as_str))) }
            td { (endpoint.mac) }
            td { (view.node_name) }
            td { (view.vtep) }
            td { (state(&endpoint.state())) }
        })
    };
    let of_network = |id: u64| -> Vec<_> {
        let is_on = |view: &&v1::EndpointView| view.endpoint.as_ref().is_some_and(|endpoint| endpoint.network == id);
        view.endpoints.iter().filter(is_on).collect()
    };
    let headings = ["Name", "Addresses", "MAC", "Node", "VTEP", "State"];
    let used = view.networks.iter().filter(|view| view.endpoints > 0).filter_map(|view| view.network.as_ref());
    html! {
        section id="containers" {
            h2 { "Containers" }
            @if view.endpoints.is_empty() { p.quiet { "none" } }
            @for network in used {
                h3 { (network.name) }
                (table(&headings, &of_network(network.id), row, &format!("network inspect {}", network.name)))
            }
        }
    }
}

fn leases(leases: &[v1::LeaseView]) -> Markup {
    let row = |view: &v1::LeaseView| {
        let lease = view.lease.as_ref()?;
        Some(html! {
            td { (lease.address) }
            td { (view.network_name) }
            td { (state(&lease.state())) }
            td { (or_none(&lease.name)) }
            td { (or_none(&view.node_name)) }
            td { (time(lease.since_ms)) }
        })
    };
    let headings = ["Address", "Network", "State", "Name", "Node", "Since"];
    html! {
        section id="leases" {
            h2 { "Leases" }
            (table(&headings, leases, row, "lease ls"))
        }
    }
}

fn tasks(tasks: &[v1::TaskStatus]) -> Markup {
    let row = |task: &v1::TaskStatus| {
        Some(html! {
            td { (task.name) }
            td { (state(&task.state())) }
            td { (task.runs) }
            td { (task.failures) }
            td { (time(task.last_run_ms)) }
            td.text { (or_none(&task.last_error)) }
        })
    };
    let headings = ["Name", "State", "Runs", "Failures", "Last run", "Last error"];
    html! {
        section id="tasks" {
            h2 { "Background tasks" }
            (table(&headings, tasks, row, "status"))
        }
    }
}

/// A row for each thing, under headings. Of very many only the first are shown, and which command shows them all.
fn table<T>(headings: &[&str], things: &[T], row: impl Fn(&T) -> Option<Markup>, command: &str) -> Markup {
    html! {
        @if things.is_empty() {
            p.quiet { "none" }
        } @else {
            div.table {
                table {
                    thead { tr { @for heading in headings { th scope="col" { (heading) } } } }
                    tbody { @for row in things.iter().take(MOST).filter_map(row) { tr { (row) } } }
                }
            }
        }
        @if things.len() > MOST {
            p.quiet { "and " (things.len() - MOST) " more: " code { "pontoon " (command) } " shows them" }
        }
    }
}

/// The name of a state, with a colour.
fn state(value: &impl ShortName) -> Markup {
    let name = value.short_name();
    html! { span.state.(name) { (name) } }
}

fn lines<'a>(texts: impl Iterator<Item = &'a str>) -> Markup {
    html! { @for text in texts { div { (text) } } }
}

/// A point in time, RFC 3339 in UTC.
fn time(ms: u64) -> Markup {
    let time = i64::try_from(ms).ok().filter(|&ms| ms != 0).and_then(|ms| Timestamp::from_millisecond(ms).ok());
    html! {
        @match time {
            Some(time) => { time { (format_args!("{time:.0}")) } },
            None => "–",
        }
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "–" } else { text }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
