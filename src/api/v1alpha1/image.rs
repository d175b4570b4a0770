//! `JackalImage`: one image to bring to one destination.

// clippy takes the parts of several printer columns for repetitions.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{
    DeletionPolicy, LocalReference, NamingPolicy, RegistrySpec, SourceKind, SourceRegistrySpec, WrittenRepository,
    null_as_default,
};
use super::display;
use super::package::ImagePolicy;
use super::period::Period;
use super::verification::VerifySpec;
use crate::oci::{Compression, Naming, ReferrersPolicy};

/// One image to bring to the registry inside the cluster. A JackalPackage makes one for each of its images;
/// a person makes one to mirror a single image.
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
    doc = "One image to bring to the registry inside the cluster.",
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
    validation = Rule::new("!(has(self.nodeName) && has(self.nodeSelector))").message("nodeName and nodeSelector both choose the node: set one of them"),
    validation = Rule::new("!(has(self.nodeName) || has(self.nodeSelector)) || (has(self.source) && self.source != 'Registry')").message("nodeName and nodeSelector choose the node whose engine is read; with source: Registry there is none"),
    validation = Rule::new("!has(self.policy) || !has(self.source) || self.source == 'Registry'").message("policy chooses among the tags of a registry: set source: Registry, or remove policy"),
    validation = Rule::new("!has(self.policy) || !self.image.matches('[:@][^/]*$')").message("policy chooses the tag: write the image without tag and digest, or remove policy")
)]
pub struct JackalImageSpec {
    /// The image, as a pod would name it: `[registry/]repository[:tag][@digest]`.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,
    /// Where it is read from.
    #[serde(default)]
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
    /// The registry that it is brought to.
    #[serde(default)]
    pub registry: RegistrySpec,
    /// Secrets of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` with the credentials for the source registry.
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
    /// How often the source is looked at again, such as `30m` or `1d`. Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Period>,
    /// How long a transfer may stand still before it is given up and tried again, such as `90s`. Default: 2m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_timeout: Option<Period>,
    /// Stop all work on it, a running transfer included.
    #[serde(default)]
    pub suspend: bool,
    /// How its name in the cluster is made.
    #[serde(default)]
    pub naming: NamingPolicy,
    /// With naming Jackal or Zarf: also push the tag as it is, without the checksum of the name. A package
    /// turns it off for the second of two images that would get the same one.
    #[serde(default = "yes")]
    pub plain_tag: bool,
    /// How layers are stored that have no compressed form yet.
    #[serde(default)]
    pub compression: Compression,
    /// Whether signatures, attestations and SBOMs that refer to the image in its source registry are brought along.
    #[serde(default)]
    pub referrers: ReferrersPolicy,
    /// What happens to the pushed image when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Whose signatures the image must have at its source before it is brought. Every entry that is about it must be
    /// satisfied.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub verify: Vec<VerifySpec>,
}

impl JackalImageSpec {
    /// Whether the image may be read from the engine of a node of that name and labels.
    pub fn selects(&self, node: &str, labels: &BTreeMap<String, String>) -> bool {
        let named = self.node_name.as_ref().is_none_or(|name| name == node);
        let selector = self.node_selector.as_ref();
        named && selector.is_none_or(|selector| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
    }
}

fn yes() -> bool {
    true
}

/// What is known of the image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JackalImageStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, and Reconciling or Stalled while true. Verified where the image must have signatures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Who moves the image now. It saves double work and nothing depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// What each node that may be read holds under the image's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["nodeName"]))]
    pub candidates: Vec<Candidate>,
    /// The candidate that is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<Assignment>,
    /// The tag that the image's policy chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<SelectedTag>,
    /// How far the transfer is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<TransferProgress>,
    /// How the bytes left their source, or Unchanged when none had to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Why a better way was not taken, or not for all of the image, or what was left out of it: FolderUnreadable,
    /// ExportRefused or ContentAdjusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method_reason: Option<String>,
    /// The same for people: what could not be read, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method_message: Option<String>,
    /// How the name is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naming: Option<Naming>,
    /// The name that a pod uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The digest of the manifest or index in the registry inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The repository that the image was brought to. Where the spec leads to another one by now, nothing is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<WrittenRepository>,
    /// It stood in the registry under this name before: this object did not write it and never deletes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// What its source calls the image: the digest of its manifest, or the image ID of a docker engine that keeps
    /// no manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_digest: Option<String>,
    /// Bytes of all its blobs and manifests in the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// The same for people, such as `85 MiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_size: Option<String>,
    /// The value of the requestedAt annotation that was answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
}

/// Who moves an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The pod or process that holds it.
    pub holder: String,
    /// When it was renewed last, by the holder's clock. Others only look whether it changes.
    pub renew_time: MicroTime,
}

/// What one node holds under the image's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// The node.
    pub node_name: String,
    /// What its engine calls the image: the image ID, or the digest of its manifest; absent when it holds nothing under the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// The class of what keeps the node from giving the image, such as SourceFailed or DigestMismatch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What keeps the node from giving the image, such as an engine that does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The generation of the spec that was answered.
    pub observed_generation: i64,
}

/// The node that an image is read from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// The node.
    pub node_name: String,
    /// The image ID that it holds.
    pub image_id: String,
    /// Who has the plain tag, which the image then does not get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_tag_owner: Option<String>,
}

/// The tag that is moved of an image with a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelectedTag {
    /// The tag.
    pub tag: String,
    /// Why it is this one: NewestInRange, LastAlphabetical or HighestNumber.
    pub reason: String,
    /// The same for people, with the range or pattern.
    pub message: String,
    /// The generation of the spec that it was chosen for; absent when choosing failed since. Nothing is moved then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The value of the requestedAt annotation that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
}

/// How far a transfer is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransferProgress {
    /// Bytes that are in the registry.
    pub done_bytes: i64,
    /// Bytes that the image has at its source, as far as is known.
    pub total_bytes: i64,
    /// Bytes that came into the registry in each second since the status was written before; absent at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<i64>,
    /// All of that for people, such as `41% 85 MiB/s`.
    #[serde(default)]
    pub display: String,
}

impl TransferProgress {
    /// `done` bytes of `total`, which is 0 while unknown, at `rate` bytes a second.
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
