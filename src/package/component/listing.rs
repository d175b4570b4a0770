//! A component's manifests, charts and files in the package's definition: Zarf's schema, with the paths in the component's
//! tar for content that has no other address.

use serde::Serialize;

use super::{ComponentContent, layout};
use crate::api::v1alpha1::ComponentSpec;

/// A component's manifests, charts and files, as the definition lists them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(in crate::package) struct Listing {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    manifests: Vec<Manifest>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    charts: Vec<Chart>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<File>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Manifest {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    files: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Chart {
    name: String,
    version: String,
    url: String,
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    release_name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values_files: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct File {
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    shasum: Option<String>,
    target: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    executable: bool,
}

impl Listing {
    /// The listing of `component`, whose content was `found`.
    pub fn of(component: &ComponentSpec, found: &ComponentContent) -> Self {
        let manifests = component.manifests.iter().zip(&found.manifests);
        let charts = component.charts.iter().zip(&found.charts);
        Self {
            manifests: manifests
                .map(|(spec, texts)| Manifest {
                    name: spec.name.clone(),
                    namespace: spec.namespace.clone(),
                    files: (0..texts.len())
                        .map(|index| layout::manifest(&spec.name, index))
                        .collect(),
                })
                .collect(),
            charts: charts
                .map(|(spec, chart)| Chart {
                    name: spec.name.clone(),
                    version: spec.version.clone(),
                    url: spec.url.clone(),
                    namespace: spec.namespace.clone(),
                    release_name: spec.release_name.clone(),
                    values_files: (0..chart.values.len())
                        .map(|index| layout::values(spec, index))
                        .collect(),
                })
                .collect(),
            files: component
                .files
                .iter()
                .enumerate()
                .map(|(index, spec)| File {
                    source: spec.url.clone().unwrap_or_else(|| layout::file(index, &spec.target)),
                    shasum: spec.sha256.as_ref().map(|sha256| sha256.to_ascii_lowercase()),
                    target: spec.target.clone(),
                    executable: spec.executable,
                })
                .collect(),
        }
    }
}
