//! Publishes a package's artifact in a registry: the IO and its order.
//!
//! Blobs first, then the manifest by its digest, then the index under the tag. So the tag always names something complete,
//! also when a publication is interrupted.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};
use tokio::time::Instant;

use super::archive::{self, Archive, ReusableTars, StoredTar};
use super::artifact::{Artifact, ArtifactContents, ArtifactImage, Mount, SignDefinition};
use super::definition::Definition;
use super::existing_index::{ExistingIndex, index_document};
use super::provenance::Material;
use crate::budget::{PACKAGES, Reservation, json_memory};
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Descriptor, Digest, Document, Index, Reference, distinct_blobs, distinct_foreign_layers};
use crate::registry::named_lock;
use crate::signing::SigningKey;
use crate::transfer::{Destination, Upload};

/// The number of concurrent requests for blobs, and for images.
pub(super) const PARALLEL: usize = 8;
/// How often an index is written again because another process wrote it at the same time. Each time at least one writer
/// finishes.
const INDEX_WRITES: usize = 16;
/// How long to wait after writing an index before it is read again, as a multiple of the time that writing took: by then
/// another process that had begun to write it has finished.
const SETTLE_FACTOR: u32 = 10;
/// The shortest such wait.
const SETTLE_LEAST: Duration = Duration::from_millis(100);
/// The longest such wait.
const SETTLE_MOST: Duration = Duration::from_secs(5);

/// An image that is in the registry already.
#[derive(Clone)]
pub struct TransferredImage {
    /// The name under which the package lists it, [`super::PlannedImage::package_reference`].
    pub reference: Reference,
    /// The digest of its manifest or index in the registry.
    pub digest: Digest,
    /// Its repository, in the same registry as the package's.
    pub destination: Arc<dyn Destination>,
    /// The manifests that are known already; the others are read from the repository.
    pub documents: Vec<Document>,
    /// Its origin, if known.
    pub origin: Option<Material>,
}

/// The inputs of a package's artifact.
#[derive(Clone, Copy, Default)]
pub struct PackageContents<'a> {
    /// Its images.
    pub images: &'a [TransferredImage],
    /// The images that it omits because an earlier version contains them. Only their size is used.
    pub omitted: &'a [TransferredImage],
    /// Its tars, in any order.
    pub archives: &'a [Archive],
    /// Signs its definition.
    pub sign: Option<&'a SignDefinition>,
    /// Tars in the same repository that may be reused; `None` if they were not looked up.
    pub known: Option<&'a ReusableTars>,
    /// The key that signs the package.
    pub key: Option<&'a SigningKey>,
}

impl<'a> From<&'a [TransferredImage]> for PackageContents<'a> {
    /// A package that contains only images.
    fn from(images: &'a [TransferredImage]) -> Self {
        Self {
            images,
            ..Self::default()
        }
    }
}

/// A package in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPackage {
    /// The digest of the package's manifest.
    pub manifest: Digest,
    /// The digest of the index under the tag.
    pub index: Digest,
    /// The total size of the package in bytes.
    pub size: u64,
    /// Bytes that were sent to the registry; mounted blobs do not count.
    pub moved_bytes: u64,
    /// Bytes of the blobs and manifests that were omitted.
    pub saved_bytes: u64,
    /// Whether anything was written.
    pub changed: bool,
    /// The index and the manifest, which can be signed in the package's repository.
    pub subjects: Vec<Descriptor>,
    /// The other entries of the index, written by others.
    pub others: Vec<Descriptor>,
    /// The images' manifests and indexes by digest, which can be signed in the images' own repositories.
    pub images: BTreeMap<Digest, Descriptor>,
}

