//! Publishes a package file out of a pipe, while it is read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};

use super::coordinates::Coordinates;
use super::header::Packed;
use super::image_list::{ImageTree, NamedImage, deliver_from, root_of};
use super::load::{Loaded, Target, content_size, publish_images, publish_package};
use super::omitted;
use super::order::{PackageFile, files_of};
use super::read::Reader;
use super::signed::SignedFiles;
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, MANIFEST_LIMIT, Platform, Reference, distinct_blobs};
use crate::package::LAYOUT_INDEX;
use crate::signing::Requirement;
use crate::source::{BlobSink, ByteStream, Delivery, ImageSource, Resolved};
use crate::transfer::{Destination, KnownBlobs, Progress, Upload};

/// Publishes the packages of `reader`, a pipe. Every file is verified before a tag is written, and what exists in the target already
/// is not sent. With a `requirement`, every package must be signed so; this is known before the first content of a package that does
/// not describe it is stored. `progress` counts bytes of content.
///
/// # Errors
/// A fault that names the file or the image.
pub async fn load_stream(
    mut reader: Reader,
    target: &Target<'_>,
    requirement: Option<&Requirement>,
    progress: &Progress,
) -> Result<Vec<Loaded>, Fault> {
    let packages = reader.packages().to_vec();
    progress.set_total(packages.iter().map(content_size).fold(0, u64::saturating_add));
    let streamed = packages
        .iter()
        .map(|package| StreamedPackage::new(package, target, requirement));
    let mut streamed: Vec<StreamedPackage> = streamed.collect::<Result<_, Fault>>()?;
    let named = streamed.iter();
    let named: Vec<_> = named
        .map(|streamed| (streamed.package, streamed.coordinates.repository.clone()))
        .collect();
    omitted::check(&omitted::missing(&named, None, target).await?, target)?;
    while let Some(file) = reader.next().await? {
        let within = |fault: Fault| fault.with_context(format_args!("file `{}` of the package", file.path));
        let content = reader
            .content(&file)
            .inspect_ok(|chunk| progress.add_moved(chunk.len() as u64))
            .boxed();
        // The reader gives what a package lists, as a file of the first that lists it.
        if let Some(first) = streamed
            .iter_mut()
            .find(|streamed| streamed.files.contains_key(&file.digest))
        {
            first.store(&file, content).await.map_err(within)?;
        }
    }
    for at in 1..streamed.len() {
        let (before, rest) = streamed.split_at_mut(at);
        if let Some(streamed) = rest.first_mut() {
            streamed.copy_shared(before, progress).await?;
        }
    }
    for streamed in &mut streamed {
        streamed.verify()?;
    }
    // Not before: whoever made the file chose which content of the destination its repositories get.
    for streamed in &mut streamed {
        streamed.sent += omitted::place(streamed.package, &*streamed.destination, target).await?;
    }
    let mut loaded = Vec::with_capacity(streamed.len());
    for streamed in &mut streamed {
        streamed.images.complete().await?;
    }
    for streamed in streamed {
        loaded.push(streamed.publish(target).await?);
    }
    Ok(loaded)
}

/// A package that is read from a pipe.
struct StreamedPackage<'p> {
    package: &'p Packed,
    coordinates: Coordinates,
    destination: Arc<dyn Destination>,
    /// Its files that are not left out.
    files: HashMap<Digest, PackageFile>,
    images: StoredImages,
    /// Until the signature was verified: how the package must be signed, and its files that say whether it is.
    unverified: Option<(&'p Requirement, SignedFiles)>,
    /// The path below which the package is published.
    prefix: &'p str,
    /// Bytes that were sent.
    sent: u64,
}

