//! The status of a `JackalPackage`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::WrittenRepository;
use super::component::{MissingImage, PinnedChart};
use crate::oci::Naming;

/// The observed state of the package.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JackalPackageStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The version of the package: `spec.version`, or the last tag of the image in `versionFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The conditions: Ready; Reconciling or Stalled while true; SBOMsComplete if SBOMs are generated; Signed if the package
    /// is signed; Verified if images must have signatures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The artifact in the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
    /// What the artifact omits because an earlier version contains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differential: Option<Differential>,
    /// The number of images by state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// How the names of the images in the cluster are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naming: Option<Naming>,
    /// The images, with their names in the cluster and their states.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<PackagedImage>,
    /// The charts, with the content that the artifact contains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charts: Vec<PinnedChart>,
    /// Images that the manifests and charts of a component name and that neither it nor a required component contains, at
    /// most 200. Such a component may not run in the cluster; the package is built nevertheless.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_images: Vec<MissingImage>,
    /// The repository of the package's artifacts, including those in `history` that name no other repository. If the spec now
    /// names another one, they are not deleted there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<WrittenRepository>,
    /// The last artifacts, newest first, with the reason for each build.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// The artifact that is being written, as `version@digest`. It is recorded before the first byte, so that the artifact is
    /// known to belong to this package even if the writing process is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publishing: Option<String>,
    /// Content to be deleted from the registry: by `retention`, each entry after its time, and with the package if
    /// `deletionPolicy` is Delete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub garbage: Vec<Garbage>,
    /// The last value of the requestedAt annotation that was handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
}

/// The artifact of a package.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// The digest of the artifact's manifest.
    pub digest: String,
    /// `version@digest`.
    pub revision: String,
    /// The URL of the artifact: `oci://address/repository:version`.
    pub url: String,
    /// The total size of its content in bytes.
    pub size: i64,
    /// The size as text, such as `812 MiB`.
    #[serde(default)]
    pub display_size: String,
    /// When the digest last changed.
    pub last_update_time: Time,
}

/// The number of images of a package by state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// The number of distinct images.
    pub total: i32,
    /// The number of images that are in the registry.
    pub ready: i32,
    /// The number of images whose last attempt failed.
    pub failed: i32,
    /// Ready and total images as text: `2/5`.
    #[serde(default)]
    pub display: String,
}

impl Counts {
    /// `ready` and `failed` images of `total`.
    pub fn new(total: usize, ready: usize, failed: usize) -> Self {
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        Self {
            total: number(total),
            ready: number(ready),
            failed: number(failed),
            display: format!("{ready}/{total}"),
        }
    }
}

/// The state of an image of a package.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImageState {
    /// The image is in the registry.
    Ready,
    /// The image is being transferred.
    Transferring,
    /// The last attempt failed.
    Failed,
    /// The transfer has not started, or the image is suspended.
    #[default]
    Waiting,
}

/// An image of the package and its name in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackagedImage {
    /// The image as the package names it; without a tag if a policy selects it.
    pub image: String,
    /// The name of the image that pods use.
    pub name: String,
    /// The digest of its manifest or index, once it is in the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The name of its JackalImage.
    pub resource: String,
    /// The state of the image.
    #[serde(default)]
    pub state: ImageState,
    /// The reason of the state: Succeeded, Transferring, Pending, Suspended, or the reason of the failure in the Ready
    /// condition of its JackalImage.
    #[serde(default)]
    pub reason: String,
    /// The failure, in at most 300 bytes; the Ready condition of its JackalImage has the full text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The tag that the policy selected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<Selected>,
}

/// A tag that a policy selected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selected {
    /// The tag.
    pub tag: String,
    /// Why it was selected: NewestInRange, LastAlphabetical or HighestNumber.
    pub reason: String,
    /// The same as text, with the range or pattern.
    #[serde(default)]
    pub message: String,
}

/// An artifact that was built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// `version@digest`.
    pub revision: String,
    /// The digest of the artifact's manifest.
    pub digest: String,
    /// The difference to the previous artifact, the first of these that applies: FirstBuild, VersionChanged, ImagesChanged,
    /// ChartsChanged, SBOMsAdded, ContentChanged or RegistryChanged. Interrupted if writing it was not completed.
    pub reason: String,
    /// All differences as text.
    #[serde(default)]
    pub message: String,
    /// When it was built.
    pub completed_at: Time,
    /// The artifact already existed in the registry: this package did not write it and never deletes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// The repository of the artifact, if it is not the one in `registry`, because the package moved since. The artifact is
    /// not deleted there. If both registries have the same address, the endpoint is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
}

/// Content of the package in the registry that is to be deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Garbage {
    /// The content: `address/repository:tag@digest` of an artifact, or the name of an image in the cluster.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Why it is deleted: RevisionLimit, SBOMsAdded or PackageDeletion.
    pub reason: String,
    /// The same as text.
    #[serde(default)]
    pub message: String,
    /// It is deleted after this time. Absent if it is deleted with the package, or was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_after: Option<Time>,
    /// Why it was kept when it was due. The deletion is retried when the package changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<RetainedReason>,
}

/// Why content that was to be deleted is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetainedReason {
    /// DeletionUnsupported, SharedManifest, TagChanged, TooManyTags or InvalidRecord.
    pub reason: String,
    /// The reason as text, and what to do about it.
    pub message: String,
}

impl RetainedReason {
    /// Creates a reason.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// What a differential package omits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Differential {
    /// The version that contains the omitted images.
    pub version: String,
    /// The digest of that version's manifest.
    pub digest: String,
    /// The number of omitted images.
    pub omitted_images: i32,
    /// The size of the omitted content in bytes.
    pub saved_bytes: i64,
}
