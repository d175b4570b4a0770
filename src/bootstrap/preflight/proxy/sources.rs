//! The places that tell how a node serves NodePorts.
//!
//! | place | clusters |
//! |---|---|
//! | what kube-proxy itself answers | where its metrics listen on more than the loopback |
//! | annotations `k3s.io/node-args`, `rke2.io/node-args` of the node | k3s, RKE2: kube-proxy has no ConfigMap |
//! | arguments of the pods and the DaemonSet `kube-proxy` | Talos, AKS, GKE, RKE2 |
//! | ConfigMap `kube-proxy` or `kube-proxy-config` | kubeadm, k0s, kind; EKS |
//! | ConfigMap `cilium-config` | Cilium |

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Node, PodSpec};
use serde::Deserialize;
use serde_json::Value;

use super::{ProxyMode, ProxySettings};
use crate::bootstrap::preflight::facts::ProxyFacts;
use crate::bootstrap::preflight::runtime::name_of;
use crate::bootstrap::text::clean;
use crate::decode;

/// The entries of ConfigMaps that have kube-proxy's configuration: kubeadm, k0s, EKS.
const ENTRIES: [&str; 3] = ["config.conf", "config", "config.yaml"];
/// The longest configuration that is read, in bytes. A ConfigMap may have 1 MiB.
const CONFIGURATION: usize = 1 << 20;

/// kube-proxy's configuration (`KubeProxyConfiguration`).
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Configuration {
    mode: String,
    node_port_addresses: Value,
    iptables: IptablesConfiguration,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct IptablesConfiguration {
    localhost_node_ports: Option<bool>,
}

/// Flags of kube-proxy that matter, by their names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Flags(BTreeMap<String, String>);

impl Flags {
    /// The flags among `arguments`: `--name=value`, `--name value` and `name=value`, as k3s passes them on.
    fn of<'a>(arguments: impl Iterator<Item = &'a str>) -> Self {
        const KNOWN: [&str; 3] = ["proxy-mode", "nodeport-addresses", "iptables-localhost-nodeports"];
        let mut found = BTreeMap::new();
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument, None),
            };
            let name = name.trim_start_matches('-');
            if !KNOWN.contains(&name) {
                continue;
            }
            let value = value.or_else(|| {
                let next = arguments.next_if(|next| !next.starts_with('-'));
                next.map(str::to_owned)
            });
            found.insert(name.to_owned(), value.unwrap_or_else(|| "true".to_owned()));
        }
        Self(found)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Puts what the flags say in place of what `settings` has.
    fn apply(&self, settings: &mut ProxySettings) {
        if let Some(mode) = self.get("proxy-mode") {
            settings.mode = ProxyMode::of_name(mode);
        }
        if let Some(addresses) = self.get("nodeport-addresses") {
            settings.addresses = list(addresses);
        }
        if let Some(localhost) = self.get("iptables-localhost-nodeports") {
            settings.localhost = localhost != "false";
        }
    }
}

fn list(text: &str) -> Vec<String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.take(64).map(|part| clean(part, 64)).collect()
}

/// How `node` serves NodePorts.
pub(super) fn settings_of(node: &Node, facts: &ProxyFacts) -> ProxySettings {
    let name = name_of(node);
    let rancher = of_rancher(node);
    // Cilium is asked by the kernel before any rule of kube-proxy.
    let mut settings = of_cilium(facts)
        .or(rancher)
        .or_else(|| of_pods(&name, facts))
        .or_else(|| of_configuration(facts))
        .or_else(|| default_of_rancher(node))
        .unwrap_or_else(|| ProxySettings::unknown(unknown_reason(node)));
    if let Some(measured) = facts.measured.get(&name)
        && settings.mode != ProxyMode::Cilium
    {
        settings.mode = ProxyMode::of_name(measured);
        settings.source = "kube-proxy's own answer".to_owned();
    }
    settings
}

fn unknown_reason(node: &Node) -> &'static str {
    let labels = node.metadata.labels.as_ref();
    match labels.is_some_and(|labels| labels.contains_key("node.openshift.io/os_id")) {
        true => "OpenShift's OVN-Kubernetes has no kube-proxy",
        false => "no ConfigMap, DaemonSet or pod of kube-proxy, and no annotation of k3s or RKE2",
    }
}

/// Cilium's replacement of kube-proxy; its socket load balancer serves NodePorts on loopback addresses.
fn of_cilium(facts: &ProxyFacts) -> Option<ProxySettings> {
    let entries = facts.cilium.as_ref()?.data.as_ref()?;
    let value = entries.get("kube-proxy-replacement")?;
    matches!(value.trim(), "true" | "strict").then(|| ProxySettings {
        mode: ProxyMode::Cilium,
        source: format!("ConfigMap cilium-config, kube-proxy-replacement: {}", clean(value, 16)),
        addresses: Vec::new(),
        localhost: true,
    })
}

