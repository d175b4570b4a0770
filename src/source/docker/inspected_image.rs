//! How an engine describes an image. Which fields are absent differs between versions.

use serde::Deserialize;

use crate::oci::{Descriptor, Digest, Platform};

/// A manifest of an image in a containerd store, and whether its content is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// The manifest; that of an image has its platform.
    pub descriptor: Descriptor,
    /// Whether the store holds the manifest and everything that it refers to.
    pub available: bool,
}

/// An image, as an engine describes it.
#[derive(Clone, Debug)]
pub struct InspectedImage {
    /// The digest of the configuration (classic store), or of the manifest or index (containerd store).
    pub image_id: Digest,
    /// The digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// The size in bytes of the unpacked layers, or of the content of one platform.
    pub size: Option<u64>,
    /// The platform; of an index, the one that suits the engine best.
    pub platform: Option<Platform>,
    /// The manifest or index, where the engine keeps one (containerd store, API 1.48 or newer).
    pub descriptor: Option<Descriptor>,
    /// The manifests of an index or the only one (containerd store, API 1.48 or newer).
    pub manifests: Option<Vec<StoredManifest>>,
    /// `name@digest` of registries that the image was pulled from or pushed to.
    pub repo_digests: Vec<String>,
    /// `name:tag`, in docker's familiar form.
    pub repo_tags: Vec<String>,
}

impl InspectedImage {
    // Whether `digest` is one of this image: its ID, its manifest, one that its index lists, or its digest in a registry.
    pub(super) fn has_digest(&self, digest: &Digest) -> bool {
        let listed = || {
            self.manifests
                .iter()
                .flatten()
                .any(|manifest| manifest.descriptor.digest == *digest)
        };
        let known = || {
            self.repo_digests
                .iter()
                .any(|name| name.split_once('@').is_some_and(|(_, known)| known == digest.as_str()))
        };
        self.image_id == *digest
            || self.descriptor.as_ref().is_some_and(|root| root.digest == *digest)
            || listed()
            || known()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InspectAnswer {
    id: Digest,
    #[serde(default)]
    size: Option<i64>,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    #[serde(default)]
    os_version: String,
    #[serde(default, rename = "RootFS")]
    root_fs: RootFs,
    #[serde(default)]
    descriptor: Option<Descriptor>,
    #[serde(default)]
    manifests: Option<Vec<ManifestSummary>>,
    #[serde(default)]
    repo_digests: Vec<String>,
    #[serde(default)]
    repo_tags: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(default)]
    layers: Vec<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestSummary {
    descriptor: Descriptor,
    #[serde(default)]
    available: bool,
    #[serde(default)]
    image_data: Option<ImageData>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageData {
    #[serde(default)]
    platform: Option<Platform>,
}

impl From<ManifestSummary> for StoredManifest {
    fn from(summary: ManifestSummary) -> Self {
        let mut descriptor = summary.descriptor;
        if !descriptor.platform.as_ref().is_some_and(Platform::is_specified) {
            descriptor.platform = summary.image_data.and_then(|image| image.platform);
        }
        Self {
            descriptor,
            available: summary.available,
        }
    }
}

impl From<InspectAnswer> for InspectedImage {
    fn from(image: InspectAnswer) -> Self {
        let non_empty = |text: String| (!text.is_empty()).then_some(text);
        // An image without an architecture was imported by an old engine.
        let platform = Platform {
            architecture: image.architecture,
            os: image.os,
            variant: non_empty(image.variant),
            os_version: non_empty(image.os_version),
            ..Platform::default()
        };
        Self {
            image_id: image.id,
            diff_ids: image.root_fs.layers,
            size: image.size.and_then(|size| u64::try_from(size).ok()),
            platform: platform.is_specified().then_some(platform),
            descriptor: image.descriptor,
            manifests: image
                .manifests
                .map(|all| all.into_iter().map(StoredManifest::from).collect()),
            repo_digests: image.repo_digests,
            repo_tags: image.repo_tags,
        }
    }
}
