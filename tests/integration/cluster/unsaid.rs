//! Failures that could not be written into the status.

use std::fmt::Debug;

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use kube::Resource;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::package;
use crate::support::cluster::{Cluster, image_stalled, package_stalled};
use crate::support::objects::{ADDRESS, lone};
use crate::support::wait::{SOON, eventually};

/// A policy that admits no status in `namespace` that says Stalled.
fn silence(namespace: &str) -> String {
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": namespace },
        "spec": {
            "matchConstraints": {
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
                "resourceRules": [{
                    "apiGroups": ["jackal.dev"], "apiVersions": ["*"], "operations": ["UPDATE"],
                    "resources": ["jackalpackages/status", "jackalimages/status"],
                }],
            },
            "validations": [{
                "expression": "!has(object.status) || !has(object.status.conditions) ||
                    !object.status.conditions.exists(condition, condition.type == 'Stalled')",
                "message": "not now",
            }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": namespace },
        "spec": { "policyName": namespace, "validationActions": ["Deny"] },
    });
    format!("{policy}\n---\n{binding}\n")
}

/// Waits until the policy is in force.
async fn silenced<K>(cluster: &Cluster, name: &str)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let stalled = json!({ "status": { "conditions": [{
        "type": "Stalled", "status": "True", "reason": "Test", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }] } });
    let dry = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let api = cluster.api::<K>();
    eventually(SOON, "the policy is in force", async || {
        match api.patch_status(name, &dry, &Patch::Merge(&stalled)).await {
            Err(error) if error.to_string().contains("not now") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn what_could_not_be_said_is_said_later() {
    let cluster = Cluster::new().await;
    cluster.apply(&silence(&cluster.namespace));
    let denied = "evil.example.com/team/app:1";
    cluster.apply(&lone("image", denied, ""));
    cluster.apply(&package("package", "127.0.0.1:1", &["{image: a}"], ""));
    silenced::<JackalImage>(&cluster, "image").await;
    silenced::<JackalPackage>(&cluster, "package").await;
    let controller = cluster.controller(&["--registry-address", ADDRESS, "--source-host", "ghcr.io"]);
    eventually(SOON, "neither status could be written", async || {
        let log = controller.log();
        let unwritten = |name: &str| {
            let of = format!("\"{}/{name}\"", cluster.namespace);
            let mut lines = log.lines();
            lines.any(|line| line.contains("cannot write the status") && line.contains(&of))
        };
        match unwritten("image") && unwritten("package") {
            true => Ok(()),
            false => Err(log),
        }
    })
    .await;
    let name = &cluster.namespace;
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        cluster.kubectl(&["delete", kind, name]);
    }
    image_stalled(&cluster, "image", "PolicyDenied").await;
    package_stalled(&cluster, "package", "PolicyDenied").await;
}
