//! Isolation of namespaces from each other, from the registry and from the operator.

mod admit;
mod hosts;
mod isolation;
mod policies;
pub(crate) mod rbac;
mod retention;
mod secrets;

use crate::support::cluster::{Cluster, image_stalled, package_stalled};
use crate::support::objects::{ADDRESS, package, registry_at, standalone_image};
use crate::support::process::run;
use crate::support::program;

/// Held by the test that uses the separate API server.
pub(crate) static EXCLUSIVE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Deletes all objects, so that operators of later tests find none.
pub(crate) fn clear(clusters: &[&Cluster]) {
    for cluster in clusters {
        cluster.kubectl(&["delete", "jkpkg,jkimg", "--all", "--timeout=30s"]);
    }
}

/// The rendered chart in the cluster's namespace, as release `release`, with additional values of helm's `--set-json`.
/// Without the custom resource definitions, which the cluster has, and the pods of `helm test`.
pub(crate) fn chart(cluster: &Cluster, release: &str, values: &[&str]) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/jackal-operator");
    let namespace = &cluster.namespace;
    let fixed = [
        "template",
        release,
        folder,
        "--namespace",
        namespace,
        "--no-hooks",
        "--set=crds.install=false",
    ];
    let values: Vec<&str> = values.iter().flat_map(|value| ["--set-json", value]).collect();
    run(program("JACKAL_BIN_HELM"), &[&fixed[..], &values].concat())
}
