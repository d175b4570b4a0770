//! An archive whose files can be read at any offset: its packages, its images and their blobs.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream;
use futures::{StreamExt as _, TryStreamExt as _};

use super::attachment::{attachments, name_attachments};
use super::header::Packed;
use super::image_list::{ImageTree, NamedImage, add_images, deliver_from, root_of};
use super::input::{FromStart, RandomAccess};
use super::members::{Extent, by_path, list, list_from};
use super::order::{blob_path, files_of};
use super::read::{invalid, read_header};
use super::tar_content::{SeekableTar, TarContent, verified};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, MANIFEST_LIMIT, Platform, Reference};
use crate::package::LAYOUT_INDEX;
use crate::source::{BlobSink, ByteStream, Delivery, ImageSource, Resolved};

/// What a file of any format holds. Nothing of it was verified.
pub struct Contents {
    /// The tar in the file.
    pub tar: Arc<dyn TarContent>,
    /// The packages in it; none where it has images alone.
    pub packages: Vec<Packed>,
    /// Where the content with each digest is, as the file says.
    pub blobs: HashMap<Digest, Extent>,
    /// Content that is not in the tar: in the header, or made from what the tar has.
    pub inline: HashMap<Digest, Bytes>,
    /// The images, by their root manifests.
    pub images: Vec<NamedImage>,
}

/// An archive that was opened. All its manifests are in memory, within the limit of [`crate::budget::PACKAGES`]; content is read
/// when it is asked for.
pub struct Archive {
    contents: Contents,
    tree: ImageTree,
}

impl Archive {
    /// Reads the manifests of the images of `contents`.
    ///
    /// # Errors
    /// A fault that names the manifest that is damaged.
    pub async fn new(contents: Contents) -> Result<Self, Fault> {
        let mut archive = Self {
            contents,
            tree: ImageTree::new(),
        };
        let mut open: Vec<Digest> = archive
            .contents
            .images
            .iter()
            .map(|image| image.root.digest.clone())
            .collect();
        while let Some(digest) = open.pop() {
            if archive.tree.document(&digest).is_some() {
                continue;
            }
            // An image may leave out some of its platforms.
            if let Some(raw) = archive.blob(&digest).await? {
                let listed = archive.tree.add(&digest, raw)?;
                open.extend(listed.into_iter().map(|entry| entry.digest));
            }
        }
        Ok(archive)
    }

    pub(super) fn contents_mut(&mut self) -> &mut Contents {
        &mut self.contents
    }

    pub(super) fn into_contents(self) -> Contents {
        self.contents
    }

    /// The packages.
    pub fn packages(&self) -> &[Packed] {
        &self.contents.packages
    }

    /// The images, in the order of the file. One image may be there under several names.
    pub fn images(&self) -> &[NamedImage] {
        &self.contents.images
    }

    /// A manifest or index of an image.
    pub fn document(&self, digest: &Digest) -> Option<&Document> {
        self.tree.document(digest)
    }

