//! Archives in a registry: a package as it is published, or a package file that is the only layer of an artifact. Both are read where
//! they are.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::Handle;

use super::contents::{Archive, Contents};
use super::header::Packed;
use super::image_list::NamedImage;
use super::input::RandomAccess;
use super::members::Extent;
use super::open::contents_of;
use super::order::files_of;
use super::tar_content::TarContent;
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, MANIFEST_LIMIT, Manifest, Reference};
use crate::package::LAYOUT_INDEX;
use crate::registry::{Error, Registry, Repository};
use crate::source::ByteStream;

/// An archive in a registry.
pub struct StoredArchive {
    repository: Repository,
    /// Its manifest.
    manifest: Document,
    /// Its name, for messages.
    name: String,
    /// Its name by digest.
    pinned: String,
}

impl StoredArchive {
    /// Finds the archive `reference` in `registry`. If several architectures have a package under its tag, that of `architecture`.
    ///
    /// # Errors
    /// A fault that names the reference.
    pub async fn find(registry: &Registry, reference: &Reference, architecture: Option<&str>) -> Result<Self, Fault> {
        let repository = registry.repository(reference.repository());
        let name = reference.to_string();
        let mut manifest = read_manifest(&repository, reference.identifier(), &name).await?;
        if manifest.index().is_some() {
            let entry = entry_for(&manifest, architecture, &name)?;
            manifest = read_manifest(&repository, entry.digest.as_str(), &name).await?;
        }
        Ok(Self {
            pinned: format!("{}@{}", reference.name(), manifest.digest()),
            repository,
            manifest,
            name,
        })
    }

    /// Its name by the digest of its manifest.
    pub fn pinned(&self) -> &str {
        &self.pinned
    }

    /// The archive without its images, and the list of these.
    ///
    /// # Errors
    /// A fault that names the archive.
    pub async fn packages(&self) -> Result<(Archive, Vec<NamedImage>), Fault> {
        let mut contents = self.contents().await?;
        let images = std::mem::take(&mut contents.images);
        Ok((self.archive(contents).await?, images))
    }

    /// The archive with all of its images.
    ///
    /// # Errors
    /// A fault that names the archive.
    pub async fn whole(&self) -> Result<Archive, Fault> {
        self.archive(self.contents().await?).await
    }

    /// The archive with the image `digest` alone, under the name `reference`.
    ///
    /// # Errors
    /// A fault that names the archive.
    pub async fn image(&self, reference: &Reference, digest: &Digest) -> Result<Archive, Fault> {
        let mut contents = self.contents().await?;
        let mut images = std::mem::take(&mut contents.images).into_iter();
        let found = images.find(|image| image.root.digest == *digest).ok_or_else(|| {
            let message = format!("{} has no image {digest}; correct from.archive", self.pinned);
            Fault::stalled(Reason::SourceNotFound, message)
        })?;
        contents.images.push(NamedImage {
            name: Some(reference.clone()),
            root: found.root,
        });
        self.archive(contents).await
    }

    async fn archive(&self, contents: Contents) -> Result<Archive, Fault> {
        let archive = Archive::new(contents).await;
        archive.map_err(|fault| fault.with_context(&self.name))
    }

    async fn contents(&self) -> Result<Contents, Fault> {
        let contents = match self.manifest.manifest() {
            Some(manifest) if self.manifest.is_package() => self.published(manifest).await,
            Some(Manifest { layers, .. }) if layers.len() == 1 => self.packed(&layers[0]).await,
            _ => Err(Fault::stalled(
                Reason::SourceFailed,
                "it is neither a package nor an artifact whose only layer is a package file",
            )),
        };
        contents.map_err(|fault| fault.with_context(&self.name))
    }

    /// The contents of a package as it is published: a layer for each file.
    async fn published(&self, manifest: &Manifest) -> Result<Contents, Fault> {
        let config = self.document(&manifest.config).await?;
        let mut blobs = HashMap::with_capacity(manifest.layers.len());
        let (mut placed, mut end, mut images) = (Vec::new(), 0_u64, Vec::new());
        for file in files_of(manifest)? {
            if file.path == LAYOUT_INDEX {
                let list = Descriptor::new("", file.digest.clone(), file.size);
                images = NamedImage::of_index(&self.document(&list).await?)?;
            }
            let extent = Extent {
                offset: end,
                size: file.size,
            };
            if blobs.insert(file.digest.clone(), extent).is_none() {
                placed.push((end, Descriptor::new("", file.digest, file.size)));
                // Also an empty file has a place of its own.
                end = end.saturating_add(file.size.max(1));
            }
        }
        let inline = [
            (self.manifest.digest().clone(), self.manifest.raw.clone()),
            (manifest.config.digest.clone(), config.clone()),
        ];
        Ok(Contents {
            tar: Arc::new(Layers {
                repository: self.repository.clone(),
                name: self.name.clone(),
                placed,
            }),
            packages: vec![Packed {
                manifest: self.manifest.clone(),
                config,
                omitted: std::collections::BTreeMap::new(),
            }],
            blobs,
            inline: inline.into(),
            images,
        })
    }

