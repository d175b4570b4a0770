//! Reads what tells how NodePorts are served.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde::de::DeserializeOwned;

use super::super::facts::{ProxyFacts, Read, Unread};
use super::super::read::Reader;
use super::{CONCURRENCY, split};
use crate::bootstrap::text::clean;

/// The port of kube-proxy's metrics.
const METRICS: u16 = 10249;
/// The most nodes whose kube-proxy is asked.
const ASKED: usize = 20;
/// The most pods of kube-proxy that are read.
const PODS: usize = 5000;
/// Labels of the pods of kube-proxy: of its DaemonSet, and of static pods.
const SELECTORS: [&str; 2] = ["k8s-app%3Dkube-proxy", "component%3Dkube-proxy"];

pub(super) async fn proxy(reader: &Reader, nodes: &[String]) -> ProxyFacts {
    let mut facts = ProxyFacts::default();
    for name in ["kube-proxy", "kube-proxy-config"] {
        let map: Option<ConfigMap> = object(reader, "/api/v1", "configmaps", name, &mut facts.unread).await;
        facts.config_maps.extend(map);
    }
    facts.cilium = object(reader, "/api/v1", "configmaps", "cilium-config", &mut facts.unread).await;
    facts.daemon_set = object(reader, "/apis/apps/v1", "daemonsets", "kube-proxy", &mut facts.unread).await;
    for selector in SELECTORS {
        let path = format!("/api/v1/namespaces/kube-system/pods?labelSelector={selector}");
        let pods: Read<Vec<Pod>> = split(reader.list(&path, PODS).await).0;
        match pods {
            Ok(pods) => facts.pods.extend(pods),
            Err(unread) => note("pods of kube-proxy", &unread, &mut facts.unread),
        }
    }
    facts.measured = measured(reader, nodes).await;
    facts.unread.dedup();
    facts
}

/// An object of `kube-system`, if it exists.
async fn object<T: DeserializeOwned>(
    reader: &Reader,
    group: &str,
    kind: &str,
    name: &str,
    unread: &mut Vec<String>,
) -> Option<T> {
    let path = format!("{group}/namespaces/kube-system/{kind}/{name}");
    match reader.get(&path).await {
        Ok(object) => Some(object),
        Err(why) => {
            note(&format!("{kind} {name}"), &why, unread);
            None
        }
    }
}

fn note(what: &str, why: &Unread, unread: &mut Vec<String>) {
    match why {
        Unread::Absent => {}
        Unread::Forbidden => unread.push(format!("{what} (forbidden)")),
        Unread::Failed(message) => unread.push(format!("{what} ({message})")),
    }
}

/// What kube-proxy itself says on nodes. It listens on the loopback unless it is told otherwise: then nothing is found.
async fn measured(reader: &Reader, nodes: &[String]) -> BTreeMap<String, String> {
    let asked = nodes.iter().take(ASKED).map(|node| async move {
        let path = format!("/api/v1/nodes/{node}:{METRICS}/proxy/proxyMode");
        let body = reader.of_node(&path).await.ok()?;
        let mode = std::str::from_utf8(&body).ok()?.trim();
        let is_mode = ["iptables", "ipvs", "nftables"].contains(&mode);
        is_mode.then(|| (node.clone(), clean(mode, 20)))
    });
    let asked: Vec<_> = stream::iter(asked).buffer_unordered(CONCURRENCY).collect().await;
    asked.into_iter().flatten().collect()
}
