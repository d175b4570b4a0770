//! Distinguishes packages from images, which may have the same name.

use super::{Content, Descriptor, Document, media_type};

/// The operating system of packages in the index of their architectures.
pub const PACKAGE_OS: &str = "multi";

impl Descriptor {
    /// Whether this index entry is a package, of any architecture.
    pub fn is_package(&self) -> bool {
        self.platform.as_ref().is_some_and(|platform| platform.os == PACKAGE_OS)
    }
}

impl Document {
    /// Whether this is a package: its manifest, or an index that lists only packages.
    pub fn is_package(&self) -> bool {
        match &self.content {
            Content::Index(index) => !index.manifests.is_empty() && index.manifests.iter().all(Descriptor::is_package),
            Content::Manifest(manifest) => {
                let config = manifest.config.media_type.as_str();
                matches!(config, media_type::ZARF_CONFIG | media_type::JACKAL_CONFIG)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, Index, Manifest};

    fn manifest(config: &str) -> Document {
        let config = Descriptor::new(config, Digest::of(b"{}"), 2);
        Document::of_manifest(Manifest::new(config, Vec::new())).unwrap()
    }

    fn index(systems: &[&str]) -> Document {
        let entry = |os: &&str| Descriptor {
            platform: format!("{os}/amd64").parse().ok(),
            ..manifest(media_type::OCI_CONFIG).descriptor
        };
        Document::of_index(Index::new(systems.iter().map(entry).collect())).unwrap()
    }

    #[test]
    fn packages_are_distinguished_from_images() {
        for package in [
            manifest(media_type::ZARF_CONFIG),
            manifest(media_type::JACKAL_CONFIG),
            index(&["multi"]),
            index(&["multi", "multi"]),
        ] {
            assert!(package.is_package(), "{package:?}");
        }
        for image in [
            manifest(media_type::OCI_CONFIG),
            manifest(media_type::DOCKER_CONFIG),
            manifest("application/vnd.cncf.helm.config.v1+json"),
            index(&[]),
            index(&["linux", "multi"]),
            index(&["linux"]),
        ] {
            assert!(!image.is_package(), "{image:?}");
        }
    }
}