    /// The contents of the package file `layer`.
    async fn packed(&self, layer: &Descriptor) -> Result<Contents, Fault> {
        let contents = contents_of(Arc::new(Layer {
            repository: self.repository.clone(),
            layer: layer.clone(),
            runtime: Handle::current(),
        }));
        let contents = contents.await?;
        let refused = |what: &str| Err(Fault::stalled(Reason::SourceFailed, what));
        if contents.tar.is_sequential() {
            return refused(
                "it is compressed as one stream, so that single images cannot be read from it; push a file of `jackal-operator pack`, or publish the package itself",
            );
        }
        if contents.packages.iter().any(|package| !package.omitted.is_empty()) {
            return refused("it leaves out content (`pack --have`); run `jackal-operator load` with the file instead");
        }
        Ok(contents)
    }

    /// The content of `blob`, a document.
    async fn document(&self, blob: &Descriptor) -> Result<bytes::Bytes, Fault> {
        let content = self.repository.small_blob(&blob.digest, MANIFEST_LIMIT).await;
        let content = content.map_err(|error| error.into_read_fault(&self.name))?;
        content.ok_or_else(|| {
            let message = format!("its blob {} does not exist; publish it again", blob.digest);
            Fault::retryable(Reason::SourceFailed, message)
        })
    }
}

async fn read_manifest(repository: &Repository, identifier: &str, name: &str) -> Result<Document, Fault> {
    let document = repository.manifest(identifier).await;
    let document = document.map_err(|error| error.into_read_fault(name))?;
    document.ok_or_else(|| {
        let message = format!("{name} does not exist; check the name and the tag, or publish it there");
        Fault::retryable(Reason::SourceNotFound, message)
    })
}

/// The entry of `index` for the package of `architecture`, or its only one.
fn entry_for<'i>(index: &'i Document, architecture: Option<&str>, name: &str) -> Result<&'i Descriptor, Fault> {
    let entries = index.index().map_or(&[] as &[_], |index| index.manifests.as_slice());
    let own = |entry: &Descriptor| entry.platform.as_ref().map(|platform| platform.architecture.clone());
    if !index.is_package() {
        let message = format!("{name} is an index, and not one of packages");
        return Err(Fault::stalled(Reason::SourceFailed, message));
    }
    let is_asked = |entry: &&Descriptor| architecture.is_none() || own(entry).as_deref() == architecture;
    let mut found = entries.iter().filter(is_asked);
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry),
        _ => {
            let all: Vec<String> = entries.iter().filter_map(own).collect();
            let message = format!(
                "{name} has packages for {}; set architecture to one of them",
                all.join(", ")
            );
            Err(Fault::stalled(Reason::InvalidSpec, message))
        }
    }
}

/// The layers of a manifest, one behind the other.
struct Layers {
    repository: Repository,
    name: String,
    /// The layers with their first bytes, in this order.
    placed: Vec<(u64, Descriptor)>,
}

impl TarContent for Layers {
    fn read(&self, offset: u64, length: u64) -> ByteStream<'static> {
        let behind = self.placed.partition_point(|(begin, _)| *begin <= offset);
        let Some((begin, layer)) = behind.checked_sub(1).and_then(|at| self.placed.get(at)) else {
            return stream::empty().boxed();
        };
        let name = self.name.clone();
        // The receiver verifies it: parts of a layer have no digest.
        let content = self.repository.unverified_blob(&layer.digest, layer.size).into_stream();
        let content = content.map_err(move |error: Error| error.into_read_fault(&name));
        let (mut skip, mut left) = (offset - begin, length);
        let content = content.map_ok(move |mut chunk| {
            let skipped = usize::try_from(skip).map_or(chunk.len(), |skip| skip.min(chunk.len()));
            skip -= skipped as u64;
            let _ = chunk.split_to(skipped);
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= chunk.len() as u64;
            chunk
        });
        content
            .try_filter(|chunk| std::future::ready(!chunk.is_empty()))
            .boxed()
    }
}

/// A layer that is a file, which is read at any offset.
struct Layer {
    repository: Repository,
    layer: Descriptor,
    /// Where requests run while a thread waits for the bytes.
    runtime: Handle,
}

impl RandomAccess for Layer {
    fn length(&self) -> u64 {
        self.layer.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.layer.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let range = self.repository.blob_range(&self.layer.digest, offset, buffer.len());
        let bytes = self.runtime.block_on(range).map_err(io::Error::other)?;
        if bytes.len() != buffer.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.copy_from_slice(&bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Index, Platform};

    fn index(architectures: &[&str]) -> Document {
        let entries = architectures.iter().map(|architecture| Descriptor {
            platform: Some(Platform::new("multi", *architecture)),
            ..Descriptor::new(
                crate::oci::media_type::OCI_MANIFEST,
                Digest::of(architecture.as_bytes()),
                1,
            )
        });
        Document::of_index(Index::new(entries.collect())).unwrap()
    }

    #[test]
    fn the_package_of_the_architecture_is_chosen() {
        let chosen = |index: &Document, architecture| {
            let entry = entry_for(index, architecture, "r.example/shop:1");
            entry.map(|entry| entry.digest.clone()).map_err(|fault| fault.message)
        };
        let (one, two) = (index(&["amd64"]), index(&["amd64", "arm64"]));
        assert_eq!(chosen(&one, None), Ok(Digest::of(b"amd64")));
        assert_eq!(chosen(&two, Some("arm64")), Ok(Digest::of(b"arm64")));
        for (index, architecture) in [(&two, None), (&two, Some("s390x")), (&one, Some("arm64"))] {
            let message = chosen(index, architecture).unwrap_err();
            assert!(message.contains("set architecture to one of them"), "{message}");
        }
        assert!(chosen(&index(&[]), None).unwrap_err().contains("not one of packages"));
    }
}
