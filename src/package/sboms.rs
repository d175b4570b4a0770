//! The SBOMs of a package's images: which are needed, and `sboms.tar`, which contains them in the layout that Zarf's
//! commands read (`zarf package inspect sbom`; Zarf's `src/pkg/packager/assemble/sbom.go`).
//!
//! Zarf unpacks the tar and does not read its files; people and their tools do. So the files have the names that Zarf uses:
//! `<image>.json` in syft's format, and `sbom-viewer-<image>.html`, a self-contained page of our own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};

use super::archive::{Archive, Entry, EntrySource, ReusableTars};
use super::artifact::ArtifactImage;
use super::publish::{PARALLEL, TransferredImage, read_images};
use crate::budget::{PACKAGES, Reservation};
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Descriptor, Digest, Document, Platform, Reference};
use crate::sbom::{self, CONTENT_LIMIT, ExistingSboms, Format, SbomCache, Sboms, Syft, is_catalogued};
use crate::source::ByteStream;
use crate::transfer::Destination;

/// The path of the tar in the package.
pub(crate) const SBOMS: &str = "sboms.tar";
/// The prefix of Zarf's pages.
const VIEWER: &str = "sbom-viewer-";
/// The placeholder in [`PAGE`] that the SBOM replaces.
const PLACEHOLDER: &str = "{{SBOM}}";
/// The page that displays an SBOM.
const PAGE: &str = include_str!("sbom-viewer.html");

/// The SBOMs that a package needs, as far as they exist.
pub struct PackageSboms {
    subjects: Vec<PlatformImage>,
    /// The memory of the manifests that were read.
    _memory: Reservation,
}

/// An image for one platform, which has its own SBOMs.
struct PlatformImage {
    /// The name under which the package lists it.
    reference: Reference,
    /// The platform in the index; `None` for an image without an index.
    platform: Option<Platform>,
    manifest: Document,
    destination: Arc<dyn Destination>,
    /// The proven SBOMs.
    sboms: Option<Sboms>,
    /// SBOMs in the repository that are not proven.
    claimed: Option<Sboms>,
}

impl PackageSboms {
    /// Reads the manifests of `images`, stores them in their `documents`, and looks up the SBOMs of each: one request for
    /// each distinct manifest. SBOMs that `cache` contains are proven; others need [`PackageSboms::accept_proven`].
    pub async fn find(images: &mut [TransferredImage], cache: Option<&SbomCache>) -> Result<Self, Fault> {
        let empty = SbomCache::default();
        let cache = cache.unwrap_or(&empty);
        let memory = PACKAGES.reserve();
        let read = read_images(images, &memory).await?;
        let mut subjects = Vec::new();
        for (image, read) in images.iter_mut().zip(read) {
            subjects.extend(subjects_of(&read, &image.destination));
            image.documents = read.documents;
        }
        let mut asked: HashMap<(String, Digest), usize> = HashMap::new();
        for (index, subject) in subjects.iter().enumerate() {
            asked.entry(subject.key()).or_insert(index);
        }
        let mut asking = Vec::with_capacity(asked.len());
        for (key, &index) in &asked {
            let subject = &subjects[index];
            asking.push(async move {
                let existing = sbom::find(&*subject.destination, subject.manifest.digest(), cache).await?;
                Ok::<_, Fault>((key.clone(), existing))
            });
        }
        let known: HashMap<_, _> = stream::iter(asking).buffer_unordered(PARALLEL).try_collect().await?;
        for subject in &mut subjects {
            if let Some(ExistingSboms { proven, claimed }) = known.get(&subject.key()).cloned() {
                (subject.sboms, subject.claimed) = (proven, claimed);
            }
        }
        Ok(Self {
            subjects,
            _memory: memory,
        })
    }

    /// Accepts unproven SBOMs if an artifact of `known` is proven to contain the same documents, and adds them to `cache`.
    pub fn accept_proven(&mut self, known: &ReusableTars, cache: Option<&SbomCache>) {
        if self.is_complete() {
            return;
        }
        let proven = self
            .archive_of(PlatformImage::any_sboms)
            .is_some_and(|archive| known.proves(&archive));
        if proven {
            self.accept_claimed();
            for subject in &self.subjects {
                if let (Some(cache), Some(sboms)) = (cache, &subject.sboms) {
                    cache.insert(subject.manifest.digest(), sboms);
                }
            }
        }
    }

