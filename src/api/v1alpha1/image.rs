//! `JackalImage`: one image to copy to one destination.

// clippy mistakes the attributes of several printer columns for duplicates.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::archive::ImageOrigin;
use super::common::{
    DeletionPolicy, LocalReference, NamingPolicy, RegistrySpec, SourceKind, SourceRegistrySpec, WrittenRepository,
    null_as_default,
};
use super::display;
use super::package::ImagePolicy;
use super::period::Period;
use super::verification::VerifySpec;
use crate::oci::{Compression, Naming, Reference, ReferrersPolicy};

/// One image to copy to the registry inside the cluster. A JackalPackage creates one for each of its images; create one
/// yourself to mirror a single image.
#[derive(Clone, Debug, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "jackal.dev",
    version = "v1alpha1",
    kind = "JackalImage",
    plural = "jackalimages",
    shortname = "jkimg",
    category = "jackal",
    namespaced,
    status = "JackalImageStatus",
    derive = "PartialEq",
    doc = "One image to copy to the registry inside the cluster.",
    selectable = ".spec.source",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.displaySize"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.display"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image", priority = 1),
    printcolumn(name = "Source", type_ = "string", json_path = ".spec.source", priority = 1),
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".status.assignment.nodeName",
        priority = 1
    ),
    printcolumn(name = "Method", type_ = "string", json_path = ".status.method", priority = 1),
    printcolumn(name = "In cluster", type_ = "string", json_path = ".status.name", priority = 1),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.digest", priority = 1),
    printcolumn(name = "Holder", type_ = "string", json_path = ".status.claim.holder", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    )
)]
#[x_kube(
    validation = Rule::new("!(has(self.nodeName) && has(self.nodeSelector))").message("nodeName and nodeSelector are mutually exclusive: set one of them"),
    validation = Rule::new("!(has(self.nodeName) || has(self.nodeSelector)) || (has(self.source) && self.source != 'Registry')").message("nodeName and nodeSelector select the node whose engine is read: set source: Docker or Containerd, or remove them"),
    validation = Rule::new("!has(self.policy) || !has(self.source) || self.source == 'Registry'").message("policy selects a tag of a registry: set source: Registry, or remove policy"),
    validation = Rule::new("!has(self.policy) || !self.image.matches('[:@][^/]*$')").message("policy selects the tag: remove tag and digest from image, or remove policy"),
    validation = Rule::new("!has(self.from) || !(has(self.policy) || has(self.verify) || has(self.platforms) || has(self.source) && self.source != 'Registry')").message("from reads the whole image from an archive: remove source, policy, platforms and verify")
)]
pub struct JackalImageSpec {
    /// The image, as a pod would name it: `[registry/]repository[:tag][@digest]`.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,
    /// Where the image is read from.
    #[serde(default)]
    pub source: SourceKind,
    /// Reads the image from an archive, instead of the registry that its name says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ImageOrigin>,
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
    /// The registry that the image is copied to.
    #[serde(default)]
    pub registry: RegistrySpec,
    /// Secrets of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` with credentials for the source registry.
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
    /// How often the source is checked for changes, such as `30m` or `1d`. Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Period>,
    /// How long a transfer may make no progress before it is aborted and retried, such as `90s`. Default: 2m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_timeout: Option<Period>,
    /// Stops all work on the image, including a running transfer.
    #[serde(default)]
    pub suspend: bool,
    /// How the image's name in the cluster is made.
    #[serde(default)]
    pub naming: NamingPolicy,
    /// Whether naming Jackal or Zarf also pushes the plain tag, without the checksum of the name. A package disables it for
    /// the second of two images that would get the same plain tag.
    #[serde(default = "yes")]
    pub plain_tag: bool,
    /// The compression of layers that the source provides uncompressed.
    #[serde(default)]
    pub compression: Compression,
    /// Whether signatures, attestations and SBOMs that refer to the image in its source registry are copied with it.
    #[serde(default)]
    pub referrers: ReferrersPolicy,
    /// What happens to the pushed image when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// The signatures that the image must have at its source before it is copied. Every entry that matches the image must
    /// be satisfied.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub verify: Vec<VerifySpec>,
}

