//! What a component holds beside its images: manifests, Helm charts and files.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::common::null_as_default;

/// Manifests that a deployment of the package applies, as one release of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.inline) != has(self.configMapRef)").message("manifests are written either inline or in a ConfigMap: set exactly one of inline and configMapRef")
)]
pub struct ManifestSpec {
    /// The name of this group of manifests, once in a component.
    #[schemars(
        length(min = 1, max = 40),
        regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    )]
    pub name: String,
    /// The namespace for those that name none. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
    /// The manifests, as YAML of one or several documents. What a kustomization makes is written here as it was
    /// rendered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_000_000))]
    pub inline: Option<String>,
    /// A ConfigMap of the package's namespace that holds them: one entry by its `key`, or without it every entry, in
    /// the order of their keys. It is looked at again at each interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ConfigMapReference>,
}

/// A Helm chart that a deployment of the package installs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChartSpec {
    /// The chart's name, once in a component; in a chart repository it is found by it.
    #[schemars(
        length(min = 1, max = 40),
        regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    )]
    pub name: String,
    /// The chart's version, in full: `6.4.0`, not `6.x`.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9][A-Za-z0-9.+_-]*$"))]
    pub version: String,
    /// The namespace that it is installed in.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: String,
    /// The name of its release. Default: `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 53), regex(pattern = "^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub release_name: Option<String>,
    /// Where it is: `oci://registry/path/chart`, with `@sha256:…` where its content is to be fixed, or the `https://`
    /// address of a chart repository.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^(oci|https?)://[^\\s/?#@]+[^\\s#]*$"))]
    pub url: String,
    /// Values that it is installed with, over those of `valuesFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "values")]
    pub values: Option<Map<String, Value>>,
    /// Values from elsewhere; later ones are laid over earlier ones.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub values_from: Vec<ValuesSource>,
}

/// Where values of a chart come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValuesSource {
    /// A ConfigMap of the package's namespace; without a `key`, its entry `values.yaml`. It is looked at again at
    /// each interval.
    pub config_map_ref: ConfigMapReference,
}

/// A file that a deployment of the package writes to the disk of the machine where it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.url) != has(self.inline)").message("a file is either fetched or written here: set exactly one of url and inline"),
    validation = Rule::new("has(self.url) == has(self.sha256)").message("sha256 says what a fetched file must be: set it with url, and only there")
)]
pub struct FileSpec {
    /// Where the deployment writes it: the file's path, absolute or below the folder where the deployment runs.
    #[schemars(length(min = 1, max = 1024))]
    pub target: String,
    /// Where it is fetched, `https://…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), regex(pattern = "^https?://[^\\s/?#@]+(/[^\\s#]*)?$"))]
    pub url: Option<String>,
    /// The SHA-256 of what is fetched, as 64 hexadecimal digits. Other content is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Fa-f0-9]{64}$"))]
    pub sha256: Option<String>,
    /// The file's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1_000_000))]
    pub inline: Option<String>,
    /// Whether it is a program.
    #[serde(default)]
    pub executable: bool,
}

/// A ConfigMap in the same namespace, or one of its entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapReference {
    /// The ConfigMap's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The entry in its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,
}

/// An object that holds anything.
fn values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// The content of a chart that the package took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PinnedChart {
    /// The component that holds it.
    pub component: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The digest of its manifest in an OCI registry, or of its archive in a chart repository.
    pub digest: String,
}

/// An image that a component's manifests or charts name, and that its `images` lack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MissingImage {
    /// The component that names it.
    pub component: String,
    /// The image, as it would be written in `images`.
    pub image: String,
    /// What names it: `manifest NAME` or `chart NAME`.
    pub found_in: String,
}
