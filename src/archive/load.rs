//! Publishes a package file in a registry or an OCI layout, while it is read.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};

use super::contents::Archive;
use super::coordinates::Coordinates;
use super::header::Packed;
use super::image_list::{ImageTree, NamedImage, deliver_from, root_of};
use super::omitted::{self, CompletedArchive, Missing};
use super::order::{PackageFile, files_of};
use super::read::Reader;
use super::retry::Retries;
use super::signed::SignedFiles;
use crate::fault::{Fault, Reason};
use crate::oci::{
    Compression, Digest, Location, MANIFEST_LIMIT, Naming, Platform, Reference, ReferrersPolicy, distinct_blobs,
};
use crate::package::{LAYOUT_INDEX, publish_manifest};
use crate::signing::Requirement;
use crate::source::{BlobSink, ByteStream, Delivery, ImageSource, Resolved};
use crate::transfer::{Destination, KnownBlobs, Progress, Transfer, Upload};

/// Where a package file goes.
pub struct Target<'a> {
    /// Host and port of the registry; empty for an OCI layout.
    pub address: &'a str,
    /// The path below which everything is written; may be empty.
    pub prefix: &'a str,
    /// How images are named.
    pub naming: Naming,
    /// Opens a repository of the registry or layout.
    pub open: &'a (dyn Fn(&str) -> Arc<dyn Destination> + Sync),
    /// How long a broken connection to it is tried again.
    pub retries: &'a Retries,
}

/// A package that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The repository of the package, and its tag.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// The digest of the index under the tag.
    pub digest: Digest,
    /// The digest of the package's manifest, which the index lists for its architecture.
    pub manifest: Digest,
    /// The images.
    pub images: Vec<LoadedImage>,
    /// Bytes that were sent.
    pub sent: u64,
}

/// An image that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedImage {
    /// Its names.
    pub location: Location,
    /// The digest of its root manifest or index.
    pub digest: Digest,
}

/// That every package of `archive` is signed as `requirement` says, and that the signature covers all of it. Only what says so is
/// read.
///
/// # Errors
/// A stalled fault that names the package, or says that there is none.
pub async fn verify_signatures(archive: &Archive, requirement: &Requirement) -> Result<(), Fault> {
    if archive.packages().is_empty() {
        let message = "the file holds no package that could be signed; leave out the key".to_owned();
        return Err(Fault::stalled(Reason::VerificationError, message));
    }
    for package in archive.packages() {
        let coordinates = Coordinates::of(package, "")?;
        let manifest = package.manifest.manifest();
        let files = manifest.map(files_of).transpose()?.unwrap_or_default();
        let mut signed = SignedFiles::default();
        for file in files.iter().filter(|file| SignedFiles::need(file)) {
            if let Some(content) = archive.blob(&file.digest).await? {
                signed.add(file, content);
            }
        }
        let verified = signed.verify(package, coordinates.names(""), requirement);
        verified.map_err(|fault| fault.with_context(&coordinates.repository))?;
    }
    Ok(())
}

/// Bytes of the files of a package.
fn content_size(package: &Packed) -> u64 {
    let manifest = package.manifest.manifest().into_iter();
    let layers = manifest.flat_map(|manifest| &manifest.layers);
    layers.fold(0, |sum, layer| layer.size.saturating_add(sum))
}

