//! `JackalPackage`: what a person writes.

// clippy takes the parts of several printer columns for repetitions.
#![allow(clippy::duplicated_attributes)]

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::common::{
    DeletionPolicy, LocalReference, NamingPolicy, RegistrySpec, SourceKind, SourceRegistrySpec, null_as_default,
};
use super::component::{ChartSpec, FileSpec, ManifestSpec};
use super::package_status::JackalPackageStatus;
use super::period::Period;
use super::verification::{SigningSpec, VerifySpec};
use crate::oci::{Compression, ReferrersPolicy};

/// The longest name of an image in characters.
const NAME_LIMIT: u32 = 1024;

/// A package: components with their images, brought to the registry inside the cluster, and one OCI artifact
/// that holds them all and that Jackal's and Zarf's own commands pull and deploy.
#[derive(Clone, Debug, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "jackal.dev",
    version = "v1alpha1",
    kind = "JackalPackage",
    plural = "jackalpackages",
    shortname = "jkpkg",
    category = "jackal",
    namespaced,
    status = "JackalPackageStatus",
    derive = "PartialEq",
    doc = "A package of images, brought to the registry inside the cluster.",
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Images", type_ = "string", json_path = ".status.counts.display"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.artifact.displaySize"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(
        name = "Revision",
        type_ = "string",
        json_path = ".status.artifact.revision",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    )
)]
#[x_kube(
    validation = Rule::new("has(self.version) != has(self.versionFrom)").message("the package needs one version: set version, or versionFrom, not both")
)]
pub struct JackalPackageSpec {
    /// The package's version, which is the tag of its artifact. Either this or `versionFrom` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9_][A-Za-z0-9._-]*$')").message("version is the tag of the artifact: letters, digits, '.', '_' and '-' only (a registry takes no '+')"))]
    pub version: Option<String>,
    /// An image whose tag is the package's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_from: Option<VersionFrom>,
    /// What the package is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub description: Option<String>,
    /// The architecture that the package says it is for, such as `arm64`. Default: amd64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z0-9]+$"))]
    pub architecture: Option<String>,
    /// The parts of the package; each has a name of its own.
    #[schemars(length(min = 1, max = 256))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub components: Vec<ComponentSpec>,
    /// The registry that everything is brought to.
    #[serde(default)]
    pub registry: RegistrySpec,
    /// Secrets of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` with the credentials for source registries.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub image_pull_secrets: Vec<LocalReference>,
    /// A ServiceAccount whose imagePullSecrets are used as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// How single source registries, chart repositories and file servers are reached, where that is not as usual.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["host"]))]
    pub source_registries: Vec<SourceRegistrySpec>,
    /// How often the sources are looked at again, such as `30m` or `1d`. Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Period>,
    /// How long a transfer may stand still before it is given up and tried again, such as `90s`. Default: 2m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_timeout: Option<Period>,
    /// Stop all work on the package, running transfers included.
    #[serde(default)]
    pub suspend: bool,
    /// How the images' names in the cluster are made.
    #[serde(default)]
    pub naming: NamingPolicy,
    /// Whose commands the artifact is for.
    #[serde(default)]
    pub format: PackageFormat,
    /// How layers are stored that have no compressed form yet.
    #[serde(default)]
    pub compression: Compression,
    /// Whether signatures, attestations and SBOMs that refer to an image in its source registry are brought along with
    /// it.
    #[serde(default)]
    pub referrers: ReferrersPolicy,
    /// What happens to what was pushed when the package is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// SBOMs of the images. Default: they are made where the operator is set up to make them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<SbomSpec>,
    /// Make a differential package: leave out what an earlier version of it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differential_from: Option<DifferentialFrom>,
    /// How many of the package's artifacts stay in the registry. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Sign the package, and its images if asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing: Option<SigningSpec>,
    /// Whose signatures the images must have. Every entry that is about an image must be satisfied.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub verify: Vec<VerifySpec>,
}

