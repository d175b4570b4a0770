//! Publishes a package file in a registry or an OCI layout, while it is read.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;

use super::contents::Archive;
use super::header::Packed;
use super::image_list::NamedImage;
use super::omitted::{self, CompletedArchive, Missing};
use super::order::{PackageFile, files_of};
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::{Compression, Digest, Location, Naming, Reference, ReferrersPolicy};
use crate::package::{publish_manifest, repository};
use crate::source::ImageSource;
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
    /// The names of the images.
    pub images: Vec<Location>,
    /// Bytes that were sent.
    pub sent: u64,
}

/// What the config of a package says: its definition.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    metadata: Metadata,
    #[serde(default)]
    build: Build,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Metadata {
    name: String,
    version: String,
    architecture: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Build {
    architecture: String,
    flavor: String,
}

/// The repository, tag and architecture of a package, as its config says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coordinates {
    /// The repository, with the prefix.
    pub repository: String,
    /// The tag: the version.
    pub tag: String,
    /// The architecture.
    pub architecture: String,
}

impl Coordinates {
    /// Those of `package` below `prefix`, which may be empty.
    ///
    /// # Errors
    /// A stalled fault, where the config does not name them.
    pub fn of(package: &Packed, prefix: &str) -> Result<Self, Fault> {
        let invalid = |what: String| Fault::stalled(Reason::SourceFailed, format!("the package file {what}"));
        let config: Config = decode::json(&package.config)
            .map_err(|error| invalid(format!("has a config that cannot be read: {error}")))?;
        let Metadata {
            name,
            version,
            architecture,
        } = config.metadata;
        let architecture = match architecture.is_empty() {
            true => config.build.architecture,
            false => architecture,
        };
        let tag = match config.build.flavor.as_str() {
            "" => version.clone(),
            flavor => format!("{version}-{flavor}"),
        };
        let path = repository(prefix, &name);
        let named: Result<Reference, _> = format!("localhost/{path}:{tag}").parse();
        if named.is_err() || name.is_empty() || version.is_empty() || architecture.is_empty() {
            return Err(invalid(
                "has a package without name, version or architecture, or with one that no registry takes".to_owned(),
            ));
        }
        Ok(Self {
            repository: path,
            tag,
            architecture,
        })
    }
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
    omitted::check(&missing(archive, target).await?, target)?;
    let known = Arc::<KnownBlobs>::default();
    let mut sent = Vec::with_capacity(packages.len());
    let mut repositories = Vec::with_capacity(packages.len());
    for (package, coordinates) in &packages {
        let destination = (target.open)(&coordinates.repository);
        let manifest = package.manifest.manifest();
        let mut files = manifest.map(files_of).transpose()?.unwrap_or_default();
        files.sort_by_key(|file| archive.offset(&file.digest));
        let mut bytes = omitted::place(package, &*destination, target).await?;
        for file in &files {
            let within = |fault: Fault| fault.with_context(format_args!("file `{}` of the package", file.path));
            match package.omits(file) {
                true => progress.add_moved(file.size),
                false => {
                    bytes += store_file(archive, &*destination, file, progress)
                        .await
                        .map_err(within)?;
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
        loaded.push(publish_package(package, coordinates, &*destination, images, sent).await?);
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

/// Stores a file of a package unless it is there. Says how many bytes were sent.
async fn store_file(
    archive: &Archive,
    destination: &dyn Destination,
    file: &PackageFile,
    progress: &Progress,
) -> Result<u64, Fault> {
    if destination.holds(&file.digest).await?.is_some() {
        progress.add_moved(file.size);
        return Ok(0);
    }
    let content = archive.read(&file.digest);
    let content = content.ok_or_else(|| Fault::stalled(Reason::SourceNotFound, "the archive lacks it".to_owned()))?;
    let upload = Upload {
        digest: Some(file.digest.clone()),
        size: Some(file.size),
        bytes: content
            .inspect_ok(|chunk| progress.add_moved(chunk.len() as u64))
            .boxed(),
    };
    Ok(destination.upload(upload).await?.1)
}

/// Publishes the config and the manifest of a package whose files are stored.
pub(super) async fn publish_package(
    package: &Packed,
    coordinates: Coordinates,
    destination: &dyn Destination,
    images: Vec<Location>,
    mut sent: u64,
) -> Result<Loaded, Fault> {
    let Coordinates {
        repository,
        tag,
        architecture,
    } = coordinates;
    if let Some(manifest) = package.manifest.manifest() {
        sent += destination
            .keep(&manifest.config.digest, package.config.clone())
            .await?;
    }
    let digest = publish_manifest(&package.manifest, &architecture, destination, &tag).await?;
    Ok(Loaded {
        repository,
        tag,
        digest,
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
) -> Result<Vec<Location>, Fault> {
    let mut locations = Vec::with_capacity(images.len());
    for reference in images.iter().filter_map(|image| image.name.as_ref()) {
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
        transfer
            .run()
            .await
            .map_err(|fault| fault.with_context(format_args!("image `{reference}`")))?;
        locations.push(transfer.location);
    }
    Ok(locations)
}
