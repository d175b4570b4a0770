//! The index of packages that exists under a tag: one entry for each architecture.

use super::artifact::Artifact;
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Descriptor, Digest, Document, Index};
use crate::transfer::Destination;

/// The index under a tag.
pub(super) struct ExistingIndex {
    pub descriptor: Descriptor,
    pub index: Index,
}

impl ExistingIndex {
    /// Reads the index under `tag`; `None` if nothing exists there, or a package without an index.
    ///
    /// # Errors
    /// [`Fault::conflict`] if something else has the tag: it is not replaced.
    pub async fn read(repository: &dyn Destination, tag: &str) -> Result<Option<Self>, Fault> {
        let Some(document) = repository.document(tag).await? else {
            return Ok(None);
        };
        match &document.content {
            Content::Index(index) if index.manifests.iter().all(Descriptor::is_package) => Ok(Some(Self {
                descriptor: document.descriptor.clone(),
                index: index.clone(),
            })),
            // A package that was pushed without an index does not list other architectures.
            Content::Manifest(_) if document.is_package() => Ok(None),
            _ => Err(Fault::conflict(format!(
                "`{}:{tag}` exists already and is not a package; give the package another name or version, or delete what exists there",
                repository.name()
            ))),
        }
    }

    /// The digest of the package's manifest for `architecture`.
    pub fn manifest_for(&self, architecture: &str) -> Option<&Digest> {
        let platform = Artifact::platform(architecture);
        let mut entries = self.index.manifests.iter();
        let entry = entries.find(|entry| entry.platform.as_ref() == Some(&platform))?;
        Some(&entry.digest)
    }

    /// The other entries, besides `entry`.
    pub fn others(&self, entry: &Descriptor) -> Vec<Descriptor> {
        let others = self.index.manifests.iter();
        others.filter(|other| other.digest != entry.digest).cloned().collect()
    }

    pub fn contains(&self, entry: &Descriptor) -> bool {
        self.index
            .manifests
            .iter()
            .any(|known| known.digest == entry.digest && known.platform == entry.platform)
    }
}

/// `index` as a document.
pub(super) fn index_document(index: Index) -> Result<Document, Fault> {
    Document::of_index(index).map_err(|error| Fault::stalled(Reason::PackageFailed, error.to_string()))
}
