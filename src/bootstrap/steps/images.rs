//! Brings the images of another version to all nodes before anything that serves them restarts.
//!
//! While the registry restarts, no node can pull the registry's image; while the proxy of a node restarts, that node can pull nothing.
//! So pods that do nothing take the images first.

use std::time::Duration;

use serde_json::json;

use super::Observer;
use super::prepare::kind;
use crate::bootstrap::cluster::{Cluster, has_images};
use crate::bootstrap::install::{LABEL, NAMESPACE, Object, Options, PULL_SECRET};
use crate::fault::Fault;

/// The DaemonSet of the pods, and the label of the pods.
const NAME: &str = "jackal-bootstrap-images";
/// How long a node may take to pull.
const LIMIT: Duration = Duration::from_secs(900);

/// The DaemonSet.
fn daemon_set(options: &Options) -> Result<Object, Fault> {
    let container = |name: &str, image: String, command: serde_json::Value| {
        json!({
            "name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": command,
            "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "128Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
            },
        })
    };
    // A container that ends is started again; only its image counts.
    let registry = container(
        "registry",
        options.registry.to_string(),
        json!(["registry", "--version"]),
    );
    let operator = container(
        "operator",
        options.operator.to_string(),
        json!(["/jackal-operator", "--version"]),
    );
    let content = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {LABEL: "true"}},
        "spec": {
            "selector": {"matchLabels": {"app": NAME}},
            "updateStrategy": {"rollingUpdate": {"maxUnavailable": "100%"}},
            "template": {
                "metadata": {"labels": {"app": NAME}},
                "spec": {
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "imagePullSecrets": [{"name": PULL_SECRET}],
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "tolerations": [{"operator": "Exists"}],
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [registry, operator],
                },
            },
        },
    });
    Object::new(content, NAMESPACE)
}

/// Pulls the images of `options` on all nodes.
///
/// # Errors
/// A retryable fault that says which pod lacks them, and why.
pub(super) async fn pull(cluster: &Cluster, options: &Options, observer: &dyn Observer) -> Result<(), Fault> {
    let object = daemon_set(options)?;
    let applied = cluster.apply(&object).await?;
    observer.note("pulling the images of this archive on all nodes");
    let generation = applied.metadata.generation.unwrap_or(0);
    let selector = format!("app={NAME}");
    let pulled = cluster.wait(LIMIT, async || {
        let Some(current) = cluster.get(&object).await? else {
            return Ok(Err(format!("{object} was deleted")));
        };
        let status = &current.data["status"];
        let number = |field: &str| status[field].as_i64().unwrap_or(0);
        let wanted = usize::try_from(number("desiredNumberScheduled")).unwrap_or(0);
        let pods = cluster.pods(&selector).await?;
        let current: Vec<_> = pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect();
        let ready = current
            .iter()
            .filter(|pod| has_images(pod) && runs(pod, options))
            .count();
        let seen = number("observedGeneration") >= generation;
        Ok(match seen && ready >= wanted && wanted > 0 {
            true => Ok(()),
            false => Err(format!("{ready} of {wanted} nodes have the images of this archive")),
        })
    });
    let pulled = pulled.await;
    if let Err(fault) = pulled {
        let why = cluster.why_waiting(&selector).await;
        let message = format!("{}{why}", fault.message);
        return Err(Fault { message, ..fault });
    }
    cluster.delete(kind("DaemonSet"), Some(NAMESPACE), NAME).await?;
    Ok(())
}

/// Deletes the pods of an interrupted run.
pub(super) async fn remove(cluster: &Cluster) -> Result<(), Fault> {
    cluster.delete(kind("DaemonSet"), Some(NAMESPACE), NAME).await?;
    Ok(())
}

/// Whether the containers of `pod` are of these images, not of an earlier archive's.
fn runs(pod: &k8s_openapi::api::core::v1::Pod, options: &Options) -> bool {
    let images = [options.registry.to_string(), options.operator.to_string()];
    let containers = pod
        .spec
        .as_ref()
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default();
    images.iter().all(|image| {
        containers
            .iter()
            .any(|container| container.image.as_deref() == Some(image))
    })
}
