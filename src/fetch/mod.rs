//! Gathers what components hold beside their images: manifests and values from ConfigMaps, charts from OCI registries
//! and chart repositories, files by URL. This is the only module that requests them, in the order of the spec.
//!
//! Content is gathered after all images are ready. For each manifest, chart, value and file the result is its
//! *identity* (a digest of everything that determines the content) and its *origin* (where to read it when needed). No
//! large content is read before it is sent.
//!
//! [`ContentAccess`] decides which hosts may be asked and with which credentials. It has two implementations: for a
//! package in a cluster (policy, pull Secrets, ConfigMaps of its namespace, the fence of the operator's registry) and
//! for a package from a file (credentials of docker and podman, ConfigMaps in the file). The registry client also reads
//! chart repositories and file servers, because they need the same limits, retries, timeouts and redirect rules; files
//! are downloads of the client, resumed and verified.
//!
//! A chart is unpacked in memory, one at a time and bounded, to find the images that it names. The result is cached by
//! the digests of chart and values ([`ChartCache`]), as is an index by its ETag. Content that changed under the same
//! chart version is accepted and reported, as for image tags; a digest in the chart's URL rejects any other content.

mod cache;
mod chart;
mod config_map_texts;
mod file;
#[cfg(fuzzing)]
pub mod fuzzing;
mod index;
mod oci;
mod tags;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};
use std::collections::BTreeMap;

use crate::api::v1alpha1::ComponentSpec;
use crate::fault::{Fault, Reason};
use crate::oci::Reference;
use crate::package::component::{ComponentContent, FileContent};
use crate::registry::Registry;

pub use cache::ChartCache;
pub use tags::select;

/// The number of charts of a component that are looked up concurrently.
const AT_ONCE: usize = 4;

/// Access to registries, hosts and ConfigMaps with the rights of one object.
#[async_trait]
pub trait ContentAccess: Send + Sync {
    /// The client for the registry of `reference`, with the object's credentials. `what` names the part of the object in
    /// messages.
    async fn registry(&self, reference: &Reference, what: &str) -> Result<Registry, Fault>;

    /// The client for `host` (host[:port]), from which files are read without credentials.
    async fn host(&self, host: &str, what: &str) -> Result<Registry, Fault>;

    /// The data of a ConfigMap of the object's namespace.
    async fn config_map(&self, name: &str) -> Result<BTreeMap<String, String>, Fault>;
}

/// Finds the content of `components` besides images, in their order. Results for charts are kept in `cache`, so that an
/// unchanged chart costs only a GET request for its manifest by its tag, or a conditional one for its repository's index.
pub async fn gather(
    components: &[ComponentSpec],
    access: &dyn ContentAccess,
    cache: &ChartCache,
) -> Result<Vec<ComponentContent>, Fault> {
    let texts = config_map_texts::ConfigMapTexts::new(access);
    let mut gathered = Vec::with_capacity(components.len());
    for component in components {
        let within = |fault: Fault| fault.with_context(format_args!("component `{}`", component.name));
        gathered.push(of_component(component, access, cache, &texts).await.map_err(within)?);
    }
    Ok(gathered)
}

async fn of_component(
    component: &ComponentSpec,
    access: &dyn ContentAccess,
    cache: &ChartCache,
    texts: &config_map_texts::ConfigMapTexts<'_>,
) -> Result<ComponentContent, Fault> {
    let mut found = ComponentContent::default();
    for manifest in &component.manifests {
        let within = |fault: Fault| fault.with_context(format_args!("manifests `{}`", manifest.name));
        found.manifests.push(texts.manifests(manifest).await.map_err(within)?);
    }
    let mut charts = Vec::with_capacity(component.charts.len());
    for chart in &component.charts {
        let within = |fault: Fault| fault.with_context(format_args!("chart `{}`", chart.name));
        let values = texts.values(chart).await.map_err(within)?;
        charts.push(async move { chart::find(chart, values, access, cache).await.map_err(within) });
    }
    found.charts = stream::iter(charts).buffered(AT_ONCE).try_collect().await?;
    for spec in &component.files {
        let within = |fault: Fault| fault.with_context(format_args!("file `{}`", spec.target));
        found.files.push(file_content(spec, access).await.map_err(within)?);
    }
    Ok(found)
}

async fn file_content(spec: &crate::api::v1alpha1::FileSpec, access: &dyn ContentAccess) -> Result<FileContent, Fault> {
    let (Some(url), Some(sha256)) = (&spec.url, &spec.sha256) else {
        let text = bytes::Bytes::from(spec.inline.clone().unwrap_or_default());
        return Ok(FileContent {
            digest: crate::oci::Digest::of(&text),
            origin: std::sync::Arc::new(text),
        });
    };
    let digest = crate::package::component::digest_of_sha256(sha256)
        .ok_or_else(|| Fault::stalled(Reason::InvalidSpec, "its sha256 is not 64 hexadecimal digits"))?;
    let remote = file::RemoteFile::at(url, digest.clone(), access, "its url").await?;
    Ok(FileContent {
        digest,
        origin: std::sync::Arc::new(remote.named(format!("file `{}`", spec.target))),
    })
}
