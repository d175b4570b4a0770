//! Brings a package's artifact to the registry: the one place of this room that does IO, and its order.
//!
//! Blobs, then the manifest by its digest, then the index under the tag: whatever breaks off in between, the
//! tag points at something whole.

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
use super::provenance::Material;
use crate::budget::{PACKAGES, Reservation, json_memory};
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Descriptor, Digest, Document, Index, Reference, distinct_blobs, distinct_foreign_layers};
use crate::registry::named_lock;
use crate::signing::SigningKey;
use crate::transfer::{Destination, Upload};

/// Blobs, and images, that are asked about or moved at once.
pub(super) const PARALLEL: usize = 8;
/// How often an index is made anew because somebody else wrote it at the same moment. Each time at least one of the
/// writers is done.
const ENTRY_TRIES: usize = 16;
/// How long an index that was written is left alone before it is looked at, as a multiple of what writing it took: who
/// had begun to write it is done by then.
const SETTLE_FACTOR: u32 = 10;
/// The least of that wait.
const SETTLE_LEAST: Duration = Duration::from_millis(100);
/// The most of that wait.
const SETTLE_MOST: Duration = Duration::from_secs(5);

/// An image that was brought to the registry before.
#[derive(Clone)]
pub struct TransferredImage {
    /// The name under which the package lists it, [`super::PlannedImage::listed`].
    pub reference: Reference,
    /// The digest of its manifest or index in the registry.
    pub digest: Digest,
    /// The repository that it stands in, of the same registry as the package's.
    pub destination: Arc<dyn Destination>,
    /// What is known of its manifests already; the others are read there.
    pub documents: Vec<Document>,
    /// Where it came from, where that is known.
    pub origin: Option<Material>,
}

/// What a package is put together from.
#[derive(Clone, Copy, Default)]
pub struct PackageContents<'a> {
    /// Its images.
    pub images: &'a [TransferredImage],
    /// The images that it leaves out because an earlier version holds them. Only their size is of interest.
    pub omitted: &'a [TransferredImage],
    /// Its tars, by their paths in any order.
    pub archives: &'a [Archive],
    /// What signs its definition.
    pub sign: Option<&'a SignDefinition>,
    /// Tars that stand in the same repository, as those of the version before; none where nobody looked.
    pub known: Option<&'a ReusableTars>,
    /// What signs the package.
    pub key: Option<&'a SigningKey>,
}

impl<'a> From<&'a [TransferredImage]> for PackageContents<'a> {
    /// A package of nothing but images.
    fn from(images: &'a [TransferredImage]) -> Self {
        Self {
            images,
            ..Self::default()
        }
    }
}

/// A package that stands in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The digest of the package's manifest.
    pub manifest: Digest,
    /// The digest of the index under the tag.
    pub index: Digest,
    /// Bytes of all that the package holds.
    pub size: u64,
    /// Bytes that were sent to the registry; what it mounts does not count.
    pub moved_bytes: u64,
    /// Bytes of blobs and manifests that the package would hold besides, were nothing left out.
    pub saved_bytes: u64,
    /// Whether anything was written.
    pub changed: bool,
    /// What may be signed in the package's repository: the index and the manifest.
    pub subjects: Vec<Descriptor>,
    /// What the index lists beside the package, which others wrote.
    pub others: Vec<Descriptor>,
    /// What may be signed of the images, each in its own repository: manifests and indexes by their digests.
    pub images: BTreeMap<Digest, Descriptor>,
}

