//! `JackalPackage`, which users write.

// clippy mistakes the attributes of several printer columns for duplicates.
#![allow(clippy::duplicated_attributes)]

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::archive::{ArchivedImage, PackageOrigin};
use super::common::{
    DeletionPolicy, LocalReference, NamingPolicy, RegistrySpec, SourceKind, SourceRegistrySpec, null_as_default,
};
use super::component::{ChartSpec, FileSpec, ManifestSpec};
use super::package_status::JackalPackageStatus;
use super::period::Period;
use super::verification::{SigningSpec, VerifySpec};
use crate::oci::{Compression, ReferrersPolicy};

/// The maximum length of an image reference in characters.
const NAME_LIMIT: u32 = 1024;

/// A package: components with their images, which are copied to the registry inside the cluster, and one OCI artifact that
/// contains them all and that the commands of Jackal and Zarf pull and deploy.
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
    doc = "A package of images, copied to the registry inside the cluster.",
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
    validation = Rule::new("has(self.from) || has(self.version) != has(self.versionFrom)").message("set exactly one of version and versionFrom"),
    validation = Rule::new("has(self.from) || has(self.components)").message("set components, or from for a package that was built elsewhere"),
    validation = Rule::new("!has(self.from) || !(has(self.version) || has(self.versionFrom) || has(self.components) || has(self.description) || has(self.sbom) || has(self.differentialFrom) || has(self.signing))").message("a package from an archive is copied unchanged: remove version, versionFrom, components, description, sbom, differentialFrom and signing"),
    validation = Rule::new("!has(self.from) || !has(self.verify) || self.verify.all(entry, !has(entry.images))").message("verify applies to the whole package if it comes from an archive: remove verify[].images")
)]
pub struct JackalPackageSpec {
    /// Takes a package that was built elsewhere, instead of building one: it has the version, components and images. Its name must be
    /// the name of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PackageOrigin>,
    /// The version of the package, which is the tag of its artifact. Set either this or `versionFrom`, or `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9_][A-Za-z0-9._-]*$')").message("version is the tag of the artifact: use only letters, digits, '.', '_' and '-' (registries do not allow '+')"))]
    pub version: Option<String>,
    /// The image whose tag is the version of the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_from: Option<VersionFrom>,
    /// A description of the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub description: Option<String>,
    /// The architecture that the package declares, such as `arm64`. Default: amd64. With `from`, the architecture to take if the
    /// archive has packages for several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z0-9]+$"))]
    pub architecture: Option<String>,
    /// The components of the package. Their names must be unique. Set either this or `from`.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 256))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub components: Vec<ComponentSpec>,
    /// The registry that the images and the artifact are copied to.
    #[serde(default)]
    pub registry: RegistrySpec,
    /// Secrets of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` with credentials for source registries.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub image_pull_secrets: Vec<LocalReference>,
    /// A ServiceAccount whose imagePullSecrets are used too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Certificates for source registries, chart repositories and file servers, by host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["host"]))]
    pub source_registries: Vec<SourceRegistrySpec>,
    /// How often the sources are checked for changes, such as `30m` or `1d`. Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Period>,
    /// How long a transfer may make no progress before it is aborted and retried, such as `90s`. Default: 2m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_timeout: Option<Period>,
    /// Stops all work on the package, including running transfers.
    #[serde(default)]
    pub suspend: bool,
    /// How the names of the images in the cluster are made.
    #[serde(default)]
    pub naming: NamingPolicy,
    /// The tool whose commands the artifact is for.
    #[serde(default)]
    pub format: PackageFormat,
    /// The compression of layers that the source provides uncompressed.
    #[serde(default)]
    pub compression: Compression,
    /// Whether signatures, attestations and SBOMs that refer to an image in its source registry are copied with it.
    #[serde(default)]
    pub referrers: ReferrersPolicy,
    /// What happens to pushed images and artifacts when the package is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// SBOMs of the images. Default: they are generated if the operator is configured for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<SbomSpec>,
    /// Makes a differential package, which omits images that an earlier version contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differential_from: Option<DifferentialFrom>,
    /// How many artifacts of the package are kept in the registry. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Signs the package and, optionally, its images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing: Option<SigningSpec>,
    /// The signatures that images must have at their source. Every entry that matches an image must be satisfied. With `from`, the
    /// signatures that the package must have in itself.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub verify: Vec<VerifySpec>,
}

/// The tool whose commands the artifact is for. It decides the file name and kind of the definition, and the media types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PackageFormat {
    /// Jackal if names are made as Jackal's webhook expects them, else Zarf.
    #[default]
    Auto,
    /// For Jackal's commands: the definition is `jackal.yaml`.
    Jackal,
    /// For Zarf's commands: the definition is `zarf.yaml`.
    Zarf,
}

/// The SBOMs of the images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.enabled || !self.required").message("sbom.required needs SBOMs, and sbom.enabled: false disables them: remove one of the two")
)]
pub struct SbomSpec {
    /// Whether SBOMs of the images are generated (SPDX 2.3, CycloneDX 1.6 and syft JSON), stored as referrers of the images,
    /// and added to the package.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Whether the package becomes Ready, and has an artifact, only after all SBOMs exist. Otherwise they are generated
    /// afterwards, and the condition SBOMsComplete shows their progress.
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
    /// The violations of entries of `images` that are not images; an API server does not reject them.
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

