//! The API server, the nodes and the clocks. No IO.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeCondition};

use super::archive::ArchiveSummary;
use super::facts::{Clocks, Facts};
use super::report::{Check, Findings};
use super::runtime::{Version, architecture, is_linux, name_of, not_read};
use crate::bootstrap::text::{clean, count, names};

/// The oldest version of Kubernetes that is supported (docs/install.md).
const OLDEST: Version = Version(1, 30);
/// The newest version that the tests run.
const NEWEST: Version = Version(1, 36);
/// Conditions of a node that must not be true.
const PRESSURES: [&str; 4] = ["DiskPressure", "MemoryPressure", "PIDPressure", "NetworkUnavailable"];
/// How far clocks may differ before it is said, in seconds.
const SKEW: i64 = 60;
/// How far they may differ before certificates and tokens are refused, in seconds.
const LARGE_SKEW: i64 = 600;
/// How often a kubelet renews its Lease at the least, in seconds (`nodeLeaseDurationSeconds`).
const LEASE: i64 = 40;

/// The version of Kubernetes.
pub(super) fn version(facts: &Facts) -> Check {
    const NAME: &str = "kubernetes-version";
    let text = match &facts.version {
        Ok(text) => clean(text, 60),
        Err(unread) => return not_read(NAME, "the version", unread),
    };
    match Version::parse(&text) {
        None => Check::warning(
            NAME,
            format!("the API server says {text}"),
            format!("see that it is {OLDEST} or newer"),
        ),
        Some(version) if version < OLDEST => Check::failure(
            NAME,
            format!("{text}; {OLDEST} or newer is required"),
            format!("upgrade Kubernetes to {OLDEST} or newer"),
        ),
        Some(version) if version > NEWEST => Check::ok(NAME, format!("{text}, newer than the tested {NEWEST}")),
        Some(_) => Check::ok(NAME, text),
    }
}

/// Whether all nodes are ready.
pub(super) fn nodes(facts: &Facts) -> Check {
    const NAME: &str = "nodes";
    let nodes = match &facts.nodes {
        Ok(nodes) => nodes,
        Err(unread) => return not_read(NAME, "nodes", unread),
    };
    let ready = |node: &&Node| condition(node, "Ready").is_some_and(|condition| condition.status == "True");
    let (windows, linux): (Vec<&Node>, Vec<&Node>) = nodes.iter().partition(|node| !is_linux(node));
    let (up, down): (Vec<&Node>, Vec<&Node>) = linux.into_iter().partition(ready);
    if up.is_empty() {
        return Check::failure(
            NAME,
            format!("none of {} is Ready", count(down.len(), "node")),
            "a node needs a container runtime and a network plugin before it is Ready; see: kubectl describe node",
        );
    }
    let mut findings = Findings::default();
    let more = if facts.more_nodes {
        ", and more that were not read"
    } else {
        ""
    };
    findings.ok(format!("{} Ready{more}", count(up.len(), "node")));
    if !down.is_empty() {
        let reasons: Vec<String> = down.iter().map(|node| not_ready(node)).collect();
        findings.warning(
            format!("not Ready: {}", names(&reasons)),
            "these nodes get the images when they are Ready and bootstrap is repeated; repair them, or delete their Node objects",
        );
    }
    let cordoned = |node: &&&Node| node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let cordoned: Vec<String> = up.iter().filter(cordoned).map(|node| name_of(node)).collect();
    if !cordoned.is_empty() {
        findings.ok(format!("cordoned: {}", names(&cordoned)));
    }
    if !windows.is_empty() {
        let windows: Vec<String> = windows.into_iter().map(name_of).collect();
        findings.warning(
            format!("Windows: {}", names(&windows)),
            "the operator serves Linux nodes only; nodes with Windows pull nothing from its registry",
        );
    }
    findings.check(NAME, "no node")
}

fn not_ready(node: &Node) -> String {
    let name = name_of(node);
    match condition(node, "Ready").and_then(|condition| condition.reason.as_deref()) {
        Some(reason) => format!("{name} ({})", clean(reason, 40)),
        None => name,
    }
}

fn condition<'n>(node: &'n Node, kind: &str) -> Option<&'n NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether nodes lack disk, memory, processes or a network.
pub(super) fn pressures(facts: &Facts) -> Check {
    const NAME: &str = "node-conditions";
    let nodes = match &facts.nodes {
        Ok(nodes) => nodes,
        Err(unread) => return not_read(NAME, "nodes", unread),
    };
    let mut findings = Findings::default();
    for kind in PRESSURES {
        let under = nodes
            .iter()
            .filter(|node| condition(node, kind).is_some_and(|condition| condition.status == "True"));
        let under: Vec<String> = under.map(name_of).collect();
        match (under.as_slice(), kind) {
            ([], _) => {}
            (nodes, "DiskPressure") => findings.failure(
                format!("DiskPressure on {}", names(nodes)),
                "free space on these nodes: the kubelet evicts pods there and deletes images",
            ),
            (nodes, "NetworkUnavailable") => findings.failure(
                format!("NetworkUnavailable on {}", names(nodes)),
                "install the network plugin, or see why it does not run",
            ),
            (nodes, kind) => findings.warning(
                format!("{kind} on {}", names(nodes)),
                "the kubelet may evict pods on these nodes",
            ),
        }
    }
    findings.check(NAME, &format!("no node has {}", PRESSURES.join(", ")))
}