impl<'p> StreamedPackage<'p> {
    fn new(package: &'p Packed, target: &Target<'p>, requirement: Option<&'p Requirement>) -> Result<Self, Fault> {
        let coordinates = Coordinates::of(package, target.prefix)?;
        let destination = (target.open)(&coordinates.repository);
        let files = package.manifest.manifest().map(files_of).transpose()?;
        let files = files.unwrap_or_default().into_iter();
        Ok(Self {
            files: files
                .filter(|file| !package.omits(file))
                .map(|file| (file.digest.clone(), file))
                .collect(),
            images: StoredImages::new(Arc::clone(&destination)),
            unverified: requirement.map(|requirement| (requirement, SignedFiles::default())),
            prefix: target.prefix,
            sent: 0,
            package,
            coordinates,
            destination,
        })
    }

    /// Stores a file that was read.
    async fn store(&mut self, file: &PackageFile, content: ByteStream<'_>) -> Result<(), Fault> {
        if !file.is_metadata() {
            self.verify()?;
        }
        let is_document = file.path == LAYOUT_INDEX || self.images.lists(&file.digest);
        self.sent += match (&mut self.unverified, is_document) {
            (Some((_, signed)), _) if SignedFiles::need(file) => {
                let content = collect(file, content).await?;
                signed.add(file, content.clone());
                self.destination.keep(&file.digest, content).await?
            }
            (_, true) => self.images.keep(file, content).await?,
            (_, false) => store(&*self.destination, file, content).await?,
        };
        Ok(())
    }

    /// That the package is signed as required, unless this is known already.
    fn verify(&mut self) -> Result<(), Fault> {
        let Some((requirement, signed)) = self.unverified.take() else {
            return Ok(());
        };
        let verified = signed.verify(self.package, self.coordinates.names(self.prefix), requirement);
        verified.map_err(|fault| fault.with_context(&self.coordinates.repository))
    }

