//! The content of a component other than images: manifests, Helm charts and files.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::common::null_as_default;

/// Manifests that a deployment of the package applies as a separate release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.inline) != has(self.configMapRef)").message("set exactly one of inline and configMapRef")
)]
pub struct ManifestSpec {
    /// The name of this group of manifests, unique in the component.
    #[schemars(
        length(min = 1, max = 40),
        regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    )]
    pub name: String,
    /// The namespace of manifests that name none. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
    /// The manifests as YAML, in one or several documents. Kustomizations must be rendered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_000_000))]
    pub inline: Option<String>,
    /// A ConfigMap in the package's namespace with the manifests: the entry `key`, or without it all entries in the order of
    /// their keys. It is read again at each interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ConfigMapReference>,
}

/// A Helm chart that a deployment of the package installs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChartSpec {
    /// The name of the chart, unique in the component. In a chart repository, it is the name in the index.
    #[schemars(
        length(min = 1, max = 40),
        regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    )]
    pub name: String,
    /// The exact version of the chart: `6.4.0`, not `6.x`.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9][A-Za-z0-9.+_-]*$"))]
    pub version: String,
    /// The namespace that the chart is installed in.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: String,
    /// The name of the release. Default: `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 53), regex(pattern = "^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub release_name: Option<String>,
    /// The URL of the chart, `oci://registry/path/chart`, with `@sha256:…` to pin its content, or the `https://` URL of a
    /// chart repository.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^(oci|https?)://[^\\s/?#@]+[^\\s#]*$"))]
    pub url: String,
    /// The values of the chart. They override those of `valuesFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "values")]
    pub values: Option<Map<String, Value>>,
    /// Values from ConfigMaps. Later ones override earlier ones.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub values_from: Vec<ValuesSource>,
}

/// The source of a chart's values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValuesSource {
    /// A ConfigMap in the package's namespace; without a `key`, its entry `values.yaml` is used. It is read again at each
    /// interval.
    pub config_map_ref: ConfigMapReference,
}

/// A file that a deployment of the package writes on the machine where it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.url) != has(self.inline)").message("set exactly one of url and inline"),
    validation = Rule::new("has(self.url) == has(self.sha256)").message("sha256 is the checksum of a downloaded file: set it if and only if url is set")
)]
pub struct FileSpec {
    /// The path that the deployment writes the file to, absolute or relative to its working directory.
    #[schemars(length(min = 1, max = 1024))]
    pub target: String,
    /// The URL that the file is downloaded from, `https://…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), regex(pattern = "^https?://[^\\s/?#@]+(/[^\\s#]*)?$"))]
    pub url: Option<String>,
    /// The SHA-256 checksum of the download, as 64 hexadecimal digits. Other content is rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Fa-f0-9]{64}$"))]
    pub sha256: Option<String>,
    /// The content of the file as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1_000_000))]
    pub inline: Option<String>,
    /// Whether the file is executable.
    #[serde(default)]
    pub executable: bool,
}

/// A ConfigMap in the same namespace, or one of its entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapReference {
    /// The name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key of the entry in its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,
}

/// The schema of an object with arbitrary fields.
fn values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// The content of a chart in the package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PinnedChart {
    /// The component that contains the chart.
    pub component: String,
    /// The name of the chart.
    pub name: String,
    /// The version of the chart.
    pub version: String,
    /// The digest of its manifest in an OCI registry, or of its archive in a chart repository.
    pub digest: String,
}

/// An image that the manifests or charts of a component name and that is missing in its `images`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MissingImage {
    /// The component whose content names the image.
    pub component: String,
    /// The image, as it would be written in `images`.
    pub image: String,
    /// The content that names the image: `manifest NAME` or `chart NAME`.
    pub found_in: String,
}
