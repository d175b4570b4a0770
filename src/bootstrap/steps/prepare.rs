//! What is known before anything is changed: the cluster, and the objects for it.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject};
use serde_json::Value;

use super::begin::{Begin, Wanted, begin};
use super::settings::{Settings, storage_of};
use crate::archive::Archive;
use crate::bootstrap::cluster::{Access, Cluster, Nodes, State, missing_permissions};
use crate::bootstrap::install::{
    Existing, Expose, InstalledImage, KINDS, Kind, LABEL, NAMESPACE, Object, Options, REGISTRY, Secrets, Stage,
    helm_values, objects,
};
use crate::bootstrap::packed::{NodeFiles, PackedImages, identity, node_files};
use crate::fault::{Fault, Reason};

/// What is known before anything is changed.
pub struct Prepared {
    /// What the cluster is, told from others.
    pub cluster: String,
    /// The nodes.
    pub nodes: Nodes,
    /// The digest of what the archive holds.
    pub archive: String,
    /// The version of the operator in the archive; may be empty.
    pub version: String,
    /// What the installation is in this cluster.
    pub begin: Begin,
    /// When the first run with this archive began, in seconds since 1970.
    started: u64,
    /// How nodes reach the registry.
    pub expose: Expose,
    /// What completes the objects.
    pub options: Options,
    /// The Secrets.
    pub secrets: Secrets,
    /// The objects, in the order of their application.
    pub objects: Vec<Object>,
    /// The files for the architectures of the nodes.
    pub files: BTreeMap<String, NodeFiles>,
    /// The StatefulSet of the registry that the cluster has.
    pub registry: Option<DynamicObject>,
}

/// Looks at the cluster and makes the objects for it. Nothing is changed.
///
/// # Errors
/// A fault that says what the archive or the cluster lacks, and what to do.
pub async fn prepare(
    cluster: &Cluster,
    archive: &Archive,
    images: &PackedImages,
    settings: &Settings,
) -> Result<Prepared, Fault> {
    let nodes = cluster.nodes().await?;
    let mut files = BTreeMap::new();
    for architecture in &nodes.architectures {
        files.insert(
            architecture.clone(),
            node_files(archive, &images.operator, architecture).await?,
        );
    }
    let state = cluster.state().await?;
    let digest = identity(archive).to_string();
    let wanted = Wanted {
        archive: &digest,
        version: &images.version,
        replace: settings.replace,
        downgrade: settings.downgrade,
    };
    let begin = begin(state.as_ref(), &wanted)?;
    let started = match (&begin, &state) {
        (Begin::Continue | Begin::Repeat, Some(state)) => state.started,
        _ => now(),
    };
    let registry = find(cluster, "StatefulSet", REGISTRY).await?;
    let expose = match settings.expose {
        Some(expose) => expose,
        None if find(cluster, "Service", &format!("{REGISTRY}-nodes")).await?.is_some() => Expose::NodePort,
        None => settings.recommended,
    };
    let options = Options {
        operator: InstalledImage::new(&images.operator.name, images.operator.root.clone())?,
        registry: InstalledImage::new(&images.registry.name, images.registry.root.clone())?,
        storage: storage_of(&settings.storage, registry.as_ref(), &cluster.storage_classes().await?)?,
    };
    let secrets = Secrets::new(&existing_secrets(cluster).await?, now())?;
    // All architectures have the same objects.
    let manifests = files.values().next().map(|files| files.manifests(expose).clone());
    let objects = objects(&manifests.unwrap_or_default(), &options, &secrets)?;
    Ok(Prepared {
        cluster: cluster.identity().await?,
        nodes,
        archive: digest,
        version: images.version.clone(),
        begin,
        started,
        expose,
        options,
        secrets,
        objects,
        files,
        registry,
    })
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

/// The kind of that name.
pub(super) fn kind(name: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.kind == name).unwrap_or(&KINDS[0])
}

/// The object of the installation's namespace of that kind and name.
pub(super) async fn find(cluster: &Cluster, kind_name: &str, name: &str) -> Result<Option<DynamicObject>, Fault> {
    let api = cluster.api(kind(kind_name), Some(NAMESPACE));
    let doing = format!("reading {kind_name} {NAMESPACE}/{name}");
    cluster.call(&doing, async || api.get_opt(name).await).await
}

/// The Secrets that the cluster has.
async fn existing_secrets(cluster: &Cluster) -> Result<Existing, Fault> {
    let api: Api<Secret> = Api::namespaced(cluster.client().clone(), NAMESPACE);
    let mut found = Vec::with_capacity(Existing::NAMES.len());
    for name in Existing::NAMES {
        let doing = format!("reading Secret {NAMESPACE}/{name}");
        found.push(cluster.call(&doing, async || api.get_opt(name).await).await?);
    }
    let mut found = found.into_iter();
    let mut next = || found.next().flatten();
    let (users, tls, authorities) = (next(), next(), next());
    let annotations = tls.as_ref().and_then(|secret| secret.metadata.annotations.clone());
    let entries = |secret: Option<Secret>| {
        let data = secret?.data?.into_iter();
        Some(data.map(|(key, value)| (key, value.0)).collect())
    };
    Ok(Existing {
        users: entries(users),
        tls: entries(tls),
        tls_annotations: annotations.unwrap_or_default(),
        authorities: entries(authorities),
    })
}

impl Prepared {
    /// Checks that the installation can be done, without changing anything.
    ///
    /// # Errors
    /// A fault that names everything that is missing.
    pub async fn check(&self, cluster: &Cluster) -> Result<(), Fault> {
        let missing = missing_permissions(cluster, &Access::needed(&self.objects)).await?;
        if !missing.is_empty() {
            let message = format!(
                "this account may not: {}; use an account of a cluster administrator",
                missing.join(", ")
            );
            return Err(Fault::stalled(Reason::AuthenticationFailed, message));
        }
        if !self.nodes.unready.is_empty() {
            let message = format!(
                "nodes are not ready: {}; repair them, or delete them from the cluster, and repeat the command",
                self.nodes.unready.join(", ")
            );
            return Err(Fault::retryable(Reason::NodeUnavailable, message));
        }
        let foreign = self.foreign(cluster).await?;
        if !foreign.is_empty() {
            let message = format!(
                "the cluster has objects of an installation that bootstrap did not make: {}; upgrade that one with helm, or \
                 uninstall it",
                foreign.join(", ")
            );
            return Err(Fault::stalled(Reason::RepositoryConflict, message));
        }
        Ok(())
    }

    /// The objects that exist and are not of an installation by bootstrap. Definitions stay when a release is uninstalled, so they are
    /// taken over.
    async fn foreign(&self, cluster: &Cluster) -> Result<Vec<String>, Fault> {
        let mut foreign = Vec::new();
        let objects = self.objects.iter();
        for object in objects.filter(|object| !matches!(object.stage(), Stage::Namespace | Stage::Definitions)) {
            if let Some(existing) = cluster.get(object).await? {
                let labels = existing.metadata.labels.unwrap_or_default();
                if !labels.contains_key(LABEL) {
                    foreign.push(object.to_string());
                }
            }
        }
        Ok(foreign)
    }

    /// The values with which helm's chart makes the same objects.
    pub fn helm_values(&self) -> Value {
        helm_values(&self.options, self.expose)
    }

    /// The state of this installation at `step`.
    pub fn state_at(&self, step: super::Step) -> State {
        State {
            archive: self.archive.clone(),
            version: self.version.clone(),
            step,
            started: self.started,
            values: self.helm_values().to_string(),
        }
    }
}
