//! The nodes of the cluster.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};

use super::Cluster;
use crate::fault::{Fault, Reason};

/// The most nodes that are read.
const NODES: usize = 5000;
/// The annotation of the default storage class.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// What is known of the nodes that run Linux.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// How many there are.
    pub count: usize,
    /// Their architectures, as Kubernetes names them; never empty.
    pub architectures: BTreeSet<String>,
    /// The names of those that are not ready.
    pub unready: Vec<String>,
}

impl Nodes {
    /// Those of `nodes` that run Linux.
    ///
    /// # Errors
    /// A stalled fault, where there is none.
    fn of(nodes: &[Node]) -> Result<Self, Fault> {
        let mut found = Self::default();
        for node in nodes.iter().take(NODES) {
            let status = node.status.as_ref();
            let machine = status.and_then(|status| status.node_info.as_ref());
            let Some(machine) = machine.filter(|machine| machine.operating_system == "linux") else {
                continue;
            };
            found.count += 1;
            found.architectures.insert(machine.architecture.clone());
            let conditions = status
                .and_then(|status| status.conditions.as_deref())
                .unwrap_or_default();
            let is_ready = |kind: &str| conditions.iter().any(|one| one.type_ == kind && one.status == "True");
            if !is_ready("Ready") {
                found.unready.push(node.name_any());
            }
        }
        match found.count {
            0 => Err(Fault::stalled(
                Reason::NodeUnavailable,
                "the cluster has no node that runs Linux; join one and repeat the command".to_owned(),
            )),
            _ => Ok(found),
        }
    }
}

impl Cluster {
    /// The nodes.
    ///
    /// # Errors
    /// A fault of the API server, or a stalled one, where there is no node.
    pub async fn nodes(&self) -> Result<Nodes, Fault> {
        let api: Api<Node> = Api::all(self.client().clone());
        let params = ListParams::default().limit(u32::try_from(NODES).unwrap_or(u32::MAX));
        let nodes = self.call("listing nodes", async || api.list(&params).await).await?;
        Nodes::of(&nodes.items)
    }

    /// The names of the storage classes, and whether one is the default.
    ///
    /// # Errors
    /// A fault of the API server.
    pub async fn storage_classes(&self) -> Result<(Vec<String>, bool), Fault> {
        let api: Api<StorageClass> = Api::all(self.client().clone());
        let params = ListParams::default().limit(1000);
        let classes = self
            .call("listing storage classes", async || api.list(&params).await)
            .await?;
        let is_default = |class: &StorageClass| {
            class
                .annotations()
                .get(DEFAULT_CLASS)
                .is_some_and(|value| value == "true")
        };
        let default = classes.items.iter().any(is_default);
        Ok((classes.items.iter().map(|class| class.name_any()).collect(), default))
    }

    /// What tells this cluster from others: the UID of the namespace kube-system.
    ///
    /// # Errors
    /// A fault of the API server.
    pub async fn identity(&self) -> Result<String, Fault> {
        let api: Api<Namespace> = Api::all(self.client().clone());
        let namespace = self
            .call("reading the namespace kube-system", async || {
                api.get("kube-system").await
            })
            .await?;
        Ok(namespace.uid().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, system: &str, architecture: &str, ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "nodeInfo": {"operatingSystem": system, "architecture": architecture, "bootID": "", "containerRuntimeVersion": "",
                    "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "osImage": "", "systemUUID": ""},
            },
        }))
        .unwrap()
    }

    #[test]
    fn nodes_of_linux_count() {
        let nodes = [
            node("a", "linux", "amd64", "True"),
            node("b", "linux", "arm64", "False"),
            node("c", "windows", "amd64", "True"),
        ];
        let found = Nodes::of(&nodes).unwrap();
        assert_eq!(found.count, 2);
        assert_eq!(Vec::from_iter(&found.architectures), ["amd64", "arm64"]);
        assert_eq!(found.unready, ["b"]);
        assert!(
            Nodes::of(&nodes[2..])
                .unwrap_err()
                .message
                .contains("has no node that runs Linux")
        );
    }
}
