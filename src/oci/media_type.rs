//! Media types of the OCI image specification and of docker's schema 2.

/// An OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The content `{}`, for artifacts without config.
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
/// Docker's manifest list, the predecessor of the index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The config of a Zarf package.
pub const ZARF_CONFIG: &str = "application/vnd.zarf.config.v1+json";
/// The config of a Jackal package.
pub const JACKAL_CONFIG: &str = "application/vnd.jackal.config.v1+json";

/// The `Accept` header for manifests: all types that can be copied unchanged.
pub const MANIFESTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// The one of [`MANIFESTS`] that `text` names, as in a descriptor or `Content-Type`: in any case (RFC 6838, section
/// 4.2), with optional parameters.
pub fn manifest_type(text: &str) -> Option<&'static str> {
    let bare = text.split(';').next().unwrap_or(text).trim();
    MANIFESTS.into_iter().find(|known| known.eq_ignore_ascii_case(bare))
}

/// Whether `media_type` is an index.
pub fn is_index(media_type: &str) -> bool {
    matches!(manifest_type(media_type), Some(OCI_INDEX | DOCKER_LIST))
}

/// Whether `media_type` is a manifest or index.
pub fn is_manifest(media_type: &str) -> bool {
    manifest_type(media_type).is_some()
}

/// Whether `media_type` is a known blob type: a layer, a configuration, or the configuration of BuildKit's cache, whose
/// index lists layers.
pub fn is_blob(media_type: &str) -> bool {
    const PREFIXES: [&str; 3] = [
        "application/vnd.oci.image.layer.",
        "application/vnd.docker.image.rootfs.",
        "application/vnd.buildkit.cacheconfig.",
    ];
    const TYPES: [&str; 3] = [OCI_CONFIG, DOCKER_CONFIG, OCI_EMPTY];
    PREFIXES.iter().any(|prefix| has_prefix(media_type, prefix))
        || TYPES.iter().any(|known| known.eq_ignore_ascii_case(media_type))
}

/// Whether a layer is available only from its publisher (`urls`), so that registries may refuse or lack its content.
pub fn is_foreign_layer(media_type: &str) -> bool {
    has_prefix(media_type, "application/vnd.docker.image.rootfs.foreign.diff")
        || has_prefix(media_type, "application/vnd.oci.image.layer.nondistributable")
}

/// Whether `media_type` starts with `prefix`, ignoring case.
fn has_prefix(media_type: &str, prefix: &str) -> bool {
    let beginning = media_type.get(..prefix.len());
    beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_parameters_are_ignored() {
        assert_eq!(
            manifest_type("Application/VND.oci.image.index.v1+JSON"),
            Some(OCI_INDEX)
        );
        assert_eq!(
            manifest_type(&format!(" {DOCKER_MANIFEST} ; charset=utf-8")),
            Some(DOCKER_MANIFEST)
        );
        assert_eq!(manifest_type("application/vnd.oci.image.index.v1+jsonx"), None);
        assert!(is_blob("application/vnd.OCI.image.layer.v1.tar+gzip") && !is_blob("application/x"));
        assert!(is_foreign_layer(
            "application/vnd.docker.image.rootfs.FOREIGN.diff.tar.gzip"
        ));
        assert!(!is_foreign_layer("application/vnd.docker.image.rootfs.diff.tar.gzip"));
    }
}