/// What the arguments of k3s or RKE2 say of kube-proxy, which runs in their process or as a static pod.
fn of_rancher(node: &Node) -> Option<ProxySettings> {
    let arguments = rancher_arguments(node)?;
    let mut passed = Vec::new();
    let mut rest = arguments.iter().map(String::as_str).peekable();
    while let Some(argument) = rest.next() {
        match argument.split_once('=') {
            Some(("--kube-proxy-arg", value)) => passed.push(value),
            _ if argument == "--kube-proxy-arg" => passed.extend(rest.next()),
            Some(("--disable-kube-proxy", value)) if value != "false" => return None,
            _ if argument == "--disable-kube-proxy" && rest.peek() != Some(&"false") => return None,
            _ => {}
        }
    }
    let flags = Flags::of(passed.into_iter());
    if flags == Flags::default() {
        return None;
    }
    let mut settings = iptables("annotation node-args of the node");
    flags.apply(&mut settings);
    Some(settings)
}

/// The arguments with which k3s or RKE2 was started on the node.
fn rancher_arguments(node: &Node) -> Option<Vec<String>> {
    let annotations = node.metadata.annotations.as_ref()?;
    let text = ["k3s.io/node-args", "rke2.io/node-args"]
        .iter()
        .find_map(|key| annotations.get(*key))?;
    decode::json_text(text).ok()
}

/// k3s and RKE2 without any argument for kube-proxy.
fn default_of_rancher(node: &Node) -> Option<ProxySettings> {
    let arguments = rancher_arguments(node)?;
    let is_disabled = |argument: &String| argument.starts_with("--disable-kube-proxy");
    (!arguments.iter().any(is_disabled)).then(|| iptables("the default of k3s and RKE2"))
}

fn iptables(source: &str) -> ProxySettings {
    ProxySettings {
        mode: ProxyMode::Iptables,
        source: source.to_owned(),
        addresses: Vec::new(),
        localhost: true,
    }
}

/// What the arguments of kube-proxy's pod on the node, or of its DaemonSet, say. They count before its configuration.
fn of_pods(node: &str, facts: &ProxyFacts) -> Option<ProxySettings> {
    let on_node = facts.pods.iter().find(|pod| {
        let spec = pod.spec.as_ref();
        spec.and_then(|spec| spec.node_name.as_deref()) == Some(node)
    });
    let daemon_set = facts.daemon_set.as_ref().and_then(|set| set.spec.as_ref());
    let daemon_set = daemon_set.and_then(|spec| spec.template.spec.as_ref());
    let (spec, source): (&PodSpec, _) = match (on_node.and_then(|pod| pod.spec.as_ref()), daemon_set) {
        (Some(spec), _) => (spec, "arguments of its pod on the node"),
        (None, Some(spec)) => (spec, "arguments of the DaemonSet kube-proxy"),
        (None, None) => return None,
    };
    let words = words(spec);
    let is_file = |word: &String| word == "--config" || word.starts_with("--config=");
    // With a file, kube-proxy ignores its other flags.
    if words.iter().any(is_file) {
        return of_configuration(facts);
    }
    let flags = Flags::of(words.iter().map(String::as_str));
    let mut settings = match flags.get("proxy-mode") {
        Some(_) => iptables(source),
        None => iptables(&format!("{source}, which say no mode")),
    };
    flags.apply(&mut settings);
    Some(settings)
}

/// The words of the commands of a pod; those of a shell script apart.
fn words(spec: &PodSpec) -> Vec<String> {
    let arguments = |container: &Container| {
        let command = container.command.clone().unwrap_or_default();
        [command, container.args.clone().unwrap_or_default()].concat()
    };
    let all = spec.containers.iter().flat_map(arguments);
    all.flat_map(|argument| argument.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// What kube-proxy's ConfigMap says.
fn of_configuration(facts: &ProxyFacts) -> Option<ProxySettings> {
    facts.config_maps.iter().find_map(|map| {
        let name = map.metadata.name.as_deref().unwrap_or("kube-proxy");
        let configuration = configuration(map)?;
        let addresses = match &configuration.node_port_addresses {
            Value::Array(list) => list
                .iter()
                .filter_map(Value::as_str)
                .take(64)
                .map(|text| clean(text, 64))
                .collect(),
            Value::String(text) => list(text),
            _ => Vec::new(),
        };
        Some(ProxySettings {
            mode: ProxyMode::of_name(&configuration.mode),
            source: format!("ConfigMap {}", clean(name, 80)),
            addresses,
            localhost: configuration.iptables.localhost_node_ports.unwrap_or(true),
        })
    })
}

fn configuration(map: &ConfigMap) -> Option<Configuration> {
    let data = map.data.as_ref()?;
    let text = ENTRIES.iter().find_map(|entry| data.get(*entry))?;
    if text.len() > CONFIGURATION {
        return None;
    }
    decode::yaml(text).ok()
}