    /// Accepts all unproven SBOMs: only for display, where they are neither packed nor signed.
    pub fn accept_claimed(&mut self) {
        for subject in &mut self.subjects {
            let claimed = subject.claimed.take();
            subject.sboms = subject.sboms.take().or(claimed);
        }
    }

    /// The number of images, each for one platform, that have SBOMs or need them.
    pub fn total(&self) -> usize {
        self.subjects.len()
    }

    /// Whether all SBOMs are proven.
    pub fn is_complete(&self) -> bool {
        self.subjects.iter().all(|subject| subject.sboms.is_some())
    }

    /// The name and digest of each image, and its SBOMs if they are proven.
    pub fn rows(&self) -> impl Iterator<Item = (String, &Digest, Option<&Sboms>)> {
        let row = |subject: &'_ PlatformImage| subject.identifier();
        let subjects = self.subjects.iter();
        subjects.map(move |subject| (row(subject), subject.manifest.digest(), subject.sboms.as_ref()))
    }

    /// Generates the missing SBOMs. It stops at the first failure, which names the image.
    pub async fn generate_missing(&mut self, syft: &Syft) -> Result<(), Fault> {
        let mut generated: HashMap<(String, Digest), Sboms> = HashMap::new();
        for subject in &mut self.subjects {
            if subject.sboms.is_some() {
                continue;
            }
            let key = subject.key();
            if let Some(sboms) = generated.get(&key) {
                subject.sboms = Some(sboms.clone());
                continue;
            }
            let sboms = sbom::generate(syft, &*subject.destination, &subject.manifest).await;
            let sboms =
                sboms.map_err(|fault| fault.with_context(format_args!("no SBOM of {}", subject.description())))?;
            generated.insert(key, sboms.clone());
            subject.sboms = Some(sboms);
        }
        Ok(())
    }

    /// `sboms.tar`; `None` unless all SBOMs are proven, or if no image needs any.
    pub fn archive(&self) -> Option<Archive> {
        self.archive_of(|subject| subject.sboms.as_ref())
    }

    fn archive_of(&self, sboms: impl Fn(&PlatformImage) -> Option<&Sboms>) -> Option<Archive> {
        if self.subjects.is_empty() {
            return None;
        }
        let mut names: BTreeMap<String, &PlatformImage> = BTreeMap::new();
        let mut subjects: Vec<&PlatformImage> = self.subjects.iter().collect();
        subjects.sort_by_key(|subject| (subject.identifier(), subject.manifest.digest().clone()));
        subjects.dedup_by_key(|subject| (subject.identifier(), subject.manifest.digest().clone()));
        for subject in subjects {
            let name = file_name(&subject.identifier());
            // Two images may have one file name: names that differ only in `/` and `_`, or versions of Windows.
            let name = match names.contains_key(&name) {
                true => format!("{name}-{}", subject.manifest.digest().short()),
                false => name,
            };
            names.insert(name, subject);
        }
        let mut entries = Vec::with_capacity(2 * names.len());
        for (name, subject) in names {
            let blob = sboms(subject)?.contents.get(&Format::Syft)?;
            let stored = SbomBlob {
                blob: blob.clone(),
                destination: Arc::clone(&subject.destination),
            };
            entries.push(entry(format!("{name}.json"), blob.digest.clone(), stored.clone()));
            let page = Digest::of(format!("{PAGE}{}", blob.digest).as_bytes());
            entries.push(entry(format!("{VIEWER}{name}.html"), page, SbomPage(stored)));
        }
        entries.sort_by(|left, right| left.path.cmp(&right.path));
        Some(Archive {
            path: SBOMS.to_owned(),
            entries,
        })
    }
}

impl PlatformImage {
    /// The name that Zarf gives it: its reference, and its platform if it is in an index.
    fn identifier(&self) -> String {
        identifier(&self.reference, self.platform.as_ref())
    }

    /// Its SBOMs, proven or not.
    fn any_sboms(&self) -> Option<&Sboms> {
        self.sboms.as_ref().or(self.claimed.as_ref())
    }