/// Puts the package together in `repository`, from images that the same registry holds, and names it `tag`.
/// When the tag says so already, nothing is written. Else `announce` is told the digest of the manifest before anything
/// that has a name is: only blobs of tars may have been stored until then, for the digest depends on theirs.
pub async fn publish(
    definition: &Definition,
    contents: PackageContents<'_>,
    repository: &dyn Destination,
    tag: &str,
    announce: impl AsyncFnOnce(&Digest) -> Result<(), Fault>,
) -> Result<Published, Fault> {
    let (archives, archive_bytes) = bring_archives(contents, repository).await?;
    let images = contents.images;
    let memory = PACKAGES.reserve();
    let read = read_images(images, &memory).await?;
    let saved_bytes = saved(&read_images(contents.omitted, &memory).await?, &read);
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

    // Mostly the only package under its tag, which costs no more than a look.
    let alone = index_of(Index::new(vec![artifact.entry()]))?;
    let named = repository.digest_of(tag).await?;
    let standing = match named.filter(|named| named == alone.digest()) {
        Some(_) => Some(ExistingIndex {
            descriptor: alone.descriptor,
            index: Index::new(vec![artifact.entry()]),
        }),
        None => standing(repository, tag).await?,
    };
    if let Some(index) = standing.as_ref().filter(|index| index.holds(&artifact.entry()))
        && repository
            .digest_of(artifact.manifest.digest().as_str())
            .await?
            .is_some()
    {
        return Ok(Published {
            manifest: artifact.manifest.digest().clone(),
            index: index.descriptor.digest.clone(),
            size: artifact.size,
            moved_bytes: archive_bytes,
            saved_bytes,
            changed: false,
            subjects: vec![index.descriptor.clone(), artifact.manifest.descriptor.clone()],
            others: index.beside(&artifact.entry()),
            images: roots,
        });
    }

    // One at a time in a repository: two writers of one index would lose an entry, and distribution 2.8 for a
    // moment denies a blob that is being mounted once more, which fails the other's manifest.
    let lock = named_lock(format!("{} {}", repository.name(), repository.repository()));
    let _alone = lock.lock().await;
    announce(artifact.manifest.digest()).await?;
    let moved = bring_blobs(&artifact, images, repository).await?;
    repository.publish(&artifact.manifest, None).await?;
    let (index, index_bytes) = enter(artifact.entry(), repository, tag).await?;
    Ok(Published {
        manifest: artifact.manifest.digest().clone(),
        index: index.descriptor.digest.clone(),
        size: artifact.size,
        moved_bytes: archive_bytes + moved + artifact.manifest.descriptor.size + index_bytes,
        saved_bytes,
        changed: true,
        others: index.beside(&artifact.entry()),
        subjects: vec![index.descriptor, artifact.manifest.descriptor.clone()],
        images: roots,
    })
}

/// Publishes a package whose content `repository` holds already, its config included, under `tag`, beside the packages of other
/// architectures there. Says which index lists it then.
///
/// # Errors
/// [`Fault::conflict`] when something else has the tag.
pub async fn publish_manifest(
    manifest: &Document,
    architecture: &str,
    repository: &dyn Destination,
    tag: &str,
) -> Result<Digest, Fault> {
    let entry = entry_of(manifest, architecture);
    let lock = named_lock(format!("{} {}", repository.name(), repository.repository()));
    let _alone = lock.lock().await;
    let is_published = repository.digest_of(manifest.digest().as_str()).await?.is_some();
    if let Some(index) = standing(repository, tag)
        .await?
        .filter(|index| index.holds(&entry) && is_published)
    {
        return Ok(index.descriptor.digest);
    }
    repository.publish(manifest, None).await?;
    let (index, _) = enter(entry, repository, tag).await?;
    Ok(index.descriptor.digest)
}

/// Makes the package's tars stand in its repository, and says how many bytes were sent for them.
async fn bring_archives(
    contents: PackageContents<'_>,
    repository: &dyn Destination,
) -> Result<(Vec<StoredTar>, u64), Fault> {
    let mut archived = Vec::with_capacity(contents.archives.len());
    let mut sent = 0;
    let unknown = ReusableTars::default();
    let known = contents.known.unwrap_or(&unknown);
    for archive in contents.archives {
        let (stands, bytes) = archive::bring(archive, known, contents.key, repository).await?;
        archived.push(stands);
        sent += bytes;
    }
    archived.sort_by(|left, right| left.path.cmp(&right.path));
    Ok((archived, sent))
}

/// Every manifest of each of `images`, in their order.
/// `memory` is what they take.
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

