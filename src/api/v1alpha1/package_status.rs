//! The status of a `JackalPackage`: what the operator says of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::WrittenRepository;
use super::component::{MissingImage, PinnedChart};
use crate::oci::Naming;

/// What is known of the package.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JackalPackageStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The version that the package has: `spec.version`, or the tag that `versionFrom` gave last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Ready, and Reconciling or Stalled while true. SBOMsComplete where SBOMs are made, Signed where the package is
    /// signed, Verified where images must have signatures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The artifact in the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
    /// What the artifact leaves out, because an earlier version holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differential: Option<Differential>,
    /// How many images there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// How the images' names in the cluster are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naming: Option<Naming>,
    /// Every image with its name in the cluster and its state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<PackagedImage>,
    /// Every chart with the content that the artifact holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charts: Vec<PinnedChart>,
    /// Images that the manifests and charts of a component name and that neither it nor a required component brings,
    /// at most 200. Such a component may not run in the cluster; the package is built all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_images: Vec<MissingImage>,
    /// The repository that the package's artifacts are in, those of `history` that name no other one. Where the spec leads
    /// to another one by now, nothing is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<WrittenRepository>,
    /// The last artifacts, newest first, and why each was built.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// The artifact that is being written, as `version@digest`: noted before its first byte, so that it is known for
    /// this package's own also when whoever wrote it was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publishing: Option<String>,
    /// What is to be deleted from the registry: by `retention`, each after its time, and with the package where
    /// `deletionPolicy` is Delete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub garbage: Vec<Garbage>,
    /// The value of the requestedAt annotation that was answered last.
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
    /// Where it is: `oci://address/repository:version`.
    pub url: String,
    /// Bytes of all that it holds.
    pub size: i64,
    /// The same for people, such as `812 MiB`.
    #[serde(default)]
    pub display_size: String,
    /// When the digest changed last.
    pub last_update_time: Time,
}

/// How many images a package has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Distinct images.
    pub total: i32,
    /// Those that are in the registry.
    pub ready: i32,
    /// Those whose last try failed.
    pub failed: i32,
    /// Those that are in the registry, of all, for people: `2/5`.
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

/// What happens to an image of a package.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImageState {
    /// It is in the registry.
    Ready,
    /// It is on its way.
    Transferring,
    /// The last try failed.
    Failed,
    /// Nobody moves it yet, or it is suspended.
    #[default]
    Waiting,
}

/// An image of the package and its place in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackagedImage {
    /// The image as the package names it; without the tag where that is chosen.
    pub image: String,
    /// The name that a pod uses.
    pub name: String,
    /// The digest of its manifest or index, once it is in the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The JackalImage that brings it.
    pub resource: String,
    /// What happens to it.
    #[serde(default)]
    pub state: ImageState,
    /// The reason of the state: Succeeded, Transferring, Pending, Suspended, or that of the failure, as the Ready
    /// condition of its JackalImage has it.
    #[serde(default)]
    pub reason: String,
    /// What failed, in at most 300 bytes; the Ready condition of its JackalImage says it in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The tag that the image's policy chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<Selected>,
}

/// A tag that a policy chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selected {
    /// The tag.
    pub tag: String,
    /// Why it is this one: NewestInRange, LastAlphabetical or HighestNumber.
    pub reason: String,
    /// The same for people, with the range or pattern.
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
    /// What was different from the artifact before, the first of these that applies: FirstBuild, VersionChanged,
    /// ImagesChanged, ChartsChanged, SBOMsAdded, ContentChanged or RegistryChanged. Interrupted where its writing was begun and not ended.
    pub reason: String,
    /// All that was different.
    #[serde(default)]
    pub message: String,
    /// When it was built.
    pub completed_at: Time,
    /// It stood in the registry before: this package did not write it and never deletes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// The repository that it is in, where that is not the one of `registry`: the package has moved since. It is
    /// not deleted there. Of a registry that pods call the same it has the host that received it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
}

/// Something of the package in the registry that is to be deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Garbage {
    /// What is deleted: `address/repository:tag@digest` of an artifact, or an image's name in the cluster.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Why it is deleted: RevisionLimit, SBOMsAdded or PackageDeletion.
    pub reason: String,
    /// The same for people.
    #[serde(default)]
    pub message: String,
    /// It is deleted after that time. Absent where it goes with the package, or was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_after: Option<Time>,
    /// Why it was kept when it was to be deleted. It is looked at again when the package changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<RetainedReason>,
}

/// Why something stays that was to be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetainedReason {
    /// DeletionUnsupported, SharedManifest, TagChanged, TooManyTags or InvalidRecord.
    pub reason: String,
    /// What keeps it, and what to do about that.
    pub message: String,
}

impl RetainedReason {
    /// Kept for `reason`.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// What a differential package leaves out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Differential {
    /// The version that holds it.
    pub version: String,
    /// The digest of that version's manifest.
    pub digest: String,
    /// How many images are left out.
    pub omitted_images: i32,
    /// Bytes that the package would hold besides.
    pub saved_bytes: i64,
}