    fn description(&self) -> String {
        match &self.platform {
            Some(platform) => format!("image `{}` ({platform})", self.reference),
            None => format!("image `{}`", self.reference),
        }
    }

    fn key(&self) -> (String, Digest) {
        (self.destination.repository().to_owned(), self.manifest.digest().clone())
    }
}

/// The images of `image`, each for one platform. Attestations are omitted, and manifests without a file system, which have
/// no SBOM.
fn subjects_of(image: &ArtifactImage, destination: &Arc<dyn Destination>) -> Vec<PlatformImage> {
    let documents: HashMap<&Digest, &Document> = image
        .documents
        .iter()
        .map(|document| (document.digest(), document))
        .collect();
    let mut subjects = Vec::new();
    let mut open: Vec<(&Digest, Option<&Platform>)> = vec![(&image.root, None)];
    while let Some((digest, platform)) = open.pop() {
        // `Artifact::of` reports a missing manifest.
        let Some(document) = documents.get(digest) else {
            continue;
        };
        match &document.content {
            Content::Index(index) => {
                let images = index.manifests.iter().filter(|entry| !entry.is_attestation());
                open.extend(images.map(|entry| (&entry.digest, entry.platform.as_ref())));
            }
            Content::Manifest(manifest) if is_catalogued(manifest) => subjects.push(PlatformImage {
                reference: image.reference.clone(),
                platform: platform.cloned(),
                manifest: (*document).clone(),
                destination: Arc::clone(destination),
                sboms: None,
                claimed: None,
            }),
            Content::Manifest(_) => {}
        }
    }
    subjects
}

/// What Zarf calls an image: its reference, and its platform where it is one of several.
fn identifier(reference: &Reference, platform: Option<&Platform>) -> String {
    let mut text = reference.to_string();
    if let Some(Platform {
        architecture,
        os,
        variant,
        ..
    }) = platform
    {
        text += &format!("-{os}-{architecture}");
        if let Some(variant) = variant {
            text += &format!("-{variant}");
        }
    }
    text
}

/// The name of the SBOM of an image in `sboms.tar`. Where two images have one name, that of the second is
/// followed by `-` and the short digest of its manifest, before the `.json`.
pub(crate) fn sbom_file(reference: &Reference, platform: Option<&Platform>) -> String {
    format!("{}.json", file_name(&identifier(reference, platform)))
}

/// The file name that Zarf makes from the name of an image.
fn file_name(identifier: &str) -> String {
    let kept = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-');
    identifier
        .chars()
        .map(|letter| if kept(letter) { letter } else { '_' })
        .collect()
}

fn entry(path: String, identity: Digest, origin: impl EntrySource + 'static) -> Entry {
    Entry {
        path,
        mode: 0o644,
        identity,
        origin: Arc::new(origin),
    }
}

/// An SBOM in the registry.
#[derive(Clone)]
struct SbomBlob {
    blob: Descriptor,
    destination: Arc<dyn Destination>,
}

impl SbomBlob {
    async fn content(&self) -> Result<Bytes, Fault> {
        let content = self.destination.blob(&self.blob.digest, CONTENT_LIMIT).await?;
        content.ok_or_else(|| {
            let (digest, repository) = (&self.blob.digest, self.destination.repository());
            Fault::retryable(
                Reason::PackageFailed,
                format!("the SBOM {digest} is no longer in repository `{repository}`; delete its referrer, then it is generated again"),
            )
        })
    }
}

#[async_trait]
impl EntrySource for SbomBlob {
    async fn open(&self) -> Result<(u64, ByteStream<'static>), Fault> {
        self.content().await?.open().await
    }
}

/// [`PAGE`] with an SBOM inserted.
struct SbomPage(SbomBlob);

#[async_trait]
impl EntrySource for SbomPage {
    async fn open(&self) -> Result<(u64, ByteStream<'static>), Fault> {
        let content = self.0.content().await?;
        let (before, after) = PAGE.split_once(PLACEHOLDER).unwrap_or((PAGE, ""));
        let pieces = [
            Bytes::from_static(before.as_bytes()),
            content,
            Bytes::from_static(after.as_bytes()),
        ];
        let size = pieces.iter().map(|piece| piece.len() as u64).sum();
        Ok((size, stream::iter(pieces.map(Ok)).boxed()))
    }
}

#[cfg(test)]
mod tests;