impl JackalImageSpec {
    /// What is read from a registry: the image, or the archive that has it. None if that is not a valid reference.
    pub fn source_reference(&self) -> Option<Reference> {
        let image = self.from.as_ref().map_or(&self.image, |origin| &origin.archive.oci);
        image.parse().ok()
    }

    /// Whether the image may be read from the engine of the node with this name and labels.
    pub fn selects(&self, node: &str, labels: &BTreeMap<String, String>) -> bool {
        let named = self.node_name.as_ref().is_none_or(|name| name == node);
        let selector = self.node_selector.as_ref();
        named && selector.is_none_or(|selector| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
    }
}

fn yes() -> bool {
    true
}

/// The observed state of the image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JackalImageStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions: Ready; Reconciling or Stalled while true; Verified if the image must have signatures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The process that transfers the image now. It prevents duplicate work; correctness does not depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// What the engine of each selected node has under the image's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["nodeName"]))]
    pub candidates: Vec<Candidate>,
    /// The node that the image is read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<Assignment>,
    /// The tag that the policy selected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<SelectedTag>,
    /// The progress of the transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<TransferProgress>,
    /// How the content was read from the source, or Unchanged if nothing had to be copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Why a faster method was not used for all of the image, or what was left out of it: FolderUnreadable, ExportRefused
    /// or ContentAdjusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method_reason: Option<String>,
    /// The same as text: what could not be read, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method_message: Option<String>,
    /// How the image's name in the cluster is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naming: Option<Naming>,
    /// The name of the image that pods use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The digest of the manifest or index in the registry inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The repository that the image was written to. If the spec now names another one, the image is not deleted there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<WrittenRepository>,
    /// The image already existed in the registry under this name: this object did not write it and never deletes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// The digest of the image's manifest at its source, or the image ID in a docker engine that stores no manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_digest: Option<String>,
    /// The total size in bytes of its blobs and manifests in the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// The size as text, such as `85 MiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_size: Option<String>,
    /// The last value of the requestedAt annotation that was handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
}

/// The process that transfers an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The pod or process that holds the claim.
    pub holder: String,
    /// When the claim was last renewed, by the holder's clock. Other processes only check whether it changes.
    pub renew_time: MicroTime,
}

/// What the engine of one node has under the image's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// The name of the node.
    pub node_name: String,
    /// The image ID, or the digest of the manifest, in the engine; absent if the engine has no image of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// Why the image cannot be read on the node, such as SourceFailed or DigestMismatch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same as text, such as an engine that does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The generation of the spec that this entry describes.
    pub observed_generation: i64,
}

/// The node that an image is read from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// The name of the node.
    pub node_name: String,
    /// The image ID, or the digest of the manifest, in its engine.
    pub image_id: String,
    /// The object that owns the plain tag; the image does not get it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_tag_owner: Option<String>,
}

/// The selected tag of an image with a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelectedTag {
    /// The tag.
    pub tag: String,
    /// Why it was selected: NewestInRange, LastAlphabetical or HighestNumber.
    pub reason: String,
    /// The same as text, with the range or pattern.
    pub message: String,
    /// The generation of the spec that the tag was selected for; absent if a later selection failed. Nothing is copied then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The value of the requestedAt annotation that the selection handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
}

/// The progress of a transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransferProgress {
    /// The bytes that are in the registry.
    pub done_bytes: i64,
    /// The size of the image at its source in bytes, as far as it is known.
    pub total_bytes: i64,
    /// The bytes written to the registry per second since the previous status write; absent at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<i64>,
    /// The progress as text, such as `41% 85 MiB/s`.
    #[serde(default)]
    pub display: String,
}

impl TransferProgress {
    /// `done` bytes of `total`, which is 0 while unknown, at `rate` bytes per second.
    pub fn new(done: u64, total: u64, rate: Option<u64>) -> Self {
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Self {
            done_bytes: bytes(done),
            total_bytes: bytes(total),
            bytes_per_second: rate.map(bytes),
            display: display::progress(done, total, rate),
        }
    }
}