/// Publishes the package of `reader`, a pipe. Every file is verified before a tag is written, and what exists in the target already
/// is not sent. With a `requirement`, the package must be signed so; this is known before the first content that does not describe the
/// package is stored. `progress` counts bytes of content.
///
/// # Errors
/// A fault that names the file or the image.
pub async fn load_stream(
    mut reader: Reader,
    target: &Target<'_>,
    requirement: Option<&Requirement>,
    progress: &Progress,
) -> Result<Loaded, Fault> {
    let package = reader.package().clone();
    let coordinates = Coordinates::of(&package, target.prefix)?;
    progress.set_total(content_size(&package));
    let destination = (target.open)(&coordinates.repository);
    let packages = [(&package, coordinates.repository.clone())];
    omitted::check(&omitted::missing(&packages, None, target).await?, target)?;
    let mut images = StoredImages::new(Arc::clone(&destination));
    let mut sent = omitted::place(&package, &*destination, target).await?;
    let mut unverified = requirement.map(|requirement| (requirement, SignedFiles::default()));
    let verify = |(requirement, signed): (&Requirement, SignedFiles)| {
        signed.verify(&package, coordinates.names(target.prefix), requirement)
    };
    while let Some(file) = reader.next().await? {
        if let Some(unverified) = unverified.take_if(|_| !file.is_metadata()) {
            verify(unverified)?;
        }
        let within = |fault: Fault| fault.with_context(format_args!("file `{}` of the package", file.path));
        let is_document = file.path == LAYOUT_INDEX || images.lists(&file.digest);
        let content = reader
            .content(&file)
            .inspect_ok(|chunk| progress.add_moved(chunk.len() as u64))
            .boxed();
        sent += match (&mut unverified, is_document) {
            (Some((_, signed)), _) if SignedFiles::need(&file) => {
                let content = collect(&file, content).await.map_err(within)?;
                signed.add(&file, content.clone());
                destination.keep(&file.digest, content).await.map_err(within)?
            }
            (_, true) => images.keep(&file, content).await.map_err(within)?,
            (_, false) => store(&*destination, &file, content).await.map_err(within)?,
        };
    }
    unverified.map(verify).transpose()?;
    images.complete().await?;
    let known = images.known();
    let roots = images.images.clone();
    let source: Arc<dyn ImageSource> = Arc::new(images);
    let locations = publish_images(&source, &roots, &known, target).await?;
    publish_package(&package, &coordinates, &*destination, locations, sent).await
}

/// Publishes what `archive` holds: its packages and their images. Content that exists in the target already is not read. A tag is
/// written when everything under it was verified and stored. `progress` counts bytes of content.
///
/// # Errors
/// A fault that names the file or the image.
pub async fn load(archive: &Arc<Archive>, target: &Target<'_>, progress: &Progress) -> Result<Vec<Loaded>, Fault> {
    let packages = archive.packages().iter();
    let packages: Vec<(&Packed, Coordinates)> = packages
        .map(|package| Ok((package, Coordinates::of(package, target.prefix)?)))
        .collect::<Result<_, Fault>>()?;
    progress.set_total(
        packages
            .iter()
            .map(|(package, _)| content_size(package))
            .fold(0, u64::saturating_add),
    );
    let idle = Progress::default();
    if archive.packages().iter().any(|package| !package.omitted.is_empty()) {
        let looked = target.retries.run(&idle, async || missing(archive, target).await);
        omitted::check(&looked.await?, target)?;
    }
    let known = Arc::<KnownBlobs>::default();
    let mut sent = Vec::with_capacity(packages.len());
    let mut repositories = Vec::with_capacity(packages.len());
    for (package, coordinates) in &packages {
        let destination = (target.open)(&coordinates.repository);
        let manifest = package.manifest.manifest();
        let mut files = manifest.map(files_of).transpose()?.unwrap_or_default();
        files.sort_by_key(|file| archive.offset(&file.digest));
        let mut bytes = 0;
        if !package.omitted.is_empty() {
            let placed = async || omitted::place(package, &*destination, target).await;
            bytes += target.retries.run(&idle, placed).await?;
        }
        for file in &files {
            let within = |fault: Fault| fault.with_context(format_args!("file `{}` of the package", file.path));
            match package.omits(file) {
                true => progress.add_moved(file.size),
                false => {
                    let content = || archive.read(&file.digest);
                    let stored = target.retries.run(progress, async || {
                        store_blob(&*destination, &file.digest, file.size, content, progress).await
                    });
                    bytes += stored.await.map_err(within)?;
                }
            }
            known.record(&file.digest, destination.repository());
        }
        sent.push(bytes);
        repositories.push(destination);
    }
    let source: Arc<dyn ImageSource> = Arc::new(CompletedArchive {
        archive: Arc::clone(archive),
        repositories,
    });
    let mut locations = publish_images(&source, archive.images(), &known, target).await?;
    let mut loaded = Vec::with_capacity(packages.len());
    for ((package, coordinates), sent) in packages.into_iter().zip(sent) {
        let destination = (target.open)(&coordinates.repository);
        let images = std::mem::take(&mut locations);
        let published = target.retries.run(&idle, async || {
            publish_package(package, &coordinates, &*destination, images.clone(), sent).await
        });
        loaded.push(published.await?);
    }
    Ok(loaded)
}

