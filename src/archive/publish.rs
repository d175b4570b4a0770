//! Publishes the package of an archive whose images are in the registry already.

use std::collections::{BTreeMap, HashMap};

use super::contents::Archive;
use super::coordinates::Coordinates;
use super::load::{content_size, store_blob};
use super::order::files_of;
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, distinct_blobs};
use crate::package::{PublishedPackage, publish_manifest, published_index};
use crate::transfer::{Destination, Progress};

/// An image in the registry: the digest of its manifest or index, and its repository.
pub type PublishedImage = (Digest, String);

/// The package of an archive.
pub struct ArchivedPackage<'a> {
    archive: &'a Archive,
    coordinates: Coordinates,
}

impl<'a> ArchivedPackage<'a> {
    /// The only package of `archive`.
    ///
    /// # Errors
    /// A stalled fault, if it has not one package.
    pub fn of(archive: &'a Archive) -> Result<Self, Fault> {
        match archive.packages() {
            [package] => Ok(Self {
                archive,
                coordinates: Coordinates::of(package, "")?,
            }),
            packages => {
                let message = format!("the archive has {} packages instead of one", packages.len());
                Err(Fault::stalled(Reason::SourceFailed, message))
            }
        }
    }

    /// Its name, version and architecture.
    pub fn coordinates(&self) -> &Coordinates {
        &self.coordinates
    }

    /// The digest of its manifest.
    pub fn manifest(&self) -> &'a Digest {
        self.archive.packages()[0].manifest.digest()
    }

    /// What its publication in `repository` is, if it is published there already.
    ///
    /// # Errors
    /// A fault of the registry, or one that says that something else has its tag.
    pub async fn published(&self, repository: &dyn Destination) -> Result<Option<PublishedPackage>, Fault> {
        let Coordinates { tag, architecture, .. } = &self.coordinates;
        let package = &self.archive.packages()[0];
        let index = published_index(&package.manifest, architecture, repository, tag).await?;
        Ok(index.map(|index| self.result(index, None)))
    }

    /// Publishes it in `repository`. The blobs of `images`, which are in the same registry, are mounted from there. The archive must
    /// have been opened with its images.
    ///
    /// # Errors
    /// A fault that names the file.
    pub async fn publish(
        &self,
        images: &[PublishedImage],
        repository: &dyn Destination,
    ) -> Result<PublishedPackage, Fault> {
        let package = &self.archive.packages()[0];
        let manifest = package.manifest.manifest();
        let known = self.repositories(images);
        let mut moved = 0;
        let progress = Progress::default();
        let mut files = manifest.map(files_of).transpose()?.unwrap_or_default();
        files.sort_by_key(|file| self.archive.offset(&file.digest));
        for file in &files {
            let within = |fault: Fault| fault.with_context(format_args!("file `{}` of the package", file.path));
            let blob = Descriptor::new("application/octet-stream", file.digest.clone(), file.size);
            if repository.holds(&file.digest).await?.is_some() {
                continue;
            }
            if let Some(from) = known.get(&file.digest)
                && repository.mount(&blob, from).await?
            {
                continue;
            }
            let content = || self.archive.read(&file.digest);
            let stored = store_blob(repository, &file.digest, file.size, content, &progress).await;
            moved += stored.map_err(within)?;
        }
        if let Some(manifest) = manifest {
            moved += repository.keep(&manifest.config.digest, package.config.clone()).await?;
        }
        let Coordinates { tag, architecture, .. } = &self.coordinates;
        let index = publish_manifest(&package.manifest, architecture, repository, tag).await?;
        Ok(self.result(index, Some(moved)))
    }

    /// The repository of each blob of `images`.
    fn repositories<'i>(&self, images: &'i [PublishedImage]) -> HashMap<Digest, &'i str> {
        let mut known = HashMap::new();
        for (root, repository) in images {
            let documents = self.archive.manifests(root);
            let blobs = distinct_blobs(&documents).into_iter();
            known.extend(blobs.map(|blob| (blob.digest.clone(), repository.as_str())));
        }
        known
    }

    fn result(&self, index: Digest, moved: Option<u64>) -> PublishedPackage {
        let package = &self.archive.packages()[0];
        let own = package.manifest.descriptor.size + package.config.len() as u64;
        PublishedPackage {
            manifest: package.manifest.digest().clone(),
            index,
            size: content_size(package).saturating_add(own),
            moved_bytes: moved.unwrap_or_default(),
            saved_bytes: 0,
            changed: moved.is_some(),
            subjects: Vec::new(),
            others: Vec::new(),
            images: BTreeMap::new(),
        }
    }
}
