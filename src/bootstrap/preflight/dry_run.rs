//! Objects that the API server checks without storing them.

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use serde_json::{Value, json};

use super::facts::Unread;
use crate::bootstrap::install::NODE_PORT;
use crate::bootstrap::seed::SEED_NAMESPACE;

/// How a server-side dry run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DryRun {
    /// The object would be stored.
    Accepted,
    /// It would not, as the API server's message says.
    Refused(Refusal),
    /// The object could not be tried.
    Untried(Unread),
}

/// An answer that refuses an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// The API server's message.
    pub message: String,
}

/// The labels of the pods that [`pod`] describes.
pub(super) const POD_LABELS: [(&str, &str); 2] = [
    ("app.kubernetes.io/name", "jackal-operator"),
    ("app.kubernetes.io/component", "preflight"),
];

/// The labels of the namespace of the temporary registry.
pub(super) fn namespace_labels() -> [(&'static str, &'static str); 2] {
    [
        ("kubernetes.io/metadata.name", SEED_NAMESPACE),
        ("pod-security.kubernetes.io/enforce", "privileged"),
    ]
}

/// The namespace of the temporary registry.
pub(super) fn namespace() -> Value {
    let typed = Namespace::default();
    let labels: serde_json::Map<String, Value> = namespace_labels()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .into_iter()
        .collect();
    with_type(
        &typed,
        json!({ "metadata": { "name": SEED_NAMESPACE, "labels": labels } }),
    )
}

/// A pod that needs what the temporary registry needs: the host's network.
pub(super) fn pod() -> Value {
    let labels: serde_json::Map<String, Value> = POD_LABELS
        .map(|(key, value)| (key.to_owned(), value.into()))
        .into_iter()
        .collect();
    with_type(
        &Pod::default(),
        json!({
            "metadata": { "name": "jackal-preflight", "labels": labels },
            "spec": {
                "hostNetwork": true,
                "automountServiceAccountToken": false,
                "tolerations": [{ "operator": "Exists" }],
                "containers": [{
                    "name": "seed",
                    "image": "jackal.invalid/seed",
                    "imagePullPolicy": "Never",
                    "volumeMounts": [{ "name": "files", "mountPath": "/seed" }],
                }],
                "volumes": [{ "name": "files", "emptyDir": {} }],
            },
        }),
    )
}

/// A Service with the registry's port on each node.
pub(super) fn service() -> Value {
    with_type(
        &Service::default(),
        json!({
            "metadata": { "name": "jackal-preflight" },
            "spec": {
                "type": "NodePort",
                "selector": { "app.kubernetes.io/component": "preflight" },
                "ports": [{ "name": "registry", "port": 5000, "nodePort": NODE_PORT }],
            },
        }),
    )
}

fn with_type<K: k8s_openapi::Resource>(_: &K, mut object: Value) -> Value {
    object["apiVersion"] = K::API_VERSION.into();
    object["kind"] = K::KIND.into();
    object
}
