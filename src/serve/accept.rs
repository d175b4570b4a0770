//! Which manifest a client gets that does not accept indexes. No IO.

use crate::oci::{Digest, Document, media_type};

/// The platform of clients that know no indexes: the one that registries choose for them.
const DEFAULT_PLATFORM: (&str, &str) = ("linux", "amd64");

/// The types that a client accepts for a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    manifests: Vec<&'static str>,
}

impl Accepted {
    /// Reads the `Accept` fields of a request. Weights are ignored, as registries do.
    pub fn of<'f>(fields: impl Iterator<Item = &'f str>) -> Self {
        let types = fields.flat_map(|field| field.split(','));
        let mut manifests: Vec<&'static str> = types.filter_map(media_type::manifest_type).collect();
        manifests.dedup();
        Self { manifests }
    }

    /// What a client gets for a tag of `document`: the document itself, if the client accepts an index or says nothing of manifests.
    /// An old client, which accepts single manifests alone, gets the one for linux/amd64, as from other registries. `Err` where the
    /// index has none that it accepts.
    pub fn chosen(&self, document: &Document) -> Result<Digest, NoManifest> {
        let itself = document.digest().clone();
        let Some(index) = document.index() else {
            return Ok(itself);
        };
        let knows_indexes = self.manifests.iter().any(|known| media_type::is_index(known));
        if self.manifests.is_empty() || knows_indexes {
            return Ok(itself);
        }
        let mut entries = index.manifests.iter().filter(|entry| entry.may_be_image());
        let entry = entries.find(|entry| {
            let kind = media_type::manifest_type(&entry.media_type);
            let platform = entry.platform.as_ref();
            let is_default =
                platform.is_some_and(|platform| (&*platform.os, &*platform.architecture) == DEFAULT_PLATFORM);
            is_default && kind.is_some_and(|kind| self.manifests.contains(&kind))
        });
        entry.map(|entry| entry.digest.clone()).ok_or(NoManifest)
    }
}

/// An index without a manifest that the client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoManifest;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
    use crate::oci::{Descriptor, Index};

    fn index(kind: &str, platforms: &[&str]) -> Document {
        let entry = |platform: &&str| Descriptor {
            platform: Some(platform.parse().unwrap()),
            ..Descriptor::new(kind, Digest::of(platform.as_bytes()), 2)
        };
        Document::of_index(Index::new(platforms.iter().map(entry).collect())).unwrap()
    }

    fn chosen(accept: &[&str], document: &Document) -> Result<Digest, NoManifest> {
        Accepted::of(accept.iter().copied()).chosen(document)
    }

    #[test]
    fn the_original_is_served_to_whom_it_suits() {
        let document = index(OCI_MANIFEST, &["linux/arm64", "linux/amd64"]);
        let all = format!("{DOCKER_MANIFEST}, {DOCKER_LIST};q=0.5");
        for accept in [
            &[][..],
            &["*/*"],
            &["application/json"],
            &[OCI_INDEX],
            &[&all],
            &[OCI_MANIFEST, DOCKER_LIST],
        ] {
            assert_eq!(chosen(accept, &document).as_ref(), Ok(document.digest()), "{accept:?}");
        }
    }

    #[test]
    fn old_clients_get_the_manifest_of_their_platform() {
        let document = index(DOCKER_MANIFEST, &["linux/arm64", "linux/amd64"]);
        assert_eq!(chosen(&[DOCKER_MANIFEST], &document), Ok(Digest::of(b"linux/amd64")));
        assert_eq!(chosen(&[OCI_MANIFEST], &document), Err(NoManifest));
        let other = index(DOCKER_MANIFEST, &["linux/arm64"]);
        assert_eq!(chosen(&[DOCKER_MANIFEST], &other), Err(NoManifest));
    }
}