/// Publishes the package in `repository` under `tag`, from images that are in the same registry. If the tag names this
/// package already, nothing is written. Else `announce` is called with the manifest's digest before any manifest is
/// written: until then only blobs of tars were uploaded, because the digest depends on theirs.
pub async fn publish(
    definition: &Definition,
    contents: PackageContents<'_>,
    repository: &dyn Destination,
    tag: &str,
    announce: impl AsyncFnOnce(&Digest) -> Result<(), Fault>,
) -> Result<PublishedPackage, Fault> {
    let (archives, archive_bytes) = upload_archives(contents, repository).await?;
    let images = contents.images;
    let memory = PACKAGES.reserve();
    let read = read_images(images, &memory).await?;
    let saved_bytes = saved_size(&read_images(contents.omitted, &memory).await?, &read);
    let artifact = Artifact::of(
        definition,
        ArtifactContents {
            images: &read,
            archives: &archives,
            sign: contents.sign,
        },
    )?;
    let roots = read.iter().filter_map(ArtifactImage::root_descriptor);
    let roots = roots.map(|root| (root.digest.clone(), root)).collect();
    drop((read, memory));

    // Usually it is the only package under its tag: then one HEAD request is enough.
    let alone = index_document(Index::new(vec![artifact.entry()]))?;
    let named = repository.digest_of(tag).await?;
    let existing = match named.filter(|named| named == alone.digest()) {
        Some(_) => Some(ExistingIndex {
            descriptor: alone.descriptor,
            index: Index::new(vec![artifact.entry()]),
        }),
        None => ExistingIndex::read(repository, tag).await?,
    };
    if let Some(index) = existing.as_ref().filter(|index| index.contains(&artifact.entry()))
        && repository
            .digest_of(artifact.manifest.digest().as_str())
            .await?
            .is_some()
    {
        return Ok(PublishedPackage {
            manifest: artifact.manifest.digest().clone(),
            index: index.descriptor.digest.clone(),
            size: artifact.size,
            moved_bytes: archive_bytes,
            saved_bytes,
            changed: false,
            subjects: vec![index.descriptor.clone(), artifact.manifest.descriptor.clone()],
            others: index.others(&artifact.entry()),
            images: roots,
        });
    }

    // Only one publication per repository at a time: two writers of one index would lose an entry, and distribution 2.8
    // denies a blob for a moment while it is mounted once more, so the other writer's manifest would be refused.
    let lock = named_lock(format!("{} {}", repository.name(), repository.repository()));
    let _alone = lock.lock().await;
    announce(artifact.manifest.digest()).await?;
    let moved = copy_blobs(&artifact, images, repository).await?;
    repository.publish(&artifact.manifest, None).await?;
    let (index, index_bytes) = add_to_index(artifact.entry(), repository, tag).await?;
    Ok(PublishedPackage {
        manifest: artifact.manifest.digest().clone(),
        index: index.descriptor.digest.clone(),
        size: artifact.size,
        moved_bytes: archive_bytes + moved + artifact.manifest.descriptor.size + index_bytes,
        saved_bytes,
        changed: true,
        others: index.others(&artifact.entry()),
        subjects: vec![index.descriptor, artifact.manifest.descriptor.clone()],
        images: roots,
    })
}

/// Publishes a package whose blobs, its config included, exist in `repository` already, under `tag`, besides the packages of
/// other architectures. Returns the digest of the index that contains it then.
///
/// # Errors
/// [`Fault::conflict`] if something else has the tag.
pub async fn publish_manifest(
    manifest: &Document,
    architecture: &str,
    repository: &dyn Destination,
    tag: &str,
) -> Result<Digest, Fault> {
    let entry = entry_of(manifest, architecture);
    let lock = named_lock(format!("{} {}", repository.name(), repository.repository()));
    let _alone = lock.lock().await;
    if let Some(index) = published_index(manifest, architecture, repository, tag).await? {
        return Ok(index);
    }
    repository.publish(manifest, None).await?;
    let (index, _) = add_to_index(entry, repository, tag).await?;
    Ok(index.descriptor.digest)
}

/// The digest of the index under `tag`, if it lists the package `manifest`, and `repository` has that.
///
/// # Errors
/// [`Fault::conflict`] if something else has the tag.
pub async fn published_index(
    manifest: &Document,
    architecture: &str,
    repository: &dyn Destination,
    tag: &str,
) -> Result<Option<Digest>, Fault> {
    let entry = entry_of(manifest, architecture);
    let index = ExistingIndex::read(repository, tag).await?;
    let Some(index) = index.filter(|index| index.contains(&entry)) else {
        return Ok(None);
    };
    let exists = repository.digest_of(manifest.digest().as_str()).await?;
    Ok(exists.map(|_| index.descriptor.digest))
}

/// Uploads the package's tars that its repository lacks, and returns how many bytes were sent.
async fn upload_archives(
    contents: PackageContents<'_>,
    repository: &dyn Destination,
) -> Result<(Vec<StoredTar>, u64), Fault> {
    let mut archived = Vec::with_capacity(contents.archives.len());
    let mut sent = 0;
    let unknown = ReusableTars::default();
    let known = contents.known.unwrap_or(&unknown);
    for archive in contents.archives {
        let (stored, bytes) = archive::upload(archive, known, contents.key, repository).await?;
        archived.push(stored);
        sent += bytes;
    }
    archived.sort_by(|left, right| left.path.cmp(&right.path));
    Ok((archived, sent))
}