/// Which commands the artifact is for: the name and kind of its definition, and its media types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PackageFormat {
    /// Jackal where names are made as Jackal's webhook expects them, Zarf elsewhere.
    #[default]
    Auto,
    /// For Jackal's commands: `jackal.yaml`.
    Jackal,
    /// For Zarf's commands: `zarf.yaml`.
    Zarf,
}

/// What is wanted of the images' SBOMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.enabled || !self.required").message("sbom.required demands SBOMs, and sbom.enabled: false forbids them: remove one of the two")
)]
pub struct SbomSpec {
    /// Make SBOMs of the images (SPDX 2.3, CycloneDX 1.6 and syft's own form), store them beside the images as referrers,
    /// and put them into the package.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The package is not Ready, and has no artifact, before all SBOMs are there. Without it they are made afterwards,
    /// and the condition SBOMsComplete says how far they are.
    #[serde(default)]
    pub required: bool,
}

impl Default for SbomSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            required: false,
        }
    }
}

fn yes() -> bool {
    true
}

impl JackalPackageSpec {
    /// What is wrong with entries of `images` that are no images, which no API server refuses.
    pub fn invalid_images(&self) -> Vec<String> {
        let images = || self.components.iter().flat_map(|component| &component.images);
        if !images().any(|entry| matches!(entry, ImageEntry::Invalid(_))) {
            return Vec::new();
        }
        let object = serde_json::json!({ "spec": self });
        let found = crate::api::schema::violations(&object, &super::schema::<JackalPackage>());
        match found.is_empty() {
            true => vec![
                "spec.components[].images: write each image by its name, or as an object with the field image"
                    .to_owned(),
            ],
            false => found.iter().map(ToString::to_string).collect(),
        }
    }

    /// The version; empty while it is another's to say.
    pub fn version(&self) -> &str {
        self.version.as_deref().unwrap_or_default()
    }

    /// What is wanted of SBOMs, by who is `able` to make them or not: `None` for nothing. A package that does not speak of
    /// them wants what can be had.
    pub fn wanted_sboms(&self, able: bool) -> Option<SbomSpec> {
        match &self.sbom {
            Some(sbom) => sbom.enabled.then(|| sbom.clone()),
            None => able.then(SbomSpec::default),
        }
    }
}

/// Where a package's version comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionFrom {
    /// An image of the package that has a policy, written as there. The version is its chosen tag.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,
}

/// The earlier version that a differential package is made against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DifferentialFrom {
    /// A version of this package that stands in the registry. Images that it holds, with the same content under the same
    /// name, are left out of the artifact; those tagged latest, stable or nightly never are. All images are brought to the
    /// registry all the same.
    #[schemars(length(min = 1, max = 128))]
    pub version: String,
}

/// Which artifacts of a package stay in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// The number of artifacts that stay, the current one counted. Older ones of `status.history` are shown in
    /// `status.garbage` first, and deleted after the time that stands there.
    #[schemars(range(min = 1, max = 100))]
    pub revisions: i32,
}

/// A part of a package.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentSpec {
    /// The component's name, once in a package.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What the component is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub description: Option<String>,
    /// Whether a deployment of the package may leave it out.
    #[serde(default)]
    pub required: bool,
    /// Its images, each by its name alone, such as `nginx:1.25`, or as an object with these fields:
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub images: Vec<ImageEntry>,
    /// Manifests that a deployment applies, after the charts.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub manifests: Vec<ManifestSpec>,
    /// Helm charts that a deployment installs, in this order.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub charts: Vec<ChartSpec>,
    /// Files that a deployment writes first, to the machine where it runs.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["target"]))]
    pub files: Vec<FileSpec>,
}

impl ComponentSpec {
    /// Whether it holds nothing beside images.
    pub fn holds_images_only(&self) -> bool {
        self.manifests.is_empty() && self.charts.is_empty() && self.files.is_empty()
    }
}

