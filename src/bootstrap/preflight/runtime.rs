//! The container runtimes of nodes. No IO.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Node, NodeSystemInfo};

use super::facts::{Facts, Unread};
use super::report::{Check, Findings};
use crate::bootstrap::install::ADDRESS;
use crate::bootstrap::text::{clean, names};

/// The oldest containerd that is supported.
const CONTAINERD: Version = Version(1, 6);
/// The first containerd whose CRI plugin tries HTTPS on loopback addresses and then HTTP without further settings.
const CONTAINERD_LOOPBACK: Version = Version(2, 2);
/// The first containerd without `registry.mirrors` and `registry.configs`.
const CONTAINERD_HOSTS: Version = Version(2, 0);
/// The first CRI-O that takes loopback addresses for HTTPS like any other host.
const CRIO_LOOPBACK: Version = Version(1, 35);

/// The first two parts of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub u64, pub u64);

impl Version {
    /// Reads `v1.33.1+k3s1`, `1.7.27-k3s1` and the like.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches('v');
        let mut parts = text.split(['.', '-', '+', '~', ' ']);
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        Some(Self(major, minor))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.0, self.1)
    }
}

/// A program that runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Containerd,
    Crio,
    Docker,
    Other,
}

/// The runtime of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Runtime {
    kind: Kind,
    version: Option<Version>,
    text: String,
}

impl Runtime {
    /// What the node says in `nodeInfo.containerRuntimeVersion`; `None` where it says nothing.
    pub fn of(node: &Node) -> Option<Self> {
        let text = &info(node)?.container_runtime_version;
        let (name, version) = text.split_once("://")?;
        Some(Self {
            kind: match name {
                "containerd" => Kind::Containerd,
                "cri-o" => Kind::Crio,
                "docker" => Kind::Docker,
                _ => Kind::Other,
            },
            version: Version::parse(version),
            text: clean(&format!("{name} {version}"), 60),
        })
    }

    /// Whether its version is known and below `version`.
    fn is_before(&self, version: Version) -> bool {
        self.version.is_some_and(|own| own < version)
    }

    /// Why it may not pull by HTTPS with the registry's own certificate from 127.0.0.1; `None` where it does.
    pub fn loopback_refusal(&self, node: &Node) -> Option<String> {
        match self.kind {
            Kind::Docker => None,
            Kind::Containerd if !self.is_before(CONTAINERD_LOOPBACK) || configures_hosts(node) => None,
            Kind::Containerd => Some(format!(
                "containerd before {CONTAINERD_LOOPBACK} tries HTTPS on 127.0.0.1 only with config_path set for its registries"
            )),
            Kind::Crio if self.version.is_none_or(|own| own >= CRIO_LOOPBACK) => Some(format!(
                "CRI-O since {CRIO_LOOPBACK} verifies certificates on 127.0.0.1 too"
            )),
            Kind::Crio => None,
            Kind::Other => Some(format!("how {} reaches a registry on 127.0.0.1 is unknown", self.text)),
        }
    }
}

/// Whether the distribution of the node sets `config_path` for containerd's registries: k3s and RKE2.
fn configures_hosts(node: &Node) -> bool {
    let kubelet = info(node).map(|info| info.kubelet_version.as_str());
    kubelet.is_some_and(|version| version.contains("+k3s") || version.contains("+rke2"))
}

fn info(node: &Node) -> Option<&NodeSystemInfo> {
    node.status.as_ref()?.node_info.as_ref()
}

/// The name of a node.
pub(super) fn name_of(node: &Node) -> String {
    clean(node.metadata.name.as_deref().unwrap_or_default(), 253)
}

/// Whether pods of Linux run on the node.
pub(super) fn is_linux(node: &Node) -> bool {
    info(node).is_none_or(|info| info.operating_system != "windows")
}

/// The architecture of the node, as Go names it.
pub(super) fn architecture(node: &Node) -> Option<&str> {
    let architecture = info(node)?.architecture.as_str();
    (!architecture.is_empty()).then_some(architecture)
}

/// Whether the container runtimes are supported, and what they need for a registry on the loopback address.
pub(super) fn runtimes(facts: &Facts) -> Check {
    const NAME: &str = "container-runtime";
    let nodes = match &facts.nodes {
        Ok(nodes) => nodes,
        Err(unread) => return not_read(NAME, "nodes", unread),
    };
    let mut by_text: BTreeMap<String, (Option<Runtime>, Vec<String>)> = BTreeMap::new();
    for node in nodes.iter().filter(|node| is_linux(node)) {
        let runtime = Runtime::of(node);
        let text = runtime.as_ref().map_or("unknown", |runtime| &runtime.text).to_owned();
        by_text
            .entry(text)
            .or_insert_with(|| (runtime, Vec::new()))
            .1
            .push(name_of(node));
    }
    let mut findings = Findings::default();
    for (text, (runtime, nodes)) in by_text {
        let found = format!("{text} on {}", names(&nodes));
        let Some(runtime) = runtime else {
            findings.warning(found, "see why the kubelet reports no container runtime");
            continue;
        };
        judge_runtime(&runtime, found, &mut findings);
    }
    findings.check(NAME, "no node")
}

fn judge_runtime(runtime: &Runtime, found: String, findings: &mut Findings) {
    match runtime.kind {
        Kind::Containerd if runtime.is_before(CONTAINERD) => findings.failure(
            format!("{found}: it is not supported"),
            format!("upgrade containerd to {CONTAINERD} or newer"),
        ),
        Kind::Containerd if runtime.version.is_none() => {
            findings.warning(found, "the version of containerd cannot be read; it must be 1.6 or newer");
        }
        Kind::Containerd if !runtime.is_before(CONTAINERD_HOSTS) => {
            findings.ok(format!("{found}, which reads hosts.toml below config_path"));
        }
        Kind::Crio if runtime.version.is_none_or(|own| own >= CRIO_LOOPBACK) => findings.warning(
            format!("{found}: it takes 127.0.0.1 for HTTPS and verifies the certificate"),
            format!(
                "write [[registry]] location = \"{ADDRESS}\" insecure = true into a file of /etc/containers/registries.conf.d on \
                 each node, and reload CRI-O"
            ),
        ),
        Kind::Other => findings.warning(
            format!("{found}: it was not tested"),
            format!("see that it pulls from {ADDRESS}"),
        ),
        Kind::Containerd | Kind::Crio | Kind::Docker => findings.ok(found),
    }
}

/// The check `name` where `what` was not read.
pub(super) fn not_read(name: &'static str, what: &str, unread: &Unread) -> Check {
    match unread {
        Unread::Forbidden => Check::warning(
            name,
            format!("the user of the kubeconfig may not read {what}"),
            format!("let the user get and list {what}, or see to it yourself"),
        ),
        Unread::Absent => Check::warning(
            name,
            format!("the API server does not have {what}"),
            "see that this is an API server of Kubernetes",
        ),
        Unread::Failed(message) => Check::warning(
            name,
            format!("{what} cannot be read: {message}"),
            "run the command again",
        ),
    }
}