    /// All manifests and indexes of the images.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.tree.documents()
    }

    /// The manifests of the image `root`, children before the index that lists them.
    pub fn manifests(&self, root: &Digest) -> Vec<Document> {
        self.tree.manifests(root)
    }

    /// Every digest that has content, with its length in bytes.
    pub fn blobs(&self) -> impl Iterator<Item = (&Digest, u64)> {
        let inline = self.contents.inline.iter();
        let inline = inline.map(|(digest, content)| (digest, content.len() as u64));
        let stored = self.contents.blobs.iter();
        inline.chain(stored.map(|(digest, extent)| (digest, extent.size)))
    }

    /// Gives the only image of the archive the name `name`, and names in its repository to what belongs to it.
    ///
    /// # Errors
    /// A stalled fault, where it has packages or not one image.
    pub fn with_name(mut self, name: Reference) -> Result<Self, Fault> {
        match (self.only_image(), self.contents.packages.is_empty()) {
            (Some(root), true) => {
                let attached = attachments(&self);
                let mut images = vec![NamedImage { name: Some(name), root }];
                for (image, attachment) in self.contents.images.drain(..).zip(attached) {
                    images.extend(attachment.map(|_| NamedImage { name: None, ..image }));
                }
                self.contents.images = images;
                name_attachments(&mut self);
                Ok(self)
            }
            _ => Err(Fault::stalled(
                Reason::InvalidReference,
                "--name names the image of an archive that has one image and no package".to_owned(),
            )),
        }
    }

    /// The root of the only image, besides what belongs to it; `None` if there are several.
    pub(super) fn only_image(&self) -> Option<Descriptor> {
        let images = self.images().iter().zip(attachments(self));
        let mut roots = images.filter_map(|(image, attachment)| attachment.is_none().then_some(&image.root));
        let first = roots.next()?;
        roots.all(|root| root.digest == first.digest).then(|| first.clone())
    }

    /// Where the content `digest` lies in the archive, in bytes; zero for what was made when it was opened. To read in this order is
    /// fast in every archive.
    pub fn offset(&self, digest: &Digest) -> u64 {
        let stored = self.contents.blobs.get(digest);
        stored.map_or(0, |extent| extent.offset)
    }

    /// The length in bytes of the content with the digest `digest`.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        match self.contents.inline.get(digest) {
            Some(content) => Some(content.len() as u64),
            None => self.contents.blobs.get(digest).map(|extent| extent.size),
        }
    }

    /// The bytes of the content `digest` from `offset`, at most `length` of them. They are not verified.
    pub fn read_range(&self, digest: &Digest, offset: u64, length: u64) -> Option<ByteStream<'static>> {
        if let Some(content) = self.contents.inline.get(digest) {
            let begin = usize::try_from(offset).map_or(content.len(), |offset| offset.min(content.len()));
            let rest = content.slice(begin..);
            let length = usize::try_from(length).map_or(rest.len(), |length| length.min(rest.len()));
            let bytes = rest.slice(..length);
            return Some(stream::once(async move { Ok(bytes) }).boxed());
        }
        let extent = self.contents.blobs.get(digest)?;
        let offset = offset.min(extent.size);
        let length = length.min(extent.size - offset);
        Some(self.contents.tar.read(extent.offset + offset, length))
    }

    /// The content `digest`, which ends in an error where it has another digest.
    pub fn read(&self, digest: &Digest) -> Option<ByteStream<'static>> {
        let content = self.read_range(digest, 0, u64::MAX)?;
        let content = verified(content, &format!("the blob {digest}"), digest);
        let extent = self.contents.blobs.get(digest);
        let parts = extent.and_then(|extent| self.contents.tar.parts_of(extent.offset, extent.size));
        Some(match parts {
            None => content,
            Some(parts) => content.map_err(move |fault| fault.with_context(&parts)).boxed(),
        })
    }

    /// The whole content of `digest`, verified.
    ///
    /// # Errors
    /// Where it is longer than [`MANIFEST_LIMIT`], or damaged.
    pub async fn blob(&self, digest: &Digest) -> Result<Option<Bytes>, Fault> {
        let Some(size) = self.size(digest) else { return Ok(None) };
        if size > MANIFEST_LIMIT as u64 {
            return Err(invalid(&format!(
                "{digest} is longer than the {MANIFEST_LIMIT} bytes of a manifest"
            )));
        }
        let Some(mut content) = self.read(digest) else {
            return Ok(None);
        };
        let mut bytes = BytesMut::new();
        while let Some(chunk) = content.next().await.transpose()? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes.freeze()))
    }
}

/// The contents of a file that `pack` wrote.
pub(super) async fn packed_contents(input: Arc<dyn RandomAccess>) -> Result<Contents, Fault> {
    let header = {
        let input = Arc::clone(&input);
        let read = tokio::task::spawn_blocking(move || read_header(&mut FromStart::new(input)));
        read.await.map_err(|error| invalid(&error.to_string()))??
    };
    let tar = SeekableTar::open(input).await?;
    let tar = tar.ok_or_else(|| invalid("its end is missing"))?;
    let second = tar.first_length();
    let members = by_path(list(&tar).await?)?;
    let further = match header.packages.len() {
        0 | 1 => HashMap::new(),
        _ => by_path(list_from(&tar, second).await?)?,
    };
    let mut contents = Contents {
        tar: Arc::new(tar),
        packages: header.packages,
        blobs: HashMap::new(),
        inline: HashMap::new(),
        images: Vec::new(),
    };
    let mut indexes = Vec::new();
    for (at, package) in contents.packages.iter().enumerate() {
        let inline = &mut contents.inline;
        inline.insert(package.manifest.digest().clone(), package.manifest.raw.clone());
        inline.insert(Digest::of(&package.config), package.config.clone());
        let files = package.manifest.manifest().map(files_of).transpose()?;
        for file in files.unwrap_or_default() {
            if file.path == LAYOUT_INDEX {
                indexes.push(file.digest.clone());
            }
            // The first package is a tar of its own; of the others there is what no package before has.
            if at > 0 && contents.blobs.contains_key(&file.digest) {
                continue;
            }
            let member = match at {
                0 => members.get(&file.path),
                _ => further.get(&blob_path(&file.digest)),
            };
            if member.is_none() && package.omits(&file) {
                continue;
            }
            let member = member.ok_or_else(|| invalid(&format!("it lacks {}", file.path)))?;
            if member.is_link || member.extent.size != file.size {
                return Err(invalid(&format!(
                    "{} has another length or type than the manifest of the package says",
                    file.path
                )));
            }
            contents.blobs.insert(file.digest, member.extent);
        }
    }
    let archive = Archive {
        contents,
        tree: ImageTree::new(),
    };
    let mut images = Vec::new();
    for index in indexes {
        if let Some(raw) = archive.blob(&index).await? {
            add_images(&mut images, NamedImage::of_index(&raw)?)?;
        }
    }
    Ok(Contents {
        images,
        ..archive.contents
    })
}

#[async_trait]
impl ImageSource for Archive {
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault> {
        let root = root_of(&self.contents.images, reference);
        self.tree.resolve(reference, root, platforms)
    }

    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault> {
        deliver_from(image, sink, |blob| {
            let content = self.read(&blob.digest);
            async move { Ok(content) }
        })
        .await
    }
}
