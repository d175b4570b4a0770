//! How a cluster serves NodePorts, and whether it does on the loopback address of nodes. No IO.

mod sources;

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;

use self::sources::settings_of;
use super::facts::Facts;
use super::report::{Check, Findings};
use super::runtime::{Runtime, is_linux, name_of, not_read};
use crate::bootstrap::install::Expose;
use crate::bootstrap::text::names;

/// What serves NodePorts on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProxyMode {
    /// kube-proxy with iptables, its default.
    Iptables,
    /// kube-proxy with IPVS.
    Ipvs,
    /// kube-proxy with nftables.
    Nftables,
    /// Cilium in place of kube-proxy.
    Cilium,
    /// It cannot be told.
    Unknown,
}

impl ProxyMode {
    fn of_name(name: &str) -> Self {
        match name.trim() {
            // kube-proxy's default on Linux.
            "" | "iptables" => Self::Iptables,
            "ipvs" => Self::Ipvs,
            "nftables" => Self::Nftables,
            _ => Self::Unknown,
        }
    }

    fn shown(self) -> &'static str {
        match self {
            Self::Iptables => "kube-proxy in mode iptables",
            Self::Ipvs => "kube-proxy in mode ipvs",
            Self::Nftables => "kube-proxy in mode nftables",
            Self::Cilium => "Cilium in place of kube-proxy",
            Self::Unknown => "unknown",
        }
    }
}

/// How a node serves NodePorts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ProxySettings {
    mode: ProxyMode,
    /// What says so.
    source: String,
    /// The networks on whose addresses NodePorts are served; empty means all.
    addresses: Vec<String>,
    /// kube-proxy's `iptables.localhostNodePorts`.
    localhost: bool,
}

impl ProxySettings {
    fn unknown(source: &str) -> Self {
        Self {
            mode: ProxyMode::Unknown,
            source: source.to_owned(),
            addresses: Vec::new(),
            localhost: true,
        }
    }

    /// Why 127.0.0.1 serves no NodePorts; `None` where it does.
    fn refusal(&self) -> Option<String> {
        match self.mode {
            ProxyMode::Cilium => None,
            ProxyMode::Iptables if !self.localhost => {
                Some("kube-proxy has iptables.localhostNodePorts: false".to_owned())
            }
            ProxyMode::Iptables if !self.serves_loopback() => Some(format!(
                "kube-proxy serves NodePorts only on {} (nodePortAddresses)",
                names(&self.addresses)
            )),
            ProxyMode::Iptables => None,
            ProxyMode::Ipvs | ProxyMode::Nftables => Some(format!(
                "{} serves no NodePort on loopback addresses",
                self.mode.shown()
            )),
            ProxyMode::Unknown => Some(format!("what serves NodePorts is unknown ({})", self.source)),
        }
    }

    /// As kube-proxy's `NodePortAddresses` does for IPv4: networks of the other family do not count, and no network of the
    /// family means all.
    fn serves_loopback(&self) -> bool {
        let is_primary = self.addresses.iter().any(|address| address == "primary");
        let networks = self
            .addresses
            .iter()
            .filter_map(|address| address.parse::<ipnet::Ipv4Net>().ok());
        let networks: Vec<ipnet::Ipv4Net> = networks.collect();
        let loopback = ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8);
        let holds = |network: &ipnet::Ipv4Net| network.addr().is_loopback() || network.contains(&loopback);
        !is_primary && (networks.is_empty() || networks.iter().any(holds))
    }
}

/// How a Service with a NodePort reaches container runtimes of a cluster: the exposure that works there, and why, where it is not
/// [`Expose::NodePort`].
pub fn recommended_exposure(facts: &Facts) -> (Expose, Vec<String>) {
    let mut reasons: Vec<String> = Vec::new();
    let nodes = facts.nodes.as_deref().unwrap_or_default();
    if facts.nodes.is_err() {
        reasons.push("the nodes may not be read".to_owned());
    }
    if has_only_ipv6(facts) {
        reasons.push("Services have only IPv6 addresses, and NodePorts of IPv6 are not served on ::1".to_owned());
    }
    for node in nodes.iter().filter(|node| is_linux(node)) {
        if let Some(refusal) = settings_of(node, &facts.proxy).refusal() {
            reasons.push(refusal);
        }
        if let Some(runtime) = Runtime::of(node).and_then(|runtime| runtime.loopback_refusal(node)) {
            reasons.push(runtime);
        }
    }
    reasons.sort();
    reasons.dedup();
    match reasons.is_empty() {
        true => (Expose::NodePort, reasons),
        false => (Expose::NodeProxy, reasons),
    }
}