/// Whether the operator's image in the archive has the architecture of each node.
pub(super) fn architectures(facts: &Facts, archive: &ArchiveSummary) -> Check {
    const NAME: &str = "architectures";
    let nodes = match &facts.nodes {
        Ok(nodes) => nodes,
        Err(unread) => return not_read(NAME, "nodes", unread),
    };
    let mut by_architecture: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in nodes.iter().filter(|node| is_linux(node)) {
        let architecture = architecture(node).map_or_else(|| "unknown".to_owned(), |text| clean(text, 20));
        by_architecture.entry(architecture).or_default().push(name_of(node));
    }
    let mut findings = Findings::default();
    for (architecture, nodes) in by_architecture {
        let place = format!("{architecture} ({})", names(&nodes));
        for (what, image) in [("operator", &archive.operator), ("registry", &archive.registry)] {
            let Some(image) = image else { continue };
            let has = image.architectures.is_empty() || image.architectures.contains(&architecture);
            match has {
                true if what == "operator" => findings.ok(format!("{place}: in the archive")),
                true => {}
                false => findings.failure(
                    format!(
                        "{place}: the {what}'s image of the archive has {}",
                        image.architectures.join(", ")
                    ),
                    format!("pack the {what}'s image with the platform linux/{architecture}, too"),
                ),
            }
        }
    }
    findings.check(NAME, "no node")
}

/// Whether the clocks of this machine, the API server and the nodes agree.
pub(super) fn clocks(facts: &Facts) -> Check {
    const NAME: &str = "clock";
    let Some(clocks) = facts.clocks else {
        return Check::warning(
            NAME,
            "the API server's answers have no Date",
            "compare the clocks of this machine and of the nodes yourself",
        );
    };
    let mut findings = Findings::default();
    match skew(clocks) {
        0 => findings.ok("this machine and the API server agree"),
        seconds => {
            let found = format!(
                "the API server is {} s {} this machine",
                seconds.unsigned_abs(),
                if seconds > 0 { "ahead of" } else { "behind" }
            );
            match seconds.abs() {
                0..=SKEW => findings.ok(found),
                61..=LARGE_SKEW => findings.warning(found, "set the clocks by NTP"),
                _ => findings.failure(
                    found,
                    "set the clock of this machine or of the control plane: certificates that bootstrap makes would not be valid \
                     there",
                ),
            }
        }
    }
    judge_leases(facts, clocks, &mut findings);
    findings.check(NAME, "no node")
}

/// How far the API server is ahead of this machine, in seconds; zero where the time of the request explains it.
fn skew(clocks: Clocks) -> i64 {
    match clocks.server {
        server if server > clocks.received => server - clocks.received,
        // The answer's time is a whole second, which began before.
        server if server < clocks.sent - 1 => server - clocks.sent,
        _ => 0,
    }
}

/// Compares the times that kubelets wrote into their Leases with the clock of the API server.
fn judge_leases(facts: &Facts, clocks: Clocks, findings: &mut Findings) {
    let Ok(leases) = &facts.leases else {
        return findings.ok("the Leases of nodes may not be read");
    };
    let ready: Vec<String> = facts
        .nodes
        .as_deref()
        .unwrap_or_default()
        .iter()
        .filter(|node| condition(node, "Ready").is_some_and(|condition| condition.status == "True"))
        .map(name_of)
        .collect();
    let (mut off, mut far) = (Vec::new(), Vec::new());
    for lease in leases {
        let name = clean(lease.metadata.name.as_deref().unwrap_or_default(), 253);
        let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
        let Some(renewed) = renewed.filter(|_| ready.contains(&name)) else {
            continue;
        };
        // How far the node's clock is ahead; a kubelet that renewed at the earliest time explains the rest.
        let ahead = renewed.0.as_second().saturating_sub(clocks.server);
        let behind = clocks
            .server
            .saturating_sub(renewed.0.as_second())
            .saturating_sub(LEASE);
        let seconds = ahead.max(behind);
        let text = format!("{name} {seconds} s {}", if ahead > 0 { "ahead" } else { "behind" });
        match seconds {
            seconds if seconds > LARGE_SKEW => far.push(text),
            seconds if seconds > SKEW => off.push(text),
            _ => {}
        }
    }
    if !far.is_empty() {
        findings.failure(
            format!("clocks of nodes against the API server's: {}", names(&far)),
            "set the clocks of these nodes by NTP: they refuse certificates and tokens",
        );
    }
    if !off.is_empty() {
        findings.warning(
            format!("clocks of nodes against the API server's: {}", names(&off)),
            "set the clocks of these nodes by NTP",
        );
    }
    if off.is_empty() && far.is_empty() {
        findings.ok("nodes agree with the API server");
    }
}
