//! Media types of the OCI image specification and of docker's schema 2.

/// An OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The content `{}`, which stands where an artifact has no config.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// An OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// An uncompressed OCI layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A gzip-compressed OCI layer.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A zstd-compressed OCI layer.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker's image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's list of manifests, the elder form of an index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The config of a package that Zarf's commands read.
pub const ZARF_CONFIG: &str = "application/vnd.zarf.config.v1+json";
/// The config of a package that Jackal's commands read.
pub const JACKAL_CONFIG: &str = "application/vnd.jackal.config.v1+json";

/// What a registry is told in `Accept` when a manifest is asked for: everything that we can carry unchanged.
pub const MANIFESTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// Whether `media_type` names a list of manifests rather than one image.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// Whether `media_type` names a document of the manifest endpoint, an index included.
pub fn is_manifest(media_type: &str) -> bool {
    MANIFESTS.contains(&media_type)
}

/// Whether `media_type` is one of a blob, where it is known at all: a layer, a configuration, or the configuration of
/// BuildKit's cache, whose index lists layers.
pub fn is_blob(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
        || media_type.starts_with("application/vnd.buildkit.cacheconfig.")
        || matches!(media_type, OCI_CONFIG | DOCKER_CONFIG | OCI_EMPTY)
}

/// Whether a layer lies with its publisher only (`urls`), so that registries refuse or lack its bytes.
pub fn is_foreign_layer(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.image.rootfs.foreign.diff")
        || media_type.starts_with("application/vnd.oci.image.layer.nondistributable")
}
