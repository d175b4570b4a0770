//! Publishes a package file in a registry or an OCI layout, while it is read.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};

use super::contents::Archive;
use super::coordinates::Coordinates;
use super::header::Packed;
use super::image_list::NamedImage;
use super::omitted::{self, CompletedArchive, Missing};
use super::order::files_of;
use super::retry::Retries;
use super::signed::SignedFiles;
use crate::fault::{Fault, Reason};
use crate::oci::{Compression, Digest, Location, Naming, ReferrersPolicy};
use crate::package::publish_manifest;
use crate::signing::Requirement;
use crate::source::{ByteStream, ImageSource};
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
pub(super) fn content_size(package: &Packed) -> u64 {
    let manifest = package.manifest.manifest().into_iter();
    let layers = manifest.flat_map(|manifest| &manifest.layers);
    layers.fold(0, |sum, layer| layer.size.saturating_add(sum))
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
pub(super) async fn publish_package(
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