/// The content that `archive` leaves out and `target` does not hold. Nothing is changed.
///
/// # Errors
/// A fault of the target, or one that says that the packages have no usable names.
pub async fn missing(archive: &Archive, target: &Target<'_>) -> Result<Vec<Missing>, Fault> {
    let packages = archive.packages().iter();
    let packages: Vec<(&Packed, String)> = packages
        .map(|package| Ok((package, Coordinates::of(package, target.prefix)?.repository)))
        .collect::<Result<_, Fault>>()?;
    omitted::missing(&packages, Some(archive), target).await
}

/// Stores a blob unless it is there. `content` gives its bytes; `None` if the archive lacks it. Says how many bytes were sent.
pub(super) async fn store_blob<'a>(
    destination: &dyn Destination,
    digest: &Digest,
    size: u64,
    content: impl FnOnce() -> Option<ByteStream<'a>>,
    progress: &'a Progress,
) -> Result<u64, Fault> {
    if destination.holds(digest).await?.is_some() {
        progress.add_moved(size);
        return Ok(0);
    }
    let content = content().ok_or_else(|| Fault::stalled(Reason::SourceNotFound, "the archive lacks it".to_owned()))?;
    let upload = Upload {
        digest: Some(digest.clone()),
        size: Some(size),
        bytes: content
            .inspect_ok(|chunk| progress.add_moved(chunk.len() as u64))
            .boxed(),
    };
    let before = destination.resumed();
    let size = destination.upload(upload).await?.1;
    // An earlier attempt sent the rest.
    Ok(size.saturating_sub(destination.resumed().saturating_sub(before)))
}

/// Publishes the config and the manifest of a package whose files are stored.
async fn publish_package(
    package: &Packed,
    coordinates: &Coordinates,
    destination: &dyn Destination,
    images: Vec<LoadedImage>,
    mut sent: u64,
) -> Result<Loaded, Fault> {
    if let Some(manifest) = package.manifest.manifest() {
        sent += destination
            .keep(&manifest.config.digest, package.config.clone())
            .await?;
    }
    let digest = publish_manifest(
        &package.manifest,
        &coordinates.architecture,
        destination,
        &coordinates.tag,
    )
    .await?;
    Ok(Loaded {
        repository: coordinates.repository.clone(),
        tag: coordinates.tag.clone(),
        digest,
        manifest: package.manifest.digest().clone(),
        images,
        sent,
    })
}

/// Publishes every image of `source` under its names. `known` says which repositories hold its blobs.
pub(super) async fn publish_images(
    source: &Arc<dyn ImageSource>,
    images: &[NamedImage],
    known: &Arc<KnownBlobs>,
    target: &Target<'_>,
) -> Result<Vec<LoadedImage>, Fault> {
    let mut loaded = Vec::with_capacity(images.len());
    let named = images.iter().filter_map(|image| Some((image.name.as_ref()?, image)));
    for (reference, image) in named {
        let location = Location::under_prefix(reference, target.address, target.prefix, target.naming, true)
            .map_err(|error| Fault::stalled(Reason::InvalidReference, error.to_string()))?;
        let transfer = Transfer {
            source: Arc::clone(source),
            reference: reference.clone(),
            platforms: Vec::new(),
            destination: (target.open)(&location.repository),
            location,
            compression: Compression::None,
            referrers: ReferrersPolicy::Ignore,
            progress: Arc::default(),
            known: Arc::clone(known),
        };
        let idle = Progress::default();
        target
            .retries
            .run(&idle, async || transfer.run().await)
            .await
            .map_err(|fault| fault.with_context(format_args!("image `{reference}`")))?;
        loaded.push(LoadedImage {
            location: transfer.location,
            digest: image.root.digest.clone(),
        });
    }
    Ok(loaded)
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
            self.images = NamedImage::of_index(&raw)?;
            self.unread
                .extend(self.images.iter().map(|image| image.root.digest.clone()));
        } else {
            self.add(&file.digest, raw)?;
        }
        Ok(sent)
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