/// An image of a component, as it is written.
///
/// A structural schema has no type for either of two types. So the API server knows the fields of the object and holds
/// them against their own schemas, without rules; what else stands there is found by
/// [`JackalPackageSpec::invalid_images`] and by who plans the package.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImageEntry {
    /// The image's name alone.
    Name(String),
    /// All that is said of it.
    Spec(ImageSpec),
    /// Neither. It is read so that one wrong field does not keep all of the object from being read.
    Invalid(Value),
}

impl ImageEntry {
    /// What it says of the image, if it is an image.
    pub fn spec(&self) -> Option<Cow<'_, ImageSpec>> {
        match self {
            Self::Name(name) => Some(Cow::Owned(ImageSpec::named(name))),
            Self::Spec(spec) => Some(Cow::Borrowed(spec)),
            Self::Invalid(_) => None,
        }
    }
}

impl From<ImageSpec> for ImageEntry {
    fn from(spec: ImageSpec) -> Self {
        Self::Spec(spec)
    }
}

impl JsonSchema for ImageEntry {
    fn schema_name() -> Cow<'static, str> {
        "ImageEntry".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = ImageSpec::json_schema(generator);
        schema.remove("type");
        schema.remove("additionalProperties");
        schema.remove("description");
        schema.insert("x-kubernetes-preserve-unknown-fields".to_owned(), Value::Bool(true));
        // Of the name alone.
        schema.insert("minLength".to_owned(), Value::from(1));
        schema.insert("maxLength".to_owned(), Value::from(NAME_LIMIT));
        if let Some(schema) = schema.as_object_mut() {
            remove_rules(schema);
        }
        schema
    }
}

/// Removes the CEL rules of a schema. Below a schema without a type the API server takes none where there are rules
/// further up: it cannot tell them what they would see.
fn remove_rules(schema: &mut serde_json::Map<String, Value>) {
    schema.remove("x-kubernetes-validations");
    for value in schema.values_mut() {
        if let Value::Object(inner) = value {
            remove_rules(inner);
        }
    }
}

/// An image of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageSpec {
    /// The image, as a pod would name it: `[registry/]repository[:tag][@digest]`.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,
    /// Where it is read from.
    #[serde(default, deserialize_with = "null_as_default")]
    pub source: SourceKind,
    /// The node whose engine is read. Default: any node that runs the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node_name: Option<String>,
    /// The labels of the nodes whose engine may be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// The platforms to take of an image that has several, such as `linux/amd64`. Default: all.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(
            length(max = 64),
            regex(pattern = r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$")
        )
    )]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub platforms: Vec<String>,
    /// Chooses the tag of an image that is written without one, again at each interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<ImagePolicy>,
}

impl ImageSpec {
    /// The image of that name, of which nothing else is said.
    pub fn named(name: &str) -> Self {
        Self {
            image: name.to_owned(),
            ..Self::default()
        }
    }
}

/// How the tag of an image is chosen among those that its registry lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.semver) != has(self.pattern)").message("a policy has one of semver and pattern"),
    validation = Rule::new("!has(self.order) || has(self.pattern)").message("order is for pattern: versions have an order of their own")
)]
pub struct ImagePolicy {
    /// The newest version in a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semver: Option<SemverPolicy>,
    /// The last of the tags that match a regular expression, by its first group, or by all that matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub pattern: Option<String>,
    /// How tags that match `pattern` are ordered. Default: Alphabetical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<TagOrder>,
}

/// Chooses the newest version among the tags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SemverPolicy {
    /// The versions that count, such as `>=6.0 <7`, `^6`, `~6.1`, `6.x`, `1.2 - 2`, or several ranges with `||` between
    /// them. Tags are versions with or without a `v`, with three numbers or two; pre-releases only count where the range
    /// names one, such as `>=6.0-0`.
    #[schemars(length(min = 1, max = 256))]
    pub range: String,
}

/// How tags are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TagOrder {
    /// By their letters.
    #[default]
    Alphabetical,
    /// By the number that is compared; what is no number is no candidate.
    Numerical,
}
