//! Removes an installation: everything that has its label, and the seeds.

use std::time::Duration;

use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::json;

use crate::bootstrap::cluster::{Cluster, Rollout};
use crate::bootstrap::install::{KINDS, Kind, LABEL, NAMESPACE, RELEASE, Stage};
use crate::bootstrap::steps::Seeds;
use crate::fault::{Fault, Reason};

/// How long the operator may take to delete its packages.
const PACKAGES: Duration = Duration::from_secs(60);
/// How long the cluster may take to delete objects.
const DELETION: Duration = Duration::from_secs(180);

/// The packages and images of the operator.
const CUSTOM: [Kind; 2] = [
    Kind {
        api_version: "jackal.dev/v1alpha1",
        kind: "JackalPackage",
        plural: "jackalpackages",
        namespaced: true,
        stage: Stage::Workloads,
    },
    Kind {
        api_version: "jackal.dev/v1alpha1",
        kind: "JackalImage",
        plural: "jackalimages",
        namespaced: true,
        stage: Stage::Workloads,
    },
];

/// How to remove.
#[derive(Clone, Copy, Debug, Default)]
pub struct Removal {
    /// Whether the content of the registry is removed too.
    pub data: bool,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The objects.
    pub objects: Vec<String>,
    /// Whether there were seeds.
    pub seeds: bool,
    /// What stays, and why.
    pub stays: Vec<String>,
}

/// The JackalPackages of the cluster, whose definitions go with the installation: `namespace/name`.
///
/// # Errors
/// A fault of the API server.
pub async fn packages(cluster: &Cluster) -> Result<Vec<String>, Fault> {
    let found = cluster.list(&CUSTOM[0], None, "").await?;
    Ok(found.iter().map(|package| shown(&CUSTOM[0], package)).collect())
}

/// Removes the installation. A repetition continues, or does nothing.
///
/// # Errors
/// A fault that names the object that cannot be removed.
pub async fn undo(cluster: &Cluster, seeds: &dyn Seeds, removal: Removal) -> Result<Removed, Fault> {
    let mut removed = Removed {
        seeds: seeds.remove().await?,
        ..Removed::default()
    };
    let definitions = Kind::of("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    let has_definitions = match definitions {
        Some(kind) => !cluster.installed(kind).await?.is_empty(),
        None => false,
    };
    if has_definitions {
        remove_custom(cluster, &mut removed).await?;
    }
    // The last that was applied goes first.
    let mut kinds: Vec<&Kind> = KINDS.iter().filter(|kind| kind.kind != "Namespace").collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.stage));
    for kind in kinds {
        if kind.kind == "PersistentVolumeClaim" {
            continue;
        }
        for object in cluster.installed(kind).await? {
            remove(cluster, kind, &object, &mut removed).await?;
        }
    }
    remove_claims(cluster, removal, &mut removed).await?;
    remove_namespace(cluster, &mut removed).await?;
    Ok(removed)
}

fn shown(kind: &Kind, object: &DynamicObject) -> String {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    match &object.metadata.namespace {
        Some(namespace) => format!("{} {namespace}/{name}", kind.kind),
        None => format!("{} {name}", kind.kind),
    }
}

/// Deletes an object, and waits until it is gone.
async fn remove(cluster: &Cluster, kind: &Kind, object: &DynamicObject, removed: &mut Removed) -> Result<(), Fault> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let namespace = object.metadata.namespace.as_deref();
    cluster.delete(kind, namespace, name).await?;
    let shown = shown(kind, object);
    let api = cluster.api(kind, namespace);
    cluster
        .wait(DELETION, async || {
            let found = cluster
                .call(&format!("reading {shown}"), async || api.get_opt(name).await)
                .await?;
            // Another object of the same name is not ours.
            Ok(
                match found.is_some_and(|found| found.metadata.uid == object.metadata.uid) {
                    true => Err(format!("{shown} is still being deleted")),
                    false => Ok(()),
                },
            )
        })
        .await?;
    removed.objects.push(shown);
    Ok(())
}

/// Deletes the packages and images. The operator deletes what they wrote, as far as it runs; without it, nothing else could release
/// them.
async fn remove_custom(cluster: &Cluster, removed: &mut Removed) -> Result<(), Fault> {
    for kind in &CUSTOM {
        for object in cluster.list(kind, None, "").await? {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            cluster.delete(kind, object.metadata.namespace.as_deref(), name).await?;
            removed.objects.push(shown(kind, &object));
        }
    }
    let limit = match operator_runs(cluster).await? {
        true => PACKAGES,
        false => Duration::ZERO,
    };
    for kind in &CUSTOM {
        let gone = cluster.wait(limit, async || {
            let left = cluster.list(kind, None, "").await?;
            Ok(match left.len() {
                0 => Ok(()),
                left => Err(format!("{left} {} are still being deleted", kind.plural)),
            })
        });
        if gone.await.is_err() {
            release(cluster, kind).await?;
        }
    }
    Ok(())
}

async fn operator_runs(cluster: &Cluster) -> Result<bool, Fault> {
    let Some(kind) = Kind::of("apps/v1", "Deployment") else {
        return Ok(false);
    };
    let api = cluster.api(kind, Some(NAMESPACE));
    let doing = format!("reading Deployment {NAMESPACE}/{RELEASE}");
    let found = cluster.call(&doing, async || api.get_opt(RELEASE).await).await?;
    Ok(found.is_some_and(|found| Rollout::of(&found) == Rollout::Complete))
}

/// Removes the finalizers of the objects of `kind`.
async fn release(cluster: &Cluster, kind: &Kind) -> Result<(), Fault> {
    for object in cluster.list(kind, None, "").await? {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let api = cluster.api(kind, object.metadata.namespace.as_deref());
        let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        let doing = format!("releasing {}", shown(kind, &object));
        cluster
            .call(&doing, async || {
                match api.patch(name, &PatchParams::default(), &patch).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    other => other.map(|_| ()),
                }
            })
            .await?;
    }
    Ok(())
}

/// Deletes the claims of the registry, or says that they stay.
async fn remove_claims(cluster: &Cluster, removal: Removal, removed: &mut Removed) -> Result<(), Fault> {
    let Some(kind) = Kind::of("v1", "PersistentVolumeClaim") else {
        return Ok(());
    };
    let selector = format!("app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=registry");
    for claim in cluster.list(kind, Some(NAMESPACE), &selector).await? {
        match removal.data {
            true => remove(cluster, kind, &claim, removed).await?,
            false => removed.stays.push(format!(
                "{} (the content of the registry; --delete-data removes it)",
                shown(kind, &claim)
            )),
        }
    }
    Ok(())
}

/// Deletes the namespace, unless something in it stays.
async fn remove_namespace(cluster: &Cluster, removed: &mut Removed) -> Result<(), Fault> {
    let kind = &KINDS[0];
    let Some(namespace) = cluster
        .installed(kind)
        .await?
        .into_iter()
        .find(|found| found.metadata.name.as_deref() == Some(NAMESPACE))
    else {
        return Ok(());
    };
    if !removed.stays.is_empty() {
        removed
            .stays
            .push(format!("{} (it has the claim)", shown(kind, &namespace)));
        return Ok(());
    }
    let labels = namespace.metadata.labels.as_ref();
    if !labels.is_some_and(|labels| labels.contains_key(LABEL)) {
        return Err(Fault::stalled(
            Reason::InvalidSpec,
            format!("the namespace {NAMESPACE} is not of bootstrap"),
        ));
    }
    remove(cluster, kind, &namespace, removed).await
}