    /// The version; empty if it comes from `versionFrom` or from an archive.
    pub fn version(&self) -> &str {
        self.version.as_deref().unwrap_or_default()
    }

    /// The SBOMs to generate; none if they are disabled. A package without `sbom` gets them if this process is `able` to
    /// generate them.
    pub fn wanted_sboms(&self, able: bool) -> Option<SbomSpec> {
        match &self.sbom {
            Some(sbom) => sbom.enabled.then(|| sbom.clone()),
            None => able.then(SbomSpec::default),
        }
    }
}

/// The source of a package's version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionFrom {
    /// An image of the package that has a policy, written as in the component. The version is its selected tag.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,
}

/// The earlier version that a differential package is based on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DifferentialFrom {
    /// A version of this package that exists in the registry. Images that it contains with the same name and content are
    /// omitted from the artifact, except those tagged latest, stable or nightly. All images are still copied to the registry.
    #[schemars(length(min = 1, max = 128))]
    pub version: String,
}

/// Which artifacts of a package are kept in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// The number of artifacts to keep, including the current one. Older ones in `status.history` are first listed in
    /// `status.garbage`, and deleted after the time that is listed there.
    #[schemars(range(min = 1, max = 100))]
    pub revisions: i32,
}

/// A component of a package.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentSpec {
    /// The name of the component, unique in the package.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// A description of the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub description: Option<String>,
    /// Whether a deployment of the package must include the component.
    #[serde(default)]
    pub required: bool,
    /// The images of the component, each as a string such as `nginx:1.25`, or as an object with these fields:
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub images: Vec<ImageEntry>,
    /// Manifests that a deployment applies after the charts.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub manifests: Vec<ManifestSpec>,
    /// Helm charts that a deployment installs in this order.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub charts: Vec<ChartSpec>,
    /// Files that a deployment writes, before the charts, to the machine where it runs.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["target"]))]
    pub files: Vec<FileSpec>,
}

impl ComponentSpec {
    /// Whether the component contains only images.
    pub fn holds_images_only(&self) -> bool {
        self.manifests.is_empty() && self.charts.is_empty() && self.files.is_empty()
    }
}

/// An image of a component, as it is written.
///
/// A structural schema cannot allow one of two types. So the API server knows the fields of the object and checks each
/// against its schema, without rules. Other invalid entries are found by [`JackalPackageSpec::invalid_images`] and when the
/// package is planned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImageEntry {
    /// The name of the image.
    Name(String),
    /// The image as an object.
    Spec(ImageSpec),
    /// Neither. It is kept, so that one wrong field does not make the whole object undecodable.
    Invalid(Value),
}

impl ImageEntry {
    /// The image, if the entry is valid.
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
        // The limits of a string entry.
        schema.insert("minLength".to_owned(), Value::from(1));
        schema.insert("maxLength".to_owned(), Value::from(NAME_LIMIT));
        if let Some(schema) = schema.as_object_mut() {
            remove_rules(schema);
        }
        schema
    }
}

/// Removes the CEL rules of a schema. The API server rejects rules under a schema without a type if there are rules above
/// it, because their types are unknown.
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
    /// Where the image is read from.
    #[serde(default, deserialize_with = "null_as_default")]
    pub source: SourceKind,
    /// The node whose engine the image is read from. Default: any node that runs the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node_name: Option<String>,
    /// The labels of the nodes whose engine the image may be read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// The platforms to copy of a multi-platform image, such as `linux/amd64`. Default: all.
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
    /// Selects the tag of an image that is named without one. The selection is repeated at each interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<ImagePolicy>,
    /// The archive that the image of a package with `from` is read from. Not a field of the API: users do not list these images.
    #[serde(skip)]
    pub archive: Option<ArchivedImage>,
}

impl ImageSpec {
    /// The image with this name and default fields.
    pub fn named(name: &str) -> Self {
        Self {
            image: name.to_owned(),
            ..Self::default()
        }
    }
}

/// How the tag of an image is selected from the tags in its registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.semver) != has(self.pattern)").message("set exactly one of semver and pattern"),
    validation = Rule::new("!has(self.order) || has(self.pattern)").message("order applies to pattern only: remove order, or set pattern instead of semver")
)]
pub struct ImagePolicy {
    /// Selects the newest version in a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semver: Option<SemverPolicy>,
    /// Selects the last of the tags that match this regular expression. Tags are compared by its first capture group, or by
    /// the whole match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub pattern: Option<String>,
    /// How tags that match `pattern` are ordered. Default: Alphabetical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<TagOrder>,
}

/// Selects the newest version among the tags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SemverPolicy {
    /// The allowed versions, such as `>=6.0 <7`, `^6`, `~6.1`, `6.x`, `1.2 - 2`, or several ranges separated by `||`. Tags are
    /// versions with or without `v`, with two or three numbers. Pre-releases match only if the range names one, such as
    /// `>=6.0-0`.
    #[schemars(length(min = 1, max = 256))]
    pub range: String,
}

/// How tags are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TagOrder {
    /// In alphabetical order.
    #[default]
    Alphabetical,
    /// By number; tags whose compared part is not a number are ignored.
    Numerical,
}
