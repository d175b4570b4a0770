//! The content of a package's components besides images: manifests, Helm charts and files. No IO.
//!
//! [`check()`] finds the parts of a spec that cannot be used. [`ComponentContent`] is the gathered content of one component.
//! [`archive`] lays it out as Zarf's `package create` does and its `package deploy` reads it. [`missing_images`] lists
//! the images that the component names and that the package lacks.
//!
//! Charts are not rendered, because rendering needs Helm, a Go program or library. The list of a chart's images is a
//! hint and does not stop anything.

mod check;
mod images;
mod layout;
mod listing;

use std::sync::Arc;

use bytes::Bytes;

use super::{Archive, EntrySource};
use crate::api::v1alpha1::{ComponentSpec, JackalPackageSpec, PinnedChart};
use crate::oci::Digest;

pub use check::{check, check_file, manifests_of};
pub(crate) use check::{digest_of_sha256, oci_reference};
pub use images::{ChartTexts, images_of_chart, images_of_manifests, merge_values, missing_images};
pub use layout::archive;
pub(super) use listing::Listing;

/// The manifests, charts and files of a component.
#[derive(Clone, Default)]
pub struct ComponentContent {
    /// For each group of manifests of the spec, in its order, its texts: each is YAML of one or several documents.
    pub manifests: Vec<Vec<Bytes>>,
    /// The charts of the spec, in its order.
    pub charts: Vec<ChartContent>,
    /// The files of the spec, in its order.
    pub files: Vec<FileContent>,
}

/// The tars of the components of `spec` that need one.
pub fn archives(spec: &JackalPackageSpec, found: &[ComponentContent]) -> Vec<Archive> {
    let components = spec.components.iter().zip(found);
    components
        .filter_map(|(component, found)| archive(component, found))
        .collect()
}

/// The charts of `spec` with their digests.
pub fn pinned(spec: &JackalPackageSpec, found: &[ComponentContent]) -> Vec<PinnedChart> {
    let components = spec.components.iter().zip(found);
    let of_component = |(component, found): (&ComponentSpec, &ComponentContent)| -> Vec<PinnedChart> {
        let charts = component.charts.iter().zip(&found.charts);
        charts
            .map(|(spec, chart)| PinnedChart {
                component: component.name.clone(),
                name: spec.name.clone(),
                version: spec.version.clone(),
                digest: chart.digest.to_string(),
            })
            .collect()
    };
    components.flat_map(of_component).collect()
}

/// A chart that was found.
#[derive(Clone)]
pub struct ChartContent {
    /// The digest of its manifest in an OCI registry, or of its archive in a chart repository.
    pub digest: Digest,
    /// Its archive, a compressed tar.
    pub origin: Arc<dyn EntrySource>,
    /// The values that it is installed with, as YAML; later ones override earlier ones.
    pub values: Vec<Bytes>,
    /// The images that it names, as it writes them.
    pub images: Vec<String>,
}

/// A file that was found.
#[derive(Clone)]
pub struct FileContent {
    /// Its digest.
    pub digest: Digest,
    /// Its content.
    pub origin: Arc<dyn EntrySource>,
}