/// All manifests of each of `images`, in their order. Their memory is added to `memory`.
pub(super) async fn read_images(
    images: &[TransferredImage],
    memory: &Reservation,
) -> Result<Vec<ArtifactImage>, Fault> {
    let mut reads = Vec::with_capacity(images.len());
    for image in images {
        reads.push(read_image(image, memory));
    }
    stream::iter(reads).buffered(PARALLEL).try_collect().await
}

/// The size in bytes of the blobs and manifests that are in `omitted` and not in `images`.
fn saved_size(omitted: &[ArtifactImage], images: &[ArtifactImage]) -> u64 {
    let contents = |images: &[ArtifactImage]| -> BTreeMap<Digest, u64> {
        let documents = images.iter().flat_map(|image| &image.documents);
        let manifests = documents.map(|document| &document.descriptor);
        let blobs = images.iter().flat_map(|image| distinct_blobs(&image.documents));
        manifests
            .chain(blobs)
            .map(|one| (one.digest.clone(), one.size))
            .collect()
    };
    let kept = contents(images);
    let lost = contents(omitted)
        .into_iter()
        .filter(|(digest, _)| !kept.contains_key(digest));
    lost.fold(0, |sum, (_, size)| sum.saturating_add(size))
}

/// All manifests of an image. [`Artifact::of`] reports those that its repository lacks.
async fn read_image(image: &TransferredImage, memory: &Reservation) -> Result<ArtifactImage, Fault> {
    let mut documents: Vec<Document> = Vec::new();
    let mut seen = HashSet::from([image.digest.clone()]);
    let mut open = vec![image.digest.clone()];
    while let Some(digest) = open.pop() {
        let known = image.documents.iter().find(|known| *known.digest() == digest);
        let document = match known {
            // Its memory is accounted for by the caller.
            Some(known) => known.clone(),
            None => match image.destination.document(digest.as_str()).await? {
                Some(document) => document,
                None => continue,
            },
        };
        let added = memory.add(if known.is_none() { json_memory(&document.raw) } else { 0 });
        added.map_err(|exhausted| exhausted.fault(Reason::PackageFailed, &format!("image `{}`", image.reference)))?;
        if let Content::Index(index) = &document.content {
            for child in &index.manifests {
                // Any other entry is a blob, unless it was transferred as a manifest.
                let known = || image.documents.iter().any(|known| *known.digest() == child.digest);
                if !child.is_manifest_or_untyped() && !known() {
                    continue;
                }
                if seen.insert(child.digest.clone()) {
                    open.push(child.digest.clone());
                }
            }
        }
        documents.push(document);
    }
    let mut foreign = BTreeSet::new();
    for layer in distinct_foreign_layers(&documents) {
        if image.destination.holds(&layer.digest).await?.is_some() {
            foreign.insert(layer.digest.clone());
        }
    }
    Ok(ArtifactImage {
        foreign,
        reference: image.reference.clone(),
        repository: image.destination.repository().to_owned(),
        root: image.digest.clone(),
        documents,
    })
}

/// Copies every blob that the package's repository lacks, by mounts if possible. Returns how many bytes were sent.
async fn copy_blobs(
    artifact: &Artifact,
    images: &[TransferredImage],
    repository: &dyn Destination,
) -> Result<u64, Fault> {
    let sources: HashMap<&str, &Arc<dyn Destination>> = images
        .iter()
        .map(|image| (image.destination.repository(), &image.destination))
        .collect();
    let mut mounts = Vec::with_capacity(artifact.mounts.len());
    for mount in &artifact.mounts {
        mounts.push(copy_blob(mount, &sources, repository));
    }
    let contents: BTreeMap<Digest, &Bytes> = artifact
        .files
        .values()
        .chain([&artifact.config])
        .map(|content| (Digest::of(content), content))
        .collect();
    let mut uploads = Vec::with_capacity(contents.len());
    for (digest, content) in &contents {
        uploads.push(repository.keep(digest, Bytes::clone(content)));
    }
    let sum = |total: u64, moved: u64| async move { Ok::<u64, Fault>(total + moved) };
    let mounted = stream::iter(mounts).buffer_unordered(PARALLEL).try_fold(0, sum).await?;
    let uploaded = stream::iter(uploads)
        .buffer_unordered(PARALLEL)
        .try_fold(0, sum)
        .await?;
    Ok(mounted + uploaded)
}

