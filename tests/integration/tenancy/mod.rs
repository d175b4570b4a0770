//! What objects of one namespace may do to those of another, to the registry and to the operator.

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

/// Held by who has the API server that is apart.
pub(crate) static EXCLUSIVE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Leaves nothing to operators of later tests.
pub(crate) fn clear(clusters: &[&Cluster]) {
    for cluster in clusters {
        cluster.kubectl(&["delete", "jkpkg,jkimg", "--all", "--timeout=30s"]);
    }
}

/// What the chart gives in the cluster's namespace, as release `release`, with further values of helm's `--set-json`.
/// Without the custom resources, which the cluster has, and the pods of `helm test`.
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