    /// Copies the files from the repositories of the packages `before` that came as files of these.
    async fn copy_shared(&mut self, before: &[Self], progress: &Progress) -> Result<(), Fault> {
        for file in self.files.values() {
            let Some(first) = before.iter().find(|first| first.files.contains_key(&file.digest)) else {
                continue;
            };
            let within = |fault: Fault| fault.with_context(format_args!("file `{}` of the package", file.path));
            self.sent += copy(&*first.destination, &*self.destination, file)
                .await
                .map_err(within)?;
            progress.add_moved(file.size);
            let is_list = file.path == LAYOUT_INDEX;
            if (is_list || SignedFiles::need(file))
                && let Some(raw) = self.destination.blob(&file.digest, MANIFEST_LIMIT).await?
            {
                match &mut self.unverified {
                    _ if is_list => self.images.list(&raw)?,
                    Some((_, signed)) => signed.add(file, raw),
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Publishes the images and then the package, whose files are stored.
    async fn publish(self, target: &Target<'_>) -> Result<Loaded, Fault> {
        let known = self.images.known();
        let roots = self.images.images.clone();
        let source: Arc<dyn ImageSource> = Arc::new(self.images);
        let locations = publish_images(&source, &roots, &known, target).await?;
        publish_package(
            self.package,
            &self.coordinates,
            &*self.destination,
            locations,
            self.sent,
        )
        .await
    }
}

/// Makes a file that `from` holds stand in `to`, of the same registry. Says how many bytes were sent.
async fn copy(from: &dyn Destination, to: &dyn Destination, file: &PackageFile) -> Result<u64, Fault> {
    let blob = Descriptor::new("application/octet-stream", file.digest.clone(), file.size);
    if to.holds(&file.digest).await?.is_some() || to.mount(&blob, from.repository()).await? {
        return Ok(0);
    }
    let bytes = from.read(&blob).await?.ok_or_else(|| {
        let message = format!("{} does not hold it any more; load the file again", from.name());
        Fault::retryable(Reason::PushFailed, message)
    })?;
    let upload = Upload {
        digest: Some(file.digest.clone()),
        size: Some(file.size),
        bytes,
    };
    Ok(to.upload(upload).await?.1)
}

/// Verifies a file, and stores it unless it is there. Says how many bytes were sent.
async fn store(destination: &dyn Destination, file: &PackageFile, mut content: ByteStream<'_>) -> Result<u64, Fault> {
    if destination.holds(&file.digest).await?.is_some() {
        while content.next().await.transpose()?.is_some() {}
        return Ok(0);
    }
    let upload = Upload {
        digest: Some(file.digest.clone()),
        size: Some(file.size),
        bytes: content,
    };
    Ok(destination.upload(upload).await?.1)
}

/// The images of a package, whose content its repository holds.
struct StoredImages {
    repository: Arc<dyn Destination>,
    images: Vec<NamedImage>,
    /// The manifests that were listed and not read yet.
    unread: HashSet<Digest>,
    tree: ImageTree,
}

impl StoredImages {
    fn new(repository: Arc<dyn Destination>) -> Self {
        Self {
            repository,
            images: Vec::new(),
            unread: HashSet::new(),
            tree: ImageTree::new(),
        }
    }

    fn lists(&self, digest: &Digest) -> bool {
        self.unread.contains(digest)
    }

    /// Reads the list of images or one of their manifests, and stores it. Says how many bytes were sent.
    async fn keep(&mut self, file: &PackageFile, content: ByteStream<'_>) -> Result<u64, Fault> {
        let raw = collect(file, content).await?;
        let sent = self.repository.keep(&file.digest, raw.clone()).await?;
        if file.path == LAYOUT_INDEX {
            self.list(&raw)?;
        } else {
            self.add(&file.digest, raw)?;
        }
        Ok(sent)
    }

    /// Takes the images of the list `raw`.
    fn list(&mut self, raw: &Bytes) -> Result<(), Fault> {
        self.images = NamedImage::of_index(raw)?;
        let roots = self.images.iter().map(|image| image.root.digest.clone());
        self.unread.extend(roots);
        Ok(())
    }

    fn add(&mut self, digest: &Digest, raw: Bytes) -> Result<(), Fault> {
        self.unread.remove(digest);
        let listed = self.tree.add(digest, raw)?.into_iter().map(|entry| entry.digest);
        let listed = listed.filter(|digest| self.tree.document(digest).is_none());
        self.unread.extend(listed);
        Ok(())
    }

    /// Reads the manifests that came before what lists them, from the repository, which holds them by now. Those that the package
    /// leaves out stay unread.
    async fn complete(&mut self) -> Result<(), Fault> {
        let mut absent = HashSet::new();
        while let Some(digest) = self.unread.difference(&absent).next().cloned() {
            match self.repository.blob(&digest, MANIFEST_LIMIT).await? {
                Some(raw) => self.add(&digest, raw)?,
                None => drop(absent.insert(digest)),
            }
        }
        Ok(())
    }

    /// Every blob of the images, which the repository holds.
    fn known(&self) -> Arc<KnownBlobs> {
        let known = Arc::<KnownBlobs>::default();
        for document in self.tree.documents() {
            for blob in distinct_blobs(std::slice::from_ref(document)) {
                known.record(&blob.digest, self.repository.repository());
            }
        }
        known
    }
}

async fn collect(file: &PackageFile, mut content: ByteStream<'_>) -> Result<Bytes, Fault> {
    if file.size > MANIFEST_LIMIT as u64 {
        return Err(Fault::stalled(
            Reason::SourceFailed,
            format!("it is longer than the {MANIFEST_LIMIT} bytes of a manifest"),
        ));
    }
    let mut bytes = BytesMut::new();
    while let Some(chunk) = content.next().await.transpose()? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

#[async_trait]
impl ImageSource for StoredImages {
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault> {
        let root = root_of(&self.images, reference);
        self.tree.resolve(reference, root, platforms)
    }

    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault> {
        let repository = &self.repository;
        deliver_from(image, sink, |blob| async move { repository.read(&blob).await }).await
    }
}