async fn copy_blob(
    mount: &Mount,
    sources: &HashMap<&str, &Arc<dyn Destination>>,
    repository: &dyn Destination,
) -> Result<u64, Fault> {
    let blob = &mount.blob;
    if repository.holds(&blob.digest).await?.is_some() || repository.mount(blob, &mount.from).await? {
        return Ok(0);
    }
    let lost = || {
        Fault::retryable(
            Reason::PackageFailed,
            format!(
                "blob {} of an image is no longer in repository `{}`; the next attempt copies the image again",
                blob.digest, mount.from
            ),
        )
    };
    let source = sources.get(mount.from.as_str()).ok_or_else(lost)?;
    let bytes = source.read(blob).await?.ok_or_else(lost)?;
    let (_, size) = repository
        .upload(Upload {
            digest: Some(blob.digest.clone()),
            size: Some(blob.size),
            bytes,
        })
        .await?;
    Ok(size)
}

/// Adds the package `entry` to the index under `tag`, besides the packages of other architectures. Returns the index that contains
/// it then, and how many bytes were sent.
///
/// The caller's lock excludes other writers of this process, but another process may write the index at the same time: a
/// pipeline that builds each architecture on another machine. A registry replaces a tag unconditionally, so a process that
/// read the index before this one wrote it and writes afterwards removes the entry again. Therefore the tag is read
/// immediately before it is written, so that such a conflict needs a concurrent write, and again when any such write has
/// finished.
async fn add_to_index(
    entry: Descriptor,
    repository: &dyn Destination,
    tag: &str,
) -> Result<(ExistingIndex, u64), Fault> {
    let mut sent = 0;
    for _ in 0..INDEX_WRITES {
        let before = repository.digest_of(tag).await?;
        // Entries and unknown fields that others wrote are kept.
        let mut index = match ExistingIndex::read(repository, tag).await? {
            Some(existing) => existing.index,
            None => Index::new(Vec::new()),
        };
        let mut entries = Vec::new();
        for other in std::mem::take(&mut index.manifests) {
            // A registry refuses an index that lists a deleted manifest.
            if other.platform != entry.platform && repository.digest_of(other.digest.as_str()).await?.is_some() {
                entries.push(other);
            }
        }
        entries.push(entry.clone());
        in_order(&mut entries);
        index.manifests = entries;
        let index = index_document(index)?;
        if repository.digest_of(tag).await? != before {
            continue;
        }
        let started = Instant::now();
        repository.publish(&index, Some(tag)).await?;
        sent += index.descriptor.size;
        tokio::time::sleep((started.elapsed() * SETTLE_FACTOR).clamp(SETTLE_LEAST, SETTLE_MOST)).await;
        if repository.digest_of(tag).await?.as_ref() == Some(index.digest()) {
            let written = ExistingIndex {
                descriptor: index.descriptor.clone(),
                index: index.index().cloned().unwrap_or_else(|| Index::new(Vec::new())),
            };
            return Ok((written, sent));
        }
        // Another process wrote the index afterwards: with this entry, or without having read it.
        if let Some(index) = ExistingIndex::read(repository, tag)
            .await?
            .filter(|index| index.contains(&entry))
        {
            return Ok((index, sent));
        }
    }
    Err(Fault::retryable(
        Reason::PackageFailed,
        format!(
            "other processes write `{}:{tag}` repeatedly; build the package in one place, or one architecture after the other",
            repository.name()
        ),
    ))
}

/// The index that [`publish_manifest`] writes where nothing has the tag yet: `packages` are manifests of one version, with their
/// architectures.
///
/// # Errors
/// When the index is too long.
pub fn package_index<'a>(packages: impl Iterator<Item = (&'a Document, &'a str)>) -> Result<Document, Fault> {
    let entries = packages.map(|(manifest, architecture)| entry_of(manifest, architecture));
    let mut entries: Vec<Descriptor> = entries.collect();
    in_order(&mut entries);
    index_document(Index::new(entries))
}

/// The entry of a package in the index under its tag.
fn entry_of(manifest: &Document, architecture: &str) -> Descriptor {
    Descriptor {
        platform: Some(Artifact::platform(architecture)),
        ..manifest.descriptor.clone()
    }
}

/// The same packages give the same index, whatever the order of their publication.
fn in_order(entries: &mut [Descriptor]) {
    entries.sort_by(|left, right| (&left.platform, &left.digest).cmp(&(&right.platform, &right.digest)));
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod writers;
