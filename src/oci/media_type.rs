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

/// The one of [`MANIFESTS`] that `text` names, as a descriptor or as a `Content-Type` writes it: letters may have another
/// case (RFC 6838, section 4.2), and parameters may follow.
pub fn manifest_type(text: &str) -> Option<&'static str> {
    let bare = text.split(';').next().unwrap_or(text).trim();
    MANIFESTS.into_iter().find(|known| known.eq_ignore_ascii_case(bare))
}

/// Whether `media_type` names a list of manifests rather than one image.
pub fn is_index(media_type: &str) -> bool {
    matches!(manifest_type(media_type), Some(OCI_INDEX | DOCKER_LIST))
}

/// Whether `media_type` names a document of the manifest endpoint, an index included.
pub fn is_manifest(media_type: &str) -> bool {
    manifest_type(media_type).is_some()
}

/// Whether `media_type` is one of a blob, where it is known at all: a layer, a configuration, or the configuration of
/// BuildKit's cache, whose index lists layers.
pub fn is_blob(media_type: &str) -> bool {
    const PREFIXES: [&str; 3] = [
        "application/vnd.oci.image.layer.",
        "application/vnd.docker.image.rootfs.",
        "application/vnd.buildkit.cacheconfig.",
    ];
    const TYPES: [&str; 3] = [OCI_CONFIG, DOCKER_CONFIG, OCI_EMPTY];
    PREFIXES.iter().any(|prefix| begins(media_type, prefix))
        || TYPES.iter().any(|known| known.eq_ignore_ascii_case(media_type))
}

/// Whether a layer lies with its publisher only (`urls`), so that registries refuse or lack its bytes.
pub fn is_foreign_layer(media_type: &str) -> bool {
    begins(media_type, "application/vnd.docker.image.rootfs.foreign.diff")
        || begins(media_type, "application/vnd.oci.image.layer.nondistributable")
}

/// Whether `media_type` begins with `prefix`, whatever the case of its letters.
fn begins(media_type: &str, prefix: &str) -> bool {
    let beginning = media_type.get(..prefix.len());
    beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_may_have_another_case_and_parameters_follow() {
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