/// Whether the Services of the cluster have only IPv6 addresses.
fn has_only_ipv6(facts: &Facts) -> bool {
    let service = facts.kubernetes.as_ref().ok().and_then(|service| service.spec.as_ref());
    let families = service.and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    !families.is_empty() && families.iter().all(|family| family == "IPv6")
}

/// The address families of Services and nodes.
pub(super) fn families(facts: &Facts) -> Check {
    const NAME: &str = "ip-families";
    let service = facts.kubernetes.as_ref().ok().and_then(|service| service.spec.as_ref());
    let services = service.and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    let nodes = facts.nodes.as_deref().unwrap_or_default();
    let has_ipv4 = |node: &&Node| addresses(node).iter().any(IpAddr::is_ipv4);
    let only_ipv6 = nodes
        .iter()
        .filter(|node| !addresses(node).is_empty() && !has_ipv4(node));
    let only_ipv6: Vec<String> = only_ipv6.map(name_of).collect();
    match (services.is_empty(), has_only_ipv6(facts), only_ipv6.is_empty()) {
        (true, ..) => Check::warning(
            NAME,
            "the address families of Services may not be read",
            "let the user get the Service default/kubernetes",
        ),
        (false, true, _) => Check::warning(
            NAME,
            "Services have only IPv6 addresses",
            "use --expose NodeProxy: kube-proxy serves no NodePort on ::1",
        ),
        (false, false, false) => Check::warning(
            NAME,
            format!(
                "Services have {}; nodes without an IPv4 address: {}",
                services.join(" and "),
                names(&only_ipv6)
            ),
            "use --expose NodeProxy if pods on these nodes cannot pull images",
        ),
        (false, false, true) => Check::ok(NAME, format!("Services have {}", services.join(" and "))),
    }
}

/// The addresses of a node inside of the cluster.
fn addresses(node: &Node) -> Vec<IpAddr> {
    let status = node.status.as_ref();
    let listed = status
        .and_then(|status| status.addresses.as_deref())
        .unwrap_or_default();
    let internal = listed.iter().filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).collect()
}

/// The mode of the proxy on each node.
pub(super) fn mode(facts: &Facts) -> Check {
    const NAME: &str = "kube-proxy";
    if let Err(unread) = &facts.nodes {
        return not_read(NAME, "nodes", unread);
    }
    let mut modes: BTreeMap<(ProxyMode, String), Vec<String>> = BTreeMap::new();
    for node in facts
        .nodes
        .as_deref()
        .unwrap_or_default()
        .iter()
        .filter(|node| is_linux(node))
    {
        let settings = settings_of(node, &facts.proxy);
        modes
            .entry((settings.mode, settings.source))
            .or_default()
            .push(name_of(node));
    }
    let mut findings = Findings::default();
    let is_uniform = modes.len() == 1;
    for ((mode, source), nodes) in modes {
        let place = match is_uniform {
            true => String::new(),
            false => format!(" on {}", names(&nodes)),
        };
        let mut found = format!("{}{place} ({source})", mode.shown());
        match mode {
            ProxyMode::Unknown => {
                if !facts.proxy.unread.is_empty() {
                    found += &format!("; not read: {}", names(&facts.proxy.unread));
                }
                findings.warning(
                    found,
                    "use --expose NodeProxy, which does not depend on it, or NodePort if you know that 127.0.0.1 serves NodePorts",
                );
            }
            _ => findings.ok(found),
        }
    }
    findings.check(NAME, "no node")
}

/// Whether pods can name images at the loopback address.
pub(super) fn loopback(facts: &Facts) -> Check {
    const NAME: &str = "loopback";
    match recommended_exposure(facts) {
        (Expose::NodePort, _) => Check::ok(NAME, "127.0.0.1 serves NodePorts; --expose Auto uses NodePort"),
        (Expose::NodeProxy, reasons) => Check::ok(
            NAME,
            format!(
                "a NodePort on 127.0.0.1 cannot be relied on: {}; --expose Auto uses NodeProxy",
                reasons.join("; ")
            ),
        ),
    }
}