/// Bytes of all that `omitted` consist of and `images` do not.
fn saved(omitted: &[ArtifactImage], images: &[ArtifactImage]) -> u64 {
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

/// Every manifest of an image. What its registry lacks is left for [`Artifact::of`] to report.
async fn read_image(image: &TransferredImage, memory: &Reservation) -> Result<ArtifactImage, Fault> {
    let mut documents: Vec<Document> = Vec::new();
    let mut seen = HashSet::from([image.digest.clone()]);
    let mut open = vec![image.digest.clone()];
    while let Some(digest) = open.pop() {
        let known = image.documents.iter().find(|known| *known.digest() == digest);
        let document = match known {
            // Who knows it has room for it.
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
                // Anything else is a blob, unless the registry brought it as a manifest.
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

/// Brings every blob that the package's repository lacks, and says how many bytes had to be sent.
async fn bring_blobs(
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
        mounts.push(bring(mount, &sources, repository));
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

async fn bring(
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
                "blob {} of an image is not in repository `{}` any more; the image is brought again with the next try",
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

/// The index of packages that stands under a tag.
pub(super) struct ExistingIndex {
    descriptor: Descriptor,
    index: Index,
}

impl ExistingIndex {
    /// The manifest of the package of that architecture.
    pub fn of(&self, architecture: &str) -> Option<&Digest> {
        let platform = Artifact::platform(architecture);
        let mut entries = self.index.manifests.iter();
        let entry = entries.find(|entry| entry.platform.as_ref() == Some(&platform))?;
        Some(&entry.digest)
    }

    /// What it lists beside `entry`.
    fn beside(&self, entry: &Descriptor) -> Vec<Descriptor> {
        let others = self.index.manifests.iter();
        others.filter(|other| other.digest != entry.digest).cloned().collect()
    }

    fn holds(&self, entry: &Descriptor) -> bool {
        self.index
            .manifests
            .iter()
            .any(|known| known.digest == entry.digest && known.platform == entry.platform)
    }
}

/// Reads the index under `tag`. Something there that is no package is somebody's image: it is not replaced.
pub(super) async fn standing(repository: &dyn Destination, tag: &str) -> Result<Option<ExistingIndex>, Fault> {
    let Some(document) = repository.document(tag).await? else {
        return Ok(None);
    };
    match &document.content {
        Content::Index(index) if index.manifests.iter().all(Descriptor::is_package) => Ok(Some(ExistingIndex {
            descriptor: document.descriptor.clone(),
            index: index.clone(),
        })),
        // A package that was pushed without an index says nothing of other architectures.
        Content::Manifest(_) if document.is_package() => Ok(None),
        _ => Err(Fault::conflict(format!(
            "`{}:{tag}` is there already and is no package; give the package another name or version, or delete what is there",
            repository.name()
        ))),
    }
}

/// Enters the package `entry` into the index under `tag`, beside the packages of other architectures. Says which index holds it
/// then, and how many bytes were sent.
///
/// Nobody else of this process writes the index meanwhile, but another may: a pipeline that builds an architecture on
/// each of its machines. A registry replaces a tag whatever stands there, so whoever read the index before we wrote it
/// and writes after us takes our entry out again. Therefore the tag is looked at right before it is written, which leaves
/// such a writer no longer than one write takes, and again when that time is over.
async fn enter(entry: Descriptor, repository: &dyn Destination, tag: &str) -> Result<(ExistingIndex, u64), Fault> {
    let mut sent = 0;
    for _ in 0..ENTRY_TRIES {
        let before = repository.digest_of(tag).await?;
        // What others wrote into the index stays, fields that we do not know included.
        let mut index = match standing(repository, tag).await? {
            Some(standing) => standing.index,
            None => Index::new(Vec::new()),
        };
        let mut entries = Vec::new();
        for other in std::mem::take(&mut index.manifests) {
            // A registry refuses an index that lists what was deleted from it.
            if other.platform != entry.platform && repository.digest_of(other.digest.as_str()).await?.is_some() {
                entries.push(other);
            }
        }
        entries.push(entry.clone());
        in_order(&mut entries);
        index.manifests = entries;
        let index = index_of(index)?;
        if repository.digest_of(tag).await? != before {
            continue;
        }
        let started = Instant::now();
        repository.publish(&index, Some(tag)).await?;
        sent += index.descriptor.size;
        tokio::time::sleep((started.elapsed() * SETTLE_FACTOR).clamp(SETTLE_LEAST, SETTLE_MOST)).await;
        if repository.digest_of(tag).await?.as_ref() == Some(index.digest()) {
            let standing = ExistingIndex {
                descriptor: index.descriptor.clone(),
                index: index.index().cloned().unwrap_or_else(|| Index::new(Vec::new())),
            };
            return Ok((standing, sent));
        }
        // Somebody wrote after us: beside our entry, or without having seen it.
        if let Some(index) = standing(repository, tag).await?.filter(|index| index.holds(&entry)) {
            return Ok((index, sent));
        }
    }
    Err(Fault::retryable(
        Reason::PackageFailed,
        format!(
            "somebody else writes `{}:{tag}` again and again; build the package in one place, or one architecture after the other",
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
    index_of(Index::new(entries))
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

fn index_of(index: Index) -> Result<Document, Fault> {
    Document::of_index(index).map_err(|error| Fault::stalled(Reason::PackageFailed, error.to_string()))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod writers;
