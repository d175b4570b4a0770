//! Packages and images that are read from an archive instead of their own sources.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a package comes from that was built elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageOrigin {
    /// The archive with the package. It is copied unchanged: its images, and the package itself as the artifact.
    pub archive: ArchiveSource,
}

/// An archive with one package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveSource {
    /// The archive in a registry, `[registry/]repository[:tag][@digest]`: a package of Jackal or Zarf, or an artifact whose only
    /// layer is a package file. A tag is resolved again at each interval.
    #[schemars(length(min = 1, max = 1024))]
    pub oci: String,
}

/// Where an image comes from that is not read from its own registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageOrigin {
    /// The archive with the image. A JackalPackage with `from` sets it for each of its images.
    pub archive: ArchivedImage,
}

/// An image in an archive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.oci.contains('@')").message("from.archive.oci names the archive by its digest: write repository@sha256:...")
)]
pub struct ArchivedImage {
    /// The archive in a registry, by its digest: `[registry/]repository@digest`.
    #[schemars(length(min = 1, max = 1024))]
    pub oci: String,
    /// The digest of the image's manifest or index in the archive.
    #[schemars(regex(pattern = "^sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})$"))]
    pub digest: String,
}
