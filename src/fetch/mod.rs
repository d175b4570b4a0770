//! Brings what components hold beside their images: manifests and values out of ConfigMaps, charts from OCI registries
//! and chart repositories, files by their addresses. The one place that asks for them, in the order of the spec.
//!
//! Nothing large is read before it is sent: what is gathered says which content it is, and where it comes from.

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

/// Charts of a component that are looked at at once.
const AT_ONCE: usize = 4;

/// Whom an object may have asked for what it names.
#[async_trait]
pub trait ContentAccess: Send + Sync {
    /// The client of the registry that holds `reference`, with the object's credentials for it; `what` names
    /// the part of the object for people.
    async fn registry(&self, reference: &Reference, what: &str) -> Result<Registry, Fault>;

    /// The client of `host` (host[:port]), where files are read without credentials.
    async fn host(&self, host: &str, what: &str) -> Result<Registry, Fault>;

    /// The data of a ConfigMap of the object's namespace.
    async fn config_map(&self, name: &str) -> Result<BTreeMap<String, String>, Fault>;
}

/// Finds everything that `components` hold beside their images, in their order. What was learned of charts is kept in
/// `memory`, so that an unchanged one costs a GET of its manifest by its tag, or a GET of its repository's index, which answers that it
/// is as it was.
pub async fn gather(
    components: &[ComponentSpec],
    reach: &dyn ContentAccess,
    memory: &ChartCache,
) -> Result<Vec<ComponentContent>, Fault> {
    let texts = config_map_texts::ConfigMapTexts::new(reach);
    let mut gathered = Vec::with_capacity(components.len());
    for component in components {
        let within = |fault: Fault| fault.within(format_args!("component `{}`", component.name));
        gathered.push(of_component(component, reach, memory, &texts).await.map_err(within)?);
    }
    Ok(gathered)
}

async fn of_component(
    component: &ComponentSpec,
    reach: &dyn ContentAccess,
    memory: &ChartCache,
    texts: &config_map_texts::ConfigMapTexts<'_>,
) -> Result<ComponentContent, Fault> {
    let mut found = ComponentContent::default();
    for manifest in &component.manifests {
        let within = |fault: Fault| fault.within(format_args!("manifests `{}`", manifest.name));
        found.manifests.push(texts.manifests(manifest).await.map_err(within)?);
    }
    let mut charts = Vec::with_capacity(component.charts.len());
    for chart in &component.charts {
        let within = |fault: Fault| fault.within(format_args!("chart `{}`", chart.name));
        let values = texts.values(chart).await.map_err(within)?;
        charts.push(async move { chart::find(chart, values, reach, memory).await.map_err(within) });
    }
    found.charts = stream::iter(charts).buffered(AT_ONCE).try_collect().await?;
    for spec in &component.files {
        let within = |fault: Fault| fault.within(format_args!("file `{}`", spec.target));
        found.files.push(file_content(spec, reach).await.map_err(within)?);
    }
    Ok(found)
}

async fn file_content(spec: &crate::api::v1alpha1::FileSpec, reach: &dyn ContentAccess) -> Result<FileContent, Fault> {
    let (Some(url), Some(sha256)) = (&spec.url, &spec.sha256) else {
        let text = bytes::Bytes::from(spec.inline.clone().unwrap_or_default());
        return Ok(FileContent {
            digest: crate::oci::Digest::of(&text),
            origin: std::sync::Arc::new(text),
        });
    };
    let digest = crate::package::component::digest_of_sha256(sha256)
        .ok_or_else(|| Fault::stalled(Reason::InvalidSpec, "its sha256 is not 64 hexadecimal digits"))?;
    let remote = file::RemoteFile::at(url, digest.clone(), reach, "its url").await?;
    Ok(FileContent {
        digest,
        origin: std::sync::Arc::new(remote.called(format!("file `{}`", spec.target))),
    })
}
